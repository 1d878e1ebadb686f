//! The story of a route on a real engine: lint, diff, apply, wait, get, why, describe, change, delete; and what is
//! applied outlives the operator.

use interlock_e2e::stage::{Proxy, SOON, Stage, serving};
use interlock_e2e::world::Kind;
use interlock_e2e::{Operator, Result, World, ensure, eventually};

const FILE: &str = "/routes.yaml";

fn route(host: &str, container: &str, more: &str) -> String {
    format!(
        "apiVersion: interlock.dev/v1alpha1\nkind: Route\nmetadata: {{name: shop, labels: {{team: shop}}}}\nspec:\n  \
         hostnames: [{host}]\n{more}  rules:\n  - backendRefs: [{{name: {container}}}]\n"
    )
}

/// Both proxies, two apps without labels and an operator.
async fn stage(world: &World) -> Result<Stage<'_>> {
    let network = world.network("net").await?;
    let state = world.volume("state").await?;
    let operator = Operator::of(world).volume(&format!("{state}:/var/lib/interlock")).ready().await?;
    let mut proxies = Vec::new();
    for kind in Kind::ALL {
        let container = world.proxy(kind, &network).start().await?;
        let http = serving(&container, &network).await?;
        proxies.push(Proxy { kind, container, http });
    }
    let stage = Stage { world, network, operators: vec![operator], proxies };
    stage.app("one").start().await?;
    stage.app("two").start().await?;
    Ok(stage)
}

