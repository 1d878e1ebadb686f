//! The objects that were applied: what may be written over what, what each write made, and who is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interlock_core::declared::Declared;
use interlock_core::model::Shared;
use interlock_crds::schema::Kind;
use interlock_crds::{Metadata, Status};
use tokio::sync::{broadcast, watch};

use super::history::Revision;
use super::object::{Batch, Change, Content, Key, Spec, Stored};
use super::rendered::{Rendered, Shelf};
use super::{Backend, Directory, StoreError};

/// The label that says whose an object is, so that its owner alone may prune it.
pub const OWNER: &str = "interlock.dev/owner";
/// The annotation that says where an object comes from that was not applied.
pub const ORIGIN: &str = "interlock.dev/origin";
/// From the configuration, which goes before what is applied.
pub const CONFIGURATION: &str = "configuration";
/// From nobody: what is applied takes its place.
pub const IMPLICIT: &str = "default";
/// The annotation that names the generation that was brought back, for as long as it is held.
pub const HELD: &str = "interlock.dev/held";
/// So many writes a watcher may have missed.
const RECENT: usize = 4096;
/// So many batches a slow watcher may be behind.
const BEHIND: usize = 1024;
/// More objects than that are refused: what is not bounded ends a machine.
const MOST: usize = 20_000;

/// The objects, shared by everybody who reads or writes them.
#[derive(Debug, Clone)]
pub struct Objects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    feed: broadcast::Sender<Arc<Vec<News>>>,
    declared: watch::Sender<Shared<Declared>>,
    revision: watch::Sender<u64>,
    shelf: Mutex<Shelf>,
}

#[derive(Debug)]
struct State {
    /// Whether a proxy serves what was applied and is not here any more.
    lost: bool,
    content: Content,
    /// Those of the configuration, which nobody can write here, and those that nobody has written at all.
    fixed: BTreeMap<Key, Arc<Stored>>,
    statuses: BTreeMap<Key, Arc<Status>>,
    /// The last writes, oldest first.
    recent: VecDeque<News>,
    /// The write before the oldest of them.
    floor: u64,
    /// None: this operator only looks.
    backend: Option<Box<dyn Backend>>,
}

/// An object and what is true of it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The object.
    pub stored: Arc<Stored>,
    /// What is true of it, as far as that is known.
    pub status: Option<Arc<Status>>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It came.
    Added,
    /// It, or what is true of it, changed.
    Modified,
    /// It went.
    Deleted,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct News {
    /// The write that did it; a change of status has that of the object.
    pub revision: u64,
    /// What.
    pub happened: Happened,
    /// To whom.
    pub seen: Seen,
}

/// What a watcher gets: what there is or was missed, and what follows.
#[derive(Debug)]
pub struct Feed {
    /// First these.
    pub first: Vec<News>,
    /// The last write in them.
    pub revision: u64,
    /// Then those.
    pub then: broadcast::Receiver<Arc<Vec<News>>>,
}

/// The writes since then are not known any more: list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

/// One object to be written.
#[derive(Debug, Clone)]
pub struct Put {
    /// Which.
    pub key: Key,
    /// Its labels and annotations; its `resourceVersion` says which write may be replaced.
    pub metadata: Metadata,
    /// What it wants.
    pub spec: Spec,
    /// Whether it must not be there yet.
    pub new: bool,
    /// The generation that it brings back, and that is held from now on; none: whatever was held is not any more.
    pub held: Option<u64>,
}

/// What a writer asks for, all or nothing.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Objects to be there.
    pub put: Vec<Put>,
    /// Objects to be gone, and the write that each must be as of.
    pub delete: Vec<(Key, Option<u64>)>,
    /// Whose the objects become.
    pub owner: Option<String>,
    /// What becomes of objects that are not named.
    pub others: Others,
    /// Whether it is only asked what would happen.
    pub dry_run: bool,
    /// When, as RFC 3339 has it.
    pub at: String,
}

/// What became of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It came.
    Created,
    /// It changed.
    Configured,
    /// It was so already.
    Unchanged,
    /// It went.
    Deleted,
}

