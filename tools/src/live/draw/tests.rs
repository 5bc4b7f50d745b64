//! Pictures of a run that took place: `run.json` has its seconds. `INSTA_UPDATE=always cargo test` takes them anew.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::*;
use crate::live::{Facts, SoFar};
use crate::report::Report;
use crate::report::model::WorkerReport;

/// A server that refuses every fourth connection, at 1500 connections a second.
fn recorded() -> Model {
    let json = include_str!("run.json");
    let mut whole = serde_json::to_value(Report::default()).unwrap();
    for (key, value) in serde_json::from_str::<serde_json::Map<_, _>>(json).unwrap() {
        whole[key] = value;
    }
    let report: Report = serde_json::from_value(whole).unwrap();
    let pace = Pace::Time(Duration::from_secs(11));
    let title = "load http → http://10.81.0.2/ and 3 more".to_owned();
    let mut model = Model::new(Facts { title, pace, timed: true, ..Facts::default() });
    report.intervals.iter().filter(|interval| interval.phase != "drain").for_each(|interval| model.add(interval));
    model.elapsed = Some(Duration::from_millis(10_250));
    let Report { verdict, reasons, thresholds, .. } = report;
    model.so_far = Some(SoFar { verdict, reasons, thresholds, held_back: 0 });
    model
}

fn terminal(model: &Model, (width, height): (u16, u16), theme: Theme) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme)).unwrap();
    terminal
}

fn text(model: &Model, size: (u16, u16)) -> String {
    terminal(model, size, Theme::new(false)).backend().to_string()
}

#[test]
fn a_run_on_terminals_of_three_sizes() {
    let model = recorded();
    insta::assert_snapshot!("wide", text(&model, (120, 36)));
    insta::assert_snapshot!("usual", text(&model, (80, 24)));
    insta::assert_snapshot!("small", text(&model, (40, 12)));
}

#[test]
fn what_is_not_there_yet_and_what_ends() {
    let begun = Model::new(recorded().facts);
    insta::assert_snapshot!("begun", text(&begun, (80, 24)));
    let mut ending = recorded();
    ending.stopping = true;
    insta::assert_snapshot!("ending", text(&ending, (80, 24)));
}

#[test]
fn a_server_and_connections_that_are_held() {
    let mut held = recorded();
    held.facts.pace = Pace::Held(1_000_000, Duration::from_secs(60));
    held.facts.timed = false;
    held.so_far = None;
    held.sustain_at_s = None;
    for (point, open) in held.points.iter_mut().zip((0..).step_by(80_000)) {
        point.open = open;
    }
    held.last.connections.open_at_end = Some(880_000);
    insta::assert_snapshot!("held", text(&held, (80, 24)));
}

#[test]
fn of_many_workers_the_busiest_are_shown() {
    let mut model = recorded();
    let worker = |core: u32| WorkerReport {
        core: Some(core),
        busy_ratio: Some(f64::from(core) / 20.0),
        ..WorkerReport::default()
    };
    model.last.workers = (0..20).map(worker).collect();
    let text = text(&model, (120, 30));
    assert!(text.contains("core 19") && text.contains("and 16 less busy") && !text.contains("core 15"), "{text}");
}

#[test]
fn no_terminal_is_too_small() {
    let mut model = recorded();
    for size in (1..=100).step_by(7).flat_map(|width| (1..=40).map(move |height| (width, height))) {
        text(&model, size);
    }
    model.facts.title = "x".repeat(500);
    model.so_far.as_mut().unwrap().reasons = vec!["why ".repeat(100); 50];
    for size in [(1, 1), (40, 12), (72, 20), (80, 24)] {
        text(&model, size);
    }
    let small = text(&recorded(), (40, 12));
    for word in ["1125 of 1500", "refused", "FAILED", "q ends"] {
        assert!(small.contains(word), "{word}: {small}");
    }
}

fn colours(buffer: &Buffer) -> usize {
    buffer.content().iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
}

#[test]
fn without_colour_there_is_none_and_the_words_are_the_same() {
    let model = recorded();
    let (plain, coloured) =
        (terminal(&model, (80, 24), Theme::new(false)), terminal(&model, (80, 24), Theme::new(true)));
    assert_eq!(colours(plain.backend().buffer()), 0);
    assert!(colours(coloured.backend().buffer()) > 100);
    assert_eq!(plain.backend().to_string(), coloured.backend().to_string());
}

#[test]
fn numbers_are_short() {
    for (value, written) in [
        (0.0, "0"),
        (0.5, "0.5"),
        (9.0, "9"),
        (950.0, "950"),
        (1_000.0, "1k"),
        (12_500.0, "12.5k"),
        (250_000.0, "250k"),
        (1.2e6, "1.2M"),
        (9.9e9, "9.9G"),
    ] {
        assert_eq!(short(value), written);
    }
}
