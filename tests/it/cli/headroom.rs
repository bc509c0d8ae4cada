//! WAL that the primary keeps because the vaults do not take it: how much, how
//! long that lasts, and that it is told while there is time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use sqlx::Connection;
use tokio::sync::Semaphore;

use super::{
    chain::{write_past, written},
    journey::{backed_up, restored},
    site::{DIGEST, Site, wallet},
    slots_of_standbys::pair,
    streaming::{bet, caught_up, findings, status},
    synchronous::connect,
};
use crate::support::{
    Lab, eventually,
    moto::{KEY_ID, Kind, Moto, REGION, SECRET},
    proxy::{Fate, Proxy},
    standby::Standby,
};

const SOON: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// A required vault in a bucket that hangs when it is told to.
struct Hanging {
    hangs: Arc<AtomicBool>,
    released: Arc<Semaphore>,
    _running: (Moto, Proxy),
}

impl Hanging {
    async fn beside(site: &Site) -> Self {
        let moto = Moto::start().await;
        moto.bucket("far-away", Kind::Plain).await;
        let (hangs, released) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(0)));
        let (is_hung, until) = (Arc::clone(&hangs), Arc::clone(&released));
        let proxy = Proxy::start(&moto.endpoint, move |_| {
            if is_hung.load(Ordering::SeqCst) { Fate::Hold(Arc::clone(&until)) } else { Fate::Pass }
        })
        .await;
        site.put_private("s3.secret", SECRET);
        site.add_vault();
        let bucket = format!(
            "{{kind: s3, bucket: far-away, region: {REGION}, endpoint: \"{}\", \
             credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: s3.secret}}}}, durable: required}}",
            proxy.endpoint
        );
        site.edit("lifeboat.yaml", "{kind: directory, path: dr, region: eu-central-1, durable: best_effort}", &bucket);
        Self { hangs, released, _running: (moto, proxy) }
    }

    fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    fn release(&self) {
        self.hangs.store(false, Ordering::SeqCst);
        self.released.add_permits(1000);
    }
}

async fn told(site: &Site, words: &[&str]) {
    eventually(&format!("a finding with {words:?}"), SOON, || async { !findings(site, words).await.is_empty() }).await;
}

async fn closed(site: &Site, words: &[&str]) {
    eventually(&format!("no finding with {words:?}"), SOON, || async { findings(site, words).await.is_empty() }).await;
}

async fn on_primary(site: &Site) -> Value {
    status(site).await["wal_on_primary"].clone()
}

/// What it keeps, once it is known for how long that lasts.
async fn measured(site: &Site) -> Value {
    let last = Mutex::new(Value::Null);
    eventually("the rate is measured", SOON, || async {
        let seen = on_primary(site).await;
        let is_measured = seen["headroom_seconds"].is_f64();
        *last.lock().unwrap() = seen;
        is_measured
    })
    .await;
    last.into_inner().unwrap()
}

