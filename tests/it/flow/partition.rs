//! What happens between a node and its state database: cut connections, and a
//! partition that swallows packets. A proxy in this process plays the network.

use std::{sync::Arc, time::Duration};

use lifeboat::{
    flow::{RunState, Runner},
    process::Tasks,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

use super::{
    cases::{count, events},
    state::{State, TTL, off_by, runner, with_clock},
    toy::{Act, Toy, effects, step},
};
use crate::support::{Lab, eventually};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Connections break, new ones are closed at once.
    Cut,
    /// Connections stay and nothing gets through until it is fair again.
    BlackHole,
}

/// A network between a node and PostgreSQL.
struct Network {
    weather: watch::Sender<Weather>,
    port: u16,
    tasks: Tasks,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl Network {
    async fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (weather, port, tasks) =
            (watch::Sender::new(Weather::Fair), listener.local_addr().unwrap().port(), Tasks::new());
        let (carried, seen, stop) = (tasks.clone(), weather.clone(), tasks.stop().clone());
        tasks.spawn(async move {
            while let Some(Ok((near, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (seen, stop) = (seen.clone(), stop.clone());
                carried.spawn(async move { stop.run_until_cancelled(carry(near, server_port, &seen)).await });
            }
        });
        Self { weather, port, tasks }
    }

    fn becomes(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn carry(near: TcpStream, server_port: u16, weather: &watch::Sender<Weather>) {
    let mut changes = weather.subscribe();
    changes.wait_for(|weather| *weather != Weather::BlackHole).await.unwrap();
    let Ok(far) = TcpStream::connect(("127.0.0.1", server_port)).await else { return };
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = changes.wait_for(|weather| *weather == Weather::Cut) => {}
        () = pump(near_read, far_write, weather) => {}
        () = pump(far_read, near_write, weather) => {}
    }
}

async fn pump(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, weather: &watch::Sender<Weather>) {
    let (mut seen, mut bytes) = (weather.subscribe(), vec![0; 16 * 1024]);
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        seen.wait_for(|weather| *weather != Weather::BlackHole).await.unwrap();
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

const SOON: Duration = Duration::from_secs(60);

/// A run of many effects, driven by node `a` through the network.
async fn driven_through(
    network: &Network,
    state: &State,
    tasks: &Tasks,
    effects_wanted: u32,
) -> (Arc<Runner>, lifeboat::domain::RunId, tokio::task::JoinHandle<RunState>) {
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", network.port, state.url.rsplit_once('/').unwrap().1);
    // Its clock is an hour behind, which changes nothing.
    let node = with_clock(&url, "a", TTL, off_by(-1)).await;
    let steps = [
        step("one", Act::Make),
        step("two", Act::Effects { count: effects_wanted, pause_ms: 50 }),
        step("three", Act::Make),
    ];
    let run = Toy::new(state.folder.path(), steps).run("wallet", "1");
    node.submit(run.clone()).await.unwrap();
    let (there, id) = (Arc::clone(&node), run.id.clone());
    let driven = tasks.spawn(async move { there.drive(&id).await.unwrap().state });
    eventually("node a acts", SOON, || async { effects(state.folder.path()).len() > 5 }).await;
    (node, run.id, driven)
}

fn times(state: &State, what: &str) -> usize {
    effects(state.folder.path()).iter().filter(|line| line.ends_with(what)).count()
}

/// The step ends while the database is away, so its journal write must wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_ends_while_the_database_is_away_is_journaled_once() {
    let lab = Lab::start("").await;
    for weather in [Weather::Cut, Weather::BlackHole] {
        let name = format!("{weather:?}").to_lowercase();
        let (state, network, tasks) = (State::postgres(&lab, &name).await, Network::to(lab.port).await, Tasks::new());
        let url = format!("postgres://postgres@127.0.0.1:{}/{name}", network.port);
        let node = runner(&url, "a", TTL).await;
        let steps = [step("one", Act::Pause { ms: 500 }), step("two", Act::Make)];
        let run = Toy::new(state.folder.path(), steps).run("wallet", "1");
        node.submit(run.clone()).await.unwrap();
        let (there, id) = (Arc::clone(&node), run.id.clone());
        let driven = tasks.spawn(async move { there.drive(&id).await.unwrap().state });
        eventually("one acts", SOON, || async { effects(state.folder.path()).len() == 1 }).await;
        network.becomes(weather);
        tokio::time::sleep(TTL * 3).await;
        network.becomes(Weather::Fair);
        assert_eq!(tokio::time::timeout(SOON, driven).await.unwrap().unwrap(), RunState::Done);
        assert_eq!(effects(state.folder.path()), ["a one made", "a two made"]);
        assert_eq!(count(&state, &run.id, "step_succeeded").await, 2);
        assert_eq!(count(&state, &run.id, "taken").await, 1);
    }
}

async fn a_blip_costs_nothing(weather: Weather) {
    let lab = Lab::start("").await;
    let (state, network, tasks) = (State::postgres(&lab, "blip").await, Network::to(lab.port).await, Tasks::new());
    let (_node, id, driven) = driven_through(&network, &state, &tasks, 60).await;
    network.becomes(weather);
    // Over the end of the lease and beyond, while the step goes on.
    tokio::time::sleep(TTL * 3).await;
    network.becomes(Weather::Fair);
    assert_eq!(tokio::time::timeout(SOON, driven).await.unwrap().unwrap(), RunState::Done);
    for number in 0..60 {
        assert_eq!(times(&state, &format!(" effect {number}")), 1, "effect {number}");
    }
    assert_eq!(
        times(&state, "one made") + times(&state, "two made") + times(&state, "three made"),
        3,
        "no step was repeated"
    );
    let journal = events(&state, &id).await;
    assert!(journal.iter().all(|event| event["event"] != "step_failed"), "{journal:?}");
    assert_eq!(count(&state, &id, "taken").await, 1);
    let lines: Vec<String> = journal.iter().map(ToString::to_string).collect();
    let distinct: std::collections::BTreeSet<_> = lines.iter().collect();
    assert_eq!(distinct.len(), lines.len(), "no event was written twice: {lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_cost_nothing() {
    a_blip_costs_nothing(Weather::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_costs_nothing() {
    a_blip_costs_nothing(Weather::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_partition_acts_last_before_the_other_acts_first() {
    let lab = Lab::start("").await;
    let (state, network, tasks) = (State::postgres(&lab, "partition").await, Network::to(lab.port).await, Tasks::new());
    let (_node, id, driven) = driven_through(&network, &state, &tasks, 80).await;
    network.becomes(Weather::BlackHole);
    let other = with_clock(&state.url, "b", TTL, off_by(1)).await;
    let run = tokio::time::timeout(SOON, other.drive(&id)).await.unwrap().unwrap();
    assert_eq!(run.state, RunState::Done);
    let acted = effects(state.folder.path());
    let first_of_b = acted.iter().position(|line| line.starts_with("b ")).unwrap();
    assert!(acted[..first_of_b].iter().all(|line| line.starts_with("a ")));
    assert!(acted[first_of_b..].iter().all(|line| line.starts_with("b ")), "{acted:?}");
    network.becomes(Weather::Fair);
    // The cut-off node learns that it was fenced, and then how the run ended.
    assert_eq!(tokio::time::timeout(SOON, driven).await.unwrap().unwrap(), RunState::Done);
    assert_eq!(effects(state.folder.path()).len(), acted.len(), "it did nothing more");
    for number in 0..80 {
        assert_eq!(times(&state, &format!(" effect {number}")), 1, "effect {number}");
    }
    assert_eq!(count(&state, &id, "taken").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_costs_nothing() {
    let lab = Lab::start("").await;
    let (state, network, tasks) = (State::postgres(&lab, "restart").await, Network::to(lab.port).await, Tasks::new());
    let (_node, id, driven) = driven_through(&network, &state, &tasks, 30).await;
    lab.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'restart'").await;
    assert_eq!(tokio::time::timeout(SOON, driven).await.unwrap().unwrap(), RunState::Done);
    assert_eq!(count(&state, &id, "step_failed").await, 0);
    assert_eq!(count(&state, &id, "taken").await, 1);
}
