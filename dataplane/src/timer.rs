//! One sleep that outlives the deadlines put on it.
//!
//! Nearly every deadline is met, so arming a timer for each would be work for nothing: the sleep is only touched
//! when a deadline is earlier than what it is armed for; when it fires too early it is armed again.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use tokio::time::{Instant, Sleep, sleep_until};

/// A lazily armed timer.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Whether the deadline has passed; if not, the task is woken when it does (perhaps also earlier).
    pub(crate) fn passed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }

    /// The same where it is always one task that asks: its waker is registered already, so that nothing is polled
    /// until the sleep has fired.
    pub(crate) fn passed_in_one_task(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        match &self.sleep {
            Some(sleep) if deadline >= sleep.deadline() && !sleep.is_elapsed() => false,
            _ => self.passed(deadline, cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    async fn wait(timer: &mut Timer, deadline: Instant) {
        poll_fn(|cx| if timer.passed(deadline, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_may_move_both_ways() {
        let began = Instant::now();
        let mut timer = Timer::default();
        for seconds in [10, 70, 71, 75] {
            let deadline = began + Duration::from_secs(seconds);
            // One that is later is asked for first and never waited for.
            poll_fn(|cx| {
                assert!(!timer.passed(deadline + Duration::from_secs(100), cx));
                Poll::Ready(())
            })
            .await;
            wait(&mut timer, deadline).await;
            assert_eq!(Instant::now(), deadline);
        }
    }
}
