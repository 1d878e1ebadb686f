//! The agent inside a stock proxy container: its binary is put there once, and Docker's exec is the channel.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bollard::container::LogOutput;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use interlock_core::model::{ContainerId, Digest};
use interlock_crds::ProxyKind;
use tokio_util::io::StreamReader;

use super::{Reader, Writer};
use crate::docker::actions::{ActionError, Place};
use crate::docker::archive::Entry;
use crate::docker::{Client, DockerError};

/// The folder in a proxy container that holds agents, one folder for each build.
const HOME: &str = ".interlock";

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// Why an agent could not be started inside a container.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecError {
    /// The binary may not be written there, or the engine refused.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// This process's own executable cannot be read.
    #[error("the operator's own executable {} cannot be read, so no agent can be sent: {why}", path.display())]
    OwnBinary {
        /// Its path.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// The kernel cannot run the binary.
    #[error(
        "{container} cannot run the agent ({why}): it is built for {architecture}, and needs an executable, writable \
         root; use the image interlock-{proxy} built for that architecture, or run the proxy on this one"
    )]
    NotExecutable {
        /// The container's name.
        container: String,
        /// The engine's words.
        why: String,
        /// The architecture that this binary is for.
        architecture: &'static str,
        /// The proxy's name.
        proxy: &'static str,
    },
}

/// What an agent's end before its first word means.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the agent in {container} ended before its first word: {why}")]
struct EndedAtOnce {
    container: String,
    why: String,
}

impl ExecError {
    /// Whether trying again cannot help before somebody changes the container or the configuration.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotExecutable { .. } | Self::OwnBinary { .. } => true,
            Self::Action(action) => action.is_final(),
        }
    }
}

impl From<DockerError> for ExecError {
    fn from(error: DockerError) -> Self {
        Self::Action(error.into())
    }
}

/// The executable that is put into proxy containers. Cheap to clone; read once, on first use.
#[derive(Debug, Clone)]
pub struct AgentBinary {
    path: Arc<Path>,
    loaded: Arc<tokio::sync::OnceCell<Facts>>,
}

#[derive(Debug, Clone)]
struct Facts {
    digest: Digest,
    size: u64,
}

impl AgentBinary {
    /// This very process's executable, also after its file was replaced.
    pub fn own() -> Self {
        Self::at("/proc/self/exe")
    }

    /// The executable at `path`.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().into(), loaded: Arc::default() }
    }

    async fn open(&self) -> Result<tokio::fs::File, ExecError> {
        tokio::fs::File::open(&self.path).await.map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> ExecError {
        ExecError::OwnBinary { path: self.path.to_path_buf(), why: error.to_string() }
    }

    /// Read and hashed piece by piece: the whole would stay in the allocator's hands for the process's life.
    async fn facts(&self) -> Result<&Facts, ExecError> {
        self.loaded
            .get_or_try_init(|| async {
                let path = self.path.to_path_buf();
                // Megabytes of hashing do not belong on a thread that serves other targets.
                tokio::task::spawn_blocking(move || look(&path))
                    .await
                    .map_err(|error| self.unreadable(&error))?
                    .map_err(|error| self.unreadable(&error))
            })
            .await
    }
}

/// Size and digest of a file, as a digest of its pieces' digests.
fn look(path: &Path) -> io::Result<Facts> {
    let mut file = std::fs::File::open(path)?;
    let mut piece = vec![0; PIECE];
    let (mut pieces, mut size) = (Vec::new(), 0);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            let digest = Digest::of(pieces.iter().map(|digest: &Digest| digest.as_str().as_bytes()));
            return Ok(Facts { digest, size });
        }
        size += read as u64;
        pieces.push(Digest::of([&piece[..read]]));
    }
}

/// Starts an agent for `proxy` inside a running container and connects to it. The binary is sent only if
/// this build's is not there yet. What is read is the agent's standard output: an agent that could not be
/// started shows as an error of the first read, one that ended as the end. Dropping both ends closes the agent's standard input, which ends it.
pub async fn connect(
    client: &Client,
    container: &ContainerId,
    proxy: ProxyKind,
    binary: &AgentBinary,
) -> Result<(Reader, Writer), ExecError> {
    let program = install(client, container, proxy, binary).await?;
    let command =
        [program.as_str(), "agent", "--stdio", "--proxy", proxy.as_str()].map(str::to_owned).to_vec();
    attach(client, container, proxy, command).await
}

