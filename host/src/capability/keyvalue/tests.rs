//! What operations on a bucket cost.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    control::admission::{Admission, Share},
    engine::EngineConfig,
    limits::{Limits, TenantLimits},
    names::{ComponentName, TenantId},
    store::{
        Space,
        embedded::{EmbeddedConfig, EmbeddedStore, disk::FileSystem},
    },
};

/// The reins of a call that the store may give so many bytes.
async fn control(store_bytes: u64) -> Arc<Control> {
    let (admission, cancel) = (Admission::new(&EngineConfig::default()), CancellationToken::new());
    let until = Instant::now() + Duration::from_secs(60);
    let (share, tool) = (Share::alone(TenantLimits::default()), Arc::new(Semaphore::new(1)));
    let slot = admission.admit(&share, &tool, 1, until, &cancel).await.expect("a place");
    Control::new(Limits { store_bytes, ..Limits::default() }, until, cancel, slot)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_keys_is_charged_for_the_deleted_values_that_it_passes_over() {
    const VALUES: usize = 20;
    let folder = tempfile::tempdir().expect("a folder");
    let store = EmbeddedStore::new(folder.path().join("store"), EmbeddedConfig::default(), Arc::new(FileSystem));
    let space = Space { tenant: TenantId::local(), component: ComponentName::new("a").expect("legal") };
    let access = StoreAccess {
        store: Arc::new(store.expect("a store")),
        space: space.clone(),
        quota_bytes: u64::MAX,
        subscriptions: Arc::default(),
    };
    let bucket = Bucket::named("b").expect("legal");
    let keys: Vec<Bytes> = (0..VALUES).map(|number| bucket.key(&number.to_string()).expect("legal")).collect();
    // The values come into the database, and the log keeps that they were deleted.
    for value in [Some(Bytes::from(vec![7; MAX_VALUE_BYTES])), None] {
        for key in &keys {
            let mut transaction = access.store.begin(&space, Bounds::host()).await.expect("a transaction");
            let change = Change::Write(vec![(key.clone(), value.clone())]);
            assert!(change.make(&mut *transaction).await.expect("written").is_ok());
            transaction.commit().await.expect("committed");
        }
    }
    for (store_bytes, is_enough) in [(64 << 20, true), (10_000, false)] {
        let control = control(store_bytes).await;
        let reach = Reach { bucket: bucket.clone(), access: &access, bounds: Bounds::host(), control: &control };
        let listed = reach.list(None).await.map(|listed| listed.expect("listed").keys.len());
        assert_eq!(listed.ok(), is_enough.then_some(0), "a budget of {store_bytes} bytes");
    }
}
