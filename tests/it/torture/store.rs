//! An S3 server that is killed at any instant and comes back. It is moto, which
//! keeps all in memory; a journal that it replays before it listens stands for a
//! disk. What it had answered is there again, what it had not may be: so much can
//! be said of any store that is killed, and nothing of one whose disk is lost.

use std::path::{Path, PathBuf};

use crate::support::{
    free_port,
    moto::{KEY_ID, Kind, Moto, REGION},
};

pub(super) const BUCKET: &str = "backups";

pub(super) struct Store {
    port: u16,
    journal: PathBuf,
    /// None while it is dead.
    moto: Option<Moto>,
}

impl Store {
    /// With an empty bucket.
    pub(super) async fn start(folder: &Path) -> Self {
        let mut store = Self { port: free_port(), journal: folder.join("moto.journal"), moto: None };
        store.revive().await;
        store.moto().bucket(BUCKET, Kind::Plain).await;
        store
    }

    pub(super) fn moto(&self) -> &Moto {
        self.moto.as_ref().unwrap()
    }

    pub(super) async fn kill(&mut self) {
        self.moto.take().unwrap().kill().await;
    }

    pub(super) async fn revive(&mut self) {
        let journal = self.journal.to_str().unwrap();
        self.moto = Some(Moto::start_at(self.port, &[("MOTO_JOURNAL", journal)]).await);
    }

    /// The words of a required vault in it, with the key in the file `s3.secret`.
    pub(super) fn vault_yaml(&self) -> String {
        format!(
            "{{kind: s3, bucket: {BUCKET}, region: {REGION}, prefix: prod/, endpoint: \"{}\", durable: required, \
             credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: s3.secret}}}}}}",
            self.moto().endpoint
        )
    }
}
