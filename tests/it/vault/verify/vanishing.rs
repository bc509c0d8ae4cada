//! What expires while it is verified is no defect; what is lost is.

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat::{
    decide::recovery::gaps::Need,
    domain::Verdict,
    vault::{
        ObjectInfo, ObjectKey, ObjectReader, ObjectWriter, Place, SharedStore, Store, StoreError,
        verify::{Depth, Fault, Verify, verify},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        fixture::{Fixture, layout},
        versioned::Versioned,
    },
    estate::at,
};

/// When `trigger` is read, everything under `prefix` is gone.
#[derive(Debug)]
struct Vanishing {
    inner: Versioned,
    trigger: ObjectKey,
    prefix: String,
}

#[async_trait]
impl Store for Vanishing {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.inner.create(key).await
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        if *key == self.trigger {
            for object in self.inner.list(&self.prefix).await? {
                self.inner.delete(&object.key).await?;
            }
        }
        self.inner.read(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.inner.probe().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_backup_is_forgiven_and_a_lost_part_is_not() {
    let fixture = Fixture::new();
    let members: Vec<_> = (0..4u8).map(|n| (format!("base/{n}"), vec![n; 5000])).collect();
    fixture.small_backup("b", &members, 1 << 20).await;
    let folder = layout().backup_prefix(&"b".parse().unwrap());
    let part = ObjectKey::new(format!("{folder}data/00000.tar.zst.age")).unwrap();
    for (prefix, lost) in [(folder.as_str(), false), (part.as_str(), true)] {
        let inner = Versioned::copy_of("primary", fixture.store.as_ref()).await;
        let store: SharedStore = Arc::new(Vanishing { inner, trigger: part.clone(), prefix: prefix.to_owned() });
        let what = Verify {
            store: &store,
            layout: &layout(),
            verifier: &fixture.signer.verifier(),
            identities: std::slice::from_ref(&fixture.identity),
            depth: Depth::Full,
            others: &[],
            lock_until: None,
            retained: &|_| Need::Needed,
            now: at(1_000_000),
            stop: &CancellationToken::new(),
            done: Arc::default(),
        };
        let report = verify(&what, &|_, _, _| {}).await.unwrap();
        let missing: Vec<&str> =
            report.defects.iter().filter(|d| d.fault == Fault::Missing).map(|d| d.object.as_str()).collect();
        assert_eq!(missing, if lost { vec![part.as_str()] } else { Vec::new() }, "{:#?}", report.defects);
        assert_eq!(report.verdict(), Verdict::Fail, "there is no WAL");
    }
}
