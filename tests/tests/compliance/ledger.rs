//! The requirements, and what is wrong with how they are accounted for.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use crate::sources::Mark;

/// Letters that a reason has at least.
const REASON_MIN: usize = 20;

/// One list: an RFC and its requirements.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rfc {
    pub(crate) rfc: u32,
    pub(crate) title: String,
    /// Where the wording comes from.
    pub(crate) source: Source,
    #[serde(rename = "requirement")]
    pub(crate) requirements: Vec<Requirement>,
}

/// How the list was made.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// With the RFC's text at hand.
    Text,
    /// With that of the RFC it replaces, whose number this is: what is new in it is from memory, and so are its sections.
    Predecessor(u32),
}

/// A requirement, met unless it says otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Requirement {
    pub(crate) id: String,
    pub(crate) section: String,
    /// `MUST`, `MUST NOT` and so on, where the identifier does not tell.
    #[serde(default)]
    level: Option<String>,
    pub(crate) says: String,
    /// What is done instead, and why.
    #[serde(default)]
    deviates: Option<String>,
    /// Why it does not concern the engine.
    #[serde(default)]
    not_applicable: Option<String>,
    /// A MAY that is not made use of: why.
    #[serde(default)]
    not_used: Option<String>,
    /// What is missing.
    #[serde(default)]
    open: Option<String>,
}

/// Where a requirement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State<'a> {
    Met,
    Deviates(&'a str),
    NotApplicable(&'a str),
    NotUsed(&'a str),
    Open(&'a str),
}

impl Requirement {
    /// The requirement's level in the words of RFC 2119.
    pub(crate) fn level(&self) -> &str {
        match &self.level {
            Some(level) => level,
            None if self.has_part("MUST") => "MUST",
            None if self.has_part("SHLD") || self.has_part("SHOULD") => "SHOULD",
            None if self.has_part("MAY") => "MAY",
            None if self.has_part("REC") => "RECOMMENDED",
            None => "?",
        }
    }

    fn has_part(&self, part: &str) -> bool {
        self.id.split('-').any(|p| p == part)
    }

    pub(crate) fn state(&self) -> State<'_> {
        match (&self.deviates, &self.not_applicable, &self.not_used, &self.open) {
            (Some(reason), ..) => State::Deviates(reason),
            (_, Some(reason), ..) => State::NotApplicable(reason),
            (_, _, Some(reason), _) => State::NotUsed(reason),
            (.., Some(reason)) => State::Open(reason),
            _ => State::Met,
        }
    }

    fn exceptions(&self) -> usize {
        [&self.deviates, &self.not_applicable, &self.not_used, &self.open].into_iter().flatten().count()
    }
}

impl State<'_> {
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Met => None,
            Self::Deviates(reason) | Self::NotApplicable(reason) | Self::NotUsed(reason) | Self::Open(reason) => {
                Some(reason)
            }
        }
    }
}

/// The lists of a directory, by the number of their RFC.
pub(crate) fn read(directory: &Path) -> Vec<Rfc> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut rfcs: Vec<Rfc> = entries
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let rfc: Rfc = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(path.file_stem().and_then(|s| s.to_str()), Some(&*format!("rfc{}", rfc.rfc)), "file name");
            rfc
        })
        .collect();
    rfcs.sort_by_key(|rfc| rfc.rfc);
    rfcs
}

