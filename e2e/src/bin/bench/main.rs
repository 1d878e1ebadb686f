//! `make bench`: how fast routes come alive, what that costs, and what is lost: a report, each figure beside its limit.
//!
//! Every figure stands beside the bare proxy's own work, measured in the same run with the very configuration that
//! Interlock made: these machines are noisy, ratios are what counts. Exit code 1 if a bar is missed. `BENCH_SAMPLES`
//! (30), `BENCH_CHURN_SECONDS` (30), `BENCH_RELOADS` (100) and `BENCH_SYNC_ROUTES` (5000) shorten a try, `BENCH_ROUTES`
//! (1,25,100,1000) says how many others there are, `BENCH_SEED` what the labels of hosts are drawn from; figures to
//! quote are made without them. `ROWS=fast,churn` measures only these, `PROXY=nginx` only one proxy. `BENCH_QUOTE=1`
//! puts the figures into the README, `BENCH_OUT` says where the report goes.
//!
//! The rows of [`ON_A_DOUBLE`] need no containers: an operator with its embedded proxy follows a double of the engine,
//! whose containers are facts with small real applications.

mod bare;
mod deploys;
mod fast;
mod measure;
mod plot;
mod quote;
mod report;
mod rivals;
mod scale;

use std::process::ExitCode;

use interlock_core::plan::{Abilities, Ability};
use interlock_e2e::world::Kind;
use interlock_e2e::{Result, World};

use measure::Bench;
use report::{Report, say};
use scale::Scale;

/// Everything that can be measured alone, in this order, and the part of the report where it stands.
const ROWS: [(&str, &str); 16] = [
    ("fast", SPEED),
    ("rivals", SPEED),
    ("sync", MANY),
    ("together", MANY),
    ("requests", MANY),
    ("reloads", LOSS),
    ("new-host", ENGINE),
    ("new-endpoint", ENGINE),
    ("stop", ENGINE),
    ("started", ENGINE),
    ("resources", ENGINE),
    ("churn", LOSS),
    ("rolling", LOSS),
    ("careless", LOSS),
    ("recreate", LOSS),
    ("remove", LOSS),
];
const SPEED: &str = "How fast a change is there";
const MANY: &str = "Many at once";
const ENGINE: &str = "The same on a real engine";
const LOSS: &str = "What changes and deploys cost those who are served";

/// Those that need no containers.
const ON_A_DOUBLE: [&str; 6] = ["fast", "rivals", "sync", "together", "requests", "reloads"];

/// Beyond this many routes no container stands behind each.
const CONTAINERS: usize = 100;

/// What was asked for.
struct Wanted {
    rows: Vec<&'static str>,
    /// How many others there are, where they are containers.
    routes: Vec<usize>,
    /// And where they are the double's.
    many: Vec<usize>,
}

