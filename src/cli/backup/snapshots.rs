//! What a provider keeps of the databases that it runs, as `lifeboat backups` lists it.

use anyhow::Result;
use jiff::Timestamp;

use super::super::age;
use crate::{
    app::App,
    domain::{ByteSize, DatabaseName, SnapshotOrigin, SnapshotState},
    report::managed::ListedSnapshot,
};

/// Those of a database, or of all, and a sentence for each region that does not answer.
pub(super) async fn listed(app: &App, name: Option<&DatabaseName>) -> Result<(Vec<ListedSnapshot>, Vec<String>)> {
    let kept = app.snapshots(name).await?;
    let mut unlisted = Vec::new();
    for (database, region, error) in &kept.away {
        anyhow::ensure!(!kept.snapshots.is_empty() || name.is_none(), "{error}");
        tracing::warn!(%database, %region, error, "this region is not listed");
        unlisted.push(format!("what {region} keeps of `{database}` is not known: {error}"));
    }
    Ok((kept.snapshots, unlisted))
}

/// The cells of its row.
pub(super) fn cells(listed: &ListedSnapshot, now: Timestamp) -> [String; 8] {
    let ListedSnapshot { database, kind, is_proven, snapshot } = listed;
    let state = match snapshot.state {
        SnapshotState::Available if *is_proven => "PROVEN".to_owned(),
        SnapshotState::Available => "available".to_owned(),
        SnapshotState::Creating => format!("{} % made", snapshot.progress_percent),
        SnapshotState::Failed => "failed".to_owned(),
    };
    let origin = match snapshot.origin {
        SnapshotOrigin::Ours => "",
        SnapshotOrigin::Adopted => " (adopted)",
        SnapshotOrigin::Automated => " (automated)",
    };
    [
        database.to_string(),
        snapshot.id.clone(),
        kind.as_str().to_owned(),
        state,
        ByteSize::from_bytes(snapshot.size_bytes).to_string(),
        "at the provider".to_owned(),
        snapshot.taken_at.map_or_else(String::new, |at| age(now.duration_since(at))),
        format!("{}{origin}", snapshot.region),
    ]
}
