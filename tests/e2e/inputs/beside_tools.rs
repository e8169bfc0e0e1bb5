//! Prompts and resources whose guests ask their client, as tools' do.

use serde_json::{Value, json};

use super::{able_session, all_abilities, asked, host, name, refusal, retry, token, waiting};
use crate::support::{TestHost, answer, folder, http_client, modern_request};

const PROMPT: &str = "test_input_required_result_prompt";
const RESOURCE: &str = "test://asks/tea";

/// A request that makes its guest ask.
#[derive(Clone, Copy)]
struct Request {
    method: &'static str,
    /// The parameter that names what is asked for, and its value.
    named: (&'static str, &'static str),
}

const GET: Request = Request { method: "prompts/get", named: ("name", PROMPT) };
const READ: Request = Request { method: "resources/read", named: ("uri", RESOURCE) };

impl Request {
    /// The same request for something else.
    fn of(self, value: &'static str) -> Self {
        Self { named: (self.named.0, value), ..self }
    }

    async fn send(self, host: &TestHost, bearer: Option<&str>, more: Value) -> Value {
        let mut params = json!({ "_meta": { "io.modelcontextprotocol/clientCapabilities": all_abilities() } });
        params[self.named.0] = json!(self.named.1);
        for (name, value) in more.as_object().cloned().unwrap_or_default() {
            params[name] = value;
        }
        let mut request = modern_request(&http_client(), &host.host.url(), self.method, params);
        // The tests' client names what has a `name`.
        if self.named.0 == "uri" {
            request = request.header("mcp-name", self.named.1);
        }
        if let Some(token) = bearer {
            request = request.bearer_auth(token);
        }
        answer(request.send().await.expect("an answer")).await
    }

    /// The replies to its one question.
    fn replies(self) -> Value {
        match self.method {
            "prompts/get" => {
                json!({ "user_context": { "action": "accept", "content": { "context": "a party" } } })
            }
            _ => json!({ "user_name": name("Ada") }),
        }
    }

    /// Checks the answer that the replies lead to.
    fn check(self, answer: &Value) {
        let result = &answer["result"];
        let (text, expected) = match self.method {
            "prompts/get" => (&result["messages"][0]["content"]["text"], "Use this context: a party"),
            _ => (&result["contents"][0]["text"], "tea for Ada"),
        };
        assert_eq!(text, expected, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_or_a_resource_that_asks_is_parked_and_its_retry_resumes_it() {
    let host = host().await;
    for request in [GET, READ] {
        let (questions, state) = asked(&request.send(&host, None, json!({})).await);
        let (_, question) = questions.as_object().expect("by name").iter().next().expect("a question");
        assert_eq!(question["method"], "elicitation/create", "{questions}");
        assert_eq!(waiting(&host), 1);
        // What is missing is asked for again.
        let (again, state) = asked(&request.send(&host, None, retry(&state, json!({ "other": 1 }))).await);
        assert_eq!(again, questions);
        let answer = request.send(&host, None, retry(&state, request.replies())).await;
        assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
        request.check(&answer);
        assert_eq!(waiting(&host), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_a_prompt_or_a_resource_is_good_once_and_for_its_own_request() {
    let host = host().await;
    for (request, other) in [(GET, GET.of("test_simple_prompt")), (READ, READ.of("test://asks/coffee"))] {
        let (_, state) = asked(&request.send(&host, None, json!({})).await);
        let resume = |state: &str| retry(state, request.replies());
        for broken in [format!("{state}x"), state.replace(&state[60..64], "AAAA"), "x".into()] {
            let refused = request.send(&host, None, resume(&broken)).await;
            assert_eq!(refusal(&refused), "request_state_invalid", "{broken}");
        }
        let mut with_arguments = resume(&state);
        with_arguments["arguments"] = json!({ "more": "1" });
        let mut strangers =
            vec![(other, resume(&state)), (if request.method == GET.method { READ } else { GET }, resume(&state))];
        if request.method == GET.method {
            strangers.push((request, with_arguments));
        }
        for (stranger, more) in strangers {
            let refused = stranger.send(&host, None, more).await;
            assert_eq!(refusal(&refused), "request_state_other_request", "{}", stranger.named.1);
        }
        let tool = super::call(&host, super::ELICITATION, resume(&state)).await;
        assert_eq!(refusal(&tool), "request_state_other_request");
        // None of that harmed it.
        request.check(&request.send(&host, None, resume(&state)).await);
        assert_eq!(refusal(&request.send(&host, None, resume(&state)).await), "request_state_used");
    }
    // A tool's state opens no prompt.
    let (_, state) = super::ask(&host, super::ELICITATION).await;
    let refused = GET.send(&host, None, retry(&state, GET.replies())).await;
    assert_eq!(refusal(&refused), "request_state_other_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_a_prompt_or_a_resource_opens_nothing_in_other_hands() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (victim, colleague) = (token(&data, "victim", "ada"), token(&data, "victim", "bob"));
    let attacker = token(&data, "attacker", "eve");
    let host = TestHost::start_with(files, |_| {}).await;
    for request in [GET, READ] {
        let (_, state) = asked(&request.send(&host, Some(&victim), json!({})).await);
        for thief in [&colleague, &attacker] {
            let refused = request.send(&host, Some(thief), retry(&state, request.replies())).await;
            assert_eq!(refusal(&refused), "request_state_invalid");
        }
        request.check(&request.send(&host, Some(&victim), retry(&state, request.replies())).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_needs_what_the_client_did_not_declare_is_an_error_of_its_era() {
    let host = host().await;
    let params = json!({ "name": "test_sampling_prompt", "arguments": { "topic": "tea" } });
    let response = host.modern("prompts/get", params.clone()).send().await.expect("an answer");
    assert_eq!(response.status(), 400);
    let refused = answer(response).await;
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
    assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({ "sampling": {} }));
    let session = host.initialize().await;
    let message = json!({ "jsonrpc": "2.0", "id": 5, "method": "prompts/get", "params": params });
    let refused = answer(host.legacy(&session, &message).send().await.expect("an answer")).await;
    let text = refused["error"]["message"].as_str().expect("words");
    assert!(text.contains("the client does not offer `sampling`"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_client_is_asked_on_the_stream_of_its_prompt_or_resource() {
    let host = host().await;
    let session = able_session(&host).await;
    for request in [GET, READ] {
        let mut params = json!({});
        params[request.named.0] = json!(request.named.1);
        let message = json!({ "jsonrpc": "2.0", "id": 5, "method": request.method, "params": params });
        let mut stream = host.legacy(&session, &message).send().await.expect("an answer");
        let (mut text, mut questions, mut done) = (String::new(), 0, false);
        while let Some(chunk) = stream.chunk().await.expect("a stream") {
            text.push_str(&String::from_utf8_lossy(&chunk));
            let Some(end) = text.rfind('\n') else { continue };
            let lines: String = text.drain(..=end).collect();
            for data in lines.lines().filter_map(|line| line.strip_prefix("data:")) {
                let Ok(message) = serde_json::from_str::<Value>(data) else { continue };
                if message["method"] != "elicitation/create" {
                    request.check(&message);
                    done = true;
                    continue;
                }
                questions += 1;
                let replies = request.replies();
                let (_, result) = replies.as_object().expect("by name").iter().next().expect("a reply");
                let reply = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
                assert_eq!(host.legacy(&session, &reply).send().await.expect("an answer").status(), 202);
            }
        }
        assert_eq!((questions, done), (1, true), "{}", request.method);
    }
}
