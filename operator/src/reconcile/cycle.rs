//! The cycle: observe, compile, render, deliver, publish; the way of the data in ARCHITECTURE.md, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use interlock_core::compile::{self, Compiled, Target, Transport};
use interlock_core::finding::{Finding, Reason};
use interlock_core::model::{Digest, Observed, Quarantined, TargetId};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::protocol::ProbeSet;
use interlock_core::search::Step;

use super::actions::Action;
use super::clock::now;
use super::driver::Driver;
use super::policy;
use super::publish::{Cycle, Took};
use super::target::{Tracked, assignment_of};
use super::world;
use crate::chain::chain;
use crate::deliver;

impl Driver {
    /// One look at the world and everything that follows from it.
    pub(super) fn cycle(&mut self) {
        let began = Instant::now();
        let observed = world::observe(
            now(),
            self.parts.own_container.as_ref(),
            &mut self.parts.sources,
            &self.agents,
            self.parts.store.kept(),
        );
        let observed_at = Instant::now();
        let compiled = compile::compile(&observed, &self.parts.config);
        let compiled_at = Instant::now();
        self.track(&compiled.targets);
        let acts = compiled.complete && !self.parts.observe_only;
        if compiled.complete {
            let event = world::newest_event(&self.parts.sources);
            self.render_all(&compiled, &observed, event);
        }
        if acts {
            self.act(&compiled);
            let ownership = compiled.ownership.clone();
            self.keep(|kept| kept.ownership = ownership);
            self.prune_quarantine();
        }
        let took = Took {
            observe: observed_at - began,
            compile: compiled_at - observed_at,
            render: compiled_at.elapsed(),
        };
        let faults = self.faults();
        self.parts.publisher.cycle(Cycle {
            observed,
            compiled,
            config: &self.parts.config,
            targets: &self.targets,
            faults,
            observe_only: self.parts.observe_only,
            took,
        });
    }

