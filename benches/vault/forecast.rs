//! How near the forecast comes: three restore tests while the data grows, then what a
//! restore would take by them beside what the next test measures.

use lifeboat::domain::Lsn;

use super::{
    daemon::{Site, confirmed},
    estate::{Estate, PEERS_MAJOR},
    table::Figure,
};

/// Tests before the first forecast that counts, and those that it is held against.
const BEFORE: usize = 3;
const AFTER: usize = 3;
/// How much the data grows between two tests, of what there was at the start; and how
/// much WAL is written behind each backup, at scale 1.
const GROWTH: f64 = 0.35;
const WAL: f64 = 1.2e9;
/// The cluster is this much of the other sections'.
const OF_SCALE: f64 = 0.3;
const GOAL_PERCENT: f64 = 25.0;

pub(crate) async fn measure(scale: f64) -> Vec<Figure> {
    let scale = scale * OF_SCALE;
    let estate = Estate::with_bets(PEERS_MAJOR, scale).await;
    let site = Site::new(&estate, "forecast", "{kind: directory, path: vault, region: lab}");
    let daemon = site.serve();
    let mut figures = Vec::new();
    for nth in 0..BEFORE + AFTER {
        if nth > 0 {
            grow(&estate, scale * GROWTH).await;
        }
        confirmed(&estate, &site, estate.written().await).await;
        site.run(&["backup", "wallet"]).await;
        // Each time another amount is left to be replayed.
        estate.write_wal(WAL * scale / OF_SCALE * (1.0 + (nth % 3) as f64) / 3.0).await;
        let end: Lsn = estate.written().await;
        confirmed(&estate, &site, end).await;
        let forecast = site.run(&["report", "--format", "json"]).await["subjects"][0]["forecast"].clone();
        let test = site.run(&["restore-test", "wallet"]).await;
        let measured = test["restore_seconds"].as_f64().unwrap();
        eprintln!("test {nth}: forecast {forecast}, measured {measured}");
        if nth < BEFORE {
            continue;
        }
        let told = forecast["seconds"].as_f64().unwrap();
        let bytes = |name: &str| forecast[name].as_f64().unwrap() / 1e9;
        figures.push(Figure {
            work: "forecast of a restore".to_owned(),
            what: format!(
                "after {nth} tests of a growing cluster: {:.1} GB and {:.1} GB of WAL",
                bytes("chain_bytes"),
                bytes("wal_bytes")
            ),
            measured: format!("{told:.1} s, measured {measured:.1} s: {:+.0} %", (told / measured - 1.0) * 100.0),
            goal: format!("within {GOAL_PERCENT:.0} %"),
        });
    }
    daemon.stop().await;
    estate.end().await;
    figures
}

/// More bets of the same kind.
async fn grow(estate: &Estate, scale: f64) {
    let rows = (6_000_000.0 * scale).ceil();
    estate
        .psql(&format!(
            "INSERT INTO bets SELECT gen_random_uuid(), (random() * 1000)::numeric(12,2), now(), slip
             FROM bets LIMIT {rows}"
        ))
        .await;
    estate.psql("CHECKPOINT").await;
}
