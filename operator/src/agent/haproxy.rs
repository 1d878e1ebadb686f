//! HAProxy's runtime socket: who answers there, and what.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interlock_core::model::Digest;
use interlock_core::protocol::SecretText;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// One line of commands must fit HAProxy's buffer (`tune.bufsize`, 16 KiB), with some room left.
const LINE: usize = 12 * 1024;
/// So must a command with its payload.
const PAYLOAD: usize = 15 * 1024;
/// The most that is read of one answer.
const ANSWER: u64 = 64 * 1024 * 1024;
/// A worker on the same machine that takes longer counts as not answering.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who is there is asked often, and nothing is quicker to answer.
const GREETING: Duration = Duration::from_millis(500);

/// What is said to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    text: String,
    /// Lines that follow it, each with its end; never shown.
    payload: Option<SecretText>,
}

impl Command {
    pub(super) fn with_payload(text: String, payload: String) -> Self {
        Self { text, payload: Some(SecretText(payload)) }
    }
}

impl From<String> for Command {
    fn from(text: String) -> Self {
        Self { text, payload: None }
    }
}

/// The runtime socket of a worker.
#[derive(Debug, Clone)]
pub(super) struct Socket(PathBuf);

/// Who answers on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Worker {
    /// Its process id.
    pub(super) pid: u32,
    /// The static digest in its description; none: its configuration is not ours.
    pub(super) digest: Option<Digest>,
}

/// Why the runtime socket could not do it; a reload can.
#[derive(Debug, thiserror::Error)]
pub(super) enum LiveError {
    /// Nobody answers.
    #[error("the runtime socket does not answer: {0}")]
    Socket(#[from] io::Error),
    /// Another worker answers than the one that was spoken to before.
    #[error("another worker has taken over")]
    OtherWorker,
    /// It lacks a server that its digest promises.
    #[error("the running worker lacks {0}")]
    Lacks(String),
    /// A request could still reach whoever was there before.
    #[error("connections of whoever sat in {0} before are still open")]
    NotAtRest(String),
    /// A certificate with its chain is longer than a command may be.
    #[error("`{0}` has more content than fits HAProxy's buffer")]
    TooLong(String),
    /// What was changed is not so when it is read back.
    #[error("the running worker does not keep what it is told")]
    NotHeld,
}

impl Socket {
    /// The socket that a configuration declares, if it lies in the run folder.
    pub(super) fn of(config: &str, run: &Path) -> Option<Self> {
        config.lines().find_map(|line| {
            let path = line.trim().strip_prefix("stats socket ")?.split_whitespace().next()?;
            let path = PathBuf::from(path.strip_prefix("unix@").unwrap_or(path));
            (path.parent() == Some(run)).then_some(Self(path))
        })
    }

    async fn ask(&self, line: &str) -> io::Result<String> {
        let talk = async {
            let mut stream = UnixStream::connect(&self.0).await?;
            stream.write_all(line.as_bytes()).await?;
            stream.write_all(b"\n").await?;
            let mut answer = Vec::new();
            stream.take(ANSWER).read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Asks something of one worker: each line begins with `show info`, whose answer says who answered.
    pub(super) async fn ask_worker(&self, pid: u32, line: &str) -> Result<String, LiveError> {
        let answer = self.ask(&format!("show info;{line}")).await?;
        let (info, rest) = split_info(&answer);
        match parse_info(info) {
            Some(worker) if worker.pid == pid => Ok(rest.to_owned()),
            Some(_) => Err(LiveError::OtherWorker),
            None => Err(LiveError::Socket(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Who answers; none: nobody does. While workers change hands a connection may meet nobody, so that one
    /// is soon given up for another. One worker on a busy machine may be as slow, and is not gone.
    pub(super) async fn worker(&self) -> Option<Worker> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(answer) = tokio::time::timeout(GREETING, self.ask("show info")).await {
                return parse_info(&answer.ok()?);
            }
        }
        None
    }

    /// Sends commands in as few lines as fit; their answers one after the other.
    pub(super) async fn ask_all(&self, worker: &Worker, commands: &[Command]) -> Result<String, LiveError> {
        let mut answers = String::new();
        for line in lines_of(commands)? {
            answers.push_str(&self.ask_worker(worker.pid, &line).await?);
        }
        Ok(answers)
    }
}

/// Commands joined to lines that fit HAProxy's buffer. A payload belongs to the last command of its line, and an
/// empty line ends it.
fn lines_of(commands: &[Command]) -> Result<Vec<String>, LiveError> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for Command { text, payload } in commands {
        match lines.last_mut() {
            Some(line) if open && payload.is_none() && line.len() + text.len() < LINE => {
                line.push(';');
                line.push_str(text);
            }
            _ => lines.push(text.clone()),
        }
        open = payload.is_none();
        if let (Some(payload), Some(line)) = (payload, lines.last_mut()) {
            if line.len() + payload.0.len() > PAYLOAD {
                return Err(LiveError::TooLong(text.clone()));
            }
            line.push_str(" <<\n");
            line.push_str(&payload.0);
        }
    }
    Ok(lines)
}

/// `show info` ends with the first empty line.
fn split_info(answer: &str) -> (&str, &str) {
    answer.trim_start_matches('\n').split_once("\n\n").unwrap_or((answer, ""))
}

fn parse_info(text: &str) -> Option<Worker> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let description = field("description:").or_else(|| field("Description:"));
    Some(Worker {
        pid: field("Pid:")?.parse().ok()?,
        digest: description.and_then(|text| text.strip_prefix("interlock ")?.trim().parse().ok()),
    })
}
