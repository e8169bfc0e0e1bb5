//! Whose a parked call is: its tenant pays for the replies that wait for the last one, and it ends with its caller's right.

use mcpp::{auth::tokens::TokenFile, memory::MemoryUse, tenant::home::Homes};
use serde_json::{Value, json};

use super::{ELICITATION, MANY, answer, ask, asked, call, guest, name, params, retry, token, waiting};
use crate::support::{TestHost, folder, text_of};

/// A name with so many bytes.
fn long_name(bytes: usize) -> Value {
    name(&"x".repeat(bytes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_wait_for_the_last_one_are_on_their_tenants_account() {
    const MIB: u64 = 1 << 20;
    let host = TestHost::start_with(folder(&[("conformance", &guest("conformance"))]), |config| {
        config.tenant_limits = toml::from_str("message_bytes = 67108864").expect("legal");
    })
    .await;
    let used = || host.host.registry().memory().used(MemoryUse::Messages);
    let before = used();
    let reply = |bytes: usize| json!({ "user_name": long_name(bytes) });
    let mut kept = Vec::new();
    let refused = loop {
        let (_, state) = ask(&host, MANY).await;
        let answer = call(&host, MANY, retry(&state, reply(3_000_000))).await;
        if answer.get("error").is_some() {
            break (answer, state);
        }
        kept.push(asked(&answer).1);
        assert!(kept.len() < 20, "{} bytes are used", used());
    };
    // Half of what the tenant has is for what does not wait for people.
    let (refused, state) = refused;
    let (code, error) = (&refused["error"]["code"], &refused["error"]["data"]["error"]);
    assert_eq!((code.as_i64(), error.as_str()), (Some(-32000), Some("busy")), "{refused}");
    let held = used() - before;
    assert!(!kept.is_empty() && held >= kept.len() as u64 * 5 * MIB, "{held} for {}, as text and values", kept.len());
    // The same state is good for a shorter reply, and the other calls for the rest of theirs.
    asked(&call(&host, MANY, retry(&state, reply(10))).await);
    let greeting = json!({ "role": "assistant", "content": { "type": "text", "text": "Hi" }, "model": "m" });
    let rest = json!({ "greeting": greeting, "client_roots": { "roots": [] } });
    for state in kept {
        assert!(text_of(&call(&host, MANY, retry(&state, rest.clone())).await).starts_with("Hi, xxx"));
    }
    host.until("the memory is back", async |_| used() < before + MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_ends_its_parked_calls_and_no_others() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (leaves, stays) = (token(&data, "team", "ada"), token(&data, "team", "bob"));
    let host = TestHost::start_with(files, |_| {}).await;
    let call = async |token: &str, more: Value| {
        let sent = host.modern("tools/call", params(ELICITATION, more)).bearer_auth(token).send().await;
        answer(sent.expect("an answer")).await
    };
    asked(&call(&leaves, json!({})).await);
    let (_, state) = asked(&call(&stays, json!({})).await);
    assert_eq!(waiting(&host), 2);
    let tokens = TokenFile::new(Homes::new(data).tokens());
    let revoked = tokens
        .read()
        .expect("readable")
        .expect("a file")
        .into_iter()
        .find(|token| token.subject == "ada")
        .expect("there");
    tokens.revoke(&revoked.id).expect("revoked");
    host.until("its guest is gone", async |host| waiting(host) == 1).await;
    let answer = call(&stays, retry(&state, json!({ "user_name": name("Bob") }))).await;
    assert_eq!(text_of(&answer), "Hello, Bob!");
}
