//! Configuration: the examples pass, and everything that is wrong is found at
//! its place, all of it at once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod mutated;
mod notify;
mod rules;
mod secret;

use std::path::PathBuf;

use lifeboat::{
    cli::{Invocation, check, plan, schema},
    config::{Estate, Problem, Problems, load},
};

/// The examples, laid out as an operator would, in a folder that can be spoilt.
pub(crate) struct Written {
    folder: tempfile::TempDir,
}

pub(crate) const FILES: [(&str, &str); 3] = [
    ("lifeboat.yaml", "deploy/lifeboat.yaml"),
    ("schedules/wallet.yaml", "schedules/wallet.yaml"),
    ("runbooks/wallet-switchover.yaml", "runbooks/wallet-switchover.yaml"),
];

impl Written {
    pub(crate) fn examples() -> Self {
        let written = Self { folder: crate::support::scratch() };
        for (file, example) in FILES {
            let text = std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(example)).unwrap();
            written.write(file, text);
        }
        written
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Replaces what stands there exactly once.
    pub(crate) fn change(&self, file: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        assert_eq!(text.matches(old).count(), 1, "`{old}` in {file}");
        self.write(file, text.replacen(old, new, 1));
    }

    pub(crate) fn load(&self) -> Result<Estate, Problems> {
        load(&self.path("lifeboat.yaml"))
    }

    /// `FILE:LINE:COLUMN` relative to the folder.
    pub(crate) fn place(&self, problem: &Problem) -> String {
        let file = problem.file.strip_prefix(self.folder.path()).unwrap();
        format!("{}:{}:{}", file.display(), problem.place.line, problem.place.column)
    }
}

/// The day before the clocks of Malta jump.
fn noon() -> jiff::Timestamp {
    "2026-03-28T12:00:00Z".parse().unwrap()
}

#[test]
fn a_secret_that_was_written_down_is_not_shown() {
    let written = Written::examples();
    written.change("schedules/wallet.yaml", "{file: /run/secrets/wallet}", "hunter2");
    written.change("lifeboat.yaml", "{file: /run/secrets/age.key}", "AGE-SECRET-KEY-1QQQ");
    let problems = written.load().unwrap_err().to_string();
    assert_eq!(problems.matches("where a reference to a secret belongs").count(), 2, "{problems}");
    assert!(!problems.contains("hunter2") && !problems.contains("AGE-SECRET"), "{problems}");
}

#[test]
fn the_examples_pass_and_paths_become_absolute() {
    let written = Written::examples();
    written.change("lifeboat.yaml", "sqlite:/var/lib/lifeboat/lifeboat.db", "sqlite:state/lifeboat.db");
    written.change("lifeboat.yaml", "path: /var/lib/lifeboat/vault", "path: vault");
    written.change("lifeboat.yaml", "/run/secrets/age.key", "age.key");
    written.change("schedules/wallet.yaml", "/run/secrets/wallet", "secrets/wallet");
    written.change("schedules/wallet.yaml", "sslmode: verify-full", "sslcert: own.crt, sslkey: own.key");
    let estate = written.load().unwrap();
    let folder = std::fs::canonicalize(written.path("")).unwrap();
    assert_eq!(estate.folder, folder);
    assert_eq!(estate.daemon.state.url, format!("sqlite:{}/state/lifeboat.db", folder.display()));
    let vault = estate.daemon.vaults.values().last().unwrap();
    let lifeboat::config::vault::VaultConfig::Directory(vault) = vault else { panic!("{vault:?}") };
    assert_eq!(vault.path, folder.join("vault"));
    let file = |path: &str| lifeboat::config::SecretRef::File(folder.join(path));
    assert_eq!(estate.daemon.keys.identity, Some(file("age.key")));
    let schedule = &estate.schedules[0];
    assert_eq!(schedule.config.login.password, Some(file("secrets/wallet")));
    let login = &schedule.config.login;
    assert_eq!((&login.sslcert, &login.sslkey), (&Some(folder.join("own.crt")), &Some(folder.join("own.key"))));
    assert_eq!(estate.runbooks[0].config.steps.len(), 5);
    let bytes = std::fs::read(written.path("schedules/wallet.yaml")).unwrap();
    assert_eq!(schedule.sha256, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(bytes)));
}

#[test]
fn runbooks_may_be_absent_and_schedules_may_not() {
    let written = Written::examples();
    std::fs::remove_dir_all(written.path("runbooks")).unwrap();
    assert!(written.load().unwrap().runbooks.is_empty());
    std::fs::remove_dir_all(written.path("schedules")).unwrap();
    let problems = written.load().unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems.to_string().contains("no database has a schedule"), "{problems}");
}

