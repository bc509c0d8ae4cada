//! A restore test that has too little of memory, disk or time: it is ended, says so with
//! the remedy, leaves nothing, and says nothing of the backup.

use std::fs;

use serde_json::Value;

use super::{
    journey::backed_up,
    site::{Site, finished, wallet},
};

const SCHEDULE: &str = "schedules/wallet.yaml";
const CHECKS: &str = "  checks:\n";

/// A test with these lines in its schedule.
async fn tested(site: &Site, lines: &str, code: i32) -> Value {
    site.edit(SCHEDULE, CHECKS, &format!("{lines}{CHECKS}"));
    let test = finished(site.command(&["restore-test", "wallet", "--latest"])).await.json(code);
    site.edit(SCHEDULE, &format!("{lines}{CHECKS}"), CHECKS);
    let left: Vec<_> = fs::read_dir(site.path("scratch")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}: {test}");
    test
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_needs_more_than_it_may_use_is_inconclusive_and_leaves_nothing() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let backup = backed_up(&site).await;
    for (limits, told) in [
        ("memory: 48MiB", ["within 48MiB of memory", "raise `restore_test.target.memory`"]),
        ("disk: 1MiB", ["needs at least", "`restore_test.target.disk`"]),
    ] {
        let test = tested(&site, &format!("  target: {{kind: local, {limits}}}\n"), 3).await;
        assert_eq!(test["verdict"], "INCONCLUSIVE", "{limits}: {test}");
        let findings = test["findings"].to_string();
        assert!(told.iter().all(|words| findings.contains(words)), "{limits}: {test}");
        let shown = site.run(&["evidence", "show", test["run_id"].as_str().unwrap()]).await.json(0).to_string();
        assert!(shown.contains(r#""resources":"INCONCLUSIVE""#) && shown.contains(r#""clean_up":"PASS""#), "{shown}");
    }
    // What to do is a finding, which says nothing of the backup.
    let open = site.run(&["findings"]).await.stdout;
    assert!(open.contains("the last restore test could not be made: the restore needs at least"), "{open}");
    assert!(!open.contains("the last restore test ended"), "{open}");

    // There is room for the copy, and not for what a check makes of it.
    let fill = "    - {sql: \"create table filled as select repeat('x', 1000) from generate_series(1, 6000000)\", dbname: wallet, zero_rows: true}\n";
    site.edit(SCHEDULE, "    - heartbeat\n", fill);
    let test = tested(&site, "  target: {kind: local, disk: 300MiB}\n", 3).await;
    let findings = test["findings"].to_string();
    assert!(findings.contains("may take 300MiB; raise `restore_test.target.disk`"), "{test}");
    assert_eq!(test["verdict"], "INCONCLUSIVE", "{test}");
    site.edit(SCHEDULE, fill, "");

    let test = tested(&site, "  limit: 1ms\n", 1).await;
    assert!(test["findings"].to_string().contains("did not reach its target within 1ms"), "{test}");

    let target = "  target: {kind: local, memory: 512MiB, disk: 2GiB}\n";
    let test = tested(&site, target, 0).await;
    let shown = site.run(&["evidence", "show", test["run_id"].as_str().unwrap()]).await.json(0).to_string();
    for words in
        ["512MiB of address space for each process of the server, not for all", "disk: 2GiB, asked", "time: 1h"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let backups = site.run(&["backups", "wallet"]).await.json(0).to_string();
    assert!(backups.contains("PROVEN") && backups.contains(&backup), "{backups}");
    let open = site.run(&["findings"]).await.stdout;
    assert!(!open.contains("the last restore test"), "a test that passes closes them: {open}");
}
