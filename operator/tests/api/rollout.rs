//! History, undo and hold.

use interlock_core::plan::Abilities;
use interlock_core::render::{self, Templates};

use super::*;

/// The generations that are remembered of the one route: number, host, and whether it is the present one.
async fn remembered(api: &Api) -> Vec<(u64, String, bool)> {
    let (code, history) = api.get(&format!("{ONE}/history")).await;
    assert_eq!(code, 200, "{history}");
    let row = |one: &Value| {
        let host = one["object"]["spec"]["hostnames"][0].as_str().unwrap().to_owned();
        assert!(!one["at"].as_str().unwrap().is_empty(), "{one}");
        (one["generation"].as_u64().unwrap(), host, one["current"].as_bool().unwrap())
    };
    history["items"].as_array().unwrap().iter().map(row).collect()
}

async fn undo(api: &Api, query: &str) -> (u16, Value) {
    api.ask(Method::POST, &format!("{ONE}/undo{query}"), "").await
}

async fn held(api: &Api) -> Value {
    api.get(ONE).await.1["metadata"]["annotations"]["interlock.dev/held"].clone()
}

#[tokio::test]
async fn a_generation_is_brought_back_and_held_until_it_is_applied() {
    let api = api().await;
    assert_eq!(api.get(&format!("{ONE}/history")).await.0, 404);
    assert_eq!(undo(&api, "").await.0, 404);
    api.put("web", "a.example.com").await;
    assert_eq!(undo(&api, "").await.0, 404, "there is nothing before the first one");
    api.put("web", "b.example.com").await;
    let (code, dry) = undo(&api, "?dryRun=All").await;
    assert_eq!((code, &dry["items"][0]["object"]["spec"]["hostnames"][0]), (200, &json!("a.example.com")));
    assert_eq!(remembered(&api).await.len(), 2);

    let (code, done) = undo(&api, "").await;
    assert_eq!((code, &done["items"][0]["outcome"]), (200, &json!("configured")), "{done}");
    let row = |number, host: &str, now| (number, host.to_owned(), now);
    let (a, b) = ("a.example.com", "b.example.com");
    assert_eq!(remembered(&api).await, [row(1, a, false), row(2, b, false), row(3, a, true)]);
    assert_eq!(held(&api).await, "1");
    // What is read can be applied as it is, and that is an apply like any other.
    let (_, object) = api.get(ONE).await;
    assert_eq!(api.ask(Method::PUT, ONE, &object.to_string()).await.0, 200);
    assert_eq!(
        (held(&api).await, api.get(ONE).await.1["metadata"]["generation"].clone()),
        (Value::Null, json!(3))
    );

    assert_eq!(undo(&api, "?generation=2").await.0, 200);
    assert_eq!(held(&api).await, "2");
    let release = format!("{ONE}/release");
    for outcome in ["configured", "unchanged"] {
        let (code, done) = api.ask(Method::POST, &release, "").await;
        assert_eq!((code, &done["items"][0]["outcome"]), (200, &json!(outcome)));
        assert_eq!(held(&api).await, Value::Null);
    }
    let (code, problem) = undo(&api, "?generation=99").await;
    assert_eq!((code, &problem["reason"]), (404, &json!("NotFound")));
    assert!(problem["details"]["fix"].as_str().unwrap().contains("rollout history"), "{problem}");
    assert_eq!(undo(&api, "?generation=last").await.0, 400);
}

#[tokio::test]
async fn what_was_deleted_comes_back_and_goes_on_counting() {
    let api = api().await;
    api.put("web", "a.example.com").await;
    api.ask(Method::DELETE, ONE, "").await;
    assert_eq!(remembered(&api).await, [(1, "a.example.com".to_owned(), false)]);
    let (code, done) = undo(&api, "").await;
    assert_eq!((code, &done["items"][0]["outcome"]), (200, &json!("created")), "{done}");
    assert_eq!(api.get(ONE).await.1["metadata"]["generation"], 2);
}

/// What is brought back is judged as it would be if it were applied now.
#[tokio::test]
async fn what_would_be_refused_today_does_not_come_back() {
    let api = api().await;
    api.put("web", "a.example.com").await;
    api.put("web", "b.example.com").await;
    let claims = cluster("haproxy", "{proxy: haproxy, claims: [{hosts: [a.example.com], owners: []}]}");
    assert_eq!(api.ask(Method::PUT, "/serviceclusters/haproxy", &claims).await.0, 201);
    let (code, problem) = undo(&api, "").await;
    assert_eq!(
        (code, &problem["details"]["causes"][0]["reason"]),
        (422, &json!("HostNotAllowed")),
        "{problem}"
    );
    assert_eq!(api.get(ONE).await.1["spec"]["hostnames"][0], "b.example.com");
}

#[tokio::test]
async fn pruning_leaves_what_is_held() {
    let api = api().await;
    let text = |host| format!("---\n{}---\n{}", route("web", host), route("other", "o.example.com"));
    for host in ["a.example.com", "b.example.com"] {
        let text = text(host).replace("metadata: {", "metadata: {namespace: shop, ");
        assert_eq!(api.ask(Method::POST, "/apply?owner=ci", &text).await.0, 200);
    }
    assert_eq!(undo(&api, "").await.0, 200);
    let rest = route("third", "t.example.com");
    let (_, done) = api.ask(Method::POST, "/apply?owner=ci&prune=1", &rest).await;
    let outcomes: Vec<(&Value, &Value)> = done["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (&item["object"]["metadata"]["name"], &item["outcome"]))
        .collect();
    assert_eq!(outcomes, [(&json!("third"), &json!("created")), (&json!("other"), &json!("deleted"))]);
}

/// The files that proxies run of a generation are kept with it, and the status says that it is held.
#[tokio::test]
async fn what_was_rendered_is_kept_over_a_restart() {
    let api = api().await;
    let looks = Looks::default();
    status::spawn(&looks, api.objects.clone(), Events::default());
    api.put("web", "a.example.com").await;
    api.put("web", "b.example.com").await;
    undo(&api, "").await;
    let mut watch = api.watch("/routes?watch=1").await;
    let mut look = look(&api, 1, "Programmed", true);
    for (id, plan) in &look.compiled.plans {
        let bundle =
            render::bundle(plan, None, Abilities::oldest(plan.settings.proxy), &Templates::embedded())
                .unwrap();
        look.fragments.insert(id.clone(), bundle.fragments);
    }
    looks.publish(look);
    let held = told(&mut watch, "Held", "True").await;
    assert!(held["message"].as_str().unwrap().starts_with("generation 1 was brought back"), "{held}");
    let objects = Objects::look(api.folder.path(), Vec::new()).unwrap();
    let key = interlock::store::Key::new(interlock_crds::schema::Kind::Route, "shop", "web").unwrap();
    assert_eq!(objects.history(&key), api.objects.history(&key));
    assert_eq!(objects.get(&key).unwrap().stored.held(), Some(1));
    let rendered = objects.rendered(&key, 3).expect("what was run of the third generation");
    let pieces = &rendered.targets["edge"].fragments;
    assert!(pieces.keys().any(|name| name.contains("a.example.com")), "{pieces:?}");
    assert!(!pieces.keys().any(|name| name == "global"), "only what serves it: {pieces:?}");
    assert_eq!(objects.rendered(&key, 2), None, "no proxy was seen to run it");
    let (_, history) = api.get(&format!("{ONE}/history")).await;
    assert!(history["items"][2]["rendered"]["targets"]["edge"]["fragments"].is_object(), "{history}");
    assert_eq!(history["items"][2]["held"], 1);
}
