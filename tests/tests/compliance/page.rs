//! The page that is made of the ledger.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::ledger::{Rfc, Source, State};
use crate::sources::Mark;

const HEAD: &str = "\
# Compliance

What the RFCs ask of the engine, where the code does it, and which test shows it. Made by `make compliance` from
`docs/requirements/` and from the comments `//= RFC …` in the sources; `tests/tests/compliance` fails when a requirement
is neither met and shown nor has a reason, when a MUST is open, and when this page is out of date.

Statements are shortened; the RFC's own text decides. *Met*: code does it and a test shows it (for a MAY code is enough).
*Deviates*: something else is done, for the reason given. *N.a.*: it does not concern the engine. *Not used*: a MAY that
is not made use of. *Open*: missing. Where an RFC asks for something without the words of RFC 2119 the level is what its
wording amounts to. A list marked † was compared with the text of the RFC before it, which its title names, not with its own:
what is new in it is from memory, and so are its section numbers.

";

pub(crate) fn render(rfcs: &[Rfc], marks: &[Mark]) -> String {
    let mut out = String::from(HEAD);
    out.push_str("| RFC | | requirements | MUST | met | deviates | n.a. | not used | open |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
    let mut sums = [0; 7];
    for rfc in rfcs {
        let row = counts(rfc);
        for (sum, n) in sums.iter_mut().zip(row) {
            *sum += n;
        }
        let name = format!("[{}](#rfc-{}){}", rfc.rfc, rfc.rfc, dagger(rfc));
        writeln!(out, "| {name} | {} | {} |", rfc.title, columns(&row)).expect("a String");
    }
    writeln!(out, "| **all** | | {} |", columns(&sums)).expect("a String");
    for rfc in rfcs {
        section(&mut out, rfc, marks);
    }
    out
}

fn dagger(rfc: &Rfc) -> &'static str {
    if rfc.source == Source::Text { "" } else { "†" }
}

/// The title, and what the list was compared with if that was not the RFC itself.
fn title(rfc: &Rfc) -> String {
    match rfc.source {
        Source::Text => rfc.title.clone(),
        Source::Predecessor(before) => format!("{}† (compared with RFC {before})", rfc.title),
    }
}

fn columns(row: &[usize; 7]) -> String {
    row.map(|n| if n == 0 { String::new() } else { n.to_string() }).join(" | ")
}

/// All, MUST, then by state.
fn counts(rfc: &Rfc) -> [usize; 7] {
    let mut row = [0; 7];
    for requirement in &rfc.requirements {
        row[0] += 1;
        row[1] += usize::from(requirement.level().starts_with("MUST"));
        row[match requirement.state() {
            State::Met => 2,
            State::Deviates(_) => 3,
            State::NotApplicable(_) => 4,
            State::NotUsed(_) => 5,
            State::Open(_) => 6,
        }] += 1;
    }
    row
}

fn section(out: &mut String, rfc: &Rfc, marks: &[Mark]) {
    // The heading is the number alone, so that links to it need not follow the title
    write!(out, "\n## RFC {}\n\n{}\n\n", rfc.rfc, title(rfc)).expect("a String");
    out.push_str("| id | § | level | statement | state | code | tests |\n|---|---|---|---|---|---|---|\n");
    for requirement in &rfc.requirements {
        let state = match requirement.state() {
            State::Met => "met".to_owned(),
            State::Deviates(reason) => format!("**deviates**: {reason}"),
            State::NotApplicable(reason) => format!("n.a.: {reason}"),
            State::NotUsed(reason) => format!("not used: {reason}"),
            State::Open(reason) => format!("**open**: {reason}"),
        };
        let links = |test: bool| {
            let mine = |mark: &&Mark| mark.rfc == rfc.rfc && mark.id == requirement.id && mark.test == test;
            let links: BTreeSet<String> = marks.iter().filter(mine).map(link).collect();
            links.into_iter().collect::<Vec<_>>().join(", ")
        };
        let cells = [&requirement.id, &requirement.section, requirement.level(), &requirement.says, &state];
        let cells = cells.map(|cell| cell.replace('|', "\\|")).join(" | ");
        writeln!(out, "| {cells} | {} | {} |", links(false), links(true)).expect("a String");
    }
}

/// Without line numbers: they would change with every edit.
fn link(mark: &Mark) -> String {
    let file = mark.file.rsplit('/').next().unwrap_or(&mark.file);
    let module = file.strip_suffix(".rs").unwrap_or(file);
    let parent = mark.file.rsplit('/').nth(1).unwrap_or("");
    let module = if matches!(module, "mod" | "main" | "lib") { parent } else { module };
    let name = if mark.place.is_empty() { module.to_owned() } else { format!("{module}::{}", mark.place) };
    format!("[`{name}`](../{})", mark.file)
}
