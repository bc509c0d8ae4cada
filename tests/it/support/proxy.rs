//! A proxy before an HTTP server that answers in its place, changes what is
//! asked, holds it back, or hangs up, as a test demands. One request per connection.

use std::sync::{Arc, Mutex};

use lifeboat::process::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// What becomes of a request.
pub(crate) enum Fate {
    /// Goes on as it is.
    Pass,
    /// Goes on with this head, without the empty line.
    Change(String),
    /// Is answered with this, whole.
    Answer(String),
    /// The connection ends: before the server sees it, or after so many bytes of its answer.
    HangUp,
    CutAfter(u64),
    /// Goes on once there is a permit.
    Hold(Arc<Semaphore>),
}

type Rule = Box<dyn FnMut(&str) -> Fate + Send>;

/// Ends when dropped.
pub(crate) struct Proxy {
    pub endpoint: String,
    /// The heads of all requests so far.
    pub seen: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl Proxy {
    /// Before the server at `upstream` (`http://HOST:PORT`). `rule` sees each
    /// request's line and headers.
    pub(crate) async fn start(upstream: &str, rule: impl FnMut(&str) -> Fate + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (tasks, seen) = (Tasks::new(), Arc::new(Mutex::new(Vec::new())));
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(rule)));
        let (all, heads) = (tasks.clone(), Arc::clone(&seen));
        tasks.spawn(async move {
            let stop = all.stop().clone();
            while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (upstream, rule, heads) = (upstream.clone(), Arc::clone(&rule), Arc::clone(&heads));
                let one = async move {
                    // A client that went away is not the proxy's concern.
                    let _served = serve(client, &upstream, &rule, &heads).await;
                };
                let stop = stop.clone();
                all.spawn(async move { stop.run_until_cancelled_owned(one).await });
            }
        });
        Self { endpoint, seen, tasks }
    }

    /// How many requests had this in their line or headers.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|head| head.contains(text)).count()
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: &str,
    rule: &Mutex<Rule>,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = bytes.split_off(end + 4);
    heads.lock().unwrap().push(head.clone());
    let fate = (rule.lock().unwrap())(&head);
    let (head, cut) = match fate {
        Fate::Pass => (head, None),
        Fate::Change(head) => (head, None),
        Fate::CutAfter(count) => (head, Some(count)),
        Fate::Hold(until) => {
            let _permit = until.acquire().await;
            (head, None)
        }
        Fate::HangUp => return Ok(()),
        Fate::Answer(text) => return answer(client, &head, body.len() as u64, &text).await,
    };
    let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head = format!("{}\r\nconnection: close\r\n\r\n", kept.collect::<Vec<_>>().join("\r\n"));
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(head.as_bytes()).await?;
    server.write_all(&body).await?;
    match cut {
        None => copy_bidirectional(&mut client, &mut server).await.map(drop),
        Some(count) => {
            // What is asked arrives whole, also where it did not come with its head.
            let mut rest = (&mut client).take(left_of(&head, body.len() as u64));
            tokio::io::copy(&mut rest, &mut server).await?;
            let mut answer = vec![0; usize::try_from(count).unwrap()];
            server.read_exact(&mut answer).await?;
            client.write_all(&answer).await
        }
    }
}

/// A client that still sends would not see the answer, so all it sends is taken.
async fn answer(mut client: TcpStream, head: &str, have: u64, text: &str) -> std::io::Result<()> {
    let mut rest = (&mut client).take(left_of(head, have));
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await
}

/// How much of a body is still to come; nothing where the client waits to be asked for it.
fn left_of(head: &str, have: u64) -> u64 {
    let lower = head.to_ascii_lowercase();
    let field = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: u64 = field("content-length:").map_or(0, |length| length.parse().unwrap());
    if field("expect:").is_none() { length.saturating_sub(have) } else { 0 }
}

/// An answer of an S3 store that something is wrong.
pub(crate) fn trouble(status: u16, code: &str, headers: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>said so</Message></Error>"
    );
    format!(
        "HTTP/1.1 {status} Trouble\r\ncontent-type: application/xml\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
