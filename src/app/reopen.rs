//! Opens what edited files name beside what is open already. What did not change
//! stays the same object, so that streams, connections and what this process has
//! seen go on; state database, runner, clock, signing key and DNS always do.
//!
//! What must never happen: half an edit. An error leaves all as it was.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    App, Around, SetUpError, login,
    notifiers::open_notifiers,
    open_database,
    stores::{self, Opened},
};
use crate::{
    config::{DaemonConfig, Estate, Loaded, ScheduleConfig},
    domain::VaultName,
    evidence::EvidenceLog,
    flows::{Database, Resources},
    vault::{Known, Owned, SharedStore},
};

/// A digest of all that a database is opened from: its schedule, what is promised of it
/// by whichever file, the vaults, the keys, and where this node stands and works. Not the
/// secrets themselves: they are read when they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin([u8; 32]);

impl Origin {
    pub(super) fn of(estate: &Estate, schedule: &Loaded<ScheduleConfig>) -> Self {
        let DaemonConfig { node, keys, vaults, aws, .. } = &estate.daemon;
        let vaults: Vec<_> = schedule.config.vaults.iter().map(|name| (name, vaults.get(name))).collect();
        // The written form holds references in place of secrets.
        let promised = schedule.config.objectives();
        // Of no interest to a database that no provider runs.
        let aws = schedule.config.managed().map(|_| aws);
        let (file, digest) = (&schedule.file, &schedule.sha256);
        let written = (&estate.folder, file, digest, promised, &node.region, &node.scratch, keys, vaults, aws);
        Self(Sha256::digest(format!("{written:?}")).into())
    }
}

