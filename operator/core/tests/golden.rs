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

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a golden test reads files and may fail")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use interlock_core::compile::{Compiled, Config, compile};
use interlock_core::model::Observed;
use interlock_core::plan::Plan;
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
        for (file, actual) in outcome(&case) {
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
fn outcome(case: &Path) -> BTreeMap<&'static str, String> {
    let observed: Observed =
        read(&case.join("observed.yaml")).unwrap_or_else(|| panic!("{}", case.display()));
    let config = read(&case.join("config.yaml")).unwrap_or_else(default_config);
    let Compiled { targets, plans, probes, placements, networks, boots, findings, complete, ownership } =
        compile(&observed, &config);
    let rest = Compiled {
        targets,
        plans: BTreeMap::new(),
        probes,
        placements,
        networks,
        boots,
        findings: Vec::new(),
        complete,
        ownership,
    };
    let plans: BTreeMap<_, _> =
        plans.into_iter().map(|(target, plan)| (target, without_settings(plan, &config))).collect();
    BTreeMap::from([
        ("plan.yaml", yaml(&plans)),
        ("findings.yaml", yaml(&findings)),
        ("compiled.yaml", yaml(&without_empty(&rest))),
    ])
}

fn default_config() -> Config {
    let spec = ServiceClusterSpec {
        readiness: ReadinessMode::None,
        ..ServiceClusterSpec::implicit(ProxyKind::Haproxy)
    };
    Config {
        clusters: BTreeMap::from([("haproxy".parse().unwrap(), spec)]),
        embedded: None,
        read_only: false,
    }
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
