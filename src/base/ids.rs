//! Ids that never go back.
//!
//! An id is 63 bits: microseconds since 2020 above, 11 random bits below, and always greater than
//! the one before it, whatever the clock says. The random bits spread the last characters of
//! its text, by which opaque names choose their directory; order, not time, is what ids promise.
//!
//! # Invariant
//!
//! No id is handed out twice by one store, also after a crash or with a clock set back: the store
//! keeps a durable ceiling above every id in use and [`Ids::raise`]s the generator to it when it
//! opens.

use std::sync::atomic::{AtomicU64, Ordering};

use ring::rand::{SecureRandom, SystemRandom};

use super::clock::Clock;
use super::clock::Timestamp;

/// 2020-01-01T00:00:00Z, in microseconds since 1970.
const EPOCH_MICROS: i64 = 1_577_836_800_000_000;
const RANDOM_BITS: u32 = 11;
/// Crockford's base 32 in lower case: no `i`, `l`, `o`, `u`, safe in any file name.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of an id's text.
pub const TEXT_LEN: usize = 13;

/// How far above the ids in use a durable ceiling is set: an hour's worth.
pub const CEILING_STEP: u64 = 3_600_000_000 << RANDOM_BITS;

/// The one generator of a process.
#[derive(Debug)]
pub struct Ids {
    last: AtomicU64,
    /// State of a small mixer; unpredictability is not needed, spread is.
    spread: AtomicU64,
    clock: Clock,
}

impl Ids {
    pub fn new(clock: Clock) -> Ids {
        let mut seed = [0; 8];
        // Without randomness the ids are still unique, only less evenly spread.
        let _ = SystemRandom::new().fill(&mut seed);
        Ids::seeded(clock, u64::from_le_bytes(seed))
    }

    /// The same ids for the same clock and seed.
    pub fn seeded(clock: Clock, seed: u64) -> Ids {
        Ids { last: AtomicU64::new(0), spread: AtomicU64::new(seed), clock }
    }

    /// An id greater than every one given before.
    pub fn next(&self) -> u64 {
        let micros = u64::try_from(self.clock.now().0.saturating_sub(EPOCH_MICROS)).unwrap_or(0);
        let mixed = mix(self.spread.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed));
        let wish = ((micros << RANDOM_BITS) | (mixed >> (64 - RANDOM_BITS))) & (i64::MAX as u64);
        let step = 1 + (mixed & 0xff);
        let next = |last: u64| wish.max(last + step);
        match self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |l| Some(next(l))) {
            Ok(last) | Err(last) => next(last),
        }
    }

    /// The greatest id given so far.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// From now on every id is greater than `floor`.
    pub fn raise(&self, floor: u64) {
        self.last.fetch_max(floor, Ordering::AcqRel);
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// When the id was made, as far as the clock was right and ids did not run ahead of it.
pub fn made(id: u64) -> Timestamp {
    Timestamp(EPOCH_MICROS.saturating_add(made_micros(id) as i64))
}

/// The same in microseconds since 2020.
pub fn made_micros(id: u64) -> u64 {
    id >> RANDOM_BITS
}

/// The text of an id: [`TEXT_LEN`] characters, sorting as the ids do.
pub fn to_text(id: u64) -> String {
    (0..TEXT_LEN).rev().map(|i| char::from(ALPHABET[(id >> (5 * i)) as usize & 31])).collect()
}

/// The id whose text this is. Only the exact form that [`to_text`] gives is an id.
pub fn from_text(text: &str) -> Option<u64> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let id = text.bytes().try_fold(0u128, |id, byte| {
        let digit = ALPHABET.iter().position(|&a| a == byte)?;
        Some(id << 5 | digit as u128)
    })?;
    u64::try_from(id).ok().filter(|&id| id <= i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicI64;

    use super::*;

    #[test]
    fn ids_rise_even_when_the_clock_goes_back() {
        let hand = Arc::new(AtomicI64::new(EPOCH_MICROS + 1_000_000));
        let ids = Ids::seeded(Clock::steered(Arc::clone(&hand)), 1);
        let mut last = 0;
        for step in 0..10_000 {
            if step == 5_000 {
                hand.store(0, Ordering::Release);
            }
            let id = ids.next();
            assert!(id > last);
            last = id;
        }
        ids.raise(last + 1_000_000);
        assert!(ids.next() > last + 1_000_000);
    }

    #[test]
    fn text_is_read_back_and_sorts_like_the_ids() {
        for id in [0, 1, 31, 32, 0x7fff_ffff_ffff_ffff, 123_456_789_012_345] {
            assert_eq!(from_text(&to_text(id)), Some(id));
        }
        assert!(to_text(31) < to_text(32));
        for wrong in ["", "000000000000", "00000000000000", "000000000000u", "zzzzzzzzzzzzz"] {
            assert_eq!(from_text(wrong), None, "{wrong}");
        }
    }
}
