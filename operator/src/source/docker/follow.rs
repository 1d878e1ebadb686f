//! The loop around the state machine: one stream of events, lists, inspections side by side, and timers.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{EventMessage, EventMessageTypeEnum};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use interlock_core::model::{ContainerId, Timestamp};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::DockerSource;
use super::convert::{self, ImageFacts, Inspected, Listed};
use super::event::{ACTIONS, Event};
use super::state::{Moment, State};
use crate::docker::{Client, DockerError};
use crate::retry::Backoff;
use crate::source::EngineSnapshot;

/// Inspections under way at once.
const SIDE_BY_SIDE: usize = 8;
/// A connection on which nothing was heard for this long is tested. Longer than the usual resync, whose
/// list is a test too, so that a quiet engine is asked nothing else.
const QUIET: Duration = Duration::from_secs(45);
/// A test that takes longer has failed.
const PING: Duration = Duration::from_secs(10);
/// Resyncs in a row that found what no event had told: the stream is deaf, though open.
const DEAF: u32 = 2;
/// Events are asked for from this much before the engine's clock, whose last word is in whole seconds.
const OVERLAP_SECONDS: u64 = 1;

/// Later than anything that is waited for.
const FAR: Duration = Duration::from_hours(1);

type Images = Arc<Mutex<BTreeMap<String, ImageFacts>>>;
type Events = Pin<Box<dyn Stream<Item = Result<EventMessage, DockerError>> + Send>>;

/// Follows one engine.
pub(super) struct Follower {
    client: Client,
    source: DockerSource,
    sender: watch::Sender<EngineSnapshot>,
    state: State,
    images: Images,
    address: Option<IpAddr>,
    retry: Backoff,
}

/// Why following ended.
enum End {
    /// Nobody listens.
    Unwanted,
    /// The stream is deaf: subscribe anew at once.
    Deaf,
    /// The engine failed.
    Failed(DockerError),
}

impl From<DockerError> for End {
    fn from(error: DockerError) -> Self {
        Self::Failed(error)
    }
}

/// An inspection's answer: none if the container is gone.
struct Looked {
    id: ContainerId,
    answer: Result<Option<Inspected>, DockerError>,
}

/// One connection's worth of work under way.
struct Session {
    events: Events,
    list: Option<BoxFuture<'static, Result<Vec<Listed>, DockerError>>>,
    /// Whether the list under way, or the next one, begins from nothing.
    anew: bool,
    waiting: VecDeque<ContainerId>,
    looks: FuturesUnordered<BoxFuture<'static, Looked>>,
    ping: Option<BoxFuture<'static, Result<(), DockerError>>>,
    heard: Instant,
    resync: Instant,
    deaf: u32,
}

impl Follower {
    pub(super) fn new(client: Client, source: DockerSource, sender: watch::Sender<EngineSnapshot>) -> Self {
        Self {
            client,
            source,
            sender,
            state: State::default(),
            images: Images::default(),
            address: None,
            retry: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
        }
    }

    /// Follows until nobody listens any more.
    pub(super) async fn run(mut self) {
        loop {
            match self.follow().await {
                End::Unwanted => return,
                End::Deaf => {
                    tracing::warn!(engine = %self.source.engine, "the engine's events stopped coming; subscribing anew");
                    self.state.abandon();
                }
                End::Failed(error) => {
                    let text = error.to_string();
                    if self.sender.borrow().fault.as_ref() != Some(&text) {
                        tracing::warn!(engine = %self.source.engine, "{text}");
                    }
                    self.state.lost(now(), text);
                    self.publish();
                    tokio::select! {
                        () = sleep(self.retry.pause()) => {}
                        () = self.sender.closed() => return,
                    }
                }
            }
        }
    }

    async fn follow(&mut self) -> End {
        let mut session = match self.open().await {
            Ok(session) => session,
            Err(error) => return error.into(),
        };
        loop {
            self.launch(&mut session);
            if self.state.settle() {
                self.retry.reset();
                tracing::info!(engine = %self.source.engine, host = self.client.host(), "engine in sync");
            }
            self.publish();
            if let Err(end) = self.step(&mut session).await {
                return end;
            }
        }
    }

    /// Subscribes, then asks for the list. The subscription begins at a moment before the list by the
    /// engine's own clock, so nothing can fall between the two, however late the stream opens.
    async fn open(&mut self) -> Result<Session, DockerError> {
        self.client.ping().await?;
        self.address = match self.source.address {
            Some(address) => Some(address),
            None => self.client.address().await,
        };
        let since = self.client.engine_seconds().saturating_sub(OVERLAP_SECONDS);
        let events = Box::pin(self.client.events(since, ACTIONS));
        self.state.listing();
        Ok(Session {
            events,
            list: Some(list(self.client.clone())),
            anew: true,
            waiting: VecDeque::new(),
            looks: FuturesUnordered::new(),
            ping: None,
            heard: Instant::now(),
            resync: Instant::now() + self.source.resync,
            deaf: 0,
        })
    }

    /// Waits for one thing to happen, and takes in everything that came with it.
    async fn step(&mut self, session: &mut Session) -> Result<(), End> {
        let far = Instant::now() + FAR;
        let deadline = self.state.next_deadline().unwrap_or(far);
        let quiet = if session.ping.is_none() { session.heard + QUIET } else { far };
        let resync = if session.list.is_none() { session.resync } else { far };
        tokio::select! {
            event = session.events.next() => {
                self.take_event(session, event)?;
                while let Some(event) = session.events.next().now_or_never() {
                    self.take_event(session, event)?;
                }
            }
            Some(looked) = session.looks.next() => self.take_look(session, looked)?,
            answer = pending(&mut session.list) => self.take_list(session, answer?)?,
            answer = pending(&mut session.ping) => {
                session.ping = None;
                answer?;
                session.heard = Instant::now();
            }
            () = sleep_until(deadline) => session.waiting.extend(self.state.overdue(Instant::now())),
            () = sleep_until(resync) => {
                self.state.listing();
                session.list = Some(list(self.client.clone()));
            }
            () = sleep_until(quiet) => session.ping = Some(ping(self.client.clone())),
            () = self.sender.closed() => return Err(End::Unwanted),
        }
        Ok(())
    }

