//! The incarnations of one system id. A server that was set back to an earlier
//! state writes another history under the names of the one that a vault holds,
//! and one that wrote with `wal_level = minimal` goes on where no recovery of what
//! was before leads to: the next incarnation keeps it apart.
//!
//! Which one goes on is read from the vaults and from nowhere else: it is the
//! newest of which any of them holds an object. The first such object is this
//! document, created conditionally, so that of two nodes that open the same
//! incarnation one wins, and both go on with it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Layout, Store, VaultError,
    signature::{Signer, Verifier},
    signed::Document,
};
use crate::domain::{Lsn, Timeline, VaultName};

pub(super) const NAME: &str = "incarnation.json";
const INCARNATION: Document = Document { namespace: "lifeboat-incarnation", what: "an incarnation" };
/// The version of `docs/format.md` that is written.
const FORMAT: u32 = 1;

/// The incarnation that a history begins with.
pub const FIRST: u32 = 1;

/// Why nothing leads from the incarnation before to one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The server was set back to an earlier state.
    #[default]
    SetBack,
    /// It wrote with `wal_level = minimal` in between.
    WalLevel,
}

/// Why an incarnation was opened, as its vault says.
pub async fn why(store: &dyn Store, layout: &Layout, verifier: &Verifier) -> Result<Why, VaultError> {
    let document = layout.incarnation_document();
    Ok(INCARNATION.read::<Beginning>(store, &document, verifier).await?.cause)
}

/// `incarnation.json`: why an incarnation was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Beginning {
    format: u32,
    incarnation: u32,
    opened_at: Timestamp,
    #[serde(default)]
    cause: Why,
    /// What the one before holds and the server did not write: in which vault,
    /// of which timeline, up to where; and where the server was then.
    vault: VaultName,
    timeline: Timeline,
    held: Lsn,
    server: Lsn,
}

/// Opens the incarnation after `layout` in one vault, because of `cause`: `Forked`
/// or `Unlogged`. Where it is open already, that is a success.
pub async fn open_next(
    store: &dyn Store,
    layout: &Layout,
    cause: &VaultError,
    now: Timestamp,
    signer: &Signer,
) -> Result<(), VaultError> {
    let ours = &store.place().vault;
    let (cause, vault, timeline, held, server) = match cause {
        VaultError::Forked { vault, timeline, held, server } => (Why::SetBack, vault, timeline, held, server),
        VaultError::Unlogged { timeline, at } => (Why::WalLevel, ours, timeline, at, at),
        _ => return Err(VaultError::NotStreaming),
    };
    let next = layout.next();
    let opened = Beginning {
        format: FORMAT,
        incarnation: next.incarnation(),
        opened_at: now,
        cause,
        vault: vault.clone(),
        timeline: *timeline,
        held: *held,
        server: *server,
    };
    match INCARNATION.put(store, &next.incarnation_document(), &opened, signer).await {
        // Another node was first; what it says is as good.
        Ok(()) | Err(VaultError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
