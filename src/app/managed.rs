//! Opens the databases that a provider runs: as whom it is called for each duty, and where.
//! Connects nowhere; credentials are fetched when the first call needs them.

use std::{collections::BTreeSet, sync::Arc};

use super::{SetUpError, login};
use crate::{
    aws::{Access, Role},
    config::{self, managed::RolesConfig, schedule::RestoreTargetConfig},
    domain::{DatabaseName, Region},
    engine::{
        managed::{Duty, tag},
        rds::{Form, Rds, RdsOptions},
    },
    flows::ManagedDatabase,
    secrets::Secrets,
};

/// What a session tag calls the duty that it is for.
const DUTY_TAG: &str = "lifeboat:duty";
/// What the service takes as a name of a session.
const SESSION_NAME_LEN_MAX: usize = 64;

/// One database of a provider.
pub(super) fn open(
    estate: &config::Estate,
    schedule: &Arc<config::Loaded<config::ScheduleConfig>>,
    secrets: &Secrets,
) -> Result<ManagedDatabase, SetUpError> {
    let name = schedule.config.database.clone();
    // Only those with a source are opened here.
    let source = schedule.config.managed().ok_or_else(|| SetUpError::NotManaged { name: name.to_string() })?;
    let config = &schedule.config;
    let own = [Duty::Backup, Duty::Restore, Duty::Delete].into_iter();
    let duties = own.filter_map(|duty| Some((duty, role(&config.roles, &name, duty)?)));
    let access = Access {
        region: source.region.clone(),
        endpoint: estate.daemon.aws.endpoint.clone(),
        use_fips: estate.daemon.aws.fips,
        keys: estate.daemon.aws.credentials.as_ref().map(|key| secrets.access_key(key, &format!("calls for `{name}`"))),
        role: None,
    };
    let provider = Rds::new(RdsOptions {
        form: if source.is_cluster { Form::Cluster } else { Form::Single },
        database: name.to_string(),
        source: source.id.to_owned(),
        region: source.region.clone(),
        duties: duties.map(|(duty, role)| (duty, Access { role: Some(role), ..access.clone() })).collect(),
        access,
        replicated_to: config.automated_backups.replicated_to.iter().cloned().collect(),
        regions: elsewhere(config),
    });
    Ok(ManagedDatabase {
        provider: Arc::new(provider),
        login: login::of(&schedule.config, secrets),
        schedule: Arc::clone(schedule),
        region: estate.daemon.node.region.clone(),
        name,
    })
}

/// Where calls may go beside the database's own region: where its data goes.
fn elsewhere(config: &config::ScheduleConfig) -> BTreeSet<Region> {
    let copies = config.snapshot_copies.iter().map(|copy| &copy.region);
    let target = config.restore_test.as_ref().and_then(|test| match &test.target {
        RestoreTargetConfig::Rds(target) => target.region.as_ref(),
        RestoreTargetConfig::Local(_) => None,
    });
    copies.chain(target).cloned().collect()
}

/// As whom calls of a duty are made; none where the schedule names no role for it.
fn role(roles: &RolesConfig, database: &DatabaseName, duty: Duty) -> Option<Role> {
    let (arn, word) = match duty {
        Duty::Backup => (&roles.backup, "backup"),
        Duty::Restore => (&roles.restore, "restore"),
        Duty::Delete => (&roles.delete, "delete"),
    };
    Some(Role {
        arn: arn.clone()?,
        external_id: roles.external_id.clone(),
        session_name: session_name(database, word),
        session_tags: vec![(tag::DATABASE.to_owned(), database.to_string()), (DUTY_TAG.to_owned(), word.to_owned())],
    })
}

/// Of letters, digits and `.`, `_`, `-`, as the names of databases are.
fn session_name(database: &DatabaseName, duty: &str) -> String {
    let mut name = format!("lifeboat-{duty}-{database}");
    name.truncate(SESSION_NAME_LEN_MAX);
    name
}
