//! A call that its server made a task, followed to its end.

use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ElicitRequestParams, ErrorData,
    GetTaskParams, InputRequest, InputRequests, InputResponses, Task, TaskPayload, UpdateTaskParams,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Client, ClientError, Repeat, Waits, elicit};

/// How often a server is asked that does not say how often, and the most often.
const POLL: Duration = Duration::from_secs(1);
const LEAST_POLL: Duration = Duration::from_millis(50);
/// No wait between two looks is longer.
const MOST_POLL: Duration = Duration::from_secs(30);
/// Times that one call may ask its user.
const MAX_ROUNDS: usize = 100;

impl Client {
    /// Calls a tool, answers what it asks, and follows it if it becomes a task.
    pub(super) async fn call_to_end(&self, mut params: CallToolRequestParams) -> Result<CallToolResult, ClientError> {
        for _ in 0..MAX_ROUNDS {
            let mut waits = Waits::new(self.config.retries);
            let response = loop {
                match self.bounded(self.service.call_tool_once(params.clone())).await {
                    Err(error @ ClientError::Refused { repeat: Repeat::HasNotRun, .. }) => waits.next(error).await?,
                    response => break response?,
                }
            };
            match response {
                CallToolResponse::Complete(result) => return Ok(result),
                CallToolResponse::Task(made) => return self.follow(made.task).await,
                CallToolResponse::InputRequired(asked) => {
                    params.input_responses = Some(self.answers(asked.input_requests.unwrap_or_default()).await);
                    params.request_state = asked.request_state;
                }
                _ => return Err(ClientError::Broken("the server gave an answer of no known kind".to_owned())),
            }
        }
        Err(ClientError::Broken(format!("the tool asked more than {MAX_ROUNDS} times")))
    }

    /// Looks at a task until it has ended. Cancels it when the user does not want it any more.
    async fn follow(&self, task: Task) -> Result<CallToolResult, ClientError> {
        let mut ending = std::pin::pin!(self.ended(&task));
        tokio::select! {
            ended = &mut ending => return ended,
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
        self.bounded(self.service.cancel_task(CancelTaskParams::new(task.task_id.clone()))).await?;
        ending.await
    }

    async fn ended(&self, task: &Task) -> Result<CallToolResult, ClientError> {
        let begun = Instant::now();
        let broken = |error: serde_json::Error| ClientError::Broken(error.to_string());
        let mut poll_ms = task.poll_interval_ms;
        loop {
            let pause = poll_ms.map_or(POLL, Duration::from_millis).clamp(LEAST_POLL, MOST_POLL);
            tokio::time::sleep(pause).await;
            let look = || self.bounded(self.service.get_task(GetTaskParams::new(task.task_id.clone())));
            let now = self.repeated(look).await?.task;
            poll_ms = now.task.poll_interval_ms;
            (self.on_progress)(begun.elapsed().as_secs_f64(), None, now.task.status_message.as_deref());
            match now.payload {
                TaskPayload::Working => {}
                TaskPayload::InputRequired { input_requests } => {
                    let answers = UpdateTaskParams::new(task.task_id.clone(), self.answers(input_requests).await);
                    self.bounded(self.service.update_task(answers)).await?;
                }
                TaskPayload::Completed { result } => {
                    return serde_json::from_value(Value::Object(result)).map_err(broken);
                }
                TaskPayload::Failed { error } => {
                    let error: ErrorData = serde_json::from_value(Value::Object(error)).map_err(broken)?;
                    return Err(error.into());
                }
                TaskPayload::Cancelled => return Err(ClientError::Cancelled),
                _ => return Err(ClientError::Broken("the task has a state of no known kind".to_owned())),
            }
        }
    }

    /// The user's answers to what can be asked; what cannot has none.
    async fn answers(&self, asked: InputRequests) -> InputResponses {
        let mut answers = InputResponses::new();
        for (name, question) in asked {
            let InputRequest::Elicitation(asked) = question else { continue };
            let params: ElicitRequestParams = asked.params;
            let answer = elicit(params, self.on_question.as_ref(), &self.clock).await;
            let answer = answer.ok().and_then(|answer| serde_json::to_value(answer).ok());
            answers.insert(name, answer.unwrap_or_else(|| json!({ "action": "decline" })));
        }
        answers
    }
}
