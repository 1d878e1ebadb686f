//! How requests travel: unix socket, plain TCP, or TLS with the engine's own authority; one pool each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::{BollardRequest, Docker};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use interlock_crds::DockerTls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::DockerError;

/// A dead peer of a quiet TCP connection is found after about this long, three times.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Connecting takes longer only where packets are dropped.
const CONNECT: Duration = Duration::from_secs(10);

/// The engine's own clock, in seconds since the epoch, as its last answer's `Date` said; 0: none yet.
#[derive(Debug, Clone, Default)]
pub(super) struct EngineClock(Arc<AtomicU64>);

impl EngineClock {
    pub(super) fn seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, headers: &hyper::HeaderMap) {
        let date = headers.get(hyper::header::DATE).and_then(|value| value.to_str().ok());
        let seconds = date
            .and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
            .and_then(|time| u64::try_from(time.timestamp().as_second()).ok());
        if let Some(seconds) = seconds {
            self.0.store(seconds, Ordering::Relaxed);
        }
    }
}

/// Makes the library's client over one pooled HTTP client of our own.
macro_rules! docker_over {
    ($connector:expr, $address:expr, $clock:expr, $timeout:expr) => {{
        let http = Http::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build($connector);
        let clock: EngineClock = $clock;
        Docker::connect_with_custom_transport(
            move |request: BollardRequest| {
                let answer = http.request(request);
                let clock = clock.clone();
                async move {
                    let answer = answer.await.map_err(bollard::errors::Error::from)?;
                    clock.note(answer.headers());
                    Ok(answer)
                }
            },
            Some($address),
            $timeout,
            bollard::API_DEFAULT_VERSION,
        )
    }};
}

/// Builds the client for `host`; nothing is sent yet.
pub(super) fn build(
    host: &str,
    tls: Option<&DockerTls>,
    clock: EngineClock,
    timeout: Duration,
) -> Result<Docker, DockerError> {
    let url = |why: &str| DockerError::Url { host: host.to_owned(), why: why.to_owned() };
    let seconds = timeout.as_secs();
    let built = if let Some(path) = host.strip_prefix("unix://") {
        if !path.starts_with('/') {
            return Err(url("a unix socket needs an absolute path (three slashes)"));
        }
        let address = hyperlocal::Uri::new(path, "/");
        let address: hyper::Uri = address.into();
        docker_over!(
            hyperlocal::UnixConnector,
            address.to_string().trim_end_matches('/').to_owned(),
            clock,
            seconds
        )
    } else if let Some(rest) = host.strip_prefix("tcp://") {
        let authority = rest.trim_end_matches('/');
        let parsed: hyper::http::uri::Authority =
            authority.parse().map_err(|_| url("host and port cannot be read"))?;
        if parsed.port_u16().is_none() {
            return Err(url("the port is missing"));
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_connect_timeout(Some(CONNECT));
        if let Some(files) = tls {
            let tls = HttpsConnectorBuilder::new()
                .with_tls_config(client_config(files)?)
                .https_only()
                .enable_http1()
                .wrap_connector(tcp);
            docker_over!(tls, format!("https://{authority}"), clock, seconds)
        } else {
            docker_over!(tcp, format!("http://{authority}"), clock, seconds)
        }
    } else {
        let why = match host.split_once("://") {
            Some(("http" | "https", _)) => "it begins with http, where Docker writes tcp",
            Some(("ssh", _)) => {
                "ssh is not supported; forward the socket (ssh -L /run/remote.sock:/var/run/docker.sock)"
            }
            Some(_) => "its scheme is neither unix nor tcp",
            None => "it has no scheme",
        };
        return Err(url(why));
    };
    built.map_err(|error| url(&error.to_string()))
}

fn client_config(files: &DockerTls) -> Result<rustls::ClientConfig, DockerError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates("certificate authority", Path::new(&files.ca))? {
        roots.add(certificate).map_err(|e| file_error("certificate authority", Path::new(&files.ca), &e))?;
    }
    let chain = certificates("client certificate", Path::new(&files.cert))?;
    let key_path = Path::new(&files.key);
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|e| file_error("client key", key_path, &e))?;
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| file_error("client certificate", Path::new(&files.cert), &e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| file_error("client key", key_path, &e))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, DockerError> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| file_error(what, path, &e))?.collect();
    let all = all.map_err(|e| file_error(what, path, &e))?;
    if all.is_empty() {
        return Err(file_error(what, path, &"there is no certificate in it"));
    }
    Ok(all)
}

fn file_error(what: &'static str, path: &Path, why: &dyn std::fmt::Display) -> DockerError {
    DockerError::TlsFile { what, path: path.to_owned(), why: why.to_string() }
}
