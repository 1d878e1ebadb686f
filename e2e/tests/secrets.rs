//! Canaries: a key and a password that are unique are searched for in everything that Interlock writes.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interlock_e2e::stage::serving;
use interlock_e2e::tls::{authority, issue};
use interlock_e2e::world::Kind;
use interlock_e2e::{Call, Container, Operator, Result, World, ensure, ensure_eq, eventually};
use serde_json::json;

/// An operator that writes down every frame is slow, and slower yet beside other tests.
const LATE: Duration = Duration::from_secs(90);
/// The only folder of a proxy's container where secrets belong.
const SECRETS: &str = "run/interlock/secrets/";
/// Where the test itself put them into the operator's container.
const GIVEN: &str = "certificates/";

struct Canaries(Vec<(&'static str, Vec<u8>)>);

impl Canaries {
    /// A key's own lines (one line is enough to be a leak), and the password in each form that HTTP gives it.
    fn new(key: &str, user: &str, password: &str) -> Self {
        let lines = key.lines().filter(|line| !line.starts_with('-') && line.len() > 20);
        let mut canaries: Vec<_> =
            lines.map(|line| ("a line of the key", line.as_bytes().to_vec())).collect();
        canaries.push(("the password", password.as_bytes().to_vec()));
        for text in [password.to_owned(), format!("{user}:{password}")] {
            canaries.push(("the password in base64", STANDARD.encode(text).into_bytes()));
        }
        Self(canaries)
    }

    fn found(&self, text: &[u8]) -> Option<&'static str> {
        let within = |canary: &[u8]| text.windows(canary.len()).any(|part| part == canary);
        self.0.iter().find(|(_, canary)| within(canary)).map(|(what, _)| *what)
    }

    fn absent(&self, place: &str, text: &str) -> Result {
        ensure!(
            self.found(text.as_bytes()).is_none(),
            "{place} shows {:?}: {text}",
            self.found(text.as_bytes())
        );
        Ok(())
    }

    /// Searches a container's own file system; the number of files with a canary in the places where they belong.
    async fn search(&self, container: &Container, allowed: &str) -> Result<usize> {
        let mut there = 0;
        for (path, content) in container.export().await? {
            if let Some(what) = self.found(&content) {
                ensure!(path.starts_with(allowed), "{}: {path} holds {what}", container.name);
                there += 1;
            }
        }
        Ok(there)
    }
}

const HISTORY: [&str; 5] = ["rollout", "history", "servicecluster/haproxy", "-o", "yaml"];

/// Makes generations of a cluster: one that every proxy runs, one after it, and the first one brought back.
async fn undone(operator: &Operator, document: &serde_json::Value) -> Result {
    let status = ["rollout", "status", "servicecluster/haproxy"];
    ensure_eq!(operator.cli(&status).await?.code, 0, "the cluster is programmed");
    let other = document.to_string().replace("\"proxy\":\"haproxy\"", "\"proxy\":\"haproxy\",\"holdMax\":7");
    operator.container.put("/documents.yaml", other.as_bytes()).await?;
    ensure_eq!(operator.cli(&["apply", "-f", "/documents.yaml"]).await?.code, 0, "the cluster is changed");
    ensure_eq!(operator.cli(&["rollout", "undo", "servicecluster/haproxy"]).await?.code, 0, "and back");
    eventually(LATE, "what was rendered is kept", async || {
        let said = operator.cli(&HISTORY).await?;
        ensure!(said.out.contains("fragments:"), "{}{}", said.out, said.err);
        Ok(())
    })
    .await
}

/// Searches what the commands say.
async fn speaks(operator: &Operator, canaries: &Canaries, host: &str, refused: &str) -> Result {
    for words in [
        &["render"][..],
        &HISTORY,
        &["backup", "-"],
        &["get", "serviceclusters", "-o", "yaml"],
        &["describe", "servicecluster", "haproxy"],
        &["events"],
        &["render", "-o", "json"],
        &["why", host, "-o", "json"],
        &["why", refused],
        &["lint", "-o", "yaml"],
        &["observe"],
        &["config", "view", "--config", "/etc/interlock/interlock.yaml"],
    ] {
        let said = operator.cli(words).await?;
        ensure!(!said.out.is_empty(), "{words:?} said nothing: {}", said.err);
        canaries.absent(&format!("{words:?}"), &format!("{}{}", said.out, said.err))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_but_where_they_belong() -> Result {
    World::run("secrets", async |world| {
        let (authority, host) = (authority()?, world.host("shop"));
        let (certificate, key) = issue(&authority, &host)?;
        let password = format!("pass-{}", &key.lines().nth(1).unwrap_or_default()[20..40]);
        let canaries = Canaries::new(&key, "watcher", &password);
        let network = world.network("net").await?;
        let cluster = |kind: Kind| {
            json!({ "name": kind.as_str(), "spec": {
                "proxy": kind.as_str(),
                "proxies": [world.name(kind.as_str())],
                "certificates": { "directory": "/certificates" },
                "stats": { "user": "watcher", "passwordFile": "/certificates/password" },
            }})
        };
        // One of them is the configuration's, the other one a document's.
        let document = json!({
            "apiVersion": "interlock.dev/v1alpha1", "kind": "ServiceCluster",
            "metadata": { "name": "haproxy" }, "spec": cluster(Kind::Haproxy)["spec"],
        });
        let operator = Operator::of(world)
            .config(json!({
                "clusters": [cluster(Kind::Nginx)], "log": { "level": "trace,interlock=trace" }, "pace": { "resync": "1s" },
            }))
            .file("/certificates/shop.pem", certificate.as_bytes())
            .file("/certificates/shop.key", key.as_bytes())
            .file("/certificates/password", password.as_bytes())
            .ready()
            .await?;
        operator.container.put("/documents.yaml", document.to_string().as_bytes()).await?;
        ensure_eq!(operator.cli(&["apply", "-f", "/documents.yaml"]).await?.code, 0, "the cluster is applied");
        let mut proxies = Vec::new();
        for kind in Kind::ALL {
            let proxy = world.proxy(kind, &network).start().await?;
            let http = serving(&proxy, &network).await?;
            proxies.push((kind, proxy, http));
        }
        let app = world.app("shop", &network).label("interlock.host", &host).label("interlock.ssl", "true");
        let app = app.label("interlock.ssl_cert", "shop.pem").label("interlock.ssl_cert_key", "shop.key");
        app.start().await?;
        let roots = [authority.der().clone()];
        for (kind, _, http) in &proxies {
            let https = std::net::SocketAddr::new(http.ip(), 443);
            eventually(LATE, &format!("{}: TLS", kind.as_str()), async || {
                ensure_eq!(Call::get(https, &host, "/").tls(&roots).send().await?.app()?, "shop", "the app");
                Ok(())
            })
            .await?;
        }
        let login = format!("Basic {}", STANDARD.encode(format!("watcher:{password}")));
        let page = Call::get(proxies[0].2, &host, "/haproxy?stats").header("authorization", &login);
        page.send().await?.expect(200)?;

        // A refusal by the proxy's own checker: a route that verifies its app; the stock nginx has no trust store.
        let refused = world.host("refused");
        let app = world.app("refused", &network).label("interlock.host", &refused);
        let app =
            app.label("interlock.ssl_backend", "true").label("interlock.ssl_backend_tls_verify", "required");
        app.start().await?;
        eventually(LATE, "the refusal is told", async || {
            let lint = operator.cli(&["lint", "-o", "json"]).await?;
            ensure!(lint.out.contains("Quarantined"), "{}", lint.out);
            Ok(())
        })
        .await?;
        // Drift in a file that names the secrets, and in a secret itself.
        for (kind, proxy, _) in &proxies {
            let main = match kind {
                Kind::Haproxy => "/usr/local/etc/haproxy/haproxy.cfg",
                Kind::Nginx => "/etc/nginx/nginx.conf",
            };
            let edit = format!("echo '# by hand' >>{main}; for f in /{SECRETS}*.pem; do : >$f; done");
            ensure_eq!(proxy.exec(&["sh", "-c", &edit]).await?.code, 0, "editing");
            eventually(LATE, "it is healed", async || {
                let healed = format!("for f in /{SECRETS}*.pem; do test -s $f || exit 1; done");
                ensure_eq!(proxy.exec(&["sh", "-c", &healed]).await?.code, 0, "the key is back");
                Ok(())
            })
            .await?;
        }

        undone(&operator, &document).await?;
        speaks(&operator, &canaries, &host, &refused).await?;
        canaries.absent("metrics", &operator.metrics().await?)?;
        canaries.absent("the operator's log", &operator.container.logs().await?)?;
        let given = canaries.search(&operator.container, GIVEN).await?;
        ensure_eq!(given, 2, "the search sees what the test itself put there");
        for (kind, proxy, _) in &proxies {
            canaries.absent("the proxy's log", &proxy.logs().await?)?;
            let there = canaries.search(proxy, SECRETS).await?;
            ensure!(there >= 1, "{}: no secret where it belongs", kind.as_str());
        }
        Ok(())
    })
    .await
}
