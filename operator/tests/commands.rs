//! The commands that speak the API, against an API without an operator: their words and exit codes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use interlock::serve::{Events, Listeners, Looks, Metrics, Readiness, Rest, Served, Shared, Snapshot};
use interlock::settings::{Environment, Flags, Settings};
use interlock::store::Objects;
use tempfile::TempDir;

/// An API with nobody behind it, and a folder for documents.
struct Api {
    folder: TempDir,
    _serving: Box<dyn std::any::Any>,
}

/// Exit code, standard output, standard error.
type Told = (i32, String, String);

async fn api() -> Api {
    let folder = tempfile::tempdir().unwrap();
    let mut listeners = Listeners::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    listeners.bind_api(&folder.path().join("api.sock")).await.unwrap();
    let settings = Settings::load(&Flags::default(), &Environment::default()).unwrap();
    let objects = Objects::open(&folder.path().join("state"), settings.objects()).unwrap();
    let shared = Shared::default();
    shared.publish(Snapshot {
        version: String::new(),
        config: settings.config.clone(),
        observed: serde_json::from_value(serde_json::json!({
            "engines": {"local": {"freshness": {"state": "fresh"}, "containers": {
                "e1": {"id": "e1", "name": "edge", "created": 1, "started": 1, "state": "running",
                    "labels": {"interlock.ext.name": "haproxy"}, "networks": {"net": {"ipv4": "10.0.0.2"}}},
                "a1": {"id": "a1", "name": "web", "created": 1, "started": 1, "state": "running",
                    "exposed": [8080], "networks": {"net": {"ipv4": "10.0.0.3"}}},
            }}},
        }))
        .unwrap(),
        targets: BTreeMap::new(),
        findings: Vec::new(),
        observe: false,
    });
    let rest = Rest { objects, events: Events::default(), config: settings.config.into() };
    let serving = listeners.serve(Served {
        metrics: Metrics::new().unwrap(),
        readiness: Readiness::default(),
        shared,
        looks: Looks::default(),
        rest,
    });
    Api { folder, _serving: Box::new(serving) }
}

impl Api {
    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    async fn tells(&self, arguments: &str, stdin: &str) -> Told {
        let socket = self.folder.path().join("api.sock").display().to_string();
        self.run(&format!("{arguments} --api {socket}"), stdin).await
    }

