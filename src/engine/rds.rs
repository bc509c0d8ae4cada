//! PostgreSQL that Amazon runs: single instances (`rds`) and clusters (`aurora`).
//!
//! Where to look: `snapshots.rs` and `instances.rs` are what both do, once; `single.rs` and
//! `cluster.rs` are the two forms, each with the calls that are its own. `caller.rs` holds
//! every call that these make, and `own.rs` what a call that changes something may name.
//! `promote.rs` stands apart: it acts on production.
//!
//! What must never happen: a call that changes the source; a copy that is publicly
//! accessible or takes the source's tags, so that others mistake it for the source; one in
//! a region that was not named.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_config::SdkConfig;
use tokio::sync::Mutex;

use self::{
    caller::Caller,
    cluster::Cluster,
    form::{InstanceCalls, SnapshotCalls},
    own::{Foreign, Mark, Name},
    single::Single,
};
use crate::{
    aws::{Access, AwsError, Call},
    domain::Region,
    engine::managed::{Duty, tag},
};

mod caller;
mod cluster;
mod form;
mod instances;
mod own;
mod presign;
mod promote;
mod settings;
mod single;
mod snapshots;

pub use promote::RdsHandover;

/// What the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One instance, perhaps with a standby in another zone.
    Single,
    /// An Aurora cluster: a volume, and the instances that serve it.
    Cluster,
}

/// One database as it was configured.
#[derive(Debug, Clone)]
pub struct RdsOptions {
    pub form: Form,
    /// What the tag of the database says: which one of which estate.
    pub database: String,
    /// The identifier of the instance or cluster.
    pub source: String,
    pub region: Region,
    /// How calls are made for duties that have no access of their own. Its region does not
    /// matter: each call goes where it is needed.
    pub access: Access,
    pub duties: BTreeMap<Duty, Access>,
    /// Regions that automated backups of the instance are replicated to.
    pub replicated_to: BTreeSet<Region>,
    /// Where calls may go beside the regions above.
    pub regions: BTreeSet<Region>,
}

/// One database that Amazon runs.
#[derive(Debug)]
pub struct Rds {
    options: RdsOptions,
    /// Made when they are first needed, and kept with their connections and credentials.
    callers: Mutex<BTreeMap<(Duty, Region), Arc<Caller>>>,
}

impl Rds {
    /// Connects nowhere yet.
    pub fn new(options: RdsOptions) -> Self {
        Self { options, callers: Mutex::default() }
    }

    fn snapshot_calls(&self) -> &'static dyn SnapshotCalls {
        match self.options.form {
            Form::Single => &Single,
            Form::Cluster => &Cluster,
        }
    }

    fn instance_calls(&self) -> &'static dyn InstanceCalls {
        match self.options.form {
            Form::Single => &Single,
            Form::Cluster => &Cluster,
        }
    }

    /// Whoever makes the calls of a duty in a region.
    async fn caller(&self, duty: Duty, region: &Region) -> Result<Arc<Caller>, AwsError> {
        let RdsOptions { replicated_to, regions, .. } = &self.options;
        if *region != self.options.region && !replicated_to.contains(region) && !regions.contains(region) {
            let why = format!("no schedule lets {} be in {region}", self.options.database);
            let settings = SdkConfig::builder().region(aws_config::Region::new(region.to_string())).build();
            let call = Call::of("rds", &settings, "answer", "rds:*");
            return Err(call.refused(why, "name the region in the schedule, if data may be there"));
        }
        let mut callers = self.callers.lock().await;
        if let Some(caller) = callers.get(&(duty, region.clone())) {
            return Ok(Arc::clone(caller));
        }
        let access = self.options.duties.get(&duty).unwrap_or(&self.options.access);
        let caller = Arc::new(Caller::of(&access.in_region(region)).await);
        callers.insert((duty, region.clone()), Arc::clone(&caller));
        Ok(caller)
    }

    /// With the tag of the database beside them.
    fn tagged(&self, tags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut tags = tags.clone();
        tags.insert(tag::DATABASE.to_owned(), self.options.database.clone());
        tags
    }

    fn mark<'a>(&'a self, run_id: Option<&'a str>) -> Mark<'a> {
        Mark { source: &self.options.source, database: &self.options.database, run_id }
    }

    /// The name of something that is to be made.
    fn name(&self, caller: &Caller, id: &str) -> Result<Name, AwsError> {
        Name::of(id, &self.options.source).map_err(|why| refused(caller, id, &why))
    }
}

/// Why nothing is done about this identifier.
fn refused(caller: &Caller, id: &str, why: &Foreign) -> AwsError {
    let call = caller.call(format!("touch {id}"), "");
    call.refused(format!("that is not ours: {why}"), "have it looked at by a person, who can remove or rename it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Kind;

    #[tokio::test]
    async fn clients_are_kept_and_go_only_where_data_may_be() {
        let region = |name: &str| name.parse::<Region>().unwrap();
        let access = Access {
            region: region("eu-central-1"),
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            use_fips: false,
            keys: None,
            role: None,
        };
        let rds = Rds::new(RdsOptions {
            form: Form::Single,
            database: "prod/wallet".to_owned(),
            source: "wallet".to_owned(),
            region: region("eu-central-1"),
            access,
            duties: BTreeMap::new(),
            replicated_to: BTreeSet::from([region("eu-west-1")]),
            regions: BTreeSet::from([region("eu-north-1")]),
        });
        let first = rds.caller(Duty::Backup, &region("eu-central-1")).await.unwrap();
        let again = rds.caller(Duty::Backup, &region("eu-central-1")).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let other = rds.caller(Duty::Delete, &region("eu-central-1")).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        for name in ["eu-west-1", "eu-north-1"] {
            assert_eq!(rds.caller(Duty::Backup, &region(name)).await.unwrap().region().as_str(), name);
        }
        let error = rds.caller(Duty::Backup, &region("us-east-1")).await.unwrap_err();
        assert_eq!((error.kind, error.is_permanent()), (Kind::Refused, true));
        assert!(error.to_string().contains("us-east-1"), "{error}");
    }
}
