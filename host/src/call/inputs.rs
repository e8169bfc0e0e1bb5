//! Questions of a guest to the client of its call, and the line on which they reach the door.
//!
//! A call's deadline stands still while its client is asked, and so do the deadlines of the calls around it: they share one [`CallClock`].

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use super::Content;
use crate::{memory::Reservation, schema::Schema};

/// Things that a client may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Its user fills in forms.
    pub form: bool,
    /// Its user opens pages.
    pub url: bool,
    /// Its model writes messages.
    pub sampling: bool,
    /// It has a list of roots.
    pub roots: bool,
}

impl Abilities {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self.form || self.url || self.sampling || self.roots
    }

    /// Whether the client has one.
    pub fn has(self, ability: Ability) -> bool {
        match ability {
            Ability::Form => self.form,
            Ability::Url => self.url,
            Ability::Sampling => self.sampling,
            Ability::Roots => self.roots,
        }
    }
}

/// One thing that a client may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// A form.
    Form,
    /// A page.
    Url,
    /// A message of its model.
    Sampling,
    /// Its roots.
    Roots,
}

impl Ability {
    /// Its name in errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Form => "elicitation.form",
            Self::Url => "elicitation.url",
            Self::Sampling => "sampling",
            Self::Roots => "roots",
        }
    }
}

/// One question to a client. Its parts are within bounds.
#[derive(Debug, Clone)]
pub enum InputQuestion {
    /// A form for the user.
    Form {
        /// For the user.
        message: String,
        /// The schema of the reply.
        schema: Schema,
    },
    /// A page for the user to open.
    Url {
        /// For the user.
        message: String,
        /// Its address.
        url: String,
    },
    /// A message for the model to write.
    Sample(Sample),
    /// The client's roots.
    Roots,
}

impl InputQuestion {
    /// The ability that it needs.
    pub fn ability(&self) -> Ability {
        match self {
            Self::Form { .. } => Ability::Form,
            Self::Url { .. } => Ability::Url,
            Self::Sample(_) => Ability::Sampling,
            Self::Roots => Ability::Roots,
        }
    }
}

/// A message for a model to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The conversation so far.
    pub messages: Vec<ModelMessage>,
    /// Instructions.
    pub system_prompt: Option<String>,
    /// The most that the model may write, in tokens.
    pub max_tokens: u32,
    /// Randomness.
    pub temperature: Option<f64>,
    /// Texts at which the model stops.
    pub stop_sequences: Vec<String>,
    /// Which model.
    pub preferences: Option<ModelChoice>,
}

/// Which model is wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelChoice {
    /// Names, the best first.
    pub hints: Vec<String>,
    /// How much low cost matters.
    pub cost: Option<f64>,
    /// How much speed matters.
    pub speed: Option<f64>,
    /// How much ability matters.
    pub intelligence: Option<f64>,
}

/// A message of a conversation with a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelMessage {
    /// Whether the model says it; else the user does.
    pub is_of_model: bool,
    /// Texts, pictures and sounds.
    pub content: Vec<Content>,
}

/// A reply to one question.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The values of a form, or the consent to a page.
    Accepted(Option<Value>),
    /// The user said no.
    Declined,
    /// The user closed the question.
    Cancelled,
    /// The model's message.
    Sampled {
        /// The message.
        message: ModelMessage,
        /// The model's name.
        model: String,
        /// Why it stopped.
        stop_reason: Option<String>,
    },
    /// The client's roots, by URI and name.
    Roots(Vec<(String, Option<String>)>),
}

/// Why there are no replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskError {
    /// The client did not declare an ability.
    Undeclared(Ability),
    /// There is no client to ask, or it is gone.
    NoClient,
    /// There is no room for one more waiting call.
    Busy,
    /// The client did not reply in time.
    Expired,
    /// MCP does not allow a question.
    Invalid(String),
    /// The client replied with something else.
    Refused(String),
}

/// One round of questions on its way to the client.
#[derive(Debug)]
pub struct Round {
    /// The questions, by name.
    pub questions: Vec<(String, InputQuestion)>,
    /// Receiver of the replies, in the order of the questions.
    pub replies: oneshot::Sender<Result<Vec<Reply>, AskError>>,
    /// Memory of the questions.
    pub memory: Reservation,
    /// Until when the guest waits.
    pub until: Instant,
}

/// A call's line to its client. Clones are the same line; nested calls have that of the call around them.
#[derive(Debug, Clone, Default)]
pub struct ClientLine(Option<Arc<ClientLineState>>);

#[derive(Debug)]
struct ClientLineState {
    abilities: Abilities,
    /// Where questions go, and the clock that stands still meanwhile; none where the client can be asked nothing.
    rounds: Option<(mpsc::Sender<Round>, Arc<CallClock>)>,
    undeclared: OnceLock<Ability>,
}

impl ClientLine {
    /// A line to a client with these abilities. There is no receiver for one that has none.
    pub fn new(abilities: Abilities) -> (Self, Option<mpsc::Receiver<Round>>) {
        let (rounds, receiver) = abilities.any().then(|| mpsc::channel(1)).unzip();
        let rounds = rounds.map(|rounds| (rounds, Arc::default()));
        let state = ClientLineState { abilities, rounds, undeclared: OnceLock::new() };
        (Self(Some(Arc::new(state))), receiver)
    }

