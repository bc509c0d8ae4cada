//! What of the source's credentials is in the instance's folder, as its server sees it. The copy needs none: it
//! speaks no TLS, and whoever may enter its socket's folder is let in.
//!
//! Passwords inside its catalogs are the source's data, and come with it.

use std::{fs, io, path::Path};

use super::{Confinement, IsolatedInstance, processes};
use crate::{
    domain::{Check, Verdict},
    engine::postgres::{recover::is_of_cluster, restored::of_source, settings},
};

const NAME: &str = "credentials";
const EXPECTED: &str = "no key, password file or login of the source's in the data folder, nor in sight";
/// How much of a file is looked at; settings and keys are smaller.
const LOOKED_AT_BYTES: u64 = 1 << 20;
/// In every private key that is stored as text.
const KEY: &str = "PRIVATE KEY-----";

/// Looks at the data folder as it is now.
pub(super) fn check(instance: &IsolatedInstance) -> Check {
    let data = instance.folder.join("data");
    let found = found(&data).and_then(|mut found| {
        if instance.confinement == Confinement::Namespaces {
            found.extend(in_sight(instance)?);
        }
        Ok(found)
    });
    match found {
        Ok(found) if found.is_empty() && instance.confinement != Confinement::Namespaces => {
            let why = "what was put aside of the source's own files is not hidden from the server: nothing confines it";
            Check::new(NAME, Verdict::Inconclusive, EXPECTED, why)
        }
        Ok(found) if found.is_empty() => {
            let how = "none; its own login is `local all all trust` behind the private socket";
            Check::judge(NAME, EXPECTED, how, true)
        }
        Ok(found) => Check::judge(NAME, EXPECTED, found.join(", "), false),
        Err(error) => Check::new(NAME, Verdict::Inconclusive, EXPECTED, format!("the folder cannot be read: {error}")),
    }
}

/// What its server sees where the source's own files were put aside.
fn in_sight(instance: &IsolatedInstance) -> io::Result<Vec<String>> {
    let aside = of_source(&instance.folder.join("data"));
    let server = processes::server_of(&instance.folder).ok_or_else(|| io::Error::other("no server runs there"))?;
    let seen = Path::new("/proc").join(server.to_string()).join("root").join(aside.strip_prefix("/").unwrap_or(&aside));
    let names = fs::read_dir(seen)?.map(|entry| Ok(format!("`{}` is in sight", entry?.file_name().display())));
    names.collect()
}

fn found(data: &Path) -> io::Result<Vec<String>> {
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
