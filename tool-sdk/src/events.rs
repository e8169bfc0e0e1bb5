//! Events and timers: what a component is told of. They are written in a transaction ([`Transaction::emit`](crate::store::Transaction::emit),
//! [`Transaction::wake_at`](crate::store::Transaction::wake_at), [`Alarm`](crate::store::Alarm)) and handled by functions that [`export!`](crate::export!) names.
//!
//! ```
//! use mcpp_tool::{Error, events::{Event, Wake, once}, store::{Counter, Map, transact}, tool};
//!
//! const ORDERS: Map<u64, String> = Map::new("orders");
//! const LAST: Counter = Counter::new("last-order");
//!
//! /// Takes an order; its number. On disk when this returns.
//! #[tool]
//! fn order(what: String) -> Result<u64, Error> {
//!     transact(|t| {
//!         let number = LAST.add(t, 1)?.unsigned_abs();
//!         ORDERS.set(t, &number, &what)?;
//!         t.emit("ordered", &number.to_string(), what.as_bytes())?;  // delivered after the commit, or never
//!         Ok(number)
//!     })
//! }
//!
//! /// Told of every order, at least once; `once` makes its effects happen once.
//! fn on_ordered(event: Event) -> Result<(), Error> {
//!     let in_a_minute = event.time_ms + 60_000;
//!     once(&event.id, event.time_ms, |t| Ok::<_, Error>(t.wake_at(&event.key, in_a_minute, b"remind")?))?;
//!     Ok(())
//! }
//!
//! /// Called when a timer is due, also if the host was restarted meanwhile.
//! fn on_wake(wake: Wake) -> Result<(), Error> {
//!     mcpp_tool::log::info(&format!("order {} waits", wake.key));
//!     Ok(())
//! }
//!
//! mcpp_tool::export! {
//!     tools: [order],
//!     events: { "ordered" => on_ordered },  // `other-component/topic` needs a grant; `"*"` takes all that the grant names
//!     timers: on_wake,
//! }
//! # fn main() {
//! #     assert_eq!(order("tea".into()), Ok(1));
//! # }
//! ```
//!
//! A handler may be called again for what it has handled already, if the host crashed in between: [`once`] sees to it that its effects happen once.

use crate::store::{Map, StoreError, Transaction, transact};

/// An event of a topic that the component is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique in the tenant; the same at every repetition.
    pub id: String,
    /// `<component>/<name>`.
    pub topic: String,
    /// The key that orders events: those with one topic and key come one by one.
    pub key: String,
    /// Its contents.
    pub payload: Vec<u8>,
    /// When it was emitted, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The cause of the event: `tool <name> by <subject>`, `event <id>` or `timer <id>`.
    pub cause: String,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// A timer that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    /// Unique in the tenant; the same at every repetition.
    pub id: String,
    /// The timer's key.
    pub key: String,
    /// The payload that was written with it.
    pub payload: Vec<u8>,
    /// When it was due, in milliseconds since 1970-01-01 UTC.
    pub due_ms: u64,
    /// The cause of the timer: the call or delivery that set it.
    pub cause: String,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// Deliveries that were handled, by time and id.
const HANDLED: Map<(u64, String), ()> = Map::new("mcpp.handled");
/// How long an id is remembered, in milliseconds: seven days. A delivery that was given up and is retried later than that may happen twice.
pub const REMEMBERED_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// Old ids that are forgotten with each new one.
const FORGOTTEN_AT_ONCE: usize = 2;

/// Runs `work` in a transaction, unless a delivery with this id and time (`time_ms` of an event, `due_ms` of a timer) has done so before; none if it has.
///
/// # Errors
/// As [`transact`].
pub fn once<T, E: From<StoreError>>(
    id: &str,
    time_ms: u64,
    mut work: impl FnMut(&Transaction<'static>) -> Result<T, E>,
) -> Result<Option<T>, E> {
    transact(|t| {
        let handled = (time_ms, id.to_owned());
        if HANDLED.get(t, &handled)?.is_some() {
            return Ok(None);
        }
        for old in HANDLED.all().most(FORGOTTEN_AT_ONCE).walk(t) {
            let (old, ()) = old?;
            if old.0.saturating_add(REMEMBERED_MS) < time_ms {
                HANDLED.remove(t, &old)?;
            }
        }
        HANDLED.set(t, &handled, &())?;
        work(t).map(Some)
    })
}

/// A handler of events.
pub type OnEvent = fn(Event) -> Result<(), crate::Error>;
/// A handler of timers.
pub type OnWake = fn(Wake) -> Result<(), crate::Error>;

/// The events and timers that a component handles.
pub trait Handlers {
    /// Topics and their handlers: `<component>/<name>`, `<name>` for one of its own, `<component>/*` for those of a component that the grant names, `*` for all of other components
    /// that it names.
    const EVENTS: &'static [(&'static str, OnEvent)];
    /// The handler of timers.
    const TIMERS: Option<OnWake>;
}

