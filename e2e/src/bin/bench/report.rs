//! The report: rows of figures beside their limits and bars, as a page with plots and as JSON for machines.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interlock_e2e::Result;
use interlock_e2e::load::quantile;
use interlock_e2e::world::Kind;
use serde::{Deserialize, Serialize};

use crate::plot::{self, Line, Strip};

/// Where everything is written; `BENCH_OUT` says otherwise.
const FOLDER: &str = "target/bench";
/// Reports of other versions of the proxies, made before, lie in folders below the report's own.
const VERSIONS: &str = "versions";

/// One figure.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// The part of the page that it stands in; the report fills it in.
    pub(crate) part: String,
    pub(crate) proxy: String,
    pub(crate) what: String,
    pub(crate) figure: String,
    /// What the machine itself needs for it, in the same run.
    pub(crate) limit: String,
    pub(crate) bar: String,
    /// Whether the bar is reached; none where there is no bar.
    pub(crate) holds: Option<bool>,
    /// What the figure was made of, where it is a time: milliseconds.
    pub(crate) samples: Vec<f64>,
    /// The bar as a time, for the plot.
    pub(crate) most: Option<f64>,
    /// Where it stands in a curve over the number of routes.
    pub(crate) point: Option<Point>,
    /// Whether the README shows it.
    pub(crate) quoted: bool,
}

/// A place in a curve.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) curve: String,
    pub(crate) routes: usize,
    /// What the bare proxy needs there, in milliseconds.
    pub(crate) limit: Option<f64>,
}

impl Row {
    /// A row without samples.
    pub(crate) fn of(kind: Kind, what: impl Into<String>, figure: impl Into<String>) -> Self {
        Self { proxy: kind.as_str().to_owned(), what: what.into(), figure: figure.into(), ..Self::default() }
    }

    /// The machine's own share.
    pub(crate) fn limit(self, limit: impl Into<String>) -> Self {
        Self { limit: limit.into(), ..self }
    }

    /// What is asked, and whether it holds.
    pub(crate) fn bar(self, bar: impl Into<String>, holds: bool) -> Self {
        Self { bar: bar.into(), holds: Some(holds), ..self }
    }

    /// The same, where it is asked of this proxy at all.
    pub(crate) fn bar_if(self, asked: bool, bar: impl Into<String>, holds: bool) -> Self {
        if asked { self.bar(bar, holds) } else { self }
    }

    /// The times that the figure was made of, and the bar among them.
    pub(crate) fn times(self, samples: &[Duration], most: Option<Duration>) -> Self {
        Self {
            samples: samples.iter().copied().map(milliseconds).collect(),
            most: most.map(milliseconds),
            ..self
        }
    }

    /// One of a curve.
    pub(crate) fn at(self, curve: &str, routes: usize, limit: Option<Duration>) -> Self {
        let point = Point { curve: curve.to_owned(), routes, limit: limit.map(milliseconds) };
        Self { point: Some(point), ..self }
    }

    /// One of those that the README shows.
    pub(crate) fn quoted(self) -> Self {
        Self { quoted: true, ..self }
    }

    fn verdict(&self) -> &'static str {
        self.holds.map_or("", |holds| if holds { "reached" } else { "**missed**" })
    }

    /// The median of its times.
    fn median(&self) -> Option<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().div_ceil(2).checked_sub(1)?).copied()
    }
}

/// All figures of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    machine: String,
    proxies: Vec<String>,
    rows: Vec<Row>,
    broken: Vec<String>,
    #[serde(skip)]
    part: String,
}

impl Report {
    /// Notes on what and with what it is measured.
    pub(crate) fn on(docker: &str, seed: u64, rivals: &str) -> Self {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default().to_owned();
        let machine = format!(
            "{processors} processors, load {load} at the beginning, Docker {docker}; labels of hosts drawn with seed \
             {seed}; rivals: {rivals}"
        );
        let proxies = Kind::ALL.iter().map(|kind| kind.stock().to_owned()).collect();
        Self { machine, proxies, ..Self::default() }
    }

    /// What follows stands in this part of the page.
    pub(crate) fn part(&mut self, part: &str) {
        part.clone_into(&mut self.part);
    }

