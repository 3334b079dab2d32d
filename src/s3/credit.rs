//! How long a transfer may keep us waiting.
//!
//! Waiting uses credit up, bytes earn it. So a body may pause, and may be slow, but what trickles
//! in or out to hold on to a permit and to memory comes to its end.
//!
//! # What a slow line must have
//!
//! 64 KiB in a minute, which is 9 kbit/s: a tenth of what the slowest mobile line has. A body that
//! is faster on the whole, and never silent for longer than its credit, is never cut off. Only the
//! time counts in which we wait for the client; what a slow backend takes is not its fault.

use std::time::Duration;

/// For these bytes a transfer may take [`EARNS`].
const PIECE: u64 = 64 << 10;
const EARNS: Duration = Duration::from_secs(60);

/// What is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    left: Duration,
    most: Duration,
}

impl Credit {
    /// Begins with `first`, and never has more than `most`.
    pub(crate) fn new(first: Duration, most: Duration) -> Credit {
        Credit { left: first.min(most), most }
    }

    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    pub(crate) fn spend(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
    }

    pub(crate) fn earn(&mut self, bytes: usize) {
        let nanos = u128::from(bytes as u64) * EARNS.as_nanos() / u128::from(PIECE);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.left = self.left.saturating_add(earned).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// How many of these pauses, each followed by so many bytes, are let pass; at most 10,000.
    fn lasts(pause: Duration, bytes: usize) -> usize {
        let mut credit = Credit::new(MINUTE, MINUTE);
        let pauses = (0..10_000).take_while(|_| {
            let may = credit.left() > pause;
            credit.spend(pause);
            credit.earn(bytes);
            may
        });
        pauses.count()
    }

    #[test]
    fn what_trickles_ends_and_what_is_slow_does_not() {
        let second = Duration::from_secs(1);
        assert_eq!(lasts(MINUTE, 1 << 30), 0, "silence is silence");
        assert_eq!(lasts(second * 50, 1), 1);
        assert_eq!(lasts(second, 1), 60);
        assert!((100..200).contains(&lasts(second, 500)));
        assert_eq!(lasts(second, 1093), 10_000, "64 KiB a minute");
        assert_eq!(lasts(second * 55, 64 << 10), 10_000);
    }

    #[test]
    fn credit_is_bounded() {
        let mut credit = Credit::new(MINUTE * 2, MINUTE * 6);
        assert_eq!(credit.left(), MINUTE * 2);
        credit.earn(1 << 20);
        assert_eq!(credit.left(), MINUTE * 6);
        credit.earn(usize::MAX);
        credit.spend(Duration::MAX);
        assert_eq!(credit.left(), Duration::ZERO);
        credit.earn(32 << 10);
        assert_eq!(credit.left(), MINUTE / 2);
    }
}
