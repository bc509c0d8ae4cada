//! Who looks during drills whether two servers take writes at the same time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use lifeboat::{cli::demo::estate::ADDRESSES, process::Tasks};

use super::lab::{Lab, wallet};

/// Looks all the time whether two servers take writes.
pub(super) struct Witness {
    tasks: Tasks,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    pub(super) fn start(lab: &Lab) -> Self {
        let (tasks, seen) = (Tasks::new(), Arc::new(Mutex::new(Vec::new())));
        let (engine, port) = (lab.app.database(&wallet()).unwrap().engine.clone(), lab.estate.port);
        let (stop, both) = (tasks.stop().clone(), Arc::clone(&seen));
        tasks.spawn(async move {
            let writes = async |site: usize| {
                let look = engine.look_at(ADDRESSES[site].into(), port, "wallet");
                let answer = tokio::time::timeout(Duration::from_secs(1), look).await;
                matches!(answer, Ok(Ok(answer)) if answer.wrote)
            };
            while !stop.is_cancelled() {
                // A server that takes writes before and after the other one does
                // takes them at the same time.
                if writes(0).await && writes(1).await && writes(0).await {
                    both.lock().unwrap().push("both servers take writes".to_owned());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { tasks, seen }
    }

    pub(super) async fn told(self) -> Vec<String> {
        self.tasks.shut_down().await;
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}