    /// A command that is told nothing of where the operator is, but for what the contexts say.
    async fn run(&self, arguments: &str, stdin: &str) -> Told {
        let folder = self.folder.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_interlock"));
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
            .env("INTERLOCK_CONTEXTS", folder.join("contexts"))
            .current_dir(folder)
            .args(arguments.split(' '));
        let stdin = stdin.to_owned();
        let run = move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// A command that does what it says.
    async fn does(&self, arguments: &str) -> String {
        let (code, out, err) = self.tells(arguments, "").await;
        assert_eq!(code, 0, "interlock {arguments}: {out}{err}");
        out
    }
}

/// Writes a program in shell.
fn program(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn route(name: &str, host: &str) -> String {
    format!(
        "apiVersion: interlock.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n  \
         hostnames: [{host}]\n  rules:\n  - backendRefs: [{{name: web}}]\n"
    )
}

#[tokio::test]
async fn documents_are_applied_shown_and_deleted() {
    let api = api().await;
    api.file("a.yaml", &route("a", "a.example.com"));
    api.file("b.yaml", &route("b", "b.example.com"));
    assert_eq!(
        api.does("apply -f . --dry-run=server").await,
        "Route default/a created (dry run)\nRoute default/b created (dry run)\n"
    );
    assert_eq!(api.does("apply -f .").await, "Route default/a created\nRoute default/b created\n");
    assert_eq!(api.does("apply -f a.yaml").await, "Route default/a unchanged\n");
    assert_eq!(api.does("apply -f a.yaml -n shop").await, "Route shop/a created\n");
    assert_eq!(api.does("get routes -o name").await, "route/a\nroute/b\n");
    let all = api.does("get rt -A").await;
    assert!(all.contains("NAMESPACE") && all.contains("shop"), "{all}");
    let one = api.does("get route/a -o json").await;
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["spec"]["hostnames"][0], "a.example.com");
    // What is shown can be applied again.
    api.file("again.yaml", &api.does("get routes -o yaml").await);
    assert_eq!(
        api.does("apply -f again.yaml").await,
        "Route default/a unchanged\nRoute default/b unchanged\n"
    );
    let wide = api.does("get routes -o wide").await;
    assert!(wide.contains("ACCEPTED") && wide.contains("Unknown"), "{wide}");
    let described = api.does("describe route a").await;
    assert!(described.contains("Generation:  1") && described.contains("- a.example.com"), "{described}");
    assert!(api.does("events").await.contains("created, generation 1"));
    assert_eq!(api.does("delete route a b").await, "Route default/a deleted\nRoute default/b deleted\n");
    let (code, _, err) = api.tells("delete route a", "").await;
    assert!(code == 2 && err.contains("there is no `Route default/a`"), "{err}");
    api.does("delete route a --ignore-not-found").await;
}

#[tokio::test]
async fn what_is_wrong_is_told_with_file_and_line_and_nothing_is_applied() {
    let api = api().await;
    let bad = format!(
        "{}---\n{}",
        route("a", "a.example.com"),
        route("b", "b.example.com").replace("rules", "ruls")
    );
    api.file("bad.yaml", &bad);
    let (code, out, err) = api.tells("apply -f bad.yaml", "").await;
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.contains("bad.yaml:14:3: `spec.ruls`: there is no such field")
            && err.contains("did you mean `rules`?"),
        "{err}"
    );
    // What only the meaning of a document tells is found by the operator.
    api.file("bad.yaml", &bad.replace("ruls", "rules").replace("b.example.com", "b..example.com"));
    let (code, _, err) = api.tells("apply -f bad.yaml", "").await;
    assert_eq!(code, 2);
    assert!(
        err.contains("bad.yaml:13: Route default/b: `spec.hostnames[0]`")
            && err.contains("nothing was changed"),
        "{err}"
    );
    assert_eq!(api.does("get routes -o name").await, "");
    let (code, _, err) = api.tells("apply -f -", "# nothing\n").await;
    assert!(code == 2 && err.contains("there is no document"), "{err}");
}

#[tokio::test]
async fn an_owner_prunes_what_is_its_own() {
    let api = api().await;
    api.file("two.yaml", &format!("{}---\n{}", route("a", "a.example.com"), route("b", "b.example.com")));
    api.file("one.yaml", &route("b", "b.example.com"));
    api.does("apply -f two.yaml --owner shop").await;
    let (code, _, err) = api.tells("apply -f one.yaml --owner wiki", "").await;
    assert!(
        code == 2 && err.contains("belongs to the owner `shop`") && err.contains("--owner shop"),
        "{err}"
    );
    assert_eq!(
        api.does("apply -f one.yaml --owner shop --prune").await,
        "Route default/b unchanged\nRoute default/a deleted\n"
    );
    let (code, _, err) = api.tells("apply -f - --owner shop --prune", "").await;
    assert!(code == 2 && err.contains("nothing of the owner `shop` would be left"), "{err}");
    assert_eq!(api.does("get routes -l interlock.dev/owner=shop -o name").await, "route/b\n");
    let (code, _, _) = api.tells("apply -f one.yaml --prune", "").await;
    assert_eq!(code, 2, "whose objects may go must be said");
}

#[tokio::test]
async fn a_backup_is_a_file_of_documents() {
    let api = api().await;
    api.file("a.yaml", &route("a", "a.example.com"));
    api.does("apply -f a.yaml --owner shop").await;
    api.does("backup all.yaml").await;
    api.does("lint -f all.yaml").await;
    let (code, _, err) = api.tells("restore all.yaml", "").await;
    assert!(code == 2 && err.contains("the store holds 1 objects") && err.contains("--replace"), "{err}");
    api.does("delete route a").await;
    assert!(api.does("restore all.yaml").await.contains("1 objects restored"));
    assert_eq!(api.does("get routes -l interlock.dev/owner=shop -o name").await, "route/a\n");
    let (code, _, err) = api.tells("restore -", "# nothing\n").await;
    assert!(code == 2 && err.contains("interlock restore --none"), "{err}");
}

