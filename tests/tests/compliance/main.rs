//! The compliance ledger: every requirement of the RFCs that the engine follows, the code that meets it, and the test
//! that shows it.
//!
//! `docs/requirements/rfcN.toml` lists the requirements of RFC N. A comment `//= RFC N ID, ID …` stands where the code
//! meets one, and where a test shows it. From both comes `docs/compliance.md`. This fails if
//!
//! - a requirement is neither met in code and shown by a test, nor says why not (a MAY needs no test),
//! - a MUST is left open,
//! - a comment names a requirement that no list has,
//! - the page is out of date; `make compliance` writes it anew.

mod ledger;
mod page;
mod sources;

use std::path::{Path, PathBuf};

/// With this value of the environment variable `COMPLIANCE` the page is written, not compared.
const WRITE: &str = "write";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the root of the repository")
}

#[test]
fn every_requirement_is_accounted_for() {
    let root = root();
    let rfcs = ledger::read(&root.join("docs/requirements"));
    let marks = sources::scan(&root, &["engine", "xdp", "tools", "tests"]);
    let faults = ledger::faults(&rfcs, &marks);
    assert!(faults.is_empty(), "{} faults in the ledger:\n{}", faults.len(), faults.join("\n"));

    let (path, page) = (root.join("docs/compliance.md"), page::render(&rfcs, &marks));
    if std::env::var("COMPLIANCE").is_ok_and(|mode| mode == WRITE) {
        std::fs::write(&path, page).expect("docs/compliance.md to be written");
        return;
    }
    let now = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = now.lines().zip(page.lines()).position(|(a, b)| a != b);
    assert!(
        now == page,
        "docs/compliance.md is out of date from line {} on: run `make compliance`",
        differs.unwrap_or(now.lines().count().min(page.lines().count())) + 1
    );
}
