//! Named fault points. `LIFEBOAT_FAULT=kill@flow.step.started:3` makes the
//! process kill itself the third time that point is passed. Tests use it to
//! prove that a crash at any instant is survived; it costs one atomic load when
//! the variable is not set.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
};

struct Plan {
    point: String,
    nth: u32,
    passed: Mutex<HashMap<String, u32>>,
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

fn plan() -> Option<&'static Plan> {
    PLAN.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "fault points are no setting of an operator")]
        let text = std::env::var("LIFEBOAT_FAULT").ok()?;
        let (point, nth) = text.strip_prefix("kill@")?.rsplit_once(':')?;
        Some(Plan { point: point.to_owned(), nth: nth.parse().ok()?, passed: Mutex::default() })
    })
    .as_ref()
}

/// Marks a point at which a test may kill this process with SIGKILL.
pub fn point(name: &str) {
    let Some(plan) = plan() else { return };
    if plan.point != name && plan.point != "*" {
        return;
    }
    let mut passed = plan.passed.lock().unwrap_or_else(PoisonError::into_inner);
    let count = passed.entry(plan.point.clone()).or_default();
    *count += 1;
    if *count == plan.nth {
        tracing::warn!(point = name, "killing this process as asked");
        if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL) {
            tracing::error!(%error, "cannot kill this process");
        }
    }
}
