//! Scenarios: the settings of `syncline load` in a TOML file. Every key is a flag's name with `_` for `-`.
//!
//! A file becomes words of a command line, put before those that were typed, so that both go through the same parsers.
//! What comes first gives way: a preset to the file, the file to the flags.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, CommandFactory as _, FromArgMatches as _};
use toml::{Table, Value};

use super::load::{PartArgs, Preset};
use super::talk::TalkArgs;
use super::{Cli, Command as What};
use crate::error::Error;

/// Why there is no command line.
#[derive(Debug)]
pub enum Refusal {
    /// The words are wrong, or ask for help.
    Words(clap::Error),
    /// The scenario is wrong.
    Scenario(Error),
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Self {
        Self::Words(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Scenario(error)
    }
}

/// The key of the kinds of connections.
const MIX: &str = "mix";

/// The key of the file itself, and other words that are no settings.
const NO_KEYS: [&str; 3] = ["scenario", "help", "version"];

/// What a preset sets where neither file nor flags do.
fn preset_words(preset: Preset) -> &'static [(&'static str, &'static str)] {
    match preset {
        Preset::ConnectionsPerSecond => &[
            ("profile", "http"),
            ("requests_per_connection", "1"),
            ("expect_status", "200"),
            ("close", "fin"),
            ("ramp", "30s"),
            ("duration", "300s"),
        ],
        Preset::ConcurrentConnections => &[
            ("profile", "hold"),
            ("path", "/"),
            ("requests_per_connection", "10"),
            ("think_time", "30s"),
            ("expect_status", "200"),
            ("close", "fin"),
            ("ramp", "180s"),
            ("hold", "300s"),
        ],
    }
}

/// The command line of `words` (the program's name first), with what a scenario and a preset add to it.
///
/// # Errors
/// Wrong words or a wrong scenario; also where help is asked for.
pub fn parse(words: Vec<OsString>) -> Result<Cli, Refusal> {
    let relaxed = Cli::command().mut_subcommand("load", relax);
    // What is wrong here is told by the strict parser below.
    let Ok(matches) = relaxed.clone().try_get_matches_from(&words) else { return Ok(strict(&words)?.0) };
    let Some(load) = matches.subcommand_matches("load") else { return Ok(strict(&words)?.0) };
    let file = load.get_one::<PathBuf>("scenario");
    let table = file.map(|file| read(file)).transpose()?.unwrap_or_default();
    let mut added = Vec::new();
    for (key, value) in table.iter().filter(|(key, _)| *key != MIX) {
        let arg = find(&load_command(), key)?;
        if load.value_source(arg.get_id().as_str()) != Some(ValueSource::CommandLine) {
            added.extend(to_words(&arg, value)?);
        }
    }
    let parts = mix(&table)?;
    // The parts of a mix say what connections do; what they have in common may be left out above them.
    if let Some(first) = parts.first() {
        for key in ["target", "profile"] {
            if table.get(key).is_none() && load.value_source(key) != Some(ValueSource::CommandLine) {
                added.extend(
                    first
                        .get(key)
                        .map(|value| to_words(&find(&load_command(), key)?, value))
                        .transpose()?
                        .into_iter()
                        .flatten(),
                );
            }
        }
    }
    if let Some(file) = file {
        let alone = [&words[..2], &added[..]].concat();
        if let Err(error) = relaxed.clone().try_get_matches_from(alone) {
            let mend = "docs/scenario.md has every key";
            return Err(Error::usage(format!("scenario {}", file.display()), one_line(&error.to_string()), mend).into());
        }
    }
    let with_file = [&words[..2], &added[..], &words[2..]].concat();
    let Ok(matches) = relaxed.try_get_matches_from(&with_file) else { return Ok(strict(&with_file)?.0) };
    let load = matches.subcommand_matches("load").unwrap_or(load);
    if let Some(preset) = load.get_one::<Preset>("preset") {
        for (key, value) in preset_words(*preset) {
            if load.value_source(key) != Some(ValueSource::CommandLine) {
                added.extend(to_words(&find(&load_command(), key)?, &Value::String((*value).into()))?);
            }
        }
    }
    let whole = [&words[..2], &added[..], &words[2..]].concat();
    let (mut cli, matches) = strict(&whole)?;
    if let (What::Load(args), Some(load)) = (&mut cli.command, matches.subcommand_matches("load")) {
        args.mix = parts.iter().map(|part| parse_part(part, load)).collect::<Result<_, Refusal>>()?;
    }
    Ok(cli)
}

