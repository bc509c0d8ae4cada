//! Starts the rotation of keys once per period, on nodes that hold an identity.
//! A run's id holds its period: two nodes that start it run it once, and a
//! daemon that was down starts it late rather than never.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    decide::rotation,
    domain::{RunId, with_causes},
    flow::NewRun,
    flows::rotate_keys,
};

/// How often it is asked whether a new period has begun.
const LOOK_EVERY: Duration = Duration::from_secs(600);

pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let keys = &app.estate.daemon.keys;
    let (Some(period), Some(_)) = (keys.rotate, &keys.identity) else { return };
    loop {
        let due_at = rotation::period_begun(app.clock.now(), period.as_duration());
        for database in app.resources.databases.values() {
            let id = RunId::new(rotate_keys::NAME, database.name.as_str(), "scheduled", &due_at.to_string());
            let params = rotate_keys::Params { database: database.name.clone(), due_at: Some(due_at) };
            let stored = match NewRun::new(id, &database.name, &params, "schedule") {
                Ok(run) => app
                    .runner
                    .submit(run.placed(database.placement(&database.schedule.config.vaults)))
                    .await
                    .map(drop)
                    .map_err(|error| with_causes(&error)),
                Err(error) => Err(with_causes(&error)),
            };
            if let Err(error) = stored {
                tracing::error!(database = %database.name, error, "a rotation could not be stored; trying again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
