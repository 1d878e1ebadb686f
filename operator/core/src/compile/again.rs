//! Compiling again: where little has changed, only what that touches is compiled, and takes its place in what was
//! compiled last.
//!
//! Routes meet where they share a host, and nowhere else. So a container that has changed, and everybody who asks for
//! a host that it asks for, and so on, are a world of their own: compiled with the proxies, they come to what they
//! come to among a thousand others. Whatever ties hosts together (documents, owners, named certificates, networks to
//! attach) or concerns the proxies themselves is compiled as a whole.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::memory::Memory;
use super::select::OPERATOR_LABEL;
use super::{Asked, Compiled, Config, PROXY_LABEL, Placement, pass, placement_order, route_order, targets};
use crate::finding::Finding;
use crate::intent::{self, Intent};
use crate::model::{
    AgentView, Container, ContainerId, EngineView, HostPattern, Observed, Owner, ProbeKey, Shared, Standings,
    TargetId,
};
use crate::plan::{Backend, Plan, Route};
use crate::separation::differing;

/// A part that is larger than this share of everything is not worth the trouble.
const WORTHWHILE: usize = 4;
/// Of so few, all are compiled quicker than it is found out who could be spared.
const FEW: usize = 8;

/// What was compiled last, and from what.
#[derive(Debug)]
pub(super) struct Last {
    observed: Observed,
    config: Config,
    compiled: Shared<Compiled>,
    /// What each container asks for, and who asks for each host, whether they run or not.
    asks: HashMap<ContainerId, Asks>,
    asking: HashMap<HostPattern, BTreeSet<ContainerId>>,
    /// Whose each probe is, and the other way round.
    probing: Asked,
    probed: HashMap<ProbeKey, ContainerId>,
    /// Whose standing changes by the mere passing of time.
    unsettled: BTreeSet<ContainerId>,
    /// Proxies, agents, the operator, and whoever could be taken for one.
    apart: BTreeSet<ContainerId>,
}

/// What a container asks for.
#[derive(Debug, Default)]
struct Asks {
    hosts: BTreeSet<HostPattern>,
    /// Whether it also asks for what hosts share.
    ties: bool,
}

impl Asks {
    fn note(&mut self, intent: &Intent) {
        self.hosts.extend(intent.hosts.iter().cloned());
        self.ties |= intent.network.is_some() || intent.settings.certificate.is_some();
    }
}

/// What a change touches.
#[derive(Default)]
struct Touched {
    containers: BTreeSet<ContainerId>,
    hosts: BTreeSet<HostPattern>,
    /// What those who have changed ask for now.
    asks: HashMap<ContainerId, Asks>,
}

/// What follows from a snapshot, if little has changed since the last one; none: all of it is to be compiled.
pub(super) fn compile(observed: &Observed, config: &Config, memory: &mut Memory) -> Option<Shared<Compiled>> {
    let mut last = memory.last.take()?;
    let changed = last.changed(observed, config)?;
    let touched = last.touched(changed, observed, memory)?;
    let (part, probing) = pass(&last.part(observed, &touched), config, memory);
    let keys = observed.engines.keys().flat_map(|engine| {
        touched.containers.iter().map(move |container| (engine.clone(), container.clone()))
    });
    memory.forget_among(&keys.collect());
    if !last.takes(&part, &touched) {
        return None;
    }
    last.put(part, &probing, &touched);
    last.follow(touched, probing);
    last.observed = observed.clone();
    let compiled = last.compiled.clone();
    memory.last = Some(last);
    Some(compiled)
}

impl Last {
    pub(super) fn new(
        observed: &Observed,
        config: &Config,
        compiled: Shared<Compiled>,
        probing: Asked,
        memory: &Memory,
    ) -> Self {
        let mut last = Self {
            observed: observed.clone(),
            config: config.clone(),
            asks: HashMap::new(),
            asking: HashMap::new(),
            probed: HashMap::new(),
            probing: Asked::new(),
            unsettled: BTreeSet::new(),
            apart: apart(observed, &compiled),
            compiled,
        };
        let mut asks: HashMap<ContainerId, Asks> = HashMap::new();
        for (container, read) in memory.everybody() {
            let of = asks.entry(container.clone()).or_default();
            read.intents.iter().for_each(|intent| of.note(intent));
        }
        for (id, asks) in asks {
            last.asks_for(id, asks);
        }
        last.probes(probing);
        let standings = last.compiled.standings.values().flat_map(|standings| standings.iter());
        last.unsettled = standings.filter(|(_, of)| unsettled(of)).map(|(id, _)| id.clone()).collect();
        last
    }

