//! What a copy may use.

use std::fs;

use lifeboat::{
    decide::memory,
    domain::{ByteSize, RecoveryTarget},
    engine::{EngineError, IsolatedParams, Recover},
};

use super::copy::{Copy, processes_in};
use crate::support::Lab;

#[tokio::test]
async fn a_copy_has_the_memory_that_it_is_given_and_says_when_that_is_too_little() {
    let lab = Lab::start("").await;
    let copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    copy.configure(RecoveryTarget::Immediate).await.unwrap();
    let with = |memory: &str| IsolatedParams { memory_max: Some(memory.parse().unwrap()), ..copy.params() };
    let refused = copy.postgres.start_isolated(&with("48MiB")).await.unwrap_err();
    let limit: ByteSize = "48MiB".parse().unwrap();
    assert!(matches!(&refused, EngineError::Memory { limit: told, .. } if *told == limit), "{refused}");
    assert!(refused.to_string().contains("within 48MiB of memory"), "{refused}");
    assert!(processes_in(&copy.folder).is_empty());

    let instance = copy.postgres.start_isolated(&with("512MiB")).await.unwrap();
    let bytes: u64 = 512 << 20;
    for process in processes_in(&copy.folder) {
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        // `unshare` waits for the server, and only waits.
        if fs::read_to_string(process.join("comm")).unwrap().trim() == "postgres" {
            let line = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
            assert!(line.split_whitespace().any(|word| word == bytes.to_string()), "{line}");
        }
    }
    for (name, value) in memory::settings(ByteSize::from_bytes(bytes)) {
        let sql = format!("select pg_size_bytes(current_setting('{name}')) / 1024");
        let told: u64 = instance.query("postgres", &sql).await.unwrap().first.unwrap().parse().unwrap();
        let given: u64 = value.trim_end_matches("kB").parse().unwrap();
        // Buffers come in pages of 8 kB.
        assert!(told <= given && given < told + 8, "{name}: {told} of {given}");
    }
    let greedy = "select length(repeat('x', 600000000))";
    let refused = instance.query("postgres", greedy).await.unwrap_err();
    assert!(matches!(&refused, EngineError::Copy { code, .. } if code == "53200"), "{refused}");
    instance.stop().await.unwrap();
}
