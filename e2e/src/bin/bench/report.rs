//! The report: rows of figures beside their bars, as a table for people and as JSON for machines.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use interlock_e2e::Result;
use interlock_e2e::world::Kind;
use serde_json::json;

/// One figure.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) proxy: &'static str,
    pub(crate) what: String,
    pub(crate) figure: String,
    /// What the machine itself needs for it, in the same run.
    pub(crate) limit: String,
    pub(crate) bar: String,
    /// Whether the bar is reached; none where there is no bar.
    pub(crate) holds: Option<bool>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    broken: Vec<String>,
}

impl Report {
    pub(crate) fn row(&mut self, row: Row) {
        say(&format!("{}: {}: {}", row.proxy, row.what, row.figure));
        self.rows.push(row);
    }

    pub(crate) fn broke(&mut self, kind: Kind, error: &interlock_e2e::Error) {
        self.broken.push(format!("{}: {error}", kind.as_str()));
    }

    pub(crate) fn broke_writing(&mut self, error: &interlock_e2e::Error) {
        self.broken.push(format!("the report cannot be written: {error}"));
    }

    /// Whether every bar was reached and nothing broke.
    pub(crate) fn holds(&self) -> bool {
        self.broken.is_empty() && self.rows.iter().all(|row| row.holds != Some(false))
    }

    fn markdown(&self) -> String {
        let mut text = String::from(
            "| proxy | what | figure | limit in the same run | bar | |\n|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let holds = row.holds.map_or("", |holds| if holds { "reached" } else { "MISSED" });
            let Row { proxy, what, figure, limit, bar, .. } = row;
            let _ = writeln!(text, "| {proxy} | {what} | {figure} | {limit} | {bar} | {holds} |");
        }
        text
    }

    /// Prints the table.
    pub(crate) fn show(&self) {
        say("");
        say(&self.markdown());
        for broken in &self.broken {
            say(&format!("broke off: {broken}"));
        }
    }

    /// Writes `target/bench/report.{md,json}`.
    pub(crate) fn write(&self) -> Result {
        let folder = PathBuf::from("target/bench");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("report.md"), self.markdown())?;
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "proxy": row.proxy, "what": row.what, "figure": row.figure,
                    "limit": row.limit, "bar": row.bar, "holds": row.holds,
                })
            })
            .collect();
        std::fs::write(folder.join("report.json"), serde_json::to_vec_pretty(&rows)?)?;
        Ok(())
    }
}

/// Milliseconds with one decimal, the 50th and the 95th of a hundred.
pub(crate) fn spread(values: &[Duration]) -> String {
    let (half, most) =
        (interlock_e2e::load::quantile(values, 0.5), interlock_e2e::load::quantile(values, 0.95));
    format!("p50 {} p95 {} ms (n {})", ms(half), ms(most), values.len())
}

/// Milliseconds with one decimal.
pub(crate) fn ms(span: Duration) -> String {
    format!("{:.1}", span.as_secs_f64() * 1000.0)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
