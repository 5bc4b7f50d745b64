//! The comments that name requirements, found in the sources.

use std::path::Path;

/// What such a comment begins with.
const BEGIN: &str = "//= RFC ";

/// One requirement named at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) rfc: u32,
    pub(crate) id: String,
    /// The file, from the root.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The item that the comment stands at or in: it stays when lines move.
    pub(crate) place: String,
    /// Whether that is a test.
    pub(crate) test: bool,
}

/// Every mark in the Rust files under `directories` of `root`, in order.
pub(crate) fn scan(root: &Path, directories: &[&str]) -> Vec<Mark> {
    let mut files = Vec::new();
    for directory in directories {
        collect(&root.join(directory), &mut files);
    }
    files.sort();
    let mut marks = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = path.strip_prefix(root).expect("a file under the root").to_string_lossy().replace('\\', "/");
        marks.extend(marks_of(&file, &text));
    }
    marks
}

fn collect(directory: &Path, files: &mut Vec<std::path::PathBuf>) {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
}

fn marks_of(file: &str, text: &str) -> Vec<Mark> {
    let lines: Vec<&str> = text.lines().collect();
    let is_test_file = file.split('/').any(|part| part == "tests") || file.ends_with("_tests.rs");
    let tests_from = (0..lines.len())
        .find(|&i| lines[i] == "#[cfg(test)]" && lines.get(i + 1).is_some_and(|next| next.starts_with("mod ")))
        .unwrap_or(lines.len());
    let mut marks = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(named) = line.trim_start().strip_prefix(BEGIN) else { continue };
        let (rfc, ids) = named.split_once(' ').unwrap_or((named, ""));
        let rfc = rfc.parse().unwrap_or_else(|_| panic!("{file}:{}: `{rfc}` is no RFC's number", i + 1));
        assert!(!ids.trim().is_empty(), "{file}:{}: no requirement is named", i + 1);
        for id in ids.split(',') {
            marks.push(Mark {
                rfc,
                id: id.trim().to_owned(),
                file: file.to_owned(),
                line: i + 1,
                place: place(&lines, i),
                test: is_test_file || i > tests_from,
            });
        }
    }
    marks
}

/// The item that begins below line `at`, or else the function around it.
fn place(lines: &[&str], at: usize) -> String {
    let below = lines[at + 1..].iter().find(|line| {
        let line = line.trim_start();
        !(line.is_empty() || line.starts_with("//") || line.starts_with("#["))
    });
    if let Some(name) = below.and_then(|line| item(line)) {
        return name.to_owned();
    }
    let depth = indent(lines[at]);
    let around = lines[..at].iter().rev().find(|line| indent(line) < depth && item(line).is_some());
    around.and_then(|line| item(line)).unwrap_or("").to_owned()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The name of the item that a line declares.
fn item(line: &str) -> Option<&str> {
    let mut words = line.trim_start().split(' ').peekable();
    while let Some(word) = words.next() {
        match word {
            "pub" | "pub(crate)" | "pub(super)" | "unsafe" | "extern" | "\"C\"" => {}
            "const" if words.peek() == Some(&"fn") => {}
            "fn" | "const" | "static" | "struct" | "enum" | "mod" | "trait" => {
                let name = words.next()?;
                let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
                return Some(&name[..end]).filter(|name| !name.is_empty());
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_know_their_place() {
        // the head of each line keeps this text from being marks of this file
        let text = "
            |/// Checks.
            |//= RFC 9293 MUST-1, MUST-2
            |#[inline]
            |pub(crate) fn check(x: u32) -> bool {
            |    if x > 1 {
            |        //= RFC 7323 3.2-MUST-1
            |        return true;
            |    }
            |}
            |//= RFC 9293 MUST-3
            |const LIMIT: u32 = 3;
            |#[cfg(test)]
            |mod tests {
            |    //= RFC 9293 MUST-1
            |    fn shows() {}
            |}";
        let text: String = text.lines().filter_map(|l| l.split_once('|')).map(|l| format!("{}\n", l.1)).collect();
        let found: Vec<_> =
            marks_of("engine/src/a.rs", &text).into_iter().map(|m| (m.rfc, m.id, m.place, m.test)).collect();
        let want = |rfc, id: &str, place: &str, test| (rfc, id.to_owned(), place.to_owned(), test);
        assert_eq!(
            found,
            [
                want(9293, "MUST-1", "check", false),
                want(9293, "MUST-2", "check", false),
                want(7323, "3.2-MUST-1", "check", false),
                want(9293, "MUST-3", "LIMIT", false),
                want(9293, "MUST-1", "shows", true),
            ]
        );
        assert!(marks_of("tests/tests/a.rs", &text).iter().all(|mark| mark.test));
        assert!(marks_of("engine/src/a_tests.rs", &text).iter().all(|mark| mark.test));
    }
}
