//! Every way in which an engine cannot be reached ends with a message that says what, where and what to do.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use interlock::docker::{Client, DockerError};
use interlock_crds::{DockerSpec, DockerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::fake::Engine;

fn spec(host: &str) -> DockerSpec {
    DockerSpec { host: Some(host.to_owned()), ..DockerSpec::default() }
}

async fn fails(spec: DockerSpec) -> DockerError {
    match Client::connect(&spec) {
        Ok(client) => client.check().await.unwrap_err(),
        Err(error) => error,
    }
}

/// The message holds every part.
fn says(error: &DockerError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[tokio::test]
async fn sockets_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let unix = |name: &str| format!("unix://{}", dir.path().join(name).display());
    let missing = fails(spec(&unix("nothing.sock"))).await;
    assert!(matches!(missing, DockerError::SocketMissing { .. }));
    says(&missing, &["nothing.sock", "DOCKER_HOST", "-v /var/run/docker.sock"]);

    std::fs::write(dir.path().join("file"), "").unwrap();
    says(&fails(spec(&unix("file"))).await, &["is not a socket", "regular file"]);
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    says(&fails(spec(&unix("folder"))).await, &["directory", "Docker makes an empty directory"]);

    let dead = std::os::unix::net::UnixListener::bind(dir.path().join("dead.sock")).unwrap();
    drop(dead);
    let refused = fails(spec(&unix("dead.sock"))).await;
    assert!(matches!(refused, DockerError::Refused { .. }), "{refused:?}");
}

#[tokio::test]
async fn urls_that_name_no_engine() {
    for (url, part) in [
        ("http://127.0.0.1:2375", "where Docker writes tcp"),
        ("ssh://me@host", "ssh is not supported"),
        ("/var/run/docker.sock", "no scheme"),
        ("npipe:////./pipe/docker", "neither unix nor tcp"),
        ("tcp://127.0.0.1", "the port is missing"),
        ("unix://run/docker.sock", "absolute path"),
        ("tcp://a b:1", "cannot be read"),
    ] {
        says(&fails(spec(url)).await, &["does not name an engine", part, "tcp://host:2375"]);
    }
}

#[tokio::test]
async fn ports_that_refuse_or_are_something_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let refused = fails(spec(&format!("tcp://{closed}"))).await;
    assert!(matches!(refused, DockerError::Refused { .. }), "{refused:?}");
    says(&refused, &[&closed.to_string(), "start the engine"]);

    for (answer, variant) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope", "not a Docker engine"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>", "not a Docker engine"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "not a Docker engine"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not a Docker engine"),
        (
            "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            "speaks TLS, and no TLS files",
        ),
    ] {
        let address = answering(answer).await;
        says(&fails(spec(&format!("tcp://{address}"))).await, &[&address.to_string(), variant]);
    }
}

#[tokio::test]
async fn an_old_engine_is_told_apart() {
    let engine = Engine::start();
    engine.world().api = Some("1.30");
    says(&fails(spec(&engine.host())).await, &["1.30", "1.41", "upgrade"]);
    engine.world().api = Some("1.50");
    assert_eq!(engine.client().check().await.unwrap().api, "1.50");
}

#[tokio::test]
async fn a_read_only_client_writes_nothing() {
    let engine = Engine::start();
    let spec = DockerSpec { host: Some(engine.host()), read_only: true, ..DockerSpec::default() };
    let client = Client::connect(&spec).unwrap();
    let id = "web".parse().unwrap();
    let refused = interlock::docker::actions::attach(&client, "net", &id).await.unwrap_err();
    assert!(matches!(refused, DockerError::ReadOnly { .. }));
    says(&refused, &["--read-only-docker", "interlock-haproxy"]);
    assert!(interlock::docker::actions::detach(&client, "net", &id).await.is_err());
    assert_eq!(client.calls().total(), 0, "nothing was even sent");
    assert!(client.check().await.is_ok(), "reading works");
}

/// A server that says `answer` to whatever comes, on each of a few connections.
async fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

/// An authority and what it issued, as files for the client and as a server.
struct Pki {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Self { dir: tempfile::tempdir().unwrap(), issuer };
        let (cert, key) = pki.issue("client");
        let write = |name: &str, text: String| std::fs::write(pki.dir.path().join(name), text).unwrap();
        write("ca.pem", pki.issuer.pem());
        write("cert.pem", cert.pem());
        write("key.pem", key.serialize_pem());
        pki
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn files(&self) -> DockerTls {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        DockerTls { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") }
    }

    /// A TLS engine for `name` that wants clients of this authority; says `{"ApiVersion":"1.41"}`.
    async fn serve(&self, name: &str) -> SocketAddr {
        let (cert, key) = self.issue(name);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let body = r#"{"ApiVersion":"1.41"}"#;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        address
    }
}

fn with_tls(address: SocketAddr, tls: DockerTls) -> DockerSpec {
    DockerSpec { host: Some(format!("tcp://{address}")), tls: Some(tls), ..DockerSpec::default() }
}

#[tokio::test]
async fn tls_works_with_the_engine_s_own_authority_and_says_why_not_otherwise() {
    let (right, wrong) = (Pki::new(), Pki::new());
    let address = right.serve("127.0.0.1").await;
    let client = Client::connect(&with_tls(address, right.files())).unwrap();
    assert_eq!(client.check().await.unwrap().api, "1.41");

    let unknown = fails(with_tls(address, wrong.files())).await;
    assert!(matches!(unknown, DockerError::Tls { .. }), "{unknown:?}");
    says(&unknown, &["docker.tls.ca did not sign"]);

    let foreign_client = DockerTls { ca: right.files().ca, ..wrong.files() };
    says(
        &fails(with_tls(address, foreign_client)).await,
        &["TLS handshake", "does not accept docker.tls.cert"],
    );

    let elsewhere = right.serve("engine.example.com").await;
    says(&fails(with_tls(elsewhere, right.files())).await, &["for another name"]);

    let plain = answering("HTTP/1.0 400 Bad Request\r\n\r\n").await;
    says(&fails(with_tls(plain, right.files())).await, &["does not speak TLS", "2376"]);
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_are_named() {
    let pki = Pki::new();
    let path = |name: &str| pki.dir.path().join(name);
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let missing = DockerTls { ca: path("none.pem").display().to_string(), ..pki.files() };
    says(
        &fails(with_tls(address, missing)).await,
        &["certificate authority", "none.pem", "DOCKER_CERT_PATH"],
    );
    std::fs::write(path("junk.pem"), "junk").unwrap();
    let junk = DockerTls { cert: path("junk.pem").display().to_string(), ..pki.files() };
    says(&fails(with_tls(address, junk)).await, &["client certificate", "no certificate in it"]);
    let (_, other) = pki.issue("other");
    std::fs::write(path("other.pem"), other.serialize_pem()).unwrap();
    let mismatch = DockerTls { key: path("other.pem").display().to_string(), ..pki.files() };
    let error = fails(with_tls(address, mismatch)).await;
    assert!(
        matches!(&error, DockerError::TlsFile { what: "client key", path, .. } if path.ends_with(Path::new("other.pem"))),
        "{error:?}"
    );
}
