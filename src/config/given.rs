//! What a command line says in place of files: one vault, one identity, one
//! database of which nothing is known but its name. For restoring where nothing
//! else is left; nothing in it is scheduled, watched or promised.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use super::{
    DaemonConfig, Estate, Loaded, ScheduleConfig, SecretRef,
    daemon::{KeysConfig, NodeConfig, SigningConfig, StateConfig},
    schedule::{EngineKind, LoginConfig, LoginUser, ObjectivesConfig, SslMode, WalConfig},
    vault::VaultConfig,
};
use crate::domain::{BackupFrom, DatabaseName, Span, VaultName};

impl Estate {
    /// Of this database in this vault, opened by the identity in a file. There is
    /// no state database and no signing key: who signed must be named.
    pub fn of_vault(database: &DatabaseName, name: &VaultName, vault: VaultConfig, identity: &Path) -> Self {
        let region = vault.region().clone();
        let daemon = DaemonConfig {
            node: NodeConfig {
                name: String::new(),
                region,
                roles: Vec::new(),
                runs_max: NonZeroU32::MIN,
                scratch: None,
                lease: Span::from_secs(15),
            },
            state: StateConfig { url: String::new(), keep: super::daemon::keep() },
            keys: KeysConfig {
                recipients: Vec::new(),
                single_recipient_reason: None,
                identity: Some(SecretRef::File(identity.to_owned())),
                escrow: None,
                rotate: None,
                signing: SigningConfig { file: PathBuf::new() },
            },
            vaults: [(name.clone(), vault)].into(),
            dns: std::collections::BTreeMap::new(),
            api: None,
            maintenance: Vec::new(),
            objectives: super::EstateObjectivesConfig::default(),
            notify: std::collections::BTreeMap::new(),
            aws: super::AwsConfig::default(),
            secret_stores: super::SecretStoresConfig::default(),
        };
        let schedule = Loaded { config: unscheduled(database, name), file: PathBuf::new(), sha256: String::new() };
        Self { daemon, folder: PathBuf::new(), schedules: vec![schedule.into()], runbooks: Vec::new() }
    }
}

fn unscheduled(database: &DatabaseName, vault: &VaultName) -> ScheduleConfig {
    ScheduleConfig {
        runs_max: None,
        database: database.clone(),
        engine: EngineKind::Postgres,
        members: std::collections::BTreeMap::new(),
        connection: None,
        instance: None,
        cluster: None,
        region: None,
        roles: super::managed::RolesConfig::default(),
        automated_backups: super::managed::AutomatedBackupsConfig::default(),
        snapshot_copies: Vec::new(),
        // Who may become whom in the restored copy: every cluster has that role.
        login: LoginConfig {
            user: LoginUser::Written("postgres".to_owned()),
            member_of: None,
            password: None,
            sslmode: SslMode::default(),
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            dbname: "postgres".to_owned(),
        },
        tier: None,
        objectives: ObjectivesConfig::default(),
        residency: None,
        vaults: vec![vault.clone()],
        copy: super::schedule::CopyConfig::default(),
        timezone: "UTC".to_owned(),
        backups: Vec::new(),
        backup_from: BackupFrom::default(),
        backup_rate_max: None,
        wal: WalConfig::default(),
        verify: super::schedule::VerifyConfig::default(),
        restore_test: None,
        blackouts: Vec::new(),
        notify: Vec::new(),
    }
}
