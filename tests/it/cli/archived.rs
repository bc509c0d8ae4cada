//! Backups that the bucket has moved to an archive: asked for at once, waited for, restored
//! and compared row by row. The emulator shows that a copy is asked for and is there after
//! some looks; that it takes hours, and what it costs, it does not show.

use aws_sdk_s3::{Client, types::StorageClass};
use serde_json::{Value, json};

use super::{
    bucket::vault_on,
    journey::{Points, backed_up, lived, restored},
    site::{DIGEST, Site, recovered, wallet},
};
use crate::support::{
    moto::{Kind, Moto},
    proxy::{Fate, Proxy},
};

const ASKS: &str = "?restore";
const DIRECTORY: &str = "{kind: directory, path: vault, region: eu-south-1, durable: required}";

/// What is there after the second look at a copy that was asked for.
async fn slow_archive() -> (Moto, Client) {
    let moto = Moto::start_with(&[("MOTO_THAW_LOOKS", "1")]).await;
    let client = moto.bucket("backups", Kind::Plain).await;
    (moto, client)
}

/// A site whose requests pass the proxy.
fn site_behind(proxy: &Proxy, moto: &Moto, port: u16, more: &str) -> Site {
    let site = Site::write(port);
    site.edit("lifeboat.yaml", DIRECTORY, &vault_on(moto, &site, more));
    site.edit("lifeboat.yaml", &moto.endpoint, &proxy.endpoint);
    site
}

fn is_document(name: &str) -> bool {
    let name = name.strip_suffix(".sig").unwrap_or(name);
    name.ends_with("manifest.json") || name.contains("/proofs/") || name.contains("/verifications/")
}

/// Moves what the database has in the bucket as a lifecycle rule would; answers the names.
async fn moved(client: &Client, is_moved: impl Fn(&str) -> bool) -> Vec<String> {
    let stored = client.list_objects_v2().bucket("backups").prefix("prod/wallet/").send().await.unwrap();
    let names = stored.contents().iter().map(|object| object.key().unwrap().to_owned());
    let names: Vec<String> = names.filter(|name| is_moved(name)).collect();
    for name in &names {
        let copy = client.copy_object().bucket("backups").key(name).copy_source(format!("backups/{name}"));
        copy.storage_class(StorageClass::Glacier).send().await.unwrap();
    }
    names
}

fn waited(told: &Value) -> Option<f64> {
    let phases = told["phases"].as_array().unwrap();
    phases.iter().find(|phase| phase["name"] == "wait_for_archive").map(|phase| phase["seconds"].as_f64().unwrap())
}

async fn brought_back(site: &Site, name: &str, target: &[&str]) -> (std::path::PathBuf, Value) {
    let data = site.path(name);
    let args = [&["restore", "wallet", "--to", data.to_str().unwrap()][..], target].concat();
    let told = site.run(&args).await.json(0);
    (data, told)
}

