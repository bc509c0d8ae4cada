//! Steady state: does the service answer the way its clients use it?

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Drill;
use crate::{
    config::runbook::ProbeConfig,
    dns::{
        Dns,
        observer::Client,
        query::{Question, Transport, ask},
    },
    domain::{Check, Verdict},
    flow::StepError,
};

/// Longer than this a server or service does not answer.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks at a service that is not healthy yet.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Looks at every steady-state probe until all pass, at most `limit`; answers
/// the last look at each.
pub async fn steady_state(drill: &Drill, limit: Duration) -> Result<Vec<Check>, StepError> {
    let begun = Instant::now();
    loop {
        let mut checks = Vec::new();
        for (name, config) in drill.steady_probes() {
            checks.push(look(name, config, &drill.dns()?, &drill.client(config)?).await);
        }
        if checks.iter().all(|check| check.verdict == Verdict::Pass) || begun.elapsed() >= limit {
            return Ok(checks);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// One look: resolves the record at its authoritative servers, connects, writes.
async fn look(name: &str, config: &ProbeConfig, dns: &Arc<dyn Dns>, client: &Arc<dyn Client>) -> Check {
    let seen = match tokio::time::timeout(LOOK_LIMIT, resolve(dns, &config.record)).await {
        Ok(Ok(address)) => match tokio::time::timeout(LOOK_LIMIT, client.look(address)).await {
            Ok(Ok(answer)) if answer.wrote => Ok(format!("{} at {address} took a write", answer.identity)),
            Ok(Ok(answer)) => Err(format!("{} at {address} takes no writes", answer.identity)),
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address} did not answer within {} s", LOOK_LIMIT.as_secs())),
        },
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("`{}` was not resolved within {} s", config.record, LOOK_LIMIT.as_secs())),
    };
    let expected = format!("`{}` takes a write", config.record);
    let holds = seen.is_ok();
    Check::judge(format!("probe {name}"), expected, seen.unwrap_or_else(|error| error), holds)
}

async fn resolve(dns: &Arc<dyn Dns>, record: &str) -> Result<IpAddr, String> {
    let ipv6 = dns.read(record).await.is_ok_and(|set| set.addresses.iter().all(IpAddr::is_ipv6));
    let servers = dns.authoritative_servers(record).await.map_err(|error| error.to_string())?;
    let mut failure = format!("`{record}` has no authoritative server");
    for server in servers {
        let question = Question { name: record, ipv6, recursion: false };
        match ask(server, question, Transport::Udp, LOOK_LIMIT / 4).await {
            Ok(reply) => match reply.addresses.first() {
                Some(address) => return Ok(*address),
                None => failure = format!("{server} has no address for `{record}`"),
            },
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}