/// One unreadable file is one problem: the others are not blamed for it.
#[test]
fn a_file_that_is_not_yaml_hides_nothing_else_and_adds_nothing() {
    for (file, _) in FILES {
        let written = Written::examples();
        written.write(file, "node: a\n  name: b\n");
        let problems = written.load().unwrap_err();
        assert_eq!(problems.len(), 1, "{problems}");
        let problem = problems.iter().next().unwrap();
        assert_eq!(written.place(problem), format!("{file}:2:7"), "{problems}");
        assert!(problem.what.contains("not YAML"), "{problems}");
    }
}

#[test]
fn a_missing_file_is_a_problem_and_not_a_panic() {
    let written = Written::examples();
    let problems = load(&written.path("nowhere/lifeboat.yaml")).unwrap_err();
    assert!(problems.to_string().contains("does not exist"), "{problems}");
}

#[test]
fn text_stays_what_was_written() {
    let written = Written::examples();
    written.change("schedules/wallet.yaml", "jurisdiction: MT", "jurisdiction: NO");
    written.change("schedules/wallet.yaml", "expect: \"0.00\"", "expect: 0.10");
    let estate = written.load().unwrap();
    let schedule = &estate.schedules[0].config;
    assert_eq!(schedule.residency.as_ref().unwrap().jurisdiction, "NO");
    let checks = &schedule.restore_test.as_ref().unwrap().checks;
    assert!(format!("{checks:?}").contains("expect: Some(\"0.10\")"), "{checks:?}");
}

/// The list of the issue, all in one go, over all files.
#[tokio::test]
async fn all_problems_of_all_files_are_reported_at_once() {
    let written = Written::examples();
    let recipients = std::fs::read_to_string(written.path("lifeboat.yaml")).unwrap();
    let second = recipients.lines().filter(|line| line.contains("- age1")).nth(1).unwrap().to_owned() + "\n";
    written.change("lifeboat.yaml", &second, "");
    written.change("lifeboat.yaml", "state:", "stat:");
    written.change("schedules/wallet.yaml", "\"0 2 * * *\"", "\"0 25 * * *\"");
    written.change("schedules/wallet.yaml", "Europe/Malta", "Europe/Valletta");
    written.change("schedules/wallet.yaml", "rpo: 15m", "rpo: 15 minutes");
    written.change("schedules/wallet.yaml", "vaults: [primary, dr]", "vaults: [primary, rd]");
    written.change("schedules/wallet.yaml", "[eu-south-1, eu-central-1]", "[eu-central-1]");
    written.change("runbooks/wallet-switchover.yaml", "database: wallet\n", "database: walet\n");
    written.change("runbooks/wallet-switchover.yaml", "hold: 60s", "holds: 60s");
    let problems = written.load().unwrap_err();
    let seen: Vec<_> = problems.iter().map(|problem| (written.place(problem), problem.what.as_str())).collect();
    assert_eq!(seen.iter().map(|(place, what)| (place.as_str(), *what)).collect::<Vec<_>>(), WANTED);

    let mut out = Vec::new();
    let code = checked(&written, false, &mut out).await;
    assert_eq!(code, 2);
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with(&problems.to_string()), "{out}");
    assert!(out.ends_with(&format!("{} problems; nothing was started\n", problems.len())), "{out}");

    let mut out = Vec::new();
    assert_eq!(checked(&written, true, &mut out).await, 2);
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let first = &json["problems"][0];
    assert!(first["file"].as_str().unwrap().ends_with("lifeboat.yaml"), "{first}");
    assert!(first["line"].is_u64() && first["column"].is_u64() && first["remedy"].is_string(), "{first}");
}

async fn checked(written: &Written, json: bool, out: &mut Vec<u8>) -> u8 {
    let invocation = Invocation { config: written.path("lifeboat.yaml"), json };
    check::run(&check::Options { connect: false, files: true }, &invocation, noon(), out).await.unwrap()
}

const WANTED: [(&str, &str); 10] = [
    ("lifeboat.yaml:5:1", "unknown key `stat`"),
    ("lifeboat.yaml:11:5", "there is one recipient: whoever loses that key loses every backup"),
    ("runbooks/wallet-switchover.yaml:5:11", "the database `walet` has no schedule"),
    ("runbooks/wallet-switchover.yaml:23:20", "unknown key `holds`"),
    ("schedules/wallet.yaml:8:28", "`15 minutes` is not a duration"),
    ("schedules/wallet.yaml:10:10", "the vault `primary` is in eu-south-1, outside the residency of MT"),
    ("schedules/wallet.yaml:10:19", "the vault `rd` does not exist"),
    ("schedules/wallet.yaml:11:11", "`Europe/Valletta` is not a time zone"),
    ("schedules/wallet.yaml:13:24", "`0 25 * * *` is not a cron expression (Component error: Number out of bounds.)"),
    ("schedules/wallet.yaml:15:1", "the test would restore on this node in eu-south-1, outside the residency of MT"),
];

