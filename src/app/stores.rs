//! The stores of all vaults, from what the operator wrote: each behind its
//! limits, and what passes is asked again. Connects nowhere, and reads no secret
//! before a store needs it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    config::{
        Estate,
        vault::{Addressing, CredentialsConfig, LimitsConfig, LockMode, S3VaultConfig, VaultConfig},
    },
    domain::VaultName,
    secrets::Secrets,
    vault::{
        Bucket, DirectoryStore, Known, Limited, Limits, Owned, Retrying, S3Store, SharedStore,
        s3::{self, S3Options},
        signature::Signer,
    },
};

/// How often a store is tried before its error counts, and the first pause.
const STORE_ATTEMPTS: u32 = 5;
const STORE_PAUSE: Duration = Duration::from_millis(200);

/// All vaults, by name.
pub(super) struct Opened {
    pub(super) stores: BTreeMap<VaultName, SharedStore>,
    pub(super) buckets: Buckets,
}

/// Those in a bucket, as more than a place for objects.
pub(super) type Buckets = BTreeMap<VaultName, Arc<dyn Bucket>>;

pub(super) async fn open_stores(estate: &Estate, secrets: &Secrets, clock: &Clock) -> Opened {
    let (mut stores, mut buckets) = (BTreeMap::new(), Buckets::new());
    for (name, vault) in &estate.daemon.vaults {
        let mut store: SharedStore = match vault {
            VaultConfig::Directory(directory) => {
                Arc::new(DirectoryStore::new(name.clone(), &directory.path, directory.region.clone()))
            }
            VaultConfig::S3(bucket) => {
                let store = S3Store::open(name.clone(), options(name, bucket, secrets), clock.clone()).await;
                buckets.insert(name.clone(), Arc::new(store.clone()));
                Arc::new(store)
            }
        };
        if let Some(limits) = vault.limits() {
            store = Arc::new(Limited::new(store, limited(*limits)));
        }
        let store: SharedStore = Arc::new(Retrying::new(store, STORE_ATTEMPTS, STORE_PAUSE));
        stores.insert(name.clone(), store);
    }
    Opened { stores, buckets }
}

/// The same as a writer may use them.
pub(super) fn owned(
    stores: BTreeMap<VaultName, SharedStore>,
    signer: Option<&Signer>,
    known: &Arc<dyn Known>,
) -> BTreeMap<VaultName, Arc<Owned>> {
    let owned = |store| Arc::new(Owned::new(store, signer.cloned(), Arc::clone(known), Clock::system()));
    stores.into_iter().map(|(name, store)| (name, owned(store))).collect()
}

pub(super) fn shared(vaults: &BTreeMap<VaultName, Arc<Owned>>) -> BTreeMap<VaultName, SharedStore> {
    vaults.iter().map(|(name, vault)| (name.clone(), Arc::clone(vault) as SharedStore)).collect()
}

fn limited(limits: LimitsConfig) -> Limits {
    let LimitsConfig { upload, download, requests, concurrent } = limits;
    Limits { upload, download, requests, concurrent }
}

fn options(name: &VaultName, bucket: &S3VaultConfig, secrets: &Secrets) -> S3Options {
    let key = |credentials: &Option<CredentialsConfig>| {
        credentials.as_ref().map(|key| secrets.access_key(key, &format!("the access key of vault `{name}`")))
    };
    S3Options {
        bucket: bucket.bucket.clone(),
        region: bucket.region.clone(),
        prefix: bucket.prefix.clone().unwrap_or_default(),
        endpoint: bucket.endpoint.clone(),
        path_style: bucket.addressing.map_or(bucket.endpoint.is_some(), |chosen| chosen == Addressing::Path),
        signing_region: bucket.signing_region.as_ref().map(ToString::to_string),
        credentials: key(&bucket.credentials),
        delete_credentials: key(&bucket.delete_credentials),
        kms_key: bucket.encryption.as_ref().map(|encryption| encryption.kms_key.clone()),
        storage_class: bucket.storage_class.map(|class| class.as_str().to_owned()),
        thawing: bucket.archive.into(),
        object_lock: bucket.object_lock.as_ref().map(|lock| match lock.mode {
            LockMode::Governance => s3::LockMode::Governance,
            LockMode::Compliance => s3::LockMode::Compliance,
        }),
        request_limit: s3::REQUEST_LIMIT,
    }
}
