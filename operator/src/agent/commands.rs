//! The fewest commands that lead a running HAProxy from what it has to what it shall have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use interlock_core::bundle::{Bundle, CLOSED, Occupant, SEATS, SPARE, ServerLines, Slot, map_rank};

use super::certificates::Changes;
use super::haproxy::{Command, LiveError};
use super::live::{Goal, Remembered, Scope};
use super::shown::{Load, Server};
use super::state::{Map, State, is_closed};

/// Commands, and what they are for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    /// In the order to send them.
    pub(super) lines: Vec<Command>,
    /// Servers that are touched.
    pub(super) servers: u32,
    /// Map entries that are touched.
    pub(super) entries: u32,
    /// Certificates that are touched.
    pub(super) certificates: u32,
    /// Sent behind the others, and nothing that anybody asked for.
    pub(super) tidying: Vec<Command>,
}

impl Commands {
    pub(super) fn add(&mut self, more: Self) {
        self.lines.extend(more.lines);
        self.servers += more.servers;
        self.entries += more.entries;
        self.certificates += more.certificates;
    }
}

/// The weight of a server that takes requests: what its parameters say, or HAProxy's 1.
fn weight_of(lines: Option<&ServerLines>) -> u32 {
    let mut words = lines.map_or("", |lines| lines.parameters.as_str()).split_whitespace();
    words
        .find(|word| *word == "weight")
        .and_then(|_| words.next())
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// The spares that routes lead into by a bundle and did not before it.
fn taken<'a>(bundle: &'a Bundle, before: Option<&Bundle>, state: &State) -> BTreeSet<&'a str> {
    let had = |label: &str, seat: &str| {
        let before = before.and_then(|before| before.live.maps.get(SEATS));
        before.and_then(|map| map.get(label)).is_some_and(|there| there == seat)
            || state
                .maps
                .get(SEATS)
                .is_some_and(|map| map.entries.iter().any(|(there, value)| there == label && value == seat))
    };
    let wanted = bundle.live.maps.get(SEATS).into_iter().flat_map(|seats| seats.iter());
    wanted
        .filter(|(label, seat)| seat.starts_with(SPARE) && !had(label, seat))
        .map(|(_, seat)| seat.as_str())
        .collect()
}

/// Whether a route of the bundle leads into a backend.
pub(super) fn is_seated(bundle: &Bundle, backend: &str) -> bool {
    bundle.live.maps.get(SEATS).is_some_and(|map| map.values().any(|seat| seat == backend))
}

impl State {
    /// Backends whose connections decide what may be done with them.
    pub(super) fn in_question<'a>(
        &'a self,
        bundle: &'a Bundle,
        before: Option<&Bundle>,
    ) -> BTreeSet<&'a str> {
        let mut backends = taken(bundle, before, self);
        for (backend, slots) in &bundle.live.servers {
            let moves = |slot: &Slot| {
                let has = self.server(backend, slot).and_then(Server::upstream);
                has.is_some_and(|has| {
                    !is_closed(has.get()) && slot.occupant.is_none_or(|occupant| occupant.address != has)
                })
            };
            if slots.iter().any(moves) {
                backends.insert(backend);
            }
        }
        backends
    }

    /// Whether no request can reach whoever a server led to before, once it has another address: that alone
    /// drops the connections that wait in its pool, but neither those in use nor those that are tied to a client.
    fn is_let_go(&self, backend: &str, server: &str) -> bool {
        self.loads.get(backend).is_some_and(|load| load.is_let_go(server))
    }

    /// The fewest commands from here to a bundle's live part.
    ///
    /// Certificates and servers that come, then the entries that lead there, the one nearest to the client last;
    /// then the entries that shall go, the nearest first, and the servers and certificates that leave. So each
    /// request sees the old or the new way, and each way leads somewhere: no transaction is needed.
    pub(super) fn commands(&self, goal: &Goal<'_>) -> Result<Commands, LiveError> {
        let Goal { bundle, before, scope, .. } = goal;
        for seat in taken(bundle, *before, self) {
            if scope.has(seat) && !self.loads.get(seat).is_some_and(Load::is_at_rest) {
                return Err(LiveError::NotAtRest(seat.to_owned()));
            }
        }
        let mut commands = Commands::default();
        let (mut coming, mut leaving) = (Vec::new(), Vec::new());
        let lines = bundle.fragments.iter().filter_map(|fragment| fragment.servers.as_ref());
        let weights: BTreeMap<&str, u32> =
            lines.map(|lines| (lines.backend.as_str(), weight_of(Some(lines)))).collect();
        for (backend, slots) in bundle.live.servers.iter().filter(|(name, _)| scope.has(name)) {
            let weight = weights.get(backend.as_str()).copied().unwrap_or(1);
            for slot in slots {
                let path = format!("{backend}/{}", slot.name);
                let has =
                    self.server(backend, slot).ok_or_else(|| LiveError::Lacks(format!("server {path}")))?;
                let lines = server_commands(&path, has, slot.occupant, weight);
                let moves = slot.occupant.is_some_and(|occupant| has.address != Some(occupant.address.get()));
                if moves
                    && !has.address.is_some_and(is_closed)
                    && !self.is_let_go(backend, slot.name.as_str())
                {
                    return Err(LiveError::NotAtRest(path));
                }
                commands.servers += u32::from(!lines.is_empty());
                let leaves = slot.occupant.is_none_or(|occupant| occupant.draining);
                let list = if leaves { &mut leaving } else { &mut coming };
                list.extend(lines.into_iter().map(Command::from));
            }
        }
        let certificates = match &self.certificates {
            Some(presenting) => presenting.changes(bundle, goal.secrets, goal.renew)?,
            None => Changes::default(),
        };
        commands.certificates = certificates.touched;
        commands.lines.extend(certificates.come);
        commands.lines.append(&mut coming);
        let mut going = Vec::new();
        let mut maps: Vec<_> = bundle.live.maps.iter().collect();
        maps.sort_by_key(|(name, _)| map_rank(name));
        for (name, wanted) in maps {
            // A map that no line looks up is not loaded; nothing can differ then.
            let Some(map) = self.maps.get(name) else { continue };
            let keys = match scope {
                Scope::All => None,
                Scope::Touched { entries, .. } => entries.get(name.as_str()),
            };
            let (come, go) = map_commands(map, wanted, keys);
            commands.entries += u32::try_from(come.len() + go.len()).unwrap_or(u32::MAX);
            commands.lines.extend(come.into_iter().flatten().map(Command::from));
            going.push(go);
        }
        commands.lines.extend(going.into_iter().rev().flatten().map(Command::from));
        commands.lines.append(&mut leaving);
        commands.lines.extend(certificates.go);
        Ok(commands)
    }

    /// Gives back the closed address to free slots that nobody has a connection for any more: then they count as
    /// never used. A spare rests before that.
    pub(super) fn tidying(&self, bundle: &Bundle, remembered: &Remembered) -> Vec<Command> {
        let rest = Duration::from_millis(bundle.rest_ms);
        let mut lines = Vec::new();
        for (backend, slots) in &bundle.live.servers {
            let load = self.loads.get(backend);
            let spare = backend.starts_with(SPARE) && !is_seated(bundle, backend);
            if spare && !(load.is_some_and(Load::is_at_rest) && remembered.is_over(backend, rest)) {
                continue;
            }
            for slot in slots.iter().filter(|slot| slot.occupant.is_none()) {
                let left = self.server(backend, slot).and_then(Server::left);
                if left.is_some() && self.is_let_go(backend, slot.name.as_str()) {
                    let path = format!("{backend}/{}", slot.name);
                    lines.push(address_command(&path, CLOSED.parse().ok()).into());
                }
            }
        }
        lines
    }
}

