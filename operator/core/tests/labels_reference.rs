//! Keeps `docs/labels.md` true: its tables are what the parser's own table says.
//!
//! `UPDATE_DOCS=1 cargo test -p interlock-core --test labels_reference` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]
#![allow(clippy::disallowed_methods, reason = "the test reads and writes the page; the core does not")]

use std::fmt::Write as _;
use std::path::PathBuf;

use interlock_core::intent::keys::{Dialect, Kind, Setting, of};
use interlock_core::plan::HaproxyOption;
use interlock_crds::ProxyKind;

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/labels.md")
}

/// One row for each key of a dialect.
fn table(dialect: Dialect) -> String {
    let mut rows =
        "| key | value | what it does | proxies | on HAProxy |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for key in of(dialect) {
        let name = match (dialect, key.kind) {
            (Dialect::Label, Kind::List) => format!("`{0}`, `{0}.0`, …", key.full_name()),
            (Dialect::Label, _) => format!("`{}`", key.full_name()),
            (Dialect::Data, _) => format!("`{}`", key.name),
        };
        let proxies: Vec<&str> = key.proxies.iter().copied().map(ProxyKind::as_str).collect();
        let proxies = if proxies.len() == 2 { "both".to_owned() } else { proxies.join(", ") };
        writeln!(
            rows,
            "| {name} | {} | {} | {proxies} | {} |",
            key.kind.describe(),
            key.summary,
            key.effect.describe()
        )
        .unwrap();
    }
    rows
}

fn options() -> String {
    HaproxyOption::ALLOWED.iter().fold(String::new(), |mut list, option| {
        writeln!(list, "- `{option}`").unwrap();
        list
    })
}

/// Replaces what stands between a mark's two comments.
fn fill(page: &str, mark: &str, text: &str) -> String {
    let (open, close) = (format!("<!-- {mark} -->\n"), format!("<!-- end {mark} -->"));
    let (before, rest) = page.split_once(&open).unwrap_or_else(|| panic!("docs/labels.md lacks {open}"));
    let (_, after) = rest.split_once(&close).unwrap_or_else(|| panic!("docs/labels.md lacks {close}"));
    format!("{before}{open}{text}{close}{after}")
}

#[test]
fn the_reference_has_every_key() {
    let written = std::fs::read_to_string(page()).unwrap();
    let filled = fill(&written, "labels", &table(Dialect::Label));
    let filled = fill(&filled, "data", &table(Dialect::Data));
    let filled = fill(&filled, "options", &options());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page(), &filled).unwrap();
        return;
    }
    assert!(written == filled, "docs/labels.md is behind: run this test with UPDATE_DOCS=1");
}

#[test]
fn every_setting_can_be_said_by_a_label() {
    for data in of(Dialect::Data) {
        assert!(of(Dialect::Label).any(|label| label.setting == data.setting), "{}", data.full_name());
    }
    assert!(of(Dialect::Label).any(|label| label.setting == Setting::Host));
}
