//! A line to a server that can go dead: nothing passes any more, in either
//! direction, and neither end is told. So does a host that vanishes.

use std::future::pending;

use lifeboat::process::Tasks;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Ends when dropped; then both ends are told.
pub(crate) struct Line {
    pub port: u16,
    is_dead: watch::Sender<bool>,
    tasks: Tasks,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl Line {
    /// To the server on this port of 127.0.0.1.
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tasks, is_dead) = (Tasks::new(), watch::Sender::new(false));
        let (all, state) = (tasks.clone(), is_dead.subscribe());
        tasks.spawn(async move {
            let stop = all.stop().clone();
            while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
                let state = state.clone();
                let carried = async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(carry(from_client, to_server, &state), carry(from_server, to_client, &state));
                };
                let stop = stop.clone();
                all.spawn(async move { stop.run_until_cancelled_owned(carried).await });
            }
        });
        Self { port, is_dead, tasks }
    }

    pub(crate) fn go_dead(&self) {
        self.is_dead.send_replace(true);
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, is_dead: &watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        // An end that breaks has ended.
        let count = from.read(&mut bytes).await.unwrap_or(0);
        if *is_dead.borrow() {
            pending::<()>().await;
        }
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