    fn take_event(
        &mut self,
        session: &mut Session,
        event: Option<Result<EventMessage, DockerError>>,
    ) -> Result<(), End> {
        let message = event.unwrap_or_else(|| {
            Err(DockerError::Broken {
                host: self.client.host().to_owned(),
                call: "events",
                why: "the engine closed the stream".to_owned(),
            })
        })?;
        session.heard = Instant::now();
        if message.typ == Some(EventMessageTypeEnum::CONTAINER)
            && let Some(labels) = message.actor.as_ref().and_then(|actor| actor.attributes.as_ref())
            && !self.client.selects(labels)
        {
            return Ok(());
        }
        if let Some(event) = Event::parse(message) {
            session.waiting.extend(self.state.reduce(&event, moment(session.heard)));
        }
        Ok(())
    }

    fn take_look(&mut self, session: &mut Session, looked: Looked) -> Result<(), End> {
        session.heard = Instant::now();
        match looked.answer {
            Ok(answer) => {
                session.waiting.extend(self.state.looked(&looked.id, answer, moment(session.heard)));
            }
            // One sick container must not hide its neighbours; a sick connection hides all.
            Err(
                error @ (DockerError::Answer { .. }
                | DockerError::Forbidden { .. }
                | DockerError::NotFound { .. }
                | DockerError::Timeout { .. }),
            ) => {
                tracing::warn!(engine = %self.source.engine, container = looked.id.short(), "{error}");
                self.state.not_seen(&looked.id);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn take_list(&mut self, session: &mut Session, list: Vec<Listed>) -> Result<(), End> {
        session.list = None;
        session.heard = Instant::now();
        session.resync = session.heard + self.source.resync;
        let anew = std::mem::take(&mut session.anew);
        let synced = self.state.sync(list, anew, moment(session.heard));
        session.waiting.extend(synced.look);
        if !anew && synced.missed > 0 {
            session.deaf += 1;
            tracing::debug!(engine = %self.source.engine, missed = synced.missed, "resync found changes that no event told");
        } else {
            session.deaf = 0;
        }
        if session.deaf >= DEAF { Err(End::Deaf) } else { Ok(()) }
    }

    /// Sends waiting inspections, a bounded number at once.
    fn launch(&self, session: &mut Session) {
        while session.looks.len() < SIDE_BY_SIDE
            && let Some(id) = session.waiting.pop_front()
        {
            session.looks.push(look(self.client.clone(), self.images.clone(), id).boxed());
        }
    }

    fn publish(&self) {
        let snapshot = self.state.snapshot(self.address);
        self.sender.send_if_modified(|known| {
            let changed = *known != snapshot;
            *known = snapshot;
            changed
        });
    }
}

/// The future in the slot, or one that never ends.
async fn pending<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn list(client: Client) -> BoxFuture<'static, Result<Vec<Listed>, DockerError>> {
    async move { Ok(client.list().await?.into_iter().filter_map(convert::listed).collect()) }.boxed()
}

fn ping(client: Client) -> BoxFuture<'static, Result<(), DockerError>> {
    async move {
        timeout(PING, client.ping()).await.unwrap_or_else(|_| {
            Err(DockerError::Timeout {
                host: client.host().to_owned(),
                call: "ping",
                seconds: PING.as_secs(),
            })
        })
    }
    .boxed()
}

/// Inspects a container, and its image if that was never seen and could be the one who speaks.
async fn look(client: Client, images: Images, id: ContainerId) -> Looked {
    let answer = match client.inspect(id.as_str()).await {
        Ok(answer) => match convert::inspected(answer) {
            Some(mut inspected) => {
                add_image(&client, &images, &mut inspected).await.map(|()| Some(inspected))
            }
            None => Ok(None),
        },
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    };
    Looked { id, answer }
}

async fn add_image(client: &Client, images: &Images, inspected: &mut Inspected) -> Result<(), DockerError> {
    if !convert::asks_for_routing(&inspected.container) {
        return Ok(());
    }
    let Some(image_id) = inspected.image_id.clone() else { return Ok(()) };
    // The lock is held over the question, so that fifty containers of one new image ask it once.
    let mut images = images.lock().await;
    if !images.contains_key(&image_id) {
        let facts = match client.inspect_image(&image_id).await {
            Ok(answer) => convert::image_facts(answer),
            // Removed by force under the container: who said what cannot be told, so nothing is the container's own.
            Err(error @ (DockerError::NotFound { .. } | DockerError::Forbidden { .. })) => {
                tracing::warn!(container = %inspected.container.name, "{error}: its labels count as its image's");
                ImageFacts {
                    labels: inspected.container.labels.clone(),
                    data: inspected.container.data.clone(),
                }
            }
            Err(error) => return Err(error),
        };
        images.insert(image_id.clone(), facts);
    }
    if let Some(facts) = images.get(&image_id) {
        inspected.container.image_labels.clone_from(&facts.labels);
        inspected.container.image_data.clone_from(&facts.data);
    }
    Ok(())
}

fn moment(instant: Instant) -> Moment {
    Moment { instant, wall: now() }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
