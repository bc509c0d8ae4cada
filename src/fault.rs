//! Named fault points. `LIFEBOAT_FAULT=kill@flow.step_started.after:3` makes the
//! process kill itself the third time that point is passed, and `trace@FILE` makes it
//! write down the name of each that it passes. Tests use them to prove that a crash at
//! any instant is survived; they cost one atomic load when the variable is not set.
//!
//! `blind@NAME` makes a check of restore tests see nothing, so that tests can prove that
//! the self-test finds a blind verifier. A release build knows no such thing: nobody may
//! be able to switch a check off.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

enum Plan {
    Kill { point: String, nth: u32, passed: AtomicU32 },
    Trace(PathBuf),
    Blind(String),
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

fn plan() -> Option<&'static Plan> {
    PLAN.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "fault points are no setting of an operator")]
        let text = std::env::var("LIFEBOAT_FAULT").ok()?;
        if let Some(file) = text.strip_prefix("trace@") {
            return Some(Plan::Trace(PathBuf::from(file)));
        }
        if let Some(check) = text.strip_prefix("blind@") {
            return Some(Plan::Blind(check.to_owned()));
        }
        let (point, nth) = text.strip_prefix("kill@")?.rsplit_once(':')?;
        Some(Plan::Kill { point: point.to_owned(), nth: nth.parse().ok()?, passed: AtomicU32::new(0) })
    })
    .as_ref()
}

/// Marks a point at which a test may kill this process with SIGKILL.
pub fn point(name: &str) {
    match plan() {
        Some(Plan::Trace(file)) => trace(file, name),
        Some(Plan::Kill { point, nth, passed }) if point == name || point == "*" => {
            let passed = passed.fetch_add(1, Ordering::SeqCst) + 1;
            if passed == *nth {
                kill(name);
            }
        }
        Some(Plan::Kill { .. } | Plan::Blind(_)) | None => {}
    }
}

/// Whether a test has this check of restore tests see nothing; never in a release build.
pub fn is_blinded(check: &str) -> bool {
    cfg!(debug_assertions) && matches!(plan(), Some(Plan::Blind(blinded)) if blinded == check)
}

fn kill(name: &str) {
    tracing::warn!(point = name, "killing this process as asked");
    if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL) {
        tracing::error!(%error, "cannot kill this process");
    }
}

fn trace(file: &Path, name: &str) {
    let opened = OpenOptions::new().append(true).create(true).open(file);
    // In one write: points are passed by several threads.
    if let Err(error) = opened.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes())) {
        tracing::error!(%error, "cannot write down that a fault point was passed");
    }
}
