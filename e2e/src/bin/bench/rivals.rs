//! Proxies of others that do the same job, where they are installed: a new host, measured on the same double.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use interlock_e2e::bare::free_port;
use interlock_e2e::double::{App, Bystander, Double, PAUSE, Wish, answered_by, host};
use interlock_e2e::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::measure::setting;
use crate::report::{Report, Row, spread};

/// How many others a new host comes beside.
const BESIDE: [usize; 3] = [1, 25, 100];
/// Between two samples: some of them wait for company themselves.
const QUIET: Duration = Duration::from_secs(2);

/// One that the bench knows how to drive.
struct Rival {
    name: &'static str,
    /// The programs that must be found.
    programs: &'static [&'static str],
    /// The labels that ask it for a host, beside the one for Interlock.
    asks: fn(Wish, &str, u16) -> Wish,
    /// The commands that run it, given a folder, the engine's socket and its HTTP port.
    commands: fn(&Path, &Path, u16) -> Result<Vec<Command>>,
}

const RIVALS: [Rival; 2] = [
    Rival { name: "traefik", programs: &["traefik"], asks: for_traefik, commands: traefik },
    Rival {
        name: "docker-gen and nginx",
        programs: &["docker-gen", "nginx"],
        asks: for_docker_gen,
        commands: docker_gen,
    },
];

fn for_traefik(wish: Wish, host: &str, port: u16) -> Wish {
    let name = host.replace('.', "-");
    wish.label(&format!("traefik.http.routers.{name}.rule"), &format!("Host(`{host}`)"))
        .label(&format!("traefik.http.services.{name}.loadbalancer.server.port"), &port.to_string())
}

#[expect(clippy::unnecessary_wraps, reason = "all of them are told alike, and others write files")]
fn traefik(_: &Path, socket: &Path, http: u16) -> Result<Vec<Command>> {
    let mut command = Command::new("traefik");
    command
        .arg(format!("--entrypoints.web.address=127.0.0.1:{http}"))
        .arg(format!("--providers.docker.endpoint=unix://{}", socket.display()));
    Ok(vec![command])
}

fn for_docker_gen(wish: Wish, host: &str, _: u16) -> Wish {
    wish.env("VIRTUAL_HOST", host)
}

