//! Requests a second, for each client address and each key.
//!
//! Each client has a bucket that holds `burst` requests and fills at the rate. It is kept as one
//! moment, that at which it will be full again (the generic cell rate algorithm), so an entry is
//! small and nothing has to run to fill it. A full bucket says nothing that a new one would not
//! say, so it may be forgotten at any time.
//!
//! # Invariants
//!
//! - A client never gets more than `burst` requests and the rate's share of the time that passed.
//! - At most [`RateSettings::addresses_max`] clients are remembered (one a shard at least),
//!   whatever comes. When none of them can be forgotten, newcomers share one bucket in each shard
//!   until some can be. So a flood of addresses takes from newcomers, and from those who were quiet
//!   for as long as their bucket takes to fill, but not from those who are at work.
//!
//! # Who a client is
//!
//! An IPv4 address, or the /64 that an IPv6 address lies in, for that is the least that anyone is
//! given. Behind proxies it is the right-most address of `X-Forwarded-For` that is not a trusted
//! proxy's: each proxy appends whom it heard, so what stands left of a stranger is hearsay.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::Hash;
use std::hash::RandomState;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// Locks that share the clients between them.
const SHARDS: usize = 16;
/// A shard without room looks for buckets to forget this often at most.
const SWEEP_EVERY: u64 = 100_000_000;
/// Keys that are remembered. Only keys that exist are asked about.
const KEYS_MAX: usize = 100_000;
const FORWARDED_FOR: &str = "x-forwarded-for";

/// 0: off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateSettings {
    /// Requests a second and how many may come at once.
    pub per_address: f64,
    pub per_address_burst: u32,
    pub per_key: f64,
    pub per_key_burst: u32,
    /// Who is believed about the address of whom it speaks for.
    pub trusted_proxies: Vec<Network>,
    /// Addresses that are remembered.
    pub addresses_max: usize,
}

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub bits: u8,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let leading = |bits: u8, width: u8| match width.saturating_sub(bits) {
            width_left if u32::from(width_left) >= 128 => 0,
            width_left => u128::MAX << width_left,
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = leading(self.bits, 32);
                (u128::from(u32::from(net)) ^ u128::from(u32::from(address))) & mask == 0
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                (u128::from(net) ^ u128::from(address)) & leading(self.bits, 128) == 0
            }
            // Written as IPv6, an IPv4 network has 96 more bits.
            (IpAddr::V6(net), IpAddr::V4(address)) => {
                let address = u128::from(address.to_ipv6_mapped());
                (u128::from(net) ^ address) & leading(self.bits, 128) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

/// Whom limits are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    V4(u32),
    /// The /64.
    V6(u64),
}