#[tokio::test]
async fn diff_shows_documents_and_files() {
    let api = api().await;
    api.file("a.yaml", &route("a", "a.example.com"));
    let (code, out, err) = api.tells("diff -f a.yaml", "").await;
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert!(out.contains("+++ applied: Route default/a\n") && out.contains("+  - a.example.com"), "{out}");
    assert!(out.contains("+++ applied: edge: ") && out.contains("+a.example.com"), "{out}");
    api.does("apply -f a.yaml").await;
    assert_eq!(api.does("diff -f a.yaml").await, "");
    api.file("a.yaml", &route("a", "b.example.com"));
    let (code, out, _) = api.tells("diff -f a.yaml", "").await;
    assert_eq!(code, 1);
    assert!(out.contains("-  - a.example.com\n+  - b.example.com"), "{out}");
    api.file("a.yaml", "kind: Nothing\n");
    assert_eq!(api.tells("diff -f a.yaml", "").await.0, 2);
}

#[tokio::test]
async fn wait_ends_in_time() {
    let api = api().await;
    let (code, _, err) = api.tells("wait route/a --timeout 100ms", "").await;
    assert!(code == 1 && err.contains("there is no such object"), "{err}");
    assert!(api.does("wait route/a --for=delete").await.contains("met"));
    api.file("a.yaml", &route("a", "a.example.com"));
    api.does("apply -f a.yaml").await;
    let (code, _, err) = api.tells("wait route/a --for=condition=Programmed --timeout 100ms", "").await;
    assert!(code == 1 && err.contains("nothing is known of it yet"), "{err}");
    let (code, _, err) = api.tells("wait route/a --for=delete --timeout 100ms", "").await;
    assert!(code == 1 && err.contains("it is still there"), "{err}");
    let (code, _, err) = api.tells("wait route/a --for=luck", "").await;
    assert!(code == 2 && err.contains("write `--for=condition=Programmed`"), "{err}");
    let (code, _, err) = api.tells("apply -f a.yaml --wait --timeout 100ms", "").await;
    assert!(code == 1 && err.contains("Route default/a is not Programmed"), "{err}");
}

#[tokio::test]
async fn other_things_than_objects_are_listed_too() {
    let api = api().await;
    api.file("a.yaml", &route("a", "a.example.com"));
    assert!(api.does("get serviceclusters").await.contains("haproxy"));
    assert!(api.does("get eng -o wide").await.contains("unix:///var/run/docker.sock"));
    assert!(api.does("get targets").await.contains("PROXY"));
    assert!(api.does("get endpoints -o json").await.starts_with('['));
    api.does("get findings").await;
    let (code, _, err) = api.tells("get pods", "").await;
    assert!(code == 2 && err.contains("there is no kind `pods`"), "{err}");
}

#[tokio::test]
async fn without_an_operator_it_says_where_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_interlock"));
        let output = command.env_clear().current_dir(folder.path()).args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = run(&["get", "routes", "--api", "/nowhere/api.sock"]);
    assert!(code == 2 && err.contains("no operator listens on `/nowhere/api.sock`"), "{err}");
    assert!(err.contains("docker exec <operator> interlock"), "{err}");
}