/// What becomes of objects that a writer does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Others {
    /// They stay.
    #[default]
    Stay,
    /// Those of the owner go.
    OwnersGo,
    /// All go: what is named is restored. It is refused where there are some, unless they may be replaced.
    AllGo {
        /// Whether they may.
        replace: bool,
    },
}

/// What was done, object by object.
#[derive(Debug, Clone)]
pub struct Done {
    /// What.
    pub outcome: Outcome,
    /// To whom; what went is as it was.
    pub stored: Arc<Stored>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such object.
    #[error("there is no `{0}`")]
    NotFound(Key),
    /// There is nothing to go back to.
    #[error("generation {asked} of `{key}` is not remembered")]
    Forgotten {
        /// Of which object.
        key: Key,
        /// Which generation, or `before the present one`.
        asked: String,
    },
    /// It is there already.
    #[error("there is a `{0}` already")]
    Exists(Key),
    /// It was written since.
    #[error("`{key}` was written since: it is as of {found}, not of {expected}")]
    Conflict {
        /// Which.
        key: Key,
        /// As of which write it was expected.
        expected: String,
        /// As of which it is.
        found: String,
    },
    /// It is somebody else's.
    #[error("`{key}` belongs to the owner `{owner}`")]
    Owned {
        /// Which.
        key: Key,
        /// Whose it is.
        owner: String,
    },
    /// It stands in the configuration.
    #[error("`{0}` stands in the configuration file")]
    Fixed(Key),
    /// One text has it twice.
    #[error("`{0}` is there twice")]
    Twice(Key),
    /// Nothing would be left of an owner's objects.
    #[error("nothing of the owner `{0}` would be left")]
    PrunesAll(String),
    /// The store was lost.
    #[error("the store is empty, and a proxy serves what was applied before")]
    Lost,
    /// Something is there.
    #[error("the store holds {0} objects")]
    NotEmpty(usize),
    /// As many as may be.
    #[error("there would be more than {MOST} objects")]
    Full,
    /// This operator only looks.
    #[error("this operator only looks (`--observe`): it stores nothing")]
    Observes,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which labels objects must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl std::str::FromStr for Selector {
    type Err = String;

    /// `a=b,c!=d,e,!f`, as `kubectl` takes it.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let owned = |text: &str| text.trim().to_owned();
            let term = if let Some((key, value)) = part.split_once("!=") {
                Term::IsNot(owned(key), owned(value))
            } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                Term::Is(owned(key), owned(value))
            } else if let Some(key) = part.strip_prefix('!') {
                Term::HasNot(owned(key))
            } else {
                Term::Has(owned(part))
            };
            let (Term::Is(key, _) | Term::IsNot(key, _) | Term::Has(key) | Term::HasNot(key)) = &term;
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(format!("`{}` is no selector of labels: write `key=value`", part.escape_debug()));
            }
            terms.push(term);
        }
        Ok(Self(terms))
    }
}

impl Selector {
    /// Whether an object has them.
    pub fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| match term {
            Term::Is(key, value) => labels.get(key) == Some(value),
            Term::IsNot(key, value) => labels.get(key) != Some(value),
            Term::Has(key) => labels.contains_key(key),
            Term::HasNot(key) => !labels.contains_key(key),
        })
    }
}

impl Objects {
    /// The objects of a directory, which nobody else writes meanwhile.
    pub fn open(directory: &Path, fixed: Vec<Stored>) -> Result<Self, StoreError> {
        let (backend, content) = Directory::open(directory)?;
        let shelf = Shelf::open(directory.join("rendered"), true);
        Ok(Self::with(Some(Box::new(backend)), content, fixed, shelf))
    }

    /// The objects of a directory that somebody else may be writing; none can be written here.
    pub fn look(directory: &Path, fixed: Vec<Stored>) -> Result<Self, StoreError> {
        let shelf = Shelf::open(directory.join("rendered"), false);
        Ok(Self::with(None, Directory::look(directory)?, fixed, shelf))
    }

