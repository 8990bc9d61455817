//! Bounds on the memory that connections hold together: request bytes, and buffers for records.
//!
//! A request takes its share as its bytes arrive, never by the length that its sender claims.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes of requests that may be in memory at one time, of all connections together.
///
/// One request at a time may go beyond the bound. Without that, requests that each hold a part of
/// the memory could wait for each other for ever. So the real bound is `bytes` plus the largest
/// request.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: Arc<Semaphore>,
    overdraft: Arc<Semaphore>,
    total: usize,
}

/// What one request has taken from a [`Budget`]. Given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    permit: Option<OwnedSemaphorePermit>,
    overdraft: Option<OwnedSemaphorePermit>,
}

/// The memory that one request has taken so far, for its handler to take more.
///
/// It is given back once the response has been sent.
#[derive(Debug)]
pub struct RequestMemory {
    budget: Budget,
    reservation: Reservation,
    bytes: usize,
}

impl RequestMemory {
    /// `reservation` covers the `bytes` of the request itself.
    pub(super) const fn new(budget: Budget, reservation: Reservation, bytes: usize) -> Self {
        Self { budget, reservation, bytes }
    }

    /// Waits until there is room for `bytes` more, as for a request's decoded form.
    ///
    /// It ends without room where no other request is beyond the bound, so that requests that each
    /// hold a part cannot wait for each other for ever.
    pub async fn grow(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.budget.grow(&mut self.reservation, self.bytes).await;
    }
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let total = bytes.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            bytes: Arc::new(Semaphore::new(total)),
            overdraft: Arc::new(Semaphore::new(1)),
            total,
        }
    }

    /// How many bytes are taken, without what is beyond the bound.
    pub(super) fn used_bytes(&self) -> usize {
        self.total - self.bytes.available_permits()
    }

    /// Waits until `reservation` covers `bytes`. Cancel safe.
    pub(super) async fn grow(&self, reservation: &mut Reservation, bytes: usize) {
        if reservation.overdraft.is_some() {
            return;
        }
        let held = reservation.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = bytes.checked_sub(held).filter(|missing| *missing > 0) else { return };
        // Where one request exceeds the bound all by itself, only the overdraft can serve it.
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            permit = Arc::clone(&self.bytes).acquire_many_owned(missing) => {
                let permit = permit.expect("the semaphore is never closed");
                match &mut reservation.permit {
                    Some(held) => held.merge(permit),
                    none => *none = Some(permit),
                }
            }
            permit = Arc::clone(&self.overdraft).acquire_owned() => {
                reservation.overdraft = Some(permit.expect("the semaphore is never closed"));
            }
        }
    }
}

/// Buffers through which records move from file to socket.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<PoolInner>);

#[derive(Debug)]
struct PoolInner {
    spare: Mutex<Vec<Box<[u8]>>>,
    in_use: AtomicUsize,
    kept: usize,
}

/// A buffer's size: small enough to stay in a core's second-level cache between read and write.
pub(super) const BUFFER_BYTES: usize = 128 << 10;

/// A buffer of [`BUFFER_BYTES`] on loan.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    pool: Pool,
}

impl Pool {
    /// Keeps up to `kept` buffers for reuse, and is scarce beyond as many in use.
    pub(super) fn new(kept: usize) -> Self {
        let spare = Mutex::new(Vec::new());
        Self(Arc::new(PoolInner { spare, in_use: AtomicUsize::new(0), kept }))
    }

    pub(super) fn take(&self) -> Buffer {
        self.0.in_use.fetch_add(1, Relaxed);
        let spare = self.0.spare.lock().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Buffer { bytes, pool: self.clone() }
    }

    /// Whether a connection that waits for a slow client should give its buffer back.
    pub(super) fn is_scarce(&self) -> bool {
        self.0.in_use.load(Relaxed) > self.0.kept
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let pool = &self.pool.0;
        pool.in_use.fetch_sub(1, Relaxed);
        let mut spare = pool.spare.lock();
        if spare.len() < pool.kept {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn two_requests_that_each_hold_a_part_do_not_wait_for_each_other_for_ever() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (Reservation::default(), Reservation::default());
        budget.grow(&mut one, 50).await;
        budget.grow(&mut other, 50).await;
        budget.grow(&mut one, 80).await;
        assert!(budget.grow(&mut other, 80).now_or_never().is_none(), "only one goes beyond");
        drop(one);
        budget.grow(&mut other, 80).await;
        assert_eq!(budget.used_bytes(), 80);
        drop(other);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_request_larger_than_the_whole_budget_is_served_alone() {
        let budget = Budget::new(10);
        let mut large = Reservation::default();
        budget.grow(&mut large, 1000).await;
        assert!(budget.grow(&mut Reservation::default(), 1000).now_or_never().is_none());
    }

    #[test]
    fn buffers_are_reused_and_those_beyond_the_bound_freed() {
        let pool = Pool::new(1);
        let buffers = [pool.take(), pool.take()];
        assert!(pool.is_scarce());
        drop(buffers);
        assert!(!pool.is_scarce());
        assert_eq!(pool.0.spare.lock().len(), 1);
    }
}
