//! `interlock probe` against a server that loses, delays, doubles and misroutes on purpose: each is told as it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What the server does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Answer,
    Close,
    Reset,
    BreakOff,
    Unavailable,
    Late,
    Silence,
    Misroute,
    Double,
    Garbage,
    /// A good answer on a connection that is then closed without a word about it.
    AnswerAndClose,
}

/// A server whose deeds follow one another, and what it did.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    deeds: BTreeMap<Deed, u64>,
    ids: Vec<String>,
    connections: u64,
}

impl Server {
    fn start(deeds: &'static [Deed]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (next, all) = (Arc::new(AtomicU64::new(0)), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (next, seen) = (Arc::clone(&next), Arc::clone(&all));
                seen.lock().unwrap().connections += 1;
                std::thread::spawn(move || while serve(stream.as_ref().unwrap(), deeds, &next, &seen) {});
            }
        });
        Self { address, seen }
    }

    fn did(&self, deed: Deed) -> u64 {
        self.seen.lock().unwrap().deeds.get(&deed).copied().unwrap_or_default()
    }

    fn all(&self) -> u64 {
        self.seen.lock().unwrap().deeds.values().sum()
    }

    fn connections(&self) -> u64 {
        self.seen.lock().unwrap().connections
    }

    fn probe(&self, arguments: &[&str]) -> Probe {
        Probe::start(self.address, arguments)
    }
}

