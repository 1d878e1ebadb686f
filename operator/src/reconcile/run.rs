//! Run: the real edges around the loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_core::compile::{Boot, NetworkAction};
use interlock_core::model::{ContainerId, EngineId};
use interlock_core::render::Templates;
use interlock_crds::ServiceClusterSpec;
use tokio::sync::watch;

use super::actions::{Act, Acting};
use super::clock::now;
use super::driver::{Driver, Parts};
use super::publish::Publisher;
use super::world::Sources;
use crate::chain::chain;
use crate::deliver::exec::AgentBinary;
use crate::deliver::{Dialer, Identity, Outer};
use crate::docker::{self, Client, DockerError, actions};
use crate::serve::Served;
use crate::settings::{ENGINE, Settings};
use crate::source;
use crate::source::docker::DockerSource;
use crate::store::{Store, StoreError};

/// Why the operator does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The channel to the outer process.
    #[error(
        "standard input is not the channel to an outer process; `--operator-child` is for `interlock run --embedded` alone"
    )]
    Outer(#[source] std::io::Error),
    /// The engine's name, which is fixed.
    #[error(transparent)]
    Name(#[from] interlock_core::model::NameError),
}

/// Runs the operator until `stop` holds `true`. With `child`, standard input is the channel to the outer
/// process that owns the embedded proxy; when it breaks, `stop` is set.
pub async fn run(
    settings: &Settings,
    served: &Served,
    child: bool,
    stop: &watch::Sender<bool>,
) -> Result<(), RunError> {
    let engine: EngineId = ENGINE.parse()?;
    let client = Client::connect(&settings.docker)?;
    let facts = client.check().await?;
    tracing::info!(engine = client.host(), version = facts.version, api = facts.api, "engine found");
    let outer = if child {
        Outer::from_stdin(stop.clone()).map_err(RunError::Outer)?
    } else {
        Outer::none(stop.clone())
    };
    let own_container = docker::own_container(&client).await;
    let (containers, _following) = source::docker::spawn(
        client.clone(),
        DockerSource { engine: engine.clone(), resync: settings.pace.resync.get(), address: None },
    );
    let declared = source::manifests::beside(
        source::manifests::spawn(settings.manifests.clone()),
        served.rest.objects.declared(),
    );
    let config = settings.config.clone();
    let folders =
        source::derived(declared.clone(), move |of| source::certificates::folders(&config.with(of)));
    let config = settings.config.clone();
    let pages = source::derived(declared.clone(), move |of| source::credentials::pages(&config.with(of)));
    let (certificates, secrets) = source::certificates::spawn(folders);
    let (credentials, passwords) = source::credentials::spawn(pages);
    let dialer =
        Dialer { client: client.clone(), binary: AgentBinary::own(), agents: settings.agents.clone(), outer };
    let parts = Parts {
        config: settings.config.clone(),
        sources: Sources {
            engines: BTreeMap::from([(engine.clone(), containers)]),
            certificates,
            credentials,
            declared,
            written: served.rest.objects.revision(),
            sockets: source::sockets::spawn(settings.agents.clone()),
        },
        dial: Arc::new(dialer),
        act: Arc::new(DockerActs { client: client.clone() }),
        secrets: Arc::new(move |digest| secrets.get(digest).or_else(|| passwords.get(digest))),
        store: Store::open(&settings.state)?,
        identity: Identity {
            operator: settings.operator_id.clone(),
            // Later starts are greater, which is all that is asked of it. Who only looks takes no agent from an operator
            // that serves, not even one that has not learnt to tell them apart.
            epoch: if settings.observe { 0 } else { now().0 },
            observes: settings.observe,
            ceiling_ms: settings.pace.ceiling.as_millis(),
        },
        resync: settings.pace.resync.get(),
        observe_only: settings.observe,
        own_container,
        templates: Templates::embedded(),
        publisher: Publisher::new(served, engine, client.calls().clone()),
    };
    Driver::new(parts).run(stop.subscribe()).await;
    Ok(())
}

/// Acts on the real engine.
struct DockerActs {
    client: Client,
}

impl Act for DockerActs {
    fn network<'a>(&'a self, action: &'a NetworkAction) -> Acting<'a> {
        Box::pin(async move {
            let result = match action {
                NetworkAction::Attach { container, network, .. } => {
                    actions::attach(&self.client, network, container).await
                }
                NetworkAction::Detach { container, network, .. } => {
                    actions::detach(&self.client, network, container).await
                }
            };
            result.map_err(|error| chain(&error))
        })
    }

    fn boot<'a>(&'a self, id: &'a ContainerId, boot: &'a Boot, spec: &'a ServiceClusterSpec) -> Acting<'a> {
        Box::pin(async move {
            let first = actions::first_configuration(boot.proxy, spec.listeners.http);
            actions::boot(&self.client, id, boot.proxy, first.as_ref()).await.map_err(|error| chain(&error))
        })
    }
}
