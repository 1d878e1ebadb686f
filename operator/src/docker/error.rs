//! What can go wrong between Interlock and an engine: what, where, and how to mend it.

use std::error::Error as _;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bollard::errors::Error as Bollard;

/// A failed call, with a message that a person can act on. Never holds the content of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerError {
    /// The unix socket does not exist.
    #[error(
        "there is no Docker socket at {}: start the engine, mount the socket into this container \
         (-v /var/run/docker.sock:/var/run/docker.sock) or name another with DOCKER_HOST or docker.host",
        path.display()
    )]
    SocketMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The path is something else than a socket.
    #[error(
        "{} is not a socket but a {kind}{}",
        path.display(),
        if *kind == "directory" {
            ": Docker makes an empty directory where a mounted socket does not exist; \
             remove it, start the engine and recreate this container"
        } else {
            ": name the engine's socket with DOCKER_HOST or docker.host"
        }
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The socket may not be opened by this user.
    #[error(
        "no permission to open the Docker socket {}: it belongs to group {group} (mode {mode:o}) and this process \
         runs as user {uid}; add the user to the group, or start the container with --group-add {gid}",
        path.display()
    )]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
        /// The group's name, or its number.
        group: String,
        /// The group's number.
        gid: u32,
        /// The permission bits.
        mode: u32,
        /// The user that this process runs as.
        uid: u32,
    },
    /// Nobody listens.
    #[error(
        "nothing listens at {host}: start the engine there (for a tcp:// host dockerd needs -H {host}), \
         or correct DOCKER_HOST or docker.host"
    )]
    Refused {
        /// The engine's URL.
        host: String,
    },
    /// The host's name has no address.
    #[error(
        "the name of the engine {host} cannot be resolved: correct DOCKER_HOST or docker.host, or the DNS"
    )]
    Unresolved {
        /// The engine's URL.
        host: String,
    },
    /// The URL cannot be used.
    #[error(
        "`{host}` does not name an engine: {why}; write unix:///var/run/docker.sock, tcp://host:2375, \
         or tcp://host:2376 with TLS files"
    )]
    Url {
        /// The URL as it was given.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// A TLS file cannot be used.
    #[error("the {what} {} cannot be used: {why}; correct docker.tls or DOCKER_CERT_PATH", path.display())]
    TlsFile {
        /// Which of the three.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The handshake failed.
    #[error("the TLS handshake with {host} failed: {why}; {fix}")]
    Tls {
        /// The engine's URL.
        host: String,
        /// What the TLS library said.
        why: String,
        /// What to do.
        fix: &'static str,
    },
    /// Plain HTTP was spoken to a TLS port.
    #[error(
        "{host} speaks TLS, and no TLS files are configured: set docker.tls (ca, cert, key), \
         or DOCKER_TLS_VERIFY=1 with DOCKER_CERT_PATH"
    )]
    TlsNeeded {
        /// The engine's URL.
        host: String,
    },
    /// Something answers that is not Docker.
    #[error("what answers at {host} is not a Docker engine ({why}): correct DOCKER_HOST or docker.host")]
    NotDocker {
        /// The engine's URL.
        host: String,
        /// What was seen.
        why: String,
    },
    /// The engine is older than what Interlock was tried with.
    #[error(
        "the engine at {host} speaks API {found}, Interlock needs {needed} (Docker 20.10) or newer: upgrade the engine"
    )]
    ApiTooOld {
        /// The engine's URL.
        host: String,
        /// What it speaks.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// No answer in time.
    #[error(
        "{host} did not answer `{call}` within {seconds} s: the engine hangs or a firewall drops the packets"
    )]
    Timeout {
        /// The engine's URL.
        host: String,
        /// The call.
        call: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The call would write, and the client was told only to read.
    #[error(
        "`{call}` was not sent: the Docker API is used read-only (--read-only-docker, docker.readOnly); \
         use the interlock-haproxy or interlock-nginx image, which need no such call, or allow writing"
    )]
    ReadOnly {
        /// The call.
        call: &'static str,
    },
    /// The object does not exist (any more).
    #[error("`{call}`: {message}")]
    NotFound {
        /// The call.
        call: &'static str,
        /// The engine's words.
        message: String,
    },
    /// The engine, or a filter in front of it, forbids the call.
    #[error(
        "the engine at {host} forbids `{call}` ({message}): allow it in the socket's filter, or see --read-only-docker"
    )]
    Forbidden {
        /// The engine's URL.
        host: String,
        /// The call.
        call: &'static str,
        /// The engine's words.
        message: String,
    },
    /// Any other refusal.
    #[error("the engine refused `{call}` with status {status}: {message}")]
    Answer {
        /// The call.
        call: &'static str,
        /// The HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The connection broke, or an answer could not be understood.
    #[error("`{call}` to {host} failed: {why}")]
    Broken {
        /// The engine's URL.
        host: String,
        /// The call.
        call: &'static str,
        /// What was seen.
        why: String,
    },
}