fn strict(words: &[OsString]) -> Result<(Cli, ArgMatches), clap::Error> {
    let matches = Cli::command().try_get_matches_from(words)?;
    Ok((Cli::from_arg_matches(&matches)?, matches))
}

/// Nothing is missing while not everything has been read.
fn relax(command: Command) -> Command {
    command.mut_args(|arg| arg.required(false))
}

fn load_command() -> Command {
    Cli::command().find_subcommand("load").cloned().unwrap_or_default()
}

fn part_command() -> Command {
    PartArgs::augment_args(Command::new("mix"))
}

fn read(file: &Path) -> Result<Table, Error> {
    let what = || format!("scenario {}", file.display());
    let text = fs::read_to_string(file).map_err(|error| Error::usage(what(), error, "check the file's name"))?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        Error::usage(what(), format!("line {line}: {}", error.message()), "write it as TOML")
    })
}

/// The argument that `key` stands for.
fn find(command: &Command, key: &str) -> Result<Arg, Error> {
    let id = key.replace('-', "_");
    let keys = || command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|id| !NO_KEYS.contains(id));
    if let Some(arg) =
        command.get_arguments().find(|arg| arg.get_id().as_str() == id && !NO_KEYS.contains(&id.as_str()))
    {
        return Ok(arg.clone());
    }
    let nearest = keys().chain([MIX]).min_by_key(|known| strsim::damerau_levenshtein(known, &id)).unwrap_or_default();
    Err(Error::usage(
        format!("scenario key `{key}`"),
        "there is none of that name",
        format!("the nearest is `{nearest}`"),
    ))
}

/// `value` of the argument `arg` as words.
fn to_words(arg: &Arg, value: &Value) -> Result<Vec<OsString>, Error> {
    let id = arg.get_id().as_str();
    let wrong = |why: &str, mend: &str| Error::usage(format!("scenario key `{id}`"), why, mend);
    let flag = format!("--{}", id.replace('_', "-"));
    let word = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => Err(wrong("takes text or a number", "docs/scenario.md has an example of each key")),
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(set)) => Ok(set.then(|| flag.into()).into_iter().collect()),
        (ArgAction::SetTrue, _) => Err(wrong("takes true or false", "write it without quotes")),
        // `--flag=value`: a value may begin with a dash.
        (ArgAction::Append, Value::Array(list)) => {
            list.iter().map(|value| Ok(format!("{flag}={}", word(value)?).into())).collect()
        }
        (_, Value::Array(_)) => Err(wrong("takes one value", "write it without brackets")),
        (_, value) => Ok(vec![format!("{flag}={}", word(value)?).into()]),
    }
}

/// The parts of the mix.
fn mix(table: &Table) -> Result<Vec<Table>, Error> {
    let wrong = || Error::usage("scenario key `mix`", "is a list of tables", "write [[mix]] above each kind");
    let Some(value) = table.get(MIX) else { return Ok(Vec::new()) };
    let parts = value.as_array().ok_or_else(wrong)?;
    parts.iter().map(|part| part.as_table().cloned().ok_or_else(wrong)).collect()
}

/// A part of the mix: what it says, and for the rest what is said for all of them.
fn parse_part(part: &Table, load: &ArgMatches) -> Result<PartArgs, Refusal> {
    let command = part_command();
    let mut words: Vec<OsString> = vec!["mix".into()];
    for (key, value) in part {
        words.extend(to_words(&find(&command, key)?, value)?);
    }
    for arg in TalkArgs::augment_args(Command::new("talk")).get_arguments() {
        let id = arg.get_id().as_str();
        let said = part.keys().any(|key| key.replace('-', "_") == id);
        if said || load.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let flag = format!("--{}", id.replace('_', "-"));
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            words.push(flag.into());
        } else {
            for value in load.get_raw(id).into_iter().flatten() {
                words.extend([flag.clone().into(), value.to_owned()]);
            }
        }
    }
    let parsed = command.try_get_matches_from(words).and_then(|matches| PartArgs::from_arg_matches(&matches));
    let wrong = |error: clap::Error| {
        Error::usage("scenario: [[mix]]", one_line(&error.to_string()), "docs/scenario.md has every key")
    };
    Ok(parsed.map_err(wrong)?)
}

