//! A restore test whose daemon is killed, and that is aborted in each of its steps: no
//! copy is ever left, and the verdict is that of an undisturbed test.

use lifeboat::{app::Role, domain::RecoveryAlgorithm, flow::RunState, flows::restore_test::Point};

use super::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_test_that_is_killed_or_aborted_leaves_no_copy() {
    let mut lab = Lab::start(Role::WithoutDns).await;
    lab.serve(None);
    lab.protected().await;
    let backup = lab.submit(lab.backup()).await;
    assert_eq!(lab.ended(&backup).await.state, RunState::Done);
    let undisturbed = lab.submit(lab.restore_test()).await;
    let undisturbed = lab.ended(&undisturbed).await;
    let expected = lab.assert_ended("undisturbed", &undisturbed, RunState::Done, "PASS").await;
    lab.kill().await;

    // With it end the heartbeats that tell how much was lost.
    let (run, point) = (lab.restore_test(), "restore_test.started:1");
    let run = lab.killed_at(point, run).await;
    let record = lab.assert_ended(point, &run, RunState::Done, "PASS").await;
    assert_eq!(record["verdicts"], expected["verdicts"], "{point}");
    lab.assert_no_copy_is_left(point);

    // With a state database beside the copy, which goes away with it.
    let (run, point) = (lab.restore_test_of(Point::By(RecoveryAlgorithm::CatalogLost)), "restore_test.frozen:1");
    let run = lab.killed_at(point, run).await;
    let record = lab.assert_ended(point, &run, RunState::Done, "PASS").await;
    assert_eq!(record["why"]["selection"]["choice"], "latest", "{record}");
    lab.assert_no_copy_is_left(point);

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
    lab.tear_down().await;
}
