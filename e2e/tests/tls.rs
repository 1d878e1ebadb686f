//! Certificates: served to the right names, refused to others, and a bad one costs only its own route.

use std::net::SocketAddr;

use interlock_e2e::stage::{SOON, serving};
use interlock_e2e::tls::{authority, issue};
use interlock_e2e::world::Kind;
use interlock_e2e::{Call, Operator, Result, World, ensure, ensure_eq, eventually};
use serde_json::json;

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

/// A key that nobody may read, and one that is not there: a finding each, served without TLS, others unharmed. And
/// what is sound is answered over h2 too.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_key_costs_its_own_route_its_tls() -> Result {
    World::run("unreadable", async |world| {
        let authority = authority()?;
        let hosts = ["sound", "locked", "lost"].map(|short| world.host(short));
        let network = world.network("net").await?;
        let cluster = |kind: Kind| {
            json!({ "name": kind.as_str(), "spec": {
                "proxy": kind.as_str(),
                "proxies": [world.name(kind.as_str())],
                "certificates": { "directory": "/certificates" },
            }})
        };
        let mut start =
            Operator::of(world).config(json!({ "clusters": Kind::ALL.map(cluster) })).without("DAC_OVERRIDE");
        for (short, host) in ["sound", "locked", "lost"].into_iter().zip(&hosts) {
            let (certificate, key) = issue(&authority, host)?;
            start = start.file(&format!("/certificates/{short}.pem"), certificate.as_bytes());
            start = match short {
                "sound" => start.file("/certificates/sound.key", key.as_bytes()),
                "locked" => start.file_of_mode("/certificates/locked.key", key.as_bytes(), 0o000),
                _ => start,
            };
        }
        let operator = start.ready().await?;
        let mut proxies = Vec::new();
        for kind in Kind::ALL {
            let proxy = world.proxy(kind, &network).start().await?;
            proxies.push((kind.as_str(), serving(&proxy, &network).await?));
        }
        for (short, host) in ["sound", "locked", "lost"].into_iter().zip(&hosts) {
            let run = world.app(short, &network).label("interlock.host", host).label("interlock.ssl", "true");
            let run = run.label("interlock.ssl_cert", &format!("{short}.pem"));
            run.label("interlock.ssl_cert_key", &format!("{short}.key")).start().await?;
        }
        let roots = [authority.der().clone()];
        for (kind, http) in proxies {
            let https = SocketAddr::new(http.ip(), 443);
            for (short, host) in ["sound", "locked", "lost"].into_iter().zip(&hosts) {
                eventually(SOON, &format!("{kind}: {short} over plain HTTP"), async || {
                    ensure_eq!(Call::get(http, host, "/").send().await?.app()?, short, "the app");
                    Ok(())
                })
                .await?;
                let tls = Call::get(https, host, "/").tls(&roots).send().await;
                ensure_eq!(tls.is_ok(), short == "sound", "{kind}: {short} over TLS");
            }
            let h2 = interlock_e2e::bare::tls(https, &hosts[0], "/", true)?;
            ensure!(h2.status == 200 && h2.body.contains("sound"), "{kind}: h2: {h2:?}");
        }
        let lint = operator.cli(&["lint", "-o", "json"]).await?;
        for short in ["locked", "lost"] {
            let told =
                lint.out.contains(&format!("{short}.key")) || lint.out.contains(&format!("{short}.pem"));
            ensure!(told, "{short}: {}{}", lint.out, lint.err);
        }
        ensure!(!lint.out.contains("sound.pem"), "the sound one is blamed: {}", lint.out);
        Ok(())
    })
    .await
}

/// A renewed file in the folder: HAProxy serves it without a reload, and connections that are kept stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_served_without_a_reload() -> Result {
    World::run("renewed", async |world| {
        let authority = authority()?;
        let host = world.host("shop");
        let (certificate, key) = issue(&authority, &host)?;
        let network = world.network("net").await?;
        let operator = Operator::of(world)
            .config(json!({ "clusters": [{ "name": "haproxy", "spec": {
                "proxy": "haproxy",
                "proxies": [world.name("haproxy")],
                "certificates": { "directory": "/certificates" },
            }}] }))
            .file("/certificates/shop.pem", format!("{certificate}{key}").as_bytes())
            .ready()
            .await?;
        let proxy = world.proxy(Kind::Haproxy, &network).start().await?;
        let https = SocketAddr::new(serving(&proxy, &network).await?.ip(), 443);
        let app = world.app("shop", &network).label("interlock.host", &host);
        app.label("interlock.ssl", "true").label("interlock.ssl_cert", "shop.pem").start().await?;
        let roots = [authority.der().clone()];
        eventually(SOON, "the shop over TLS", async || {
            Call::get(https, &host, "/").tls(&roots).send().await?.expect(200).map(drop)
        })
        .await?;
        eventually(SOON, "what was asked for runs", async || {
            ensure!(operator.metric("interlock_out_of_sync", &[]).await? < 0.5, "out of sync");
            Ok(())
        })
        .await?;
        let reloads = operator.metric("interlock_reloads_total", &[]).await?;
        let before = interlock_e2e::tls::presented(https, &host, &roots).await?;

        let (certificate, key) = issue(&authority, &host)?;
        operator.container.put("/certificates/shop.pem", format!("{certificate}{key}").as_bytes()).await?;
        eventually(SOON, "the renewed certificate", async || {
            let now = interlock_e2e::tls::presented(https, &host, &roots).await?;
            ensure!(now != before, "the old one is still presented");
            Ok(())
        })
        .await?;
        let now = operator.metric("interlock_reloads_total", &[]).await?;
        ensure!((now - reloads).abs() < 0.5, "{} reloads", now - reloads);
        Call::get(https, &host, "/").tls(&roots).send().await?.expect(200).map(drop)
    })
    .await
}