#[tokio::test]
async fn a_rollout_is_shown_undone_and_released() {
    let api = api().await;
    for host in ["a.example.com", "b.example.com"] {
        api.file("web.yaml", &route("web", host));
        api.does("apply -f web.yaml").await;
    }
    let history = api.does("rollout history route/web").await;
    assert!(history.contains("a.example.com") && history.lines().count() == 3, "{history}");
    let shown = api.does("rollout history route/web --generation 1").await;
    assert!(shown.contains("- a.example.com") && shown.contains("generation: 1"), "{shown}");
    let dry = api.does("rollout undo route/web --dry-run=server").await;
    assert!(dry.contains("configured (dry run)") && dry.contains("- a.example.com"), "{dry}");
    assert!(api.does("rollout undo route/web").await.contains("Route default/web configured"));
    let history = api.does("rollout history route/web").await;
    assert!(history.contains("held, as of 1"), "{history}");
    assert_eq!(api.does("rollout release route/web").await, "Route default/web released\n");
    assert_eq!(api.does("rollout release route/web").await, "Route default/web was not held\n");
    let (code, _, err) = api.tells("rollout undo route/web --to-generation 9", "").await;
    assert!(code == 2 && err.contains("generation 9 of `Route default/web` is not remembered"), "{err}");
    let (code, _, err) = api.tells("rollout history route/nobody", "").await;
    assert!(code == 2 && err.contains("nothing was ever applied under this name"), "{err}");
}

/// `ssh` is a program of the test's: it sets its own words and the host aside and does the rest here.
#[tokio::test]
async fn a_context_leads_to_an_operator_on_another_machine() {
    let api = api().await;
    api.file("a.yaml", &route("a", "a.example.com"));
    api.does("apply -f a.yaml").await;
    let folder = api.folder.path();
    program(&folder.join("ssh"), "shift 3\nexec \"$@\"");
    let interlock = env!("CARGO_BIN_EXE_interlock");
    let socket = folder.join("api.sock").display().to_string();
    program(&folder.join("far"), &format!("exec {interlock} \"$@\" --api {socket}"));

    let (code, _, err) = api.run("config current-context", "").await;
    assert!(code == 2 && err.contains("use-context"), "{err}");
    let (code, _, err) = api.run("config use-context far", "").await;
    assert!(code == 2 && err.contains("there is no context `far`"), "{err}");
    let (code, _, err) = api.run("config set-context far --api ssh://-oProxyCommand=x", "").await;
    assert!(code == 2 && err.contains("names no host"), "{err}");
    for arguments in ["config set-context far --api ssh://ops@far -- far", "config use-context far"] {
        let (code, out, err) = api.run(arguments, "").await;
        assert_eq!(code, 0, "{arguments}: {out}{err}");
    }
    assert_eq!(api.run("config current-context", "").await.1, "far\n");
    let listed = api.run("config get-contexts", "").await.1;
    assert!(listed.contains('*') && listed.contains("ssh://ops@far"), "{listed}");

    // What is asked once, what is watched, and what is computed from all that the operator sees.
    for (arguments, word) in [
        ("get routes -o name", "route/a"),
        ("lint", "refused"),
        ("wait route/b --for=delete", "met"),
        ("get routes -o name --context far", "route/a"),
    ] {
        let (code, out, err) = api.run(arguments, "").await;
        assert!(code == 0 && out.contains(word), "{arguments}: {code} {out}{err}");
    }
    let (code, _, err) = api.run("get routes --context near", "").await;
    assert!(code == 2 && err.contains("there is no context `near`"), "{err}");
    program(&folder.join("ssh"), "echo 'Permission denied (publickey).' >&2; exit 255");
    let (code, _, err) = api.run("get routes", "").await;
    assert!(code == 2 && err.contains("Permission denied (publickey)."), "{err}");
}

#[tokio::test]
async fn lint_judges_files_beside_what_runs() {
    let api = api().await;
    api.file("good.yaml", &route("a", "a.example.com").replace("{name: web}", "{name: web, port: 8080}"));
    api.file("lost.yaml", &route("b", "b.example.com").replace("{name: web}", "{name: nobody}"));
    let (code, out, err) = api.tells("lint --live -f good.yaml", "").await;
    assert!(code == 0 && !out.contains("BackendNotFound"), "{code} {out}{err}");
    let (_, out, err) = api.tells("lint --live -f lost.yaml", "").await;
    assert!(out.contains("lost.yaml:") && out.contains("BackendNotFound"), "{out}{err}");
    let (_, out, _) = api.tells("lint -f lost.yaml", "").await;
    assert!(!out.contains("BackendNotFound"), "without a world nobody can know who runs: {out}");
    assert_eq!(api.tells("lint --live", "").await.0, 2);
}