    pub(crate) fn row(&mut self, row: Row) {
        say(&format!("{}: {}: {} {}", row.proxy, row.what, row.figure, row.verdict()));
        self.rows.push(Row { part: self.part.clone(), ..row });
    }

    pub(crate) fn broke(&mut self, what: &str, error: &interlock_e2e::Error) {
        say(&format!("broke off: {what}: {error}"));
        self.broken.push(format!("{what}: {error}"));
    }

    /// The versions that were measured, here and in the reports made before.
    pub(crate) fn versions(&self) -> Vec<String> {
        let others = others(&folder()).into_iter().flat_map(|(_, report)| report.proxies);
        self.proxies.iter().cloned().chain(others).collect()
    }

    /// Whether every bar was reached and nothing broke.
    pub(crate) fn holds(&self) -> bool {
        self.broken.is_empty() && self.rows.iter().all(|row| row.holds != Some(false))
    }

    fn tally(&self) -> String {
        let count = |wanted| self.rows.iter().filter(|row| row.holds == Some(wanted)).count();
        format!("{} bars reached, {} missed, {} rows broke off", count(true), count(false), self.broken.len())
    }

    /// The rows of one part of the page, of all parts where none is named.
    fn table(&self, part: Option<&str>) -> String {
        table(self.rows.iter().filter(|row| part.is_none_or(|part| row.part == part)))
    }

    fn page(&self, plots: &[(String, &str)], others: &[(String, Self)]) -> String {
        let mut text = format!(
            "# What `make bench` measured\n\n{}, with {}.\n\nMeasured on {}.\n\n{HOW_TO_READ}",
            self.tally(),
            self.proxies.join(" and "),
            self.machine
        );
        for broken in &self.broken {
            let _ = writeln!(text, "\nBroke off: {broken}");
        }
        let mut parts: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !parts.contains(&row.part.as_str()) {
                parts.push(&row.part);
            }
        }
        for part in parts {
            let _ = write!(text, "\n## {part}\n\n{}", self.table(Some(part)));
        }
        for (name, what) in plots {
            let _ = write!(text, "\n![{what}]({name})\n");
        }
        for (name, other) in others {
            let versions = other.proxies.join(" and ");
            let _ =
                write!(text, "\n## With {versions} ({name})\n\n{}.\n\n{}", other.tally(), other.table(None));
            for broken in &other.broken {
                let _ = writeln!(text, "\nBroke off: {broken}");
            }
        }
        text
    }

    /// Prints the table.
    pub(crate) fn show(&self) {
        say("");
        say(&self.table(None));
        say(&self.tally());
    }

    /// Writes `report.md`, `report.json` and the plots; where.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        let folder = folder();
        std::fs::create_dir_all(&folder)?;
        let mut plots = Vec::new();
        for kind in Kind::ALL {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.proxy == kind.as_str()).collect();
            let mut add = |name: String, what, svg: Option<String>| -> Result {
                if let Some(svg) = svg {
                    std::fs::write(folder.join(&name), svg)?;
                    plots.push((name, what));
                }
                Ok(())
            };
            let growth = plot::curves(&format!("{}: p50 beside n routes", kind.stock()), &lines(&rows));
            add(format!("{}-growth.svg", kind.as_str()), "p50 against the number of routes", growth)?;
            let title = format!("{}: a point for each sample, the red line is the bar", kind.stock());
            let all = "a point for each sample; the red line is the bar";
            add(format!("{}.svg", kind.as_str()), all, plot::svg(&title, &strips(&rows)))?;
        }
        std::fs::write(folder.join("report.md"), self.page(&plots, &others(&folder)))?;
        std::fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(folder)
    }

    /// What the README shows, with limits in short.
    pub(crate) fn quote(&self, day: &str) -> String {
        let short = |row: &Row| {
            let limit = row.point.as_ref().map(|point| point.limit);
            let limit =
                limit.map(|limit| limit.map_or_else(String::new, |limit| format!("bare: p50 {limit:.1} ms")));
            Row { limit: limit.unwrap_or_else(|| row.limit.clone()), ..row.clone() }
        };
        let rows: Vec<_> = self.rows.iter().filter(|row| row.quoted).map(short).collect();
        let versions = self.proxies.join(" and ");
        format!(
            "{versions}, {day}: {}.\nMeasured on {}.\n\n{}",
            self.tally(),
            self.machine,
            table(rows.iter())
        )
    }
}

