//! The client of a service, as a drill looks at it.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;

use crate::{
    config::runbook::ProbeConfig,
    dns::observer::{Answer, Client},
    engine::Engine,
};

/// Connects afresh at each look, commits a write, and learns from the server
/// itself who answered.
#[derive(Debug)]
pub struct ServiceClient {
    engine: Arc<dyn Engine>,
    port: u16,
    dbname: String,
}

impl ServiceClient {
    /// Logs in as the engine does, to the probe's database and port.
    pub fn new(engine: Arc<dyn Engine>, probe: &ProbeConfig) -> Self {
        Self { engine, port: probe.port, dbname: probe.dbname.clone() }
    }
}

#[async_trait]
impl Client for ServiceClient {
    async fn look(&self, address: IpAddr) -> Result<Answer, String> {
        let answer = self.engine.look_at(address, self.port, &self.dbname).await.map_err(|error| error.to_string())?;
        Ok(Answer { identity: answer.identity, wrote: answer.wrote })
    }
}
