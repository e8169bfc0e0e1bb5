//! An end that its holder says again: the first answer was lost, and the work must not count as lost too.
//!
//! The last holder is known by its worker and its fencing token. A later claim has another token, and a lease that was taken back leaves no parting.

use serde_json::Value;

use super::{Claim, Outcome};
use crate::record::{Parting, PartingWord, Task};

/// Notes the word by which the holder of a running task parts from it.
pub(super) fn note(task: &mut Task, word: PartingWord) {
    task.parting = task.worker().map(|worker| Parting { worker: worker.to_owned(), word });
}

pub(super) fn word_of(outcome: &Outcome) -> PartingWord {
    match outcome {
        Outcome::Completed(_) => PartingWord::Completed,
        Outcome::Failed(..) => PartingWord::Failed,
        Outcome::FailedForGood(..) => PartingWord::FailedForGood,
        Outcome::Cancelled(_) => PartingWord::Cancelled,
    }
}

/// Whether the last holder parted with this word, and `by` is that holder. Only the token tells claims of one worker apart, so it must be given.
pub(super) fn is_parting(task: &Task, by: Claim<'_>, word: PartingWord) -> bool {
    let Some(parting) = task.parting.as_ref().filter(|_| task.lease().is_none()) else { return false };
    parting.word == word
        && by.token == Some(task.fencing_token)
        && by.worker.is_none_or(|worker| worker == parting.worker)
}

/// Whether the last holder says the same end again.
pub(super) fn is_said_again(task: &Task, by: Claim<'_>, outcome: &Outcome) -> bool {
    let is_kept = |result: &Option<Value>| result.as_ref().is_none_or(|result| has(task.result.as_ref(), result));
    is_parting(task, by, word_of(outcome))
        && match outcome {
            Outcome::Completed(result) => is_kept(result),
            Outcome::Failed(result, error) | Outcome::FailedForGood(result, error) => {
                is_kept(result) && task.error.as_ref() == Some(error)
            }
            Outcome::Cancelled(_) => true,
        }
}

/// Whether a result has another one in it: the results of several reports are one object.
fn has(kept: Option<&Value>, result: &Value) -> bool {
    match (kept, result) {
        (Some(Value::Object(kept)), Value::Object(result)) => {
            result.iter().all(|(name, value)| kept.get(name) == Some(value))
        }
        (kept, result) => kept == Some(result),
    }
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::{memory, transact};
    use serde_json::json;

    use super::*;
    use crate::{
        engine::{self, ClaimRequest, Draft, QueueError, Submission},
        record::{Spec, Status},
        rules::Refused,
    };

    const NOW: u64 = 1_800_000_000_000;

    fn claimed() -> Task {
        memory::clear();
        let spec = Spec::new("kind", &json!({}));
        let draft = Draft::new(Submission { id: Some("t".into()), not_before_ms: 0, spec }, "", NOW);
        transact(|t| engine::submit(t, &draft, NOW)).expect("submitted");
        claim("w").expect("a task")
    }

    fn claim(worker: &str) -> Option<Task> {
        let request = ClaimRequest { worker, ..ClaimRequest::default() };
        transact(|t| engine::claim(t, &request, NOW)).expect("claimed")
    }

    fn finish(by: Claim<'_>, outcome: &Outcome) -> Result<Task, QueueError> {
        transact(|t| engine::finish(t, "t", by, outcome.clone(), NOW + 5, 0.5))
    }

    fn by(worker: &'static str, token: u64) -> Claim<'static> {
        Claim { worker: Some(worker), token: Some(token) }
    }

    #[test]
    fn an_end_that_its_holder_says_again_is_right_and_changes_nothing() {
        let result = || Some(json!({ "n": 1 }));
        for (outcome, status) in [
            (Outcome::Completed(result()), Status::Completed),
            (Outcome::Completed(None), Status::Completed),
            (Outcome::FailedForGood(result(), "why".into()), Status::Failed),
            (Outcome::Cancelled("why".into()), Status::Cancelled),
            (Outcome::Failed(None, "why".into()), Status::Queued),
        ] {
            claimed();
            let first = finish(by("w", 1), &outcome).expect("ended");
            assert_eq!(first.status(), status);
            let before = memory::entries();
            let events = memory::emitted().len();
            assert_eq!(finish(by("w", 1), &outcome), Ok(first), "{outcome:?}");
            assert_eq!(finish(Claim { worker: None, token: Some(1) }, &outcome).map(|task| task.status()), Ok(status));
            assert_eq!((memory::entries(), memory::emitted().len()), (before, events), "{outcome:?} left something");
            for other in [by("x", 1), by("w", 2), by("w", 0), Claim { worker: Some("w"), token: None }] {
                assert!(matches!(finish(other, &outcome), Err(QueueError::Refused(_))), "{outcome:?} by {other:?}");
            }
            let another = Outcome::FailedForGood(None, "another".into());
            assert!(finish(by("w", 1), &another).is_err(), "another end is another matter");
        }
        claimed();
        finish(by("w", 1), &Outcome::Completed(result())).expect("ended");
        let another = Outcome::Completed(Some(json!({ "n": 2 })));
        assert_eq!(finish(by("w", 1), &another), Err(QueueError::Refused(Refused::Ended)));
    }

    #[test]
    fn a_task_that_was_given_back_is_given_back_once() {
        claimed();
        let release = || transact(|t| engine::release(t, "t", by("w", 1), "no", NOW + 5));
        let first = release().expect("given back");
        assert_eq!(release(), Ok(first), "the answer was lost");
        claim("w").expect("again");
        assert!(release().is_err(), "the token is an older claim's");
        assert!(finish(by("w", 1), &Outcome::Completed(None)).is_err());
        assert!(finish(by("w", 2), &Outcome::Completed(None)).is_ok());
    }
}
