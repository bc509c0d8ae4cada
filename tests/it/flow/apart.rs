//! The evidence of a SQLite state is in a file of its own; what an older version
//! kept beside the runs moves there, once, wherever it is interrupted.

use std::os::unix::fs::PermissionsExt as _;

use lifeboat::db::{
    Db, DbError,
    evidence::{self, Row},
    evidence_file, runs,
};

use super::state::State;

/// The table as older versions made it in the file of the runs.
const OLD_TABLE: &str =
    "CREATE TABLE evidence (idx BIGINT PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, entry TEXT NOT NULL,
    leaf_hash TEXT NOT NULL, signature TEXT NOT NULL)";

/// More than are moved at a time.
const ENTRIES: u64 = 1203;

fn row(index: u64) -> Row {
    let text = |what: &str| format!("{what} {index} ž\n");
    Row { index, run_id: text("run"), entry: text("entry"), leaf_hash: text("hash"), signature: text("signature") }
}

async fn insert(pool: &sqlx::SqlitePool, rows: impl Iterator<Item = Row>) {
    let mut transaction = pool.begin().await.unwrap();
    for row in rows {
        sqlx::query("INSERT INTO evidence (idx, run_id, entry, leaf_hash, signature) VALUES ($1, $2, $3, $4, $5)")
            .bind(i64::try_from(row.index).unwrap())
            .bind(&row.run_id)
            .bind(&row.entry)
            .bind(&row.leaf_hash)
            .bind(&row.signature)
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
}

/// A state as an older version left it, of which `copied` entries were moved already.
async fn older(copied: u64) -> State {
    let state = State::sqlite();
    let db = state.db().await;
    let Db::Sqlite { state: file, evidence } = &db else { panic!("this is SQLite") };
    sqlx::query(OLD_TABLE).execute(file).await.unwrap();
    insert(file, (0..ENTRIES).map(row)).await;
    insert(evidence, (0..copied).map(row)).await;
    db.close().await;
    state
}

async fn is_in_the_file_of_runs(db: &Db) -> bool {
    let Db::Sqlite { state, .. } = db else { panic!("this is SQLite") };
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = 'evidence'")
        .fetch_one(state)
        .await
        .unwrap();
    count > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_moves_out_whole_wherever_it_was_interrupted() {
    for copied in [0, 1, 700, ENTRIES] {
        let state = older(copied).await;
        // As a daemon and commands that start together.
        let opened = futures::future::join_all((0..4).map(|_| Db::open(&state.url))).await;
        for db in opened {
            let db = db.unwrap();
            assert_eq!(evidence::rows_from(&db, 0).await.unwrap(), (0..ENTRIES).map(row).collect::<Vec<_>>());
            assert!(!is_in_the_file_of_runs(&db).await);
            db.close().await;
        }
        let file = state.folder.path().join("state.db");
        for file in [evidence_file(&file), file] {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        }
    }
}

#[tokio::test]
async fn another_log_in_the_other_file_is_refused_and_nothing_is_lost() {
    let state = older(0).await;
    let other = evidence_file(&state.folder.path().join("state.db"));
    let pool = sqlx::SqlitePool::connect(&format!("sqlite:{}", other.display())).await.unwrap();
    insert(&pool, std::iter::once(Row { entry: "forged".to_owned(), ..row(5) })).await;
    let refused = Db::open(&state.url).await.unwrap_err();
    assert!(matches!(&refused, DbError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains("both hold entries, and not the same"), "{refused}");
    sqlx::query("DELETE FROM evidence").execute(&pool).await.unwrap();
    pool.close().await;
    assert_eq!(evidence::rows_from(&state.db().await, 0).await.unwrap().len() as u64, ENTRIES);
}

/// What spoils or loses the file of the runs does not take the evidence along.
#[tokio::test]
async fn evidence_outlives_the_runs() {
    let state = older(0).await;
    let file = state.folder.path().join("state.db");
    state.db().await.close().await;
    std::fs::write(&file, vec![0x5a; 40_000]).unwrap();
    assert!(Db::open(&state.url).await.is_err(), "a spoilt file is not taken for a new one");
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        if let Err(error) = std::fs::remove_file(state.folder.path().join(file)) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
    let db = state.db().await;
    assert_eq!(evidence::rows_from(&db, 0).await.unwrap().len() as u64, ENTRIES);
    assert!(runs::list(&db, 10).await.unwrap().is_empty());
}
