//! `interlock run`: watch Docker and keep every proxy in step.

use std::sync::Arc;

use tokio::sync::watch;

use super::args::RunArgs;
use super::failure::Failure;
use super::{OK, agent};
use crate::serve::{Events, Listeners, Looks, Metrics, Readiness, Rest, ServeError, Served, Shared, status};
use crate::settings::{Environment, Settings};
use crate::store::Objects;
use crate::{logging, reconcile};

/// Runs until SIGTERM or SIGINT. Proxies go on serving what they have.
pub(super) fn run(args: &RunArgs, environment: &Environment) -> Result<u8, Failure> {
    let settings = Settings::load(&args.flags(), environment)?;
    logging::start(&settings.log, !environment.no_color);
    if let Some(kind) = settings.embedded.filter(|_| !args.operator_child) {
        return agent::embed(&settings, kind);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(operate(settings, args.operator_child))
}

async fn operate(settings: Settings, child: bool) -> Result<u8, Failure> {
    let objects = if settings.observe {
        Objects::look(&settings.state, settings.objects())
    } else {
        Objects::open(&settings.state, settings.objects())
    };
    let rest = Rest {
        objects: objects.map_err(Failure::new)?,
        events: Events::default(),
        config: Arc::new(settings.config.clone()),
    };
    let served = Served {
        metrics: Metrics::new().map_err(Failure::new)?,
        readiness: Readiness::default(),
        shared: Shared::default(),
        looks: Looks::default(),
        rest,
    };
    status::spawn(&served.looks, served.rest.objects.clone(), served.rest.events.clone());
    for cluster in settings.config.clusters.keys() {
        served.metrics.know_cluster(cluster);
    }
    let listeners = listen(&settings).await?;
    let _serving = listeners.serve(served.clone());
    let (stop, _) = watch::channel(false);
    let told = stop.clone();
    let signals = stopped()?;
    tokio::spawn(async move {
        signals.await;
        told.send_replace(true);
    });
    reconcile::run(&settings, &served, child, &stop).await.map_err(Failure::new)?;
    Ok(OK)
}

/// Binds both listeners. Metrics are promised where the settings say; an API socket that cannot be made
/// costs only the commands their short way.
async fn listen(settings: &Settings) -> Result<Listeners, Failure> {
    let mut listeners = Listeners::bind(settings.metrics).await?;
    match listeners.bind_api(&settings.api).await {
        Err(error @ ServeError::Socket { .. }) => {
            let hint = error.hint();
            let error = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
            tracing::warn!(path = %settings.api.display(), error, hint, "no API socket: `interlock why` and the like will ask the engine itself");
        }
        bound => bound?,
    }
    tracing::info!(metrics = %settings.metrics, api = %settings.api.display(), "listening");
    Ok(listeners)
}

/// Resolves on the first signal that asks for an end.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping; proxies go on serving");
    })
}