fn address_command(path: &str, address: Option<SocketAddr>) -> String {
    let part =
        |address: SocketAddr| format!("set server {path} addr {} port {}", address.ip(), address.port());
    address.map(part).unwrap_or_default()
}

/// A server that takes requests gets a new address as it is: maintenance in between would answer 503 where it
/// is the only one, and would drop the requests that are held for it.
fn server_commands(path: &str, has: &Server, wanted: Option<Occupant>, weight: u32) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(Occupant { address, draining }) = wanted else {
        if !has.in_maintenance() {
            lines.push(format!("set server {path} state maint"));
        }
        return lines;
    };
    let address = address.get();
    if has.address != Some(address) {
        lines.push(address_command(path, Some(address)));
    }
    if draining {
        if has.in_maintenance() || !has.drains() {
            lines.push(format!("set server {path} state drain"));
        }
        return lines;
    }
    // Not `100%`: a server that was booted draining has an initial weight of 0, and 100 % of it is 0.
    if has.weight != weight {
        lines.push(format!("set server {path} weight {weight}"));
    }
    if has.is_forced() {
        lines.push(format!("set server {path} state ready"));
    }
    lines
}

/// The commands for entries that come or change, one list for each, and for those that go. Only these keys are
/// looked at, or all.
fn map_commands(
    map: &Map,
    wanted: &BTreeMap<String, String>,
    keys: Option<&BTreeSet<&str>>,
) -> (Vec<Vec<String>>, Vec<String>) {
    let id = &map.id;
    let mut has: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in &map.entries {
        has.entry(key).or_default().push(value);
    }
    let (mut come, mut go) = (Vec::new(), Vec::new());
    let looked_at: Vec<&str> = match keys {
        Some(keys) => keys.iter().copied().collect(),
        None => wanted
            .keys()
            .map(String::as_str)
            .chain(has.keys().copied())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    };
    for key in looked_at {
        let k = escaped(key);
        match (wanted.get(key).map(|value| (value, escaped(value))), has.get(key).map(Vec::as_slice)) {
            (Some((value, _)), Some([there])) if there == value => {}
            (Some((_, v)), None) => come.push(vec![format!("add map #{id} {k} {v}")]),
            (Some((_, v)), Some([_])) => come.push(vec![format!("set map #{id} {k} {v}")]),
            // Somebody added the key twice: `set` would change only what is looked up first.
            (Some((_, v)), Some(_)) => {
                come.push(vec![format!("del map #{id} {k}"), format!("add map #{id} {k} {v}")]);
            }
            (None, Some(_)) => go.push(format!("del map #{id} {k}")),
            (None, None) => {}
        }
    }
    (come, go)
}

/// The command line's own quoting.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ' ' | ';' | '\\') {
            out.push('\\');
        }
        let _ = write!(out, "{c}");
    }
    out
}
