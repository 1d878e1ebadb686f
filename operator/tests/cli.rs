//! The command line as a stranger meets it: the real binary, its words and its exit codes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use interlock::serve::{Events, Listeners, Looks, Metrics, Readiness, Rest, Served, Shared, Snapshot};
use interlock::settings::{Environment, Flags, Settings};
use interlock::store::Objects;
use interlock::yaml;
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/observed.yaml")
}

/// One run of the binary without this process's environment.
struct Run {
    command: Command,
    folder: TempDir,
    stdin: String,
}

fn interlock(arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_interlock"));
    command.env_clear().current_dir(folder.path()).args(arguments);
    Run { command, folder, stdin: String::new() }
}

impl Run {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn stdin(mut self, text: &str) -> Self {
        text.clone_into(&mut self.stdin);
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self
    }

    /// Exit code, standard output, standard error.
    fn parts(mut self) -> (i32, String, String) {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(self.stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// All three, for a snapshot.
    fn told(self) -> String {
        let (code, out, err) = self.parts();
        format!("exit code {code}\n----- output\n{out}----- errors\n{err}")
    }
}

#[test]
fn help() {
    assert_snapshot!(interlock(&["--help"]).told());
}

#[test]
fn help_of_run() {
    assert_snapshot!(interlock(&["run", "--help"]).told());
}

#[test]
fn without_arguments() {
    assert_eq!(interlock(&[]).parts().0, 2);
}

#[test]
fn config_view_has_every_default() {
    assert_snapshot!(interlock(&["config", "view"]).told());
}

/// What `config view` prints, fed back, means the same.
#[test]
fn config_view_is_a_configuration() {
    let (_, once, _) = interlock(&["config", "view"]).parts();
    let (code, twice, err) =
        interlock(&["config", "view", "--config", "a.yaml"]).file("a.yaml", &once).parts();
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(once, twice);
}

#[test]
fn flags_beat_the_environment_and_that_beats_the_file() {
    let (code, out, _) = interlock(&["config", "view", "-o", "json", "--config", "a.yaml", "--api", "/flag"])
        .file(
            "a.yaml",
            "listen: {api: /file, agents: /file}\nlog: {level: debug}\ndocker: {host: unix:///f}\n",
        )
        .env("INTERLOCK_CONFIG", "listen: {api: /env, agents: /env}")
        .env("DOCKER_HOST", "unix:///env")
        .parts();
    let view: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(view["listen"]["api"], "/flag");
    assert_eq!(view["listen"]["agents"], "/env");
    assert_eq!(view["listen"]["metrics"], "127.0.0.1:9090");
    assert_eq!(view["log"]["level"], "debug");
    assert_eq!(view["docker"]["host"], "unix:///f");
}

#[test]
fn dockers_own_variables_count_where_nothing_else_is_said() {
    let (_, out, _) = interlock(&["config", "view", "-o", "json"])
        .env("DOCKER_HOST", "tcp://10.0.0.1:2376")
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", "/certs")
        .parts();
    let view: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(view["docker"]["host"], "tcp://10.0.0.1:2376");
    assert_eq!(view["docker"]["tls"]["key"], "/certs/key.pem");
}

/// Each unusable configuration: the message names the place, the value and the fix.
#[test]
fn bad_configurations() {
    let mut told = String::new();
    for text in [
        "pace:\n  resync: 5s\n  ceiling: 5\n",
        "pace:\n  ceiling: 2s\n",
        "doker:\n  host: unix:///x\n",
        "docker:\n  host: /var/run/docker.sock\n",
        "docker:\n  host: ssh://me@there\n",
        "listen:\n  metrics: localhost\n",
        "log: {level: 'interlock=lots'}\n",
        "clusters:\n- name: a\n  spec: {proxy: haproxy}\n- name: a\n  spec: {proxy: nginx}\n",
        "clusters:\n- name: a\n  spec: {proxy: hapoxy}\n",
        "clusters:\n- name: a\n  spec:\n    proxy: haproxy\n    listeners: {http: 99999}\n",
        "clusters:\n- name: a b\n  spec: {proxy: haproxy}\n",
        "clusters:\n- name: a\n  spec: {}\n",
        "apiVersion: v1\n",
        "docker: [\n",
        "- a\n",
    ] {
        let run = interlock(&["config", "view", "--config", "a.yaml"]).file("a.yaml", text);
        let (code, out, err) = run.parts();
        assert_eq!((code, out.as_str()), (2, ""), "{text}");
        told.extend([text, "=>\n", &err, "\n"]);
    }
    assert_snapshot!(told);
}

#[test]
fn bad_values_from_elsewhere_name_their_origin() {
    let runs = [
        interlock(&["config", "view", "--config", "nowhere.yaml"]),
        interlock(&["config", "view"]).env("INTERLOCK_CONFIG", "pace: {ceiling: 1h}"),
        interlock(&["config", "view"]).env("DOCKER_HOST", "npipe:////./pipe/docker"),
        interlock(&["config", "view", "--docker-host", "10.0.0.1"]),
        interlock(&["run", "--metrics", "nine"]),
        interlock(&["run", "--embedded", "nginx"])
            .env("INTERLOCK_CONFIG", "clusters: [{name: a, spec: {proxy: haproxy}}]"),
    ];
    assert_snapshot!(runs.into_iter().map(Run::told).collect::<Vec<_>>().join("\n"));
}

#[test]
fn lint_names_what_is_wrong_and_the_fix() {
    let path = fixture();
    assert_snapshot!(interlock(&["lint", "--from", path.to_str().unwrap()]).told());
}

#[test]
fn lint_for_machines() {
    let text = std::fs::read_to_string(fixture()).unwrap();
    let (code, out, _) = interlock(&["lint", "--from", "-", "-o", "json"]).stdin(&text).parts();
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 1);
    let found = report["findings"].as_array().unwrap();
    assert!(found.iter().any(|finding| finding["reason"] == "AmbiguousPort"), "{out}");
    let refused = found.iter().filter(|finding| finding["verdict"] == "Refused").count();
    assert_eq!(report["refused"], refused);
}

#[test]
fn lint_of_nothing_is_content() {
    let (code, out, err) = interlock(&["lint", "--from", "-"]).parts();
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[test]
fn facts_that_are_none() {
    let text = "engines:\n  local:\n    containers:\n      x: {id: x, name: web, stat: running}\n";
    assert_snapshot!(interlock(&["lint", "--from", "-"]).stdin(text).told());
}

#[test]
fn render_prints_each_proxys_files() {
    let path = fixture();
    let (code, out, _) = interlock(&["render", "-o", "json", "--from", path.to_str().unwrap()]).parts();
    assert_eq!(code, 0);
    let rendered: BTreeMap<String, serde_json::Value> = serde_json::from_str(&out).unwrap();
    assert!(rendered["web-proxy"]["files"]["haproxy.cfg"].is_string(), "{out}");
    assert!(rendered["edge-proxy"]["files"]["nginx.conf"].is_string(), "{out}");
}

#[test]
fn render_of_one_proxy() {
    let path = fixture();
    let from = path.to_str().unwrap();
    let (code, out, _) = interlock(&["render", "--target", "web-proxy", "--from", from]).parts();
    assert_eq!(code, 0);
    assert!(out.contains("# web-proxy: haproxy.cfg") && !out.contains("edge-proxy"), "{out}");
    let (code, _, err) = interlock(&["render", "--target", "wep-proxy", "--from", from]).parts();
    assert_eq!(code, 2);
    assert!(err.contains("hint: write one of `edge-proxy`, `web-proxy`"), "{err}");
}

#[test]
fn render_without_a_proxy_says_how_to_get_one() {
    assert_snapshot!(interlock(&["render", "--from", "-"]).told());
}

/// The commands answer from the operator's socket, which nobody else may open.
#[tokio::test]
async fn commands_ask_the_operator() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("own/api.sock");
    let mut listeners = Listeners::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    listeners.bind_api(&socket).await.unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let shared = Shared::default();
    let settings = Settings::load(&Flags::default(), &Environment::default()).unwrap();
    let rest = Rest {
        objects: Objects::open(folder.path(), settings.objects()).unwrap(),
        events: Events::default(),
        config: settings.config.into(),
    };
    let served = Served {
        metrics: Metrics::new().unwrap(),
        readiness: Readiness::default(),
        shared: shared.clone(),
        looks: Looks::default(),
        rest,
    };
    let serving = listeners.serve(served);

    let api = socket.to_str().unwrap().to_owned();
    let lint = move || interlock(&["lint", "--api", &api]).parts();
    let (code, _, err) = tokio::task::spawn_blocking(lint.clone()).await.unwrap();
    assert_eq!(code, 2);
    assert!(err.contains("the first round is not over yet"), "{err}");

    shared.publish(snapshot());
    let (code, out, err) = tokio::task::spawn_blocking(lint).await.unwrap();
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(out.contains("AmbiguousPort"), "{out}");

    drop(serving);
    assert!(!socket.exists(), "the socket outlives the operator");
}

fn snapshot() -> Snapshot {
    let settings = Settings::load(&Flags::default(), &Environment::default()).unwrap();
    Snapshot {
        version: String::new(),
        config: settings.config,
        observed: yaml::from_str(&std::fs::read_to_string(fixture()).unwrap()).unwrap(),
        targets: BTreeMap::new(),
        findings: Vec::new(),
        observe: false,
    }
}

#[tokio::test]
async fn a_second_operator_is_refused_the_socket_and_a_dead_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let any = "127.0.0.1:0".parse().unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut first = Listeners::bind(any).await.unwrap();
    first.bind_api(&socket).await.unwrap();
    let mut second = Listeners::bind(any).await.unwrap();
    let error = second.bind_api(&socket).await.unwrap_err();
    assert!(error.to_string().starts_with("another operator listens on"), "{error}");
}

