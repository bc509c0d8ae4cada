//! The small signed documents beside the backups, proofs and verifications:
//! whether their signatures are valid and they say what their names say.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde_json::Value;

use super::{
    Fault, Known, Verify,
    report::{Defect, Kind, Look, Report},
};
use crate::{
    decide::sample,
    domain::Timeline,
    vault::{
        Listing, ObjectKey, VaultError, Verification, proof::PROOF, signature_of, signed::Document, stat,
        verification::VERIFICATION,
    },
};

/// Small objects read at once.
const AT_ONCE: usize = 8;

/// One of them.
struct One {
    document: Document,
    kind: Kind,
    key: ObjectKey,
    /// The backup that its name tells.
    backup: String,
}

/// The SHA-256 of history files when they were believed, and the run that did.
pub(super) type Remembered = BTreeMap<Timeline, (String, String)>;

/// Checks all proofs, the newest verification of each backup, which counts, and
/// of the older ones those whose turn it is.
pub(super) async fn check(
    verify: &Verify<'_>,
    listing: &Listing,
    known: &[Known],
    report: &mut Report,
) -> Result<Remembered, VaultError> {
    let mut remembered = Remembered::new();
    let mut chosen = Vec::new();
    for (folder, document, kind) in
        [("proofs/", PROOF, Kind::Proof), ("verifications/", VERIFICATION, Kind::Verification)]
    {
        let folder = format!("{}{folder}", verify.layout.prefix());
        let keys: Vec<&ObjectKey> = listing.under(&folder).collect();
        report.tally_of(kind, keys.len());
        for (nth, key) in keys.iter().enumerate() {
            let backup = |key: &ObjectKey| {
                key.as_str().strip_prefix(&folder).and_then(|rest| rest.split('/').next()).map(str::to_owned)
            };
            if let Some(signed) = key.as_str().strip_suffix(".sig").map(ObjectKey::new).transpose()? {
                // The signature is written first: what it signs may follow at any moment.
                if !listing.holds(&signed) && stat(verify.store.as_ref(), &signed).await?.is_none() {
                    let what = format!("it is missing, and its signature `{key}` is there");
                    report.defects.push(Defect::new(&signed, Fault::Missing, what));
                }
                continue;
            }
            let signature = signature_of(key);
            if !listing.holds(&signature) {
                let what = format!("it is missing, so `{key}` does not count");
                report.defects.push(Defect::new(&signature, Fault::Missing, what));
                continue;
            }
            // Its signature follows it, and the next one after that.
            let is_newest = keys.get(nth + 2).is_none_or(|next| backup(next) != backup(key));
            let is_turn = verify.depth.turn().is_some_and(|turn| turn.takes(sample::place_of(key.as_str(), turn.of)));
            if kind == Kind::Proof || is_newest || is_turn {
                let backup = backup(key).unwrap_or_default();
                chosen.push(One { document, kind, key: (*key).clone(), backup });
            }
        }
    }
    let readings = futures::stream::iter(chosen)
        .map(|one| async move {
            let said = if verify.stop.is_cancelled() {
                Err(VaultError::Stopped)
            } else {
                one.document.read::<Value>(verify.store.as_ref(), &one.key, verify.verifier).await
            };
            (one, said)
        })
        .buffer_unordered(AT_ONCE);
    let mut readings = std::pin::pin!(readings);
    while let Some((one, said)) = readings.next().await {
        if let (Kind::Verification, Ok(said)) = (one.kind, &said) {
            remember(verify, said, &mut remembered);
        }
        judge(&one, said, listing, known, report)?;
    }
    Ok(remembered)
}

/// Notes what a validly signed verification of this vault says of history files.
fn remember(verify: &Verify<'_>, said: &Value, remembered: &mut Remembered) {
    if let Ok(said) = serde_json::from_value::<Verification>(said.clone())
        && said.vault == verify.store.place().vault
    {
        for (timeline, sha256) in said.histories {
            remembered.entry(timeline).or_insert_with(|| (sha256, said.run.to_string()));
        }
    }
}

fn judge(
    one: &One,
    said: Result<Value, VaultError>,
    listing: &Listing,
    known: &[Known],
    report: &mut Report,
) -> Result<(), VaultError> {
    let One { document, kind, key, backup } = one;
    let said = match said {
        Err(error) => match report.unless_archived(error) {
            Ok(()) => return Ok(()),
            Err(error) => Err(error),
        },
        said => said,
    };
    for read in [key, &signature_of(key)] {
        report.was_read(*kind, read, listing.size_of(read).unwrap_or_default(), Look::Opened);
    }
    match said {
        Ok(said) => {
            let of = known.iter().find(|known| known.manifest.backup.as_str() == backup);
            let about = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default();
            if about("backup") != backup || of.is_some_and(|of| of.sha256 != about("manifest_sha256")) {
                let what = format!("it is {} of another manifest than that of backup `{backup}`", document.what);
                report.defects.push(Defect::new(key, Fault::Signature, what));
            }
        }
        Err(error) => report.defects.push(Defect::from_error(key, error)?),
    }
    Ok(())
}
