//! What is right or wrong with files alone; no server is asked.

#![allow(clippy::disallowed_methods, reason = "the program under test is a child of the test itself")]

use std::str::FromStr;

use lifeboat::vault::signature::Signer;

use super::site::{Site, finished};

#[tokio::test]
async fn good_files_are_checked_planned_and_described() {
    let site = Site::write(1);
    site.edit("schedules/wallet.yaml", "verify: {every: 365d, sample: 100%, period: 365d}\n", "");
    let checked = site.run(&["check"]).await.json(0);
    assert_eq!(checked["protects"]["databases"][0]["database"], "wallet");
    assert_eq!(checked["problems"], serde_json::json!([]));
    let plan = site.run(&["plan", "--next", "3"]).await.json(0);
    let runs = plan["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 3);
    let (verifications, by_cron): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run["flow"] == "verify");
    assert!(by_cron.iter().all(|run| run["database"] == "wallet" && run["timezone"] == "Europe/Malta"), "{plan}");
    // One of each vault, by the clock and the names alone.
    let [verification] = &verifications[..] else { panic!("{plan}") };
    assert_eq!(
        (&verification["every"], &verification["kind"]),
        (&"1d".into(), &"5% of vault primary".into()),
        "{plan}"
    );
    let due: jiff::Timestamp = verification["due"].as_str().unwrap().parse().unwrap();
    let ahead = due.duration_since(lifeboat::clock::Clock::system().now());
    assert!(ahead.as_hours() < 24 && ahead.as_secs() > -3600, "{plan}");
    let again = site.run(&["plan", "--next", "50"]).await.json(0);
    let again: Vec<_> = again["runs"].as_array().unwrap().iter().filter(|run| run["flow"] == "verify").collect();
    assert!(again.len() == 1, "{again:?}");
    let shown = site.shown(&["plan"]).await;
    assert!(shown.contains("verify (5% of vault primary)") && shown.contains("every 1d"), "{shown}");
    let schema = site.run(&["schema"]).await.json(0);
    assert_eq!(schema["schedules/*.yaml"]["title"], "ScheduleConfig");
    assert!(!site.path("signing.key").exists() && !site.path("lifeboat.db").exists(), "looking makes nothing");
}