    /// Starts and ends the tasks of targets as they come and go.
    fn track(&mut self, targets: &BTreeMap<TargetId, Target>) {
        let gone: Vec<TargetId> = self
            .targets
            .iter()
            .filter(|(id, tracked)| targets.get(id).is_none_or(|target| !tracked.is(target)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.targets.remove(&id);
            self.agents.forget(&id);
        }
        for (id, target) in targets {
            if let Some(tracked) = self.targets.get_mut(id) {
                tracked.target = target.clone();
                continue;
            }
            // Reaching a stock proxy means to put the agent into it: not when nothing may be delivered.
            let dialled = !self.parts.observe_only || !matches!(target.transport, Transport::Exec { .. });
            let handle = dialled.then(|| {
                deliver::spawn(
                    self.parts.dial.clone(),
                    self.parts.identity.clone(),
                    id.clone(),
                    target.transport.clone(),
                    target.proxy,
                    self.reports.clone(),
                )
            });
            self.targets.insert(id.clone(), Tracked::new(target.clone(), handle));
        }
    }

    /// Renders every target's plan and hands it to the target's task.
    fn render_all(
        &mut self,
        compiled: &Compiled,
        observed: &Observed,
        event: Option<interlock_core::model::Timestamp>,
    ) {
        let ids: Vec<TargetId> = self.targets.keys().cloned().collect();
        for id in ids {
            let probes = compiled.probes.get(&id).cloned().unwrap_or_default();
            self.agents.prune(&id, &probes);
            let looking = self.agents.looking(&id, &probes, now());
            let abilities = compiled.targets.get(&id).and_then(|target| target.abilities);
            let Some(tracked) = self.targets.get_mut(&id) else { continue };
            let deliver = !self.parts.observe_only;
            if deliver {
                set_probes(tracked, probes, self.nudge);
            }
            if looking {
                continue;
            }
            let Some(plan) = compiled.plans.get(&id) else { continue };
            // Until its agent has said what the proxy can do, nothing could be sent anyway.
            let Some(abilities) =
                abilities.or_else(|| self.parts.observe_only.then(|| Abilities::oldest(plan.settings.proxy)))
            else {
                continue;
            };
            self.render_one(&id, plan, abilities, event, deliver);
            self.search_step(&id, observed, abilities);
        }
    }

    fn render_one(
        &mut self,
        id: &TargetId,
        plan: &Plan,
        abilities: Abilities,
        event: Option<interlock_core::model::Timestamp>,
        deliver: bool,
    ) {
        let Some(tracked) = self.targets.get_mut(id) else { return };
        let bundle = match tracked.render(plan, abilities, &self.parts.templates) {
            Ok(bundle) => bundle,
            Err(error) => {
                let cluster = tracked.target.cluster.as_ref();
                tracked.fault = Some(policy::fault(id, cluster, Reason::BaseRefused, chain(&error), None));
                return;
            }
        };
        if tracked.wanted.as_ref().is_some_and(|wanted| wanted.bundle.digest == bundle.digest) {
            return;
        }
        let secrets = self.parts.secrets.clone();
        let wanted = tracked.wrap(plan, bundle, |digest| secrets(digest));
        tracked.last = Some(assignment_of(&wanted.bundle));
        tracked.wanted = Some(wanted.clone());
        tracked.pending_since = tracked.pending_since.or(event);
        if deliver && let Some(handle) = &tracked.handle {
            handle.set(|desired| desired.wanted = Some(wanted));
        }
    }

    /// Sends the next check of a search for a culprit.
    fn search_step(&mut self, id: &TargetId, observed: &Observed, abilities: Abilities) {
        let Some(tracked) = self.targets.get(id) else { return };
        let Some((search, 0, words)) = &tracked.search else { return };
        let Step::CheckWithout(out) = search.step() else { return };
        let quarantined =
            |digest: &Digest| (digest.clone(), Quarantined { abilities, reason: words.clone() });
        let mut narrowed = observed.clone();
        narrowed.quarantine.extend(out.iter().map(quarantined));
        let compiled = compile::compile(&narrowed, &self.parts.config);
        let Some(plan) = compiled.plans.get(id) else { return };
        let Ok(bundle) = tracked.render(plan, abilities, &self.parts.templates) else { return };
        let secrets = self.parts.secrets.clone();
        let wanted = tracked.wrap(plan, bundle, |digest| secrets(digest));
        self.check_id += 1;
        let check = self.check_id;
        let Some(tracked) = self.targets.get_mut(id) else { return };
        if let Some((_, asked, _)) = &mut tracked.search {
            *asked = check;
        }
        if let Some(handle) = &tracked.handle {
            handle.set(|desired| desired.check = Some((check, wanted)));
        }
    }

    fn act(&mut self, compiled: &Compiled) {
        let networks = compiled.networks.iter().cloned().map(Action::Network);
        let boots = compiled.boots.iter().filter_map(|(container, boot)| {
            let spec = self.parts.config.clusters.get(&boot.cluster)?;
            Some(Action::Boot(container.clone(), boot.clone(), Box::new(spec.clone())))
        });
        self.actions.want(networks.chain(boots).collect());
    }

    /// A proxy of another version, or a changed intent, gets another chance: what no longer matches any
    /// target's abilities is forgotten.
    fn prune_quarantine(&mut self) {
        let abilities: BTreeSet<Abilities> =
            self.targets.values().filter_map(|tracked| tracked.target.abilities).collect();
        if abilities.is_empty() {
            return;
        }
        self.keep(|kept| kept.quarantine.retain(|_, entry| abilities.contains(&entry.abilities)));
    }

    /// Findings that do not follow from the facts alone: of reaching, delivering, acting.
    fn faults(&self) -> Vec<Finding> {
        let faults = self.targets.values().filter_map(|tracked| tracked.fault.clone());
        let all: BTreeSet<Finding> = faults.chain(self.actions.findings()).collect();
        all.into_iter().collect()
    }
}

fn set_probes(tracked: &Tracked, probes: ProbeSet, nudge: u64) {
    let Some(handle) = &tracked.handle else { return };
    handle.set(|desired| {
        if *desired.probes != probes {
            desired.probes = Arc::new(probes);
        }
        desired.nudge = nudge;
    });
}
