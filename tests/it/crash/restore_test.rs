//! A restore test under kill -9 and aborts: no copy is ever left, and the
//! verdict is that of an undisturbed test.

use lifeboat::{app::Role, flow::RunState};

use super::lab::Lab;

/// Steps: 1 choose, 2 fetch, 3 prove, 4 `tear_down`.
const POINTS: [&str; 8] = [
    "restore_test.frozen:1",
    "flow.step_started.after:2",
    "flow.step_succeeded.before:2",
    "restore_test.ahead:1",
    "restore_test.started:1",
    "flow.step_succeeded.before:3",
    "flow.step_succeeded.before:4",
    "flow.concluded.before:1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_test_that_is_killed_anywhere_ends_as_if_nothing_had_happened() {
    let mut lab = Lab::start(Role::WithoutDns).await;
    lab.serve(None);
    lab.protected().await;
    let backup = lab.submit(lab.backup()).await;
    assert_eq!(lab.ended(&backup).await.state, RunState::Done);
    let undisturbed = lab.submit(lab.restore_test()).await;
    let undisturbed = lab.ended(&undisturbed).await;
    let expected = lab.assert_ended("undisturbed", &undisturbed, RunState::Done, "PASS").await;
    lab.kill().await;

    for point in POINTS {
        let run = lab.restore_test();
        let run = lab.killed_at(point, run).await;
        let record = lab.assert_ended(point, &run, RunState::Done, "PASS").await;
        assert_eq!(record["verdicts"], expected["verdicts"], "{point}");
        lab.assert_no_copy_is_left(point);
    }

    lab.serve(None);
    lab.protected().await;
    for step in ["choose", "fetch", "prove"] {
        let run = lab.submit(lab.restore_test()).await;
        lab.until_step(&run, step).await;
        lab.app.runner.abort(&run, "tester", "a test").await.unwrap();
        let run = lab.ended(&run).await;
        lab.assert_ended(step, &run, RunState::Unwound, "ABORTED").await;
        lab.assert_no_copy_is_left(step);
    }
    lab.tear_down(None).await;
}
