//! Authorities and certificates that a test makes for itself.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Result, http};

/// Signs certificates; its own is the root that clients trust.
pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// A new authority.
pub fn authority() -> Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Certificate and key for a name, as PEM.
pub fn issue(authority: &Authority, host: &str) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// The certificate that a name is presented.
pub async fn presented(
    address: SocketAddr,
    host: &str,
    roots: &[CertificateDer<'static>],
) -> Result<CertificateDer<'static>> {
    let tls = TlsConnector::from(Arc::new(http::client_config(roots)?));
    let stream =
        tls.connect(ServerName::try_from(host.to_owned())?, TcpStream::connect(address).await?).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.ok_or("no certificate")?.clone())
}
