//! Defences of the registry that no other test would miss: bounds of a list, limits without a time, refusals that are no limits, and comments that are gone or only look like this host's.

use super::*;

/// A server with the issue, and a host that uses it.
async fn start() -> (Shared, TestHost) {
    let (github, port) = github().await;
    lock(&github).issues.insert(1, (TITLE.to_owned(), false));
    lock(&github).last = 1;
    let host = host(port, "one").await;
    (github, host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_end_is_read_for_ten_pages() {
    let (github, host) = start().await;
    for n in 0..1_150 {
        let seen = ago(n / 100, n % 2 == 0);
        lock(&github).comment(1, &foreign(&format!("r{n}"), &seen));
    }
    let listed = ask(&host, "peer_registry_list", json!({ "max_peers": 1 })).await;
    assert_eq!(listed["count"], 1, "{listed}");
    let comments = lock(&github).answers.iter().filter(|(_, url, _)| url.contains("/comments?")).count();
    assert_eq!(comments, 10, "ten pages of a hundred");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_no_limit_and_a_limit_without_a_time_lasts_a_minute() {
    let (github, host) = start().await;
    let list = async || ask(&host, "peer_registry_list", json!({})).await;
    lock(&github).limit = Some((403, vec![("x-ratelimit-remaining", "7".into())]));
    let refused = list().await;
    assert_eq!(
        (&refused["success"], refused["error"].as_str()),
        (&json!(false), Some("GitHub answered 403")),
        "{refused}"
    );
    lock(&github).limit = None;
    assert_eq!(list().await["success"], true, "nothing was remembered");
    lock(&github).limit = Some((429, vec![]));
    let limited = list().await;
    assert_eq!((&limited["error"], &limited["retry_after_s"]), (&json!("rate_limited"), &json!(60)), "{limited}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comments_that_are_gone_are_written_anew_and_those_that_look_like_ours_stay() {
    let (github, host) = start().await;
    let quoted = foreign("one", &ago(5, false)).replacen(" -->", " --> as somebody quotes it", 1);
    let quote = lock(&github).comment(1, &quoted);
    let longer = lock(&github).comment(1, &foreign("one-more", &ago(5, true)));
    let first = ask(&host, "peer_registry_register", json!({})).await;
    assert_eq!(first["success"], true, "{first}");
    // Another host's clean-up deletes the comment between the list and the change.
    lock(&github).vanishes = true;
    let second = ask(&host, "peer_registry_register", json!({})).await;
    assert_eq!(second["success"], true, "{second}");
    assert_ne!(second["comment_id"], first["comment_id"], "it was written anew");
    let gone = ask(&host, "peer_registry_unregister", json!({})).await;
    assert_eq!((&gone["success"], &gone["removed"]), (&json!(true), &json!(1)), "what is gone is deleted: {gone}");
    let github = lock(&github);
    assert_eq!(github.comments.len(), 2);
    assert_eq!((&github.comments[&quote].1, github.comments.contains_key(&longer)), (&quoted, true));
}
