//! How long something took, over many times.

use serde::Serialize;

/// How long something took over several rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// How many there were.
    pub count: usize,
    /// Half took no longer.
    pub median_ms: u64,
    /// 99 of 100 took no longer.
    pub p99_ms: u64,
    /// None took longer.
    pub worst_ms: u64,
}

impl Figures {
    /// None where there is nothing.
    pub(crate) fn of(mut gaps_ms: Vec<u64>) -> Option<Self> {
        gaps_ms.sort_unstable();
        let count = gaps_ms.len();
        let at = |percent: usize| gaps_ms.get((count * percent).div_ceil(100).checked_sub(1)?);
        Some(Self { count, median_ms: *at(50)?, p99_ms: *at(99)?, worst_ms: *at(100)? })
    }
}
