//! What a copy is made of beside its data. It runs with settings of our own, so that
//! the source's are read from the files that came with the backup, by PostgreSQL
//! itself: it says what it would make of them, and starts nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use super::IsolatedInstance;
use crate::{
    decide::inventory,
    domain::ClusterParts,
    engine::{
        EngineError,
        postgres::{
            asked::failed,
            catalogs,
            cluster::Binaries,
            restored::{file_error, make_private, of_source, original, program_error, write_owned},
        },
    },
    process::ProcessError,
};

/// How long PostgreSQL may take to read a few files.
const READ_LIMIT: Duration = Duration::from_secs(30);
const CONF: &str = "postgresql.conf";
const AUTO: &str = "postgresql.auto.conf";

/// `named` are the settings of the source, of which each is asked for.
pub(super) async fn parts(instance: &IsolatedInstance, named: &BTreeSet<String>) -> Result<ClusterParts, EngineError> {
    let session = &instance.session;
    let connect = async |dbname: &str| session.connect(dbname).await.map_err(|error| failed(&error));
    let mut found = ClusterParts::default();
    let mut connection = connect(session.dbname()).await?;
    catalogs::of_cluster(&mut connection, &mut found).await.map_err(|error| failed(&error))?;
    let kinds = catalogs::kinds(&mut connection).await.map_err(|error| failed(&error))?;
    for dbname in catalogs::databases(&mut connection).await.map_err(|error| failed(&error))? {
        let mut inside = connect(&dbname).await?;
        catalogs::of_database(&mut inside, &dbname, &mut found).await.map_err(|error| failed(&error))?;
    }
    settings(instance, named, &kinds, &mut found).await?;
    Ok(found)
}

async fn settings(
    instance: &IsolatedInstance,
    named: &BTreeSet<String>,
    kinds: &BTreeMap<String, String>,
    found: &mut ClusterParts,
) -> Result<(), EngineError> {
    let data = instance.folder.join("data");
    // Where the server of the copy sees nothing.
    let aside = of_source(&data);
    let folder = aside.join("settings");
    let account = instance.postgres.account.as_ref();
    make_private(&folder, account)?;
    let (conf, auto) = (kept(&aside, CONF)?, kept(&aside, AUTO)?);
    write_owned(&folder.join(AUTO), auto.as_deref().unwrap_or_default(), account)?;
    // Where the source has it elsewhere, none came with the data folder. What it includes
    // is found from where it lies.
    let conf_file = if conf.is_some() { aside.join(original(CONF)) } else { folder.join(CONF) };
    if conf.is_none() {
        write_owned(&conf_file, "", account)?;
    }
    let written = [conf, auto].into_iter().flatten().flat_map(|text| names(&text));
    let wanted: BTreeSet<String> = named.iter().cloned().chain(written).collect();
    let binaries = Binaries::of(&data)?;
    for name in wanted {
        let assigned = |name: &str, path: &Path| format!("{name}={}", path.display());
        let asked = binaries.program("postgres", instance.postgres.account.clone()).arg("-D").arg(&folder);
        let asked = asked.args(["-c", &assigned("config_file", &conf_file)]);
        let asked = asked.args(["-c", &assigned("data_directory", &folder), "-C", &name]);
        match asked.output(READ_LIMIT).await {
            Ok(value) => {
                let value = value.strip_suffix('\n').unwrap_or(&value);
                let kind = kinds.get(&name).map(String::as_str);
                found.parts.insert(inventory::setting(&name), inventory::shown(&name, kind, value));
            }
            Err(error @ ProcessError::Start { .. }) => {
                return Err(program_error("postgres", error));
            }
            // What it says may quote a line of the files.
            Err(_) => {
                tracing::warn!(setting = name, "the source's setting cannot be read in the copy");
                found
                    .unseen
                    .push(format!("setting {name}, which PostgreSQL does not make out in the files of the backup"));
            }
        }
    }
    fs::remove_dir_all(&folder).map_err(file_error("remove", &folder))
}

fn kept(aside: &Path, name: &str) -> Result<Option<String>, EngineError> {
    let path = aside.join(original(name));
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error("read", &path)(error)),
    }
}

/// The names of all settings in a file, in small letters. It includes others by lines that
/// look like settings.
fn names(conf: &str) -> Vec<String> {
    let name = |line: &str| {
        let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(line.len());
        line.get(..end).filter(|name| !name.is_empty() && !name.starts_with("include")).map(str::to_ascii_lowercase)
    };
    conf.lines().filter_map(|line| name(line.trim_start())).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn settings_are_named_however_they_are_written() {
        let conf = "# work_mem = 1\nwork_mem = 8MB # more\n  Shared_Buffers '1GB'\nmy.thing='on'\ninclude 'x'\ninclude_dir='y'\n\n= 3\n";
        assert_eq!(super::names(conf), ["work_mem", "shared_buffers", "my.thing"]);
    }
}