    /// Who has changed; none: more than workloads have.
    fn changed(&self, now: &Observed, config: &Config) -> Option<BTreeSet<ContainerId>> {
        let before = &self.observed;
        // All of it, so that a field that is added is thought of here.
        let Observed {
            at,
            own_container,
            engines,
            declared,
            sockets,
            receipted,
            booted,
            agents,
            draining,
            probes,
            was_healthy,
            quarantine,
            certificates,
            stats,
            ownership,
            standings,
        } = now;
        let expires = |not_after: u64| not_after != 0 && not_after >= before.at.0 && not_after < at.0;
        let mut certified = certificates.values().flat_map(BTreeMap::values);
        let same = *config == self.config
            && *at >= before.at
            && (own_container, sockets) == (&before.own_container, &before.sockets)
            && (receipted, booted) == (&before.receipted, &before.booted)
            && (agents, quarantine) == (&before.agents, &before.quarantine)
            && (certificates, stats) == (&before.certificates, &before.stats)
            && !certified.any(|view| expires(view.not_after.0))
            && engines.keys().eq(before.engines.keys())
            && probes.keys().all(|target| before.probes.contains_key(target));
        let loose = declared.routes.is_empty()
            && before.declared.routes.is_empty()
            && (&declared.clusters, &declared.faults) == (&before.declared.clusters, &before.declared.faults);
        if !(same && loose && *ownership == self.compiled.ownership) {
            return None;
        }
        let mut changed = self.unsettled.clone();
        for (view, old) in engines.values().zip(before.engines.values()) {
            in_view(old, view, &mut changed)?;
        }
        changed.extend(draining.symmetric_difference(&before.draining).cloned());
        changed.extend(was_healthy.symmetric_difference(&before.was_healthy).cloned());
        for (target, old) in &before.probes {
            let now = probes.get(target)?;
            let keys = differing(old, now);
            changed.extend(keys.into_iter().filter_map(|key| self.probed.get(key)).cloned());
        }
        let empty = Shared::default();
        for target in standings.keys().chain(self.compiled.standings.keys()) {
            let of = |standings: &BTreeMap<TargetId, Shared<Standings>>| {
                standings.get(target).unwrap_or(&empty).clone()
            };
            let (old, now) = (of(&self.compiled.standings), of(standings));
            changed.extend(differing(&old, &now).into_iter().cloned());
        }
        (!changed.iter().any(|id| self.apart.contains(id))).then_some(changed)
    }

    /// Everybody who meets those at any host; none: too many, or they ask for what ties hosts together.
    fn touched(
        &self,
        changed: BTreeSet<ContainerId>,
        now: &Observed,
        memory: &mut Memory,
    ) -> Option<Touched> {
        let mut touched = Touched::default();
        for id in &changed {
            touched.asks.insert(id.clone(), self.asks_now(id, now, memory)?);
        }
        let all: usize = now.engines.values().map(|view| view.containers.len()).sum();
        let mut next: Vec<ContainerId> = changed.into_iter().collect();
        while let Some(id) = next.pop() {
            if self.apart.contains(&id) || touched.containers.len() * WORTHWHILE > all.max(FEW * WORTHWHILE) {
                return None;
            }
            let of = [self.asks.get(&id), touched.asks.get(&id)];
            if of.iter().flatten().any(|asks| asks.ties) {
                return None;
            }
            let hosts: Vec<HostPattern> = of.iter().flatten().flat_map(|asks| asks.hosts.clone()).collect();
            touched.containers.insert(id);
            for host in hosts {
                let there = self.asking.get(&host).into_iter().flatten();
                next.extend(there.filter(|id| !touched.containers.contains(*id)).cloned());
                touched.hosts.insert(host);
            }
        }
        Some(touched)
    }

