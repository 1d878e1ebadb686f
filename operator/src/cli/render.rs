//! `interlock render`: the files that each proxy would be given.

use std::collections::BTreeMap;

use interlock_core::bundle::{Bundle, Paths, Receipt};
use interlock_core::change::{Change, ReloadReason};
use interlock_core::model::{ClusterName, Digest, TargetId};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::render::{self, Templates};
use serde::Serialize;

use super::OK;
use super::args::RenderArgs;
use super::failure::Failure;
use super::output::{Output, Tone};
use super::world::World;
use crate::settings::Environment;

/// Stands for folders that each agent chooses for itself.
const PATHS: Paths<'static> = Paths { dir: "DIR", run: "RUN", secrets: "SECRETS" };

/// What one proxy would be given.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rendered {
    cluster: ClusterName,
    abilities: Abilities,
    digest: Digest,
    /// What it would take, seen from what the proxy provably runs.
    change: String,
    files: BTreeMap<String, String>,
}

/// Prints every proxy's files, or those of `--target`. Keys are never among them.
pub(super) fn run(args: &RenderArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let world = World::look(&args.facts, environment, output)?;
    let templates = Templates::embedded();
    let mut rendered = BTreeMap::new();
    for (target, plan) in &world.compiled.plans {
        if args.target.as_ref().is_none_or(|wanted| wanted == target) {
            rendered.insert(target.clone(), one(&world, target, plan, &templates)?);
        }
    }
    if rendered.is_empty() {
        return Err(nothing(args, &world));
    }
    match args.shape.output.machine() {
        Some(form) => output.document(form, &rendered)?,
        None => people(&rendered, output)?,
    }
    Ok(OK)
}

/// The files of every proxy.
pub(super) fn all(
    world: &World,
    templates: &Templates,
) -> Result<BTreeMap<TargetId, BTreeMap<String, String>>, Failure> {
    let plans = world.compiled.plans.iter();
    plans.map(|(target, plan)| Ok((target.clone(), one(world, target, plan, templates)?.files))).collect()
}

fn one(world: &World, target: &TargetId, plan: &Plan, templates: &Templates) -> Result<Rendered, Failure> {
    let agent = world.snapshot.observed.agents.get(target);
    // The operator knows what it has proved since the agent's first words.
    let proved = world.snapshot.targets.get(target).and_then(|status| status.receipt.as_ref());
    let receipt = proved.or(agent.and_then(|agent| agent.receipt.as_ref())).map(|receipt| &**receipt);
    let abilities = agent.map_or(Abilities::oldest(plan.settings.proxy), |agent| agent.abilities);
    let bundle = render::bundle(plan, receipt, abilities, templates).map_err(Failure::new)?;
    Ok(Rendered {
        cluster: plan.cluster.clone(),
        abilities,
        digest: bundle.digest.clone(),
        change: change(receipt, &bundle),
        files: bundle.files(PATHS),
    })
}

fn change(receipt: Option<&Receipt>, bundle: &Bundle) -> String {
    match Change::between(receipt, bundle) {
        Change::None => "in step: nothing would be done".to_owned(),
        Change::Live => "live commands would do; no reload".to_owned(),
        Change::Reload { why: ReloadReason::First } => {
            "one reload: it is not known to run anything of ours yet".to_owned()
        }
        Change::Reload { why: ReloadReason::StaticDigest } => {
            "one reload: more than servers and maps has changed".to_owned()
        }
    }
}

fn nothing(args: &RenderArgs, world: &World) -> Failure {
    let known: Vec<&str> = world.compiled.plans.keys().map(TargetId::as_str).collect();
    match &args.target {
        Some(target) if !known.is_empty() => Failure::new(format!("no proxy is called `{target}`"))
            .hint(format!("write one of `{}`", known.join("`, `"))),
        _ => Failure::new("there is no proxy to render for").hint(
            "start one: `docker run -d -p 80:80 --label interlock.ext.name=haproxy haproxy`, \
             or `interlock run --embedded haproxy`",
        ),
    }
}

fn people(rendered: &BTreeMap<TargetId, Rendered>, output: &mut Output) -> Result<(), Failure> {
    for (target, one) in rendered {
        let head = format!("# {target}: {}, cluster {}, digest {}", one.abilities, one.cluster, one.digest);
        let head = output.toned(Tone::Bold, &head);
        output.line(head)?;
        let change = output.toned(Tone::Quiet, &format!("# {}", one.change));
        output.line(change)?;
        for (name, text) in &one.files {
            let name = output.toned(Tone::Bold, &format!("\n# {target}: {name}"));
            output.line(name)?;
            output.raw(text)?;
        }
        output.line("")?;
    }
    Ok(())
}
