//! *prove*: the copy is logged in to over the network, asked for its heartbeats and checks,
//! and held against what was ordered and against its source.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Came, MARGIN, ProviderTest, choose::ChosenCopy, fetch::Fetched, pause};
use crate::{
    decide::apart::{self, ApartFacts, Ordered},
    domain::{Check, MemberName, Phase, RecoveryPoint, SiteName, with_causes},
    engine::{
        CopiedBeats, EngineError,
        managed::{InstanceOrder, RestoredInstance},
        postgres::{Member, remote::RemoteInstance},
    },
    fault,
    flow::{Policy, Step, StepContext, StepError},
    flows::{
        output,
        restore_test::{
            FETCH_LIMIT,
            checks::{Asked, not_asked},
            target::{Exhausted, Failed, Outcome},
        },
    },
};

/// How long an instance that is said to be available may take to let us in: its name has
/// to reach this node's resolver.
const LOGIN_LIMIT: Duration = Duration::from_secs(180);

/// What is told where its catalogs cannot be looked at.
const TIES: (&str, &str) = ("catalogs", "nothing that acts by itself or reaches others");

/// What the copy told before it was removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RemoteProof {
    pub(super) server_version: String,
    /// None where the server does not tell.
    pub(super) recovery_point: Option<RecoveryPoint>,
    /// The newest commit that is known of: of what was replayed, else of the heartbeats.
    pub(super) last_commit_at: Option<Timestamp>,
    pub(super) isolation: Vec<Check>,
    pub(super) beats: CopiedBeats,
    pub(super) checks: Vec<Check>,
    /// T5: all checks are done.
    pub(super) checked_at: Timestamp,
    pub(super) phases: Vec<Phase>,
}

/// Logs in, checks the data, looks how it stands apart.
pub(super) struct Prove(pub(super) Arc<ProviderTest>);

#[async_trait]
impl Step for Prove {
    fn name(&self) -> &'static str {
        "prove"
    }

    fn policy(&self) -> Policy {
        Policy { limit: FETCH_LIMIT + MARGIN, attempts: 1, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let proven = match cx.output::<Came<Fetched>>("fetch")? {
            None => return output(&None::<Outcome<RemoteProof>>),
            Some(Outcome::Reached(fetched)) => self.prove(&fetched, cx).await,
            Some(Outcome::Exhausted { exhausted }) => Err(Failed::Exhausted(exhausted)),
        };
        let came: Came<RemoteProof> = Some(Outcome::of(proven)?);
        output(&came)
    }
}

impl Prove {
    async fn prove(&self, fetched: &Fetched, cx: &StepContext) -> Result<RemoteProof, Failed> {
        let chosen: ChosenCopy = cx.output("choose")?;
        let (Some(order), Some(source)) = (&chosen.order, &chosen.database) else {
            return Err(StepError::permanent("nobody ordered the instance").into());
        };
        // It may have expired, or somebody removed it, while nobody drove the run.
        let RestoredInstance { id, region, .. } = &fetched.instance;
        let found = self.0.database.provider.instance(region, id).await.map_err(Failed::of_provider)?;
        let instance = found.ok_or_else(|| {
            StepError::permanent(format!("instance {id} in {region} is gone; run the test again, or raise `ttl`"))
        })?;
        let begun = Instant::now();
        let copy = self.login(&instance, cx).await?;
        fault::point("restore_test.started");
        let login = Phase { name: "log_in".to_owned(), seconds: begun.elapsed().as_secs_f64() };
        let mut proof = tokio::select! {
            proof = self.ask(&copy, cx) => proof?,
            () = cx.stop().cancelled() => return Err(StepError::Stopped.into()),
        };
        proof.phases.insert(0, login);
        let facts = ApartFacts {
            source: (&source.arn, &source.settings),
            restored: (&instance.arn, &instance.settings),
            ordered: ordered(order),
        };
        proof.isolation.extend(apart::isolation(&facts));
        proof.checks.extend(apart::settings(&facts));
        Ok(proof)
    }

    /// Who is not let in now may be let in later: names and rules take their time. Where it
    /// stays so nothing was measured.
    async fn login(&self, instance: &RestoredInstance, cx: &StepContext) -> Result<RemoteInstance, Failed> {
        let member = member(instance)?;
        let (database, begun) = (&self.0.database, Instant::now());
        cx.progress(format!("logging in to {}", member.address()), None, None);
        loop {
            let error = match RemoteInstance::open(&database.name, &database.login, &member).await {
                Ok(copy) => return Ok(copy),
                Err(error @ EngineError::Login { .. }) => {
                    let what = format!(
                        "{}; the copy knows roles and passwords as they were at the recovery point, and none that was made or changed since",
                        with_causes(&error)
                    );
                    return Err(Failed::Exhausted(Exhausted { resource: "login".to_owned(), what }));
                }
                Err(error) if error.is_permanent() => return Err(StepError::from(error).into()),
                Err(error) => error,
            };
            if begun.elapsed() >= LOGIN_LIMIT.min(self.0.limit()) {
                let what = format!(
                    "{}; let this node in by `restore_test.target.security_groups`, and by a route into the VPC",
                    with_causes(&error)
                );
                return Err(Failed::Exhausted(Exhausted { resource: "network".to_owned(), what }));
            }
            cx.sleep(pause(begun.elapsed())).await?;
        }
    }

    async fn ask(&self, copy: &RemoteInstance, cx: &StepContext) -> Result<RemoteProof, StepError> {
        let beats = copy.heartbeats().await?;
        let reached = copy.reached();
        let replayed_at = reached.as_ref().and_then(|reached| reached.last_commit_at);
        let last_commit_at = match replayed_at {
            Some(at) => Some(at),
            None => copy.newest_beat_at().await?,
        };
        let questions = self.0.questions();
        let mut asked = questions.ask(copy, None, cx).await;
        questions.ask_files(copy, cx, &mut asked).await;
        let checked_at = cx.clock().now();
        cx.progress("looking how it stands apart", None, None);
        let begun = Instant::now();
        let ties = copy.ties().await;
        let isolation = ties.unwrap_or_else(|error| vec![not_asked(TIES, &error)]);
        asked.phases.push(Phase { name: "probe_isolation".to_owned(), seconds: begun.elapsed().as_secs_f64() });
        let Asked { checks, phases } = asked;
        Ok(RemoteProof {
            server_version: copy.server_version(),
            recovery_point: reached,
            last_commit_at,
            isolation,
            beats,
            checks,
            checked_at,
            phases,
        })
    }
}

fn ordered(order: &InstanceOrder) -> Ordered<'_> {
    Ordered { subnet_group: &order.subnet_group, security_groups: &order.security_groups, tags: &order.tags }
}

/// The instance as a server to log in to.
fn member(instance: &RestoredInstance) -> Result<Member, StepError> {
    let unfit = |why: &str| StepError::permanent(format!("instance {}: {why}", instance.id));
    let (host, port) = instance.endpoint.clone().ok_or_else(|| unfit("the provider tells no endpoint"))?;
    let name: MemberName = instance.id.parse().map_err(|error| unfit(&with_causes(&error)))?;
    let site: SiteName = instance.region.as_str().parse().map_err(|error| unfit(&with_causes(&error)))?;
    Ok(Member { name, host, port, site })
}
