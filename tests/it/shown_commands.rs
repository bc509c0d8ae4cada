//! Whatever shows a command shows one that exists: templates, the pages that lie
//! beside backups and in the DR kit, the documents, and our own messages.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, error::ErrorKind};
use lifeboat::cli::Arguments;

/// Where commands are shown.
const SHOWN_IN: [&str; 6] = ["src", "templates", "docs", "deploy", "README.md", "ARCHITECTURE.md"];

fn files_in(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files_in(&path)).collect()
}

/// What stands between backticks, in `<pre>` and `<code>`, and on lines that are a
/// command, where it begins with the program's name.
fn commands(text: &str) -> Vec<String> {
    let marked = text.split(['`', '\n']).chain(text.split(['<', '>']).flat_map(str::lines));
    let mut found: Vec<String> = marked
        .map(|part| part.trim().trim_start_matches("$ "))
        .filter(|part| part.starts_with("lifeboat ") && !part.contains('`'))
        .map(|part| part.split(['#', '\\', '"']).next().unwrap().trim().to_owned())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The words of a command with something valid for each placeholder; none where
/// it is a form with `[…]` or `|`, or a sentence.
fn words(command: &str) -> Option<Vec<String>> {
    let filled = |word: &str| match word {
        "DB" | "RUN" | "RUNBOOK" | "FILE" | "DIR" | "V" => "x".to_owned(),
        word if word.starts_with('{') => "x".to_owned(),
        word => word.to_owned(),
    };
    (!command.contains(['[', '|', '…', ',', ';', '('])).then(|| command.split_whitespace().map(filled).collect())
}

#[test]
fn every_command_that_is_shown_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut checked = 0;
    for file in SHOWN_IN.iter().flat_map(|path| files_in(&root.join(path))) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for command in commands(&text) {
            let Some(words) = words(&command) else { continue };
            checked += 1;
            let refused = Arguments::try_parse_from(&words).err().map(|error| error.kind());
            // A sentence names a command without what it takes.
            let is_short = matches!(
                refused,
                Some(ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
            );
            assert!(refused.is_none() || is_short, "{}: `{command}` is no command: {refused:?}", file.display());
        }
    }
    assert!(checked > 60, "{checked} commands found");
}

/// Of every option and argument of every command, help says what it is for.
#[test]
fn help_leaves_nothing_unsaid() {
    let mut commands = vec![Arguments::command()];
    while let Some(command) = commands.pop() {
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
        }
        commands.extend(command.get_subcommands().cloned());
    }
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let page = "Export it: <pre>lifeboat evidence export bundle/\ncd bundle</pre>";
    let [command] = &commands(page)[..] else { panic!("{:?}", commands(page)) };
    assert!(Arguments::try_parse_from(words(command).unwrap()).is_err(), "{command}");
}
