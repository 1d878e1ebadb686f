//! What a running HAProxy has of what can be changed while it runs, read from its runtime socket.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use interlock_core::bundle::{Bundle, CLOSED, Live, Occupant, Slot};
use interlock_core::model::{Shared, UpstreamAddr};

use super::certificates::{Presenting, Secrets, has_list};
use super::commands::escaped;
use super::haproxy::{Command, LiveError, Socket, Worker};
use super::shown::{self, Load, Server};

/// What the running worker has, as far as it was read.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) servers: BTreeMap<String, BTreeMap<String, Server>>,
    pub(super) maps: BTreeMap<String, Map>,
    pub(super) loads: BTreeMap<String, Load>,
    /// None: there is no list, or nothing of it was looked at.
    pub(super) certificates: Option<Presenting>,
}

/// One map of the worker; its id counts in the order of its configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Map {
    pub(super) id: String,
    pub(super) entries: Vec<(String, String)>,
}

impl Socket {
    /// Reads all servers, and the maps and certificates that a bundle has; without one all maps.
    pub(super) async fn state(&self, worker: &Worker, bundle: Option<&Bundle>) -> Result<State, LiveError> {
        let (listed, servers) = self.overview(worker, "show map;show servers state").await?;
        let mut state = State { servers, ..State::default() };
        for (name, id) in listed {
            if bundle.is_none_or(|bundle| bundle.live.maps.contains_key(&name)) {
                let entries = shown::map(&self.ask_worker(worker.pid, &format!("show map #{id}")).await?);
                state.maps.insert(name, Map { id, entries });
            }
        }
        if bundle.is_some_and(has_list) {
            state.certificates = Some(self.certificates(worker, None).await?);
        }
        Ok(state)
    }

    /// The maps' ids and the servers of one line.
    async fn overview(
        &self,
        worker: &Worker,
        line: &str,
    ) -> Result<(BTreeMap<String, String>, BTreeMap<String, BTreeMap<String, Server>>), LiveError> {
        let answer = self.ask_worker(worker.pid, line).await?;
        Ok((shown::map_list(&answer), shown::servers(&answer)))
    }

    /// The ids of a worker's maps.
    pub(super) async fn map_ids(&self, worker: &Worker) -> Result<MapIds, LiveError> {
        let ids = shown::map_list(&self.ask_worker(worker.pid, "show map").await?);
        Ok(MapIds { of: worker.pid, ids })
    }
}

/// How a worker numbers its maps: in the order of its configuration, for as long as it lives.
#[derive(Debug, Clone)]
pub(super) struct MapIds {
    /// The worker's process id.
    pub(super) of: u32,
    ids: BTreeMap<String, String>,
}

/// Questions about what a change touches, to be asked in one go: alone, or behind the commands that change it.
pub(super) struct Questions<'a> {
    pub(super) lines: Vec<Command>,
    /// What is looked up, in the order of the questions: map, its id, key.
    keys: Vec<(&'a str, &'a str, &'a str)>,
}

impl<'a> Questions<'a> {
    pub(super) fn about(
        ids: &'a MapIds,
        backends: &BTreeSet<&'a str>,
        entries: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    ) -> Self {
        let keys: Vec<(&str, &str, &str)> = entries
            .iter()
            .filter_map(|(name, keys)| Some((*name, ids.ids.get(*name)?.as_str(), keys)))
            .flat_map(|(name, id, keys)| keys.iter().map(move |key| (name, id, *key)))
            .collect();
        let lookups = keys.iter().map(|(_, id, key)| format!("get map #{id} {}", escaped(key)).into());
        let of_backend = |name: &&str| [format!("show servers state {name}").into(), load_of(name)];
        // Look-ups first: the tables that follow begin with a line that says what stands in them.
        let lines = lookups.chain(backends.iter().flat_map(of_backend)).collect();
        Self { lines, keys }
    }

    /// What the answers say.
    pub(super) fn answered(&self, answer: &str) -> Result<State, LiveError> {
        let (servers, loads) = (shown::servers(answer), shown::loads(answer));
        let mut state = State { servers, loads, ..State::default() };
        let found = shown::lookups(answer);
        if found.len() != self.keys.len() {
            return Err(LiveError::Socket(io::ErrorKind::InvalidData.into()));
        }
        for ((name, id, key), found) in self.keys.iter().copied().zip(found) {
            let map = state
                .maps
                .entry(name.to_owned())
                .or_insert_with(|| Map { id: id.to_owned(), entries: Vec::new() });
            // A look-up by prefix finds a shorter one where the key itself is not there.
            map.entries.extend(found.filter(|(there, _)| there == key));
        }
        Ok(state)
    }
}

/// Asks how busy a backend and its servers are.
pub(super) fn load_of(backend: &str) -> Command {
    format!("show stat {backend} 6 -1").into()
}

impl Server {
    pub(super) fn occupant(&self) -> Option<Occupant> {
        let address = self.upstream()?;
        (!self.in_maintenance()).then_some(Occupant { address, draining: self.drains() })
    }

    pub(super) fn upstream(&self) -> Option<UpstreamAddr> {
        self.address.and_then(|address| UpstreamAddr::try_from(address).ok())
    }

    /// Whose connections may be kept for it; its address is what the last ones were opened to.
    pub(super) fn left(&self) -> Option<UpstreamAddr> {
        self.upstream().filter(|address| self.in_maintenance() && !is_closed(address.get()))
    }

    fn slot(&self, name: interlock_core::model::ServerName) -> Slot {
        Slot { name, occupant: self.occupant(), left: self.left() }
    }
}

pub(super) fn is_closed(address: SocketAddr) -> bool {
    CLOSED.parse() == Ok(address)
}

impl State {
    pub(super) fn server(&self, backend: &str, slot: &Slot) -> Option<&Server> {
        self.servers.get(backend)?.get(slot.name.as_str())
    }

    /// The live part as the worker has it; what was not read counts as what it shall be, and so does a map that no
    /// line of its configuration looks up, and that therefore is not loaded.
    pub(super) fn live(&self, bundle: &Bundle, secrets: Secrets<'_>) -> Live {
        let mut live = bundle.live.clone();
        for backend in self.servers.keys() {
            let Some(slots) = live.servers.get_mut(backend) else { continue };
            for slot in slots.change() {
                let read = self.server(backend, slot).map(|server| server.slot(slot.name.clone()));
                *slot = read.unwrap_or(Slot { occupant: None, left: None, ..slot.clone() });
            }
        }
        for (name, map) in &self.maps {
            live.maps.insert(name.clone(), map.entries.iter().cloned().collect());
        }
        if let Some(certificates) = &self.certificates {
            live.certificates = certificates.presented(bundle, secrets);
        }
        live
    }

    /// All servers and maps that were read, where no bundle is known.
    pub(super) fn unknown(&self) -> Live {
        let slots = |servers: &BTreeMap<String, Server>| {
            let mut slots: Vec<Slot> =
                servers.iter().filter_map(|(name, server)| Some(server.slot(name.parse().ok()?))).collect();
            // `s2` before `s10`.
            slots.sort_by_key(|slot| (slot.name.as_str().len(), slot.name.clone()));
            Shared::from(slots)
        };
        let servers = self.servers.iter().map(|(name, servers)| (name.clone(), slots(servers))).collect();
        let maps = self.maps.iter().map(|(name, map)| (name.clone(), map.entries.iter().cloned().collect()));
        Live { servers, maps: maps.collect(), ..Live::default() }
    }
}