/// A command that must end with this code.
async fn tells(operator: &Operator, code: i64, arguments: &[&str]) -> Result<String> {
    let done = operator.cli(arguments).await?;
    ensure!(done.code == code, "interlock {arguments:?} ended with {}: {}{}", done.code, done.out, done.err);
    Ok(format!("{}{}", done.out, done.err))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_from_its_first_line_to_its_end() -> Result {
    World::run("declared", async |world| {
        let stage = stage(world).await?;
        let operator = stage.operator();
        let (host, other) = (world.host("shop"), world.host("other"));
        let (one, two) = (world.name("one"), world.name("two"));

        // A slip of the pen is found before anybody is asked, and refused by whoever is.
        operator.container.put(FILE, route(&host, &one, "  wam: true\n").as_bytes()).await?;
        let told = tells(operator, 1, &["lint", "-f", FILE]).await?;
        ensure!(told.contains("/routes.yaml:6"), "{told}");
        tells(operator, 2, &["apply", "-f", FILE]).await?;

        operator.container.put(FILE, route(&host, &one, "").as_bytes()).await?;
        tells(operator, 0, &["lint", "-f", FILE]).await?;
        let diff = tells(operator, 1, &["diff", "-f", FILE]).await?;
        ensure!(diff.contains("+++ applied: Route default/shop") && diff.contains("nginx.conf"), "{diff}");
        let told = tells(operator, 0, &["apply", "-f", FILE, "--wait"]).await?;
        ensure!(told.contains("Route default/shop created"), "{told}");
        // What is called programmed is served, now and by every proxy.
        for proxy in &stage.proxies {
            let answer = interlock_e2e::http::get(proxy.http, &host, "/").await?;
            ensure!(
                answer.status == 200 || answer.status == 503,
                "{}: {}",
                proxy.kind.as_str(),
                answer.status
            );
        }
        tells(operator, 0, &["wait", "route/shop", "--for=condition=Ready"]).await?;
        stage.serves(&host, "/", "one").await?;
        tells(operator, 0, &["diff", "-f", FILE]).await?;

        let wide = tells(operator, 0, &["get", "routes", "-o", "wide"]).await?;
        ensure!(wide.contains(&host) && !wide.contains("False"), "{wide}");
        tells(operator, 0, &["why", &host]).await?;
        let described = tells(operator, 0, &["describe", "route", "shop"]).await?;
        ensure!(
            described.contains("Programmed") && described.contains("proxies provably run it"),
            "{described}"
        );
        let endpoints = tells(operator, 0, &["get", "endpoints"]).await?;
        ensure!(endpoints.contains("Route default/shop"), "{endpoints}");

        // Another backend and another host: the old one goes.
        operator.container.put(FILE, route(&other, &two, "").as_bytes()).await?;
        tells(operator, 0, &["apply", "-f", FILE, "--wait"]).await?;
        stage.serves(&other, "/", "two").await?;
        stage.answers(&host, "/", 404).await?;

        // And back: the old one serves again, and is held.
        let told = tells(operator, 0, &["rollout", "undo", "route/shop"]).await?;
        ensure!(told.contains("configured"), "{told}");
        tells(operator, 0, &["rollout", "status", "route/shop"]).await?;
        stage.serves(&host, "/", "one").await?;
        stage.answers(&other, "/", 404).await?;
        let history = tells(operator, 0, &["rollout", "history", "route/shop"]).await?;
        ensure!(history.contains("held, as of 1"), "{history}");
        let described = tells(operator, 0, &["describe", "route", "shop"]).await?;
        ensure!(described.contains("Held"), "{described}");
        eventually(SOON, "what was rendered is kept", async || {
            let shown =
                tells(operator, 0, &["rollout", "history", "route/shop", "--generation", "3"]).await?;
            ensure!(shown.contains(&format!("# backend {host}")), "{shown}");
            Ok(())
        })
        .await?;
        tells(operator, 0, &["rollout", "release", "route/shop"]).await?;
        tells(operator, 0, &["apply", "-f", FILE, "--wait"]).await?;
        stage.serves(&other, "/", "two").await?;

        // Nobody is there by that name: it is applied, and its status says so.
        operator.container.put(FILE, route(&other, "nobody", "").as_bytes()).await?;
        tells(operator, 0, &["apply", "-f", FILE]).await?;
        let resolved = "--for=condition=ResolvedRefs=False";
        tells(operator, 0, &["wait", "route/shop", resolved]).await?;
        let wide = tells(operator, 0, &["get", "route", "shop", "-o", "wide"]).await?;
        ensure!(wide.contains("nobody"), "{wide}");

        tells(operator, 0, &["delete", "route", "shop"]).await?;
        stage.answers(&other, "/", 404).await?;
        let events = tells(operator, 0, &["events"]).await?;
        ensure!(events.contains("deleted, generation 5"), "{events}");
        tells(operator, 2, &["get", "route", "shop"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_outlives_the_operator() -> Result {
    World::run("declared-kept", async |world| {
        let stage = stage(world).await?;
        let operator = stage.operator();
        let host = world.host("shop");
        operator.container.put(FILE, route(&host, &world.name("one"), "").as_bytes()).await?;
        tells(operator, 0, &["apply", "-f", FILE, "--wait"]).await?;
        stage.serves(&host, "/", "one").await?;

        operator.container.kill("KILL").await?;
        operator.container.start().await?;
        operator.ready().await?;
        tells(operator, 0, &["wait", "route/shop", "--for=condition=Programmed"]).await?;
        stage.serves(&host, "/", "one").await?;
        let kept = tells(operator, 0, &["get", "route", "shop", "-o", "yaml"]).await?;
        ensure!(kept.contains("generation: 1") && kept.contains("resourceVersion: '1'"), "{kept}");
        // Another operator without its store: nothing is taken away, and nothing is written, until somebody says what
        // is right.
        let backup = tells(operator, 0, &["backup", "-"]).await?;
        operator.container.remove().await?;
        let other = Operator::of(world).named("second").config(serde_json::json!({
            "operatorId": world.name("operator"),
        }));
        let other = other.ready().await?;
        eventually(SOON, "the loss is seen", async || {
            let targets = tells(&other, 0, &["get", "targets"]).await?;
            ensure!(targets.matches("StoreLost").count() == stage.proxies.len(), "{targets}");
            Ok(())
        })
        .await?;
        stage.serves(&host, "/", "one").await?;
        other.container.put(FILE, route(&host, &world.name("one"), "").as_bytes()).await?;
        let told = tells(&other, 2, &["apply", "-f", FILE]).await?;
        ensure!(told.contains("interlock restore FILE"), "{told}");
        other.container.put(FILE, backup.as_bytes()).await?;
        tells(&other, 0, &["restore", FILE]).await?;
        tells(&other, 0, &["wait", "route/shop", "--for=condition=Programmed"]).await?;
        stage.serves(&host, "/", "one").await?;

        // Labels go on asking beside what is applied.
        stage.app("labelled").label("interlock.host", &world.host("labelled")).start().await?;
        stage.serves(&world.host("labelled"), "/", "labelled").await
    })
    .await
}

/// A cluster of a document is the proxy's as soon as it is applied, and not any more when it is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_acts_while_it_is_there() -> Result {
    World::run("declared-cluster", async |world| {
        let stage = stage(world).await?;
        let operator = stage.operator();
        let [haproxy, nginx] = stage.proxies.as_slice() else { return Err("there are two proxies".into()) };
        let cluster = format!(
            "apiVersion: interlock.dev/v1alpha1\nkind: ServiceCluster\nmetadata: {{name: edge}}\nspec:\n  \
             proxy: haproxy\n  proxies: [{}]\n  unknownHost: \"503\"\n  claims:\n  \
             - {{hosts: [\"{}\"], owners: []}}\n",
            haproxy.container.name,
            world.host("closed")
        );
        operator.container.put(FILE, cluster.as_bytes()).await?;
        tells(operator, 0, &["lint", "-f", FILE]).await?;
        tells(operator, 1, &["diff", "-f", FILE]).await?;
        tells(operator, 0, &["apply", "-f", FILE, "--wait"]).await?;
        let answers = async |proxy: &Proxy, status: u16| {
            eventually(SOON, proxy.kind.as_str(), async || {
                let answer = interlock_e2e::http::get(proxy.http, "nobody-asked-for-this.test", "/").await?;
                ensure!(answer.status == status, "{} answers {}", proxy.kind.as_str(), answer.status);
                Ok(())
            })
            .await
        };
        answers(haproxy, 503).await?;
        answers(nginx, 404).await?;
        let described = tells(operator, 0, &["describe", "servicecluster", "edge"]).await?;
        ensure!(described.contains(&haproxy.container.name), "{described}");
        stage.app("closed").label("interlock.host", &world.host("closed")).start().await?;
        eventually(SOON, "the claim is told", async || {
            let why = operator.cli(&["why", &world.host("closed")]).await?;
            ensure!(why.out.contains("HostNotAllowed"), "{}{}", why.out, why.err);
            Ok(())
        })
        .await?;
        tells(operator, 0, &["delete", "servicecluster", "edge"]).await?;
        answers(haproxy, 404).await?;
        stage.serves(&world.host("closed"), "/", "closed").await
    })
    .await
}