/// The values of a metric by its labels, as they are shown.
async fn metric(site: &Site, name: &str) -> BTreeMap<String, String> {
    let text = site.get("/metrics").await.unwrap().1;
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    lines.map(|(labels, value)| (labels.to_owned(), value.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_vault_that_stands_still_is_told_with_how_long_the_slot_lasts() {
    let lab = wallet("max_slot_wal_keep_size = 512MB").await;
    let site = Site::write(lab.port);
    let vault = Hanging::beside(&site).await;
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let seen = measured(&site).await;
    assert_eq!((&seen["slot_state"], &seen["slot_active"]), (&"reserved".into(), &true.into()), "{seen}");
    assert_eq!(seen["slot_limit_bytes"], 512 * MIB, "{seen}");
    // The role may see the folder, and the server is on this machine.
    assert!(seen["folder_bytes"].as_u64().unwrap() >= 16 * MIB && seen["free_bytes"].is_u64(), "{seen}");
    assert_eq!(seen["ends_with"], if seen["free_bytes"].as_u64() < Some(512 * MIB) { "disk" } else { "slot_limit" });
    // What began slowly may have been told for a moment.
    closed(&site, &["piles up"]).await;

    vault.hang();
    bet(&lab, 1000).await;
    told(&site, &["WAL does not reach vault `dr`", "as it is required", "WAL piles up until it is mended"]).await;
    let words = ["WAL piles up on the primary", "slot `lifeboat_wallet`", "nothing was confirmed for", "a second"];
    told(&site, &words).await;
    let [finding] = &findings(&site, &words).await[..] else { panic!("one finding") };
    assert!(finding.contains("; in ") && finding.contains("`max_slot_wal_keep_size`"), "{finding}");
    let seen = measured(&site).await;
    assert!(seen["stands_still_seconds"].as_f64().unwrap() >= 30.0, "{seen}");
    let metrics = site.get("/metrics").await.unwrap().1;
    for metric in ["lifeboat_wal_kept_bytes{database=\"wallet\"}", "lifeboat_wal_headroom_seconds{", "per_second{"] {
        assert!(metrics.contains(metric), "{metric} is not in: {metrics}");
    }
    assert!(site.get("/").await.unwrap().1.contains("on the primary: "));

    vault.release();
    caught_up(&lab, &site).await;
    closed(&site, &["piles up"]).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    // A command without a daemon looks itself.
    let shown = site.shown(&["status"]).await;
    assert!(shown.contains("wallet: WAL on the primary: ") && shown.contains("has room for"), "{shown}");
}

/// The slot is given up by the server while the vault still hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_near_its_limit_is_told_and_one_that_is_invalidated_goes_on_with_a_full_backup() {
    let lab = wallet("max_slot_wal_keep_size = 96MB\nmax_wal_size = 32MB\nmin_wal_size = 32MB").await;
    let standby = Standby::of(&lab).await;
    let site = pair(&lab, &standby);
    let vault = Hanging::beside(&site).await;
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let first = backed_up(&site).await;
    let rows_first = lab.psql_in("wallet", DIGEST).await;
    // A slot that is made later keeps nothing of what was written before.
    eventually("the standby has its slot", SOON, || async {
        status(&site).await["wal_on_standbys"][0]["slot_state"].as_str().is_some_and(|state| state != "missing")
    })
    .await;
    vault.hang();
    write_until(&lab, 90 * MIB).await;
    // It need not stand still for long.
    told(&site, &["WAL piles up on the primary", "is over `max_slot_wal_keep_size`", "are left"]).await;
    // Its standby keeps the same, with a limit of its own, of which it tells nothing itself.
    told(&site, &["member `b` keeps", "slot `lifeboat_wallet`", "`max_slot_wal_keep_size`"]).await;
    // It is told while what was written still arrives there.
    eventually("all of it is kept on the standby", SOON, || async {
        let seen = &status(&site).await["wal_on_standbys"][0];
        assert_eq!((&seen["member"], &seen["slot_limit_bytes"]), (&"b".into(), &(96 * MIB).into()), "{seen}");
        seen["kept_bytes"].as_u64() > Some(60 * MIB) && seen["headroom_bytes"].as_u64() < Some(60 * MIB)
    })
    .await;
    let kept = metric(&site, "lifeboat_wal_standby_kept_bytes").await;
    assert!(kept.iter().any(|(labels, bytes)| labels.contains("member=\"b\"") && bytes != "NaN"), "{kept:?}");
    write_until(&lab, 200 * MIB).await;
    lab.psql("CHECKPOINT").await;
    told(&site, &["invalidated slot `lifeboat_wallet`", "give `max_slot_wal_keep_size` more room"]).await;
    // What was written since is removed, too, and more than what a new slot still finds.
    for _ in 0..2 {
        let now = written(&lab).await;
        write_past(&lab, now).await;
    }
    lab.psql("ALTER SYSTEM RESET max_slot_wal_keep_size").await;
    lab.psql("SELECT pg_reload_conf()").await;

    vault.release();
    eventually("a full backup behind the gap", SOON, || async {
        let windows = &status(&site).await["broken_windows"];
        windows.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["until"].is_string()))
    })
    .await;
    closed(&site, &["slot `lifeboat_wallet`"]).await;
    bet(&lab, 10).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    restored(&lab, &site, "latest", ["--latest"], &rows).await;
    restored(&lab, &site, "first", ["--immediate", "--backup", &first], &rows_first).await;
}

