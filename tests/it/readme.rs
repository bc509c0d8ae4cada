//! What the README says, a test runs: its SQL on a real server, its files
//! through `check`, its commands through the parser of the command line.

use std::path::Path;

use clap::Parser;
use lifeboat::{cli::Arguments, config};

use crate::support::{Lab, scratch};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The contents of all blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fence = format!("```{language}\n");
    let found: Vec<String> =
        text.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect();
    assert!(!found.is_empty(), "the README has no {language}");
    found
}

/// Its SQL, word for word but for the password.
pub(crate) fn role_sql(password: &str) -> String {
    let sql = blocks("sql").join("\n");
    assert_eq!(sql.matches("'choose one'").count(), 1, "{sql}");
    sql.replace("'choose one'", &format!("'{password}'"))
}

#[test]
fn its_files_pass_check() {
    let folder = scratch();
    for block in blocks("yaml") {
        let (name, below) = block.split_once('\n').unwrap();
        let name = name.trim_start_matches("# ");
        // Some blocks are a passage of a file that another block is.
        if let Some((name, key)) = name.split_once(", under ") {
            let key = format!("\n{}\n", key.trim_matches('`'));
            let path = folder.path().join(name);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.matches(&key).count(), 1, "{key} in {name}");
            std::fs::write(path, text.replacen(&key, &format!("{key}{below}\n"), 1)).unwrap();
            continue;
        }
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut text = block;
        for placeholder in ["age1RECIPIENT", "age1ESCROW"] {
            text = text.replace(placeholder, &age::x25519::Identity::generate().to_public().to_string());
        }
        std::fs::write(path, text).unwrap();
    }
    let estate = config::load(&folder.path().join("lifeboat.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(estate.schedules.len(), 1);
}

#[test]
fn its_commands_exist() {
    let mut commands = 0;
    for line in blocks("sh").iter().flat_map(|block| block.lines()) {
        let line = line.split('#').next().unwrap().trim();
        if line.starts_with("lifeboat ") {
            Arguments::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("`{line}`: {error}"));
            commands += 1;
        } else {
            let makefile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
            let target = line.strip_prefix("make ").unwrap_or_else(|| panic!("`{line}` is no command of ours"));
            assert!(makefile.contains(&format!("\n{target}:")), "the Makefile has no `{target}`");
        }
    }
    assert!(commands > 10, "{commands} commands found");
}

#[tokio::test]
async fn its_role_has_the_rights_that_protection_needs() {
    let lab = Lab::start("").await;
    lab.psql(&role_sql("choose one")).await;
    let rights = "SELECT has_table_privilege('lifeboat', 'lifeboat.heartbeat', 'INSERT, DELETE') \
                  AND (SELECT rolreplication AND NOT rolsuper FROM pg_roles WHERE rolname = 'lifeboat') \
                  AND pg_has_role('lifeboat', 'pg_monitor', 'MEMBER') \
                  AND has_function_privilege('lifeboat', 'pg_promote(boolean, integer)', 'EXECUTE')";
    assert_eq!(lab.psql(rights).await, "t");
}

/// Every test that `docs/failure-modes.md` names exists.
#[test]
fn the_failure_modes_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/failure-modes.md")).unwrap();
    let sources: Vec<String> = [root.join("tests"), root.join("src")]
        .iter()
        .flat_map(|folder| crate::tidy::rust_files(folder))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let mut named = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        assert!(column.contains('`') || column.starts_with("not yet"), "nothing plants: {row}");
        for test in column.split('`').skip(1).step_by(2) {
            let function = format!("fn {test}(");
            assert!(sources.iter().any(|source| source.contains(&function)), "there is no test `{test}`");
            named += 1;
        }
    }
    assert!(named > 30, "{named} tests are named");
}

#[test]
fn its_links_lead_somewhere() {
    let text = readme();
    for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists(), "{link} does not exist");
    }
}
