//! Somebody who only listens: when an engine's events reach another than the operator.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::Double;
use crate::{Result, ensure, eventually};

/// An event may take this long.
const SOON: Duration = Duration::from_secs(20);

/// By container and action.
type Arrivals = Arc<Mutex<BTreeMap<(String, String), Instant>>>;

/// A second client of an engine's event stream; it stops listening with the value.
pub struct Bystander {
    arrivals: Arrivals,
    task: JoinHandle<()>,
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bystander {
    /// Follows a double; what happens from now on arrives.
    pub async fn of(double: &Double) -> Result<Self> {
        let before = double.followers();
        let arrivals = Arrivals::default();
        let task = tokio::spawn(listen(connect(&double.socket())?, Arc::clone(&arrivals)));
        let bystander = Self { arrivals, task };
        eventually(SOON, "the bystander listens", async || {
            ensure!(double.followers() > before, "not yet");
            Ok(())
        })
        .await?;
        Ok(bystander)
    }

    /// When the last event of this kind about a container arrived; waits for it.
    pub async fn heard(&self, id: &str, action: &str) -> Result<Instant> {
        let key = (id.to_owned(), action.to_owned());
        eventually(SOON, &format!("the bystander hears of {action}"), async || {
            let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.get(&key).copied().ok_or_else(|| "not yet".into())
        })
        .await
    }
}

fn connect(socket: &Path) -> Result<Docker> {
    let path = socket.to_str().ok_or("a socket's name is not text")?;
    Ok(Docker::connect_with_unix(path, 60, bollard::API_DEFAULT_VERSION)?)
}

async fn listen(docker: Docker, arrivals: Arrivals) {
    let actions = ["start", "kill", "die"].map(str::to_owned).to_vec();
    let filters = HashMap::from([("event", actions)]);
    let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
    while let Some(Ok(event)) = events.next().await {
        let now = Instant::now();
        if let (Some(action), Some(id)) = (event.action, event.actor.and_then(|actor| actor.id)) {
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).insert((id, action), now);
        }
    }
}