    /// What a container asks for now, and in the run that ended last; none: it could be taken for a proxy.
    fn asks_now(&self, id: &ContainerId, now: &Observed, memory: &mut Memory) -> Option<Asks> {
        let mut asks = Asks::default();
        for (engine, view) in &now.engines {
            let gone = self.observed.engines.get(engine).and_then(|view| view.departed.get(id));
            let gone = [gone, view.departed.get(id)].into_iter().flatten().map(|gone| &gone.container);
            for (name, spec) in &self.config.clusters {
                if let Some(container) = view.containers.get(id) {
                    if stands_out(container)
                        || fits_an_agent(container, now)
                        || self.shows_a_host(container, now)
                    {
                        return None;
                    }
                    let read = memory.of(name, spec).parse(engine, container, spec);
                    read.intents.iter().for_each(|intent| asks.note(intent));
                }
                for container in gone.clone() {
                    intent::parse(engine, container, spec)
                        .intents
                        .iter()
                        .for_each(|intent| asks.note(intent));
                }
            }
        }
        Some(asks)
    }

    /// Whether it is only by this container that an agent is seen to be on an engine's host.
    fn shows_a_host(&self, container: &Container, now: &Observed) -> bool {
        let known = |agent: &AgentView| {
            let views = now.engines.values();
            let mut apart = views.flat_map(|view| self.apart.iter().filter_map(|id| view.containers.get(id)));
            apart.any(|one| beside(one, agent))
        };
        now.agents.values().any(|agent| beside(container, agent) && !known(agent))
    }

    /// The world of those who are touched.
    fn part(&self, now: &Observed, touched: &Touched) -> Observed {
        let here = |id: &ContainerId| touched.containers.contains(id) || self.apart.contains(id);
        let view = |view: &EngineView| {
            let ids = touched.containers.iter().chain(&self.apart);
            let there = ids.filter_map(|id| view.containers.get_key_value(id));
            EngineView {
                freshness: view.freshness,
                address: view.address,
                containers: there.map(|(id, container)| (id.clone(), container.clone())).collect(),
                departed: view.departed.clone(),
            }
        };
        let standings = |all: &Shared<Standings>| -> Shared<Standings> {
            let there = touched.containers.iter().filter_map(|id| all.get_key_value(id));
            there.map(|(id, of)| (id.clone(), of.clone())).collect()
        };
        Observed {
            at: now.at,
            own_container: now.own_container.clone(),
            engines: now.engines.iter().map(|(id, of)| (id.clone(), view(of))).collect(),
            declared: now.declared.clone(),
            sockets: now.sockets.clone(),
            receipted: now.receipted.clone(),
            booted: now.booted.clone(),
            agents: now.agents.clone(),
            draining: now.draining.iter().filter(|id| here(id)).cloned().collect(),
            probes: now.probes.clone(),
            was_healthy: touched
                .containers
                .iter()
                .filter(|id| now.was_healthy.contains(*id))
                .cloned()
                .collect(),
            quarantine: now.quarantine.clone(),
            certificates: now.certificates.clone(),
            stats: now.stats.clone(),
            ownership: self.held(&now.ownership, touched).collect(),
            standings: now.standings.iter().map(|(id, of)| (id.clone(), standings(of))).collect(),
        }
    }

    /// Who holds the hosts that are touched.
    fn held(
        &self,
        all: &BTreeMap<String, Owner>,
        touched: &Touched,
    ) -> impl Iterator<Item = (String, Owner)> {
        let clusters = self.config.clusters.keys();
        let sites =
            clusters.flat_map(|cluster| touched.hosts.iter().map(move |host| format!("{cluster} {host}/")));
        sites.flat_map(|site| {
            let from = all.range(site.clone()..).take_while(move |(key, _)| key.starts_with(&site));
            from.map(|(key, owner)| (key.clone(), owner.clone()))
        })
    }

    /// Whether a part differs from the whole in nothing but what is touched.
    fn takes(&self, part: &Compiled, touched: &Touched) -> bool {
        let whole = &self.compiled;
        let mine = |container: &Option<ContainerId>| {
            container.as_ref().is_some_and(|id| touched.containers.contains(id))
        };
        let mut others = part.findings.iter().filter(|finding| !mine(&finding.subject.container));
        (&part.targets, &part.boots, part.complete) == (&whole.targets, &whole.boots, whole.complete)
            && part.plans.keys().eq(whole.plans.keys())
            && others.all(|finding| whole.findings.binary_search(finding).is_ok())
    }

