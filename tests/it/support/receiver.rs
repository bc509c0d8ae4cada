//! A receiver of webhooks: a real HTTP server that keeps what it gets, and answers
//! what a test tells it to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use lifeboat::process::Tasks;

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Post {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// A status, how many seconds to wait where it says so, and a text.
pub(crate) type Answer = (u16, Option<u64>, &'static str);

#[derive(Default)]
struct Kept {
    posts: Vec<Post>,
    answers: VecDeque<Answer>,
}

/// Ends when dropped.
pub(crate) struct Receiver {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    kept: Arc<Mutex<Kept>>,
    tasks: Tasks,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (kept, tasks) = (Arc::<Mutex<Kept>>::default(), Tasks::new());
        let router = Router::new().fallback(take).with_state(Arc::clone(&kept));
        let stop = tasks.stop().clone();
        tasks.spawn(stop.run_until_cancelled_owned(async move { axum::serve(listener, router).await.unwrap() }));
        Self { url, kept, tasks }
    }

    /// Each of these is an answer to one post; then it takes all.
    pub(crate) fn answer(&self, answers: &[Answer]) {
        self.kept.lock().unwrap().answers = answers.iter().copied().collect();
    }

    /// What was posted so far, also what was refused.
    pub(crate) fn posts(&self) -> Vec<Post> {
        self.kept.lock().unwrap().posts.clone()
    }
}

async fn take(State(kept): State<Arc<Mutex<Kept>>>, request: Request) -> (StatusCode, HeaderMap, &'static str) {
    let (head, body) = request.into_parts();
    if head.method != "POST" {
        return (StatusCode::METHOD_NOT_ALLOWED, HeaderMap::new(), "");
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut kept = kept.lock().unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    kept.posts.push(Post { path: head.uri.path().to_owned(), headers: head.headers, body });
    let (status, wait, text) = kept.answers.pop_front().unwrap_or((200, None, "ok"));
    let mut headers = HeaderMap::new();
    if let Some(wait) = wait {
        headers.insert("retry-after", wait.into());
    }
    (StatusCode::from_u16(status).unwrap(), headers, text)
}
