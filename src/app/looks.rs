//! What providers tell of the databases that they run, asked once a minute at most: their
//! calls are throttled, and every page, command and metric wants to know.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    clock::Clock,
    domain::{DatabaseName, Region, Snapshot, with_causes},
    engine::managed::SourceFacts,
    flows::{ManagedDatabase, prune_snapshots},
};

/// For how long an answer is as good as a new one, to who looks by itself.
const FRESH: SignedDuration = SignedDuration::from_secs(60);
/// The same to who asked what there is now.
const JUST_NOW: SignedDuration = SignedDuration::from_secs(5);
/// How long a provider is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a provider told.
#[derive(Debug, Clone)]
pub struct Look {
    pub at: Timestamp,
    /// Or why it is not known.
    pub source: Result<SourceFacts, String>,
    /// Of each region where there may be any.
    pub snapshots: BTreeMap<Region, Result<Vec<Snapshot>, String>>,
}

/// The last look at each database, with what was looked at.
#[derive(Debug, Clone, Default)]
pub struct Looks(Arc<Mutex<BTreeMap<DatabaseName, Seen>>>);

type Seen = (Arc<ManagedDatabase>, Arc<Look>);

impl Looks {
    /// A look of the last minute, by `clock`.
    pub async fn at(&self, database: &Arc<ManagedDatabase>, clock: &Clock) -> Arc<Look> {
        self.within(FRESH, database, clock).await
    }

    /// A look of just now.
    pub async fn just_now(&self, database: &Arc<ManagedDatabase>, clock: &Clock) -> Arc<Look> {
        self.within(JUST_NOW, database, clock).await
    }

    async fn within(&self, age: SignedDuration, database: &Arc<ManagedDatabase>, clock: &Clock) -> Arc<Look> {
        let now = clock.now();
        let is_fresh = |look: &Look| now.duration_since(look.at).abs() < age;
        if let Some((_, look)) =
            self.seen(&database.name).filter(|(of, look)| Arc::ptr_eq(of, database) && is_fresh(look))
        {
            return look;
        }
        let look = Arc::new(look(database, now).await);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(database.name.clone(), (Arc::clone(database), Arc::clone(&look)));
        look
    }

    fn seen(&self, name: &DatabaseName) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

async fn look(database: &ManagedDatabase, now: Timestamp) -> Look {
    let source = told(database.provider.source()).await;
    let mut snapshots = BTreeMap::new();
    // What was loaded names a region.
    for region in prune_snapshots::regions(database).unwrap_or_default() {
        let listed = told(database.provider.snapshots(&region)).await;
        snapshots.insert(region, listed);
    }
    Look { at: now, source, snapshots }
}

async fn told<T>(asked: impl Future<Output = Result<T, crate::aws::AwsError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| with_causes(&error)),
        Err(_) => Err(format!("the provider did not answer within {} s", PATIENCE.as_secs())),
    }
}