    /// Puts a part in its place. What is the same stays the very same value.
    fn put(&mut self, part: Compiled, probing: &Asked, touched: &Touched) {
        let held: BTreeMap<String, Owner> = self.held(&self.compiled.ownership, touched).collect();
        let Compiled { plans, probes, placements, findings, ownership, standings, look_again, .. } = part;
        let mine = |id: &ContainerId| touched.containers.contains(id);
        let whole = self.compiled.change();
        whole.look_again = look_again;
        let placed = |it: &Shared<Placement>| mine(&it.container);
        replace(&mut whole.placements, placements, placed, |a, b| {
            placement_order(a).cmp(&placement_order(b))
        });
        let about = |it: &Finding| it.subject.container.as_ref().is_some_and(mine);
        replace(&mut whole.findings, findings, about, Ord::cmp);
        if *ownership != held {
            let known = whole.ownership.change();
            known.retain(|key, _| !held.contains_key(key));
            known.extend(ownership.iter().map(|(key, owner)| (key.clone(), owner.clone())));
        }
        for (target, plan) in plans {
            if let Some(known) = whole.plans.get_mut(&target) {
                put_plan(known, &plan, &touched.hosts);
            }
        }
        for (target, set) in probes {
            let Some(known) = whole.probes.get_mut(&target) else { continue };
            let had = keys_of(&self.probing, &target, touched);
            let has = keys_of(probing, &target, touched);
            let same = |key: &&ProbeKey| known.probes.get(*key) == set.probes.get(*key);
            if had == has && has.iter().all(same) {
                continue;
            }
            let known = known.change();
            known.probes.retain(|key, _| !had.contains(key));
            let probes = has.into_iter().filter_map(|key| set.probes.get_key_value(key));
            known.probes.extend(probes.map(|(key, probe)| (key.clone(), probe.clone())));
        }
        for (target, part) in standings {
            let known = whole.standings.entry(target).or_default();
            let same = |id: &ContainerId| known.get(id) == part.get(id);
            if touched.containers.iter().all(same) {
                continue;
            }
            let known = known.change();
            for id in &touched.containers {
                match part.get(id) {
                    Some(of) => known.insert(id.clone(), of.clone()),
                    None => known.remove(id),
                };
            }
        }
    }

    /// Remembers what those who are touched have come to.
    fn follow(&mut self, touched: Touched, probing: Asked) {
        let Touched { containers, asks, .. } = touched;
        for id in &containers {
            for (_, key) in self.probing.remove(id).into_iter().flatten() {
                self.probed.remove(&key);
            }
            let mut standings = self.compiled.standings.values();
            if standings.any(|standings| standings.get(id).is_some_and(unsettled)) {
                self.unsettled.insert(id.clone());
            } else {
                self.unsettled.remove(id);
            }
        }
        self.probes(probing.into_iter().filter(|(id, _)| containers.contains(id)).collect());
        for (id, asks) in asks {
            for host in self.asks.remove(&id).into_iter().flat_map(|asks| asks.hosts) {
                if let Some(asking) = self.asking.get_mut(&host) {
                    asking.remove(&id);
                    if asking.is_empty() {
                        self.asking.remove(&host);
                    }
                }
            }
            self.asks_for(id, asks);
        }
    }

    fn asks_for(&mut self, id: ContainerId, asks: Asks) {
        if asks.hosts.is_empty() {
            return;
        }
        for host in &asks.hosts {
            self.asking.entry(host.clone()).or_default().insert(id.clone());
        }
        self.asks.insert(id, asks);
    }

    fn probes(&mut self, probing: Asked) {
        for (id, keys) in probing {
            self.probed.extend(keys.iter().map(|(_, key)| (key.clone(), id.clone())));
            self.probing.insert(id, keys);
        }
    }
}

