//! What of the source's credentials is in the instance's folder. The copy needs none: it
//! speaks no TLS, and whoever may enter its socket's folder is let in.
//!
//! Passwords inside its catalogs are the source's data, and come with it.

use std::{fs, path::Path};

use super::IsolatedInstance;
use crate::{
    domain::{Check, Verdict},
    engine::postgres::{recover::is_of_cluster, settings},
};

const NAME: &str = "credentials";
const EXPECTED: &str = "no key, password file or login of the source's in the data folder";
/// How much of a file is looked at; settings and keys are smaller.
const LOOKED_AT_BYTES: u64 = 1 << 20;
/// In every private key that is stored as text.
const KEY: &str = "PRIVATE KEY-----";

/// Looks at the data folder as it is now.
pub(super) fn check(instance: &IsolatedInstance) -> Check {
    let data = instance.folder.join("data");
    match found(&data) {
        Ok(found) if found.is_empty() => {
            let how = "none; its own login is `local all all trust` behind the private socket";
            Check::judge(NAME, EXPECTED, how, true)
        }
        Ok(found) => Check::judge(NAME, EXPECTED, found.join(", "), false),
        Err(error) => Check::new(NAME, Verdict::Inconclusive, EXPECTED, format!("the folder cannot be read: {error}")),
    }
}

fn found(data: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type()?.is_dir();
        if !is_of_cluster(&name, is_folder) {
            found.push(format!("`{name}` is not of the cluster"));
        } else if name == "pg_hba.conf" && fs::read_to_string(entry.path())? != settings::hba_conf(true) {
            found.push(format!("`{name}` is not the copy's own"));
        } else if !is_folder && entry.metadata()?.len() <= LOOKED_AT_BYTES {
            let text = fs::read(entry.path())?;
            let text = String::from_utf8_lossy(&text);
            if text.contains(KEY) {
                found.push(format!("`{name}` holds a private key"));
            } else if text.lines().any(has_login) {
                found.push(format!("`{name}` holds a login"));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a line of settings names where to replicate from and how to log in there.
fn has_login(line: &str) -> bool {
    settings::value_in(line, "primary_conninfo").is_some_and(|value| !value.is_empty())
}
