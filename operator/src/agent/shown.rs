//! What HAProxy's `show` and `get` commands answer, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// In maintenance by command or by configuration.
const FORCED_MAINTENANCE: u32 = 0x01;
/// Draining by command.
const FORCED_DRAIN: u32 = 0x08;

/// One server as `show servers state` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: Option<SocketAddr>,
    admin: u32,
    pub(super) weight: u32,
}

impl Server {
    pub(super) fn in_maintenance(&self) -> bool {
        self.admin & FORCED_MAINTENANCE != 0
    }

    pub(super) fn drains(&self) -> bool {
        self.admin & FORCED_DRAIN != 0 || self.weight == 0
    }

    pub(super) fn is_forced(&self) -> bool {
        self.admin & (FORCED_MAINTENANCE | FORCED_DRAIN) != 0
    }
}

/// How busy a backend is, as `show stat` reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Load {
    streams: u64,
    queued: u64,
    /// Connections to its servers, of every kind; none: this version does not say.
    open: Option<u64>,
    servers: BTreeMap<String, Kept>,
}

/// Connections that one server knows of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kept {
    used: u64,
    idle: u64,
}

impl Load {
    /// Whether nobody waits or is served here, and no connection is kept.
    pub(super) fn is_at_rest(&self) -> bool {
        self.streams == 0 && self.queued == 0 && self.open == Some(0)
    }

    /// Whether one server has no connection but those in its pool. Those that are tied to one client (after a
    /// `401` with `Negotiate`, for example) no server counts: they are what is open and nobody's.
    pub(super) fn is_let_go(&self, server: &str) -> bool {
        let known: u64 = self.servers.values().map(|kept| kept.used + kept.idle).sum();
        let tied = self.open.map(|open| open.saturating_sub(known));
        tied == Some(0) && self.servers.get(server).is_some_and(|kept| kept.used == 0)
    }
}

/// Columns by name, because versions add some; the format's version stands on a line of its own.
pub(super) fn servers(text: &str) -> BTreeMap<String, BTreeMap<String, Server>> {
    let mut servers: BTreeMap<String, BTreeMap<String, Server>> = BTreeMap::new();
    let mut columns: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(names) = line.strip_prefix("# ") {
            columns = names.split(' ').collect();
            continue;
        }
        let fields: Vec<&str> = line.split(' ').collect();
        let field = |name: &str| {
            let at = columns.iter().position(|column| *column == name)?;
            fields.get(at).copied()
        };
        let (Some(backend), Some(name)) = (field("be_name"), field("srv_name")) else { continue };
        let number = |name: &str| field(name).and_then(|text| text.parse().ok());
        let ip: Option<IpAddr> = field("srv_addr").and_then(|text| text.parse().ok());
        let port: Option<u16> = field("srv_port").and_then(|text| text.parse().ok());
        let server = Server {
            address: ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port)),
            admin: number("srv_admin_state").unwrap_or(0),
            weight: number("srv_uweight").unwrap_or(0),
        };
        servers.entry(backend.to_owned()).or_default().insert(name.to_owned(), server);
    }
    servers
}

/// The rows of `show stat`, by backend.
pub(super) fn loads(text: &str) -> BTreeMap<String, Load> {
    let mut loads: BTreeMap<String, Load> = BTreeMap::new();
    let mut columns: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(names) = line.strip_prefix("# pxname,") {
            columns = std::iter::once("pxname").chain(names.split(',')).map(str::to_owned).collect();
            continue;
        }
        if columns.is_empty() || !line.contains(',') {
            continue;
        }
        let fields = fields(line);
        let field = |name: &str| {
            let at = columns.iter().position(|column| column == name)?;
            fields.get(at).map(String::as_str)
        };
        let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
        let (Some(backend), Some(row)) = (field("pxname"), field("svname")) else { continue };
        let load = loads.entry(backend.to_owned()).or_default();
        if row == "BACKEND" {
            load.streams = number("scur").unwrap_or(u64::MAX);
            load.queued = number("qcur").unwrap_or(u64::MAX);
            let (h1, h2) = (number("h1_open_connections"), number("h2_open_connections"));
            load.open = h1.zip(h2).map(|(h1, h2)| h1 + h2);
        } else {
            let sum = |names: &[&str]| names.iter().filter_map(|name| number(name)).sum();
            let kept = Kept { used: sum(&["used_conn_cur"]), idle: sum(&["idle_conn_cur", "safe_conn_cur"]) };
            load.servers.insert(row.to_owned(), kept);
        }
    }
    loads
}