/// Proxies, agents, the operator, and whoever could be taken for one.
fn apart(observed: &Observed, compiled: &Compiled) -> BTreeSet<ContainerId> {
    let containers = || observed.engines.values().flat_map(|view| view.containers.values());
    let stands = containers().filter(|one| stands_out(one) || fits_an_agent(one, observed));
    // By the first one whose gateway an agent owns it is known that the agent is on that engine's host.
    let hosts = observed.agents.values().filter_map(|agent| containers().find(|one| beside(one, agent)));
    let known = compiled.targets.values().filter_map(|target| target.container.as_ref());
    let all = stands.chain(hosts).map(|one| &one.id).chain(known).chain(&observed.own_container);
    all.chain(compiled.boots.keys()).cloned().collect()
}

fn stands_out(container: &Container) -> bool {
    [PROXY_LABEL, OPERATOR_LABEL].iter().any(|label| container.labels.contains_key(*label))
        || targets::is_agent_image(container)
}

/// Whether an agent could stand in this container.
fn fits_an_agent(container: &Container, observed: &Observed) -> bool {
    let networks = || container.networks.values();
    let fits = |agent: &AgentView| {
        let ips = networks().flat_map(|it| it.ipv4.into_iter().chain(it.ipv6));
        let named = !agent.hostname.is_empty()
            && (container.hostname == agent.hostname || container.id.as_str().starts_with(&agent.hostname));
        let mut ips = ips;
        named || ips.any(|ip| agent.addresses.contains(&ip))
    };
    observed.agents.values().any(fits)
}

/// Whether an agent owns the gateway of a network that this container is on.
fn beside(container: &Container, agent: &AgentView) -> bool {
    let mut gateways = container.networks.values().filter_map(|it| it.gateway);
    gateways.any(|ip| agent.addresses.contains(&ip))
}

/// Whose place in one engine's view is another one; none: the view is.
fn in_view(before: &EngineView, now: &EngineView, changed: &mut BTreeSet<ContainerId>) -> Option<()> {
    let EngineView { freshness, address, containers, departed } = now;
    if (freshness, address) != (&before.freshness, &before.address) {
        return None;
    }
    changed.extend(differing(&before.containers, containers).into_iter().cloned());
    // A run that has ended counts for a time.
    changed.extend(before.departed.keys().chain(departed.keys()).cloned());
    Some(())
}

/// Whether a standing changes while nothing happens.
fn unsettled(of: &BTreeMap<String, crate::model::Standing>) -> bool {
    of.values().any(|standing| standing.falls > 0)
}

/// The probes of those who are touched.
fn keys_of<'a>(probing: &'a Asked, target: &TargetId, touched: &Touched) -> BTreeSet<&'a ProbeKey> {
    let all = touched.containers.iter().filter_map(|id| probing.get(id)).flatten();
    all.filter(|(of, _)| of == target).map(|(_, key)| key).collect()
}

/// Puts the routes and backends of some hosts in the place of those that they had.
fn put_plan(known: &mut Shared<Plan>, part: &Plan, hosts: &BTreeSet<HostPattern>) {
    let routes = |it: &Shared<Route>| hosts.contains(&it.host);
    let backends = |it: &Shared<Backend>| hosts.contains(&it.id.host);
    if same(&known.routes, &part.routes, routes) && same(&known.backends, &part.backends, backends) {
        return;
    }
    let known = known.change();
    replace(&mut known.routes, part.routes.clone(), routes, |a, b| route_order(a).cmp(&route_order(b)));
    replace(&mut known.backends, part.backends.clone(), backends, |a, b| a.id.cmp(&b.id));
}

fn same<T: PartialEq>(all: &[T], part: &[T], mine: impl Fn(&T) -> bool) -> bool {
    all.iter().filter(|one| mine(one)).eq(part.iter().filter(|one| mine(one)))
}

/// Puts some of a sorted list in the place of those that there were. What is the same stays.
fn replace<T: PartialEq>(
    all: &mut Vec<T>,
    part: Vec<T>,
    mine: impl Fn(&T) -> bool,
    order: impl Fn(&T, &T) -> Ordering,
) {
    if same(all, &part, &mine) {
        return;
    }
    let mut had: Vec<T> = all.extract_if(.., |one| mine(one)).collect();
    for one in part.into_iter().filter(|one| mine(one)) {
        let same = had.iter().position(|old| *old == one);
        let one = same.map_or(one, |at| had.swap_remove(at));
        let place = all.partition_point(|other| order(other, &one).is_lt());
        all.insert(place, one);
    }
}