/// Serves one request; whether the connection goes on.
fn serve(mut stream: &TcpStream, deeds: &[Deed], next: &AtomicU64, seen: &Mutex<Seen>) -> bool {
    let mut reader = BufReader::new(stream);
    let (mut id, mut length, mut close) = (None, 0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        match name {
            "x-probe-id" => id = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            "connection" => close = value == "close",
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    assert_eq!(id.clone().unwrap_or_default(), String::from_utf8(body).unwrap(), "a POST's body is its id");
    let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
    let deed = deeds[number % deeds.len()];
    {
        let mut seen = seen.lock().unwrap();
        *seen.deeds.entry(deed).or_default() += 1;
        seen.ids.extend(id);
    }
    // The end travels with the answer: a moment later the next request would be on its way.
    rustix::net::sockopt::set_tcp_cork(stream, deed == Deed::AnswerAndClose).unwrap();
    let mut answer = |status: &str, header: &str, body: &str| {
        let length = body.len();
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{header}\r\n{body}");
        stream.write_all(text.as_bytes()).is_ok()
    };
    let goes_on = match deed {
        Deed::Answer => answer("200 OK", "x-served-by: one\r\n", "I am one"),
        Deed::AnswerAndClose => {
            answer("200 OK", "x-served-by: one\r\n", "I am one");
            false
        }
        Deed::Late => {
            std::thread::sleep(Duration::from_millis(400));
            answer("200 OK", "x-served-by: one\r\n", "I am one")
        }
        Deed::Misroute => answer("200 OK", "x-served-by: two\r\n", "I am two"),
        Deed::Double => answer("200 OK", "x-served-by: one\r\nx-probe-executed: 2\r\n", "I am one"),
        Deed::Unavailable => answer("503 Service Unavailable", "", "no server"),
        Deed::Garbage => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").is_err(),
        Deed::BreakOff => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nI a").is_err(),
        Deed::Close => false,
        Deed::Reset => {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
            false
        }
        Deed::Silence => {
            std::thread::sleep(Duration::from_secs(2));
            false
        }
    };
    if !goes_on {
        // What is cloned elsewhere must not keep it open.
        let how = if deed == Deed::Reset { return false } else { std::net::Shutdown::Both };
        let _ = stream.shutdown(how);
    }
    goes_on && !close
}

/// A probe that runs.
struct Probe(Child);

impl Probe {
    fn start(to: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_interlock"));
        command.env_clear().args(["probe", "shop.test/a", "-o", "json", "--to", &to.to_string()]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Exit code and report.
    fn report(self) -> (i32, Value) {
        let output = self.0.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(told, "", "a probe without a terminal is quiet");
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

const SHORT: [&str; 4] = ["--rate", "60", "--duration", "1s"];

#[test]
fn everything_that_goes_wrong_is_told_by_its_cause() {
    use Deed::{Answer, BreakOff, Close, Double, Garbage, Late, Misroute, Reset, Unavailable};
    let server = Server::start(&[
        Answer,
        Close,
        Answer,
        Reset,
        BreakOff,
        Answer,
        Unavailable,
        Late,
        Answer,
        Misroute,
        Double,
        Garbage,
    ]);
    let rest = ["--post", "/b", "--slow", "300ms", "--served-by", "one", "--keep-alive", "off"];
    let (code, report) = server.probe(&[&SHORT[..], &rest].concat()).report();
    assert_eq!(code, 1);
    assert_eq!(report["sent"], server.all(), "every request has one try");
    assert!(server.all() >= 55, "{report}");
    assert_eq!(
        report["lost"]["byCause"],
        json!({
            "closed before the answer": server.did(Close),
            "reset": server.did(Reset),
            "answer broke off": server.did(BreakOff),
            "status 503": server.did(Unavailable),
            "not HTTP": server.did(Garbage),
        }),
    );
    assert_eq!(report["slow"], server.did(Late));
    assert_eq!(report["misrouted"], server.did(Misroute));
    assert_eq!(report["executedTwice"], server.did(Double));
    assert_eq!(report["servedBy"]["two"], server.did(Misroute));
    let ids = server.seen.lock().unwrap().ids.clone();
    let different: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len(), "ids are unique");
    assert!(ids.len().abs_diff(usize::try_from(server.all()).unwrap() / 2) <= 1, "half are POST");
    let told = report["events"].as_array().unwrap();
    let late = told.iter().find(|event| event["what"] == "slow").unwrap();
    assert!(late["tookMs"].as_f64().unwrap() >= 400.0, "{late}");
    assert!(late["at"].as_str().unwrap().ends_with('Z'), "{late}");
}

#[test]
fn a_host_that_serves_loses_nothing() {
    let server = Server::start(&[Deed::Answer]);
    let (code, report) =
        server.probe(&[&SHORT[..], &["--post", "/b", "--expect", "I am one"]].concat()).report();
    assert_eq!((code, &report["clean"]), (0, &json!(true)), "{report}");
    assert_eq!(report["answered"]["200"], server.all());
    assert_eq!(report["good"], report["sent"]);
    // Half of the requests went over few kept connections, the others over one each.
    let (connections, sent) = (server.connections(), server.all());
    assert!(
        connections < sent * 3 / 4 && connections >= sent / 2,
        "{connections} connections, {sent} requests"
    );
}

#[test]
fn a_kept_connection_that_closed_in_time_costs_nothing() {
    let server = Server::start(&[Deed::AnswerAndClose]);
    let (code, report) =
        server.probe(&[&SHORT[..], &["--keep-alive", "on", "--post", "/b"]].concat()).report();
    assert_eq!((code, &report["sent"]), (0, &json!(server.all())), "{report}");
    assert_eq!(server.connections(), server.all());
}

#[test]
fn a_text_that_is_missing_is_an_answer_of_somebody_else() {
    let server = Server::start(&[Deed::Answer, Deed::Misroute]);
    let (code, report) = server.probe(&[&SHORT[..], &["--expect", "I am one"]].concat()).report();
    assert_eq!((code, &report["misrouted"]), (1, &json!(server.did(Deed::Misroute))), "{report}");
}

#[test]
fn nobody_there_is_refused() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, report) = Probe::start(free, &["--rate", "50", "--duration", "300ms", "--list", "3"]).report();
    assert_eq!(code, 1);
    assert_eq!(report["lost"]["byCause"]["refused"], report["sent"]);
    assert_eq!(report["events"].as_array().unwrap().len(), 3, "the list is bounded");
    assert_eq!(report["unlisted"].as_u64().unwrap() + 3, report["sent"].as_u64().unwrap());
    assert!(report["longestGap"]["seconds"].as_f64().unwrap() >= 0.2, "{report}");
}

#[test]
fn no_answer_in_time_is_lost() {
    let server = Server::start(&[Deed::Silence]);
    let (code, report) =
        server.probe(&["--rate", "20", "--duration", "200ms", "--timeout", "250ms"]).report();
    assert_eq!(code, 1);
    assert_eq!(report["lost"]["byCause"]["timed out"], report["sent"]);
}

/// A stalled server does not slow the sending down, and what had to wait for a connection waited from its due time.
#[test]
fn time_counts_from_when_a_request_was_due() {
    let server = Server::start(&[Deed::Late]);
    let (code, report) = server.probe(&["--clients", "1", "--duration", "500ms"]).report();
    assert_eq!((code, &report["sent"]), (0, &json!(2)), "a client waits for its answer: {report}");
    let server = Server::start(&[Deed::Late]);
    let arguments = ["--rate", "10", "--duration", "500ms", "--connections", "1", "--slow", "1500ms"];
    let (code, report) = server.probe(&arguments).report();
    assert_eq!((code, &report["sent"]), (0, &json!(5)), "{report}");
    // The fifth was due after 0.4 s and answered after 5 times 0.4 s.
    assert!(report["latencyMs"]["max"].as_f64().unwrap() >= 1590.0, "{report}");
    assert!(report["slow"].as_u64().unwrap() >= 1, "{report}");
}

#[test]
fn a_signal_ends_it_with_the_report() {
    use rustix::process::{Pid, Signal, kill_process};
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::start(&[Deed::Answer]);
        let probe = server.probe(&["--rate", "100"]);
        while server.all() < 10 {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_raw(i32::try_from(probe.0.id()).unwrap()).unwrap(), signal).unwrap();
        let (code, report) = probe.report();
        assert_eq!((code, &report["sent"]), (0, &json!(server.all())), "{report}");
    }
}

/// What the apps say that they executed is compared with what was acknowledged.
#[test]
fn the_apps_log_tells_what_was_executed_twice_or_never() {
    let server = Server::start(&[Deed::Answer]);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    std::fs::write(&log, "executed of-another-run-1\nexecuted of-another-run-1\n").unwrap();
    let executed = log.to_string_lossy().into_owned();
    let arguments = ["--rate", "20", "--duration", "600ms", "--methods", "post", "--executed", &executed];
    let probe = server.probe(&arguments);
    let mut ids = Vec::new();
    while ids.len() < 10 {
        std::thread::sleep(Duration::from_millis(5));
        ids.clone_from(&server.seen.lock().unwrap().ids);
    }
    // All but the first, and the second twice; the rest as it comes.
    let written = std::thread::spawn({
        let seen = Arc::clone(&server.seen);
        move || {
            std::thread::sleep(Duration::from_millis(400));
            let ids = seen.lock().unwrap().ids.clone();
            let again = [ids[1].clone()];
            let lines = ids[1..].iter().chain(&again).map(|id| format!("web-1 | executed {id}\n"));
            let mut file = std::fs::File::options().append(true).open(log).unwrap();
            file.write_all(lines.collect::<String>().as_bytes()).unwrap();
        }
    });
    let (code, report) = probe.report();
    written.join().unwrap();
    assert_eq!(code, 1);
    assert_eq!((&report["executedTwice"], &report["executedNever"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(report["lost"]["total"], 0);
}

#[test]
fn what_cannot_be_done_is_said_in_words() {
    for arguments in [["--to", "nowhere"], ["--rate", "0"], ["--good", "2xx"], ["--ca", "/none"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_interlock"));
        let output = command.env_clear().args(["probe", "shop.test"]).args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.starts_with("error: "), "{arguments:?}: {told}");
    }
}
