//! Random histories of a queue.

use mcpp_tool::store::{StoreError, memory::Failure};
use proptest::prelude::*;

use super::{LINES, TYPES, WORKERS_NAMES};

#[derive(Debug, Clone)]
pub(super) enum Op {
    Submit(Box<Wish>),
    /// All of them or none.
    SubmitMany(Vec<Wish>),
    Claim {
        worker: usize,
        /// A bit for each.
        types: u8,
        session: bool,
        most: usize,
        same_type: bool,
    },
    /// Which of the claims so far, by its own worker and token, or by those of another claim.
    Finish {
        which: usize,
        outcome: u8,
        token_of: usize,
        /// Whether the token is shown too, or the worker's name alone.
        token: bool,
    },
    /// Which of the claims so far, and how each ends.
    FinishMany(Vec<(usize, u8)>),
    Renew {
        which: usize,
        token_of: usize,
    },
    Release(usize),
    Cancel {
        which: usize,
        force: bool,
    },
    Priority(usize, i8),
    Retry(usize),
    Pause(bool),
    /// Time goes by, in milliseconds, and the timer wakes if it is due.
    Wait(u64),
    /// The limits of a key.
    Limit {
        line: usize,
        concurrency: Option<u32>,
        rate: Option<u32>,
    },
    Register(usize, u32),
    Unregister(usize, bool),
    Keep(u64),
    /// Waiting raises the priority, by one in so many milliseconds.
    Age(Option<u64>),
    /// The host gives the alarm up, and somebody claims much later.
    Park,
    /// Time goes by, and the host is late to wake the timer.
    Late(u64),
    /// Something of the above, of which one commit fails: that after so many others.
    Broken(Box<Op>, usize, Failure),
    /// Time goes by, and the timer's handler fails as often as this, each time at another commit. The host gives the timer up then, or delivers it once more.
    FailingTimer {
        after_ms: u64,
        fails_at: Vec<(usize, Failure)>,
        gives_up: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) task_type: usize,
    pub(super) priority: i8,
    pub(super) depends_on: Option<usize>,
    pub(super) session: bool,
    pub(super) sticky: Option<usize>,
    pub(super) key: Option<u8>,
    pub(super) delay_ms: u64,
    pub(super) max_attempts: u32,
    pub(super) timeout_ms: Option<u64>,
    pub(super) line: Option<usize>,
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        Just(Failure::Lost(StoreError::Unavailable)),
        Just(Failure::Lost(StoreError::Conflict)),
        Just(Failure::Lost(StoreError::QuotaExceeded)),
        Just(Failure::Unheard)
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let failing = (1_u64..400_000, prop::collection::vec((0_usize..8, failure()), 1..4), any::<bool>())
        .prop_map(|(after_ms, fails_at, gives_up)| Op::FailingTimer { after_ms, fails_at, gives_up });
    prop_oneof![
        12 => whole_op(),
        2 => (whole_op(), 0_usize..3, failure()).prop_map(|(op, after, failure)| Op::Broken(Box::new(op), after, failure)),
        1 => failing,
    ]
}

/// An operation in which nothing fails.
fn whole_op() -> impl Strategy<Value = Op> {
    let wish = (
        (0..TYPES.len(), -2_i8..3, prop::option::weighted(0.3, 0_usize..8), prop::bool::weighted(0.2)),
        (prop::option::weighted(0.15, 0..WORKERS_NAMES.len()), prop::option::weighted(0.2, 0_u8..3)),
        (prop_oneof![3 => Just(0_u64), 1 => 1_u64..5_000], 0_u32..4, prop::option::weighted(0.2, 1_u64..400_000)),
        prop::option::weighted(0.4, 0..LINES.len()),
    )
        .prop_map(
            |(
                (task_type, priority, depends_on, session),
                (sticky, key),
                (delay_ms, max_attempts, timeout_ms),
                line,
            )| {
                Wish { task_type, priority, depends_on, session, sticky, key, delay_ms, max_attempts, timeout_ms, line }
            },
        );
    let which = 0_usize..8;
    prop_oneof![
        6 => wish.clone().prop_map(|wish| Op::Submit(Box::new(wish))),
        2 => prop::collection::vec(wish, 1..5).prop_map(Op::SubmitMany),
        8 => (0..WORKERS_NAMES.len(), 0_u8..8, any::<bool>(), prop_oneof![2 => Just(1_usize), 1 => 2_usize..6], any::<bool>())
            .prop_map(|(worker, types, session, most, same_type)| Op::Claim { worker, types, session, most, same_type }),
        2 => prop::collection::vec((which.clone(), 0_u8..4), 1..5).prop_map(Op::FinishMany),
        6 => (which.clone(), 0_u8..4, which.clone(), prop::bool::weighted(0.7))
            .prop_map(|(which, outcome, token_of, token)| Op::Finish { which, outcome, token_of, token }),
        2 => (which.clone(), which.clone()).prop_map(|(which, token_of)| Op::Renew { which, token_of }),
        1 => which.clone().prop_map(Op::Release),
        1 => (which.clone(), any::<bool>()).prop_map(|(which, force)| Op::Cancel { which, force }),
        1 => (which.clone(), -2_i8..3).prop_map(|(which, priority)| Op::Priority(which, priority)),
        1 => which.prop_map(Op::Retry),
        1 => any::<bool>().prop_map(Op::Pause),
        3 => prop_oneof![1_u64..2_000, 100_000_u64..400_000].prop_map(Op::Wait),
        1 => (0..LINES.len(), prop::option::of(0_u32..3), prop::option::of(1_u32..4))
            .prop_map(|(line, concurrency, rate)| Op::Limit { line, concurrency, rate }),
        1 => (0..WORKERS_NAMES.len(), 1_u32..3).prop_map(|(worker, most)| Op::Register(worker, most)),
        1 => (0..WORKERS_NAMES.len(), any::<bool>()).prop_map(|(worker, graceful)| Op::Unregister(worker, graceful)),
        1 => (0_u64..4).prop_map(Op::Keep),
        1 => Just(Op::Park),
        1 => prop::option::of(1_u64..100_000).prop_map(Op::Age),
        2 => prop_oneof![1_u64..2_000, 100_000_u64..400_000].prop_map(Op::Late),
    ]
}
