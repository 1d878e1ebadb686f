//! Driving a running HAProxy to a bundle's live part: read, send the fewest commands, read again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use interlock_core::bundle::{Bundle, Live, SEATS, SPARE, Slot};
use interlock_core::model::Digest;
use interlock_core::separation::{differing, differing_by};

use super::certificates::{self, Secrets, default_of};
use super::commands::{Commands, is_seated};
use super::haproxy::{LiveError, Socket, Worker};
use super::shown;
use super::state::{MapIds, Questions, State, load_of};

/// Rounds of commands and read-back before the runtime socket is given up for a reload.
const TRIES: u32 = 4;
/// How long an old worker may still take connections after a new one has answered.
const HANDOVER: Duration = Duration::from_secs(2);
/// Between two looks at connections that may be about to end.
const LOOK: Duration = Duration::from_millis(5);
/// A change that touches more than this is read back by reading everything.
const FEW: usize = 200;

/// What the agent itself remembers of a worker: when its spares were emptied, and how it numbers its maps.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    resting: BTreeMap<String, Instant>,
    maps: Option<MapIds>,
    /// Who has just answered, and need not be asked again. If it is another one by now, that shows.
    pub(super) answered: Option<Worker>,
}

/// What a round of reading and commands came to.
enum Round {
    /// The worker has what it shall have.
    There(State),
    /// Something was sent.
    Sent(Commands),
}

/// What a worker is led to.
pub(super) struct Goal<'a> {
    pub(super) bundle: &'a Bundle,
    /// What was applied last, if it has the same static digest.
    pub(super) before: Option<&'a Bundle>,
    pub(super) scope: Scope<'a>,
    /// Where the contents of certificates lie.
    pub(super) secrets: Secrets<'a>,
    /// Whether the default certificate is another one than before, even if it looks the same.
    pub(super) renew: bool,
}

/// How much of a bundle is compared with the worker.
#[derive(Debug)]
pub(super) enum Scope<'a> {
    All,
    /// What differs from the bundle before.
    Touched {
        backends: BTreeSet<&'a str>,
        entries: BTreeMap<&'a str, BTreeSet<&'a str>>,
        certificates: BTreeSet<&'a str>,
    },
}

impl<'a> Scope<'a> {
    /// Sound only if the worker has all of `before`.
    fn between(before: &'a Bundle, bundle: &'a Bundle) -> Self {
        let seated = |a: &[Slot], b: &[Slot]| {
            a.iter().map(|slot| slot.occupant).eq(b.iter().map(|slot| slot.occupant))
        };
        let reseated = differing_by(&before.live.servers, &bundle.live.servers, |a, b| seated(a, b));
        let mut backends: BTreeSet<&str> = reseated.into_iter().map(String::as_str).collect();
        let mut entries: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, map) in &bundle.live.maps {
            let Some(old) = before.live.maps.get(name) else { return Self::All };
            let keys: BTreeSet<&str> = differing(old, map).into_iter().map(String::as_str).collect();
            if name == SEATS {
                let seats = keys.iter().map(|key| map.get(*key).or_else(|| old.get(*key)));
                backends.extend(seats.flatten().map(String::as_str));
            }
            if !keys.is_empty() {
                entries.insert(name, keys);
            }
        }
        backends.retain(|name| bundle.live.servers.contains_key(*name));
        let certificates = certificates::differing(before, bundle);
        let number = backends.len() + entries.values().map(BTreeSet::len).sum::<usize>() + certificates.len();
        if number > FEW {
            return Self::All;
        }
        Self::Touched { backends, entries, certificates }
    }

    pub(super) fn has(&self, backend: &str) -> bool {
        match self {
            Self::All => true,
            Self::Touched { backends, .. } => backends.contains(backend),
        }
    }
}

impl Socket {
    /// Drives a worker to a bundle's live part and reads it back; counts what had to be done.
    ///
    /// `before` is what was applied last, if it has the same static digest. Only what differs from it is looked
    /// at, unless `whole` asks for everything.
    pub(super) async fn drive(
        &self,
        bundle: &Bundle,
        before: Option<&Bundle>,
        whole: bool,
        secrets: Secrets<'_>,
        remembered: &mut Remembered,
        done: &mut Commands,
    ) -> Result<Live, LiveError> {
        let scope = match before {
            Some(before) if !whole => Scope::between(before, bundle),
            _ => Scope::All,
        };
        let renew = before.is_some_and(|before| default_of(before) != default_of(bundle));
        let mut goal = Goal { bundle, before, scope, secrets, renew };
        let deadline = Instant::now() + HANDOVER;
        let mut tries = 0;
        while tries < TRIES {
            tries += 1;
            let worker = match remembered.answered.take() {
                Some(worker) => worker,
                None => self.worker_of(&bundle.static_digest).await?,
            };
            match self.round(&worker, &goal, remembered, done).await {
                Ok(Round::There(state)) => {
                    remembered.note(&state, bundle);
                    let all = matches!(goal.scope, Scope::All);
                    // Of maps that were looked into here and there, only their differences would be known.
                    let maps = if all { state.maps } else { BTreeMap::new() };
                    return Ok(State { maps, ..state }.live(bundle, secrets));
                }
                Ok(Round::Sent(commands)) => {
                    goal.renew = false;
                    done.add(commands);
                }
                // An old worker has taken the connection, and what it was told goes with it.
                Err(LiveError::OtherWorker) if Instant::now() < deadline => {
                    tries -= 1;
                    tokio::time::sleep(LOOK).await;
                }
                // A request may be about to end.
                Err(LiveError::NotAtRest(_)) => tokio::time::sleep(LOOK).await,
                Err(err) => return Err(err),
            }
        }
        Err(LiveError::NotHeld)
    }