/// Everything that is wrong, one line each.
pub(crate) fn faults(rfcs: &[Rfc], marks: &[Mark]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut found: BTreeMap<(u32, &str), (bool, bool)> = BTreeMap::new();
    for mark in marks {
        let (code, test) = found.entry((mark.rfc, &mark.id)).or_default();
        *(if mark.test { test } else { code }) = true;
    }
    let mut known = HashSet::new();
    for (rfc, requirement) in rfcs.iter().flat_map(|rfc| rfc.requirements.iter().map(move |r| (rfc.rfc, r))) {
        let name = format!("RFC {rfc} {}", requirement.id);
        let level = requirement.level();
        let (must, may) = (level.starts_with("MUST"), level.starts_with("MAY"));
        if !known.insert((rfc, &*requirement.id)) {
            faults.push(format!("{name}: listed twice"));
        }
        if !["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED", "MAY", "MAY NOT"].contains(&level) {
            faults.push(format!("{name}: `{level}` is no level"));
        }
        if requirement.exceptions() > 1 {
            faults.push(format!("{name}: more than one of deviates, not_applicable, not_used, open"));
        }
        let state = requirement.state();
        if state.reason().is_some_and(|reason| reason.len() < REASON_MIN) {
            faults.push(format!("{name}: that is no reason"));
        }
        let (code, test) = found.get(&(rfc, &*requirement.id)).copied().unwrap_or_default();
        match state {
            State::Met if !code => faults.push(format!("{name}: no code says that it meets it")),
            State::Met if !test && !may => faults.push(format!("{name}: no test shows it")),
            State::Open(missing) if must => faults.push(format!("{name}: a MUST is open: {missing}")),
            State::NotUsed(_) if !may => faults.push(format!("{name}: only a MAY may be left unused")),
            State::NotApplicable(_) | State::NotUsed(_) if code || test => {
                faults.push(format!("{name}: does not apply or is not used, yet code or a test claims it"));
            }
            _ => {}
        }
    }
    for mark in marks.iter().filter(|mark| !known.contains(&(mark.rfc, &*mark.id))) {
        faults.push(format!("{}:{}: RFC {} has no {}", mark.file, mark.line, mark.rfc, mark.id));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Rfc> {
        let head = "rfc = 1\ntitle = \"T\"\nsource = \"text\"\n";
        vec![toml::from_str(&format!("{head}{text}")).expect("a list")]
    }

    fn mark(id: &str, test: bool) -> Mark {
        Mark { rfc: 1, id: id.into(), file: "a.rs".into(), line: 3, place: "f".into(), test }
    }

    const MUST: &str = "[[requirement]]\nid = \"MUST-1\"\nsection = \"1\"\nsays = \"x\"\n";

    #[test]
    fn a_must_needs_code_and_test() {
        let rfcs = list(MUST);
        assert!(faults(&rfcs, &[mark("MUST-1", false), mark("MUST-1", true)]).is_empty());
        assert_eq!(faults(&rfcs, &[mark("MUST-1", true)]), ["RFC 1 MUST-1: no code says that it meets it"]);
        assert_eq!(faults(&rfcs, &[mark("MUST-1", false)]), ["RFC 1 MUST-1: no test shows it"]);
    }

    #[test]
    fn a_may_needs_no_test_and_may_be_left_unused() {
        let may = MUST.replace("MUST-1", "3.1-MAY-1");
        assert!(faults(&list(&may), &[mark("3.1-MAY-1", false)]).is_empty());
        let unused = "not_used = \"nobody has asked for it\"\n";
        assert!(faults(&list(&(may.clone() + unused)), &[]).is_empty());
        assert_eq!(faults(&list(&(MUST.to_owned() + unused)), &[]).len(), 1);
        assert_eq!(faults(&list(&(may + unused)), &[mark("3.1-MAY-1", false)]).len(), 1);
    }

    #[test]
    fn reasons_are_wanted_and_an_open_must_is_not() {
        assert!(faults(&list(&format!("{MUST}deviates = \"as the field does, for a reason\"\n")), &[]).is_empty());
        assert_eq!(faults(&list(&format!("{MUST}deviates = \"why not\"\n")), &[]).len(), 1);
        assert_eq!(faults(&list(&format!("{MUST}open = \"the whole of it is missing\"\n")), &[]).len(), 1);
    }

    #[test]
    fn strangers_and_twins_are_told() {
        let both = [mark("MUST-1", false), mark("MUST-1", true)];
        assert_eq!(faults(&list(&format!("{MUST}{MUST}")), &both), ["RFC 1 MUST-1: listed twice"]);
        assert_eq!(
            faults(&list(&format!("{MUST}deviates = \"as the field does, for a reason\"\n")), &[mark("MUST-2", true)]),
            ["a.rs:3: RFC 1 has no MUST-2"]
        );
    }
}
