//! The rule for names: of tasks, workers, types, sessions and keys. One rule at every door where a name is new, and nothing trims a name afterwards.
//!
//! Earlier versions took names with white space at their ends, and longer ids. Those are still found by their exact text.

use scheduling::hash::Hash;

use super::QueueError;

/// Longest name that is stored, in bytes. A key in the store holds up to four.
pub const MAX_ID_BYTES: usize = 200;
/// The bytes that a retry adds to an id: `-retry-` and as many digits as a count of retries has.
const RETRY_BYTES: usize = 17;
/// Longest id with which a task is submitted, in bytes: its retries have ids too.
pub const MAX_SUBMITTED_ID_BYTES: usize = MAX_ID_BYTES - RETRY_BYTES;

/// Whether something of this name can be stored, and so can be looked for.
pub fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.chars().any(char::is_control)
}

/// Checks a name that is new, of `field`.
pub fn check_name(field: &str, name: &str) -> Result<(), QueueError> {
    check_length(field, name, MAX_ID_BYTES)
}

/// Checks the id of a task that is new.
pub(super) fn check_task_id(id: &str) -> Result<(), QueueError> {
    check_length("task_id", id, MAX_SUBMITTED_ID_BYTES)
}

fn check_length(field: &str, name: &str, most: usize) -> Result<(), QueueError> {
    // A program that trims texts takes a byte-order mark for white space too.
    let is_space = |c: char| c.is_whitespace() || c == '\u{feff}';
    let wrong = if name.is_empty() || name.len() > most {
        format!("has {} bytes; 1 to {most} are allowed", name.len())
    } else if name.chars().any(char::is_control) {
        "has a control character".to_owned()
    } else if name.starts_with(is_space) || name.ends_with(is_space) {
        "begins or ends with white space".to_owned()
    } else {
        return Ok(());
    };
    Err(QueueError::Invalid(format!("{field} {wrong}: {:?}", name.chars().take(40).collect::<String>())))
}

/// The id of a task's retry: `<id>-retry-<number>`. Where that would be too long, the end of the id gives way to a hash of the whole id.
pub(super) fn retry_id(id: &str, number: u32) -> String {
    /// Digits of the hash: enough that two ids with one beginning do not meet.
    const HASH_DIGITS: usize = 16;
    let whole = format!("{id}-retry-{number}");
    if whole.len() <= MAX_ID_BYTES {
        return whole;
    }
    let hash: String = Hash::of(id).to_string().chars().take(HASH_DIGITS).collect();
    let end = format!("~{hash}-retry-{number}");
    let room = MAX_ID_BYTES.saturating_sub(end.len());
    let mut begin = String::new();
    for c in id.chars().take_while(|c| !c.is_control()) {
        if begin.len().saturating_add(c.len_utf8()) > room {
            break;
        }
        begin.push(c);
    }
    begin + &end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_white_space_at_its_ends_whatever_white_space_it_is() {
        for legal in ["a", "a b", "日本", &"x".repeat(MAX_ID_BYTES), "a\u{2003}b"] {
            assert_eq!(check_name("worker_id", legal), Ok(()), "{legal:?}");
        }
        for wrong in ["", " ", " a", "a ", "a\u{a0}", "\u{3000}a", "a\u{2028}", "\u{feff}a", "a\n", "\ta", "a\u{85}"] {
            let error = check_name("worker_id", wrong).expect_err(wrong).to_string();
            assert!(error.starts_with("worker_id "), "{error}");
        }
        assert!(check_name("worker_id", &"x".repeat(MAX_ID_BYTES + 1)).is_err());
        assert!(check_task_id(&"x".repeat(MAX_SUBMITTED_ID_BYTES)).is_ok());
        assert!(check_task_id(&"x".repeat(MAX_SUBMITTED_ID_BYTES + 1)).is_err());
    }

    #[test]
    fn a_retry_has_an_id_that_can_be_stored_and_is_its_own() {
        assert_eq!(retry_id("a", 1), "a-retry-1");
        let longest = "x".repeat(MAX_SUBMITTED_ID_BYTES);
        assert_eq!(retry_id(&longest, u32::MAX), format!("{longest}-retry-{}", u32::MAX));
        let (old, other) = ("é".repeat(100), "é".repeat(99) + "xx");
        let ids = [retry_id(&old, 1), retry_id(&old, 2), retry_id(&other, 1)];
        assert!(ids.iter().all(|id| is_id(id)), "{ids:?}");
        assert!(ids[0] != ids[1] && ids[0] != ids[2], "{ids:?}");
        // A retry may be retried, again and again.
        let again = (0..40).fold("y".repeat(180), |id, _| retry_id(&id, 1));
        assert!(is_id(&again), "{again}");
    }
}