    /// The objects that a backend has, and those of the configuration.
    pub fn new(backend: Option<Box<dyn Backend>>, content: Content, fixed: Vec<Stored>) -> Self {
        Self::with(backend, content, fixed, Shelf::default())
    }

    fn with(backend: Option<Box<dyn Backend>>, content: Content, fixed: Vec<Stored>, shelf: Shelf) -> Self {
        let declared = watch::Sender::new(declared(&content).into());
        let floor = content.revision;
        let fixed = fixed.into_iter().map(|stored| (stored.key.clone(), Arc::new(stored))).collect();
        let (statuses, recent) = (BTreeMap::new(), VecDeque::new());
        let revision = watch::Sender::new(content.revision);
        let state = State { lost: false, content, fixed, statuses, recent, floor, backend };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            feed: broadcast::Sender::new(BEHIND),
            declared,
            revision,
            shelf: Mutex::new(shelf),
        }))
    }

    /// What they ask for, as it changes.
    pub fn declared(&self) -> watch::Receiver<Shared<Declared>> {
        self.0.declared.subscribe()
    }

    /// The number of the last write, as it grows; 0: nothing was ever written.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// Notes whether a proxy serves what was applied and is not here any more. Nothing but a restore is written then.
    pub fn lose(&self, lost: bool) {
        self.state().lost = lost;
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Seen> {
        let state = self.state();
        state.find(key).map(|stored| state.seen(stored))
    }

    /// The objects of a kind, and the last write among all.
    pub fn list(&self, kind: Kind, namespace: Option<&str>, selector: &Selector) -> (u64, Vec<Seen>) {
        let state = self.state();
        let all = state.every().filter(|stored| {
            stored.key.kind == kind
                && namespace.is_none_or(|namespace| stored.key.id.namespace() == namespace)
                && selector.takes(&stored.metadata.labels)
        });
        (state.content.revision, all.map(|stored| state.seen(stored)).collect())
    }

    /// Everything of all kinds.
    pub fn all(&self) -> (u64, Vec<Seen>) {
        let state = self.state();
        (state.content.revision, state.content.objects.values().map(|stored| state.seen(stored)).collect())
    }

    /// What an object has said so far, the oldest first; also of one that is gone.
    pub fn history(&self, key: &Key) -> Vec<Arc<Revision>> {
        self.state().content.history.of(key).cloned().collect()
    }

    /// What would bring a generation back; without one that before the present, or the last of an object that is gone.
    pub fn undo(&self, key: &Key, to: Option<u64>) -> Result<Put, Refusal> {
        let state = self.state();
        let current = state.content.objects.get(key);
        let now = current.map(|stored| stored.generation());
        let wanted = |revision: &&Arc<Revision>| match to {
            Some(to) => revision.stored.generation() == to,
            None => Some(revision.stored.generation()) != now,
        };
        let found = state.content.history.of(key).rev().find(wanted).ok_or_else(|| Refusal::Forgotten {
            key: key.clone(),
            asked: to.map_or_else(|| "before the present one".to_owned(), |to| to.to_string()),
        })?;
        let mut metadata = current.map_or(&found.stored.metadata, |stored| &stored.metadata).clone();
        metadata.resource_version = current.and_then(|stored| stored.metadata.resource_version.clone());
        Ok(Put {
            key: key.clone(),
            metadata,
            spec: found.stored.spec.clone(),
            new: current.is_none(),
            held: Some(found.stored.generation()),
        })
    }

    /// What would end the holding of an object.
    pub fn release(&self, key: &Key) -> Result<Put, Refusal> {
        let state = self.state();
        let stored = state.content.objects.get(key).ok_or_else(|| Refusal::NotFound(key.clone()))?;
        let (metadata, spec) = (stored.metadata.clone(), stored.spec.clone());
        Ok(Put { key: key.clone(), metadata, spec, new: false, held: None })
    }

    /// What proxies ran of a generation when all of them first did.
    pub fn rendered(&self, key: &Key, generation: u64) -> Option<Rendered> {
        self.shelf().get(key, generation).cloned()
    }

    /// Keeps what proxies run of a generation, unless that is known.
    pub fn keep(&self, key: &Key, generation: u64, rendered: impl FnOnce() -> Rendered) {
        let mut shelf = self.shelf();
        if shelf.get(key, generation).is_none() {
            shelf.put(key, generation, rendered());
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens from now on; before that what has happened since a write, or everything that there is.
    pub fn watch(&self, since: Option<u64>) -> Result<Feed, Expired> {
        let state = self.state();
        let revision = state.content.revision;
        let first = match since.filter(|since| *since > 0) {
            None => {
                let news = |stored: &Arc<Stored>| News {
                    revision: stored.revision(),
                    happened: Happened::Added,
                    seen: state.seen(stored),
                };
                state.every().map(news).collect()
            }
            Some(since) if since < state.floor || since > revision => return Err(Expired),
            Some(since) => state.recent.iter().filter(|news| news.revision > since).cloned().collect(),
        };
        // Subscribed under the lock, so that nothing falls between.
        Ok(Feed { first, revision, then: self.0.feed.subscribe() })
    }

    /// Writes what is asked for, all of it or nothing. It is on disk when this returns; it waits for the disk.
    pub fn write(&self, asked: Asked) -> Result<Vec<Done>, Refusal> {
        let mut state = self.state();
        let (dry_run, restore) = (asked.dry_run, matches!(asked.others, Others::AllGo { .. }));
        let (batch, done) = state.resolve(asked)?;
        if dry_run || (batch.changes.is_empty() && !restore) {
            return Ok(done);
        }
        let news = state.commit(&batch)?;
        let declared = declared(&state.content);
        // Told under the lock, so that everybody hears it in one order. Nobody may listen.
        let _ = self.0.feed.send(Arc::new(news));
        self.0.declared.send_if_modified(|known| {
            let changed = **known != declared;
            if changed {
                *known = declared.into();
            }
            changed
        });
        self.0.revision.send_replace(batch.revision);
        Ok(done)
    }

    /// Notes what is true of objects; who is gone meanwhile has no status.
    pub fn report(&self, statuses: BTreeMap<Key, Status>) {
        let mut state = self.state();
        let mut news = Vec::new();
        for (key, status) in statuses {
            let Some(stored) = state.find(&key).cloned() else { continue };
            if state.statuses.get(&key).is_some_and(|known| **known == status) {
                continue;
            }
            state.statuses.insert(key, Arc::new(status));
            let seen = state.seen(&stored);
            news.push(News { revision: stored.revision(), happened: Happened::Modified, seen });
        }
        if !news.is_empty() {
            let _ = self.0.feed.send(Arc::new(news));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done in it where somebody panicked: it changes only after the disk has.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, key: &Key) -> Option<&Arc<Stored>> {
        self.content.objects.get(key).or_else(|| self.fixed.get(key))
    }

    fn every(&self) -> impl Iterator<Item = &Arc<Stored>> {
        let shown = |stored: &&Arc<Stored>| !self.content.objects.contains_key(&stored.key);
        self.fixed.values().filter(shown).chain(self.content.objects.values())
    }

    fn seen(&self, stored: &Arc<Stored>) -> Seen {
        Seen { stored: Arc::clone(stored), status: self.statuses.get(&stored.key).cloned() }
    }

    /// What is asked for as changes, and what becomes of each object.
    fn resolve(&self, mut asked: Asked) -> Result<(Batch, Vec<Done>), Refusal> {
        if self.backend.is_none() && !asked.dry_run {
            return Err(Refusal::Observes);
        }
        if self.lost && !matches!(asked.others, Others::AllGo { .. }) {
            return Err(Refusal::Lost);
        }
        let mut batch = Batch { revision: self.content.revision, at: asked.at.clone(), changes: Vec::new() };
        if let Others::AllGo { replace } = asked.others {
            // Also where nothing is restored: somebody has said that this is all.
            batch.revision += 1;
            self.replace(&mut asked, replace)?;
        }
        let mut done = Vec::new();
        let mut named = BTreeSet::new();
        let pruned = match &asked.owner {
            Some(owner) if asked.others == Others::OwnersGo => Some(self.pruned(owner, &asked.put)?),
            _ => None,
        };
        for put in asked.put {
            if !named.insert(put.key.clone()) {
                return Err(Refusal::Twice(put.key));
            }
            if self.fixed.get(&put.key).is_some_and(|fixed| fixed.origin() != Some(IMPLICIT)) {
                return Err(Refusal::Fixed(put.key));
            }
            let known = self.content.objects.get(&put.key);
            let last = self.content.history.last(&put.key).map_or(0, |last| last.stored.generation());
            let (outcome, stored) =
                made(put, known, last, asked.owner.as_ref(), &asked.at, batch.revision + 1)?;
            if outcome != Outcome::Unchanged {
                batch.revision += 1;
                batch.changes.push(Change::Put(Arc::clone(&stored)));
            }
            done.push(Done { outcome, stored });
        }
        let gone = asked.delete.into_iter().chain(pruned.into_iter().flatten().map(|key| (key, None)));
        for (key, expected) in gone {
            if !named.insert(key.clone()) {
                return Err(Refusal::Twice(key));
            }
            let Some(known) = self.content.objects.get(&key) else {
                let fixed = self.fixed.contains_key(&key);
                return Err(if fixed { Refusal::Fixed(key) } else { Refusal::NotFound(key) });
            };
            as_of(known, expected.map(|expected| expected.to_string()).as_ref())?;
            batch.revision += 1;
            done.push(Done { outcome: Outcome::Deleted, stored: Arc::clone(known) });
            batch.changes.push(Change::Delete(key));
        }
        let created = done.iter().filter(|done| done.outcome == Outcome::Created).count();
        if self.content.objects.len() + created > MOST {
            return Err(Refusal::Full);
        }
        Ok((batch, done))
    }

    /// What is restored takes the place of everything.
    fn replace(&self, asked: &mut Asked, replace: bool) -> Result<(), Refusal> {
        let there = self.content.objects.len();
        if there > 0 && !replace {
            return Err(Refusal::NotEmpty(there));
        }
        for put in &mut asked.put {
            put.metadata.resource_version = None;
        }
        let kept: BTreeSet<&Key> = asked.put.iter().map(|put| &put.key).collect();
        let gone = self.content.objects.keys().filter(|key| !kept.contains(key));
        asked.delete = gone.map(|key| (key.clone(), None)).collect();
        Ok(())
    }

    /// An owner's objects that are not among those that are put.
    fn pruned(&self, owner: &String, put: &[Put]) -> Result<Vec<Key>, Refusal> {
        if put.is_empty() {
            return Err(Refusal::PrunesAll(owner.clone()));
        }
        let kept: BTreeSet<&Key> = put.iter().map(|put| &put.key).collect();
        let theirs = self.content.objects.values().filter(|stored| {
            stored.metadata.labels.get(OWNER) == Some(owner)
                && !kept.contains(&stored.key)
                && stored.held().is_none()
        });
        Ok(theirs.map(|stored| stored.key.clone()).collect())
    }

    fn commit(&mut self, batch: &Batch) -> Result<Vec<News>, Refusal> {
        let Some(backend) = &mut self.backend else { return Err(Refusal::Observes) };
        let mut after = self.content.clone();
        after.take(batch);
        backend.commit(batch, &after)?;
        let before = std::mem::replace(&mut self.content, after);
        let first = batch.revision - batch.changes.len() as u64;
        let mut news = Vec::new();
        for (revision, change) in (first + 1..).zip(&batch.changes) {
            let (happened, stored) = match change {
                Change::Past(_) => continue,
                Change::Put(stored) if before.objects.contains_key(&stored.key) => {
                    (Happened::Modified, Arc::clone(stored))
                }
                Change::Put(stored) => (Happened::Added, Arc::clone(stored)),
                Change::Delete(key) => {
                    let Some(stored) = before.objects.get(key) else { continue };
                    (Happened::Deleted, Arc::clone(stored))
                }
            };
            news.push(News { revision, happened, seen: self.seen(&stored) });
            if happened == Happened::Deleted {
                self.statuses.remove(&stored.key);
            }
        }
        self.recent.extend(news.iter().cloned());
        while self.recent.len() > RECENT {
            self.floor = self.recent.pop_front().map_or(self.floor, |news| news.revision);
        }
        Ok(news)
    }
}

/// The object that a write makes of what is there.
fn made(
    put: Put,
    known: Option<&Arc<Stored>>,
    last: u64,
    owner: Option<&String>,
    at: &str,
    revision: u64,
) -> Result<(Outcome, Arc<Stored>), Refusal> {
    let Put { key, mut metadata, spec, new, held } = put;
    metadata.namespace = key.kind.namespaced().then(|| key.id.namespace().to_owned());
    // Whoever writes an object that was there by itself makes it theirs.
    if metadata.annotations.remove(ORIGIN).is_some() && metadata.resource_version.as_deref() == Some("0") {
        metadata.resource_version = None;
    }
    metadata.annotations.remove(HELD);
    metadata.annotations.extend(held.map(|from| (HELD.to_owned(), from.to_string())));
    match known {
        Some(_) if new => return Err(Refusal::Exists(key)),
        Some(known) => as_of(known, metadata.resource_version.as_ref())?,
        // Somebody expects to replace what is gone.
        None if metadata.resource_version.is_some() => return Err(Refusal::NotFound(key)),
        None => {}
    }
    let whose = known.and_then(|known| known.metadata.labels.get(OWNER));
    if let Some(whose) = whose.filter(|whose| owner.is_some_and(|owner| owner != *whose)) {
        return Err(Refusal::Owned { key, owner: whose.clone() });
    }
    if let Some(owner) = owner.or(whose) {
        metadata.labels.insert(OWNER.to_owned(), owner.clone());
    }
    let changed = known.is_none_or(|known| known.spec != spec);
    let before = known.map(|known| &known.metadata);
    metadata.creation_timestamp =
        before.map_or_else(|| Some(at.to_owned()), |before| before.creation_timestamp.clone());
    // One that comes again goes on counting, so that a number always means the same.
    metadata.generation = Some(known.map_or(last, |known| known.generation()) + u64::from(changed));
    metadata.resource_version = before.and_then(|before| before.resource_version.clone());
    if let Some(known) = known.filter(|known| !changed && known.metadata == metadata) {
        return Ok((Outcome::Unchanged, Arc::clone(known)));
    }
    metadata.resource_version = Some(revision.to_string());
    // The very same value where it says the same, so that nobody reads it again.
    let spec = known.filter(|_| !changed).map_or(spec, |known| known.spec.clone());
    let outcome = if known.is_some() { Outcome::Configured } else { Outcome::Created };
    Ok((outcome, Arc::new(Stored { key, metadata, spec })))
}

/// Whether an object is as of the write that somebody expects.
fn as_of(known: &Stored, expected: Option<&String>) -> Result<(), Refusal> {
    let found = known.metadata.resource_version.clone().unwrap_or_default();
    match expected {
        Some(expected) if *expected != found => {
            Err(Refusal::Conflict { key: known.key.clone(), expected: expected.clone(), found })
        }
        _ => Ok(()),
    }
}

fn declared(content: &Content) -> Declared {
    let routes = content.objects.values().filter_map(|stored| match &stored.spec {
        Spec::Route(spec) => Some((stored.key.id.clone(), spec.clone())),
        _ => None,
    });
    let routes: BTreeMap<_, _> = routes.collect();
    let clusters = content.objects.values().filter_map(|stored| match &stored.spec {
        Spec::ServiceCluster(spec) => Some((stored.key.id.name().parse().ok()?, spec.clone())),
        _ => None,
    });
    let clusters: BTreeMap<_, _> = clusters.collect();
    Declared {
        applied: routes.keys().cloned().collect(),
        routes,
        applied_clusters: clusters.keys().cloned().collect(),
        clusters,
        faults: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