#[tokio::test]
async fn what_was_missed_is_planned_and_a_secret_that_all_can_read_is_told_once() {
    let site = Site::write(1);
    assert_eq!(site.run(&["plan"]).await.json(0)["overdue"], serde_json::json!([]), "nothing was due");
    site.edit("schedules/wallet.yaml", "0 2 29 2 *", "0 2 * * *");
    site.edit("schedules/wallet.yaml", "0 5 29 2 *", "0 5 * * *");
    let planned = site.run(&["plan"]).await.json(0);
    // A restore test has nothing to test yet.
    let [overdue] = &planned["overdue"].as_array().unwrap()[..] else { panic!("{planned}") };
    assert_eq!((&overdue["flow"], &overdue["kind"]), (&"backup".into(), &"full".into()));
    let due: jiff::Timestamp = overdue["due"].as_str().unwrap().parse().unwrap();
    let since = lifeboat::clock::Clock::system().now().duration_since(due);
    assert!((0..=25).contains(&since.as_hours()), "the last one stands for all: {planned}");
    let shown = site.shown(&["plan"]).await;
    assert!(shown.contains("overdue: backup (full) of wallet, due") && shown.contains("starts it at once"), "{shown}");
    // What was dealt with is not overdue; what a daemon slept through is told with what becomes of it.
    let db = lifeboat::db::Db::open(&format!("sqlite:{}", site.path("lifeboat.db").display())).await.unwrap();
    let lifeboat::db::Db::Sqlite { state: pool, .. } = &db else { panic!() };
    for (days, overdue) in [(0, 0), (3, 3)] {
        for (line, hour) in [("backup/full", 2), ("restore_test/local", 5)] {
            let mark = due.as_millisecond() - days * 86_400_000;
            let sql = "INSERT INTO agenda_marks VALUES ('wallet', $1, $2) ON CONFLICT DO UPDATE SET through_ms = excluded.through_ms";
            sqlx::query(sql)
                .bind(format!("{line} `0 {hour} * * *` Europe/Malta"))
                .bind(mark)
                .execute(pool)
                .await
                .unwrap();
        }
        let planned = site.run(&["plan"]).await.json(0);
        let told = planned["overdue"].as_array().unwrap().iter().filter(|one| one["flow"] == "backup").count();
        assert_eq!(told, overdue, "{planned}");
    }

    std::fs::set_permissions(site.path("wallet.password"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let checked = site.run(&["check", "--connect"]).await;
    checked.json(2);
    assert_eq!(checked.stderr.matches("every user of this machine").count(), 1, "{checked:?}");
}

#[tokio::test]
async fn wrong_files_stop_every_command_with_their_place() {
    let site = Site::write(1);
    site.edit("schedules/wallet.yaml", "flush_every: 1s", "flush_evry: 1s");
    let checked = site.run(&["check"]).await.json(2);
    assert_eq!(checked["problems"].as_array().unwrap().len(), 1, "{checked}");
    for args in [&["backup", "wallet"][..], &["restore", "wallet", "--to", "/nowhere"], &["serve"], &["status"]] {
        let ran = site.run(args).await;
        ran.refused(2, &["schedules/wallet.yaml:", "flush_evry", "flush_every"]);
    }
    site.edit("schedules/wallet.yaml", "flush_evry: 1s", "flush_every: 1s");
    site.put("lifeboat.yaml", "node: {name: test, region: [\n");
    site.run(&["backups"]).await.refused(2, &["lifeboat.yaml:"]);
    std::fs::remove_file(site.path("lifeboat.yaml")).unwrap();
    site.run(&["backups"]).await.refused(2, &["lifeboat.yaml", "does not exist", "--config"]);
    let checked = site.run(&["check"]).await.json(2);
    assert_eq!(checked["problems"].as_array().unwrap().len(), 1, "{checked}");
    assert!(!site.path("signing.key").exists() && !site.path("lifeboat.db").exists());
}

#[tokio::test]
async fn keygen_makes_a_usable_identity_and_never_replaces_one() {
    let site = Site::write(1);
    let file = site.path("new.age");
    let made = site.run(&["keygen", "--output", file.to_str().unwrap()]).await.json(0);
    let text = site.text("new.age");
    let secret = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let identity = age::x25519::Identity::from_str(secret).unwrap();
    assert_eq!(made["recipient"], identity.to_public().to_string());
    let permissions = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(permissions & 0o777, 0o600);
    let again = site.run(&["keygen", "-o", file.to_str().unwrap()]).await;
    again.refused(2, &["new.age", "does not exist yet"]);
    assert_eq!(site.text("new.age"), text);
}

#[tokio::test]
async fn keygen_shows_the_signing_key_and_makes_none() {
    let site = Site::write(1);
    site.run(&["keygen", "--fingerprint"]).await.refused(2, &["there is no signing key", "signing.key"]);
    assert!(!site.path("signing.key").exists());
    let (signer, _) = Signer::load_or_create(&site.path("signing.key")).unwrap();
    let told = site.run(&["keygen", "--fingerprint"]).await.json(0);
    assert_eq!(told["fingerprint"], signer.verifier().fingerprint());
    assert!(told["public_key"].as_str().unwrap().starts_with("ssh-ed25519 "));
    assert!(site.shown(&["keygen", "--fingerprint"]).await.starts_with(&signer.verifier().fingerprint()));
}

#[tokio::test]
async fn names_that_nothing_has_are_told_with_what_there_is() {
    let site = Site::write(1);
    let drill = site.run(&["drill", "switch", "--live"]).await;
    drill.refused(2, &["no runbook is named `switch`", "there is none; write one as `runbooks/NAME.yaml`"]);
    assert_eq!(site.run(&["runs", "--limit", "0"]).await.code, 2);
    assert_eq!(site.run(&["runs", "--limit", "1"]).await.json(0), serde_json::json!([]));
}

/// Evidence in a folder is held against a fingerprint, or against our own key.
#[tokio::test]
async fn evidence_in_a_folder_is_verified_with_our_own_key_where_none_is_named() {
    let site = Site::write(1);
    let folder = site.path("bundle");
    let folder = folder.to_str().unwrap();
    let verify = async |more: &[&str]| {
        let args = [&["evidence", "verify", "--folder", folder][..], more].concat();
        site.run(&args).await
    };
    std::fs::create_dir_all(site.path("bundle/evidence/checkpoints")).unwrap();
    verify(&[]).await.refused(2, &["whose evidence this is", "--key", "there is no signing key"]);
    site.run(&["evidence", "export", "--to", site.path("export").to_str().unwrap()]).await.json(0);
    let ours = site.run(&["keygen", "--fingerprint"]).await.json(0)["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(verify(&[]).await.json(3)["key"], *ours);
    assert_eq!(verify(&["--key", &ours]).await.json(3)["key"], *ours);
    let other = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(verify(&["--key", other]).await.json(3)["key"], other);
    verify(&["--key", "SHA256:nonsense"]).await.refused(2, &["SHA256:nonsense", "fingerprint"]);
    std::fs::remove_file(site.path("lifeboat.yaml")).unwrap();
    verify(&[]).await.refused(2, &["whose evidence this is", "--key", "does not exist"]);
}

#[tokio::test]
async fn a_folder_stands_for_the_file_in_it() {
    let site = Site::write(1);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(["--json", "check", "--config"]).arg(site.path("")).current_dir("/");
    assert_eq!(finished(command).await.json(0)["protects"]["node"], "test");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_with_what_helps() {
    let site = Site::write(1);
    Signer::load_or_create(&site.path("signing.key")).unwrap();
    let nowhere = site.path("nowhere/it.html");
    let (nowhere, folder) = (nowhere.to_str().unwrap(), site.path("scratch"));
    for args in
        [&["keygen", "--output"][..], &["vault", "dr-kit", "--to"], &["report", "--output"], &["demo", "--report"]]
    {
        let told = site.run(&[args, &[nowhere]].concat()).await;
        told.refused(2, &["cannot make", nowhere, "make its folder first"]);
    }
    for args in [&["report", "--output"][..], &["demo", "--report"]] {
        let told = site.run(&[args, &[folder.to_str().unwrap()]].concat()).await;
        told.refused(2, &["cannot make", "name a file in it"]);
    }
}

/// The ending of its name says what a report is, where nothing else does.
#[tokio::test]
async fn a_report_is_what_its_name_says() {
    let site = Site::write(1);
    for (name, begins) in [("it.csv", "index,leaf_hash"), ("it.json", "{"), ("it.html", "<!DOCTYPE html>"), ("it", "{")]
    {
        let path = site.path(name);
        assert_eq!(site.run(&["report", "-o", path.to_str().unwrap()]).await.code, 0);
        let text = site.text(name);
        assert!(text.to_lowercase().starts_with(&begins.to_lowercase()), "{name}: {}", text.lines().next().unwrap());
    }
    let chosen = site.path("chosen.csv");
    site.run(&["report", "--format", "json", "-o", chosen.to_str().unwrap()]).await;
    assert!(site.text("chosen.csv").starts_with('{'), "what was said counts");
}

#[tokio::test]
async fn a_restore_point_has_a_name() {
    let site = Site::write(1);
    for name in ["", "two\nlines", &"x".repeat(64)] {
        for command in ["restore", "restore-test"] {
            let to: &[&str] = if command == "restore" { &["--to", "/nowhere"] } else { &[] };
            let ran = site.run(&[&[command, "wallet", "--name", name][..], to].concat()).await;
            ran.refused(2, &["is not the name of a restore point", "1 to 63 bytes"]);
        }
    }
    assert!(!site.path("lifeboat.db").exists(), "refused before anything is opened");
}
