//! A writer that is killed at any moment loses nothing that it was told is done.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use interlock::store::{Asked, Key, Objects, Put, Seen, Spec};
use interlock_crds::schema::Kind;
use interlock_crds::{Metadata, RouteSpec};

/// Tells the child of a test what to write to.
const FOLDER: &str = "INTERLOCK_TEST_STORE";
/// Objects are this large, so that the log is often written anew.
const PADDING: usize = 4_000;

fn key(number: u64) -> Key {
    Key::new(Kind::Route, "default", &format!("r{}", number % 7)).unwrap()
}

/// The write of a number: every fifth takes an object away.
fn asked(number: u64) -> Asked {
    if number.is_multiple_of(5) {
        return Asked { delete: vec![(key(number), None)], ..Asked::default() };
    }
    let spec = RouteSpec { hostnames: vec![format!("h{number}.example.com")], ..RouteSpec::default() };
    let annotations = BTreeMap::from([("padding".to_owned(), "x".repeat(PADDING))]);
    let metadata = Metadata { name: key(number).id.name().to_owned(), annotations, ..Metadata::default() };
    let put = Put { key: key(number), metadata, spec: Spec::Route(spec.into()), new: false, held: None };
    Asked { put: vec![put], ..Asked::default() }
}

/// The objects after the first writes, by name: the number of the write that made each.
fn model(writes: u64) -> BTreeMap<String, u64> {
    let mut model = BTreeMap::new();
    for number in 1..=writes {
        let name = key(number).id.name().to_owned();
        if number.is_multiple_of(5) {
            model.remove(&name);
        } else {
            model.insert(name, number);
        }
    }
    model
}

fn found(objects: &[Seen]) -> BTreeMap<String, u64> {
    let number = |seen: &Seen| {
        let Spec::Route(spec) = &seen.stored.spec else { panic!("only routes were written") };
        let digits: String = spec.hostnames[0].chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    objects.iter().map(|seen| (seen.stored.key.id.name().to_owned(), number(seen))).collect()
}

/// How many writes there were: one that takes away what is not there is none, and counts here all the same.
fn writes_of(folder: &Path, at_least: u64) -> u64 {
    let objects = Objects::look(folder, Vec::new()).unwrap();
    let (_, seen) = objects.all();
    let is = found(&seen);
    let fits = (at_least..at_least + 2).find(|writes| model(*writes) == is);
    fits.unwrap_or_else(|| panic!("acknowledged up to {at_least}: {:?}; there is {is:?}", model(at_least)))
}

/// The child: writes one after the other, and says so after each. Not a test by itself.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let from: u64 = std::env::var("FROM").unwrap().parse().unwrap();
    let objects = Objects::open(Path::new(&folder), Vec::new()).unwrap();
    let mut out = std::io::stdout();
    for number in from.. {
        match objects.write(asked(number)) {
            Ok(_) | Err(interlock::store::Refusal::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if writeln!(out, "\nwritten {number}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// Kills a child this many times, each time after another while, and looks at what is left.
fn kills(count: u64, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut writes = 0;
    let mut random = seed;
    for _ in 0..count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, folder.path())
            .env("FROM", (writes + 1).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = |line: &String| line.strip_prefix("written ").map(|number| number.parse::<u64>().unwrap());
        // It is at work when it has said so once; the moment of its death is anybody's guess.
        let first = lines.by_ref().map_while(Result::ok).find_map(|line| told(&line));
        writes = first.expect("the child writes");
        std::thread::sleep(Duration::from_micros(random % 12_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let rest = lines.map_while(Result::ok).filter_map(|line| told(&line));
        writes = rest.last().unwrap_or(writes);
        writes = writes_of(folder.path(), writes);
    }
    assert!(writes > count, "{writes} writes in {count} lives");
}

#[test]
fn two_hundred_deaths_lose_nothing_that_was_acknowledged() {
    let threads =
        [3, 5, 7, 11].map(|seed| std::thread::spawn(move || kills(50, 0x9E37_79B9_7F4A_7C15 ^ seed)));
    for thread in threads {
        thread.join().unwrap();
    }
}
