//! A bundle for an outsider: the log, its checkpoints, the public key, and how
//! to verify all of it with public tools alone.

use std::path::Path;

use super::{Entry, EvidenceError, EvidenceLog, Month, checkpoint, entry, source};
use crate::{db, durable};

const README: &str = include_str!("export/README.md");

/// Writes the bundle into a folder that is empty or does not exist. It holds
/// the log from its first entry to the end of `month`, so that it shows too that
/// nothing was left out. Answers the number of entries.
pub async fn export(log: &EvidenceLog, month: Option<Month>, folder: &Path) -> Result<u64, EvidenceError> {
    let rows = db::evidence::rows_from(&log.db, 0).await?;
    durable::create_folder(&folder.join("evidence/checkpoints")).map_err(source::failed("make", folder))?;
    let mut sums = Vec::new();
    let mut write = |name: String, text: &str| -> Result<(), EvidenceError> {
        let path = folder.join(&name);
        durable::create_private(&path, text.as_bytes()).map_err(source::failed("write", &path))?;
        let digest = <sha2::Sha256 as sha2::Digest>::digest(text.as_bytes());
        sums.push(format!("{}  {name}\n", hex::encode(digest)));
        Ok(())
    };
    let mut size = 0;
    for row in rows {
        let entry = Entry::from_row(&row)?;
        if month.is_some_and(|month| Month::of(entry.at) > month) {
            break;
        }
        size = row.index + 1;
        let (text, signature) = checkpoint::after(&row, &log.signer)?;
        write(format!("evidence/{:08}.json", row.index), &row.entry)?;
        write(format!("evidence/{:08}.json.sig", row.index), &row.signature)?;
        write(format!("evidence/checkpoints/{size:08}.json"), &text)?;
        write(format!("evidence/checkpoints/{size:08}.json.sig"), &signature)?;
    }
    let verifier = log.signer.verifier();
    let key = verifier.to_openssh();
    write("signing.pub".to_owned(), &format!("{key}\n"))?;
    write(
        "allowed_signers".to_owned(),
        &format!("lifeboat namespaces=\"{},{}\" {key}\n", entry::NAMESPACE, checkpoint::NAMESPACE),
    )?;
    write("README.md".to_owned(), &README.replace("{fingerprint}", &verifier.fingerprint()))?;
    let path = folder.join("SHA256SUMS");
    durable::create_private(&path, sums.concat().as_bytes()).map_err(source::failed("write", &path))?;
    Ok(size)
}
