//! How fast WAL comes into the vault that a server kept while the daemon was away.

use std::time::Instant;

use super::{
    daemon::{LOOK_EVERY, Site, confirmed, slot},
    estate::Estate,
    table::Figure,
};

/// What the server writes meanwhile, at scale 1.
const BYTES: f64 = 10e9;

pub(crate) async fn measure(estate: &Estate, scale: f64) -> Vec<Figure> {
    let site = Site::new(estate, "catch-up", "{kind: directory, path: vault, region: lab}");
    let daemon = site.serve();
    confirmed(estate, &site, estate.written().await).await;
    daemon.stop().await;
    while slot(estate).await.0 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let from = estate.written().await;
    estate.write_wal(BYTES * scale).await;
    let to = estate.written().await;
    eprintln!("catching up: {} bytes", to.0 - from.0);
    let daemon = site.serve();
    while !slot(estate).await.0 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let begun = Instant::now();
    let mut peak = 0;
    while slot(estate).await.1.is_none_or(|confirmed| confirmed < to) {
        peak = daemon.resident_bytes().max(peak);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    daemon.stop().await;
    let bytes = (to.0 - from.0) as f64;
    std::fs::remove_dir_all(site.folder.join("vault")).unwrap();
    vec![Figure {
        work: "WAL catch-up".to_owned(),
        what: format!("{:.1} GB that the slot kept, into a folder on the same disk", bytes / 1e9),
        measured: format!(
            "{:.0} MB/s, {seconds:.1} s, {:.0} MiB peak memory",
            bytes / 1e6 / seconds,
            peak as f64 / f64::from(1 << 20)
        ),
        goal: "≥ 150 MB/s".to_owned(),
    }]
}
