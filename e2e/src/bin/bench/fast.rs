//! How fast: endpoints and hosts that come and go beside up to a thousand others, on the engine's double.

use std::path::Path;
use std::time::Duration;

use interlock_e2e::Result;
use interlock_e2e::double::{Bystander, Hosted, Scene, Wish, drawn, host};
use interlock_e2e::load::quantile;
use interlock_e2e::world::Kind;
use serde_json::{Value, json};

use crate::bare::{self, Bare};
use crate::measure::{CEILING, setting};
use crate::report::{Report, Row, ms, spread};

/// What a stop signal may take after its event.
const STOP: Duration = Duration::from_millis(20);
/// HAProxy has this many spare backends: more new hosts at once would measure its reload.
const SPARES: u64 = 30;

/// Samples of what is measured for the record only.
const FEW: usize = 10;

/// Samples of one thing, and what the machine itself needs for it.
#[derive(Default)]
struct Samples {
    took: Vec<Duration>,
    heard: Vec<Duration>,
    reloads: f64,
}

/// What the bare proxy needs with the same configuration.
struct Limits {
    kind: Kind,
    bare: Bare,
    /// Of a new host on HAProxy.
    commands: Vec<Duration>,
}

impl Limits {
    async fn of(scene: &Scene, kind: Kind) -> Result<Self> {
        let bare = bare::of_hosted(&scene.hosted, kind).await?;
        let commands = match kind {
            Kind::Haproxy => bare::commands(&scene.hosted, &host(0), samples()).await?,
            Kind::Nginx => Vec::new(),
        };
        Ok(Self { kind, bare, commands })
    }

    /// The next sample is a first change after quiet: what is put off for so many ceilings is over by then.
    async fn quiet(&self, ceilings: u32) {
        let reload = self.bare.typical();
        tokio::time::sleep(match self.kind {
            Kind::Haproxy => Duration::from_millis(150),
            Kind::Nginx => (CEILING + reload) * ceilings + reload + Duration::from_millis(100),
        })
        .await;
    }

    /// The least that a change costs.
    fn least(&self) -> Duration {
        if self.commands.is_empty() { self.bare.typical() } else { quantile(&self.commands, 0.5) }
    }

    fn text(&self, heard: &[Duration]) -> String {
        let proxy = if self.commands.is_empty() {
            self.bare.limit()
        } else {
            format!("bare commands to the first answer {}", spread(&self.commands))
        };
        format!("{proxy}; the event at the bystander {}", spread(heard))
    }
}

fn samples() -> usize {
    usize::try_from(setting("BENCH_SAMPLES", 30).min(SPARES)).unwrap_or(usize::MAX)
}

/// What the hosts' labels are drawn from.
pub(crate) fn seed() -> u64 {
    setting("BENCH_SEED", 1)
}

/// Departures of earlier samples must not reload nginx in the midst of later ones.
fn spec(kind: Kind) -> Value {
    match kind {
        Kind::Haproxy => json!({}),
        Kind::Nginx => json!({ "hold": "0s" }),
    }
}

/// All rows of one proxy, beside each of these numbers of others.
pub(crate) async fn measure(kind: Kind, binary: &Path, routes: &[usize], report: &mut Report) -> Result {
    let (mut endpoints, mut hosts) = (Vec::new(), Vec::new());
    for &routes in routes {
        let wishes = (0..routes).map(|number| drawn(seed(), number)).collect();
        let scene = Scene::of(binary, kind, wishes, spec(kind)).await?;
        let bystander = Bystander::of(&scene.double).await?;
        let limits = Limits::of(&scene, kind).await?;
        limits.quiet(1).await;
        let (came, left) = endpoints_come_and_go(&scene, &bystander, &limits).await?;
        let new = hosts_come(&scene, &bystander, &limits).await?;
        endpoints.push((routes, quantile(&came.took, 0.5)));
        hosts.push((routes, quantile(&new.took, 0.5)));
        report.row(row("new endpoint", routes, &came, &limits));
        report.row(row("new host", routes, &new, &limits));
        report.row(stop_row(kind, routes, &left));
        if routes >= 100 {
            report.row(memory(kind, &scene.hosted, routes)?);
        }
    }
    if kind == Kind::Haproxy {
        growth("new endpoint", &endpoints, report);
        growth("new host", &hosts, report);
    }
    Ok(())
}

