//! Golden folders: `tests/cases/<behaviour>/` holds what was observed and, beside it, everything that must
//! follow from it. `UPDATE_GOLDEN=1 cargo test -p interlock-core --test golden` writes the latter anew.
//!
//! | file | content |
//! | --- | --- |
//! | `observed.yaml` | the facts, written by hand |
//! | `config.yaml` | the settings, by hand; none: one implicit HAProxy cluster that waits for no readiness |
//! | `plan.yaml` | the plan of each target, without the settings of its cluster |
//! | `findings.yaml` | the findings |
//! | `compiled.yaml` | the rest: targets, placements, probes, networks, first configurations, ownership |
//! | `<abilities>/…` | the files of a proxy with these abilities, where the folder exists |
//!
//! Every case is rendered, and what is rendered is judged by the real HAProxy and nginx.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a golden test reads files and may fail")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use interlock_core::bundle::{Bundle, Paths};
use interlock_core::compile::{Compiled, Config, compile};
use interlock_core::model::Observed;
use interlock_core::plan::{Abilities, Plan};
use interlock_core::render::{self, Templates};
use interlock_crds::{ProxyKind, ReadinessMode, ServiceClusterSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[test]
fn every_case_compiles_to_its_golden_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let cases = folders(&root);
    assert!(cases.len() >= 40, "only {} cases were found in {}", cases.len(), root.display());
    let mut failed = String::new();
    for case in cases {
        for (file, actual) in outcome(&case).into_iter().chain(golden_files(&case)) {
            let path = case.join(file);
            if update {
                fs::write(&path, &actual).unwrap();
                continue;
            }
            let expected = fs::read_to_string(&path).unwrap_or_default();
            if expected != actual {
                let _ = writeln!(failed, "{}:\n{}", path.display(), difference(&expected, &actual));
            }
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

/// Everything that follows from a case, by file name.
fn outcome(case: &Path) -> BTreeMap<String, String> {
    let (compiled, config) = compile_case(case);
    let Compiled { plans, findings, .. } = compiled.clone();
    let mut rest = Compiled { plans: BTreeMap::new(), findings: Vec::new(), ..compiled };
    if observed(case).standings.is_empty() {
        // Everybody's first standing says nothing.
        rest.standings.clear();
    }
    let plans: BTreeMap<_, _> = plans
        .into_iter()
        .map(|(target, plan)| (target, without_settings(Plan::clone(&plan), &config)))
        .collect();
    BTreeMap::from([
        ("plan.yaml".to_owned(), yaml(&plans)),
        ("findings.yaml".to_owned(), yaml(&findings)),
        ("compiled.yaml".to_owned(), yaml(&without_empty(&rest))),
    ])
}

#[test]
fn whatever_is_rendered_passes_the_real_checkers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let certificate = certificate();
    let mut seen = BTreeMap::new();
    for case in folders(&root) {
        for bundle in bundles(&case) {
            // Many cases come to the same files; each is judged once.
            seen.entry(bundle.bundle.static_digest.clone()).or_insert_with(|| (case.clone(), bundle));
        }
    }
    let mut failed = String::new();
    for (case, rendered) in seen.values() {
        if let Err(said) = check(rendered, &certificate) {
            let _ = writeln!(failed, "{} ({}):\n{said}", case.display(), rendered.folder);
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

/// What one proxy of a case gets.
struct Rendered {
    /// The abilities, or the target before them where two targets of the case have the same.
    folder: String,
    bundle: Bundle,
}

fn bundles(case: &Path) -> Vec<Rendered> {
    let (compiled, _) = compile_case(case);
    let mut rendered: Vec<Rendered> = Vec::new();
    for (target, plan) in &compiled.plans {
        let said = compiled.targets[target].abilities;
        let abilities = said.unwrap_or(Abilities::oldest(plan.settings.proxy));
        let bundle = render::bundle(plan, None, abilities, &Templates::embedded()).unwrap();
        let mut folder = abilities.to_string();
        if rendered.iter().any(|other| other.folder == folder) {
            folder = format!("{target}.{abilities}");
        }
        rendered.push(Rendered { folder, bundle });
    }
    rendered
}

/// The rendered files of those folders that the case keeps.
fn golden_files(case: &Path) -> Vec<(String, String)> {
    let paths = Paths { dir: "/interlock/files", run: "/interlock/run", secrets: "/interlock/secrets" };
    bundles(case)
        .into_iter()
        .filter(|rendered| case.join(&rendered.folder).is_dir())
        .flat_map(|Rendered { folder, bundle }| {
            let files = bundle.files(paths).into_iter();
            files.map(move |(name, text)| (format!("{folder}/{name}"), text)).collect::<Vec<_>>()
        })
        .collect()
}

/// A self-signed certificate with its key: the checkers want to read one.
fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["web.example.com".to_owned()]).unwrap();
    format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())
}

fn check(rendered: &Rendered, certificate: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["files", "run", "secrets"] {
        fs::create_dir(at(name)).unwrap();
    }
    for secret in &rendered.bundle.secrets {
        fs::write(Path::new(&at("secrets")).join(&secret.file), certificate).unwrap();
    }
    let (dir, run, secrets) = (at("files"), at("run"), at("secrets"));
    for (name, text) in rendered.bundle.files(Paths { dir: &dir, run: &run, secrets: &secrets }) {
        fs::write(Path::new(&dir).join(name), text).unwrap();
    }
    let output = match rendered.bundle.proxy {
        ProxyKind::Haproxy => {
            Command::new("haproxy").args(["-c", "-f", &format!("{dir}/haproxy.cfg")]).output()
        }
        ProxyKind::Nginx => Command::new("nginx")
            .args(["-t", "-c", &format!("{dir}/nginx.conf"), "-g", &format!("pid {run}/nginx.pid;")])
            .output(),
    };
    let output = output.unwrap_or_else(|error| panic!("the proxy's checker must be installed: {error}"));
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn compile_case(case: &Path) -> (Compiled, Config) {
    let mut config: Config = read(&case.join("config.yaml")).unwrap_or_else(default_config);
    for cluster in config.clusters.values_mut() {
        // One of so many equal ones says it all.
        cluster.haproxy.spares = cluster.haproxy.spares.min(1);
    }
    let observed = observed(case);
    let compiled = compile(&observed, &config);
    (compiled, config.with(&observed.declared).into_owned())
}

fn observed(case: &Path) -> Observed {
    read(&case.join("observed.yaml")).unwrap_or_else(|| panic!("{}", case.display()))
}

fn default_config() -> Config {
    let spec = ServiceClusterSpec {
        readiness: ReadinessMode::None,
        ..ServiceClusterSpec::implicit(ProxyKind::Haproxy)
    };
    Config { clusters: BTreeMap::from([("haproxy".parse().unwrap(), spec)]), ..Config::default() }
}

/// The settings ride along unchanged; a golden file would only repeat them.
fn without_settings(plan: Plan, config: &Config) -> serde_yaml::Value {
    assert_eq!(config.clusters.get(&plan.cluster), Some(&plan.settings), "the settings are the cluster's");
    let mut value = serde_yaml::to_value(plan).unwrap();
    value.as_mapping_mut().unwrap().remove("settings");
    value
}

fn without_empty(rest: &Compiled) -> serde_yaml::Value {
    let mut value = serde_yaml::to_value(rest).unwrap();
    value.as_mapping_mut().unwrap().retain(|_, value| {
        let empty_map = value.as_mapping().is_some_and(serde_yaml::Mapping::is_empty);
        !empty_map && !value.as_sequence().is_some_and(Vec::is_empty)
    });
    value
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("observed.yaml").is_file())
        .collect();
    folders.sort();
    folders
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read_to_string(path).ok()?;
    Some(serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn yaml(value: &impl Serialize) -> String {
    serde_yaml::to_string(value).unwrap()
}

/// The first lines that differ.
fn difference(expected: &str, actual: &str) -> String {
    let mut expected = expected.lines();
    let mut actual = actual.lines();
    loop {
        match (expected.next(), actual.next()) {
            (None, None) => return "  line ends differ".to_owned(),
            (a, b) if a == b => {}
            (a, b) => return format!("  - {}\n  + {}", a.unwrap_or("(end)"), b.unwrap_or("(end)")),
        }
    }
}