/// What clap says in several paragraphs, on one line: what is wrong, and the tips.
pub fn one_line(text: &str) -> String {
    let first = text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text);
    let paragraphs = first.split("\n\n").map(|words| words.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("; ").trim_start_matches("error: ").to_owned()
}

/// The paragraphs of a flag's help in one line: its headline, which has no full stop of its own, and what follows.
fn sentences(help: &str) -> String {
    let paragraphs = help.split("\n\n").map(|words| words.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut line = String::new();
    for paragraph in paragraphs.filter(|paragraph| !paragraph.is_empty()) {
        if !line.is_empty() {
            line.push_str(if line.ends_with(['.', ':', ';', '?']) { " " } else { ". " });
        }
        line.push_str(&paragraph);
    }
    line
}

/// The keys of a scenario as a table of Markdown, from the flags themselves.
pub fn keys() -> String {
    let mut out = String::from("| key | takes | what it is |\n|---|---|---|\n");
    let mut row = |arg: &Arg, note: &str| {
        let id = arg.get_id().as_str();
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let help = sentences(&help);
        let names: Vec<_> = arg.get_value_names().into_iter().flatten().map(ToString::to_string).collect();
        let choices: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let takes = match arg.get_action() {
            ArgAction::SetTrue => "`true`".to_owned(),
            _ if !choices.is_empty() => format!("`{}`", choices.join("` `")),
            ArgAction::Append => format!("list of {}", names.join(" ")),
            _ => names.join(" "),
        };
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = if default.is_empty() { String::new() } else { format!(" [default: {}]", default.join(" ")) };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| `{id}`{note} | {} | {help}{default} |", takes.replace('|', "\\|"));
    };
    for arg in load_command().get_arguments().filter(|arg| !NO_KEYS.contains(&arg.get_id().as_str())) {
        row(arg, "");
    }
    for arg in part_command().get_arguments().filter(|arg| arg.get_id() == "weight") {
        row(arg, " in `[[mix]]`");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::LoadArgs;
    use crate::cli::talk::Profile;

    /// The arguments of `load` with a scenario of `text` and the words `flags`.
    fn load(text: &str, flags: &str) -> Result<LoadArgs, String> {
        let file = std::env::temp_dir().join(format!("syncline-{}-{:p}.toml", std::process::id(), text));
        fs::write(&file, text).unwrap();
        let words = ["syncline", "load"].into_iter().chain(flags.split_whitespace()).map(OsString::from);
        let parsed = parse(words.chain([file.clone().into_os_string()]).collect());
        let _ = fs::remove_file(&file);
        match parsed {
            Ok(Cli { command: What::Load(args) }) => Ok(args),
            Ok(_) => unreachable!(),
            Err(Refusal::Words(error)) => Err(error.to_string()),
            Err(Refusal::Scenario(error)) => Err(error.to_string()),
        }
    }

    const BASE: &str = "dev = 'x'\naddr = ['10.0.0.1/24']\ntarget = ['10.0.0.2:80']\nprofile = 'crr'\n";

    #[test]
    fn what_is_wrong_and_the_tip_make_one_line() {
        let said =
            "error: unexpected argument '--rat' found\n\n  tip: a similar argument exists: '--rate'\n\nUsage: x\n";
        assert_eq!(one_line(said), "unexpected argument '--rat' found; tip: a similar argument exists: '--rate'");
    }

    #[test]
    fn a_headline_and_what_follows_are_sentences() {
        assert_eq!(
            sentences("One thing (repeatable)\n\nFor example\nthis. And that."),
            "One thing (repeatable). For example this. And that."
        );
        assert_eq!(sentences("Alone"), "Alone");
    }

    #[test]
    fn a_file_takes_the_place_of_flags_and_gives_way_to_them() {
        let text = format!("{BASE}rate = 500\nduration = '10s'\npiggyback = true\nthreshold = ['rate.achieved_cps>1']");
        let args = load(&text, "--duration 3s").unwrap();
        assert!(args.check().is_ok());
        assert_eq!((args.device.duration, args.rate), (Some("3s".parse().unwrap()), Some("500".parse().unwrap())));
        assert!(args.piggyback && args.talk.profile == Profile::Crr && args.threshold.len() == 1);
        // A flag that can be repeated takes the place of the file's list; it does not add to it.
        let args = load(&text, "--target 10.0.0.3:80 --target 10.0.0.4:80").unwrap();
        assert_eq!(
            args.talk.target.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.3:80", "10.0.0.4:80"]
        );
        let args = load(&format!("{BASE}stage = ['1s:5', '2s:50k']"), "").unwrap();
        assert_eq!(args.stage.len(), 2);
    }

    #[test]
    fn parts_of_a_mix_have_what_is_said_for_all() {
        let text = format!(
            "{BASE}requests-per-connection = 3\n[[mix]]\nweight = 3\nprofile = 'http'\npath = '/a'\n\
             [[mix]]\nprofile = 'rr'\ntarget = '10.0.0.9:7'"
        );
        let args = load(&text, "--rate 5 --duration 1 --request-bytes 9").unwrap();
        let [http, rr] = &args.mix[..] else { panic!("{:?}", args.mix) };
        assert_eq!((http.weight, rr.weight), (3, 1));
        assert_eq!((http.talk.profile, rr.talk.profile), (Profile::Http, Profile::Rr));
        assert_eq!((http.talk.target.len(), rr.talk.target[0].to_string().as_str()), (1, "10.0.0.9:7"));
        assert_eq!(http.talk.requests_per_connection, rr.talk.requests_per_connection);
        assert!(http.talk.request_bytes.is_some() && rr.talk.path.is_none());
        // Without a profile and a target above them, those of the first part stand there.
        let alone =
            "dev='x'\naddr=['10.0.0.1/24']\nduration='1s'\nrate=1\n[[mix]]\nprofile='connect'\ntarget='10.0.0.2:9'";
        assert_eq!(load(alone, "").unwrap().talk.profile, Profile::Connect);
    }

    #[test]
    fn a_preset_gives_way_to_both() {
        let text = "dev = 'x'\naddr = ['10.0.0.1/24']\ntarget = ['10.0.0.2:80']\npreset = 'rfc9411-7.2'\nramp = '1s'";
        let args = load(text, "--duration 9s --rate 10").unwrap();
        assert_eq!((args.talk.profile, args.ramp), (Profile::Http, Some("1s".parse().unwrap())));
        assert_eq!((args.device.duration, &args.talk.expect_status[..]), (Some("9s".parse().unwrap()), &[200][..]));
        assert!(args.check().is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, why) in [
            ("ratte = 5", "the nearest is `rate`"),
            ("think-tme = 5", "the nearest is `think_time`"),
            ("scenario = 'x'", "none of that name"),
            ("rate = 'fast'", "--rate"),
            ("rate = [1, 2]", "takes one value"),
            ("piggyback = 1", "takes true or false"),
            ("rate = {a = 1}", "takes text or a number"),
            ("rate = ", "line 5"),
            ("rate = 1\nrate = 2", "duplicate"),
            ("mix = 5", "list of tables"),
            ("[[mix]]\nduration = 5", "`duration`"),
            ("[[mix]]\nweight = 0", "weight"),
            ("rate = 1\nconcurrency = 2", "cannot be used with"),
        ] {
            let error = load(&format!("{BASE}{line}"), "").unwrap_err();
            assert!(error.contains(why) && !error.contains('\n'), "{line}: {error}");
        }
        let missing = load("dev = 'x'", "").unwrap_err();
        assert!(missing.contains("--target"), "{missing}");
    }

    #[test]
    fn the_page_has_every_key() {
        let page = include_str!("../../../docs/scenario.md");
        let keys = keys();
        if std::env::var_os("SYNCLINE_UPDATE_DOCS").is_some() {
            let (head, tail) =
                (page.split("<!-- keys -->").next().unwrap(), page.rsplit("<!-- end -->").next().unwrap());
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scenario.md");
            return fs::write(path, format!("{head}<!-- keys -->\n{keys}<!-- end -->{tail}")).unwrap();
        }
        assert!(
            page.contains(&keys),
            "docs/scenario.md is out of date: SYNCLINE_UPDATE_DOCS=1 cargo test -p syncline page_has"
        );
    }
}
