//! Restoring with nothing but what the command line names: where a vault is, and
//! an identity. No files of ours, no state database, no daemon, no schedule.
//!
//! What must never happen: a signature that counts because it is there. Whose
//! signatures count is said by a person, by the fingerprint in the DR kit.

use std::path::PathBuf;

use clap::Args;
use secrecy::ExposeSecret;

use super::{super::UsageError, trusted};
use crate::{
    app,
    config::{
        Estate, SecretRef,
        vault::{Addressing, ArchiveConfig, DirectoryVaultConfig, Durability, S3VaultConfig, VaultConfig},
    },
    domain::{DatabaseName, Region, VaultName, with_causes},
    flows::Database,
    secrets::Secret,
    vault::{
        self, Listing, VaultIdentity,
        signature::{Signer, Verifier},
    },
};

/// The vault and the identity, where there is no lifeboat.yaml.
#[derive(Debug, Args)]
pub struct GivenOptions {
    /// The vault's folder, or `s3://BUCKET/PREFIX`: then no file of ours is read. With
    /// a bucket, credentials come from environment, profile or instance.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "from")]
    vault: Option<String>,
    /// A file with an age identity that the backups were written to.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The bucket's region.
    #[arg(long)]
    region: Option<Region>,
    /// `https://HOST` of a store that is not Amazon's.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Where the bucket's name stands in requests, `path` or `host`; `path` with `--endpoint`.
    #[arg(long, value_parser = addressing)]
    addressing: Option<Addressing>,
}

fn addressing(text: &str) -> Result<Addressing, String> {
    match text {
        "path" => Ok(Addressing::Path),
        "host" => Ok(Addressing::Host),
        _ => Err("write `path` or `host`".to_owned()),
    }
}

impl GivenOptions {
    /// The database in the vault that was named; none when none was.
    pub(super) async fn open(
        &self,
        database: &DatabaseName,
        signed_by: Option<&str>,
    ) -> anyhow::Result<Option<Database>> {
        let Some(address) = &self.vault else {
            let alone = [
                ("--identity", self.identity.is_some()),
                ("--region", self.region.is_some()),
                ("--endpoint", self.endpoint.is_some()),
                ("--addressing", self.addressing.is_some()),
            ];
            let alone = alone.iter().find(|(_, is_given)| *is_given).map(|(name, _)| name);
            let alone =
                alone.map(|name| UsageError(format!("`{name}` goes with `--vault ADDRESS`; name the vault too")));
            return alone.map_or(Ok(None), |error| Err(error.into()));
        };
        let identity = self.identity().await?;
        let (name, config) = self.config(address)?;
        let estate = Estate::of_vault(database, &name, config, &identity);
        // With nobody's key for a moment, so that the vault can be asked whose it is.
        let key = signed_by.map(trusted).transpose()?;
        let opened = app::open_for_restore(
            &estate,
            database,
            Some(key.clone().unwrap_or_else(|| Signer::ephemeral().verifier())),
        )
        .await?;
        if key.is_none() {
            return Err(unsigned(&opened, address).await.into());
        }
        Ok(Some(opened))
    }

    /// The identity's file, which holds one that can be used.
    async fn identity(&self) -> Result<PathBuf, UsageError> {
        let Some(file) = &self.identity else {
            return Err(UsageError(
                "a vault alone cannot be read: name an age identity that its backups were written to with `--identity FILE`"
                    .to_owned(),
            ));
        };
        let unfit = |why: String| UsageError(format!("`--identity {}` is of no use: {why}", file.display()));
        let file = std::path::absolute(file).map_err(|error| unfit(error.to_string()))?;
        let secret =
            Secret::local(SecretRef::File(file.clone())).read().await.map_err(|error| unfit(with_causes(&error)))?;
        vault::identities_from(secret.expose_secret()).map_err(|error| unfit(with_causes(&error)))?;
        Ok(file)
    }

