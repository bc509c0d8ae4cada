//! Brings a differential back: its own parts, and of its full backup's parts the
//! files that its `backup_manifest` names and that it does not hold itself. So
//! nothing has to be removed or replaced, and what has vanished since never comes.
//!
//! What must never happen: a file in the target that is not, by size and checksum,
//! the one that PostgreSQL named when the differential was taken.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    CatalogEntry, EmptyFolder, Fetch, ObjectKey, VaultError,
    fetch::{fetch_objects, server_manifest_of},
    part::Destination,
    server::{Coming, ServerFiles, ServerManifest},
    unpack::{Sink, Target},
};

/// Files that are missing, of which so many are named.
const NAMED_MAX: usize = 3;

/// A differential and the full backup that it is laid over.
pub struct Overlay<'a> {
    fetch: &'a Fetch<'a>,
    full: &'a CatalogEntry,
    differential: &'a CatalogEntry,
    /// Of its `backup_manifest`.
    key: ObjectKey,
    /// All that will be in the target.
    files: Arc<ServerFiles>,
}

impl<'a> Overlay<'a> {
    pub async fn read(
        fetch: &'a Fetch<'a>,
        full: &'a CatalogEntry,
        differential: &'a CatalogEntry,
    ) -> Result<Self, VaultError> {
        let (key, json) = server_manifest_of(fetch, &differential.manifest).await?;
        let read = ServerManifest::read(&json).map_err(|what| damaged(fetch, &key, what))?;
        Ok(Self { fetch, full, differential, key, files: Arc::new(read.files) })
    }

    /// Content bytes of all that is restored.
    pub fn size(&self) -> u64 {
        self.files.size()
    }

    /// Restores it into `folder`, which holds nothing of a backup yet. Everything is on disk
    /// when this returns; after an error the target holds rubbish and must be removed.
    pub async fn lay(&self, folder: EmptyFolder, on_progress: impl Fn(u64) + Send + Sync) -> Result<(), VaultError> {
        let target = folder.path();
        let done = Arc::new(AtomicU64::new(0));
        let changed = self.layer(target, None, self.differential, &done, &on_progress).await?;
        let kept = self.layer(target, Some(changed.clone()), self.full, &done, &on_progress).await?;
        let is_missing = |name: &&Path| !changed.contains(*name) && !kept.contains(*name);
        let mut missing: Vec<&Path> = self.files.members().filter(is_missing).collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            let (count, full) = (missing.len(), &self.full.manifest.backup);
            let named: Vec<String> =
                missing.iter().take(NAMED_MAX).map(|name| format!("`{}`", name.display())).collect();
            let what =
                format!("{count} file(s) that it names are in no part of it or of `{full}`: {}", named.join(", "));
            return Err(damaged(self.fetch, &self.key, what));
        }
        folder.sync().await
    }

    /// Unpacks one of the two; answers which files came of it.
    async fn layer(
        &self,
        target: &Path,
        above: Option<HashSet<PathBuf>>,
        entry: &CatalogEntry,
        done: &Arc<AtomicU64>,
        on_progress: &(impl Fn(u64) + Send + Sync),
    ) -> Result<HashSet<PathBuf>, VaultError> {
        let files = Arc::clone(&self.files);
        let layer = Arc::new(Layer { target: target.to_owned(), files, above, came: Mutex::default() });
        fetch_objects(self.fetch, entry, &Destination::Layer(Arc::clone(&layer)), done, on_progress).await?;
        on_progress(done.load(Ordering::Relaxed));
        Ok(std::mem::take(&mut *layer.came.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn damaged(fetch: &Fetch<'_>, key: &ObjectKey, what: String) -> VaultError {
    match fetch.sources.first() {
        Some(source) => VaultError::Damaged { vault: source.place().vault.clone(), key: key.clone(), what },
        None => VaultError::Pipeline,
    }
}

/// Where the parts of one of the two backups go.
#[derive(Debug)]
pub(super) struct Layer {
    target: PathBuf,
    files: Arc<ServerFiles>,
    /// Files of the layer over this one, which brought all folders and links too; none
    /// where this one is the upper.
    above: Option<HashSet<PathBuf>>,
    came: Mutex<HashSet<PathBuf>>,
}

impl Layer {
    /// For one part of it.
    pub(super) fn begin<'a>(&'a self, key: &'a ObjectKey, done: &'a AtomicU64) -> Laying<'a> {
        Laying { key, layer: self, target: Target::new(&self.target, done), coming: None, names: Vec::new() }
    }
}

/// The members of one part on their way.
pub(super) struct Laying<'a> {
    key: &'a ObjectKey,
    layer: &'a Layer,
    target: Target<'a>,
    /// None where what comes is left out.
    coming: Option<Coming>,
    names: Vec<PathBuf>,
}

impl Laying<'_> {
    fn refuse(&self, name: Option<&PathBuf>, what: &'static str) -> VaultError {
        let member = name.map_or_else(String::new, |name| name.display().to_string());
        VaultError::Member { key: self.key.clone(), member, what }
    }

    /// The file that came is what PostgreSQL sent.
    pub(super) fn end_file(&mut self) -> Result<(), VaultError> {
        let ended = self.coming.take().map_or(Ok(()), Coming::end);
        ended.map_err(|what| self.refuse(self.names.last(), what))
    }

    /// Keeps what came of a part that was judged sound, else takes it back.
    pub(super) fn settle(self, is_sound: bool) {
        if is_sound {
            self.layer.came.lock().unwrap_or_else(PoisonError::into_inner).extend(self.names);
        } else {
            self.target.take_back();
        }
    }
}

impl Sink for Laying<'_> {
    fn folder(&mut self, name: &Path, mode: u32) -> Result<(), VaultError> {
        self.end_file()?;
        if self.layer.above.is_none() { self.target.folder(name, mode) } else { Ok(()) }
    }

    fn link(&mut self, name: &Path, to: &Path) -> Result<(), VaultError> {
        self.end_file()?;
        if self.layer.above.is_none() { self.target.link(name, to) } else { Ok(()) }
    }

    fn file(&mut self, name: &Path, mode: u32) -> Result<(), VaultError> {
        self.end_file()?;
        let Some(wanted) = self.layer.files.get(name) else {
            // What is below may be of files that have vanished since.
            let is_upper = self.layer.above.is_none();
            let refusal = || self.refuse(Some(&name.to_owned()), "`backup_manifest` does not name it");
            return if is_upper { Err(refusal()) } else { Ok(()) };
        };
        if self.layer.above.as_ref().is_some_and(|above| above.contains(name)) {
            return Ok(());
        }
        self.target.file(name, mode)?;
        self.coming = Some(Coming::new(wanted));
        self.names.push(name.to_owned());
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), VaultError> {
        let Some(coming) = &mut self.coming else { return Ok(()) };
        coming.update(bytes);
        self.target.bytes(bytes)
    }
}