impl DockerError {
    /// Whether the object that was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Explains an error of the library; `tls` says whether TLS is configured.
    pub(super) fn explain(host: &str, tls: bool, call: &'static str, error: &Bollard) -> Self {
        match error {
            Bollard::DockerResponseServerError { status_code, message } => {
                Self::from_status(host, call, *status_code, message)
            }
            Bollard::RequestTimeoutError => {
                Self::Timeout { host: host.to_owned(), call, seconds: super::client::TIMEOUT.as_secs() }
            }
            Bollard::JsonDataError { message, .. } => Self::NotDocker {
                host: host.to_owned(),
                why: format!("the answer to `{call}` is not what Docker says: {}", short(message)),
            },
            Bollard::JsonSerdeError { err } => Self::NotDocker {
                host: host.to_owned(),
                why: format!("the answer to `{call}` is not JSON: {}", short(&err.to_string())),
            },
            other => Self::from_transport(host, tls, call, other),
        }
    }

    fn from_status(host: &str, call: &'static str, status: u16, message: &str) -> Self {
        // A TLS engine answers a plain request with a 400 and this sentence (Go's net/http).
        if message.contains("HTTP request to an HTTPS server") {
            return Self::TlsNeeded { host: host.to_owned() };
        }
        let message = short(message);
        match status {
            404 => Self::NotFound { call, message },
            401 | 403 => Self::Forbidden { host: host.to_owned(), call, message },
            _ => Self::Answer { call, status, message },
        }
    }

