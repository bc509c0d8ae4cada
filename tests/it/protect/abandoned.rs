//! A walsender that holds the slot, with and without a client behind it.

use std::time::Duration;

use lifeboat::{
    engine::{
        EngineError, Protect,
        postgres::{Postgres, protect::Patience},
    },
    process::Tasks,
};
use tokio_util::sync::CancellationToken;

use super::{
    member, over_tcp,
    stream::{LIMIT, Memory, catch_up, end, load, start},
};
use crate::support::{Lab, line::Line};

/// Who speaks every tenth of a second, and is silent for so long, is gone.
const PATIENCE: Patience = Patience { status_every: Duration::from_millis(100), silence_max: Duration::from_secs(3) };

const HOLDER: &str = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'lifeboat_wallet'";

async fn role(lab: &Lab, grant: &str) -> Postgres {
    lab.psql(&format!("CREATE ROLE lifeboat LOGIN REPLICATION; {grant}")).await;
    let mut postgres = over_tcp(lab, "lifeboat");
    postgres.patience = PATIENCE;
    postgres
}

/// Another process streams over a line that goes dead; answers who holds the slot.
async fn vanished(lab: &Lab, near: &Postgres, tasks: &Tasks) -> (Line, String) {
    let line = Line::to(lab.port).await;
    let mut far = near.clone();
    far.members = vec![member("a", "127.0.0.1", line.port)];
    let sink = Memory::default();
    let (running, _stop) = start(tasks, &far, &sink);
    load(lab, 1).await;
    catch_up(lab, &sink).await;
    let holder = lab.psql(HOLDER).await;
    // As long as it lives it is left alone.
    for _ in 0..3 {
        let busy = near.stream_wal(&mut Memory::default(), LIMIT, CancellationToken::new()).await;
        assert!(matches!(busy, Err(EngineError::SlotBusy { .. })), "{busy:?}");
    }
    assert_eq!(lab.psql(HOLDER).await, holder, "its client lives");
    line.go_dead();
    running.abort();
    (line, holder)
}

#[tokio::test]
async fn a_walsender_whose_client_vanished_is_ended_and_streaming_goes_on() {
    // Left alone the server would wait for ever.
    let lab = Lab::start("wal_sender_timeout = 0\ntcp_keepalives_idle = 0").await;
    let near = role(&lab, "GRANT pg_monitor TO lifeboat").await;
    let tasks = Tasks::new();
    let (_line, holder) = vanished(&lab, &near, &tasks).await;
    load(&lab, 1).await;
    assert_eq!(lab.psql(HOLDER).await, holder, "the server does not know");

    // Until it was silent for long enough, the slot is busy.
    let sink = Memory::default();
    let (mut running, mut stop) = start(&tasks, &near, &sink);
    let begun = std::time::Instant::now();
    loop {
        if running.is_finished() {
            let busy = end(running).await;
            assert!(matches!(busy, Err(EngineError::SlotBusy { .. })), "{busy:?}");
            (running, stop) = start(&tasks, &near, &sink);
        }
        let now = lab.psql(HOLDER).await;
        if !now.is_empty() && now != holder {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{now} holds the slot");
    }
    catch_up(&lab, &sink).await;
    let old = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {holder}");
    assert_eq!(lab.psql(&old).await, "0");
    stop.cancel();
    end(running).await.unwrap();
}

/// A role that may not see who was heard when ends nobody.
#[tokio::test]
async fn whoever_cannot_see_whether_the_client_lives_ends_nobody() {
    let lab = Lab::start("wal_sender_timeout = 0").await;
    let near = role(&lab, "").await;
    let tasks = Tasks::new();
    let (_line, holder) = vanished(&lab, &near, &tasks).await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE.silence_max * 2 {
        let busy = near.stream_wal(&mut Memory::default(), LIMIT, CancellationToken::new()).await;
        assert!(matches!(busy, Err(EngineError::SlotBusy { .. })), "{busy:?}");
    }
    assert_eq!(lab.psql(HOLDER).await, holder);
}
