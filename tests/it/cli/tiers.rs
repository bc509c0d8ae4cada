//! What a tier promises and asks for, as a daemon tells it while its files are edited.

use serde_json::Value;

use super::{
    reload::{protects, status},
    site::Site,
    streaming::SOON,
};
use crate::support::{Lab, eventually};

/// What is told of a database's tier, in the order of the words.
async fn told(site: &Site, database: &str) -> Vec<String> {
    let status = status(site).await;
    let findings = status["findings"].as_array().cloned().unwrap_or_default();
    let of = |finding: &Value| finding["subject"] == database;
    let messages = findings.iter().filter(|finding| of(finding)).map(|finding| finding["message"].as_str().unwrap());
    let mut told: Vec<String> = messages.filter(|message| message.starts_with("tier `")).map(str::to_owned).collect();
    told.sort();
    told
}

/// Waits until exactly so much is told, each with its words.
async fn tells(site: &Site, database: &str, all: &[&str]) {
    eventually(&format!("{all:?} is told of {database}"), SOON, async || {
        let told = told(site, database).await;
        told.len() == all.len() && all.iter().all(|words| told.iter().any(|told| told.contains(words)))
    })
    .await;
}

async fn promised(site: &Site, database: &str) -> (Value, String) {
    let status = status(site).await;
    let of = status["databases"].as_array().unwrap().iter().find(|of| of["database"] == database).unwrap();
    let span = |key: &str| of["objectives"][key].as_str().unwrap().to_owned();
    (of["tier"].clone(), format!("{} {}", span("rto"), span("rpo")))
}

/// Of two databases on one server that a daemon protects, the ledger gets a tier.
pub(super) async fn are_told(lab: &Lab, site: &Site) {
    let (daemon, schedule) = (site.text("lifeboat.yaml"), site.text("schedules/ledger.yaml"));
    let objectives = "objectives: {rto: 60s, rpo: 15s}\n";
    site.edit("schedules/ledger.yaml", objectives, "tier: active_active\nobjectives: {rpo: 15s}\n");
    let (one_server, no_runbook) = ("there is one server", "none names `ledger`");
    let in_files = [
        "promises RPO 1s, and the file says 15s: change the tier or the objective",
        one_server,
        no_runbook,
        "all vaults are in eu-south-1",
        "`restore_test` is due less often",
    ];
    let commits = "acknowledges commits before the vaults have them";
    tells(site, "ledger", &[&in_files[..], &[commits]].concat()).await;
    assert_eq!(told(site, "wallet").await, [""; 0]);
    assert_eq!(promised(site, "ledger").await, ("active_active".into(), "30s 15s".to_owned()));
    let (_, page) = site.get("/").await.unwrap();
    assert!(page.contains("tier active_active, RTO 30s, RPO 15s"), "{page}");

    // Whoever writes the files is told the same, as far as they say it.
    let checked = site.run(&["check"]).await.json(0);
    let notes: Vec<&str> = checked["findings"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert_eq!(notes.len(), in_files.len(), "{notes:?}");
    for words in in_files {
        assert!(notes.iter().any(|note| note.starts_with("ledger: tier `active_active`") && note.contains(words)));
    }

    // All is mended but what needs another server.
    lab.psql("ALTER SYSTEM SET synchronous_standby_names = 'lifeboat'").await;
    lab.psql("SELECT pg_reload_conf()").await;
    let more = "durable: required}\n  dr: {kind: directory, path: dr, region: eu-central-1, durable: best_effort}";
    site.edit("lifeboat.yaml", "durable: required}", more);
    let mended = site.text("schedules/ledger.yaml").replace("objectives: {rpo: 15s}\n", "");
    let mended = mended.replace("0 5 29 2 *", "0 5 1 * *").replace("vaults: [primary]", "vaults: [primary, dr]");
    site.put("schedules/ledger.yaml", &mended);
    tells(site, "ledger", &[one_server, no_runbook]).await;
    assert_eq!(promised(site, "ledger").await, ("active_active".into(), "30s 1s".to_owned()));
    lab.psql("ALTER SYSTEM RESET synchronous_standby_names").await;
    lab.psql("SELECT pg_reload_conf()").await;

    // Without a tier nothing is asked for.
    site.put("schedules/ledger.yaml", &schedule);
    site.put("lifeboat.yaml", &daemon);
    tells(site, "ledger", &[]).await;
    protects(site, &["ledger", "wallet"]).await;
    assert_eq!(promised(site, "ledger").await, (Value::Null, "1m 15s".to_owned()));
}
