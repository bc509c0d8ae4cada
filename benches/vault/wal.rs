//! How fast WAL is fetched, and how fast a copy replays while it is fetched
//! ahead, beside a copy that has all of it on its disk.

use std::time::{Duration, Instant};

use lifeboat::{domain::Lsn, engine::postgres::cluster::LocalCluster};

use super::{
    ROUNDS,
    daemon::{LOOK_EVERY, Site, confirmed},
    estate::Estate,
    measure::median,
    table::Figure,
};

/// What is replayed, at scale 1.
const BYTES: f64 = 4e9;
const LIMIT: Duration = Duration::from_secs(3600);

pub(crate) async fn measure(estate: &Estate, scale: f64) -> Vec<Figure> {
    let site = Site::new(estate, "replay", "{kind: directory, path: vault, region: lab}");
    let daemon = site.serve();
    confirmed(estate, &site, estate.written().await).await;
    daemon.stop().await;
    let backup = site.run(&["backup", "wallet"]).await;
    let from: Lsn = backup["start_lsn"].as_str().unwrap().parse().unwrap();
    let daemon = site.serve();
    estate.write_wal(BYTES * scale).await;
    let to = estate.written().await;
    confirmed(estate, &site, to).await;
    daemon.stop().await;
    let bytes = (to.0 - from.0) as f64;
    let (mut fetched, mut local, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (fetching, replaying) = all_local(estate, &site).await;
        let beside = fetched_ahead(&site).await;
        eprintln!("round {round}: fetched in {fetching:.1} s, replayed in {replaying:.1} s; ahead {beside:.1} s");
        fetched.push(fetching);
        local.push(replaying);
        ahead.push(beside);
    }
    let what = format!("{:.1} GB of WAL from a folder on the same disk", bytes / 1e9);
    let rate = |seconds: f64| format!("{:.0} MB/s", bytes / 1e6 / seconds);
    let (fetched, local, ahead) = (median(fetched), median(local), median(ahead));
    let row = |work: &str, seconds: f64, more: String, goal: &str| Figure {
        work: work.to_owned(),
        what: what.clone(),
        measured: format!("{}, {seconds:.1} s{more}", rate(seconds)),
        goal: goal.to_owned(),
    };
    vec![
        row("WAL fetched for `restore --to`", fetched, String::new(), ""),
        row("replay, all WAL local", local, String::new(), ""),
        row(
            "replay, WAL fetched meanwhile",
            ahead,
            format!(", {:.2}× the speed with all WAL local", local / ahead),
            "≥ 0.95×",
        ),
    ]
}

/// Seconds in which WAL was fetched, and in which the server then replayed it.
async fn all_local(estate: &Estate, site: &Site) -> (f64, f64) {
    let folder = estate.folder("copy");
    let target = folder.join("data");
    let restored = site.run(&["restore", "wallet", "--latest", "--to", target.to_str().unwrap()]).await;
    let copy = LocalCluster::new(estate.cluster.binaries.clone(), estate.cluster.account.clone(), &folder);
    copy.make_folders().unwrap();
    let socket = copy.socket_folder();
    copy.configure(&format!("port = 5432\nlisten_addresses = ''\nunix_socket_directories = '{}'\n", socket.display()))
        .unwrap();
    let begun = Instant::now();
    copy.start(LIMIT).await.unwrap();
    // The server counts as started while it still recovers.
    let answers = || estate.program("psql").args(["-X", "-c", "SELECT 1"]).env("PGHOST", socket.to_str().unwrap());
    while answers().env("PGPORT", "5432").output(LIMIT).await.is_err() {
        assert!(copy.is_running(), "{}", std::fs::read_to_string(copy.log()).unwrap());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    copy.stop("immediate").await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    (phase(&restored, "fetch_wal"), seconds)
}

/// Seconds in which the copy of a restore test recovered.
async fn fetched_ahead(site: &Site) -> f64 {
    phase(&site.run(&["restore-test", "wallet", "--latest"]).await, "recover")
}

fn phase(document: &serde_json::Value, name: &str) -> f64 {
    let phases = document["phases"].as_array().unwrap();
    phases.iter().find(|phase| phase["name"] == name).unwrap()["seconds"].as_f64().unwrap()
}