const HOW_TO_READ: &str = "\
**How to read this.** Every figure stands beside a limit: what the machine itself needs for the same thing, measured in \
the same run. Ratios count, not milliseconds. A bar is what is asked of Interlock; where none stands, the proxy cannot \
do it or the figure is only told.

- Times count from the later of two moments: the start event's arrival at a *bystander*, who does nothing but listen to \
the same event stream, and the app's first accepted connection. They end with the app's first answer through the proxy.
- *bare commands*: address and state of a server and the entries of the maps, sent at once to the runtime socket of a \
HAProxy with the same files, until the first answer. *bare check and reload*: the proxy's own check of the same files, \
and a reload until a new worker answers.
- The load never retries. Half of it is POST with ids that must be executed once.
- Hosts beyond a hundred belong to a double of the engine, which speaks its API over a socket; every one of them has an \
app of its own that listens.
";

fn table<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut text = String::from(
        "| proxy | what | figure | limit in the same run | bar | |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { proxy, what, figure, limit, bar, .. } = row;
        let _ = writeln!(text, "| {proxy} | {what} | {figure} | {limit} | {bar} | {} |", row.verdict());
    }
    text
}

fn folder() -> PathBuf {
    std::env::var_os("BENCH_OUT").map_or_else(|| PathBuf::from(FOLDER), PathBuf::from)
}

/// The reports of other versions, by the names of their folders.
fn others(folder: &Path) -> Vec<(String, Report)> {
    let entries = std::fs::read_dir(folder.join(VERSIONS)).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let text = std::fs::read(entry.path().join("report.json")).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), serde_json::from_slice(&text).ok()?))
        })
        .collect();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

fn strips(rows: &[&Row]) -> Vec<Strip> {
    let timed = rows.iter().filter(|row| !row.samples.is_empty());
    timed.map(|row| Strip { name: row.what.clone(), samples: row.samples.clone(), bar: row.most }).collect()
}

/// A curve for each name, with its limit.
fn lines(rows: &[&Row]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let (Some(point), Some(median)) = (&row.point, row.median()) else { continue };
        let at = lines.iter().position(|line| line.name == point.curve).unwrap_or_else(|| {
            lines.push(Line { name: point.curve.clone(), points: Vec::new(), limit: Vec::new() });
            lines.len() - 1
        });
        lines[at].points.push((point.routes, median));
        lines[at].limit.extend(point.limit.map(|limit| (point.routes, limit)));
    }
    lines
}

/// Milliseconds with one decimal, the 50th and the 95th of a hundred.
pub(crate) fn spread(values: &[Duration]) -> String {
    let (half, most) = (quantile(values, 0.5), quantile(values, 0.95));
    format!("p50 {} p95 {} ms (n {})", ms(half), ms(most), values.len())
}

/// Milliseconds with one decimal.
pub(crate) fn ms(span: Duration) -> String {
    format!("{:.1}", milliseconds(span))
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_a_value_that_occurred() {
        let row = Row { samples: vec![5.0, 1.0, 3.0, 2.0], ..Row::default() };
        assert_eq!(row.median(), Some(2.0));
        assert_eq!(Row::default().median(), None);
    }

    #[test]
    fn a_curve_has_a_point_for_each_row_and_its_limit_beside_it() {
        let row = |routes| {
            let times = [Duration::from_millis(4)];
            Row::of(Kind::Haproxy, "x", "").times(&times, None).at(
                "new host",
                routes,
                Some(Duration::from_millis(2)),
            )
        };
        let rows = [row(1), row(100)];
        let lines = lines(&rows.iter().collect::<Vec<_>>());
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].points, [(1, 4.0), (100, 4.0)]);
        assert_eq!(lines[0].limit, [(1, 2.0), (100, 2.0)]);
    }
}
