//! The HTTP server before moto.

use std::sync::Arc;

use axum::http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use tokio::net::TcpListener;

use super::{
    answer::Answer,
    call::Call,
    databases,
    faults::Fate,
    kind::{CLUSTER, CLUSTER_SNAPSHOT, INSTANCE, SNAPSHOT},
    members, mend, snapshots,
    state::Estate,
};

/// A request, as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub head: Parts,
    pub body: Bytes,
}

impl Asked {
    /// The same caller asks for something else.
    pub(super) fn instead(&self, action: &str, parameters: &[(&str, &str)]) -> Self {
        let mut form = Url::parse("http://localhost/").unwrap();
        let own = [("Action", action), ("Version", "2014-10-31")];
        form.query_pairs_mut().extend_pairs(own).extend_pairs(parameters);
        Self { head: self.head.clone(), body: form.query().unwrap_or_default().to_owned().into() }
    }
}

/// The connection is closed instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost")]
struct Lost;

/// Ends with the estate's tasks.
pub(super) struct Proxy {
    pub endpoint: String,
}

impl Proxy {
    pub(super) async fn start(estate: Arc<Estate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (tasks, all) = (estate.tasks.clone(), estate.tasks.clone());
        all.spawn(async move {
            let stop = tasks.stop().clone();
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let estate = Arc::clone(&estate);
                let service = service_fn(move |request| handle(Arc::clone(&estate), request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // A client that went away, or was sent away, is not the proxy's concern.
                let served = async { connection.await.is_ok() };
                tasks.spawn(stop.clone().run_until_cancelled_owned(served));
            }
        });
        Self { endpoint }
    }
}

async fn handle(estate: Arc<Estate>, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let asked = Asked { head, body: body.collect().await?.to_bytes() };
    let call = Call::read(&asked.head, &asked.body);
    let fate = estate.faults.fate(&call.service, &call.action);
    let answer = match fate {
        Fate::Refuse(refusal) => refusal.answer(),
        Fate::Pass | Fate::Lose if call.service == "rds" => Box::pin(serve(&estate, &call, &asked)).await?,
        Fate::Pass | Fate::Lose => estate.forward(&asked).await?,
    };
    let is_lost = fate == Fate::Lose;
    estate.record(call.recorded(answer.status.as_u16(), &answer.code(), is_lost));
    if is_lost {
        return Err(Lost.into());
    }
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}

async fn serve(estate: &Arc<Estate>, call: &Call, asked: &Asked) -> anyhow::Result<Answer> {
    let (_alone, _beside);
    if call.is_change() {
        _alone = estate.gate.write().await;
    } else {
        _beside = estate.gate.read().await;
    }
    let mut answer = match call.action.as_str() {
        "CreateDBInstance" if call.get(CLUSTER.id).is_some() => members::create(estate, call, asked).await?,
        "CreateDBInstance" => databases::create(estate, &INSTANCE, call, asked).await?,
        "CreateDBCluster" => databases::create(estate, &CLUSTER, call, asked).await?,
        "ModifyDBInstance" => databases::modify(estate, &INSTANCE, call, asked).await?,
        "ModifyDBCluster" => databases::modify(estate, &CLUSTER, call, asked).await?,
        "DeleteDBInstance" => databases::delete(estate, &INSTANCE, call, asked).await?,
        "DeleteDBCluster" => databases::delete(estate, &CLUSTER, call, asked).await?,
        "RestoreDBInstanceFromDBSnapshot" => databases::restore_snapshot(estate, &INSTANCE, call, asked).await?,
        "RestoreDBClusterFromSnapshot" => databases::restore_snapshot(estate, &CLUSTER, call, asked).await?,
        "RestoreDBInstanceToPointInTime" => databases::restore_time(estate, &INSTANCE, call, asked).await?,
        "RestoreDBClusterToPointInTime" => databases::restore_time(estate, &CLUSTER, call, asked).await?,
        "CreateDBSnapshot" => snapshots::create(estate, &INSTANCE, call, asked).await?,
        "CreateDBClusterSnapshot" => snapshots::create(estate, &CLUSTER, call, asked).await?,
        "CopyDBSnapshot" => snapshots::copy(estate, &SNAPSHOT, call, asked).await?,
        "CopyDBClusterSnapshot" => snapshots::copy(estate, &CLUSTER_SNAPSHOT, call, asked).await?,
        "DeleteDBSnapshot" => snapshots::delete(estate, &SNAPSHOT, call, asked).await?,
        "DeleteDBClusterSnapshot" => snapshots::delete(estate, &CLUSTER_SNAPSHOT, call, asked).await?,
        _ => estate.forward(asked).await?,
    };
    mend::mend(&estate.state(), &call.region, &mut answer);
    Ok(answer)
}
