//! Raft messages on their way to one peer.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Messages that may wait, and their bytes. The oldest go first when there is no more room: Raft
/// repeats what matters, and a newer message supersedes an older one.
const MESSAGES_MAX: usize = 256;
const BYTES_MAX: usize = 16 << 20;
/// A message that waited for longer says nothing true any more.
const AGE_MAX: Duration = Duration::from_secs(1);
/// What is written at once.
const BATCH_MESSAGES: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// A bounded queue that forgets the oldest.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

impl Waiting {
    fn pop(&mut self) -> Option<(Instant, Bytes)> {
        let (since, message) = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some((since, message))
    }
}

impl Queue {
    /// Adds a message. Returns how many others were dropped for it.
    pub(super) fn push(&self, message: Bytes) -> u64 {
        let mut waiting = self.waiting.lock();
        let mut dropped = 0;
        while waiting.messages.len() >= MESSAGES_MAX
            || (waiting.bytes + message.len() > BYTES_MAX && !waiting.messages.is_empty())
        {
            waiting.pop();
            dropped += 1;
        }
        waiting.bytes += message.len();
        waiting.messages.push_back((Instant::now(), message));
        drop(waiting);
        self.filled.notify_one();
        dropped
    }

    /// Waits for messages and takes some, oldest first. Also how many had become too old.
    pub(super) async fn pop_some(&self, taken: &mut Vec<Bytes>) -> u64 {
        loop {
            let old = self.take(taken);
            if old > 0 || !taken.is_empty() {
                return old;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self, taken: &mut Vec<Bytes>) -> u64 {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        let (mut old, mut bytes) = (0, 0);
        while taken.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some((since, message)) = waiting.pop() else { break };
            if now.duration_since(since) > AGE_MAX {
                old += 1;
                continue;
            }
            bytes += message.len();
            taken.push(message);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newest_messages_are_kept_and_none_gets_old() {
        let queue = Queue::default();
        let message = |n: usize| Bytes::from(vec![u8::try_from(n % 256).unwrap(); 8]);
        let dropped: u64 = (0..MESSAGES_MAX + 3).map(|n| queue.push(message(n))).sum();
        assert_eq!(dropped, 3);
        let mut taken = Vec::new();
        assert_eq!(queue.pop_some(&mut taken).await, 0);
        assert_eq!(taken[0], message(3));
        tokio::time::sleep(AGE_MAX * 2).await;
        queue.push(message(9));
        taken.clear();
        let old = queue.pop_some(&mut taken).await;
        assert_eq!(old, (MESSAGES_MAX - BATCH_MESSAGES) as u64);
        assert_eq!(taken, [message(9)]);
    }

    #[test]
    fn bytes_are_bounded_too_but_one_message_always_fits() {
        let queue = Queue::default();
        let large = Bytes::from(vec![0; BYTES_MAX]);
        assert_eq!(queue.push(large.clone()), 0);
        assert_eq!(queue.push(Bytes::from_static(b"x")), 1);
        assert_eq!(queue.push(large), 1);
    }
}
