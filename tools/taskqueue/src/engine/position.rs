//! Where a task stands in line, at a cost that hardly depends on how many tasks wait.

use std::collections::BTreeMap;

use mcpp_tool::store::{StoreError, View};

use crate::{
    queue::{self, ANY_TYPE, Place, READY, ReadyRanks, ready_ranks},
    record::{State, Task},
};

/// Tasks of the same priority behind a task that are counted one by one. A new task has hardly any.
const COUNTED_BEHIND: usize = 16;
/// The same for many tasks together, beside themselves.
const COUNTED_AT_ONCE: usize = 500;
/// Those before it.
const COUNTED_BEFORE: u64 = 10_000;

/// Where a queued task stands among those that can be claimed, 1 for the next one. None if it does not wait for a worker, or stands too far from both ends of its priority to be
/// counted.
pub fn position(t: &View<'_>, task: &Task) -> Result<Option<u64>, StoreError> {
    if task.state == State::Ready { position_among(t, &ready_ranks(t)?, task) } else { Ok(None) }
}

/// The same for many tasks, at the cost of one look at the priorities, and of one for those of a lane and priority that stand close to the end of their line.
pub fn positions<'a>(
    t: &View<'_>,
    tasks: impl Iterator<Item = &'a Task>,
) -> Result<BTreeMap<&'a str, u64>, StoreError> {
    let (ranks, mut positions) = (ready_ranks(t)?, BTreeMap::new());
    let mut groups: BTreeMap<(String, u64), Vec<(Place, &Task)>> = BTreeMap::new();
    for task in tasks.filter(|task| task.state == State::Ready) {
        let place = queue::place(task);
        groups.entry((lane_of(task), place.0)).or_default().push((place, task));
    }
    for ((lane, rank), group) in groups {
        let most = COUNTED_AT_ONCE.saturating_add(group.len());
        let Some((first, _)) = group.iter().min_by_key(|(place, _)| place) else { continue };
        let line = READY.of(&(&lane, ANY_TYPE)).below(&(rank.saturating_add(1),)).after(first).most(most);
        let behind = line.walk(t).collect::<Result<Vec<Place>, StoreError>>()?;
        let all = ranks.up_to(rank).filter(|_| lane == queue::OPEN_LANE && behind.len() < most);
        for (own, task) in group {
            let of_rank = behind.iter().filter(|place| place.0 == rank && **place > own).count();
            let position = match all {
                Some(all) => all.checked_sub(u64::try_from(of_rank).unwrap_or(u64::MAX)),
                None => position_among(t, &ranks, task)?,
            };
            // A worker may have claimed it meanwhile.
            positions.extend(position.filter(|position| *position > 0).map(|position| (task.id.as_str(), position)));
        }
    }
    Ok(positions)
}

fn lane_of(task: &Task) -> String {
    queue::lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref())
}

fn position_among(t: &View<'_>, ranks: &ReadyRanks, task: &Task) -> Result<Option<u64>, StoreError> {
    let own = queue::place(task);
    let Some(up_to) = ranks.up_to(own.0) else { return Ok(None) };
    let lane = lane_of(task);
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
    let sooner = own.0.checked_sub(1).and_then(|above| ranks.up_to(above)).unwrap_or_default();
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

    use super::{position, positions};
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
    fn many_places_are_those_of_each() {
        for number in 0..60 {
            add(&format!("t{number:05}"), if number % 3 == 0 { 4.0 } else { 1.0 });
        }
        let view = snapshot().expect("a snapshot");
        let find = |number: usize| find(&view, &format!("t{number:05}")).expect("it is there");
        for tasks in [0..60, 30..50, 50..60, 57..58] {
            let tasks: Vec<_> = tasks.map(find).collect();
            let many = positions(&view, tasks.iter()).expect("read");
            for task in &tasks {
                let one = position(&view, task).expect("read");
                assert_eq!(many.get(task.id.as_str()).copied(), one, "{} of {}", task.id, tasks.len());
            }
        }
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