    fn config(&self, address: &str) -> Result<(VaultName, VaultConfig), UsageError> {
        let Some(rest) = address.strip_prefix("s3://") else { return self.folder(address) };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(UsageError(format!("`{address}` names no bucket; write `s3://BUCKET/PREFIX`")));
        }
        let Some(region) = self.region.clone() else {
            return Err(UsageError(format!(
                "say with `--region` where the bucket `{bucket}` is, such as `eu-central-1`"
            )));
        };
        let prefix = prefix.trim_matches('/');
        let config = S3VaultConfig {
            runs_max: None,
            bucket: bucket.to_owned(),
            region,
            prefix: (!prefix.is_empty()).then(|| format!("{prefix}/")),
            endpoint: self.endpoint.clone(),
            addressing: self.addressing,
            signing_region: None,
            credentials: None,
            delete_credentials: None,
            encryption: None,
            storage_class: None,
            archive: ArchiveConfig::default(),
            object_lock: None,
            durable: Durability::default(),
            limits: None,
        };
        Ok((called(bucket)?, VaultConfig::S3(Box::new(config))))
    }

    fn folder(&self, address: &str) -> Result<(VaultName, VaultConfig), UsageError> {
        if address.contains("://") {
            return Err(UsageError(format!("`{address}` is no vault; name a folder, or `s3://BUCKET/PREFIX`")));
        }
        let of_bucket = [
            ("--region", self.region.is_some()),
            ("--endpoint", self.endpoint.is_some()),
            ("--addressing", self.addressing.is_some()),
        ];
        if let Some((name, _)) = of_bucket.iter().find(|(_, is_given)| *is_given) {
            return Err(UsageError(format!(
                "`{name}` goes with `s3://BUCKET/PREFIX`, not with the folder {address}; leave it out"
            )));
        }
        let path = std::path::absolute(address).map_err(|error| UsageError(format!("`{address}`: {error}")))?;
        if !path.is_dir() {
            return Err(UsageError(format!(
                "there is no folder {}; mount the vault, or correct `--vault`",
                path.display()
            )));
        }
        let region = undeclared()?;
        let name = called(&path.file_name().unwrap_or_default().to_string_lossy())?;
        let config =
            DirectoryVaultConfig { path, region, durable: Durability::default(), limits: None, runs_max: None };
        Ok((name, VaultConfig::Directory(config)))
    }
}

/// Where the vault holds nothing of the database: what it holds.
pub(super) async fn others(database: &Database) -> Option<UsageError> {
    let vault = database.vaults.first()?;
    let held = Listing::databases(vault.store.as_ref()).await.ok().filter(|held| !held.is_empty())?;
    let held: Vec<&str> = held.iter().map(DatabaseName::as_str).collect();
    Some(UsageError(format!(
        "vault `{}` holds no backup of `{}`; it holds databases: {}",
        vault.store.place().vault,
        database.name,
        held.join(", ")
    )))
}

/// Nobody can verify where a folder is, and nobody has said it.
fn undeclared() -> Result<Region, UsageError> {
    "undeclared".parse().map_err(|error| UsageError(format!("{error}")))
}

/// What messages call the vault: its folder or bucket, where that is a name of ours.
fn called(place: &str) -> Result<VaultName, UsageError> {
    place.parse().or_else(|_| "given".parse()).map_err(|error| UsageError(format!("{error}")))
}

/// Whom the vault names as its owner is no proof of it.
async fn unsigned(database: &Database, address: &str) -> UsageError {
    let told = match database.vaults.first() {
        Some(vault) => VaultIdentity::read(vault.store.as_ref()).await,
        None => Ok(None),
    };
    UsageError(match told {
        // What nobody has signed yet is shown only where it is a fingerprint.
        Ok(Some(identity)) => match Verifier::from_fingerprint(&identity.owner).map(|owner| owner.fingerprint()) {
            Ok(owner) => format!(
                "nobody has said whose signatures count: this vault says that it belongs to the key {owner}; compare that with the fingerprint in the DR kit, and only where it is the same say `--signed-by {owner}`"
            ),
            Err(_) => {
                format!("{address} names no key as its owner; give the fingerprint in the DR kit with `--signed-by`")
            }
        },
        Ok(None) => format!(
            "{address} is no vault, as `vault.json` is not there; name the place that holds it, and who signed with `--signed-by SHA256:…`, which is the fingerprint in the DR kit"
        ),
        Err(error) => with_causes(&error),
    })
}
