//! Secrets in a `HashiCorp` Vault: a real server that speaks as one, both versions of its
//! stores, everything that can be wrong with it, and logins that are leased.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    reload::protects,
    site::{PASSWORD, Site, tells, walk, wallet},
    streaming::{SOON, caught_up},
};
use crate::support::{Lab, eventually, openbao::OpenBao};

const READ_ALL: &str = "path \"kv/data/*\" { capabilities = [\"read\"] }\npath \"old/*\" { capabilities = [\"read\"] }";

/// Has the site know the server, which lets it in as `how` says.
fn know(site: &Site, bao: &OpenBao, how: &str) {
    let (address, ca_file) = (&bao.address, bao.ca_file.display());
    let stores = format!("secret_stores:\n  vault: {{address: \"{address}\", ca_file: {ca_file}, {how}}}\napi:");
    site.edit("lifeboat.yaml", "api:", &stores);
}

/// `check` finds exactly one problem, which holds all of `words`.
async fn lacks(site: &Site, words: &[&str]) {
    let ran = site.run(&["check"]).await;
    let checked = ran.json(2);
    let problems = checked["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{checked}");
    tells(problems[0].as_str().unwrap(), words);
    assert!(!ran.stderr.contains(PASSWORD), "{ran:?}");
}

async fn is_all_right(site: &Site) {
    let checked = site.run(&["check"]).await.json(0);
    assert_eq!(checked["problems"], json!([]), "{checked}");
}

#[tokio::test]
async fn both_versions_of_its_stores_are_read_and_what_is_wrong_is_told() {
    let bao = OpenBao::start().await;
    bao.mount_stores().await;
    let site = Site::write(1);
    let token = bao.token(READ_ALL).await;
    site.put_private("vault.token", &token);
    know(&site, &bao, "token: {file: vault.token}");
    let identity = site.text("identity.age");
    bao.api("POST", "kv/data/lifeboat/keys", json!({"data": {"identity": identity, "port": 1}})).await;
    bao.api("POST", "old/wallet", json!({"password": PASSWORD})).await;
    site.edit("lifeboat.yaml", "identity: {file: identity.age}", "identity: {vault: kv/lifeboat/keys, key: identity}");
    site.edit("schedules/wallet.yaml", "{file: wallet.password}", "{vault: old/wallet, key: password}");
    is_all_right(&site).await;
    // As the API has it.
    site.edit("lifeboat.yaml", "vault: kv/lifeboat", "vault: kv/data/lifeboat");
    is_all_right(&site).await;

    let wrong = async |file: &str, from: &str, to: &str, words: &[&str]| {
        site.edit(file, from, to);
        lacks(&site, words).await;
        site.edit(file, to, from);
    };
    let (daemon, schedule) = ("lifeboat.yaml", "schedules/wallet.yaml");
    wrong(daemon, "key: identity}", "key: identiti}", &["keys.identity", "no field `identiti`", "`identity`, `port`"])
        .await;
    wrong(
        daemon,
        "kv/data/lifeboat",
        "kv/nowhere",
        &["keys.identity", "nothing at `kv/data/nowhere/keys`", "correct the path"],
    )
    .await;
    wrong(
        schedule,
        "old/wallet",
        "old/data/wallet",
        &["`wallet`", "`old/data/wallet`", "version 1", "without `data/`"],
    )
    .await;
    wrong(schedule, "old/wallet", "nowhere/wallet", &["`wallet`", "`nowhere/wallet`", "capabilities = [\"read\"]"])
        .await;

    bao.token("path \"kv/data/*\" { capabilities = [\"read\"] }\npath \"old/other\" { capabilities = [\"read\"] }")
        .await;
    lacks(&site, &["`wallet`", "does not let this node's token", "path \"old/", "policy"]).await;
    bao.token(READ_ALL).await;
    is_all_right(&site).await;

    bao.api("PUT", "sys/seal", json!({})).await;
    let sealed = site.run(&["check"]).await.json(2);
    let problems: Vec<&str> =
        sealed["problems"].as_array().unwrap().iter().map(|told| told.as_str().unwrap()).collect();
    assert!(problems.len() == 2 && problems.iter().all(|told| told.contains("is sealed; unseal it")), "{sealed}");
    bao.unseal().await;
    is_all_right(&site).await;

    bao.api("POST", "auth/token/revoke", json!({"token": token})).await;
    let ran = site.run(&["check"]).await;
    assert!(ran.json(2)["problems"][0].as_str().unwrap().contains("does not know this node's token"), "{ran:?}");
    assert!(!format!("{ran:?}").contains(&token), "{ran:?}");
}

