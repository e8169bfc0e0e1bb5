//! A build whose data has another form: migrated before it serves, resumed after a crash, refused where it cannot be.

use serde_json::json;

use crate::{
    store::{result, store_host},
    support::{TestHost, guest},
};

async fn with_values(values: &[(&str, &str)]) -> TestHost {
    let host = store_host("store = {}").await;
    for (key, value) in values {
        host.call("store_set", json!({ "key": key, "value": value })).await;
    }
    host
}

async fn load(host: &TestHost, build: &str) {
    host.write("store", &guest(build));
    host.until("the build is looked at", async |host| {
        host.host.reload().await.is_ok_and(|report| report.unchanged.contains("store") || !report.failed.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_migrated_in_steps_before_the_next_build_serves_and_no_call_is_lost() {
    let host = with_values(&[("a", "1"), ("b", "22"), ("c", "333"), ("d", "4444"), ("e", "55555")]).await;
    let calls = async {
        let mut answers = Vec::new();
        while !answers.last().is_some_and(|answer: &serde_json::Value| answer.is_array() && answer[0].is_number()) {
            answers.push(result(&host, "store_get", json!({ "key": "c" })).await);
        }
        answers
    };
    let (answers, ()) = tokio::join!(calls, load(&host, "store_next"));
    assert_eq!(host.problems(), "");
    // Every call was answered, by the build before or the one after.
    assert!(answers.iter().all(|answer| answer[0] == "333" || answer == &json!([3, "333"])), "{answers:?}");
    assert_eq!(result(&host, "store_get", json!({ "key": "e" })).await, json!([5, "55555"]));
    // Back to the build before: its data is not there any more.
    load(&host, "store").await;
    assert!(host.problems().contains("its data has format 1 and this build reads 0"), "{}", host.problems());
    assert_eq!(result(&host, "store_get", json!({ "key": "a" })).await, json!([1, "1"]), "the newer build serves on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_fails_at_once_leaves_the_build_before_serving() {
    let host = with_values(&[("a", "broken"), ("b", "2")]).await;
    load(&host, "store_next").await;
    assert!(host.problems().contains("it could not migrate its data: a broken value"), "{}", host.problems());
    assert_eq!(result(&host, "store_get", json!({ "key": "b" })).await[0], "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_fails_half_way_is_not_served_by_either_build_and_goes_on_where_it_was() {
    let host = with_values(&[("a", "1"), ("b", "2"), ("c", "broken")]).await;
    load(&host, "store_next").await;
    assert!(host.problems().contains("a broken value"), "{}", host.problems());
    assert!(host.tools().await.is_empty(), "half of the data has another form");
    let folder = host.stop().await;
    let host = TestHost::start_with(folder, |_| {}).await;
    assert!(host.tools().await.is_empty() && host.problems().contains("a broken value"), "{}", host.problems());
    load(&host, "store").await;
    assert!(host.problems().contains("a migration of its data from format 0 to 1 has begun"), "{}", host.problems());
}
