//! What a self-test plants, each into something of its own: the database with another view
//! of its vault, or with an identity that opens nothing. The vault, the source and the
//! database that everybody else works with stay as they are.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use age::{secrecy::ExposeSecret as _, x25519::Identity};
use jiff::Timestamp;

use crate::{
    config::{SecretRef, check::CheckConfig, schedule::RestoreTestConfig},
    domain::{BackupId, Segment, SegmentSize},
    fault,
    flow::StepError,
    flows::{Database, KeyError, Keys, Parts, Vault, restore},
    secrets::Secret,
    vault::{Faulty, ObjectKey, WalName},
};

/// The file of the identity that opens nothing, in the folder of its step.
const STRANGER: &str = "stranger.age";

/// A database into which a fault was planted.
pub(super) struct Planted {
    pub(super) database: Arc<Database>,
    /// The backup that is restored, whatever else the vault holds by then; the newest
    /// one where none is named.
    pub(super) backup: Option<BackupId>,
    /// The segment that it lacks.
    pub(super) segment: Option<(Segment, SegmentSize)>,
    /// Where the identity is to lie that opens nothing.
    pub(super) identity: Option<PathBuf>,
}

impl Planted {
    /// Makes the identity that opens nothing, once there is a folder for it.
    pub(super) fn make_identity(&self) -> Result<(), StepError> {
        let Some(file) = &self.identity else { return Ok(()) };
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        let identity = Identity::generate().to_string();
        made.and_then(|mut made| made.write_all(identity.expose_secret().as_bytes()))
            .map_err(|error| StepError::transient(format!("cannot make {}: {error}", file.display())))
    }
}

/// The schedule's restore test with these checks and no others.
pub(super) fn checked(config: &RestoreTestConfig, checks: Vec<CheckConfig>) -> RestoreTestConfig {
    RestoreTestConfig { checks, ..config.clone() }
}

/// The same database with other vaults and keys, and with this restore test.
pub(super) fn with(
    database: &Database,
    config: &RestoreTestConfig,
    (vaults, keys): (Vec<Vault>, Keys),
) -> Arc<Database> {
    let mut schedule = Arc::clone(&database.schedule);
    Arc::make_mut(&mut schedule).config.restore_test = Some(config.clone());
    let engine = Arc::clone(&database.engine);
    let (region, scratch) = (database.region.clone(), database.scratch.clone());
    Arc::new(Database::new(Parts { engine, schedule, vaults, keys, region, scratch }))
}

/// The keys without an identity that is kept elsewhere: whose turn it is is no matter here.
pub(super) fn keys(database: &Database) -> Keys {
    Keys { escrow: None, ..database.keys.clone() }
}

/// A view of the first vault that lacks the first segment which its newest restorable
/// backup needs; none where it holds no such backup.
pub(super) async fn missing_segment(
    database: &Database,
    config: &RestoreTestConfig,
    now: Timestamp,
) -> Result<Option<Planted>, StepError> {
    let Some(vault) = database.vault(None) else { return Err(StepError::permanent("the database has no vault")) };
    let held = restore::newest(database, vault).await?;
    let facts = restore::facts(&[(vault, &held)], now).await?;
    let newest = facts.as_ref().and_then(|facts| Some((facts.newest_restorable()?, facts.segment_size)));
    let Some((newest, size)) = newest else { return Ok(None) };
    let segment = Segment::holding(newest.timeline, newest.start_lsn, size);
    let layout = held.listing.layout().clone();
    let is_missing = move |key: &ObjectKey| match WalName::parse(&layout, key, size) {
        Some(WalName::Whole(of) | WalName::Tail { segment: of, .. }) => {
            of == segment && !fault::is_blinded("missing_segment")
        }
        Some(WalName::History(_)) | None => false,
    };
    let store = Arc::new(Faulty::without(Arc::clone(&vault.store), is_missing));
    let vaults = vec![Vault { store, ..vault.clone() }];
    let database = with(database, config, (vaults, keys(database)));
    Ok(Some(Planted { database, backup: Some(newest.id.clone()), segment: Some((segment, size)), identity: None }))
}

/// An identity that nothing was encrypted to.
pub(super) fn wrong_key(database: &Database, config: &RestoreTestConfig, folder: &Path) -> Result<Planted, StepError> {
    // Where there is none, nothing could be opened anyway.
    if database.keys.identity.is_none() {
        return Err(KeyError::NoIdentity.into());
    }
    let file = folder.join(STRANGER);
    let identity = Some(Secret::local(SecretRef::File(file.clone())));
    let keys = Keys { identity, ..keys(database) };
    let keys = if fault::is_blinded("wrong_key") { self::keys(database) } else { keys };
    let database = with(database, config, (database.vaults.clone(), keys));
    Ok(Planted { database, backup: None, segment: None, identity: Some(file) })
}