    /// The worker that runs a configuration. It shares its socket with the one before until that has heard that it
    /// shall stop, which on a busy machine may be a moment after the new one's first answer.
    async fn worker_of(&self, digest: &Digest) -> Result<Worker, LiveError> {
        let deadline = Instant::now() + HANDOVER;
        loop {
            let worker = self.worker().await;
            if let Some(worker) = worker.as_ref().filter(|worker| worker.digest.as_ref() == Some(digest)) {
                return Ok(worker.clone());
            }
            if Instant::now() > deadline {
                return Err(match worker {
                    Some(_) => LiveError::OtherWorker,
                    None => LiveError::Socket(io::ErrorKind::NotConnected.into()),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn round(
        &self,
        worker: &Worker,
        goal: &Goal<'_>,
        remembered: &mut Remembered,
        done: &mut Commands,
    ) -> Result<Round, LiveError> {
        let bundle = goal.bundle;
        let state = match &goal.scope {
            Scope::Touched { backends, entries, certificates } => {
                let ids = self.ids(worker, &mut remembered.maps).await?;
                let questions = Questions::about(ids, backends, entries);
                if certificates.is_empty() {
                    return self.few(worker, goal, &questions, done).await;
                }
                let mut state = questions.answered(&self.ask_all(worker, &questions.lines).await?)?;
                state.certificates = Some(self.certificates(worker, Some(certificates)).await?);
                state
            }
            Scope::All => {
                let mut state = self.state(worker, Some(bundle)).await?;
                let asked: Vec<_> = state.in_question(bundle, goal.before).into_iter().map(load_of).collect();
                state.loads = shown::loads(&self.ask_all(worker, &asked).await?);
                state
            }
        };
        let mut commands = state.commands(goal)?;
        if matches!(goal.scope, Scope::All) {
            commands.tidying = state.tidying(bundle, remembered);
        }
        if commands.lines.is_empty() && commands.tidying.is_empty() {
            return Ok(Round::There(state));
        }
        self.ask_all(worker, &commands.lines).await?;
        self.ask_all(worker, &commands.tidying).await?;
        Ok(Round::Sent(commands))
    }

    /// A round about a few servers and entries: one line to read, and one that changes and reads again.
    async fn few(
        &self,
        worker: &Worker,
        goal: &Goal<'_>,
        questions: &Questions<'_>,
        done: &mut Commands,
    ) -> Result<Round, LiveError> {
        let state = questions.answered(&self.ask_all(worker, &questions.lines).await?)?;
        let commands = state.commands(goal)?;
        if commands.lines.is_empty() {
            return Ok(Round::There(state));
        }
        let lines: Vec<_> = commands.lines.iter().chain(&questions.lines).cloned().collect();
        let after = questions.answered(&self.ask_all(worker, &lines).await?)?;
        if after.commands(goal)?.lines.is_empty() {
            done.add(commands);
            return Ok(Round::There(after));
        }
        Ok(Round::Sent(commands))
    }

    async fn ids<'a>(&self, worker: &Worker, known: &'a mut Option<MapIds>) -> Result<&'a MapIds, LiveError> {
        if known.as_ref().is_none_or(|ids| ids.of != worker.pid) {
            *known = None;
        }
        Ok(match known {
            Some(ids) => ids,
            None => known.insert(self.map_ids(worker).await?),
        })
    }
}

impl Remembered {
    /// Notes which spares are empty now and were not before.
    fn note(&mut self, state: &State, bundle: &Bundle) {
        for (name, servers) in state.servers.iter().filter(|(name, _)| name.starts_with(SPARE)) {
            if !is_seated(bundle, name) && servers.values().any(|server| server.left().is_some()) {
                self.resting.entry(name.clone()).or_insert_with(Instant::now);
            } else {
                self.resting.remove(name);
            }
        }
    }

    pub(super) fn is_over(&self, spare: &str, rest: Duration) -> bool {
        self.resting.get(spare).is_some_and(|since| since.elapsed() >= rest)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// A runtime socket on which these process ids answer one after the other, each with its digest.
    fn answered_by(path: &Path, workers: Vec<(u32, Digest)>) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            for (pid, digest) in workers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut line = [0; 64];
                let _ = stream.read(&mut line).await.unwrap();
                let info = format!("Pid: {pid}\nDescription: interlock {digest}\n\n");
                stream.write_all(info.as_bytes()).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn an_old_worker_that_still_answers_after_the_new_one_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("haproxy.sock");
        let [old, new] = [b"old", b"new"].map(|text| Digest::of([text.as_slice()]));
        answered_by(&path, vec![(1, old.clone()), (1, old), (2, new.clone())]);
        let config = format!("    stats socket {}\n", path.display());
        let socket = Socket::of(&config, dir.path()).unwrap();
        let worker = socket.worker_of(&new).await.unwrap();
        assert_eq!(worker, Worker { pid: 2, digest: Some(new) });
    }
}
