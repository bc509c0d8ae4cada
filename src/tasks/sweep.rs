//! Removes the isolated instances that restore tests left at a provider: of runs that have
//! ended, or that have lived as long as they may. What prefix, tags and journal do not agree
//! about is a finding, and stays.
//!
//! It looks at what bears our prefix and the database's tag alone, in the regions that the
//! schedule names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::managed::near;
use crate::{
    app::App,
    config::schedule::RestoreTargetConfig,
    db::{DbError, findings, runs},
    decide::sweep::{self, Fate, Found, Journaled},
    domain::{DatabaseName, Region, RunId, with_causes},
    engine::managed::{PREFIX, RestoredInstance, tag},
    flows::{ManagedDatabase, Resources},
};

const EVERY: Duration = Duration::from_secs(300);
/// As the provider spells the status of what is on its way out.
const GOING: &str = "deleting";

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut sweeper = Sweeper::default();
    loop {
        for database in near(&app) {
            let name = &database.name;
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = sweeper.sweep(&app.resources, database, app.clock.now()) => looked,
            };
            if let Err(error) = looked {
                tracing::warn!(database = %name, error = %with_causes(&error), "left instances are not looked for; trying again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// What is to go, and since when: asked by us, or seen to go.
#[derive(Debug, Default)]
pub struct Sweeper {
    going: BTreeMap<Going, Timestamp>,
}

type Going = (DatabaseName, Region, String);

impl Sweeper {
    /// Looks at all regions of a database once. What is wrong with one of them, or with an
    /// instance, is a finding.
    pub async fn sweep(
        &mut self,
        resources: &Resources,
        database: &ManagedDatabase,
        now: Timestamp,
    ) -> Result<(), DbError> {
        let (db, subject) = (&resources.db, database.name.as_str());
        let (mut wrong, mut silent) = (BTreeMap::<String, String>::new(), Vec::new());
        for region in regions(database) {
            let id = format!("sweep/{subject}/{region}");
            match database.provider.ours(&region).await {
                Ok(instances) => {
                    let ids: BTreeSet<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
                    self.going
                        .retain(|(of, at, id), _| (of, at) != (&database.name, &region) || ids.contains(id.as_str()));
                    for instance in &instances {
                        if let Some(what) = self.look(resources, database, instance, now).await? {
                            wrong.insert(format!("{id}/{}", instance.id), what);
                        }
                    }
                }
                Err(error) => {
                    let what =
                        format!("instances that tests left in {region} cannot be looked for: {}", with_causes(&error));
                    silent.push(format!("{id}/"));
                    wrong.insert(id, what);
                }
            }
        }
        for (id, what) in &wrong {
            findings::open(db, id, subject, what).await?;
        }
        let prefix = format!("sweep/{subject}/");
        for open in findings::open_findings(db).await? {
            let is_looked_at = !silent.iter().any(|region| open.id.starts_with(region));
            if open.id.starts_with(&prefix) && is_looked_at && !wrong.contains_key(&open.id) {
                findings::close(db, &open.id).await?;
            }
        }
        Ok(())
    }

    /// Has one removed, where it is to go; why a person must look at it, if so.
    async fn look(
        &mut self,
        resources: &Resources,
        database: &ManagedDatabase,
        instance: &RestoredInstance,
        now: Timestamp,
    ) -> Result<Option<String>, DbError> {
        let RestoredInstance { id, region, settings, .. } = instance;
        let tag_of = |key: &str| settings.tags.get(key).map(String::as_str);
        let (place, is_going) = ((database.name.clone(), region.clone(), id.clone()), instance.status == GOING);
        if is_going {
            self.going.entry(place.clone()).or_insert(now);
        }
        let found = Found {
            id,
            database: tag_of(tag::DATABASE),
            run: tag_of(tag::RUN),
            expires_at: tag_of(tag::EXPIRES),
            is_going,
            journaled: journaled(resources, tag_of(tag::RUN)).await?,
            going_since: self.going.get(&place).copied(),
        };
        let (told, remedy) = (
            format!("instance {id} in {region}"),
            "remove it at the provider where nobody needs it: it costs money and holds a copy of the data",
        );
        // What was opened as one of a provider has a source.
        let Ok(of) = database.named() else { return Ok(None) };
        match sweep::judge(PREFIX, of, &found, now) {
            Fate::Left => Ok(None),
            Fate::Doubted(why) => Ok(Some(format!("{told} bears our prefix, and is not removed: {why}; {remedy}"))),
            Fate::Removed(run) => Ok(self
                .remove(database, instance, &run, now)
                .await
                .map(|why| format!("{told} is left of a test, and cannot be removed: {why}; {remedy}"))),
        }
    }

    /// Why it was not asked to go.
    async fn remove(
        &mut self,
        database: &ManagedDatabase,
        RestoredInstance { id, region, .. }: &RestoredInstance,
        run: &RunId,
        now: Timestamp,
    ) -> Option<String> {
        self.going.entry((database.name.clone(), region.clone(), id.clone())).or_insert(now);
        match database.provider.remove(region, id, run.as_str()).await {
            Ok(()) => {
                tracing::warn!(database = %database.name, instance = id, %region, %run, "removing what a restore test left");
                None
            }
            Err(error) => Some(with_causes(&error)),
        }
    }
}

/// Where instances of a database may be.
fn regions(database: &ManagedDatabase) -> BTreeSet<Region> {
    let config = &database.schedule.config;
    let target = config.restore_test.as_ref().and_then(|test| match &test.target {
        RestoreTargetConfig::Rds(target) => target.region.clone(),
        RestoreTargetConfig::Local(_) => None,
    });
    let copies = config.snapshot_copies.iter().map(|copy| copy.region.clone());
    config.region.iter().cloned().chain(target).chain(copies).collect()
}

async fn journaled(resources: &Resources, run: Option<&str>) -> Result<Journaled, DbError> {
    let Some(run) = run else { return Ok(Journaled::Unknown) };
    Ok(match runs::get(&resources.db, run).await? {
        None => Journaled::Unknown,
        Some(row) if row.finished_ms.is_some() => Journaled::Ended,
        Some(_) => Journaled::UnderWay,
    })
}
