//! What is rendered for nginx, judged by golden files and by the real nginx.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test whose judge is a real nginx")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use interlock_core::assign::Assignment;
use interlock_core::bundle::{Bundle, Paths};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::render::{Templates, render};

fn plan(text: &str) -> Plan {
    serde_yaml::from_str(text).unwrap()
}

fn bundle(plan: &Plan, abilities: &str) -> Bundle {
    let abilities: Abilities = abilities.parse().unwrap();
    render(plan, &Assignment::default(), abilities, &Templates::embedded()).unwrap()
}

fn text(bundle: &Bundle, secrets: &str) -> String {
    bundle.files(Paths { dir: "/dir", run: "/run", secrets }).remove("nginx.conf").unwrap()
}

/// `nginx -t` on the text, with pid and folders of its own.
fn check(text: &str, folder: &Path) -> Output {
    let file = folder.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let globals = format!("pid {}/nginx.pid;", folder.display());
    Command::new("nginx").arg("-t").arg("-c").arg(&file).args(["-g", &globals]).output().unwrap()
}

#[test]
fn a_rich_plan_as_1_22_gets_it_is_accepted_without_a_warning() {
    let text = text(&bundle(&plan(include_str!("nginx/rich.yaml")), "nginx-1.22"), "/secrets");
    insta::assert_snapshot!(text);
    let folder = tempfile::tempdir().unwrap();
    let output = check(&text, folder.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("[warn]"), "{said}");
}
