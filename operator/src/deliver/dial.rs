//! The real ways to an agent: a socket pair, a unix socket, Docker exec.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use interlock_core::compile::Transport;
use interlock_core::model::{ContainerId, TargetId};
use interlock_crds::ProxyKind;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::exec::{self, AgentBinary, ExecError};
use super::{DeliverError, Dial, Dialing, Looking, Reader, Writer, disk};
use crate::chain::chain;
use crate::docker::Client;
use crate::docker::actions::ActionError;

/// Reaches real agents.
pub struct Dialer {
    /// The engine, for exec.
    pub client: Client,
    /// What is put into a stock proxy's container.
    pub binary: AgentBinary,
    /// The folder of agent sockets.
    pub agents: PathBuf,
    /// The outer process, if there is one.
    pub outer: Outer,
}

/// The channel to the outer process that owns an embedded proxy. There is one for each life of this
/// process: when it breaks, the outer process starts another operator.
pub struct Outer {
    channel: Mutex<Option<UnixStream>>,
    lost: watch::Sender<bool>,
}

impl Outer {
    /// No outer process; `lost` is never told anything.
    pub fn none(lost: watch::Sender<bool>) -> Self {
        Self { channel: Mutex::new(None), lost }
    }

    /// Takes standard input as the channel, as the outer process arranges it. `lost` is told `true` when
    /// the channel breaks: this operator has nobody to work for any more.
    pub fn from_stdin(lost: watch::Sender<bool>) -> std::io::Result<Self> {
        let descriptor: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
        let stream = std::os::unix::net::UnixStream::from(descriptor);
        stream.set_nonblocking(true)?;
        Ok(Self { channel: Mutex::new(Some(UnixStream::from_std(stream)?)), lost })
    }

    fn take(&self) -> Option<UnixStream> {
        let taken = self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        if taken.is_none() {
            self.lost.send_replace(true);
        }
        taken
    }
}

impl Dial for Dialer {
    fn dial<'a>(
        &'a self,
        target: &'a TargetId,
        transport: &'a Transport,
        proxy: Option<ProxyKind>,
    ) -> Dialing<'a> {
        Box::pin(async move {
            match transport {
                Transport::Embedded => {
                    let gone = || DeliverError::Impossible {
                        target: target.clone(),
                        reason: "the outer process is gone".to_owned(),
                    };
                    Ok(halves(self.outer.take().ok_or_else(gone)?))
                }
                Transport::Socket { name } => {
                    let path = self.agents.join(format!("{name}.sock"));
                    let stream = UnixStream::connect(&path).await;
                    Ok(halves(stream.map_err(|source| failed(target, source))?))
                }
                Transport::Exec { container, .. } => self.exec(target, container, proxy).await,
            }
        })
    }

    fn look<'a>(&'a self, target: &'a TargetId, transport: &'a Transport, proxy: ProxyKind) -> Looking<'a> {
        Box::pin(async move {
            let Transport::Exec { container, .. } = transport else {
                return Err(failed(target, "only a stock proxy's container is read"));
            };
            disk::read(&self.client, container, proxy).await.map_err(|error| failed(target, error))
        })
    }
}

impl Dialer {
    async fn exec(
        &self,
        target: &TargetId,
        id: &ContainerId,
        proxy: Option<ProxyKind>,
    ) -> Result<(Reader, Writer), DeliverError> {
        let proxy = proxy.ok_or_else(|| failed(target, "it is not known which proxy runs there"))?;
        match exec::connect(&self.client, id, proxy, &self.binary).await {
            Ok((reader, writer)) => Ok((Box::new(reader), Box::new(writer))),
            Err(error) if lasting(&error) => {
                Err(DeliverError::Impossible { target: target.clone(), reason: chain(&error) })
            }
            Err(error) => Err(failed(target, error)),
        }
    }
}

fn halves(stream: UnixStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Box::new(reader), Box::new(writer))
}

fn failed(target: &TargetId, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DeliverError {
    DeliverError::Dial { target: target.clone(), source: source.into() }
}

/// Whether trying again soon cannot help.
fn lasting(error: &ExecError) -> bool {
    !matches!(error, ExecError::Action(ActionError::Docker(_)))
}