/// The fields of a line of comma-separated values; one in quotes may hold commas.
fn fields(line: &str) -> Vec<String> {
    let mut quoted = false;
    let mut fields = vec![String::new()];
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("there is always one").push(c),
        }
    }
    fields
}

/// `ID (PATH) pattern loaded from file …`: base name to id; a worker's maps keep the paths of the generation
/// that it was loaded from.
pub(super) fn map_list(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (id, rest) = line.split_once(" (")?;
            let (path, _) = rest.split_once(')')?;
            let name = Path::new(path).file_name()?.to_str()?;
            id.bytes().all(|b| b.is_ascii_digit()).then(|| (name.to_owned(), id.to_owned()))
        })
        .collect()
}

/// One line of a list of certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListLine {
    pub(super) path: String,
    pub(super) number: String,
    /// Names that it answers for.
    pub(super) names: BTreeSet<String>,
    /// Whether it answers for no name of its own, only where nothing else fits.
    pub(super) is_default: bool,
}

/// The lines of `show ssl crt-list -n`: `PATH:NUMBER NAME…`, under a line with the list's own path. Options stand in
/// brackets before the names.
pub(super) fn list_lines(text: &str) -> Vec<ListLine> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (place, names) = line.split_once(' ').unwrap_or((line, ""));
            let (path, number) = place.rsplit_once(':')?;
            let names = names.rsplit_once(']').map_or(names, |(_, names)| names).split_whitespace();
            let (not, names): (Vec<&str>, Vec<&str>) = names.partition(|name| name.starts_with('!'));
            Some(ListLine {
                path: path.to_owned(),
                number: number.to_owned(),
                names: names.into_iter().map(str::to_owned).collect(),
                is_default: not.contains(&"!*"),
            })
        })
        .collect()
}

/// `show ssl cert`: whose content somebody has begun to replace, marked by `*`, and everything that is loaded.
pub(super) fn loaded(text: &str) -> (Option<String>, Vec<String>) {
    let paths = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let begun = paths().find_map(|line| line.strip_prefix('*'));
    (begun.map(str::to_owned), paths().filter(|line| !line.starts_with('*')).map(str::to_owned).collect())
}

/// The answers of `show ssl cert PATH`, one after the other: path to fingerprint; empty: it holds nothing yet.
pub(super) fn fingerprints(text: &str) -> BTreeMap<String, String> {
    let mut prints: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("Filename: ") {
            path.clone_into(&mut last);
            prints.insert(last.clone(), String::new());
        } else if let Some(print) = line.strip_prefix("SHA1 FingerPrint: ") {
            prints.insert(last.clone(), print.trim().to_owned());
        }
    }
    prints
}

/// `POINTER KEY VALUE` lines.
pub(super) fn map(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (_, entry) = line.split_once(' ')?;
            let (key, value) = entry.split_once(' ').unwrap_or((entry, ""));
            Some((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The answers of `get map`, one after the other: `type=…, found=yes, …, key="KEY", value="VALUE", type="str"`, or
/// none.
pub(super) fn lookups(text: &str) -> Vec<Option<(String, String)>> {
    text.lines()
        .filter(|line| line.starts_with("type="))
        .map(|line| {
            let (_, entry) = line.split_once(", key=\"")?;
            let (key, rest) = entry.split_once("\", value=\"")?;
            let (value, _) = rest.rsplit_once("\", type=\"")?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect()
}
