//! How long to leave alone what failed.

use std::time::Duration;

/// `first · 2^attempts`, at most `max`. `attempts` counts what failed before.
pub fn doubling(first: Duration, attempts: u32, max: Duration) -> Duration {
    let mut pause = first;
    // Every span but none at all reaches the longest one in fewer steps than it has bits.
    for _ in 0..attempts.min(u128::BITS) {
        if pause >= max {
            break;
        }
        pause = pause.saturating_mul(2);
    }
    pause.min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_longest_whatever_the_count() {
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
        let pause = |attempts| doubling(minute, attempts, day);
        assert_eq!([0, 1, 10].map(pause), [minute, minute * 2, minute * 1024]);
        assert_eq!([11, 12, 63, 64, 128, u32::MAX].map(pause), [day; 6]);
        let nano = Duration::from_nanos(1);
        let to_the_end = |attempts| doubling(nano, attempts, Duration::MAX);
        assert_eq!(to_the_end(63), Duration::from_nanos(1 << 63));
        assert_eq!([95, 96, u32::MAX].map(to_the_end), [Duration::MAX; 3]);
        assert_eq!(doubling(Duration::ZERO, u32::MAX, day), Duration::ZERO);
        assert_eq!(doubling(day * 2, 0, day), day);
    }
}
