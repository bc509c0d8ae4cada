//! Each kind of notifier against a real server: what it says, how it is protected, and
//! what it makes of a refusal.

mod email;
mod http;

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat::{
    domain::{Notice, Topic, with_causes},
    notify::{NotifyError, SecretSource, Unread},
};
use secrecy::SecretString;

/// A secret that is there at once.
#[derive(Debug)]
struct Known(String);

#[async_trait]
impl SecretSource for Known {
    async fn read(&self) -> Result<SecretString, Unread> {
        Ok(self.0.clone().into())
    }
}

fn known(secret: &str) -> Arc<dyn SecretSource> {
    Arc::new(Known(secret.to_owned()))
}

fn notice() -> Notice {
    Notice {
        id: "maintenance/20261226t0100z-20261226t0300z-all/24h/dba".to_owned(),
        topic: Topic::MaintenanceAnnounced,
        at: "2026-12-25T01:00:00Z".parse().unwrap(),
        databases: vec!["wallet".parse().unwrap()],
        title: "Maintenance: wallet <today> & tomorrow".to_owned(),
        text: "Reason: new disks\nWhat is held: ž <!channel>".to_owned(),
        details: serde_json::json!({"stage": "24h"}),
    }
}

/// The whole error as it is told, which holds all of `words` and none of `secrets`.
#[track_caller]
fn tells(error: &NotifyError, words: &[&str], secrets: &[&str]) {
    let told = with_causes(error);
    for word in words {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
    for secret in secrets {
        assert!(!told.contains(secret) && !format!("{error:?}").contains(secret), "`{secret}` is in: {told}");
    }
}
