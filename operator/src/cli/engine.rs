//! One look at the engine, for commands that no operator answers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use interlock_core::model::{EngineId, Observed, Timestamp};

use super::failure::Failure;
use crate::docker::{self, Client};
use crate::settings::Settings;
use crate::source;
use crate::source::docker::DockerSource;

/// A whole look takes a list and one inspection for each container; longer than this, something hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// The facts that one look at the engine gives. What agents know (readiness, what proxies run) is missing.
pub(super) async fn look(settings: &Settings) -> Result<Observed, Failure> {
    let client = Client::connect(&settings.docker).map_err(Failure::new)?;
    client.check().await.map_err(Failure::new)?;
    let engine: EngineId = "local".parse().map_err(Failure::new)?;
    let followed = DockerSource { engine: engine.clone(), resync: PATIENCE * 2, address: None };
    let (mut receiver, task) = source::docker::spawn(client.clone(), followed);
    let seen = tokio::time::timeout(PATIENCE, receiver.wait_for(|snapshot| snapshot.view.known())).await;
    let snapshot = match seen {
        Ok(Ok(snapshot)) => snapshot.clone(),
        _ => {
            return Err(Failure::new(format!("the engine at {} lists no containers in time", client.host())));
        }
    };
    task.abort();
    let declared = source::manifests::look(settings.manifests.as_deref());
    let folders = source::certificates::folders(&settings.config.with(&declared));
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Observed {
        at: Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)),
        own_container: docker::own_container(&client).await,
        engines: BTreeMap::from([(engine, snapshot.view)]),
        certificates: source::certificates::look(&folders),
        declared: declared.into(),
        sockets: source::sockets::spawn(settings.agents.clone()).borrow().clone(),
        draining: snapshot.draining,
        was_healthy: snapshot.was_healthy,
        ..Observed::default()
    })
}
