//! Stands between the SDK and moto: notes each call, and answers some itself, which moto
//! does not know.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use lifeboat::process::Tasks;

/// A call as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub action: String,
    pub region: String,
    /// The id of the access key that signed it.
    pub key: String,
    pub parameters: BTreeMap<String, String>,
}

impl Recorded {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The tags that it sets.
    pub(super) fn tags(&self) -> BTreeMap<&str, &str> {
        let keys = self.parameters.iter().filter_map(|(name, key)| {
            let number = name.strip_prefix("Tags.Tag.")?.strip_suffix(".Key")?;
            Some((key.as_str(), self.get(&format!("Tags.Tag.{number}.Value"))?))
        });
        keys.collect()
    }
}

/// An answer of our own to an action in a region.
#[derive(Debug, Clone)]
struct Canned {
    action: &'static str,
    region: &'static str,
    status: u16,
    body: String,
}

#[derive(Debug, Default)]
struct Kept {
    calls: Vec<Recorded>,
    canned: Vec<Canned>,
}

#[derive(Clone)]
struct Between {
    kept: Arc<Mutex<Kept>>,
    to: String,
    client: reqwest::Client,
}

/// Ends when dropped.
pub(super) struct Recorder {
    pub endpoint: String,
    kept: Arc<Mutex<Kept>>,
    tasks: Tasks,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl Recorder {
    pub(super) async fn before(to: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (kept, tasks) = (Arc::<Mutex<Kept>>::default(), Tasks::new());
        let between = Between { kept: Arc::clone(&kept), to: to.to_owned(), client: reqwest::Client::new() };
        let router = Router::new().fallback(pass).with_state(between);
        let stop = tasks.stop().clone();
        tasks.spawn(stop.run_until_cancelled_owned(async move { axum::serve(listener, router).await.unwrap() }));
        Self { endpoint, kept, tasks }
    }

    /// From now on this is answered to the action in the region; `result` is what stands in
    /// the answer's result.
    pub(super) fn answer(&self, action: &'static str, region: &'static str, result: &str) {
        let space = "http://rds.amazonaws.com/doc/2014-10-31/";
        let body =
            format!("<{action}Response xmlns=\"{space}\"><{action}Result>{result}</{action}Result></{action}Response>");
        self.kept.lock().unwrap().canned.push(Canned { action, region, status: 200, body });
    }

    /// From now on the action fails in the region.
    pub(super) fn fail(&self, action: &'static str, region: &'static str, status: u16, code: &str) {
        let body = format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
        );
        self.kept.lock().unwrap().canned.push(Canned { action, region, status, body });
    }

    /// What was asked so far.
    pub(super) fn calls(&self) -> Vec<Recorded> {
        self.kept.lock().unwrap().calls.clone()
    }

    /// The last call of this action.
    pub(super) fn last(&self, action: &str) -> Recorded {
        self.calls().into_iter().rfind(|call| call.action == action).unwrap()
    }
}

/// Access key and region: `Credential=KEY/DATE/REGION/SERVICE/aws4_request`
fn signed_for(headers: &HeaderMap) -> (String, String) {
    let text = headers["authorization"].to_str().unwrap();
    let scope: Vec<&str> = text.split("Credential=").nth(1).unwrap().split('/').collect();
    (scope[0].to_owned(), scope[2].to_owned())
}

async fn pass(State(between): State<Between>, request: Request) -> (StatusCode, HeaderMap, Bytes) {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let form = reqwest::Url::parse(&format!("http://form/?{}", String::from_utf8_lossy(&body))).unwrap();
    let parameters: BTreeMap<String, String> = form.query_pairs().into_owned().collect();
    let action = parameters.get("Action").cloned().unwrap_or_default();
    let (key, region) = signed_for(&head.headers);
    let canned = {
        let mut kept = between.kept.lock().unwrap();
        let canned = kept.canned.iter().rfind(|canned| canned.action == action && canned.region == region).cloned();
        kept.calls.push(Recorded { action, region, key, parameters });
        canned
    };
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "text/xml".parse().unwrap());
    if let Some(canned) = canned {
        return (StatusCode::from_u16(canned.status).unwrap(), headers, canned.body.into());
    }
    let mut sent = head.headers;
    for name in ["host", "content-length", "transfer-encoding", "connection"] {
        sent.remove(name);
    }
    let url = format!("{}{}", between.to, head.uri);
    let answer = between.client.request(head.method, url).headers(sent).body(body).send().await.unwrap();
    (answer.status(), headers, answer.bytes().await.unwrap())
}