/// One more endpoint of a host that is served, and its stop signal.
async fn endpoints_come_and_go(
    scene: &Scene,
    bystander: &Bystander,
    limits: &Limits,
) -> Result<(Samples, Samples)> {
    let (mut came, mut left) = (Samples::default(), Samples::default());
    let before = reloads(scene).await?;
    // On nginx both are reloads, and nothing is asked of the one, nor more than of a new host of the other.
    let samples = if limits.kind == Kind::Nginx { samples().min(FEW) } else { samples() };
    for sample in 0..samples {
        let (name, wish) = (format!("more-{sample}"), &scene.apps[sample % scene.apps.len()].0);
        let alive = scene.comes_alive(bystander, wish, &name).await?;
        came.took.push(alive.took);
        came.heard.push(alive.heard);
        // The first answer comes before the proxy's receipt. What is still being applied is not what is measured here.
        tokio::time::sleep(limits.bare.typical() * 2).await;
        let gone = scene.leaves(bystander, &wish.url(), &name, &alive.member).await?;
        left.took.push(gone.took);
        left.heard.push(gone.heard);
        scene.double.remove(&alive.member);
        limits.quiet(1).await;
    }
    came.reloads = reloads(scene).await? - before;
    Ok((came, left))
}

/// A host that nobody had. Of those that the mix has next, the ones that take one spare backend of the common shape:
/// others are a reload on HAProxy sooner or later, which is what `spares` are for and not what is measured here.
async fn hosts_come(scene: &Scene, bystander: &Bystander, limits: &Limits) -> Result<Samples> {
    let mut new = Samples::default();
    let before = reloads(scene).await?;
    let next = (scene.apps.len()..).map(|number| drawn(seed(), number)).filter(Wish::is_light);
    for wish in next.take(samples()) {
        let alive = scene.comes_alive(bystander, &wish, wish.host()).await?;
        new.took.push(alive.took);
        new.heard.push(alive.heard);
        scene.double.stop_signal(&alive.member);
        scene.double.remove(&alive.member);
        // That nobody knows the host any more is news which waits for a ceiling itself.
        limits.quiet(2).await;
    }
    new.reloads = reloads(scene).await? - before;
    Ok(new)
}

async fn reloads(scene: &Scene) -> Result<f64> {
    scene.hosted.metric("interlock_reloads_total", &[]).await
}

fn row(what: &'static str, routes: usize, samples: &Samples, limits: &Limits) -> Row {
    let bar = limits.bare.bar(limits.kind);
    let figure = format!("{}, {} reloads", spread(&samples.took), samples.reloads);
    Row::of(limits.kind, format!("{what} beside {routes}"), figure)
        .limit(limits.text(&samples.heard))
        .bar(bar.text(), bar.holds(&samples.took))
        .times(&samples.took, Some(bar.half))
        .at(what, routes, Some(limits.least()))
        .quoted()
}

fn stop_row(kind: Kind, routes: usize, samples: &Samples) -> Row {
    const WHAT: &str = "stop signal to out of rotation";
    let asked = kind == Kind::Haproxy;
    Row::of(kind, format!("{WHAT} beside {routes}"), spread(&samples.took))
        .limit(format!("the event at the bystander {}", spread(&samples.heard)))
        .bar_if(asked, format!("p95 ≤ {} ms", ms(STOP)), quantile(&samples.took, 0.95) <= STOP)
        .times(&samples.took, asked.then_some(STOP))
        .at(WHAT, routes, None)
        .quoted()
}

/// What the most routes cost more than the fewest, at the median.
fn growth(what: &str, medians: &[(usize, Duration)], report: &mut Report) {
    let (Some((few, least)), Some((many, most))) = (medians.first(), medians.last()) else { return };
    if few == many {
        return;
    }
    let ratio = most.as_secs_f64() / least.as_secs_f64().max(f64::EPSILON);
    let figure = format!("{ratio:.2} ({} over {} ms)", ms(*most), ms(*least));
    let what = format!("{what}: p50 beside {many} over that beside {few}");
    report.row(Row::of(Kind::Haproxy, what, figure).bar("≤ 1.5", ratio <= 1.5).quoted());
}

/// What an operator with an embedded proxy needs itself.
pub(crate) fn memory(kind: Kind, hosted: &Hosted, routes: usize) -> Result<Row> {
    /// In megabytes, beside the thousand routes that bars are for.
    const MOST: f64 = 40.0;
    #[expect(clippy::cast_precision_loss, reason = "megabytes with one decimal")]
    let megabytes = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    let (now, most) = hosted.memory()?;
    let (now, most) = (megabytes(now), megabytes(most));
    let row = Row::of(
        kind,
        format!("the operator's memory with {routes} routes"),
        format!("{now:.1} MB, peak {most:.1} MB"),
    );
    Ok(row.bar_if(routes <= 1000, format!("≤ {MOST} MB"), most <= MOST))
}