impl Client {
    pub(crate) fn of(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(address) => Client::V4(address.into()),
            IpAddr::V6(address) => Client::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// The limits of one generation of settings.
pub(crate) struct RateLimits {
    trusted: Vec<Network>,
    addresses: Option<Arc<Buckets<Client>>>,
    keys: Option<Arc<Buckets<String>>>,
}

impl RateLimits {
    /// Buckets stay as full as they are in `before` where their rate stays.
    pub(crate) fn new(settings: &RateSettings, before: Option<&RateLimits>) -> RateLimits {
        let addresses = Rate::of(settings.per_address, settings.per_address_burst).map(|rate| {
            let kept = before.and_then(|before| before.addresses.clone());
            kept.filter(|kept| kept.is_like(rate, settings.addresses_max))
                .unwrap_or_else(|| Buckets::new(rate, settings.addresses_max))
        });
        let keys = Rate::of(settings.per_key, settings.per_key_burst).map(|rate| {
            let kept = before.and_then(|before| before.keys.clone());
            kept.filter(|kept| kept.is_like(rate, KEYS_MAX))
                .unwrap_or_else(|| Buckets::new(rate, KEYS_MAX))
        });
        RateLimits { trusted: settings.trusted_proxies.clone(), addresses, keys }
    }

    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Takes one request of the client's address, or says how long it has to wait for the next.
    pub(crate) fn take_address(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Duration> {
        let Some(addresses) = &self.addresses else { return Ok(()) };
        addresses.take(&Client::of(self.client(peer, headers)))
    }

    /// Takes one request of an access key.
    pub(crate) fn take_key(&self, id: &str) -> Result<(), Duration> {
        self.keys.as_ref().map_or(Ok(()), |keys| keys.take(id))
    }

    /// The address of the client that stands behind `peer`.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        if !self.is_trusted(peer) {
            return client;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        for hop in lines.flat_map(|line| line.as_bytes().rsplit(|&b| b == b',')) {
            // Whoever wrote something else is as far as we can see.
            let Some(address) = address(hop) else { break };
            client = address;
            if !self.is_trusted(address) {
                break;
            }
        }
        client
    }
}

/// An address with or without a port, an IPv6 address with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_matches('"');
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(with_port.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok()
}

/// A rate as nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    /// From one request to the next.
    step: u64,
    /// What may be ahead of that.
    ahead: u64,
}

impl Rate {
    /// `None`: no limit.
    fn of(per_second: f64, burst: u32) -> Option<Rate> {
        // Also for what is no number.
        if per_second.is_nan() || per_second <= 0.0 {
            return None;
        }
        let step = ((1e9 / per_second) as u64).max(1);
        Some(Rate { step, ahead: step.saturating_mul(u64::from(burst.max(1)) - 1) })
    }

    /// Takes one of the bucket that will be full at `full_at`, or says how long it lacks it.
    fn take(self, full_at: &mut u64, now: u64) -> Result<(), Duration> {
        let begins = (*full_at).max(now);
        let lacks = (begins - now).saturating_sub(self.ahead);
        if lacks > 0 {
            return Err(Duration::from_nanos(lacks));
        }
        *full_at = begins.saturating_add(self.step);
        Ok(())
    }
}

/// A bucket for each of many.
struct Buckets<K> {
    rate: Rate,
    most: usize,
    hasher: RandomState,
    began: Instant,
    shards: [Mutex<Shard<K>>; SHARDS],
}

/// Moments are nanoseconds since the buckets were made.
struct Shard<K> {
    full_at: HashMap<K, u64, RandomState>,
    /// What newcomers share while there is no room for them.
    overflow: u64,
    sweep_at: u64,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Rate, most: usize) -> Arc<Buckets<K>> {
        let hasher = RandomState::new();
        let shards = std::array::from_fn(|_| {
            let full_at = HashMap::with_hasher(hasher.clone());
            Mutex::new(Shard { full_at, overflow: 0, sweep_at: 0 })
        });
        Arc::new(Buckets { rate, most, hasher, began: Instant::now(), shards })
    }

    fn is_like(&self, rate: Rate, most: usize) -> bool {
        (self.rate, self.most) == (rate, most)
    }

    fn take<Q>(&self, key: &Q) -> Result<(), Duration>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // The map goes by the low bits and the highest seven.
        let shard = (self.hasher.hash_one(key) >> 32) as usize % SHARDS;
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = shard.full_at.get_mut(key) {
            return self.rate.take(full_at, now);
        }
        if !shard.has_room((self.most / SHARDS).max(1), now) {
            return self.rate.take(&mut shard.overflow, now);
        }
        let full_at = shard.full_at.entry(key.to_owned()).or_insert(0);
        self.rate.take(full_at, now)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().full_at.len()).sum()
    }
}

impl<K: Eq + Hash> Shard<K> {
    fn has_room(&mut self, most: usize, now: u64) -> bool {
        if self.full_at.len() < most {
            return true;
        }
        if now < self.sweep_at {
            return false;
        }
        self.sweep_at = now.saturating_add(SWEEP_EVERY);
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.len() < most
    }
}

