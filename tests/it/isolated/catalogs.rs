//! What a copy of the newest version tells of its collations and indexes. Version 15
//! and what is planted there: `cli::planted`.

use lifeboat::{
    decide::{collation, indexes},
    domain::{RecoveryTarget, Verdict},
};

use super::copy::Copy;
use crate::support::Lab;

#[tokio::test]
async fn the_newest_version_tells_its_collations_and_a_missing_amcheck_is_no_pass() {
    let builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
    let lab = Lab::start_with(18, &builtin, "").await;
    lab.psql("create table bytes (name text collate \"POSIX\" primary key)").await;
    let copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    let instance = copy.recover(RecoveryTarget::Immediate).await.unwrap();
    let collations = instance.collations().await.unwrap();
    assert!(collations.iter().any(|collation| collation.recorded.is_some()), "{collations:?}");
    assert!(collations.iter().any(|collation| collation.name.is_some() && collation.is_fixed), "{collations:?}");
    let check = collation::judge(&collations);
    assert_eq!(check.verdict, Verdict::Pass, "{check:?}");

    // As PostgreSQL of this version reads the files of the backup, and asks its catalogs.
    let parts = instance.parts(&["work_mem".to_owned()].into()).await.unwrap();
    assert_eq!(parts.unseen, Vec::<String>::new());
    for (name, value) in [("server major version", "18"), ("setting work_mem", "4096"), ("setting fsync", "off")] {
        assert_eq!(parts.parts.get(name).map(String::as_str), Some(value), "{name}: {parts:?}");
    }
    let answer = instance.witness("postgres", "values (1), (2)").await.unwrap();
    assert_eq!(answer, instance.witness("postgres", "values (2), (1)").await.unwrap(), "in any order");
    assert_eq!(answer.rows, 2);

    let check = indexes::judge(&instance.indexes().await.unwrap());
    let installed = lab.psql("select count(*) from pg_available_extensions where name = 'amcheck'").await;
    let (verdict, told) = match installed.as_str() {
        "0" => (Verdict::Inconclusive, "amcheck is not installed; install the server's contrib package"),
        _ => (Verdict::Pass, "agree"),
    };
    assert!(check.verdict == verdict && check.actual.contains(told), "{check:?}");
    instance.stop().await.unwrap();
}