/// Writes WAL until the slot keeps so much, or nothing any more.
async fn write_until(lab: &Lab, bytes: u64) {
    let kept = format!(
        "SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) >= {bytes}, true) FROM pg_replication_slots"
    );
    eventually("the slot keeps WAL", SOON, || async {
        bet(lab, 20_000).await;
        lab.psql(&kept).await == "t"
    })
    .await;
}

/// What the role may not see is not guessed; the schedule may say it.
#[tokio::test(flavor = "multi_thread")]
async fn without_pg_monitor_the_schedule_says_how_much_room_there_is() {
    let lab = wallet("").await;
    lab.psql("REVOKE pg_monitor FROM lifeboat").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let seen = async || site.run(&["status"]).await;
    let seen =
        async || serde_json::from_str::<Value>(&seen().await.stdout).unwrap()["databases"][0]["wal_on_primary"].clone();
    let unknown = seen().await;
    for key in ["folder_bytes", "free_bytes", "slot_limit_bytes", "headroom_bytes", "ends_with"] {
        assert_eq!(unknown[key], Value::Null, "{key}: {unknown}");
    }
    assert_eq!(unknown["slot_active"], false);
    let checked = site.run(&["check", "--connect"]).await.json(0)["findings"].to_string();
    assert!(checked.contains("may not see who streams") && checked.contains("`GRANT pg_monitor TO"), "{checked}");
    let shown = site.shown(&["status"]).await;
    assert!(shown.contains("nobody knows for how much more there is room"), "{shown}");
    site.edit("schedules/wallet.yaml", "flush_every: 1s", "flush_every: 1s, room_on_primary: 2GiB");
    let known = seen().await;
    assert_eq!(known["ends_with"], "room");
    let (kept, left) = (known["kept_bytes"].as_u64().unwrap(), known["headroom_bytes"].as_u64().unwrap());
    assert_eq!(kept + left, 2048 * MIB, "{known}");
    site.edit("schedules/wallet.yaml", "2GiB", "0B");
    let refused = site.shown(&["check", "--files"]).await;
    assert!(refused.contains("`room_on_primary` is zero"), "{refused}");
    lab.cluster.stop("fast").await.unwrap();
    site.edit("schedules/wallet.yaml", "0B", "2GiB");
    assert_eq!(seen().await, Value::Null, "nobody can be asked");
}

/// The server takes connections and does not answer what we ask of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_answers_no_more_is_not_shown_as_it_was() {
    let lab = wallet("max_slot_wal_keep_size = 512MB").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let seen = measured(&site).await;
    let end = seen["ends_with"].as_str().unwrap().to_owned();
    let known = async || {
        let all = metric(&site, "lifeboat_wal_headroom_bytes").await.into_iter();
        let known = all.filter(|(labels, bytes)| labels.contains("database=\"wallet\"") && bytes != "NaN");
        known.map(|(labels, _)| labels).collect::<Vec<String>>()
    };
    let of_end = |known: Vec<String>| matches!(&known[..], [one] if one.contains(&format!("end=\"{end}\"")));
    assert!(of_end(known().await), "{:?}", known().await);

    let mut locking = connect(&lab).await;
    sqlx::raw_sql("BEGIN; LOCK TABLE pg_settings IN ACCESS EXCLUSIVE MODE").execute(&mut locking).await.unwrap();
    eventually("nothing is shown", SOON, || async { on_primary(&site).await.is_null() }).await;
    eventually("nothing is measured", SOON, || async { known().await.is_empty() }).await;
    assert_eq!(metric(&site, "lifeboat_wal_kept_bytes").await["database=\"wallet\""], "NaN");

    locking.close().await.unwrap();
    measured(&site).await;
    eventually("it is measured again", SOON, || async { of_end(known().await) }).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}