#[tokio::test]
async fn a_role_is_let_in_and_gives_its_token_back() {
    let bao = OpenBao::start().await;
    bao.mount_stores().await;
    let site = Site::write(1);
    let role = bao.approle(READ_ALL, "1h").await;
    site.put_private("secret-id", &role.secret_id);
    know(&site, &bao, &format!("approle: {{role_id: {}, secret_id: {{file: secret-id}}}}", role.role_id));
    bao.api("POST", "old/wallet", json!({"password": PASSWORD})).await;
    site.edit("schedules/wallet.yaml", "{file: wallet.password}", "{vault: old/wallet, key: password}");
    let accessors = async || {
        let list = bao.api("LIST", "auth/token/accessors", json!({})).await;
        list["data"]["keys"].as_array().unwrap().len()
    };
    let before = accessors().await;
    is_all_right(&site).await;
    assert_eq!(accessors().await, before, "a token is left");
    let told = site.run(&["--verbose", "check"]).await;
    let line = told.stderr.lines().find(|line| line.contains("read a secret") && line.contains("old/wallet")).unwrap();
    assert!(line.contains("purpose=\"the login to `wallet`\"") && line.contains("INFO"), "{line}");
    assert!(!format!("{told:?}").contains(PASSWORD) && !format!("{told:?}").contains(&role.secret_id), "{told:?}");
    site.put_private("secret-id", "00000000-0000-0000-0000-000000000000");
    lacks(&site, &["`wallet`", "refused the role at auth/approle", "new secret ID"]).await;
    site.put_private("secret-id", "");
    lacks(&site, &["`wallet`", "what lets this node in", "secret-id", "is empty"]).await;
}

/// Lets members of `lifeboat` in, and who makes them.
async fn let_members_in(lab: &Lab) {
    lab.psql(&format!("CREATE ROLE maker SUPERUSER LOGIN PASSWORD '{PASSWORD}'")).await;
    let hba = "local all postgres trust\nlocal replication postgres trust\n\
               host all maker,+lifeboat 127.0.0.0/8 scram-sha-256\n\
               host replication +lifeboat 127.0.0.0/8 scram-sha-256\n";
    std::fs::write(lab.cluster.data().join("pg_hba.conf"), hba).unwrap();
    lab.psql("SELECT pg_reload_conf()").await;
}

const LEASED: &str = "user: {vault: database/creds/lifeboat, key: username}, member_of: lifeboat, \
                      password: {vault: database/creds/lifeboat, key: password}";

/// A site that logs in with leases of this length.
async fn leased(lab: &Lab, bao: &OpenBao, ttls: (&str, &str)) -> Site {
    let_members_in(lab).await;
    bao.lease_logins(lab, ("maker", PASSWORD), ttls).await;
    let role = bao.approle("path \"database/creds/lifeboat\" { capabilities = [\"read\"] }", "9s").await;
    let site = Site::write(lab.port);
    site.put_private("secret-id", &role.secret_id);
    know(&site, bao, &format!("approle: {{role_id: {}, secret_id: {{file: secret-id}}}}", role.role_id));
    site.edit("schedules/wallet.yaml", "user: lifeboat, password: {file: wallet.password}", LEASED);
    std::fs::remove_file(site.path("wallet.password")).unwrap();
    site
}

