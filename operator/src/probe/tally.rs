//! What became of the requests: counts without bound, and the first of what went wrong word for word.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use super::Spread;

/// Names of apps that are told apart; the names come from outside.
const NAMES: usize = 100;

/// Why a request has no good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Nobody listens there.
    Refused,
    /// The connection came about in no other way either.
    Unreachable,
    /// No TLS session: a certificate, or an end in the middle of the handshake.
    Tls,
    /// The connection was reset before the answer.
    Reset,
    /// The connection was closed before the answer.
    Closed,
    /// The answer broke off.
    Truncated,
    /// No whole answer in time.
    TimedOut,
    /// What came was not HTTP.
    Protocol,
    /// An answer with a status that does not count as good.
    Status(u16),
    /// It was never sent: more requests wait for a connection than this client holds.
    Overrun,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Closed => "closed before the answer",
            Self::Truncated => "answer broke off",
            Self::TimedOut => "timed out",
            Self::Protocol => "not HTTP",
            Self::Status(status) => return write!(f, "status {status}"),
            Self::Overrun => "not sent in time",
        })
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is worth being told about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No good answer.
    Lost(Cause),
    /// A good answer, late.
    Slow,
    /// An answer of somebody who must not serve this.
    Misrouted,
    /// Executed more than once.
    Twice,
    /// Acknowledged, but executed by nobody.
    Never,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(cause) => write!(f, "lost: {cause}"),
            Self::Slow => f.write_str("slow"),
            Self::Misrouted => f.write_str("misrouted"),
            Self::Twice => f.write_str("executed more than once"),
            Self::Never => f.write_str("acknowledged, executed by nobody"),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One request to which something happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it was due, after the beginning.
    pub after: Duration,
    /// The request's number.
    pub number: u64,
    /// Whether it was a POST.
    pub post: bool,
    /// Whether it went over a kept connection.
    pub kept: bool,
    /// From when it was due to when this was known.
    pub took: Duration,
    /// What happened.
    pub kind: Kind,
    /// In whose words.
    pub detail: String,
}

/// One request.
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) post: bool,
    pub(super) kept: bool,
    pub(super) due: Instant,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Longest {
    /// When it began, after the beginning.
    pub after: Duration,
    /// How long it was.
    pub lasted: Duration,
}

/// What became of the requests.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Requests made.
    pub sent: u64,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a good answer, by cause.
    pub lost: BTreeMap<Cause, u64>,
    /// Good answers that came late.
    pub slow: u64,
    /// Answers of somebody who must not serve this.
    pub misrouted: u64,
    /// Requests that were executed more than once.
    pub twice: u64,
    /// Requests that were acknowledged, and executed by nobody.
    pub never: u64,
    /// Good answers by the name in `X-Served-By`.
    pub served_by: BTreeMap<String, u64>,
    /// Ids of POST requests with a good answer, where they are kept.
    pub acknowledged: BTreeSet<String>,
    /// Time to the whole answer, from when the request was due.
    pub took: Spread,
    /// The longest time without a good answer.
    pub gap: Longest,
    /// The first of what happened.
    pub events: Vec<Event>,
    /// What happened beyond those.
    pub unlisted: u64,
    /// When it all began, by the clock on the wall.
    pub began: SystemTime,
    begin: Instant,
    last_good: Instant,
    ended: Option<Instant>,
    most: usize,
}

impl Tally {
    pub(super) fn new(begin: Instant, most: usize) -> Self {
        Self {
            sent: 0,
            statuses: BTreeMap::new(),
            lost: BTreeMap::new(),
            slow: 0,
            misrouted: 0,
            twice: 0,
            never: 0,
            served_by: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            took: Spread::default(),
            gap: Longest::default(),
            events: Vec::new(),
            unlisted: 0,
            began: SystemTime::now(),
            begin,
            last_good: begin,
            ended: None,
            most,
        }
    }

    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    pub(super) fn answered(&mut self, status: u16, took: Duration, good: bool) {
        *self.statuses.entry(status).or_default() += 1;
        if good {
            self.took.add(took);
            self.good();
        }
    }

    /// A good answer, or the end, ends a gap.
    fn good(&mut self) {
        let now = Instant::now();
        let lasted = now - self.last_good;
        if lasted > self.gap.lasted {
            self.gap = Longest { after: self.last_good - self.begin, lasted };
        }
        self.last_good = now;
    }

    pub(super) fn end(&mut self) {
        self.good();
        self.ended = Some(self.last_good);
    }

    pub(super) fn lost(&mut self, request: &Request, cause: Cause, detail: String) {
        self.event(request, Kind::Lost(cause), detail);
    }

    pub(super) fn event(&mut self, request: &Request, kind: Kind, detail: String) {
        match kind {
            Kind::Lost(cause) => *self.lost.entry(cause).or_default() += 1,
            Kind::Slow => self.slow += 1,
            Kind::Misrouted => self.misrouted += 1,
            Kind::Twice => self.twice += 1,
            Kind::Never => self.never += 1,
        }
        if self.events.len() >= self.most {
            self.unlisted += 1;
            return;
        }
        self.events.push(Event {
            after: request.due - self.begin,
            number: request.number,
            post: request.post,
            kept: request.kept,
            took: request.due.elapsed(),
            kind,
            detail,
        });
    }

    pub(super) fn by(&mut self, name: &str) {
        if let Some(count) = self.served_by.get_mut(name) {
            *count += 1;
        } else if self.served_by.len() < NAMES {
            self.served_by.insert(name.to_owned(), 1);
        }
    }

    /// Compares what was acknowledged with what the apps say they executed, one id for each time.
    pub fn compare<'a>(&mut self, executed: impl IntoIterator<Item = &'a str>) {
        // Only this run's own ids count.
        let run = |id: &str| id.rsplit_once('-').map(|(run, _)| run.to_owned());
        let own: BTreeSet<_> = self.acknowledged.iter().filter_map(|id| run(id)).collect();
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for id in executed {
            if run(id).is_some_and(|run| own.contains(&run)) {
                *times.entry(id).or_default() += 1;
            }
        }
        let twice = times.iter().filter(|(_, times)| **times > 1);
        let mut found: Vec<_> =
            twice.map(|(id, times)| ((*id).to_owned(), Kind::Twice, format!("{times} times"))).collect();
        let never = self.acknowledged.iter().filter(|id| !times.contains_key(id.as_str()));
        found.extend(never.map(|id| (id.clone(), Kind::Never, String::new())));
        for (id, kind, detail) in found {
            let number = id.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or_default();
            let request = Request { number, post: true, kept: false, due: self.begin };
            self.event(&request, kind, format!("{id} {detail}").trim_end().to_owned());
        }
    }

    /// Requests without a good answer.
    pub fn lost_in_all(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Good answers.
    pub const fn good_answers(&self) -> u64 {
        self.took.len()
    }

    /// Whether nothing was lost, sent astray or executed twice. Slow answers are answers.
    pub fn clean(&self) -> bool {
        self.sent > 0 && self.lost_in_all() + self.misrouted + self.twice + self.never == 0
    }

    /// From the first request to the end of the last.
    pub fn lasted(&self) -> Duration {
        self.ended.map_or_else(|| self.begin.elapsed(), |ended| ended - self.begin)
    }
}
