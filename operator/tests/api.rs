//! The API over its socket: what it stores and answers, and what it refuses without changing anything.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use interlock::client::{Answer, Client, Lines};
use interlock::serve::rest::ROOT;
use interlock::serve::{Events, Listeners, Look, Looks, Metrics, Readiness, Rest, Served, Shared, status};
use interlock::settings::{Environment, Flags, Settings};
use interlock::store::Objects;
use interlock_core::compile::compile;
use interlock_core::model::{Freshness, Observed, Shared as Owned, Timestamp};
use interlock_core::status::Proxy;
use serde_json::{Value, json};

#[path = "api/rollout.rs"]
mod rollout;

/// An operator's API without an operator.
struct Api {
    client: Client,
    objects: Objects,
    folder: tempfile::TempDir,
    _serving: Box<dyn std::any::Any>,
}

async fn api() -> Api {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let mut listeners = Listeners::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    listeners.bind_api(&socket).await.unwrap();
    let settings = Settings::load(&Flags::default(), &Environment::default()).unwrap();
    let objects = Objects::open(folder.path(), settings.objects()).unwrap();
    let rest = Rest { objects: objects.clone(), events: Events::default(), config: settings.config.into() };
    let metrics = Metrics::new().unwrap();
    let (readiness, shared) = (Readiness::default(), Shared::default());
    let serving =
        Box::new(listeners.serve(Served { metrics, readiness, shared, looks: Looks::default(), rest }));
    Api { client: Client::new(&socket), objects, folder, _serving: serving }
}

impl Api {
    async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let Answer { status, body } =
            self.client.send(method, &format!("{ROOT}{path}"), Some(body.to_owned())).await.unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        (status.as_u16(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, "").await
    }

    async fn put(&self, name: &str, host: &str) -> (u16, Value) {
        self.ask(Method::PUT, &format!("/namespaces/shop/routes/{name}"), &route(name, host)).await
    }

    async fn watch(&self, path: &str) -> Lines {
        self.client.lines(&format!("{ROOT}{path}")).await.unwrap().unwrap()
    }
}

async fn next(lines: &mut Lines) -> Value {
    let line = tokio::time::timeout(Duration::from_secs(10), lines.next()).await.expect("a line comes");
    serde_json::from_slice(&line.unwrap().expect("the stream goes on")).unwrap()
}

fn route(name: &str, host: &str) -> String {
    format!(
        "apiVersion: interlock.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n  \
         hostnames: [{host}]\n  rules: [{{backendRefs: [{{name: web}}]}}]\n"
    )
}

const ONE: &str = "/namespaces/shop/routes/web";

#[tokio::test]
async fn an_object_is_created_changed_and_deleted() {
    let api = api().await;
    assert_eq!(api.get(ONE).await.0, 404);
    let (code, object) = api.put("web", "a.example.com").await;
    assert_eq!(code, 201);
    assert_eq!(object["metadata"]["namespace"], "shop");
    assert_eq!(
        (&object["metadata"]["generation"], &object["metadata"]["resourceVersion"]),
        (&json!(1), &json!("1"))
    );
    let (code, object) = api.put("web", "b.example.com").await;
    assert_eq!((code, &object["metadata"]["generation"]), (200, &json!(2)));
    assert_eq!(api.get(ONE).await.1["spec"]["hostnames"], json!(["b.example.com"]));
    let (_, list) = api.get("/routes").await;
    assert_eq!((&list["kind"], &list["metadata"]["resourceVersion"]), (&json!("RouteList"), &json!("2")));
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.get("/namespaces/other/routes").await.1["items"], json!([]));
    // What is answered can be put back as it is.
    let (_, object) = api.get(ONE).await;
    assert_eq!(api.ask(Method::PUT, ONE, &object.to_string()).await.0, 200);
    assert_eq!(api.ask(Method::DELETE, ONE, "").await.0, 200);
    assert_eq!(api.ask(Method::DELETE, ONE, "").await.0, 404);
    let kept = Objects::look(api.folder.path(), Vec::new()).unwrap();
    assert_eq!(kept.all().0, 3, "three writes are on disk");
}

