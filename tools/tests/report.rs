//! What becomes of a real run's report: its forms, its schema, sums and comparisons of it. The run is in one process, so
//! that it needs no privilege.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use serde_json::Value;

fn syncline(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncline")).args(words).output().unwrap()
}

/// A directory that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("syncline-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_run_is_written_in_every_form_and_keeps_to_the_schema() {
    let scratch = Scratch::new("forms");
    let [json, csv, junit, html] = ["run.json", "run.csv", "run.xml", "run.html"].map(|name| scratch.file(name));
    let run = ["bench", "ring", "--duration", "3s", "--concurrency", "64"];
    let forms = ["--json", &json, "--csv", &csv, "--junit", &junit, "--html", &html];
    let output = syncline(&[&run[..], &forms].concat());
    assert!(output.status.success(), "{output:?}");

    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/result.schema.json");
    let schema = jsonschema::validator_for(&read(&schema.display().to_string())).unwrap();
    let report = read(&json);
    let errors: Vec<_> = schema.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");

    let text = fs::read_to_string(&csv).unwrap();
    let mut table = csv::Reader::from_reader(text.as_bytes());
    let completed = table.headers().unwrap().iter().position(|name| name == "connections.completed").unwrap();
    let of_table: u64 = table.records().map(|row| row.unwrap()[completed].parse::<u64>().unwrap()).sum();
    let of_report: u64 = report["intervals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|interval| interval["connections"]["completed"].as_u64().unwrap())
        .sum();
    assert_eq!(of_table, of_report);
    assert!(of_table >= report["connections"]["completed"].as_u64().unwrap() && of_table > 0);

    let tests = fs::read_to_string(&junit).unwrap();
    assert!(tests.contains("<testcase name=\"verdict\"") && tests.contains("failures=\"0\" errors=\"0\""), "{tests}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("<h1>Ceiling</h1>") && !page.contains("://"), "a page, and nothing of elsewhere");

    for (format, file) in [("csv", &csv), ("junit", &junit), ("html", &html), ("json", &json)] {
        let rendered = syncline(&["report", "render", &json, "--format", format]);
        let same = String::from_utf8(rendered.stdout).unwrap() == fs::read_to_string(file).unwrap();
        assert!(rendered.status.success() && same, "{format} of a saved report is what the run wrote");
    }
}

#[test]
fn sums_and_comparisons_of_files() {
    let scratch = Scratch::new("sums");
    let [json, sum, worse] = ["run.json", "sum.json", "worse.json"].map(|name| scratch.file(name));
    let run = syncline(&["bench", "ring", "--duration", "6s", "--concurrency", "16", "--json", &json]);
    assert!(run.status.success(), "{run:?}");
    let mut report = read(&json);

    let output = syncline(&["report", "merge", &json, &json, "--json", &sum]);
    assert!(output.status.success(), "{output:?}");
    let twice = read(&sum);
    let completed = |report: &Value| report["connections"]["completed"].as_u64().unwrap();
    assert_eq!(completed(&twice), 2 * completed(&report));
    assert_eq!(twice["latency_us"]["connect"]["p99"], report["latency_us"]["connect"]["p99"]);

    let same = syncline(&["report", "diff", &json, &json]);
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    report["rate"]["achieved_cps"] = (report["rate"]["achieved_cps"].as_f64().unwrap() / 3.0).into();
    fs::write(&worse, report.to_string()).unwrap();
    let runs = |first: &'static str, file| [&[first][..], &[file; 6]].concat();
    let output = syncline(&[&["report", "diff"], &runs("--before", &json)[..], &runs("--after", &worse)].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.starts_with("comparison   REGRESSION\n             - rate.achieved_cps -66."), "{text}");

    report["config"]["concurrency"] = 17.into();
    fs::write(&worse, report.to_string()).unwrap();
    let refused = syncline(&["report", "diff", &json, &worse]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("concurrency: 16, 17") && text.lines().count() == 1, "{text}");
}