/// Of a wait, whole seconds for `Retry-After`.
pub(crate) fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(per_second: f64, burst: u32) -> RateSettings {
        RateSettings {
            per_address: per_second,
            per_address_burst: burst,
            addresses_max: 10_000,
            ..RateSettings::default()
        }
    }

    fn network(text: &str) -> Network {
        let (address, bits) = text.split_once('/').unwrap();
        Network { address: address.parse().unwrap(), bits: bits.parse().unwrap() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    proptest! {
        /// A bucket as S3's own would be: a number of requests that grows with time.
        #[test]
        fn a_bucket_gives_its_burst_and_then_its_rate(
            millis in 1_u64..50,
            burst in 1_u32..5,
            gaps in prop::collection::vec(0_u64..120, 1..80),
        ) {
            let rate = Rate::of(1000.0 / millis as f64, burst).unwrap();
            let step = rate.step;
            let (mut now, mut full_at) = (0, 0);
            // What is in it, in units of nanoseconds: a request takes `step` of them.
            let (mut held, most) = (step * u64::from(burst), step * u64::from(burst));
            for gap in gaps {
                now += gap * 1_000_000;
                held = most.min(held + gap * 1_000_000);
                let taken = rate.take(&mut full_at, now);
                match held.checked_sub(step) {
                    Some(rest) => {
                        prop_assert_eq!(taken, Ok(()));
                        held = rest;
                    }
                    None => prop_assert_eq!(taken, Err(Duration::from_nanos(step - held))),
                }
            }
        }
    }

    #[test]
    fn odd_rates_are_off_or_hold() {
        for off in [0.0, -1.0, f64::NAN] {
            assert_eq!(Rate::of(off, 5), None);
        }
        // Without a burst one request at a time is let through.
        let rate = Rate::of(0.5, 0).unwrap();
        let mut full_at = 0;
        assert_eq!(rate.take(&mut full_at, 0), Ok(()));
        assert_eq!(rate.take(&mut full_at, 0), Err(Duration::from_secs(2)));
        let slowest = Rate::of(f64::MIN_POSITIVE, u32::MAX).unwrap();
        let mut full_at = 0;
        assert_eq!(slowest.take(&mut full_at, 7), Ok(()));
        assert!(Rate::of(f64::INFINITY, 1).unwrap().take(&mut full_at, u64::MAX).is_ok());
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_bucket_and_a_64_is_one_address() {
        let limits = RateLimits::new(&settings(1.0, 2), None);
        let take = |address: &str| limits.take_address(ip(address), &HeaderMap::new()).is_ok();
        assert!(take("192.0.2.1") && take("::ffff:192.0.2.1") && !take("192.0.2.1"));
        assert!(take("192.0.2.2"));
        assert!(take("2001:db8::1") && take("2001:db8::ffff:1") && !take("2001:db8:0:0:9::"));
        assert!(take("2001:db8:0:1::1"));
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert!(take("192.0.2.1") && !take("192.0.2.1"));
        let off = RateLimits::new(&settings(0.0, 0), None);
        assert!((0..1000).all(|_| off.take_address(ip("192.0.2.1"), &HeaderMap::new()).is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_its_own_bucket() {
        let limits = RateSettings { per_key: 1.0, per_key_burst: 1, ..RateSettings::default() };
        let limits = RateLimits::new(&limits, None);
        assert_eq!(limits.take_key("a"), Ok(()));
        assert_eq!(limits.take_key("a"), Err(Duration::from_secs(1)));
        assert_eq!(limits.take_key("b"), Ok(()));
    }

    #[test]
    fn the_client_is_the_right_most_address_that_nobody_vouches_for() {
        let trusted = ["10.0.0.0/8", "2001:db8:aaaa::/48", "::ffff:172.16.0.0/108"].map(network);
        let trusted_proxies = trusted.to_vec();
        let limits = RateLimits::new(&RateSettings { trusted_proxies, ..Default::default() }, None);
        for (peer, lines, client) in [
            ("10.0.0.1", &["192.0.2.1"][..], "192.0.2.1"),
            // A stranger may write what it likes.
            ("192.0.2.9", &["198.51.100.1"], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.1, 192.0.2.1 , 10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.1", "192.0.2.1", "10.0.0.2,10.0.0.3"], "192.0.2.1"),
            // All are trusted: the one that is farthest away.
            ("10.0.0.1", &["10.0.0.7, 10.0.0.2"], "10.0.0.7"),
            ("10.0.0.1", &["192.0.2.1:4711"], "192.0.2.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["\"[2001:db8::1]\""], "2001:db8::1"),
            ("2001:db8:aaaa::1", &["2001:db8::1"], "2001:db8::1"),
            ("2001:db8:bbbb::1", &["2001:db8::1"], "2001:db8:bbbb::1"),
            ("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("172.31.255.255", &["192.0.2.1"], "192.0.2.1"),
            ("172.32.0.0", &["192.0.2.1"], "172.32.0.0"),
            ("10.0.0.1", &["192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
            // Garbage ends what is known; it does not hide who wrote it.
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.1, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["nonsense, 192.0.2.1"], "192.0.2.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            assert_eq!(limits.client(ip(peer), &headers), ip(client), "{peer} {lines:?}");
        }
        let mut odd = HeaderMap::new();
        odd.append(FORWARDED_FOR, http::HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        assert_eq!(limits.client(ip("10.0.0.1"), &odd), ip("10.0.0.1"));
    }

    #[test]
    fn networks_count_their_leading_bits() {
        for (net, address, within) in [
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.0", false),
            ("2001:db8::/64", "2001:db8::ffff:ffff", true),
            ("2001:db8::1/128", "2001:db8::2", false),
        ] {
            assert_eq!(network(net).contains(ip(address)), within, "{address} in {net}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_empties_only_the_buckets_whose_rate_changes() {
        let both = RateSettings { per_key: 1.0, per_key_burst: 1, ..settings(1.0, 1) };
        let first = RateLimits::new(&both, None);
        let none = HeaderMap::new();
        assert!(first.take_address(ip("192.0.2.1"), &none).is_ok() && first.take_key("a").is_ok());
        let trusted_proxies = vec![network("10.0.0.0/8")];
        let same = RateLimits::new(&RateSettings { trusted_proxies, ..both.clone() }, Some(&first));
        assert!(same.take_address(ip("192.0.2.1"), &none).is_err() && same.take_key("a").is_err());
        let other = RateLimits::new(&RateSettings { per_address: 2.0, ..both }, Some(&same));
        assert!(other.take_address(ip("192.0.2.1"), &none).is_ok() && other.take_key("a").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_addresses_take_bounded_room_and_nothing_from_who_is_known() {
        let limits = RateLimits::new(&settings(1.0, 8), None);
        let buckets = limits.addresses.as_ref().unwrap();
        let known: Vec<Client> = (0..200).map(Client::V4).collect();
        let mut refused = 0;
        for n in 0..1_000_000_u64 {
            if n % 25_000 == 0 {
                // A little more than their rate: their buckets are never full.
                tokio::time::advance(Duration::from_millis(900)).await;
                known.iter().for_each(|known| assert_eq!(buckets.take(known), Ok(())));
                assert!(buckets.len() <= 10_000);
            }
            refused += u32::from(buckets.take(&Client::V6(n)).is_err());
        }
        assert!(buckets.len() <= 10_000, "{}", buckets.len());
        // There was room for 10,000 in a second and a shared bucket for the other 15,000.
        assert!((500_000..900_000).contains(&refused), "{refused}");
        // And when they are gone, all is as before.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!((0..8).all(|_| buckets.take(&Client::V6(u64::MAX)).is_ok()));
        assert!(buckets.take(&Client::V6(u64::MAX)).is_err());
    }
}