/// What is bound, taken or told others when the daemon starts, as it is written.
fn fixed(daemon: &DaemonConfig) -> [(&'static str, String); 7] {
    let node = &daemon.node;
    [
        (
            "`node` (but for `scratch`)",
            format!("{:?}", (&node.name, &node.region, &node.roles, node.runs_max, node.lease)),
        ),
        ("`state.url`", daemon.state.url.clone()),
        ("`keys.signing`", format!("{:?}", daemon.keys.signing)),
        ("`dns`", format!("{:?}", daemon.dns)),
        ("`api`", format!("{:?}", daemon.api)),
        ("`aws`", format!("{:?}", daemon.aws)),
        // Leases go on with who granted them.
        ("`secret_stores`", format!("{:?}", daemon.secret_stores)),
    ]
}

fn refuse_fixed(now: &DaemonConfig, edited: &DaemonConfig) -> Result<(), SetUpError> {
    let changed = fixed(now).into_iter().zip(fixed(edited)).filter(|(now, edited)| now != edited);
    let what: Vec<&str> = changed.map(|((what, _), _)| what).collect();
    if what.is_empty() { Ok(()) } else { Err(SetUpError::Fixed { what: what.join(", ") }) }
}

impl App {
    /// Opens edited files. Vaults that are new become ours; one that is another
    /// estate's refuses the whole edit. `take_charge` puts it to work.
    pub async fn reopened(&self, estate: Estate) -> Result<Arc<Self>, SetUpError> {
        refuse_fixed(&self.estate.daemon, &estate.daemon)?;
        let known: Arc<dyn Known> = Arc::new(super::KnownVaults(self.resources.db.clone()));
        let Opened { stores, buckets } = stores::open_stores(&estate, &self.secrets, &self.clock).await;
        let mut vaults = stores::owned(stores, Some(&self.signer), &known);
        for (name, vault) in &mut vaults {
            if let Some(same) = self.same_vault(name, &estate) {
                *vault = same;
            }
        }
        let shared = stores::shared(&vaults);
        let around = Around { stores: &shared, buckets: &buckets, secrets: &self.secrets };
        let (mut databases, mut managed, mut origins) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for schedule in &estate.schedules {
            let (name, origin) = (&schedule.config.database, Origin::of(&estate, schedule));
            let is_same = self.origins.get(name) == Some(&origin);
            if !is_same {
                login::look_here(&schedule.config, &self.secrets).await?;
            }
            if schedule.config.managed().is_some() {
                let same = self.resources.managed.get(name).filter(|_| is_same);
                let database = if let Some(same) = same {
                    Arc::clone(same)
                } else {
                    Arc::new(super::managed::open(&estate, schedule, &self.secrets)?)
                };
                managed.insert(name.clone(), database);
            } else {
                let same = self.resources.databases.get(name).filter(|_| is_same);
                let database = if let Some(same) = same {
                    Arc::clone(same)
                } else {
                    let mut database = open_database(&estate, schedule, around, &self.signer)?;
                    self.hand_streaming_to(&mut database);
                    Arc::new(database)
                };
                databases.insert(name.clone(), database);
            }
            origins.insert(name.clone(), origin);
        }
        let evidence = self.evidence_in(&vaults, &shared);
        let resources = Resources {
            databases,
            managed,
            agendas: estate.agendas(),
            dns: self.resources.dns.clone(),
            evidence,
            db: self.resources.db.clone(),
        };
        let app = Self {
            notifiers: open_notifiers(&estate, &self.secrets, &self.clock),
            secrets: self.secrets.clone(),
            estate,
            clock: self.clock.clone(),
            signer: self.signer.clone(),
            vaults,
            resources: Arc::new(resources),
            runner: Arc::clone(&self.runner),
            looks: self.looks.clone(),
            origins,
        };
        app.settle().await?;
        Ok(Arc::new(app))
    }

    /// The evidence log with its copies in these vaults.
    fn evidence_in(
        &self,
        vaults: &BTreeMap<VaultName, Arc<Owned>>,
        shared: &BTreeMap<VaultName, SharedStore>,
    ) -> Arc<EvidenceLog> {
        let is_same = |(name, vault): (&VaultName, &Arc<Owned>)| {
            self.vaults.get(name).is_some_and(|known| Arc::ptr_eq(known, vault))
        };
        if vaults.len() == self.vaults.len() && vaults.iter().all(is_same) {
            return Arc::clone(&self.resources.evidence);
        }
        let mirrors = shared.values().map(|store| (Arc::clone(store), String::new())).collect();
        let db = self.resources.db.clone();
        Arc::new(EvidenceLog::new(db, self.signer.clone(), mirrors, self.clock.clone()))
    }

    /// A run under way goes on with the database as it was, and asks it how far WAL is:
    /// where the servers are the same, the stream that follows tells both.
    fn hand_streaming_to(&self, database: &mut Database) {
        let members = |database: &Database| format!("{:?}", database.schedule.config.all_members());
        let before = self.resources.databases.get(&database.name);
        if let Some(before) = before.filter(|before| members(before) == members(database)) {
            database.streaming = Arc::clone(&before.streaming);
        }
    }

    /// The open vault of this name, where it is written as it was.
    fn same_vault(&self, name: &VaultName, estate: &Estate) -> Option<Arc<Owned>> {
        let written = |estate: &Estate| estate.daemon.vaults.get(name).map(|vault| format!("{vault:?}"));
        self.vaults.get(name).filter(|_| written(&self.estate) == written(estate)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(edit: impl Fn(String) -> String) -> DaemonConfig {
        let text = r#"{
            "node": {"name": "a", "region": "eu-south-1"},
            "state": {"url": "sqlite:/state.db"},
            "keys": {"recipients": ["age1x"], "signing": {"file": "/key"}},
            "vaults": {},
            "api": {"listen": "127.0.0.1:8080"}
        }"#;
        serde_json::from_str(&edit(text.to_owned())).unwrap()
    }

    #[test]
    fn what_is_fixed_at_the_start_is_refused_by_its_name() {
        for (old, new, told) in [
            ("\"name\": \"a\"", "\"name\": \"b\"", "`node` (but for `scratch`) cannot change"),
            ("eu-south-1", "eu-west-1", "`node` (but"),
            ("/state.db", "/other.db", "`state.url` cannot change"),
            ("/key", "/other", "`keys.signing` cannot"),
            (":8080", ":8081", "`api` cannot"),
            ("age1x", "age1y", ""),
            (
                "\"vaults\": {}",
                "\"vaults\": {\"v\": {\"kind\": \"directory\", \"path\": \"/v\", \"region\": \"eu-south-1\"}}",
                "",
            ),
            ("\"sqlite:/state.db\"", "\"sqlite:/state.db\", \"keep\": \"50d\"", ""),
        ] {
            let refused = refuse_fixed(&daemon(|text| text), &daemon(|text| text.replace(old, new)));
            match refused {
                Err(error) => assert!(!told.is_empty() && error.to_string().starts_with(told), "{new}: {error}"),
                Ok(()) => assert!(told.is_empty(), "{new} was accepted"),
            }
        }
    }
}
