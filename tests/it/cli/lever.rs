//! `lifeboat lever`: shown, turned once, and kept with who did it and why. No
//! server and no daemon is needed for it.

use lifeboat::db::{Db, evidence};
use serde_json::Value;

use super::site::Site;
use crate::support::free_port;

#[tokio::test(flavor = "multi_thread")]
async fn the_lever_shows_who_turned_it_and_stays_as_it_is() {
    let site = Site::write(free_port());
    assert_eq!(site.run(&["lever"]).await.json(0)["on"], false);
    for args in [&["lever", "on"][..], &["lever", "--reason", "a match"], &["lever", "up", "--reason", "a match"]] {
        assert_eq!(site.run(args).await.code, 2, "{args:?}");
    }
    site.run(&["lever", "on", "--reason", "  "]).await.refused(2, &["`reason` is empty"]);
    let on = site.run(&["lever", "on", "--reason", "a match", "--who", "ann"]).await.json(0);
    assert_eq!((&on["on"], &on["who"], &on["reason"]), (&true.into(), &"ann".into(), &"a match".into()));
    let again = site.run(&["lever", "on", "--reason", "another", "--who", "bob"]).await.json(0);
    assert_eq!(again, on, "it stands so already");
    assert_eq!(site.run(&["status"]).await.json(1)["lever"], on);
    assert!(site.shown(&["status"]).await.contains("SAFETY LEVER on since"));
    let off = site.run(&["lever", "off", "--reason", "over"]).await.json(0);
    assert_eq!((&off["on"], &off["reason"]), (&false.into(), &"over".into()));
    assert!(off["who"].is_string(), "the login name: {off}");

    let db = Db::open(&format!("sqlite:{}", site.path("lifeboat.db").display())).await.unwrap();
    let rows = evidence::rows_from(&db, 0).await.unwrap();
    let records: Vec<Value> =
        rows.iter().map(|row| serde_json::from_str::<Value>(&row.entry).unwrap()["record"].take()).collect();
    let told: Vec<&str> = records.iter().map(|record| record["safety"][0]["actual"].as_str().unwrap()).collect();
    assert_eq!(told.len(), 2, "each turn is recorded once: {told:?}");
    assert!(
        told[0] == "on by ann: a match" && told[1].starts_with("off by ") && told[1].ends_with(": over"),
        "{told:?}"
    );
    db.close().await;
    assert_eq!(site.run(&["evidence", "verify"]).await.code, 0);
    let report = site.run(&["report"]).await.json(0);
    assert!(!report["coverage"].to_string().contains("estate"), "the estate is no database: {report}");
}
