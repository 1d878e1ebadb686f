//! The machine's real engine. Every object is named after this process and removed at the end, also after
//! a panic. The image is made of this machine's own `sh`, `sleep` and `cat`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use interlock::deliver::exec::{self, AgentBinary, ExecError};
use interlock::docker::actions::{self, ActionError};
use interlock::docker::{Client, DockerError};
use interlock::source::EngineSnapshot;
use interlock::source::docker::{DockerSource, spawn};
use interlock_core::model::{Container, ContainerId, ContainerState, Freshness, Health};
use interlock_crds::{DockerSpec, ProxyKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

/// This test's own corner of the engine.
struct Corner {
    prefix: String,
}

impl Corner {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("il-docker-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let corner = Self { prefix };
        corner.import();
        corner
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    fn image(&self) -> String {
        self.name("image")
    }

    fn import(&self) {
        let mut tar = tar::Builder::new(Vec::new());
        for file in closure(&["/bin/sh", "/bin/sleep", "/bin/cat"]) {
            let inside = file.strip_prefix("/").unwrap();
            tar.append_path_with_name(std::fs::canonicalize(&file).unwrap(), inside).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let mut import = Command::new("docker")
            .args([
                "import",
                "--change",
                "LABEL interlock.port=80",
                "--change",
                "CMD [\"/bin/sleep\",\"3600\"]",
            ])
            .args(["-", &self.image()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&tar).unwrap();
        assert!(import.wait().unwrap().success());
    }

    /// `docker run -d` with arguments before the image and a command after it.
    fn run(&self, what: &str, before: &[&str], command: &[&str]) -> ContainerId {
        let (name, image) = (self.name(what), self.image());
        let mut arguments = vec!["run", "-d", "--name", &name, "--label", "il-docker=test"];
        arguments.extend(before);
        arguments.push(&image);
        arguments.extend(command);
        docker(&arguments).trim().parse().unwrap()
    }

    fn container<'a>(&self, snapshot: &'a EngineSnapshot, what: &str) -> Option<&'a Container> {
        let name = self.name(what);
        snapshot.view.containers.values().map(|one| &**one).find(|container| container.name == name)
    }

    /// Waits until this corner's container `what` is as wanted.
    async fn until(
        &self,
        seen: &mut watch::Receiver<EngineSnapshot>,
        what: &str,
        is: impl Fn(&EngineSnapshot, &Container) -> bool,
    ) -> Container {
        let right =
            |snapshot: &EngineSnapshot| self.container(snapshot, what).is_some_and(|c| is(snapshot, c));
        let found = timeout(Duration::from_secs(30), seen.wait_for(right)).await;
        let found = found.unwrap_or_else(|_| panic!("{what} never came to be as wanted")).unwrap();
        self.container(&found, what).unwrap().clone()
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        let filter = format!("name={}-", self.prefix);
        for (kind, remove) in [("ps", &["rm", "-f"][..]), ("network", &["network", "rm"])] {
            let list: &[&str] = if kind == "ps" {
                &["ps", "-aq", "-f", &filter]
            } else {
                &["network", "ls", "-q", "-f", &filter]
            };
            let ids = Command::new("docker").args(list).output().map(|out| out.stdout).unwrap_or_default();
            for id in String::from_utf8_lossy(&ids).split_whitespace() {
                let _ = Command::new("docker").args(remove).arg(id).output();
            }
        }
        let _ = Command::new("docker").args(["rmi", "-f", &self.image()]).output();
    }
}

/// Programs and the libraries they load.
fn closure(programs: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = programs.iter().map(PathBuf::from).collect();
    for program in programs {
        let out = Command::new("ldd").arg(program).output().unwrap().stdout;
        let words = String::from_utf8_lossy(&out).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        files.extend(words.into_iter().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    files.sort();
    files.dedup();
    files
}

fn docker(arguments: &[&str]) -> String {
    let out = Command::new("docker").args(arguments).output().unwrap();
    assert!(out.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn client() -> Client {
    Client::connect(&DockerSpec::default()).unwrap()
}

async fn follow(client: &Client) -> watch::Receiver<EngineSnapshot> {
    let source =
        DockerSource { engine: "local".parse().unwrap(), resync: Duration::from_hours(1), address: None };
    let (mut seen, _task) = spawn(client.clone(), source);
    let fresh = seen.wait_for(|snapshot| snapshot.view.freshness == Freshness::Fresh);
    timeout(Duration::from_secs(30), fresh).await.expect("first sync").unwrap();
    seen
}

fn draining(snapshot: &EngineSnapshot, container: &Container) -> bool {
    snapshot.draining.contains(&container.id)
}

#[tokio::test]
async fn a_container_s_life_is_followed() {
    let corner = Corner::new();
    let client = client();
    assert!(client.check().await.unwrap().api.starts_with("1."));
    let mut seen = follow(&client).await;
    let id = corner.run(
        "web",
        &[
            "--label",
            "interlock.host=a.example.com",
            "--label",
            "secret=x",
            "-e",
            "INTERLOCK_DATA={}",
            "-e",
            "PASSWORD=x",
            "--hostname",
            "www.example.com",
            "--expose",
            "8080",
            "-p",
            "127.0.0.1::80",
            "--stop-signal",
            "SIGUSR1",
            "--health-cmd",
            "/bin/cat /ok",
            "--health-interval",
            "200ms",
            "--health-start-period",
            "30s",
        ],
        &["/bin/sh", "-c", "trap 'exit 3' USR1; trap : HUP; while :; do sleep 0.1; done"],
    );
    let web = corner.until(&mut seen, "web", |_, c| c.state == ContainerState::Running).await;
    assert_eq!(web.id, id);
    assert_eq!((web.hostname.as_str(), web.data.as_deref()), ("www.example.com", Some("{}")));
    assert_eq!(
        web.labels.keys().map(String::as_str).collect::<Vec<_>>(),
        ["interlock.host", "interlock.port"]
    );
    assert_eq!(web.image_labels.keys().map(String::as_str).collect::<Vec<_>>(), ["interlock.port"]);
    assert_eq!(web.exposed.iter().map(|p| p.get()).collect::<Vec<_>>(), [80, 8080]);
    assert_eq!(web.published.len(), 1);
    assert_eq!((web.stop_signal.as_str(), web.health), ("SIGUSR1", Health::Starting));
    assert!(web.networks["bridge"].ip().is_some() && web.networks["bridge"].gateway.is_some());

    docker(&["exec", &corner.name("web"), "/bin/sh", "-c", "> /ok"]);
    corner.until(&mut seen, "web", |s, c| c.health == Health::Healthy && s.was_healthy.contains(&c.id)).await;
    docker(&["pause", &corner.name("web")]);
    corner.until(&mut seen, "web", |_, c| c.state == ContainerState::Paused).await;
    docker(&["unpause", &corner.name("web")]);
    corner.until(&mut seen, "web", |_, c| c.state == ContainerState::Running).await;
    docker(&["rename", &corner.name("web"), &corner.name("shop")]);
    corner.until(&mut seen, "shop", |_, _| true).await;
    docker(&["kill", "-s", "HUP", &corner.name("shop")]);
    docker(&["rename", &corner.name("shop"), &corner.name("web")]);
    corner.until(&mut seen, "web", |s, c| c.state == ContainerState::Running && !draining(s, c)).await;
    let before = client.calls().snapshot();
    docker(&["stop", &corner.name("web")]);
    let ended = corner.until(&mut seen, "web", |_, c| c.state == ContainerState::Exited).await;
    assert_eq!((ended.exit_code, ended.stopped_by_request), (Some(3), true));
    docker(&["rm", &corner.name("web")]);
    timeout(Duration::from_secs(10), seen.wait_for(|s| !s.view.containers.contains_key(&id)))
        .await
        .unwrap()
        .unwrap();
    // Other tests' containers start meanwhile, so only what must not be asked at all is compared.
    assert_eq!(client.calls().snapshot()["container_list"], before["container_list"]);
}

#[tokio::test]
async fn a_stop_signal_drains_before_the_end() {
    let corner = Corner::new();
    let client = client();
    let mut seen = follow(&client).await;
    corner.run(
        "slow",
        &["--stop-timeout", "30"],
        &["/bin/sh", "-c", "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done"],
    );
    corner.until(&mut seen, "slow", |_, c| c.state == ContainerState::Running).await;
    let name = corner.name("slow");
    let stop = tokio::task::spawn_blocking(move || docker(&["stop", &name]));
    corner.until(&mut seen, "slow", |s, c| c.state == ContainerState::Running && draining(s, c)).await;
    stop.await.unwrap();
    corner.until(&mut seen, "slow", |s, c| c.state == ContainerState::Exited && !draining(s, c)).await;
}

#[tokio::test]
async fn what_interlock_attached_is_known_again_by_a_new_operator() {
    let corner = Corner::new();
    let client = client();
    let (ours, theirs) = (corner.name("ours"), corner.name("theirs"));
    docker(&["network", "create", &ours]);
    docker(&["network", "create", &theirs]);
    let id = corner.run("proxy", &[], &[]);
    let mut seen = follow(&client).await;
    docker(&["network", "connect", &theirs, &corner.name("proxy")]);
    actions::attach(&client, &ours, &id).await.unwrap();
    actions::attach(&client, &ours, &id).await.expect("attached already is attached");
    let both = |_: &EngineSnapshot, c: &Container| {
        c.networks.contains_key(&ours) && c.networks.contains_key(&theirs)
    };
    let live = corner.until(&mut seen, "proxy", both).await;
    assert!(live.networks[&ours].ours && !live.networks[&theirs].ours && !live.networks["bridge"].ours);
    assert!(live.networks[&ours].ip().is_some());
    docker(&["restart", "-t", "0", &corner.name("proxy")]);
    // A new operator, over a new list.
    let mut again = follow(&client).await;
    let known = corner.until(&mut again, "proxy", both).await;
    assert!(known.networks[&ours].ours && !known.networks[&theirs].ours);
    actions::detach(&client, &ours, &id).await.unwrap();
    corner.until(&mut again, "proxy", |_, c| !c.networks.contains_key(&ours)).await;
    actions::detach(&client, &ours, &id).await.expect("detached already is detached");
    docker(&["network", "rm", &ours]);
    actions::detach(&client, &ours, &id).await.expect("a network that is gone is detached");
    let gone = actions::attach(&client, &ours, &id).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
}

#[test]
fn the_first_configuration_passes_haproxy_s_own_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("haproxy.cfg");
    std::fs::write(&path, actions::first_configuration(ProxyKind::Haproxy, 8099).unwrap().text).unwrap();
    let out = Command::new("haproxy").args(["-c", "-f"]).arg(&path).output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && !words.contains("WARNING"), "{words}");
    assert_eq!(actions::first_configuration(ProxyKind::Nginx, 80), None);
}

#[tokio::test]
async fn a_proxy_without_a_configuration_gets_one_and_starts() {
    let corner = Corner::new();
    let client = client();
    // As the official image: the folder is there, the file is not.
    let wait =
        "while :; do if [ -f /usr/local/etc/haproxy/haproxy.cfg ]; then exec sleep 3600; fi; exit 1; done";
    let prepare = corner.run("prepare", &[], &["/bin/sh", "-c", "exit 0"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("usr/local/etc/haproxy")).unwrap();
    docker(&["cp", &format!("{}/usr", folder.path().display()), &format!("{prepare}:/")]);
    docker(&["commit", prepare.as_str(), &corner.image()]);
    let id = corner.run("proxy", &[], &["/bin/sh", "-c", wait]);
    assert_eq!(docker(&["wait", &corner.name("proxy")]).trim(), "1");
    let first = actions::first_configuration(ProxyKind::Haproxy, 80).unwrap();
    actions::boot(&client, &id, ProxyKind::Haproxy, Some(&first)).await.unwrap();
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", id.as_str()]).trim(), "true");
    assert_eq!(docker(&["exec", id.as_str(), "/bin/cat", first.path]), first.text);
    let changes = docker(&["diff", id.as_str()]);
    let added: Vec<&str> = changes.lines().filter(|line| line.starts_with('A')).collect();
    assert_eq!(added, [format!("A {}", first.path)], "nothing else is created");

    let mounted = tempfile::tempdir().unwrap();
    let mount = format!("{}:/usr/local/etc/haproxy", mounted.path().display());
    let id = corner.run("mounted", &["-v", &mount], &["/bin/sh", "-c", wait]);
    docker(&["wait", id.as_str()]);
    let refused = actions::boot(&client, &id, ProxyKind::Haproxy, Some(&first)).await.unwrap_err();
    assert!(matches!(refused, ActionError::OnMount { .. }), "{refused}");
    assert!(refused.to_string().contains("interlock-haproxy"));
    assert_eq!(std::fs::read_dir(mounted.path()).unwrap().count(), 0, "the host's folder is untouched");

    let id = corner.run("sealed", &["--read-only"], &["/bin/sh", "-c", wait]);
    docker(&["wait", id.as_str()]);
    let refused = actions::boot(&client, &id, ProxyKind::Haproxy, Some(&first)).await.unwrap_err();
    assert!(matches!(refused, ActionError::ReadOnlyRoot { .. }), "{refused}");
}

/// Something that echoes, as an agent's stand-in.
fn script(folder: &Path, text: &str) -> AgentBinary {
    let path = folder.join("agent");
    std::fs::write(&path, text).unwrap();
    AgentBinary::at(path)
}

#[tokio::test]
async fn an_agent_is_sent_once_and_spoken_to_over_exec() {
    let corner = Corner::new();
    let client = client();
    let folder = tempfile::tempdir().unwrap();
    let agent = script(folder.path(), "#!/bin/sh\necho \"$@\" >&2\necho \"$3 $4\"\nexec cat\n");
    let id = corner.run("proxy", &[], &[]);
    for uploads in [1, 1] {
        let (mut reader, mut writer) = exec::connect(&client, &id, ProxyKind::Nginx, &agent).await.unwrap();
        let payload = vec![7_u8; 300_000];
        let sent = payload.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.flush().await.unwrap();
            writer
        });
        let mut head = [0; 14];
        timeout(Duration::from_secs(20), reader.read_exact(&mut head)).await.unwrap().unwrap();
        assert_eq!(&head, b"--proxy nginx\n", "standard error is kept apart");
        let mut back = vec![0; payload.len()];
        timeout(Duration::from_secs(20), reader.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(back, payload);
        let mut writer = writing.await.unwrap();
        writer.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(Duration::from_secs(20), reader.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
        assert_eq!(client.calls().snapshot()["archive_upload"], uploads);
    }
    let mode = docker(&["exec", id.as_str(), "/bin/sh", "-c", "[ -x /.interlock/*/interlock ] && echo yes"]);
    assert_eq!(mode.trim(), "yes");
}

#[tokio::test]
async fn an_agent_that_cannot_run_or_be_sent_says_so() {
    let corner = Corner::new();
    let client = client();
    let folder = tempfile::tempdir().unwrap();
    let foreign = script(folder.path(), "\u{7f}ELF of another machine");
    let id = corner.run("proxy", &[], &[]);
    let why = match exec::connect(&client, &id, ProxyKind::Haproxy, &foreign).await {
        Ok((mut reader, _writer)) => {
            let mut byte = [0];
            timeout(Duration::from_secs(20), reader.read(&mut byte)).await.unwrap().unwrap_err().to_string()
        }
        Err(error) => error.to_string(),
    };
    assert!(why.contains("cannot run the agent") && why.contains("interlock-haproxy"), "{why}");

    let sealed = corner.run("sealed", &["--read-only"], &[]);
    let error = exec::connect(&client, &sealed, ProxyKind::Nginx, &foreign).await.err().unwrap();
    assert!(error.is_final() && error.to_string().contains("interlock-nginx"), "{error}");

    let spec = DockerSpec { read_only: true, ..DockerSpec::default() };
    let reader = Client::connect(&spec).unwrap();
    let error = exec::connect(&reader, &id, ProxyKind::Nginx, &script(folder.path(), "#!/bin/sh\n"))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ExecError::Action(ActionError::Docker(DockerError::ReadOnly { .. }))), "{error}");
    let nobody: ContainerId = "0123456789ab".parse().unwrap();
    let error = exec::connect(&client, &nobody, ProxyKind::Nginx, &foreign).await.err().unwrap();
    assert!(error.to_string().contains("No such container"), "{error}");
}

#[tokio::test]
async fn an_operator_on_the_host_has_no_container_of_its_own() {
    assert_eq!(interlock::docker::own_container(&client()).await, None);
}
