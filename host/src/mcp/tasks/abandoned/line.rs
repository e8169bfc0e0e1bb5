//! The answers of one tenant that nobody waits for, in the order in which their components are told.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{call::asks::DeferredCall, memory::Reservation, tenant::Principal};

/// Answers in the line: as many as a tenant has tasks by default.
const MAX_ANSWERS: usize = 1_000;
/// How often a component is told of one answer, if it does not take it.
const ATTEMPTS: u32 = 3;
/// The wait after the first attempt; twice as long after each further one.
const AGAIN: Duration = Duration::from_secs(1);
/// For how long an answer may be in the line.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for an answer whose caller has lost its right.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// An answer that nobody waits for.
#[derive(Debug)]
pub(super) struct AbandonedAnswer {
    pub(super) asked: DeferredCall,
    /// Attempts to tell its component, so far.
    pub(super) attempts: u32,
    /// Whether its caller has lost its right, so that there is one attempt.
    is_last: bool,
    not_before: Instant,
    until: Instant,
    _memory: Reservation,
}

/// What to do next with a line.
#[derive(Debug)]
pub(super) enum NextAnswer {
    /// To tell of this answer.
    Now(AbandonedAnswer),
    /// To give this answer up.
    Late(AbandonedAnswer),
    /// To look again after this time.
    In(Duration),
    /// Nothing: the line is empty.
    None,
}

/// A tenant's line.
#[derive(Debug, Default)]
pub(super) struct AbandonedLine(VecDeque<AbandonedAnswer>);

impl AbandonedAnswer {
    pub(super) fn new(asked: DeferredCall, memory: Reservation, now: Instant) -> Self {
        let until = now + PATIENCE;
        Self { asked, attempts: 0, is_last: false, not_before: now, until, _memory: memory }
    }
}

impl AbandonedLine {
    /// Adds an answer; gives it back if the line is full.
    pub(super) fn add(&mut self, answer: AbandonedAnswer) -> Option<AbandonedAnswer> {
        if self.0.len() >= MAX_ANSWERS {
            return Some(answer);
        }
        self.0.push_back(answer);
        None
    }

    /// Takes the first answer whose time has come.
    pub(super) fn next(&mut self, now: Instant) -> NextAnswer {
        let Some(earliest) = self.0.iter().map(|answer| answer.not_before).min() else { return NextAnswer::None };
        let ready = self.0.iter().position(|answer| answer.not_before <= now);
        match ready.and_then(|at| self.0.remove(at)) {
            Some(answer) if answer.until < now => NextAnswer::Late(answer),
            Some(answer) => NextAnswer::Now(answer),
            None => NextAnswer::In(earliest.saturating_duration_since(now)),
        }
    }

    /// Puts an answer of which an attempt has failed back to the end; gives it up after the last attempt.
    pub(super) fn try_again(&mut self, mut answer: AbandonedAnswer, now: Instant) -> Option<AbandonedAnswer> {
        answer.attempts = answer.attempts.saturating_add(1);
        if answer.is_last || answer.attempts >= ATTEMPTS {
            return Some(answer);
        }
        answer.not_before = now + AGAIN.saturating_mul(2_u32.saturating_pow(answer.attempts.saturating_sub(1)));
        self.add(answer)
    }

    /// Gives answers of such callers one attempt, soon; drops those that have had one.
    pub(super) fn hurry(&mut self, now: Instant, has_lost_right: impl Fn(&Principal) -> bool) {
        self.0.retain_mut(|answer| {
            if answer.is_last || !has_lost_right(&answer.asked.request.principal) {
                return true;
            }
            answer.is_last = true;
            answer.until = answer.until.min(now + LAST_PATIENCE);
            answer.attempts == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::Request,
        memory::{AccountLimits, HostMemory, MemoryConfig, MemoryUse},
        names::ToolName,
    };

    fn answer(subject: &str, now: Instant) -> AbandonedAnswer {
        let principal = Principal { subject: subject.into(), ..Principal::local_user() };
        let (tool, handle) = (ToolName::new("t").expect("legal"), "h".to_owned());
        let asked = DeferredCall { request: Request::of(principal), tool, handle };
        let account = HostMemory::new(&MemoryConfig::default()).account(AccountLimits::default());
        AbandonedAnswer::new(asked, account.reserve(MemoryUse::Messages, 1).expect("room"), now)
    }

    fn take(line: &mut AbandonedLine, now: Instant) -> AbandonedAnswer {
        match line.next(now) {
            NextAnswer::Now(answer) => answer,
            other => panic!("not ready: {other:?}"),
        }
    }

    #[test]
    fn an_answer_that_is_not_taken_has_three_attempts_with_pauses_between() {
        let (mut line, mut now) = (AbandonedLine::default(), Instant::now());
        assert!(matches!(line.next(now), NextAnswer::None));
        assert!(line.add(answer("a", now)).is_none());
        for pause in [1, 2] {
            let failed = take(&mut line, now);
            assert!(line.try_again(failed, now).is_none());
            assert!(matches!(line.next(now), NextAnswer::In(left) if left == Duration::from_secs(pause)));
            now += Duration::from_secs(pause);
        }
        let failed = take(&mut line, now);
        assert_eq!(line.try_again(failed, now).map(|given_up| given_up.attempts), Some(3));
        assert!(matches!(line.next(now), NextAnswer::None));
    }

    #[test]
    fn the_line_is_bounded_in_number_and_in_time() {
        let (mut line, now) = (AbandonedLine::default(), Instant::now());
        for _ in 0..MAX_ANSWERS {
            assert!(line.add(answer("a", now)).is_none());
        }
        assert!(line.add(answer("a", now)).is_some());
        let later = now + PATIENCE + Duration::from_millis(1);
        assert!(matches!(line.next(later), NextAnswer::Late(_)));
    }

    #[test]
    fn an_answer_without_a_right_has_one_attempt_and_little_time() {
        let (mut line, now) = (AbandonedLine::default(), Instant::now());
        assert!(line.add(answer("revoked", now)).is_none());
        let failed = take(&mut line, now);
        assert!(line.try_again(failed, now).is_none());
        for subject in ["revoked", "revoked", "other"] {
            assert!(line.add(answer(subject, now)).is_none());
        }
        // However often somebody looks at rights.
        for _ in 0..3 {
            line.hurry(now, |caller| &*caller.subject == "revoked");
        }
        assert_eq!(line.0.len(), 3, "the one that had its attempt is gone");
        let failed = take(&mut line, now);
        assert_eq!(failed.attempts, 0);
        assert!(line.try_again(failed, now).is_some(), "there is no second attempt");
        let later = now + LAST_PATIENCE + Duration::from_millis(1);
        assert!(
            matches!(line.next(later), NextAnswer::Late(late) if &*late.asked.request.principal.subject == "revoked")
        );
        assert_eq!(&*take(&mut line, later).asked.request.principal.subject, "other");
    }
}