/// What people have in `nginx.tmpl`, without all that makes no difference here.
fn docker_gen(folder: &Path, socket: &Path, http: u16) -> Result<Vec<Command>> {
    let template = folder.join("nginx.tmpl");
    fs::write(
        &template,
        format!(
            "{{{{ range $host, $containers := groupByMulti $ \"Env.VIRTUAL_HOST\" \",\" }}}}server {{
listen 127.0.0.1:{http}; server_name {{{{ $host }}}};
location / {{ proxy_pass http://{{{{ $host }}}}; }} }}
upstream {{{{ $host }}}} {{
{{{{ range $container := $containers }}}}{{{{ range $network := $container.Networks }}}}\
{{{{ range $address := $container.Addresses }}}}server {{{{ $network.IP }}}}:{{{{ $address.Port }}}};
{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}}}
{{{{ end }}}}"
        ),
    )?;
    let (main, sites, pid) = (folder.join("nginx.conf"), folder.join("sites.conf"), folder.join("nginx.pid"));
    fs::write(&sites, "")?;
    let (sites, pid) = (sites.display(), pid.display());
    fs::write(
        &main,
        format!(
            "pid {pid};\nevents {{}}\nhttp {{\naccess_log off;\nserver_names_hash_bucket_size 128;\n\
             server {{ listen 127.0.0.1:{http} default_server; return 404; }}\ninclude {sites};\n}}\n"
        ),
    )?;
    let mut nginx = Command::new("nginx");
    nginx.args(["-g", "daemon off;", "-c"]).arg(&main);
    let mut generator = Command::new("docker-gen");
    let notify = format!("nginx -s reload -c {}", main.display());
    generator.arg("-endpoint").arg(format!("unix://{}", socket.display()));
    generator.args(["-watch", "-notify", &notify]).arg(&template).arg(sites.to_string());
    Ok(vec![nginx, generator])
}

/// Where a program is, by the path of the environment.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn present() -> Vec<Rival> {
    RIVALS.into_iter().filter(|rival| rival.programs.iter().all(|program| found(program).is_some())).collect()
}

/// Which of them are here, for the head of the report.
pub(crate) fn told() -> String {
    let known: Vec<_> = RIVALS.iter().map(|rival| rival.name).collect();
    let found: Vec<_> = present().iter().map(|rival| rival.name).collect();
    if found.is_empty() {
        return format!("none found (known are {})", known.join(", "));
    }
    found.join(", ")
}

/// A new host of each that is here.
pub(crate) async fn measure(report: &mut Report) -> Result {
    for rival in present() {
        for beside in BESIDE {
            let took = new_hosts(&rival, beside, setting("BENCH_SAMPLES", 30), QUIET).await?;
            let row = Row {
                proxy: rival.name.to_owned(),
                what: format!("new host beside {beside}"),
                ..Row::default()
            };
            let row = Row { figure: spread(&took), ..row }.times(&took, None).at("new host", beside, None);
            report.row(row.quoted());
        }
    }
    Ok(())
}

/// Processes that end with the value.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// From the event's arrival at a bystander to the first answer: nobody looks here whether an app is ready.
async fn new_hosts(rival: &Rival, beside: usize, samples: u64, quiet: Duration) -> Result<Vec<Duration>> {
    let double = Double::start()?;
    let add = async |number: usize| -> Result<_> {
        let host = host(number);
        let wish = (rival.asks)(Wish::of(&host), &host, double.port());
        let member = double.create(&host, &wish);
        let app = App::listen(&host, member.at).await?;
        Ok((host, member, app))
    };
    let mut others = Vec::new();
    for number in 0..beside {
        let (host, member, app) = add(number).await?;
        double.set_running(&member);
        others.push((host, app));
    }
    let folder = tempfile::tempdir()?;
    let http = free_port()?;
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
    let mut running = Running(Vec::new());
    for mut command in (rival.commands)(folder.path(), &double.socket(), http)? {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        running.0.push(command.spawn()?);
    }
    for (host, _) in &others {
        ensure!(answered_by(proxy, host, host, PAUSE).await.is_some(), "{} never serves {host}", rival.name);
    }
    let bystander = Bystander::of(&double).await?;
    let mut took = Vec::new();
    for sample in 0..usize::try_from(samples)? {
        let (host, member, app) = add(beside + sample).await?;
        double.run(&member);
        let answered = answered_by(proxy, &host, &host, PAUSE).await;
        let answered = answered.ok_or_else(|| format!("{} never serves {host}", rival.name))?;
        let heard = bystander.heard(&member.id, "start").await?;
        took.push(answered.saturating_duration_since(heard));
        drop(app);
        double.remove(&member);
        tokio::time::sleep(quiet).await;
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy that asks the engine before each request who is meant.
    const STAND_IN: &str = r#"
import http.client, http.server, json, socket, sys

class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        engine = Engine("engine")
        engine.request("GET", "/containers/json")
        found = [c for c in json.load(engine.getresponse())
                 if c["State"] == "running" and c["Labels"].get("rival.host") == self.headers["Host"]]
        if not found:
            return self.send_error(404)
        app = http.client.HTTPConnection(found[0]["NetworkSettings"]["Networks"]["net"]["IPAddress"],
                                         int(found[0]["Labels"]["rival.port"]))
        app.request("GET", self.path)
        body = app.getresponse().read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"#;

    fn for_stand_in(wish: Wish, host: &str, port: u16) -> Wish {
        wish.label("rival.host", host).label("rival.port", &port.to_string())
    }

    fn stand_in(folder: &Path, socket: &Path, http: u16) -> Result<Vec<Command>> {
        let script = folder.join("stand-in.py");
        fs::write(&script, STAND_IN)?;
        let mut command = Command::new("python3");
        command.arg(script).arg(socket).arg(http.to_string());
        Ok(vec![command])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_rival_is_driven_on_the_double() {
        let rival =
            Rival { name: "stand-in", programs: &["python3"], asks: for_stand_in, commands: stand_in };
        let took = new_hosts(&rival, 2, 3, Duration::ZERO).await.expect("three samples");
        assert_eq!(took.len(), 3);
    }

    #[test]
    fn nobody_is_measured_whose_programs_are_not_here() {
        let here = |rival: &Rival| rival.programs.iter().all(|program| found(program).is_some());
        assert!(present().iter().all(here));
        assert!(found("no-such-program-anywhere").is_none());
    }
}
