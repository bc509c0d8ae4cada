use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::Verdict;

fn outline(no_return: Option<usize>) -> Vec<Outline> {
    let policy = |index| Policy {
        limit: Duration::from_secs(1),
        attempts: 2,
        backoff: Duration::ZERO,
        reversal: if no_return == Some(index) { Reversal::PointOfNoReturn } else { Reversal::Undo },
    };
    ["a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(index, name)| Outline { name: (*name).into(), policy: policy(index) })
        .collect()
}

fn journal(events: impl IntoIterator<Item = Event>) -> Vec<Entry> {
    (1..).zip(events).map(|(seq, event)| Entry { seq, at_ms: seq, event }).collect()
}

fn started(step: &str) -> Event {
    Event::StepStarted { step: step.into(), undo_plan: Some(json!(step)) }
}

fn succeeded(step: &str) -> Event {
    Event::StepSucceeded { step: step.into(), output: Value::Null }
}

fn failed(step: &str, permanent: bool) -> Event {
    Event::StepFailed { step: step.into(), error: "no".into(), permanent }
}

fn undo_failed(step: &str, permanent: bool) -> Event {
    Event::UndoFailed { step: step.into(), error: "no".into(), permanent }
}

fn signalled(name: &str) -> Event {
    Event::Signalled(Signal { name: name.into(), who: "ann".into(), payload: json!({ "reason": "enough" }) })
}

fn unwound(step: &str) -> Ending {
    Ending::Unwound { step: step.into(), error: "no".into() }
}

fn aborted() -> Ending {
    Ending::Aborted { who: "ann".into(), reason: "enough".into() }
}

fn begins(cause: Ending) -> Event {
    Event::UnwindBegan { cause }
}

fn ends(ending: Ending) -> Action {
    Action::Record(Event::Ended { ending })
}

#[test]
fn a_journal_says_what_is_next() {
    let run = |index, failures| Action::Run { index, failures };
    let undo = |index, plan: &str, failures| Action::Undo { index, plan: json!(plan), failures };
    let (past, before) = (Some(1), None);
    let table: Vec<(Option<usize>, Vec<Event>, Action)> = vec![
        (before, vec![], run(0, 0)),
        (before, vec![started("a")], run(0, 0)),
        (before, vec![started("a"), failed("a", false)], run(0, 1)),
        (before, vec![started("a"), succeeded("a")], run(1, 0)),
        // Failed for good: unwound, backwards, then ended.
        (before, vec![started("a"), failed("a", true)], Action::Record(begins(unwound("a")))),
        (before, vec![started("a"), failed("a", false), failed("a", false)], Action::Record(begins(unwound("a")))),
        (before, vec![started("a"), succeeded("a"), started("b"), begins(unwound("b"))], undo(1, "b", 0)),
        (before, vec![started("a"), begins(unwound("a")), undo_failed("a", false)], undo(0, "a", 1)),
        (
            before,
            vec![started("a"), begins(unwound("a")), Event::UndoSucceeded { step: "a".into() }],
            ends(unwound("a")),
        ),
        (
            before,
            vec![started("a"), begins(unwound("a")), undo_failed("a", true)],
            ends(Ending::Stuck { step: "a".into(), error: "no".into() }),
        ),
        // A step without an undo plan needs no undo; one that never began neither.
        (
            before,
            vec![Event::StepStarted { step: "a".into(), undo_plan: None }, begins(unwound("a"))],
            ends(unwound("a")),
        ),
        (before, vec![failed("a", true), begins(unwound("a"))], ends(unwound("a"))),
        // An abort counts whenever it came, once.
        (before, vec![signalled("abort")], Action::Record(begins(aborted()))),
        (before, vec![signalled("abort"), begins(aborted())], ends(aborted())),
        (before, vec![started("a"), begins(unwound("a")), signalled("abort")], undo(0, "a", 0)),
        (before, vec![Event::Ended { ending: Ending::Done }, signalled("abort")], Action::Conclude(Ending::Done)),
        (past, vec![started("a"), succeeded("a"), signalled("abort")], Action::Record(begins(aborted()))),
        // Past the point of no return a run only goes forward.
        (past, vec![started("a"), succeeded("a"), started("b"), failed("b", true)], Action::Record(held("b"))),
        (past, vec![started("a"), succeeded("a"), started("b"), failed("b", true), held("b")], Action::AwaitResume),
        (
            past,
            vec![succeeded("a"), started("b"), succeeded("b"), started("c"), failed("c", true)],
            Action::Record(held("c")),
        ),
        (
            past,
            vec![succeeded("a"), started("b"), failed("b", true), held("b"), signalled("resume")],
            Action::Record(Event::Resumed { signal: 5, who: "ann".into() }),
        ),
        (
            past,
            vec![
                succeeded("a"),
                started("b"),
                failed("b", true),
                held("b"),
                signalled("resume"),
                Event::Resumed { signal: 5, who: "ann".into() },
            ],
            run(1, 0),
        ),
        // A point of no return that never began is none.
        (past, vec![succeeded("a"), failed("b", true)], Action::Record(begins(unwound("b")))),
        // The end.
        (before, vec![succeeded("a"), succeeded("b"), succeeded("c")], ends(Ending::Done)),
        (before, vec![Event::Ended { ending: Ending::Done }], Action::Conclude(Ending::Done)),
        (before, vec![concluded()], Action::Nothing),
    ];
    for (no_return, events, expected) in table {
        let entries = journal(events);
        assert_eq!(next(&outline(no_return), &entries), expected, "{entries:?}");
    }
}

#[test]
fn a_late_abort_is_refused_and_a_strange_step_is_stuck() {
    let (past, before) = (Some(1), None);
    let late = journal([succeeded("a"), started("b"), signalled("abort")]);
    let refused = next(&outline(past), &late);
    assert!(matches!(refused, Action::Record(Event::AbortRefused { signal: 3, .. })), "{refused:?}");
    let strange = next(&outline(before), &journal([started("z")]));
    assert!(matches!(&strange, Action::Record(Event::Ended { ending: Ending::Stuck { step, .. } }) if step == "z"));
}

fn held(step: &str) -> Event {
    Event::Held { step: step.into(), error: "no".into() }
}

fn concluded() -> Event {
    Event::Concluded { conclusion: Conclusion { verdict: Verdict::Pass, output: Value::Null } }
}

/// What the world answers when a run acts, and what it sends.
#[derive(Debug, Clone, Copy)]
enum Chance {
    Succeeds,
    FailsForNow,
    FailsForGood,
    Crashes,
    Aborts,
    Resumes,
}

/// Plays a run against these chances, then lets everything succeed.
fn play(no_return: Option<usize>, chances: &[Chance]) -> Vec<Entry> {
    let outline = outline(no_return);
    let mut entries: Vec<Entry> = Vec::new();
    let push = |entries: &mut Vec<Entry>, event| {
        let seq = i64::try_from(entries.len()).unwrap() + 1;
        entries.push(Entry { seq, at_ms: seq, event });
    };
    let mut chances = chances.iter().copied();
    for _ in 0..500 {
        let action = next(&outline, &entries);
        let chance = match action {
            Action::Record(_) => Chance::Succeeds,
            Action::AwaitResume => Chance::Resumes,
            _ => chances.next().unwrap_or(Chance::Succeeds),
        };
        let permanent = matches!(chance, Chance::FailsForGood);
        let event = match (action, chance) {
            (Action::Nothing, _) => return entries,
            (_, Chance::Aborts) => signalled("abort"),
            (_, Chance::Resumes) => signalled("resume"),
            (_, Chance::Crashes) => Event::Taken { node: "n".into() },
            (Action::Record(event), _) => event,
            (Action::Run { index, .. }, _) => {
                let step = outline[index].name.clone();
                let begun =
                    entries.iter().any(|it| matches!(&it.event, Event::StepStarted { step: it, .. } if *it == step));
                match chance {
                    Chance::Succeeds if begun => succeeded(&step),
                    Chance::Succeeds => started(&step),
                    _ => failed(&step, permanent),
                }
            }
            (Action::Undo { index, .. }, Chance::Succeeds) => {
                Event::UndoSucceeded { step: outline[index].name.clone() }
            }
            (Action::Undo { index, .. }, _) => undo_failed(&outline[index].name, permanent),
            (Action::Conclude(_), Chance::Succeeds) => concluded(),
            (Action::Conclude(_), _) => continue,
            (Action::AwaitResume, _) => unreachable!(),
        };
        push(&mut entries, event);
    }
    panic!("a run that never ends: {entries:?}");
}

proptest! {
    #[test]
    fn every_run_ends_and_keeps_its_promises(
        no_return in prop::option::of(0usize..3),
        chances in prop::collection::vec(
            prop_oneof![
                5 => Just(Chance::Succeeds), 2 => Just(Chance::FailsForNow), 1 => Just(Chance::FailsForGood),
                1 => Just(Chance::Crashes), 1 => Just(Chance::Aborts), 1 => Just(Chance::Resumes),
            ],
            0..40,
        ),
    ) {
        let entries = play(no_return, &chances);
        let past = ["a", "b", "c"].iter().enumerate().any(|(index, name)| {
            Some(index) == no_return
                && entries.iter().any(|it| matches!(&it.event, Event::StepStarted { step, .. } if step == name))
        });
        let unwinding = entries.iter().position(|it| matches!(it.event, Event::UnwindBegan { .. }));
        prop_assert!(!(past && unwinding.is_some()), "undone past the point of no return");
        let ending = entries.iter().find_map(|it| match &it.event {
            Event::Ended { ending } => Some(ending.clone()),
            _ => None,
        }).unwrap();
        let (mut begun, mut undone) = (Vec::new(), Vec::new());
        for (place, entry) in entries.iter().enumerate() {
            match &entry.event {
                Event::StepStarted { step, .. } => {
                    prop_assert!(unwinding.is_none_or(|at| place < at), "a step began while others were undone");
                    begun.push(step.clone());
                }
                Event::UndoSucceeded { step } => undone.push(step.clone()),
                _ => {}
            }
        }
        prop_assert_eq!(begun.iter().collect::<BTreeSet<_>>().len(), begun.len(), "a plan was recorded twice");
        begun.reverse();
        match ending {
            Ending::Done => prop_assert!(undone.is_empty() && begun.len() == 3),
            Ending::Unwound { .. } | Ending::Aborted { .. } => prop_assert_eq!(undone, begun),
            Ending::Stuck { step, .. } => {
                prop_assert_eq!(&begun[..undone.len()], &undone[..]);
                prop_assert_eq!(&begun[undone.len()], &step);
            }
        }
    }
}

#[test]
fn a_run_without_steps_ends_and_names_what_it_made() {
    let ended = |events: Vec<Event>| end_without_steps(&journal(events), "gone");
    let error = "gone".to_owned();
    let unwound = |step: &str| {
        let ending = Ending::Unwound { step: step.into(), error: error.clone() };
        Some(Event::Ended { ending })
    };
    assert_eq!(ended(vec![]), unwound("steps"), "not begun");
    let plain = Event::StepStarted { step: "a".into(), undo_plan: None };
    assert_eq!(ended(vec![plain.clone()]), unwound("a"), "nothing to undo");
    let undone = Event::UndoSucceeded { step: "b".into() };
    assert_eq!(ended(vec![plain.clone(), started("b"), undone.clone()]), unwound("b"), "undone already");
    let left = ended(vec![started("a"), succeeded("a"), started("b"), undone, failed("c", true)]);
    let Some(Event::Ended { ending: Ending::Stuck { step, error } }) = left else { panic!("{left:?}") };
    assert_eq!((step.as_str(), error.as_str()), ("a", "gone; what may be left: `a` made \"a\""));
    let both = ended(vec![started("a"), started("b")]);
    let Some(Event::Ended { ending: Ending::Stuck { step, error } }) = both else { panic!("{both:?}") };
    assert!(step == "b" && error.contains("`a` made") && error.contains("`b` made"), "{error}");
    assert_eq!(ended(vec![plain, Event::Ended { ending: Ending::Done }]), None, "it is over");
}
