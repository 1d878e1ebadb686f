//! Certificates: served to the right names, refused to others, and a bad one costs only its own route.

use std::net::SocketAddr;

use interlock_e2e::stage::{SOON, serving};
use interlock_e2e::world::Kind;
use interlock_e2e::{Call, Operator, Result, World, ensure, ensure_eq, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Certificate and key for a name, as PEM.
fn issue(authority: &Authority, host: &str) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_served_by_name_and_a_bad_one_costs_its_own_route() -> Result {
    World::run("tls", async |world| {
        let authority = authority()?;
        let (host, plain, broken) = (world.host("shop"), world.host("plain"), world.host("broken"));
        let (certificate, key) = issue(&authority, &host)?;
        let (other, _) = issue(&authority, &broken)?;
        let network = world.network("net").await?;
        let clusters: Vec<_> = Kind::ALL
            .iter()
            .map(|kind| {
                json!({ "name": kind.as_str(), "spec": {
                    "proxy": kind.as_str(),
                    "proxies": [world.name(kind.as_str())],
                    "certificates": { "directory": "/certificates" },
                }})
            })
            .collect();
        let operator = Operator::of(world)
            .config(json!({ "clusters": clusters }))
            .file("/certificates/shop.pem", certificate.as_bytes())
            .file("/certificates/shop.key", key.as_bytes())
            .file("/certificates/broken.pem", other.as_bytes())
            // Another certificate's key.
            .file("/certificates/broken.key", key.as_bytes())
            .ready()
            .await?;
        let mut proxies: Vec<(Kind, SocketAddr, SocketAddr)> = Vec::new();
        for kind in Kind::ALL {
            let proxy = world.proxy(kind, &network).start().await?;
            let http = serving(&proxy, &network).await?;
            proxies.push((kind, http, SocketAddr::new(http.ip(), 443)));
        }
        let tls = |name: &str, host: &str, files: &str| {
            let run = world.app(name, &network).label("interlock.host", host).label("interlock.ssl", "true");
            let run = run.label("interlock.ssl_cert", &format!("{files}.pem"));
            run.label("interlock.ssl_cert_key", &format!("{files}.key"))
        };
        tls("shop", &host, "shop").label("interlock.ssl_only", "true").start().await?;
        tls("broken", &broken, "broken").start().await?;
        tls("climber", &world.host("climber"), "../../etc/interlock/interlock").start().await?;
        world.app("plain", &network).label("interlock.host", &plain).start().await?;

        let roots = [authority.der().clone()];
        for (kind, http, https) in proxies {
            let kind = kind.as_str();
            eventually(SOON, &format!("{kind}: the shop over TLS"), async || {
                let answer = Call::get(https, &host, "/").tls(&roots).send().await?.expect(200)?;
                ensure_eq!(answer.app()?, "shop", "the app");
                Ok(())
            })
            .await?;
            let redirect = Call::get(http, &host, "/x?a=b").send().await?;
            ensure_eq!(redirect.status, 302, "{kind}: plain HTTP is redirected");
            ensure_eq!(
                redirect.header("location"),
                Some(format!("https://{host}/x?a=b").as_str()),
                "{kind}: to where"
            );
            let unknown = Call::get(https, &plain, "/").tls(&roots).send().await;
            ensure!(unknown.is_err(), "{kind}: a name without a certificate was answered: {unknown:?}");
            eventually(SOON, &format!("{kind}: the neighbour serves"), async || {
                ensure_eq!(Call::get(http, &plain, "/").send().await?.app()?, "plain", "the app");
                Ok(())
            })
            .await?;
        }
        let lint = operator.cli(&["lint", "-o", "json"]).await?;
        ensure!(lint.out.contains("CertificateInvalid"), "lint: {}{}", lint.out, lint.err);
        let logs = operator.container.logs().await?;
        ensure!(!logs.contains("PRIVATE KEY") && !lint.out.contains("PRIVATE KEY"), "a key was shown");
        let render = operator.cli(&["render"]).await?;
        ensure!(!render.out.contains("PRIVATE KEY"), "a key was rendered");
        Ok(())
    })
    .await
}