/// Where in what was asked of the store the requests stand that hold this.
fn places(proxy: &Proxy, from: usize, holds: impl Fn(&str) -> bool) -> Vec<usize> {
    let seen = proxy.seen.lock().unwrap();
    seen.iter().enumerate().skip(from).filter(|(_, head)| holds(head)).map(|(at, _)| at).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_an_archive_is_asked_for_at_once_and_comes_back() {
    let (moto, client) = slow_archive().await;
    let proxy = Proxy::start(&moto.endpoint, |_| Fate::Pass).await;
    let lab = wallet("").await;
    let site = site_behind(&proxy, &moto, lab.port, "");
    let first = backed_up(&site).await;
    let Points { first_backup, at_first_backup, latest, .. } = lived(&lab, &site, first).await;
    lab.cluster.stop("fast").await.unwrap();
    let frozen = moved(&client, |name| !is_document(name)).await;
    assert!(frozen.len() > 10, "{frozen:?}");

    // The primary is gone, and what a restore waits for is told.
    let looked = site.run(&["check", "--connect"]).await.json(2)["findings"].to_string();
    assert!(
        looked.contains("a restore of the newest state asks for ")
            && looked.contains(" in GLACIER, which takes up to 5h"),
        "{looked}"
    );

    // Who verifies asks for nothing, and finds nothing sound that was not read.
    let verified = site.run(&["vault", "verify", "wallet", "--full"]).await.json(3);
    assert_eq!(verified["verdict"], "INCONCLUSIVE", "{verified}");
    assert_eq!(verified["reports"][0]["defects"], json!([]), "{verified}");
    assert!(
        verified["reports"][0]["unchecked"].to_string().contains("lie in GLACIER: archived, not read"),
        "{verified}"
    );
    assert_eq!(proxy.count(ASKS), 0);

    let begun = proxy.seen.lock().unwrap().len();
    let (data, told) = brought_back(&site, "restored", &["--latest"]).await;
    assert_eq!(recovered(&lab, &data, DIGEST).await, latest);
    assert!(waited(&told).is_some_and(|seconds| seconds > 0.0), "{told}");
    let asked = places(&proxy, begun, |head| head.contains(ASKS));
    let read = places(&proxy, begun, |head| head.starts_with("GET ") && frozen.iter().any(|name| head.contains(name)));
    assert!(!asked.is_empty() && asked.last() < read.first(), "all is asked for first: {asked:?} {read:?}");
    let mut heads: Vec<String> =
        asked.iter().map(|at| proxy.seen.lock().unwrap()[*at].lines().next().unwrap().to_owned()).collect();
    heads.sort();
    heads.dedup();
    assert_eq!(heads.len(), asked.len(), "each once");

    // What can be read for a while is not asked for again.
    let (data, told) = brought_back(&site, "again", &["--latest"]).await;
    assert_eq!(recovered(&lab, &data, DIGEST).await, latest);
    assert_eq!((waited(&told), proxy.count(ASKS)), (None, asked.len()), "{told}");

    // The manifests too: until they can be read nobody knows which backups there are.
    let (before, all) = (proxy.count(ASKS), moved(&client, |name| !frozen.contains(&name.to_owned())).await);
    assert!(all.iter().any(|name| name.ends_with("manifest.json")), "{all:?}");
    restored(&lab, &site, "first", ["--immediate", "--backup", &first_backup], &at_first_backup).await;
    assert!(proxy.count(ASKS) > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_vault_that_answers_at_once_spares_the_wait() {
    let (moto, client) = slow_archive().await;
    let proxy = Proxy::start(&moto.endpoint, |_| Fate::Pass).await;
    let lab = wallet("").await;
    let site = site_behind(&proxy, &moto, lab.port, "");
    site.add_vault();
    backed_up(&site).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    moved(&client, |name| !is_document(name)).await;
    let (data, told) = brought_back(&site, "restored", &["--immediate"]).await;
    assert_eq!(recovered(&lab, &data, DIGEST).await, rows);
    assert_eq!((waited(&told), proxy.count(ASKS)), (None, 0), "{told}");
}

/// A copy that never comes is one sentence, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_does_not_wait_for_ever() {
    let (moto, client) = slow_archive().await;
    let proxy = Proxy::start(&moto.endpoint, |head| {
        let is_looked_at = head.starts_with("HEAD ") && head.contains("/data/");
        let coming = "HTTP/1.1 200 OK\r\nx-amz-storage-class: GLACIER\r\nx-amz-restore: ongoing-request=\"true\"\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
        if is_looked_at { Fate::Answer(coming.to_owned()) } else { Fate::Pass }
    })
    .await;
    let lab = wallet("").await;
    let site = site_behind(&proxy, &moto, lab.port, ", archive: {limit: 2s, keep: 1d}");
    backed_up(&site).await;
    moved(&client, |name| name.contains("/data/")).await;
    let to = site.path("late");
    let ran = site.run(&["restore", "wallet", "--to", to.to_str().unwrap(), "--immediate"]).await;
    ran.refused(1, &["still lie in the archive of vault `primary` after 2s", "for 1 day(s)", "raise `archive.limit`"]);
    assert!(!to.exists());
}
