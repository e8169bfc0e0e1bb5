//! Where a task stands in line, at a cost that hardly depends on how many tasks wait.

use mcpp_tool::store::{StoreError, View};

use crate::{
    queue::{self, ANY_TYPE, READY, ready_up_to},
    record::{State, Task},
};

/// Where a queued task stands among those that can be claimed, 1 for the next one. None if it does not wait for a worker, or stands too far from both ends of its priority to be
/// counted.
pub fn position(t: &View<'_>, task: &Task) -> Result<Option<u64>, StoreError> {
    /// Tasks of the same priority behind a task that are counted one by one. A new task has hardly any.
    const COUNTED_BEHIND: usize = 16;
    /// Those before it.
    const COUNTED_BEFORE: u64 = 10_000;
    if task.state != State::Ready {
        return Ok(None);
    }
    let own = queue::place(task);
    let Some(up_to) = ready_up_to(t, own.0)? else { return Ok(None) };
    let lane = queue::lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
    let line = READY.of(&(&lane, ANY_TYPE)).from(&(own.0,));
    let mut behind = 0_u64;
    for place in line.clone().after(&own).most(COUNTED_BEHIND).walk(t) {
        if place?.0 != own.0 {
            break;
        }
        behind = behind.saturating_add(1);
    }
    // The counts are of all lanes together.
    if lane == queue::OPEN_LANE && behind < COUNTED_BEHIND as u64 {
        return Ok(Some(up_to.saturating_sub(behind)));
    }
    let sooner = match own.0.checked_sub(1) {
        Some(above) => ready_up_to(t, above)?.unwrap_or_default(),
        None => 0,
    };
    if up_to.saturating_sub(sooner) > COUNTED_BEFORE {
        return Ok(None);
    }
    let mut position = sooner.saturating_add(1);
    for place in line.below(&own).walk(t) {
        place?;
        position = position.saturating_add(1);
    }
    Ok(Some(position))
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::{memory, snapshot, transact};

    use super::position;
    use crate::engine::{Draft, QueueError, Submission, find, submit};
    use crate::record::Spec;

    const NOW: u64 = 1_800_000_000_000;

    fn add(id: &str, priority: f64) {
        let spec = Spec { priority, ..Spec::new("kind", &serde_json::json!({})) };
        let draft = Draft::new(Submission { id: Some(id.to_owned()), not_before_ms: 0, spec }, id, NOW);
        transact(|t| submit(t, &draft, NOW).map(drop)).map_err(|error: QueueError| error).expect("submitted");
    }

    /// The place of a task, and how much the look at it read.
    fn look(id: &str) -> (Option<u64>, u64) {
        let view = snapshot().expect("a snapshot");
        let task = find(&view, id).expect("it is there");
        memory::spent();
        (position(&view, &task).expect("read"), memory::spent().bytes)
    }

    #[test]
    fn a_place_counts_those_that_are_sooner_from_either_end() {
        for number in 0..60 {
            add(&format!("t{number:05}"), 1.0);
        }
        for number in 0..5 {
            add(&format!("urgent{number}"), 9.0);
        }
        let place = |id: &str| look(id).0;
        assert_eq!(
            ["urgent0", "urgent4", "t00000", "t00030", "t00050", "t00059"].map(place),
            [Some(1), Some(5), Some(6), Some(36), Some(56), Some(65)]
        );
    }

    #[test]
    fn the_place_of_a_new_task_costs_the_same_however_many_wait() {
        (0..100).for_each(|number| add(&format!("t{number:05}"), 1.0));
        let (first, few) = look("t00099");
        (100..3_000).for_each(|number| add(&format!("t{number:05}"), 1.0));
        let (last, many) = look("t02999");
        assert_eq!((first, last), (Some(100), Some(3_000)));
        assert!(many <= few.saturating_mul(2), "{few} bytes among 100 tasks, {many} among 3,000");
    }
}
