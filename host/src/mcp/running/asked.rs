//! The questions of a request that runs, on their way to its client.

use tokio::sync::mpsc;

use crate::{
    call::inputs::{ClientLine, Round},
    mcp::parked::RequestBinding,
};

/// The questions of a request that runs.
#[derive(Debug)]
pub(in crate::mcp) struct GuestQuestions {
    pub(in crate::mcp) client: ClientLine,
    pub(in crate::mcp) first: Option<Round>,
    rest: Option<mpsc::Receiver<Round>>,
    binding: Option<RequestBinding>,
    id: Option<u128>,
    rounds_so_far: u32,
    /// Whether the request runs in a task of its own.
    pub(in crate::mcp) is_driven: bool,
}

impl GuestQuestions {
    /// Those that come on a line, for a request that is bound to its caller and its parameters.
    pub(in crate::mcp) fn new(
        client: ClientLine,
        rest: Option<mpsc::Receiver<Round>>,
        binding: Option<RequestBinding>,
    ) -> Self {
        Self { client, first: None, rest, binding, id: None, rounds_so_far: 0, is_driven: false }
    }

    /// The next round of questions.
    pub(in crate::mcp) async fn next(&mut self) -> Round {
        if let Some(first) = self.first.take() {
            return first;
        }
        if let Some(rest) = &mut self.rest
            && let Some(round) = rest.recv().await
        {
            return round;
        }
        std::future::pending().await
    }

    /// Caller and request; none if the client cannot be asked.
    pub(in crate::mcp) fn binding(&self) -> Option<&RequestBinding> {
        self.binding.as_ref()
    }

    /// A number that names the request, for ever the same.
    pub(in crate::mcp) fn call_id(&mut self) -> u128 {
        *self.id.get_or_insert_with(|| {
            let mut bytes = [0; 16];
            let _another_call_may_then_have_it = getrandom::fill(&mut bytes);
            u128::from_be_bytes(bytes)
        })
    }

    /// The number of the next time that the client is asked.
    pub(in crate::mcp) fn next_round(&mut self) -> u32 {
        self.rounds_so_far = self.rounds_so_far.saturating_add(1);
        self.rounds_so_far
    }
}
