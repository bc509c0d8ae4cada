//! The whole way through a bucket that keeps versions: a live primary is backed
//! up and streamed into it by the real program, everything in it is overwritten
//! or deleted by somebody who holds a writer's credentials, and what comes back
//! is compared row by row.

use lifeboat::domain::Verdict;

use super::{
    journey::{Points, backed_up, lived, restored},
    site::{Ran, Site, finished, wallet},
};
use crate::support::moto::{KEY_ID, Kind, Moto, REGION, SECRET};

fn site_on(moto: &Moto, port: u16, more: &str) -> Site {
    let site = Site::write(port);
    let directory = "{kind: directory, path: vault, region: eu-south-1, durable: required}";
    site.edit("lifeboat.yaml", directory, &vault_on(moto, &site, more));
    site
}

/// The words of a vault in the bucket `backups`.
pub(super) fn vault_on(moto: &Moto, site: &Site, more: &str) -> String {
    site.put_private("s3.secret", SECRET);
    let credentials = format!("credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: s3.secret}}}}");
    format!(
        "{{kind: s3, bucket: backups, region: {REGION}, prefix: prod/, endpoint: \"{}\", {credentials}, durable: required{more}}}",
        moto.endpoint
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_a_bucket_comes_back_whatever_was_put_over_it() {
    let moto = Moto::start().await;
    let client = moto.bucket("backups", Kind::Versioned).await;
    let lab = wallet("").await;
    let site = site_on(&moto, lab.port, ", limits: {upload: 100MiB, download: 100MiB, requests: 500}");
    let looked = site.run(&["check", "--connect"]).await.json(0);
    assert_eq!(looked["problems"], serde_json::json!([]));
    // What the emulator and a bare bucket lack is told, and the vault is used nevertheless.
    let findings = looked["findings"].to_string();
    for words in [
        "vault `primary`: the store accepts an upload with a wrong SHA-256",
        "vault `primary`: a policy or an ACL could open it to everybody, as Block Public Access lacks",
        "vault `primary`: no lifecycle rule aborts incomplete uploads",
    ] {
        assert!(findings.contains(words), "{words}: {looked}");
    }

    let first = backed_up(&site).await;
    let Points { first_backup, at_first_backup, latest, .. } = lived(&lab, &site, first).await;
    lab.cluster.stop("fast").await.unwrap();
    let stored = client.list_objects_v2().bucket("backups").send().await.unwrap();
    let names: Vec<&str> = stored.contents().iter().map(|object| object.key().unwrap()).collect();
    assert!(names.len() > 20 && names.iter().all(|name| name.starts_with("prod/")), "{names:?}");
    for (nth, name) in names.iter().enumerate() {
        if nth % 2 == 0 {
            let forged = b"forged".to_vec().into();
            client.put_object().bucket("backups").key(*name).body(forged).send().await.unwrap();
        } else {
            client.delete_object().bucket("backups").key(*name).send().await.unwrap();
        }
    }
    restored(&lab, &site, "latest", ["--latest"], &latest).await;
    restored(&lab, &site, "first", ["--immediate", "--backup", &first_backup], &at_first_backup).await;
    let log = site.text("log");
    assert!(!log.contains(SECRET), "{log}");
}

/// What is wrong with a bucket is one sentence of `check --connect`.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_bucket_is_one_sentence() {
    let moto = Moto::start().await;
    let lab = wallet("").await;
    let site = site_on(&moto, lab.port, "");
    let told = async |words: &[&str]| {
        let Ran { code, stdout, stderr } = site.run(&["check", "--connect"]).await;
        assert_eq!(code, 2, "{stdout}{stderr}");
        let looked: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let problems = looked["problems"].as_array().unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        super::site::tells(problems[0].as_str().unwrap(), words);
        assert!(!stdout.contains(SECRET) && !stderr.contains(SECRET), "{stdout}{stderr}");
    };
    told(&["wallet: vault `primary`", "`backups` does not exist", "correct `bucket`"]).await;
    moto.bucket("backups", Kind::Plain).await;
    site.edit("lifeboat.yaml", "region: eu-central-1", "region: eu-west-3");
    told(&["`eu-central-1`", "`eu-west-3` is configured", "correct `region`"]).await;
    site.edit("lifeboat.yaml", "region: eu-west-3", "region: eu-central-1");
    site.edit("lifeboat.yaml", "durable: required}", "durable: required, object_lock: {mode: compliance}}");
    told(&["`backups` keeps no versions", "remove `object_lock`"]).await;
    site.edit("lifeboat.yaml", ", object_lock: {mode: compliance}", "");
    std::fs::remove_file(site.path("s3.secret")).unwrap();
    told(&["no credentials for `backups`", "s3.secret", "write `credentials`"]).await;
    // A backup ends the same way, and leaves nothing.
    let ran = site.run(&["backup", "wallet"]).await;
    let verdict = ran.json(1)["verdict"].clone();
    assert_eq!(verdict, serde_json::json!(Verdict::Error), "{ran:?}");
    assert!(ran.stdout.contains("s3.secret"), "{ran:?}");
}

/// Without `credentials` the environment, profiles, container and instance are asked.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_the_environment_where_none_are_written() {
    let moto = Moto::start().await;
    moto.bucket("backups", Kind::Plain).await;
    let lab = wallet("").await;
    let site = site_on(&moto, lab.port, "");
    let text = site.text("lifeboat.yaml");
    let (before, rest) = text.split_once("credentials: {").unwrap();
    let (_, after) = rest.split_once("}}, ").unwrap();
    site.put("lifeboat.yaml", &format!("{before}{after}"));
    let look = |envs: &[(&str, &str)]| {
        let mut command = site.command(&["check", "--connect"]);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", site.path("tmp"));
        for name in ["AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        command.envs(envs.iter().copied());
        finished(command)
    };
    let without = look(&[]).await.json(2);
    super::site::tells(
        without["problems"][0].as_str().unwrap(),
        &["no credentials for `backups`", "neither environment", "write `credentials`"],
    );
    let with = look(&[("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)]).await;
    assert_eq!(with.json(0)["problems"], serde_json::json!([]));
    assert!(!with.stdout.contains(SECRET) && !with.stderr.contains(SECRET), "{with:?}");
}
