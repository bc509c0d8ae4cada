//! Durable runs, on SQLite and on a real PostgreSQL: one list of cases for both
//! (`cases`), and what only shows under faults (`crash`, `partition`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what these helpers unwrap fails the test, and what they print is measured"
)]

/// Cases for both databases: a test each on SQLite, and one on PostgreSQL for all, with
/// a database of its own for each.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite {
            use crate::flow::state::State;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(&State::sqlite()).await;
            })*
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn every_case_holds_on_postgresql() {
            let lab = crate::support::Lab::start("").await;
            $({
                println!("case {}", stringify!($case));
                $case(&crate::flow::state::State::postgres(&lab, stringify!($case)).await).await;
            })*
        }
    };
}

mod apart;
mod cases;
mod crash;
mod exposure;
mod fleet;
pub(crate) mod generic;
mod nodes;
mod notices;
mod partition;
mod short;
mod speed;
mod state;
mod tables;
mod toy;