/// The roles that were made, of those that are connected or of all.
async fn made(lab: &Lab, from: &str, column: &str) -> Vec<String> {
    let sql = format!("SELECT DISTINCT {column} FROM {from} WHERE {column} LIKE 'v-%' ORDER BY 1");
    lab.psql(&sql).await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_leased_login_is_kept_alive_and_given_back() {
    let (lab, bao) = tokio::join!(wallet(""), OpenBao::start());
    let site = leased(&lab, &bao, ("9s", "1h")).await;
    let mut daemon = site.serve(&["-vv"]);
    protects(&site, &["wallet"]).await;
    let first = made(&lab, "pg_stat_activity", "usename").await;
    assert_eq!(first.len(), 1, "heartbeats and WAL share a lease: {first:?}");
    // Several times as long as it was granted for: a role whose time is over is dropped.
    let renewed = async || site.text("log").matches("renewed a lease lease=\"database/creds").count() >= 3;
    eventually("the lease is renewed", SOON, renewed).await;
    assert_eq!(made(&lab, "pg_stat_activity", "usename").await, first);
    lab.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'v-%'").await;
    caught_up(&lab, &site).await;
    protects(&site, &["wallet"]).await;
    assert_eq!(made(&lab, "pg_stat_activity", "usename").await, first, "the lease went on");
    assert_eq!(bao.leases().await, 1);

    kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", site.text("log"));
    let is_gone = async || made(&lab, "pg_roles", "rolname").await.is_empty() && bao.leases().await == 0;
    eventually("its role is dropped", Duration::from_secs(10), is_gone).await;
    no_secret_is_told(&site, &[PASSWORD, &site.text("secret-id")]);
}

#[tokio::test]
async fn a_lease_that_can_be_renewed_no_longer_makes_way_for_another() {
    let (lab, bao) = tokio::join!(wallet(""), OpenBao::start());
    let site = leased(&lab, &bao, ("3s", "8s")).await;
    let mut daemon = site.serve(&["-vv"]);
    protects(&site, &["wallet"]).await;
    let first = made(&lab, "pg_stat_activity", "usename").await;
    let beats = async || lab.psql_in("wallet", "SELECT max(seq) FROM lifeboat.heartbeat").await.parse::<u64>().unwrap();
    let turned = async || {
        let now = made(&lab, "pg_roles", "rolname").await;
        !now.is_empty() && now.iter().all(|role| !first.contains(role))
    };
    eventually("the first role is gone and another is there", SOON, turned).await;
    let before = beats().await;
    eventually("heartbeats go on", SOON, async || beats().await > before + 3).await;
    caught_up(&lab, &site).await;
    protects(&site, &["wallet"]).await;

    kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", site.text("log"));
}

/// A password that changes at the source, and at the server, while the daemon runs.
#[tokio::test]
async fn a_rotated_password_is_found_without_a_restart() {
    let (lab, bao) = tokio::join!(wallet(""), OpenBao::start());
    bao.mount_stores().await;
    let site = Site::write(lab.port);
    site.put_private("vault.token", &bao.token(READ_ALL).await);
    know(&site, &bao, "token: {file: vault.token}");
    bao.api("POST", "kv/data/wallet", json!({"data": {"password": PASSWORD}})).await;
    site.edit("schedules/wallet.yaml", "{file: wallet.password}", "{vault: kv/wallet, key: password}");
    let mut daemon = site.serve(&["-vv"]);
    protects(&site, &["wallet"]).await;
    let rotated = format!("{PASSWORD}-rotated");
    lab.psql(&format!("ALTER ROLE lifeboat PASSWORD '{rotated}'")).await;
    bao.api("POST", "kv/data/wallet", json!({"data": {"password": rotated}})).await;
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'lifeboat'";
    lab.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'lifeboat'").await;
    eventually("it logs in again", SOON, async || lab.psql(connected).await != "0").await;
    caught_up(&lab, &site).await;
    protects(&site, &["wallet"]).await;
    let log = site.text("log");
    for version in ["version=\"1\"", "version=\"2\""] {
        let reads = log.lines().filter(|line| line.contains("read a secret") && line.contains("kv/wallet"));
        assert!(reads.clone().any(|line| line.contains(version)), "{version}: {log}");
    }
    kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
    no_secret_is_told(&site, &[PASSWORD, &site.text("vault.token")]);
}

/// None of these stands anywhere but in the operator's own files.
fn no_secret_is_told(site: &Site, secrets: &[&str]) {
    assert!(site.text("log").contains("DEBUG"), "the log tells all it can");
    let own = ["wallet.password", "vault.token", "secret-id"].map(|name| site.path(name));
    for path in walk(&site.path("")).into_iter().filter(|path| !own.contains(path)) {
        let content = std::fs::read(&path).unwrap();
        for secret in secrets {
            let is_found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_found, "{} holds a secret", path.display());
        }
    }
}