/// Makes sure that the binary is in the container; its path there.
async fn install(
    client: &Client,
    container: &ContainerId,
    proxy: ProxyKind,
    binary: &AgentBinary,
) -> Result<String, ExecError> {
    let facts = binary.facts().await?;
    let folder = format!("{HOME}/{}", facts.digest);
    let file = format!("{folder}/interlock");
    let program = format!("/{file}");
    let id = container.as_str();
    if client.stat(id, &program).await?.is_none_or(|found| found.size != facts.size) {
        let place = Place::look(client, container).await?;
        place.writable(client, container, &program, proxy).await?;
        let entry = Entry { folders: &[HOME, &folder], file: &file, size: facts.size, mode: 0o755 };
        client.upload_stream(id, "/", entry.stream(binary.open().await?)).await?;
        tracing::debug!(container = %place.name, bytes = facts.size, "agent sent");
    }
    Ok(program)
}

/// Runs `command` in the container and hands out its ends.
async fn attach(
    client: &Client,
    container: &ContainerId,
    proxy: ProxyKind,
    command: Vec<String>,
) -> Result<(Reader, Writer), ExecError> {
    let fault = Fault { container: container.short().to_owned(), proxy: proxy.as_str() };
    let exec = match client.exec(container.as_str(), command).await {
        Ok(exec) => exec,
        Err(DockerError::Answer { message, .. }) if failed_to_start(message.as_bytes()) => {
            return Err(fault.not_executable(message));
        }
        Err(error) => return Err(error.into()),
    };
    let spoken = Spoken { output: exec.output, fault, began: false, errors: String::new(), ended: false };
    let bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> =
        Box::pin(futures_util::stream::unfold(spoken, |mut spoken| async {
            spoken.next().await.map(|item| (item, spoken))
        }));
    Ok((Box::new(StreamReader::new(bytes)), Box::new(exec.input)))
}

/// Names of the two sides, for messages.
struct Fault {
    container: String,
    proxy: &'static str,
}

impl Fault {
    fn not_executable(&self, why: String) -> ExecError {
        ExecError::NotExecutable {
            container: self.container.clone(),
            why,
            architecture: std::env::consts::ARCH,
            proxy: self.proxy,
        }
    }
}

/// The frames of an exec, parted: standard output goes on, standard error to the log.
struct Spoken {
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>,
    fault: Fault,
    /// Whether anything came on standard output.
    began: bool,
    /// The first words on standard error, for the case that nothing else comes.
    errors: String,
    ended: bool,
}

impl Spoken {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while !self.ended {
            match self.output.next().await {
                Some(Ok(LogOutput::StdOut { message } | LogOutput::Console { message })) => {
                    // Docker 20.10 reports a failed start as the first words of the stream.
                    if !std::mem::replace(&mut self.began, true) && failed_to_start(&message) {
                        self.ended = true;
                        let why = String::from_utf8_lossy(&message).trim().to_owned();
                        return Some(Err(io::Error::other(self.fault.not_executable(why))));
                    }
                    return Some(Ok(message));
                }
                Some(Ok(LogOutput::StdErr { message })) => self.complain(&String::from_utf8_lossy(&message)),
                Some(Ok(LogOutput::StdIn { .. })) => {}
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(io::Error::other(error)));
                }
                None => {
                    self.ended = true;
                    return (!self.began).then(|| Err(self.ended_at_once()));
                }
            }
        }
        None
    }

    fn complain(&mut self, words: &str) {
        for line in words.lines().take(100) {
            tracing::debug!(container = %self.fault.container, "agent: {line}");
        }
        if self.errors.len() < 400 {
            self.errors.extend(words.chars().filter(|c| !c.is_control() || *c == '\n').take(400));
        }
    }

    fn ended_at_once(&self) -> io::Error {
        let why = self.errors.trim();
        // runc's words, on standard error, when only the kernel finds out.
        if why.contains("exec format error") || why.contains("permission denied") {
            return io::Error::other(self.fault.not_executable(why.to_owned()));
        }
        let why = if why.is_empty() { "it said nothing" } else { why };
        io::Error::other(EndedAtOnce { container: self.fault.container.clone(), why: why.to_owned() })
    }
}

/// Whether these are the engine's words for a process that never ran.
fn failed_to_start(words: &[u8]) -> bool {
    words.starts_with(b"OCI runtime exec failed")
        || words.starts_with(b"exec failed")
        || words.starts_with(b"unable to start container process")
}
