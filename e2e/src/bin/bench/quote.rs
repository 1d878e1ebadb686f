//! The block of the README that `make bench` writes when it is asked to (`BENCH_QUOTE=1`), between two markers.

use std::path::PathBuf;
use std::process::Command;

use interlock_e2e::{Result, ensure};

use crate::report::Report;

const BEGIN: &str = "<!-- bench -->\n";
const END: &str = "<!-- end bench -->";

fn readme() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

/// Puts the figures of a run into the README.
pub(crate) fn write(report: &Report) -> Result {
    let day = Command::new("date").args(["-u", "+%F"]).output()?;
    let text = std::fs::read_to_string(readme())?;
    let (before, _, after) = parts(&text)?;
    let quote = report.quote(String::from_utf8_lossy(&day.stdout).trim());
    Ok(std::fs::write(readme(), format!("{before}{quote}{after}"))?)
}

/// What stands before the block, in it and behind it; the markers belong to the outside.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    ensure!(
        text.matches(BEGIN).count() == 1 && text.matches(END).count() == 1,
        "the README has not one block"
    );
    let begin = text.find(BEGIN).unwrap_or_default() + BEGIN.len();
    let end = text.find(END).unwrap_or_default();
    ensure!(begin <= end, "the README's block ends before it begins");
    Ok((&text[..begin], &text[begin..end], &text[end..]))
}

#[cfg(test)]
mod tests {
    use interlock_e2e::world::Kind;

    use super::*;
    use crate::report::Row;

    /// Fails unless a block is a sentence and a table whose rows have as many cells as its head.
    fn well_formed(block: &str) -> Result {
        let (told, table) = block.split_once("\n\n").ok_or("no empty line before the table")?;
        ensure!(
            told.contains("haproxy:") && told.contains("nginx:"),
            "it does not say with which proxies: {told}"
        );
        ensure!(told.contains("bars reached"), "it does not say how many bars were reached: {told}");
        let rows: Vec<&str> = table.lines().collect();
        ensure!(rows.len() > 2, "a table without rows");
        ensure!(rows[1].chars().all(|c| "|-".contains(c)), "no line below the head: {}", rows[1]);
        let cells = |row: &str| row.matches('|').count();
        for row in &rows {
            ensure!(row.starts_with('|') && row.ends_with('|'), "no row: {row}");
            ensure!(cells(row) == cells(rows[0]), "not as many cells as the head: {row}");
        }
        Ok(())
    }

    #[test]
    fn the_readme_quotes_a_report() {
        let text = std::fs::read_to_string(readme()).expect("the README");
        let (_, block, _) = parts(&text).expect("one block");
        well_formed(block).expect("a well-formed block");
    }

    #[test]
    fn what_a_report_quotes_is_well_formed() {
        let mut report = Report::on("20.10", 1, "none");
        report.row(Row::of(Kind::Nginx, "new host beside 1", "p50 1 ms").bar("≤ 2", true).quoted());
        report.row(Row::of(Kind::Nginx, "not quoted", ""));
        let quote = report.quote("2026-01-02");
        well_formed(&quote).expect("a well-formed quote");
        assert!(quote.contains("| nginx | new host beside 1 | p50 1 ms |  | ≤ 2 | reached |"), "{quote}");
        assert!(!quote.contains("not quoted"), "{quote}");
    }

    #[test]
    fn a_block_is_replaced_and_nothing_else() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        let (before, block, after) = parts(&text).expect("parts");
        assert_eq!((before, block, after), ("a\n<!-- bench -->\n", "old\n", "<!-- end bench -->\nb\n"));
        assert!(parts("no block").is_err());
    }
}