#[test]
fn a_taken_metrics_port_is_reported_with_who_has_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let inside = |name: &str| folder.path().join(name).display().to_string();
    let (code, _, err) = interlock(&[
        "run",
        "--metrics",
        &address,
        "--api",
        &inside("api"),
        "--state-dir",
        &inside("state"),
        "--agents",
        &inside("agents"),
        "--docker-host",
        &format!("unix://{}", inside("docker.sock")),
    ])
    .parts();
    assert_eq!(code, 2);
    assert!(
        err.contains(&format!("`{address}`, where metrics and health should listen, is taken by")),
        "{err}"
    );
    assert!(err.contains(&format!("(process {})", std::process::id())), "{err}");
    assert!(err.contains("hint: "), "{err}");
}

#[test]
fn why_names_the_reason_and_the_fix() {
    let path = fixture();
    let ask = |subject| interlock(&["why", subject, "--from", path.to_str().unwrap()]).told();
    let subjects =
        ["https://shop.example.com/a?b", "wiki.example.com", "mail.example.com", "shop-1", "bad host"];
    let told: Vec<String> =
        subjects.into_iter().map(|subject| format!("# {subject}\n{}", ask(subject))).collect();
    assert_snapshot!(told.join("\n"));
}

#[test]
fn why_for_machines() {
    let path = fixture();
    let from = path.to_str().unwrap();
    let (code, out, _) = interlock(&["why", "wiki.example.com", "-o", "json", "--from", from]).parts();
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 1);
    assert_eq!(answer["answer"], "unknownHost");
    assert_eq!(answer["targets"]["web-proxy"]["status"], 404);
    assert_eq!(answer["findings"][0]["reason"], "AmbiguousPort");
}

