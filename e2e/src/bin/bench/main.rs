//! `make bench`: how fast routes come alive, what that costs, and what is lost; one table, each figure beside its limit.
//!
//! Every figure stands beside the bare proxy's own check and reload, measured in the same run with the very
//! configuration that Interlock made: these machines are noisy, ratios are what counts. Exit code 1 if a bar is
//! missed. `BENCH_SAMPLES` (30) and `BENCH_CHURN_SECONDS` (30) shorten a try; figures to quote are made without them.

mod bare;
mod measure;
mod report;

use std::process::ExitCode;

use interlock_e2e::world::Kind;
use interlock_e2e::{Result, World};

use measure::Bench;
use report::Report;

/// Numbers of routed containers that are there already.
const ROUTES: [usize; 3] = [1, 25, 100];

#[tokio::main]
async fn main() -> ExitCode {
    let mut report = Report::default();
    for kind in Kind::ALL {
        if let Err(error) = one(kind, &mut report).await {
            report.broke(kind, &error);
        }
    }
    report.show();
    if let Err(error) = report.write() {
        report.broke_writing(&error);
    }
    if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn one(kind: Kind, report: &mut Report) -> Result {
    World::run(&format!("bench-{}", kind.as_str()), async |world| {
        let mut bench = Bench::new(world, kind).await?;
        for routes in ROUTES {
            bench.grow(routes).await?;
            let bare = bench.bare().await?;
            bench.new_host(routes, &bare, report).await?;
        }
        bench.requests_to_docker(report).await?;
        bench.started_together(report).await?;
        bench.churn(report).await?;
        bench.resources(report).await
    })
    .await
}
