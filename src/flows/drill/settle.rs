//! Afterwards: the old primary comes back as a standby, and the service is as
//! healthy as before.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Drill, engine_failed, output, probe, run_command, until_stopped};
use crate::{
    config::runbook::RejoinStep,
    domain::{Check, MemberName},
    engine::Engine,
    flow::{Policy, Step, StepContext, StepError},
};

/// An old primary may have to be rewound or copied anew.
const COMMAND_LIMIT: Duration = Duration::from_secs(3600);
/// How long after the command the member must stream.
const FOLLOW_LIMIT: Duration = Duration::from_secs(120);
/// How long the service may take to be healthy once everything is in place.
const STEADY_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Checks that a step made, for the evidence record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    pub checks: Vec<Check>,
}

/// Brings the old primary back as a standby of the new one.
pub struct Rejoin {
    pub drill: Drill,
    pub config: RejoinStep,
}

#[async_trait]
impl Step for Rejoin {
    fn name(&self) -> &'static str {
        "rejoin"
    }

    fn policy(&self) -> Policy {
        Policy { limit: COMMAND_LIMIT + FOLLOW_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let member = self.drill.from()?;
        let engine = self.drill.engine()?;
        cx.guard().await?;
        // Looked at first: the command may have done its work before a crash.
        if !engine.is_following(&member).await.unwrap_or(false) {
            run_command("rejoin", &self.config.by, COMMAND_LIMIT).await?;
        }
        let follows = until_stopped(cx, wait_to_follow(engine.as_ref(), &member)).await?;
        output(&Checked { checks: vec![follows] })
    }
}

/// Waits until the member streams from the new primary, on its timeline.
pub async fn wait_to_follow(engine: &dyn Engine, member: &MemberName) -> Result<Check, StepError> {
    let begun = Instant::now();
    loop {
        let following = engine.is_following(member).await;
        if matches!(following, Ok(true)) {
            return Ok(Check::judge(format!("{member} rejoined"), "streams from the new primary", "streams", true));
        }
        if begun.elapsed() >= FOLLOW_LIMIT {
            return Err(match following {
                Err(error) => engine_failed(error),
                Ok(_) => StepError::transient(format!("`{member}` does not stream from the new primary")),
            });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The steady state after the drill. A service that is not healthy is a result:
/// the drill has failed, and nothing is left to be done by a step.
pub struct Steady(pub Drill);

#[async_trait]
impl Step for Steady {
    fn name(&self) -> &'static str {
        "steady"
    }

    fn policy(&self) -> Policy {
        Policy { limit: STEADY_LIMIT * 4, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        output(&Checked { checks: until_stopped(cx, probe::steady_state(&self.0, STEADY_LIMIT)).await? })
    }
}