const DOCUMENT: &str = "\
apiVersion: interlock.dev/v1alpha1
kind: Route
metadata: {name: shop}
spec:
  hostnames: [shop.example.com]
  forwardAuth: {address: 'http://192.0.2.9/'}
  rules:
  - backendRefs: [{kind: ComposeService, project: shop, name: web}]
---
apiVersion: interlock.dev/v1alpha1
kind: Route
metadata: {name: wiki}
spec:
  hostnames: [wiki.example.com]
  rules:
  - backendRefs: [{kind: ComposeService, project: shop, name: wiki}]
    weigth: 5
";

const COMPOSE: &str = "\
name: shop
services:
  web:
    image: shop/web
    labels:
      interlock.hots: shop.example.com
";

#[test]
fn lint_of_files_names_the_place() {
    let run = interlock(&["lint", "-f", "routes.yaml", "-f", "compose.yaml"]);
    assert_snapshot!(run.file("routes.yaml", DOCUMENT).file("compose.yaml", COMPOSE).told());
}

#[test]
fn lint_of_files_for_machines() {
    let (code, out, err) = interlock(&["lint", "-f", ".", "-o", "github"]).file("a.yaml", DOCUMENT).parts();
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(
        out.contains("::error file=./a.yaml,line=6,title=NotSupported::`spec.forwardAuth`: no proxy"),
        "{out}"
    );
    assert!(out.contains("::error file=./a.yaml,line=17,title=InvalidDocument::"), "{out}");
    let (_, out, _) = interlock(&["lint", "-f", "-", "-o", "sarif"]).stdin(DOCUMENT).parts();
    let log: serde_json::Value = serde_json::from_str(&out).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap();
    let lines: Vec<_> =
        results.iter().map(|one| &one["locations"][0]["physicalLocation"]["region"]["startLine"]).collect();
    assert!(lines.iter().any(|line| **line == 6) && lines.iter().any(|line| **line == 17), "{out}");
    let (code, _, err) = interlock(&["lint", "-f", "nowhere.yaml"]).parts();
    assert!(code == 2 && err.contains("nowhere.yaml cannot be read"), "{err}");
}

#[test]
fn good_files_are_content() {
    let good =
        DOCUMENT.split("---").next().unwrap().replace("  forwardAuth: {address: 'http://192.0.2.9/'}\n", "");
    let (code, out, err) = interlock(&["lint", "-f", "-"]).stdin(&good).parts();
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[test]
fn explain_says_what_a_field_means() {
    let mut told = String::new();
    for field in
        ["Route.spec.tls", "rt.rules.matches.path.type", "route.spec.sticky.cookieName", "sc.spec.hold"]
    {
        told += &interlock(&["explain", field]).told();
    }
    told += &interlock(&["explain"]).told();
    told += &interlock(&["explain", "Route.spec.hostname"]).told();
    told += &interlock(&["explain", "Ingress"]).told();
    assert_snapshot!(told);
}

#[test]
fn completion_is_there_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = interlock(&["completion", shell]).parts();
        assert!(code == 0 && out.contains("interlock") && out.contains("explain"), "{shell}: {out}");
    }
}