    /// What the client may be asked.
    pub fn abilities(&self) -> Abilities {
        self.0.as_ref().map(|line| line.abilities).unwrap_or_default()
    }

    /// The clock of the calls that share the line.
    pub fn clock(&self) -> Option<Arc<CallClock>> {
        self.0.as_ref()?.rounds.as_ref().map(|(_, clock)| Arc::clone(clock))
    }

    /// The first ability that a guest needed and the client had not declared.
    pub fn undeclared(&self) -> Option<Ability> {
        self.0.as_ref()?.undeclared.get().copied()
    }

    /// Checks that the client declared all that the questions need.
    pub fn check(&self, questions: &[(String, InputQuestion)]) -> Result<(), AskError> {
        let Some(line) = &self.0 else { return Err(AskError::NoClient) };
        let missing = questions.iter().map(|(_, asked)| asked.ability()).find(|ability| !line.abilities.has(*ability));
        match missing {
            None => Ok(()),
            Some(ability) => {
                let _first = line.undeclared.set(ability);
                Err(AskError::Undeclared(ability))
            }
        }
    }

    /// Asks a round of questions and waits for the replies.
    pub async fn ask(
        &self,
        questions: Vec<(String, InputQuestion)>,
        memory: Reservation,
        until: Instant,
    ) -> Result<Vec<Reply>, AskError> {
        let (rounds, _) = self.0.as_ref().and_then(|line| line.rounds.as_ref()).ok_or(AskError::NoClient)?;
        let (replies, replied) = oneshot::channel();
        let sent = rounds.send(Round { questions, replies, memory, until }).await;
        sent.map_err(|_| AskError::NoClient)?;
        replied.await.unwrap_or(Err(AskError::NoClient))
    }
}

/// A clock that stands still while the client is asked.
#[derive(Debug, Default)]
pub struct CallClock {
    stops: Mutex<Stops>,
    goes_on: Notify,
}

#[derive(Debug, Default)]
struct Stops {
    /// Time for which it stood still before.
    before: Duration,
    /// Since when it stands still, and for how many.
    now: Option<(Instant, u32)>,
}

impl CallClock {
    fn stops(&self) -> MutexGuard<'_, Stops> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time for which it has stood still so far.
    pub fn stood_still(&self) -> Duration {
        let stops = self.stops();
        let now = stops.now.map(|(since, _)| since.elapsed()).unwrap_or_default();
        stops.before.saturating_add(now)
    }

    /// Whether it stands still.
    pub fn stands_still(&self) -> bool {
        self.stops().now.is_some()
    }

    /// Resolves when a deadline is reached that moves by the time for which the clock has stood still since `before`. No timer runs while it stands still.
    pub async fn reach(&self, deadline: Instant, before: Duration) {
        loop {
            let mut goes_on = std::pin::pin!(self.goes_on.notified());
            goes_on.as_mut().enable();
            if self.stands_still() {
                goes_on.await;
                continue;
            }
            let moved = self.moved(deadline, before);
            if Instant::now() >= moved {
                return;
            }
            tokio::time::sleep_until(moved).await;
        }
    }

    /// Where such a deadline has moved to.
    pub fn moved(&self, deadline: Instant, before: Duration) -> Instant {
        deadline.checked_add(self.stood_still().saturating_sub(before)).unwrap_or(deadline)
    }

    /// Stops it until the value is dropped.
    pub fn stop(self: &Arc<Self>) -> StoppedClock {
        let mut stops = self.stops();
        let (since, of) = stops.now.unwrap_or((Instant::now(), 0));
        stops.now = Some((since, of.saturating_add(1)));
        drop(stops);
        StoppedClock(Arc::clone(self))
    }
}

/// The clock stands still as long as one of these exists.
#[derive(Debug)]
pub struct StoppedClock(Arc<CallClock>);

impl Drop for StoppedClock {
    fn drop(&mut self) {
        let mut stops = self.0.stops();
        let Some((since, of)) = stops.now else { return };
        if of > 1 {
            stops.now = Some((since, of.saturating_sub(1)));
            return;
        }
        stops.before = stops.before.saturating_add(since.elapsed());
        stops.now = None;
        drop(stops);
        self.0.goes_on.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_stands_still_until_the_last_one_goes_on() {
        let clock = Arc::new(CallClock::default());
        let (outer, inner) = (clock.stop(), clock.stop());
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(outer);
        assert!(clock.stands_still());
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(inner);
        assert!(!clock.stands_still());
        let stood_still = clock.stood_still();
        assert!(stood_still >= Duration::from_millis(30), "{stood_still:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(clock.stood_still(), stood_still, "it goes on");
    }

    #[test]
    fn the_first_undeclared_ability_is_kept() {
        let (line, rounds) = ClientLine::new(Abilities { form: true, ..Abilities::default() });
        assert!(rounds.is_some());
        let form = || {
            (
                "f".to_owned(),
                InputQuestion::Form {
                    message: "m".into(),
                    schema: Schema::parse(r#"{"type":"object"}"#).expect("a schema"),
                },
            )
        };
        assert_eq!(line.check(&[form()]), Ok(()));
        assert_eq!(
            line.check(&[form(), ("r".into(), InputQuestion::Roots)]),
            Err(AskError::Undeclared(Ability::Roots))
        );
        assert_eq!(line.undeclared(), Some(Ability::Roots));
        assert_eq!(ClientLine::default().check(&[form()]), Err(AskError::NoClient));
    }
}
