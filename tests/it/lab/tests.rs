//! What the lab itself does, through Amazon's own client.

mod aurora;
mod faulty;
mod regions;
mod rows;

use aws_sdk_rds::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use jiff::Timestamp;
use sqlx::Row;

use super::{LIMIT, RdsLab};
use crate::support::eventually;

/// The code of the error that Amazon answered; empty where there was none.
fn code<T, E: ProvideErrorMetadata, R>(answer: Result<T, SdkError<E, R>>) -> String {
    answer.err().and_then(|error| error.code().map(str::to_owned)).unwrap_or_default()
}

fn instant(time: &aws_sdk_rds::primitives::DateTime) -> Timestamp {
    Timestamp::from_nanosecond(time.as_nanos()).unwrap()
}

/// Status of an instance; none where there is none.
async fn status(client: &Client, id: &str) -> Option<String> {
    let answer = client.describe_db_instances().db_instance_identifier(id).send().await;
    match answer {
        Ok(answer) => answer.db_instances()[0].db_instance_status().map(str::to_owned),
        Err(error) if error.code() == Some("DBInstanceNotFound") => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// The endpoint of an instance, once Amazon says that it is available.
async fn endpoint(lab: &RdsLab, client: &Client, id: &str) -> (String, u16) {
    eventually(&format!("{id} is available"), LIMIT, async || {
        lab.assert_sound();
        status(client, id).await.as_deref() == Some("available")
    })
    .await;
    let answer = client.describe_db_instances().db_instance_identifier(id).send().await.unwrap();
    let endpoint = answer.db_instances()[0].endpoint().unwrap();
    (endpoint.address().unwrap().to_owned(), u16::try_from(endpoint.port().unwrap()).unwrap())
}

/// Waits until a snapshot is available, and answers it.
async fn snapshot(lab: &RdsLab, client: &Client, id: &str) -> aws_sdk_rds::types::DbSnapshot {
    let shown = async || {
        let answer = client.describe_db_snapshots().db_snapshot_identifier(id).send().await.unwrap();
        answer.db_snapshots()[0].clone()
    };
    eventually(&format!("{id} is available"), LIMIT, async || {
        lab.assert_sound();
        shown().await.status() == Some("available")
    })
    .await;
    shown().await
}

/// The payments that the database at an endpoint holds.
async fn payments(lab: &RdsLab, (host, port): &(String, u16)) -> Vec<i32> {
    let mut connection = lab.connect(host, *port).await.unwrap();
    let rows = sqlx::query("SELECT id FROM payment ORDER BY id").fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn pay(lab: &RdsLab, (host, port): &(String, u16), id: i32) {
    let mut connection = lab.connect(host, *port).await.unwrap();
    let table = "CREATE TABLE IF NOT EXISTS payment (id int PRIMARY KEY)";
    sqlx::query(table).execute(&mut connection).await.unwrap();
    sqlx::query("INSERT INTO payment VALUES ($1)").bind(id).execute(&mut connection).await.unwrap();
}

/// Nothing runs and no files are left but the lab's own.
async fn assert_nothing_is_left(lab: &RdsLab) {
    eventually("all is removed", LIMIT, async || {
        lab.assert_sound();
        let mut entries = std::fs::read_dir(&lab.estate.folder).unwrap();
        lab.processes().is_empty() && !entries.any(|entry| entry.unwrap().path().is_dir())
    })
    .await;
}
