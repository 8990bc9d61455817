//! Waiting for what happens by itself.

use std::{fmt::Debug, time::Duration};

use tokio::time::{sleep, timeout};

/// Longer than anything here takes; a wait that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits until `look` finds something.
pub(crate) async fn eventually<T: Debug>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = timeout(LONG, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: never"))
}
