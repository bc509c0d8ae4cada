//! What a bucket has beside its objects: an archive that they may lie in, and settings of
//! its own. `Store` knows nothing of either, and no other kind of vault has them.
//!
//! What must never happen: that a copy is asked for by who only looks. It costs money, and
//! is for restores alone.

use std::fmt;

use async_trait::async_trait;

use super::{ObjectKey, StoreError};
use crate::{
    decide::bucket::Settings,
    domain::archive::{ArchiveClass, Thawing},
};

/// Whether an object can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Readable,
    /// Nobody has asked for it.
    Archived(ArchiveClass),
    /// It was asked for, and is not there yet.
    Coming(ArchiveClass),
}

/// A bucket as more than a place for objects.
#[async_trait]
pub trait Bucket: Send + Sync + fmt::Debug {
    /// How copies are asked for.
    fn thawing(&self) -> &Thawing;

    /// `NotFound` when there is no such object.
    async fn standing(&self, key: &ObjectKey) -> Result<Standing, StoreError>;

    /// Asks for what can be read, from where the object lies. A success where somebody has
    /// asked already, or it can be read.
    async fn thaw(&self, key: &ObjectKey, from: ArchiveClass) -> Result<(), StoreError>;

    /// What the bucket is set to, as far as these credentials may ask.
    async fn settings(&self) -> Result<Settings, StoreError>;
}