/// The handler of a topic: the nearest one, a wildcard last. A name alone is the component's own; which component that is, the host says in a delivery.
pub(crate) fn handler_of<H: Handlers>(topic: &str, own: Option<&str>) -> Option<OnEvent> {
    let find = |topic: &str| H::EVENTS.iter().find(|(name, _)| *name == topic).map(|(_, handler)| *handler);
    let (component, name) = topic.split_once('/')?;
    let is_own = own.is_none_or(|own| own == component);
    let of_others = || find(&format!("{component}/*")).or_else(|| find("*"));
    find(topic).or_else(|| find(name).filter(|_| is_own)).or_else(of_others)
}

/// The topics of which this component is told now, `<component>/<name>` or `<component>/*`: its own, and those of others that its subscriptions and its grant name. In a native test
/// what [`memory::subscribe`](crate::store::memory::subscribe) has set.
pub fn subscribed() -> Vec<String> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::mcpp::events::outbox::subscribed();
    #[cfg(not(target_arch = "wasm32"))]
    crate::store::memory::subscribed()
}

/// Whether one of these [topics](subscribed) is this one, or stands for it.
pub fn covers(topics: &[String], topic: &str) -> bool {
    let is_it = |known: &String| match known.strip_suffix('*') {
        Some(component) => topic.strip_prefix(component).is_some_and(|name| !name.is_empty()),
        None => known == topic,
    };
    topics.iter().any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Counter, memory, snapshot};

    #[test]
    fn a_repetition_has_no_effect_and_old_ids_are_forgotten() {
        memory::clear();
        let count = Counter::new("count");
        let handle = |id: &str, time_ms| once(id, time_ms, |t| count.add(t, 1));
        assert_eq!(handle("a", 1), Ok(Some(1)));
        assert_eq!(handle("a", 1), Ok(None));
        assert_eq!(handle("b", 1), Ok(Some(2)));
        assert_eq!(handle("c", REMEMBERED_MS + 2), Ok(Some(3)));
        let left: Vec<_> = HANDLED.all().collect(&snapshot().expect("a snapshot")).expect("read");
        assert_eq!(left.len(), 1, "{left:?}");
    }

    struct Told;
    impl Handlers for Told {
        const EVENTS: &'static [(&'static str, OnEvent)] =
            &[("*", all), ("ready", own), ("orders/*", orders), ("orders/paid", paid)];
        const TIMERS: Option<OnWake> = None;
    }
    fn said(text: &str) -> Result<(), crate::Error> {
        Err(crate::Error::failed(text))
    }
    fn all(_: Event) -> Result<(), crate::Error> {
        said("all")
    }
    fn own(_: Event) -> Result<(), crate::Error> {
        said("own")
    }
    fn orders(_: Event) -> Result<(), crate::Error> {
        said("orders")
    }
    fn paid(_: Event) -> Result<(), crate::Error> {
        said("paid")
    }

    #[test]
    fn the_nearest_handler_has_an_event_and_another_components_topic_is_never_an_own_one() {
        for (topic, handler) in [
            ("me/ready", Some(own as OnEvent)),
            ("orders/paid", Some(paid)),
            ("orders/sent", Some(orders)),
            ("orders/ready", Some(orders)),
            ("other/ready", Some(all)),
            ("nothing", None),
        ] {
            let say = |handler: OnEvent| {
                handler(Event {
                    id: String::new(),
                    topic: topic.to_owned(),
                    key: String::new(),
                    payload: Vec::new(),
                    time_ms: 0,
                    cause: String::new(),
                    attempt: 1,
                })
            };
            assert_eq!(handler_of::<Told>(topic, Some("me")).map(say), handler.map(say), "{topic}");
        }
    }

    #[test]
    fn a_pattern_covers_the_topics_of_its_component_alone() {
        let topics = ["orders/*".to_owned(), "queue/ended".to_owned()];
        for (topic, is_covered) in [
            ("orders/paid", true),
            ("orders/", false),
            ("queue/ended", true),
            ("queue/task", false),
            ("ordersx/a", false),
        ] {
            assert_eq!(covers(&topics, topic), is_covered, "{topic}");
        }
    }
}
