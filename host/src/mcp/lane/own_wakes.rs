//! A connection that wakes itself while it is polled. The HTTP library does that for each request with a body: the side that reads the body wakes the side that serves it, and both are one task. The
//! runtime would put the task behind all others and wake a thread that sleeps to fetch it. Here the task is polled again where it is.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// How often a poll follows another at once. A task that goes on waking itself takes its turn behind others.
const AT_ONCE: usize = 2;

/// It waits.
const IDLE: u8 = 0;
/// It is polled.
const POLLED: u8 = 1;
/// It was woken while it was polled.
const WOKEN: u8 = 2;

/// A waker that notes what comes during a poll and passes on the rest.
#[derive(Debug, Default)]
struct Noting {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Noting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let woken = |state: u8| (state == POLLED).then_some(WOKEN);
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, woken) {
            Ok(_) | Err(WOKEN) => {}
            Err(_) => self.task.wake(),
        }
    }
}

/// Polls `future` again at once where it has woken itself.
#[derive(Debug)]
pub(super) struct OwnWakes<F> {
    future: Pin<Box<F>>,
    noting: Arc<Noting>,
    waker: Waker,
}

impl<F> OwnWakes<F> {
    pub(super) fn new(future: Pin<Box<F>>) -> Self {
        let noting = Arc::<Noting>::default();
        Self { future, waker: Waker::from(Arc::clone(&noting)), noting }
    }

    /// The future, to be polled elsewhere.
    pub(super) fn into_inner(self) -> Pin<Box<F>> {
        self.future
    }
}

impl<F: Future> Future for OwnWakes<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, noting, waker } = &mut *self;
        noting.task.register(context.waker());
        for _ in 0..=AT_ONCE {
            noting.state.store(POLLED, Ordering::Release);
            let polled = future.as_mut().poll(&mut Context::from_waker(waker));
            let was = noting.state.swap(IDLE, Ordering::AcqRel);
            if polled.is_ready() || was == POLLED {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Debug, Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Polls once a future that wakes itself in its first `times` polls; how often it was polled, and how often its task was woken.
    fn polled(times: usize) -> (usize, usize) {
        let (task, polls) = (Arc::<WakeCount>::default(), Arc::<AtomicUsize>::default());
        let counting = Arc::clone(&polls);
        let future = std::future::poll_fn(move |context| {
            if counting.fetch_add(1, Ordering::Relaxed) < times {
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        let mut own = OwnWakes::new(Box::pin(future));
        let waker = Waker::from(Arc::clone(&task));
        assert!(Pin::new(&mut own).poll(&mut Context::from_waker(&waker)).is_pending());
        let before = task.0.load(Ordering::Relaxed);
        own.waker.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), before + 1, "a wake while it waits reaches its task");
        (polls.load(Ordering::Relaxed), before)
    }

    #[test]
    fn what_wakes_itself_is_polled_again_and_gives_way_if_it_goes_on() {
        assert_eq!(polled(0), (1, 0));
        assert_eq!(polled(1), (2, 0), "its task is not scheduled for that");
        assert_eq!(polled(2), (3, 0));
        assert_eq!(polled(usize::MAX), (AT_ONCE + 1, 1), "others have their turn");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_wake_is_lost_whoever_wakes() {
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let telling = tokio::spawn(async move {
            for number in 0..10_000_u32 {
                tell.send(number).await.expect("it listens");
            }
        });
        let mut heard = 0_u32;
        OwnWakes::new(Box::pin(async {
            while told.recv().await.is_some() {
                heard += 1;
            }
        }))
        .await;
        telling.await.expect("it ends");
        assert_eq!(heard, 10_000);
    }
}