#[tokio::test]
async fn a_write_that_is_not_as_of_the_last_one_is_refused() {
    let api = api().await;
    let (_, old) = api.put("web", "a.example.com").await;
    api.put("web", "b.example.com").await;
    let (code, problem) = api.ask(Method::PUT, ONE, &old.to_string()).await;
    assert_eq!((code, &problem["reason"]), (409, &json!("Conflict")));
    assert!(problem["details"]["fix"].as_str().unwrap().contains("get it again"), "{problem}");
    assert_eq!(api.ask(Method::DELETE, &format!("{ONE}?resourceVersion=1"), "").await.0, 409);
    assert_eq!(api.ask(Method::POST, "/namespaces/shop/routes", &route("web", "c.example.com")).await.0, 409);
    assert_eq!(api.get(ONE).await.1["spec"]["hostnames"], json!(["b.example.com"]));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let api = api().await;
    let (code, object) =
        api.ask(Method::PUT, &format!("{ONE}?dryRun=All"), &route("web", "a.example.com")).await;
    assert_eq!((code, &object["metadata"]["generation"]), (201, &json!(1)));
    assert_eq!(api.get(ONE).await.0, 404);
    assert_eq!(
        api.ask(Method::PUT, &format!("{ONE}?dryRun=Some"), &route("web", "a.example.com")).await.0,
        400
    );
}

/// Each unusable body is refused with the field, what stands there and how to mend it, and what was there stays.
#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_changes() {
    let api = api().await;
    api.put("web", "a.example.com").await;
    let good = route("web", "b.example.com");
    let bomb = (0..9).fold("x: &x0 [lol]\n".to_owned(), |text, level| {
        let below = vec![format!("*x{level}"); 10].join(", ");
        format!("{text}x{}: &x{} [{below}]\n", level + 1, level + 1)
    });
    let rules = good.replace("rules: [{backendRefs: [{name: web}]}]", "rules: *x9");
    let bombed = rules.replace("spec:", &format!("{bomb}spec:"));
    for (body, code, field, words) in [
        (good.replace("hostnames: [b.example.com]", "hostnames: 5"), 422, "spec.hostnames", "integer `5`"),
        (good.replace("rules", "ruls"), 422, "spec.ruls", "there is no such field"),
        (good.replace("b.example.com", "'b..example.com'"), 422, "spec.hostnames[0]", "b..example.com"),
        (
            good.replace("name: web}]", "name: web, port: 0}]"),
            422,
            "spec.rules[0].backendRefs[0].port",
            "port",
        ),
        (format!("{good}  forwardAuth: {{address: a}}\n"), 422, "spec.forwardAuth", "no proxy does this yet"),
        (format!("{good}kind: Route\n"), 422, "", "duplicate field `kind`"),
        (good.replace("kind: Route", "kind: Ingress"), 422, "kind", "Ingress"),
        (format!("{good}{bomb}"), 422, "x", "no such field"),
        (bombed, 422, "*", ""),
        (good.replace("[b.example.com]", &"[".repeat(100_000)), 422, "", "nested more than 100 times"),
        (format!("{good}---\n{good}"), 400, "", "2 documents"),
        (String::new(), 400, "", "no document"),
        (good.replace("name: web}\n", "name: wob}\n"), 400, "", "`wob`"),
        (good.replace("name: web}\n", "name: web, namespace: other}\n"), 400, "", "`other`"),
        (format!("{good}# {}", "x".repeat(10 * 1024 * 1024)), 413, "", "10 MiB"),
    ] {
        let (found, problem) = api.ask(Method::PUT, ONE, &body).await;
        let start: String = body.chars().take(300).collect();
        assert_eq!(found, code, "{problem} for {start}");
        assert_eq!(problem["kind"], "Status");
        assert!(
            problem["message"].as_str().unwrap().contains("nothing was changed") || code == 400,
            "{problem}"
        );
        let told = format!("{} {}", problem["message"], problem["details"]["causes"]);
        assert!(told.contains(words), "{problem} for {start}");
        if code == 422 && field != "*" {
            assert_eq!(problem["details"]["causes"][0]["field"], field, "{problem} for {start}");
        }
    }
    assert_eq!(api.get(ONE).await.1["metadata"]["resourceVersion"], "1");
    let (_, problem) = api.ask(Method::PUT, ONE, &good.replace("b.example.com", "b..c")).await;
    let cause = &problem["details"]["causes"][0];
    assert_eq!((&cause["document"], &cause["value"]), (&json!("Route default/web"), &json!("b..c")));
    assert!(cause["fix"].is_string(), "{problem}");
}

