//! The cycle: observe, compile, render, deliver, publish; the way of the data in ARCHITECTURE.md, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use interlock_core::bundle::Receipt;
use interlock_core::compile::{self, Compiled, Target, Transport};
use interlock_core::declared::Declared;
use interlock_core::finding::{Finding, Reason};
use interlock_core::model::{Observed, Shared, TargetId};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::protocol::ProbeSet;
use interlock_core::search::Step;

use super::actions::Action;
use super::clock::{self, now};
use super::driver::Driver;
use super::policy;
use super::publish::{Cycle, Took, Untold};
use super::target::{Ahead, Tracked};
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
            &self.standings,
        );
        let observed_at = Instant::now();
        let (observed, compiled) = self.compile(observed);
        let compiled_at = Instant::now();
        self.track(&compiled.targets);
        self.look_again = compiled.look_again.map(clock::instant);
        let acts = compiled.complete && !self.parts.observe_only;
        if compiled.complete {
            let event = world::newest_event(&self.parts.sources);
            self.render_all(&compiled, &observed, event);
        }
        if compiled.complete {
            self.standings.clone_from(&compiled.standings);
        }
        if acts {
            self.act(&compiled, &observed.declared);
            if self.parts.store.kept().ownership != compiled.ownership {
                self.keep(|kept| kept.ownership.clone_from(&compiled.ownership));
            }
            self.prune_quarantine();
        }
        let took = Took {
            observe: observed_at - began,
            compile: compiled_at - observed_at,
            render: compiled_at.elapsed(),
        };
        let lost = self.targets.values().any(|tracked| tracked.lost.is_some());
        self.parts.publisher.lose(lost);
        self.parts.publisher.round(took);
        self.untold = Some(Untold::after(self.untold.take(), observed, compiled));
    }

    /// Tells everybody what has become of the last look.
    pub(super) fn publish(&mut self) {
        let Some(Untold { observed, compiled, .. }) = self.untold.take() else { return };
        let faults = self.faults();
        self.parts.publisher.cycle(Cycle {
            observed,
            compiled,
            config: &self.parts.config,
            targets: &self.targets,
            faults,
            observe_only: self.parts.observe_only,
        });
    }

    /// Everything that follows from the facts. Nobody probes for an operator that only looks: what it would serve is
    /// shown as if every endpoint answered.
    fn compile(&mut self, mut observed: Observed) -> (Observed, Shared<Compiled>) {
        let compiled = compile::compile_with(&observed, &self.parts.config, &mut self.memory);
        if !self.parts.observe_only {
            return (observed, compiled);
        }
        let assumed: Vec<_> =
            compiled.probes.iter().filter(|(id, probes)| self.agents.assume(id, probes)).collect();
        if assumed.is_empty() {
            return (observed, compiled);
        }
        observed.probes = self.agents.probes().clone();
        let compiled = compile::compile_with(&observed, &self.parts.config, &mut self.memory);
        (observed, compiled)
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
            let handle = self.reach(id, target);
            self.targets.insert(id.clone(), Tracked::new(target.clone(), handle));
        }
    }

    /// Starts the task of a target. Reaching a stock proxy means to put the agent into it: where nothing may be
    /// delivered, its container is read instead.
    fn reach(&self, id: &TargetId, target: &Target) -> Option<deliver::Handle> {
        let (dial, transport) = (self.parts.dial.clone(), target.transport.clone());
        let reports = self.reports.clone();
        if self.parts.observe_only && is_stock(target) {
            return target.proxy.map(|proxy| deliver::watch(dial, id.clone(), transport, proxy, reports));
        }
        let identity = self.parts.identity.clone();
        Some(deliver::spawn(dial, identity, id.clone(), transport, target.proxy, reports))
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
            let looking = self.agents.looking(&id, &probes);
            let abilities = compiled.targets.get(&id).and_then(|target| target.abilities);
            let Some(tracked) = self.targets.get_mut(&id) else { continue };
            let deliver = !self.parts.observe_only;
            set_probes(tracked, probes, self.nudge);
            if let Some(until) = looking {
                self.look_again = Some(self.look_again.map_or(until, |at| at.min(until)));
                continue;
            }
            let Some(plan) = compiled.plans.get(&id) else { continue };
            let empty = *self.parts.sources.written.borrow() == 0;
            let Some(tracked) = self.targets.get_mut(&id) else { continue };
            if tracked.lose(&id, empty) {
                continue;
            }
            tracked.applied = observed.declared.applied_for(&plan.cluster);
            // Until its agent has said what the proxy can do, nothing could be sent anyway.
            let Some(abilities) =
                abilities.or_else(|| self.parts.observe_only.then(|| Abilities::oldest(plan.settings.proxy)))
            else {
                continue;
            };
            self.render_one(&id, plan, abilities, event, deliver);
            if !deliver && let Some(tracked) = self.targets.get_mut(&id) {
                tracked.compare(&id);
            }
            self.search_step(&id, observed, abilities);
        }
    }

    fn render_one(
        &mut self,
        id: &TargetId,
        plan: &Shared<Plan>,
        abilities: Abilities,
        event: Option<interlock_core::model::Timestamp>,
        deliver: bool,
    ) {
        let Some(tracked) = self.targets.get_mut(id) else { return };
        let plan = &tracked.bounded(id, plan);
        match tracked.ahead(plan) {
            Ahead::Nothing => return,
            Ahead::Aside(until) => {
                self.look_again = Some(self.look_again.map_or(until, |at| at.min(until)));
                return;
            }
            Ahead::Render => {}
        }
        let bundle = match tracked.render(plan, abilities, &self.parts.templates) {
            Ok(bundle) => bundle,
            Err(error) => {
                let cluster = tracked.target.cluster.as_ref();
                tracked.fault = Some(policy::fault(id, cluster, Reason::BaseRefused, chain(&error), None));
                return;
            }
        };
        if tracked.was_sent(&bundle) && !tracked.may_wait(&bundle) {
            tracked.waits = None;
            return;
        }
        let secrets = self.parts.secrets.clone();
        let mut wanted = tracked.wrap(plan, bundle, |digest| secrets(digest));
        if let Some((plan, bundle)) = tracked.fitting(id, &wanted, abilities, &self.parts.templates) {
            wanted = tracked.wrap(&plan.into(), bundle, |digest| secrets(digest));
        }
        if tracked.was_sent(&wanted.bundle) {
            return;
        }
        // Its task sets out while the rest is noted.
        if deliver && let Some(handle) = &tracked.handle {
            handle.set(|desired| desired.wanted = Some(wanted.clone()));
        }
        tracked.last = Some(Receipt::planned(&wanted.bundle).into());
        (tracked.wanted, tracked.abilities) = (Some(wanted), Some(abilities));
        tracked.pending_since = tracked.pending_since.or(event);
    }

    /// Sends the next check of a search for a culprit.
    fn search_step(&mut self, id: &TargetId, observed: &Observed, abilities: Abilities) {
        let Some(tracked) = self.targets.get(id) else { return };
        let Some((search, 0, words)) = &tracked.search else { return };
        let Step::CheckWithout(out) = search.step() else { return };
        let mut narrowed = observed.clone();
        for digest in out {
            narrowed.quarantine.entry(digest).or_default().insert(abilities, words.clone());
        }
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

    fn act(&mut self, compiled: &Compiled, declared: &Declared) {
        let config = self.parts.config.with(declared);
        let networks = compiled.networks.iter().cloned().map(Action::Network);
        let boots = compiled.boots.iter().filter_map(|(container, boot)| {
            let spec = config.clusters.get(&boot.cluster)?;
            Some(Action::Boot(container.clone(), boot.clone(), Box::new(spec.clone())))
        });
        self.actions.want(networks.chain(boots).collect());
    }

    /// A proxy of another version, or a changed intent, gets another chance: what no longer matches any
    /// target's abilities is forgotten.
    fn prune_quarantine(&mut self) {
        let abilities: BTreeSet<Abilities> =
            self.targets.values().filter_map(|tracked| tracked.target.abilities).collect();
        if abilities.is_empty() || self.parts.store.kept().quarantine.is_empty() {
            return;
        }
        self.keep(|kept| {
            kept.quarantine.retain(|_, under| {
                under.retain(|of, _| abilities.contains(of));
                !under.is_empty()
            });
        });
    }

    /// Findings that do not follow from the facts alone: of reaching, delivering, acting.
    fn faults(&self) -> Vec<Finding> {
        let faults = self.targets.values().flat_map(|it| [&it.fault, &it.waits, &it.limited, &it.lost]);
        let faults = faults.flatten().cloned();
        let all: BTreeSet<Finding> = faults.chain(self.actions.findings()).collect();
        all.into_iter().collect()
    }
}

/// Whether a proxy has no agent of its own.
fn is_stock(target: &Target) -> bool {
    matches!(target.transport, Transport::Exec { .. })
}

fn set_probes(tracked: &Tracked, probes: Shared<ProbeSet>, nudge: u64) {
    let Some(handle) = &tracked.handle else { return };
    handle.set(|desired| {
        if desired.probes != probes {
            desired.probes = probes;
        }
        desired.nudge = nudge;
    });
}
