//! When records are due.

use std::time::Duration;

use rand::{RngExt as _, rngs::SmallRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// A rate that nobody holds up: who is late catches up as fast as it can.
pub(super) struct Pace {
    due: Instant,
    pause: Duration,
}

impl Pace {
    /// From now on, with up to `pause` between two.
    pub(super) fn new(pause: Duration) -> Self {
        Self { due: Instant::now(), pause }
    }

    /// When the next one is due, once that time has come. None where the end comes first.
    pub(super) async fn next(
        &mut self,
        rng: &mut SmallRng,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<Instant> {
        self.due += rng.random_range(Duration::ZERO..=self.pause);
        if *stop.borrow_and_update() {
            return None;
        }
        tokio::select! {
            () = sleep_until(self.due) => Some(self.due),
            // Its sender is gone, or says that this is the end.
            _ = stop.changed() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_due_does_not_wait_for_who_is_late() {
        let (ends, mut stop) = watch::channel(false);
        let mut rng = SmallRng::seed_from_u64(1);
        let began = Instant::now();
        let mut pace = Pace::new(Duration::from_millis(20));
        tokio::time::advance(Duration::from_secs(10)).await;
        let mut due = Vec::new();
        for _ in 0..500 {
            due.push(pace.next(&mut rng, &mut stop).await.unwrap() - began);
        }
        assert!(due.is_sorted());
        let mean = due[499].as_millis() / 500;
        assert!((8..=12).contains(&mean), "{mean} ms");
        assert!(began.elapsed() < Duration::from_secs(11), "it has caught up at once");
        ends.send_replace(true);
        assert_eq!(pace.next(&mut rng, &mut stop).await, None);
    }
}