impl Wanted {
    fn read() -> std::result::Result<Self, String> {
        let list = |key: &str| {
            let text = std::env::var(key).unwrap_or_default();
            text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let names: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
        let asked = list("ROWS");
        if let Some(unknown) = asked.iter().find(|row| !names.contains(&row.as_str())) {
            return Err(format!("there is no row `{unknown}`; there are {}", names.join(", ")));
        }
        let is_wanted = |row: &&str| asked.is_empty() || asked.iter().any(|asked| asked == row);
        let rows = names.into_iter().filter(is_wanted).collect();
        let asked = list("BENCH_ROUTES");
        if asked.is_empty() {
            return Ok(Self { rows, routes: vec![25], many: vec![1, 25, 100, 1000] });
        }
        let many: Vec<usize> =
            asked.iter().filter_map(|word| word.parse().ok()).filter(|routes| *routes > 0).collect();
        Ok(Self { rows, routes: many.iter().copied().filter(|routes| *routes <= CONTAINERS).collect(), many })
    }

    /// How many others the double's hosts come beside.
    fn beside(&self, kind: Kind) -> Vec<usize> {
        // A reload of nginx takes long, and what it costs between 1 and 100 is told by these two.
        let left_out = if kind == Kind::Nginx && self.many.len() > 2 { Some(25) } else { None };
        self.many.iter().copied().filter(|routes| Some(*routes) != left_out).collect()
    }

    /// Whether any row is wanted that needs containers.
    fn needs_containers(&self) -> bool {
        self.rows.iter().any(|row| !ON_A_DOUBLE.contains(row))
    }

    fn has(&self, row: &str) -> bool {
        self.rows.contains(&row)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = match Wanted::read() {
        Ok(wanted) => wanted,
        Err(error) => {
            say(&error);
            return ExitCode::from(2);
        }
    };
    let docker = measure::docker_version().await.unwrap_or_default();
    let mut report = Report::on(&docker, fast::seed(), &rivals::told());
    let only = std::env::var("PROXY").unwrap_or_default();
    for kind in Kind::ALL.into_iter().filter(|kind| only.is_empty() || only == kind.as_str()) {
        if let Err(error) = one(kind, &wanted, &mut report).await {
            report.broke(kind.as_str(), &error);
        }
    }
    if wanted.has("rivals") {
        report.part(SPEED);
        if let Err(error) = rivals::measure(&mut report).await {
            report.broke("rivals", &error);
        }
    }
    if std::env::var_os("BENCH_VERSIONS").is_some() {
        unmeasured(&mut report);
    }
    report.show();
    match report.write() {
        Ok(folder) => say(&format!("written to {}/report.md", folder.display())),
        Err(error) => report.broke("writing", &error),
    }
    if std::env::var("BENCH_QUOTE").is_ok_and(|quote| !quote.is_empty())
        && let Err(error) = quote::write(&report)
    {
        report.broke("quoting", &error);
    }
    if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An ability that no version here has was not measured: that is a failure, where all versions were asked for.
fn unmeasured(report: &mut Report) {
    let versions: Vec<Abilities> =
        report.versions().iter().filter_map(|version| version.replace(':', "-").parse().ok()).collect();
    for ability in Ability::ALL {
        if !versions.iter().any(|version| version.has(ability)) {
            report.broke(ability.as_str(), &"no version here has it".into());
        }
    }
}

async fn one(kind: Kind, wanted: &Wanted, report: &mut Report) -> Result {
    World::run(&format!("bench-{}", kind.as_str()), async |world| {
        let dir = tempfile::tempdir()?;
        let binary = interlock_e2e::double::binary(world, dir.path()).await?;
        let scale = Scale { kind, binary: &binary };
        let mut bench = None;
        if wanted.needs_containers() {
            let mut new = Bench::new(world, kind).await?;
            new.grow(1).await?;
            bench = Some(new);
        }
        for (row, part) in ROWS.into_iter().filter(|(row, _)| wanted.has(row)) {
            report.part(part);
            let done = match &mut bench {
                _ if ON_A_DOUBLE.contains(&row) => on_a_double(row, &scale, wanted, report).await,
                Some(bench) => on_the_engine(row, bench, wanted, report).await,
                None => Ok(()),
            };
            // A row that breaks off costs only itself.
            if let Err(error) = done {
                report.broke(&format!("{}: {row}", kind.as_str()), &error);
            }
        }
        Ok(())
    })
    .await
}

async fn on_a_double(row: &str, scale: &Scale<'_>, wanted: &Wanted, report: &mut Report) -> Result {
    match row {
        "fast" => fast::measure(scale.kind, scale.binary, &wanted.beside(scale.kind), report).await,
        "sync" => scale.first_sync(report).await,
        "together" => scale.together(report).await,
        "requests" => scale.requests(report).await,
        "reloads" => scale.reloads_under_load(report).await,
        _ => Ok(()),
    }
}

async fn on_the_engine(row: &str, bench: &mut Bench<'_>, wanted: &Wanted, report: &mut Report) -> Result {
    match row {
        "new-host" | "new-endpoint" => {
            for routes in &wanted.routes {
                bench.grow(*routes).await?;
                let bare = bench.bare().await?;
                if row == "new-host" {
                    bench.new_host(*routes, &bare, report).await?;
                } else {
                    bench.new_endpoint(*routes, &bare, report).await?;
                }
            }
            Ok(())
        }
        "stop" => bench.stop_signal(report).await,
        "rolling" => bench.rolling(report).await,
        "careless" => bench.careless(report).await,
        "recreate" => bench.recreate(report).await,
        "remove" => bench.remove_one_of_two(report).await,
        "started" => bench.started_together(report).await,
        "churn" => bench.churn(report).await,
        "resources" => bench.resources(report).await,
        _ => Ok(()),
    }
}