#[tokio::test]
async fn documents_are_applied_together_or_not_at_all() {
    let api = api().await;
    let two = format!("{}---\n{}", route("a", "a.example.com"), route("b", "b.example.com"));
    let (code, done) = api.ask(Method::POST, "/apply?owner=shop", &two).await;
    assert_eq!((code, &done["items"][1]["outcome"]), (200, &json!("created")));
    let bad = format!("{}---\n{}", route("c", "c.example.com"), route("d", "-"));
    let (code, problem) = api.ask(Method::POST, "/apply?owner=shop&prune=1", &bad).await;
    assert_eq!((code, &problem["details"]["causes"][0]["document"]), (422, &json!("Route default/d")));
    assert_eq!(api.get("/routes").await.1["items"].as_array().unwrap().len(), 2);
    let (_, done) = api.ask(Method::POST, "/apply?owner=shop&prune=1", &route("b", "b.example.com")).await;
    let outcomes: Vec<&str> =
        done["items"].as_array().unwrap().iter().map(|item| item["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["unchanged", "deleted"]);
    assert_eq!(api.ask(Method::POST, "/apply?owner=shop&prune=1", "# nothing\n").await.0, 422);
    assert_eq!(api.ask(Method::POST, "/apply?prune=1", &two).await.0, 400);
    assert_eq!(
        api.get("/routes?labelSelector=interlock.dev/owner%3Dshop").await.1["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_lost_store_takes_nothing_but_a_restore() {
    let api = api().await;
    api.objects.lose(true);
    let (code, problem) = api.put("web", "a.example.com").await;
    assert_eq!((code, &problem["reason"]), (409, &json!("StoreLost")));
    assert!(problem["details"]["fix"].as_str().unwrap().contains("interlock restore FILE"), "{problem}");
    let revision = api.objects.revision();
    assert_eq!(*revision.borrow(), 0);
    let (code, done) = api.ask(Method::POST, "/restore", "").await;
    assert_eq!((code, &done["items"]), (200, &json!([])), "nothing is an answer too");
    assert_eq!(*revision.borrow(), 1);
    drop(revision);
    let kept = Objects::look(api.folder.path(), Vec::new()).unwrap();
    assert_eq!(kept.all().0, 1, "and it is kept");
}

#[tokio::test]
async fn a_backup_takes_the_place_of_everything() {
    let api = api().await;
    api.put("a", "a.example.com").await;
    api.put("b", "b.example.com").await;
    let (_, backup) = api.get("/backup").await;
    let documents: Vec<String> =
        backup["items"].as_array().unwrap().iter().map(|item| format!("---\n{item}\n")).collect();
    let documents = documents.concat();
    api.ask(Method::DELETE, "/namespaces/shop/routes/a", "").await;
    api.put("c", "c.example.com").await;
    let (code, problem) = api.ask(Method::POST, "/restore", &documents).await;
    assert_eq!(code, 409, "{problem}");
    let (code, _) = api.ask(Method::POST, "/restore?replace=1", &documents).await;
    assert_eq!(code, 200);
    let (_, list) = api.get("/routes").await;
    let names: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn what_the_configuration_says_can_be_read_and_not_written() {
    let api = api().await;
    let (_, list) = api.get("/serviceclusters").await;
    let names: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["haproxy", "nginx"]);
    assert_eq!(api.get("/engines/local").await.1["spec"]["address"], "unix:///var/run/docker.sock");
    assert_eq!(api.ask(Method::DELETE, "/engines/local", "").await.0, 405);
    let engine = "apiVersion: interlock.dev/v1alpha1\nkind: Engine\nmetadata: {name: far}\nspec: {address: 'tcp://far:2375'}\n";
    let (code, problem) = api.ask(Method::PUT, "/engines/far", engine).await;
    assert_eq!(code, 422);
    assert!(
        problem["details"]["causes"][0]["fix"].as_str().unwrap().contains("`docker` of the configuration")
    );
}

fn cluster(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: interlock.dev/v1alpha1\nkind: ServiceCluster\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

#[tokio::test]
async fn a_cluster_is_an_object_and_what_is_wrong_with_one_is_named() {
    let api = api().await;
    for (spec, field) in [
        ("{proxy: haproxy, listeners: {http: 80, https: 80}}", "spec.listeners.https"),
        ("{proxy: haproxy, claims: [{hosts: ['*.*'], owners: []}]}", "spec.claims[0].hosts[0]"),
        ("{proxy: apache}", "spec.proxy"),
        ("{proxy: haproxy, prox: 1}", "spec.prox"),
    ] {
        let (code, problem) = api.ask(Method::PUT, "/serviceclusters/edge", &cluster("edge", spec)).await;
        assert_eq!((code, &problem["details"]["causes"][0]["field"]), (422, &json!(field)), "{problem}");
        assert!(problem["details"]["causes"][0]["fix"].is_string(), "{problem}");
    }
    let spaced = cluster("edge", "{proxy: haproxy}").replace("{name: edge}", "{name: edge, namespace: shop}");
    let (_, problem) = api.ask(Method::PUT, "/serviceclusters/edge", &spaced).await;
    assert_eq!(problem["details"]["causes"][0]["field"], "metadata.namespace", "{problem}");
    assert!(api.objects.declared().borrow().clusters.is_empty());

    let edge = cluster("edge", "{proxy: haproxy, proxies: [edge]}");
    assert_eq!(api.ask(Method::PUT, "/serviceclusters/edge", &edge).await.0, 201);
    assert!(api.objects.declared().borrow().clusters.contains_key(&"edge".parse().unwrap()));
    // A route may name it from now on.
    let named = route("web", "a.example.com").replace("spec:", "spec:\n  parentRefs: [{name: edge}]");
    let (_, applied) = api.ask(Method::POST, "/apply", &named).await;
    assert_eq!(applied["warnings"], json!([]), "{applied}");
    assert_eq!(api.ask(Method::DELETE, "/serviceclusters/edge", "").await.0, 200);
    assert!(api.objects.declared().borrow().clusters.is_empty());
}

/// What is there by itself can be taken over as it was read, and is there again when the document has gone.
#[tokio::test]
async fn a_document_takes_the_place_of_an_implicit_cluster() {
    let api = api().await;
    let (_, mut object) = api.get("/serviceclusters/haproxy").await;
    object["spec"]["sharing"] = json!("owner");
    assert_eq!(api.ask(Method::PUT, "/serviceclusters/haproxy", &object.to_string()).await.0, 201);
    let (_, list) = api.get("/serviceclusters").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let (_, object) = api.get("/serviceclusters/haproxy").await;
    assert_eq!(
        (&object["spec"]["sharing"], &object["metadata"]["annotations"]),
        (&json!("owner"), &Value::Null)
    );
    assert_eq!(api.ask(Method::DELETE, "/serviceclusters/haproxy", "").await.0, 200);
    assert_eq!(api.get("/serviceclusters/haproxy").await.1["spec"]["sharing"], "merge");
}

#[tokio::test]
async fn watchers_get_what_there_is_and_what_follows() {
    let api = api().await;
    api.put("a", "a.example.com").await;
    let mut all = api.watch("/namespaces/shop/routes?watch=1").await;
    let first = next(&mut all).await;
    assert_eq!((&first["type"], &first["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    assert_eq!(next(&mut all).await["type"], "BOOKMARK");
    api.put("a", "b.example.com").await;
    assert_eq!(next(&mut all).await["type"], "MODIFIED");
    api.ask(Method::DELETE, "/namespaces/shop/routes/a", "").await;
    let gone = next(&mut all).await;
    assert_eq!(
        (&gone["type"], &gone["object"]["metadata"]["resourceVersion"]),
        (&json!("DELETED"), &json!("3"))
    );
    let mut since = api.watch("/routes?watch=1&resourceVersion=2").await;
    assert_eq!(next(&mut since).await["type"], "DELETED");
    let (code, problem) = api.get("/routes?watch=1&resourceVersion=99").await;
    assert_eq!((code, &problem["reason"]), (410, &json!("Expired")));
    // Who watches labels hears when they go.
    let labelled = route("c", "c.example.com").replace("name: c}", "name: c, labels: {team: shop}}");
    api.ask(Method::PUT, "/namespaces/shop/routes/c", &labelled).await;
    let mut team = api.watch("/routes?watch=1&labelSelector=team%3Dshop").await;
    assert_eq!(next(&mut team).await["type"], "ADDED");
    assert_eq!(next(&mut team).await["type"], "BOOKMARK");
    api.put("c", "c.example.com").await;
    assert_eq!(next(&mut team).await["type"], "DELETED");
}

#[tokio::test]
async fn what_is_applied_is_what_the_loop_reads() {
    let api = api().await;
    let declared = api.objects.declared();
    assert!(declared.borrow().is_empty());
    api.put("web", "a.example.com").await;
    let id = "shop/web".parse().unwrap();
    assert_eq!(declared.borrow().routes[&id].hostnames, ["a.example.com"]);
}

/// What the loop would say of what is applied, with one proxy that runs this.
fn look(api: &Api, at: u64, state: &'static str, running: bool) -> Look {
    let declared = api.objects.declared().borrow().clone();
    let observed: Observed = serde_json::from_value(json!({
        "engines": {"local": {"freshness": {"state": "fresh"}, "containers": {
            "e1": {"id": "e1", "name": "edge", "created": 1, "started": 1, "state": "running",
                "labels": {"interlock.ext.name": "haproxy"}, "networks": {"net": {"ipv4": "10.0.0.2"}}},
            "a1": {"id": "a1", "name": "web", "created": 1, "started": 1, "state": "running",
                "exposed": [8080], "networks": {"net": {"ipv4": "10.0.0.3"}}},
        }}},
        "declared": &*declared,
    }))
    .unwrap();
    let settings = Settings::load(&Flags::default(), &Environment::default()).unwrap();
    let compiled = Owned::from(compile(&observed, &settings.config));
    let proxies = compiled.plans.iter().map(|(id, plan)| {
        let running = running.then(|| plan.clone());
        (
            id.clone(),
            Proxy { cluster: Some(plan.cluster.clone()), running, digest: None, state, message: None },
        )
    });
    let (proxies, engines) =
        (proxies.collect(), BTreeMap::from([("local".parse().unwrap(), Freshness::Fresh)]));
    let clusters = settings.config.with(&declared).clusters.keys().cloned().collect();
    Look { at: Timestamp(at), declared, clusters, engines, compiled, proxies, fragments: BTreeMap::new() }
}

/// The next line in which an object has this status of a condition.
async fn told(lines: &mut Lines, condition: &str, status: &str) -> Value {
    loop {
        let line = next(lines).await;
        let conditions = line["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(found) =
            conditions.into_iter().find(|one| one["type"] == condition && one["status"] == status)
        {
            return found;
        }
    }
}

#[tokio::test]
async fn status_says_of_which_generation_it_is_and_what_runs() {
    let api = api().await;
    let looks = Looks::default();
    status::spawn(&looks, api.objects.clone(), Events::default());
    api.put("web", "a.example.com").await;
    let mut watch = api.watch("/routes?watch=1").await;
    looks.publish(look(&api, 1, "Pending", false));
    let pending = told(&mut watch, "Programmed", "False").await;
    assert_eq!((&pending["reason"], &pending["observedGeneration"]), (&json!("Pending"), &json!(1)));
    looks.publish(look(&api, 2, "Programmed", true));
    assert_eq!(told(&mut watch, "Programmed", "True").await["observedGeneration"], 1);
    assert_eq!(api.get(ONE).await.1["status"]["targets"][0]["name"], "edge");

    // A look at what was before says nothing of what is.
    let old = look(&api, 3, "Programmed", true);
    api.put("web", "b.example.com").await;
    let mut engines = api.watch("/engines?watch=1").await;
    // By what it says of the engine it is known when it was taken up.
    let stale = Freshness::Stale { since: Timestamp(1) };
    looks.publish(Look { engines: BTreeMap::from([("local".parse().unwrap(), stale)]), ..old });
    told(&mut engines, "Connected", "False").await;
    let status = api.get(ONE).await.1["status"].clone();
    assert_eq!(status["observedGeneration"], 1, "{status}");
    let newer = look(&api, 4, "Pending", false);
    looks.publish(newer);
    let pending = told(&mut watch, "Programmed", "False").await;
    assert_eq!(pending["observedGeneration"], 2);
    let (_, cluster) = api.get("/serviceclusters/haproxy").await;
    assert_eq!(cluster["status"]["conditions"][0]["type"], "Accepted", "{cluster}");
}

#[tokio::test]
async fn a_time_moves_only_with_its_condition() {
    let api = api().await;
    let looks = Looks::default();
    status::spawn(&looks, api.objects.clone(), Events::default());
    api.put("web", "a.example.com").await;
    let mut watch = api.watch("/routes?watch=1").await;
    looks.publish(look(&api, 1, "Programmed", false));
    let first = told(&mut watch, "Accepted", "True").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    looks.publish(look(&api, 2, "Programmed", true));
    told(&mut watch, "Programmed", "True").await;
    let object = api.get(ONE).await.1;
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let time = |kind: &str| {
        let found = conditions.iter().find(|one| one["type"] == kind).unwrap();
        found["lastTransitionTime"].as_str().unwrap().to_owned()
    };
    assert_eq!(time("Accepted"), first["lastTransitionTime"].as_str().unwrap());
    assert!(time("Programmed") > time("Accepted"), "{object}");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let api = api().await;
    let answer = api.client.send(Method::GET, "/openapi/v3", None).await.unwrap();
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let route = &document["components"]["schemas"]["RouteSpec"]["properties"]["hostnames"];
    assert_eq!(route["type"], "array");
    assert_eq!(api.get("/nothing/here").await.0, 404);
    assert_eq!(api.ask(Method::PATCH, ONE, "{}").await.0, 405);
}