#[tokio::test]
async fn check_says_what_is_protected() {
    let written = Written::examples();
    let mut out = Vec::new();
    assert_eq!(checked(&written, false, &mut out).await, 0);
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("wallet: RTO 1h, RPO 15m; backups and WAL to primary, dr"), "{out}");
    assert!(out.contains("next: backup of wallet on Sun 2026-03-29 03:00:00 CEST"), "{out}");
    assert!(out.contains("all right: 1 database(s), 2 vault(s), 1 runbook(s)"), "{out}");
}

#[tokio::test]
async fn check_notes_what_a_tier_asks_for_and_the_files_lack() {
    let written = Written::examples();
    written.change("schedules/wallet.yaml", "{rto: 1h, rpo: 15m}", "{rpo: 15m}\ntier: warm_standby");
    written.change("schedules/wallet.yaml", "[primary, dr]", "[primary]");
    let mut out = Vec::new();
    assert_eq!(checked(&written, false, &mut out).await, 0, "it is what the operator wrote");
    let out = String::from_utf8(out).unwrap();
    let tier = "tier `warm_standby`";
    for line in [
        "wallet: tier warm_standby, RTO 5m, RPO 15m; backups and WAL to primary;".to_owned(),
        format!("note: wallet: {tier} promises RPO 1m, and the file says 15m: change the tier or the objective\n"),
        format!(
            "note: wallet: {tier} asks for a copy in another region, and all vaults are in eu-south-1: name a vault in eu-central-1 under `vaults`\n"
        ),
    ] {
        assert!(out.contains(&line), "{line} is not in\n{out}");
    }
    assert_eq!(out.matches(tier).count(), 2, "{out}");
}

#[tokio::test]
async fn the_plan_shows_the_next_runs_in_the_zone_of_the_database() {
    let written = Written::examples();
    let now = noon();
    let mut out = Vec::new();
    assert_eq!(plan::run(&written.path("lifeboat.yaml"), 20, now, false, &mut out).await.unwrap(), 0);
    let out = String::from_utf8(out).unwrap();
    // The clock in Malta jumps from 02:00 to 03:00 that night.
    for line in
        ["Sun 2026-03-29 03:00:00 CEST", "2026-03-30 00:00:00 UTC", "Wed 2026-04-01 05:00:00 CEST", "restore_test"]
    {
        assert!(out.contains(line), "{line} in\n{out}");
    }
    // The example's signing key is not on this machine.
    assert!(out.contains("expiry of wallet in vault dr is not known: the signing key"), "{out}");

    let mut out = Vec::new();
    plan::run(&written.path("lifeboat.yaml"), 5, now, true, &mut out).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["runs"].as_array().unwrap().len(), 5);
    let backup = json["runs"].as_array().unwrap().iter().find(|run| run["flow"] == "backup").unwrap();
    assert_eq!(backup["due"], "2026-03-29T01:00:00Z");
    assert_eq!(json["expires"].as_array().unwrap().len(), 2);
}

#[test]
fn every_key_in_the_schemas_says_what_it_is_for() {
    let mut out = Vec::new();
    assert_eq!(schema::run(&mut out).unwrap(), 0);
    let schemas: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let mut keys = 0;
    let mut silent = Vec::new();
    visit(&schemas, &mut |name, property, defs| {
        keys += 1;
        let referred = property["$ref"].as_str().map(|path| &defs[path.trim_start_matches("#/$defs/")]);
        let described = |value: &serde_json::Value| value["description"].is_string();
        if !described(property) && !referred.is_some_and(described) {
            silent.push(name.to_owned());
        }
    });
    assert!(keys > 60, "{keys}");
    // What tells shapes apart (`kind`) is described by the shapes, and so are the sources of a secret.
    silent.retain(|name| !matches!(name.as_str(), "kind" | "env" | "file" | "command"));
    assert!(silent.is_empty(), "{silent:?}");
}

/// Calls `seen` for every property of every object in a set of schemas.
fn visit(schemas: &serde_json::Value, seen: &mut impl FnMut(&str, &serde_json::Value, &serde_json::Value)) {
    fn inside(
        schema: &serde_json::Value,
        defs: &serde_json::Value,
        seen: &mut impl FnMut(&str, &serde_json::Value, &serde_json::Value),
    ) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            seen(name, property, defs);
            inside(property, defs, seen);
        }
        for variant in ["oneOf", "anyOf"].iter().filter_map(|key| schema[*key].as_array()).flatten() {
            inside(variant, defs, seen);
        }
    }
    for schema in schemas.as_object().unwrap().values() {
        let defs = &schema["$defs"];
        inside(schema, defs, seen);
        for definition in defs.as_object().unwrap().values() {
            inside(definition, defs, seen);
        }
    }
}
