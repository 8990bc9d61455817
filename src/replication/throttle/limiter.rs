//! How much may be sent by now: a core without I/O.
//!
//! Time is an argument, in microseconds of any zero. What is sent is owed, and what is owed is paid
//! off at the rate that is in force; nothing may be sent while anything is owed. Unused time is
//! kept for [`BURST_US`], so that a timer that fires late does not lower the rate.
//!
//! Invariant: over any time `t` no more is admitted than the rate times `t`, what the rate allows
//! in `BURST_US`, and one more admission.

/// For how long time that was not used is kept.
const BURST_US: u64 = 100_000;
/// Bytes are counted in millionths, so that a rate times microseconds is exact.
const PRECISION: i128 = 1_000_000;

/// Limits bytes to a rate.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Bytes a second; none for no limit.
    rate: Option<u64>,
    /// What is owed, or less than zero where time was not used.
    owed: i128,
    at_us: u64,
}

impl Limiter {
    pub(crate) const fn unlimited() -> Self {
        Self { rate: None, owed: 0, at_us: 0 }
    }

    /// Bytes a second; none for no limit.
    pub(crate) const fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Another rate is in force from now on, also for what is owed.
    pub(crate) fn set_rate(&mut self, rate: Option<u64>, now_us: u64) {
        self.settle(now_us);
        if self.rate.is_none() || rate.is_none() {
            self.owed = 0;
        }
        self.rate = rate;
        self.bound();
    }

    /// When bytes may be sent, `now_us` if at once. None where the rate is zero.
    pub(crate) fn ready_us(&mut self, now_us: u64) -> Option<u64> {
        self.settle(now_us);
        match self.rate {
            None => Some(now_us),
            Some(0) => None,
            Some(_) if self.owed <= 0 => Some(now_us),
            Some(rate) => {
                let wait_us = self.owed.unsigned_abs().div_ceil(u128::from(rate));
                Some(now_us.saturating_add(u64::try_from(wait_us).unwrap_or(u64::MAX)))
            }
        }
    }

    /// Whether so many bytes are sent now, which are owed then.
    pub(crate) fn admit(&mut self, bytes: u64, now_us: u64) -> bool {
        let is_ready = self.ready_us(now_us) == Some(now_us);
        if is_ready {
            self.correct(0, bytes);
        }
        is_ready
    }

    /// It was `actual` bytes that were sent where `admitted` were.
    pub(crate) fn correct(&mut self, admitted: u64, actual: u64) {
        if self.rate.is_some() {
            self.owed += (i128::from(actual) - i128::from(admitted)) * PRECISION;
            self.bound();
        }
    }

    fn settle(&mut self, now_us: u64) {
        let passed_us = now_us.saturating_sub(self.at_us);
        self.at_us = self.at_us.max(now_us);
        self.owed -= i128::from(self.rate.unwrap_or(0)) * i128::from(passed_us);
        self.bound();
    }

    fn bound(&mut self) {
        let kept = i128::from(self.rate.unwrap_or(0)) * i128::from(BURST_US);
        self.owed = self.owed.max(-kept);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Send { admitted: u64, actual: u64 },
        Rate(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let send = (1..300_000_u64, 0..300_000_u64)
            .prop_map(|(admitted, actual)| Step::Send { admitted, actual });
        let step = prop_oneof![
            3 => (0..200_000_u64).prop_map(Step::Pass),
            6 => send,
            1 => (0..50_000_000_u64).prop_map(Step::Rate),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// What was sent since any moment is within what the rates since then allow.
        #[test]
        fn no_more_is_sent_than_the_rate_allows(steps in steps()) {
            let mut limiter = Limiter::unlimited();
            let (mut now_us, mut rate, mut largest) = (5, 1_000_000, 0);
            limiter.set_rate(Some(rate), now_us);
            // What the rates allowed so far less what was sent, in millionths of bytes, and how much
            // that ever was: from there on, whatever was sent beyond what was allowed took it away.
            let (mut left, mut most_left) = (0_i128, 0_i128);
            for step in steps {
                match step {
                    Step::Pass(us) => {
                        now_us += us;
                        left += i128::from(us) * i128::from(rate);
                    }
                    Step::Rate(next) => {
                        rate = next;
                        limiter.set_rate(Some(rate), now_us);
                    }
                    Step::Send { admitted, actual } => {
                        if limiter.admit(admitted, now_us) {
                            limiter.correct(admitted, actual);
                            left -= i128::from(actual) * PRECISION;
                            largest = largest.max(actual);
                        }
                    }
                }
                most_left = most_left.max(left);
                let burst = 50_000_000 * i128::from(BURST_US);
                let bound = burst + i128::from(largest) * PRECISION;
                prop_assert!(most_left - left <= bound, "{} beyond {bound}", most_left - left);
            }
        }

        /// Who sends whenever it may gets the whole rate, although timers are late.
        #[test]
        fn the_rate_is_reached(
            rate in 10_000..200_000_000_u64,
            late_us in 0..5_000_u64,
            frame in 1..262_144_u64,
        ) {
            let mut limiter = Limiter::unlimited();
            limiter.set_rate(Some(rate), 0);
            let (mut now_us, mut sent) = (0, 0_u64);
            let end_us = 60_000_000;
            for _ in 0..100_000 {
                let ready_us = limiter.ready_us(now_us).unwrap();
                if ready_us > now_us {
                    now_us = ready_us + late_us;
                }
                if now_us >= end_us {
                    break;
                }
                prop_assert!(limiter.admit(frame, now_us));
                sent += frame;
            }
            let allowed = u128::from(rate) * u128::from(now_us) / 1_000_000;
            let slack = u128::from(rate) / 10 + u128::from(frame);
            prop_assert!(u128::from(sent) <= allowed + slack, "{sent} of {allowed}");
            prop_assert!(u128::from(sent) + slack >= allowed, "{sent} of {allowed}");
        }
    }

    #[test]
    fn another_rate_is_in_force_at_once_also_for_what_is_owed() {
        let mut limiter = Limiter::unlimited();
        limiter.set_rate(Some(1_000), 0);
        assert!(limiter.admit(10_000, 0));
        assert_eq!(limiter.ready_us(0), Some(10_000_000));
        limiter.set_rate(Some(1_000_000), 1_000_000);
        assert_eq!(limiter.ready_us(1_000_000), Some(1_009_000));
        limiter.set_rate(Some(0), 1_000_000);
        assert_eq!(limiter.ready_us(1_000_000), None, "a rate of zero stops all");
        limiter.set_rate(None, 1_000_000);
        assert!(limiter.admit(u64::MAX, 1_000_000));
        assert!(limiter.admit(u64::MAX, 1_000_000), "no limit");
    }
}