    fn from_transport(host: &str, tls: bool, call: &'static str, error: &Bollard) -> Self {
        let mut texts = vec![error.to_string()];
        let mut io_kind = None;
        let mut handshake = None;
        let mut at: Option<&(dyn std::error::Error + 'static)> = error.source();
        // Transparent errors hide themselves from `source`, so the innermost io error is looked for in both.
        if let Bollard::IOError { err } = error {
            io_kind = Some(err.kind());
        }
        while let Some(cause) = at {
            texts.push(cause.to_string());
            // An io error hides what it wraps from `source`, and may wrap another io error.
            let mut wrapped = cause.downcast_ref::<io::Error>();
            while let Some(io) = wrapped {
                io_kind.get_or_insert(io.kind());
                let inner = io.get_ref();
                handshake =
                    handshake.or_else(|| inner.and_then(|e| e.downcast_ref::<rustls::Error>()).cloned());
                wrapped = inner.and_then(|e| e.downcast_ref::<io::Error>());
            }
            if let Some(inner) = cause.downcast_ref::<rustls::Error>() {
                handshake = Some(inner.clone());
            }
            at = cause.source();
        }
        texts.dedup();
        let why = short(&texts.join(": "));
        let host_name = host.to_owned();
        if let Some(path) = host.strip_prefix("unix://")
            && let Some(found) = Self::from_path(Path::new(path), io_kind)
        {
            return found;
        }
        if let Some(error) = handshake {
            return Self::from_handshake(host, &error);
        }
        if tls && why.contains("InvalidContentType") {
            return Self::from_handshake(host, &rustls::Error::General(why));
        }
        if why.contains("dns error") || why.contains("failed to lookup address") {
            return Self::Unresolved { host: host_name };
        }
        match io_kind {
            Some(io::ErrorKind::ConnectionRefused) => Self::Refused { host: host_name },
            _ if why.contains("invalid HTTP") || why.contains("InvalidVersion") => {
                Self::NotDocker { host: host_name, why }
            }
            _ => Self::Broken { host: host_name, call, why },
        }
    }

    fn from_handshake(host: &str, error: &rustls::Error) -> Self {
        use rustls::{CertificateError, Error as Tls};
        let fix = match error {
            Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                "docker.tls.ca did not sign the engine's certificate: name the right ca.pem"
            }
            Tls::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => {
                "the engine's certificate is for another name: use that name in docker.host, or issue it for this one"
            }
            Tls::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "the engine's certificate has expired: renew it"
            }
            Tls::AlertReceived(_) => {
                "the engine does not accept docker.tls.cert: it must be signed by the engine's --tlscacert"
            }
            Tls::InvalidMessage(_) | Tls::General(_) => {
                "what listens there does not speak TLS: use its TLS port (2376 by custom), or remove docker.tls"
            }
            _ => "check docker.tls.ca, docker.tls.cert and docker.tls.key",
        };
        Self::Tls { host: host.to_owned(), why: short(&error.to_string()), fix }
    }

    /// Looks at the socket's path; none when it looks sound.
    fn from_path(path: &Path, kind: Option<io::ErrorKind>) -> Option<Self> {
        let owned = path.to_owned();
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Some(Self::denied(owned, path.parent().and_then(|p| fs::metadata(p).ok()).as_ref()));
            }
            Err(_) => return Some(Self::SocketMissing { path: owned }),
        };
        let file_type = meta.file_type();
        if !file_type.is_socket() {
            let kind = if file_type.is_dir() {
                "directory"
            } else if file_type.is_file() {
                "regular file"
            } else {
                "special file"
            };
            return Some(Self::NotASocket { path: owned, kind });
        }
        (kind == Some(io::ErrorKind::PermissionDenied)).then(|| Self::denied(owned, Some(&meta)))
    }

    fn denied(path: PathBuf, meta: Option<&fs::Metadata>) -> Self {
        let gid = meta.map_or(0, fs::Metadata::gid);
        let mode = meta.map_or(0, fs::Metadata::mode) & 0o7777;
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        let group =
            group_name(&groups, gid).map_or_else(|| gid.to_string(), |name| format!("{name} ({gid})"));
        Self::PermissionDenied { path, group, gid, mode, uid: rustix::process::geteuid().as_raw() }
    }
}

/// A group's name in the text of `/etc/group`.
fn group_name(groups: &str, gid: u32) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    })
}

/// Bounds and cleans the words of others before they are shown.
fn short(text: &str) -> String {
    let clean: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    if clean.is_empty() { "no reason given".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_names_come_from_the_third_field() {
        let text = "root:x:0:\ndocker:x:998:me\nbad\n";
        assert_eq!(group_name(text, 998), Some("docker"));
        assert_eq!(group_name(text, 5), None);
    }

    #[test]
    fn a_socket_of_another_group_names_the_group_and_both_remedies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = DockerError::from_path(&path, Some(io::ErrorKind::PermissionDenied)).unwrap();
        let text = error.to_string();
        assert!(text.contains("belongs to group") && text.contains("--group-add"), "{text}");
    }

    #[test]
    fn the_words_of_others_are_bounded_and_clean() {
        let text = short(&format!("a\u{1b}[2J\n{}", "x".repeat(2000)));
        assert!(text.chars().count() <= 400 && !text.chars().any(char::is_control));
    }
}
