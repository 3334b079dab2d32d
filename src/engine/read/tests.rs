//! Reads against a source whose replicas fail in every way.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::source::Pieces;
use super::source::Standing;
use super::*;
use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::Bandwidth;
use crate::backend::Fault;
use crate::backend::Fitness;
use crate::backend::Hours;
use crate::backend::Meter;
use crate::backend::faulty::Faults;
use crate::base::Clock;
use crate::engine::hash::Wanted;
use crate::engine::hash::hash_short;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::DayBegins;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::store::Replica;
use crate::store::StoreError;

/// Places are bytes of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Whatever the fault, each time it is opened.
    AtOpen(Fault),
    /// The first few times it is opened.
    AtOpenFirst(u32),
    HangsAtOpen,
    Errs(u64, Fault),
    /// Errs each time after this many bytes; a later read gets further.
    ErrsAfter(u64),
    Hangs(u64),
    Ends(u64),
    Corrupt(u64),
    /// On the world's real backend, whose bandwidth others want too.
    Throttled,
    /// Of a backend that is not in the fleet, unless another blob has one there.
    Unconfigured,
}

#[derive(Default)]
struct World {
    blobs: HashMap<BlobId, Blob>,
    troubles: HashMap<WriteId, Trouble>,
    standings: HashMap<BackendId, Standing>,
    /// What the store says when it is asked again; else what it said before.
    later: HashMap<BlobId, Vec<Replica>>,
    backend: Option<Arc<Backend>>,
    seen: Mutex<Seen>,
}

struct Blob {
    bytes: Bytes,
    hash: [u8; 32],
    groups: Arc<[[u8; 32]]>,
    replicas: Vec<Replica>,
}

#[derive(Default)]
struct Seen {
    opened: Vec<(WriteId, Range<u64>)>,
    marked: Vec<(WriteId, ReplicaState)>,
    asked: usize,
    overdue: Vec<(BackendId, Duration)>,
}

#[derive(Clone)]
struct Fake(Arc<World>);

fn error(fault: Fault) -> BackendError {
    BackendError {
        fault,
        backend: "fake".into(),
        operation: "read",
        path: String::new(),
        unknown: false,
        cause: None,
    }
}

fn whole(size: u64) -> usize {
    usize::try_from(size).unwrap()
}

impl Source for Fake {
    fn overdue(&self, backend: BackendId, since: Instant) {
        self.0.seen.lock().unwrap().overdue.push((backend, since.elapsed()));
    }

    fn standing(&self, backend: BackendId) -> Option<Standing> {
        self.0.standings.get(&backend).copied()
    }

    async fn open(&self, replica: &Replica, range: Range<u64>) -> Result<Pieces, BackendError> {
        let trouble = self.0.troubles[&replica.write];
        let nth = {
            let mut seen = self.0.seen.lock().unwrap();
            seen.opened.push((replica.write, range.clone()));
            seen.opened.iter().filter(|(write, _)| *write == replica.write).count()
        };
        match trouble {
            Trouble::AtOpen(fault) => return Err(error(fault)),
            Trouble::AtOpenFirst(times) if nth as u64 <= u64::from(times) => {
                return Err(error(Fault::Passing));
            }
            Trouble::HangsAtOpen => std::future::pending().await,
            Trouble::Throttled => {
                return self.0.backend.as_ref().unwrap().read(&replica.path, range).await;
            }
            _ => {}
        }
        let blob =
            self.0.blobs.values().find(|b| b.replicas.iter().any(|r| r.path == replica.path));
        let mut bytes = blob.unwrap().bytes.to_vec();
        if let Trouble::Corrupt(at) = trouble {
            bytes[whole(at)] ^= 0x10;
        }
        let stop = match trouble {
            Trouble::Errs(at, _) | Trouble::Hangs(at) | Trouble::Ends(at) => at,
            Trouble::ErrsAfter(len) => range.start + len,
            _ => u64::MAX,
        };
        let end = range.end.min(stop).max(range.start);
        let bytes = Bytes::from(bytes).slice(whole(range.start)..whole(end));
        // Sizes of pieces that fit no border.
        let size = 100_003 * (1 + whole(replica.write.0 % 9));
        let pieces: Vec<Bytes> = (0..bytes.len().div_ceil(size))
            .map(|i| bytes.slice(i * size..bytes.len().min((i + 1) * size)))
            .collect();
        let pieces = stream::iter(pieces).map(Ok);
        Ok(match trouble {
            _ if end == range.end => pieces.boxed(),
            Trouble::Errs(_, fault) => pieces.chain(stream::iter([Err(error(fault))])).boxed(),
            Trouble::ErrsAfter(_) => {
                pieces.chain(stream::iter([Err(error(Fault::Passing))])).boxed()
            }
            Trouble::Hangs(_) => pieces.chain(stream::pending()).boxed(),
            _ => pieces.boxed(),
        })
    }

    async fn groups(&self, blob: BlobId) -> Result<Arc<[[u8; 32]]>, StoreError> {
        Ok(Arc::clone(&self.0.blobs[&blob].groups))
    }

    async fn replicas(&self, blob: BlobId) -> Result<Vec<Replica>, StoreError> {
        self.0.seen.lock().unwrap().asked += 1;
        let later = self.0.later.get(&blob);
        Ok(later.unwrap_or(&self.0.blobs[&blob].replicas).clone())
    }

    fn mark(&self, replica: &Replica, state: ReplicaState) {
        self.0.seen.lock().unwrap().marked.push((replica.write, state));
    }
}

/// The `n`-th replica of a blob lies on backend `n`; all are alike but for their place.
fn replica(blob: u64, n: u64) -> Replica {
    Replica {
        write: WriteId(blob * 10 + n),
        backend: BackendId(n),
        path: format!("{blob}"),
        state: ReplicaState::Good,
        is_borrowed: false,
    }
}

/// A backend at this place of the configuration, which costs nothing.
fn at(fitness: Fitness, local: bool, place: usize) -> Standing {
    Standing { fitness, local, unmetered: true, place: Reverse(place) }
}

/// Blobs of these sizes, each with replicas in these troubles, and their entries.
fn world(blobs: &[(u64, Vec<Trouble>)]) -> (World, Vec<Entry>) {
    let mut world = World::default();
    let mut entries = Vec::new();
    for (number, (size, troubles)) in (0u64..).zip(blobs) {
        let id = BlobId(number);
        let bytes: Vec<u8> =
            (0..*size).map(|i| (((i + number) * 0x9e37_79b9) >> 13) as u8).collect();
        let (hash, _) = hash_short(&bytes, &Wanted::default());
        let replicas: Vec<_> = (0..troubles.len() as u64).map(|n| replica(number, n)).collect();
        for (n, (replica, trouble)) in replicas.iter().zip(troubles).enumerate() {
            world.troubles.insert(replica.write, *trouble);
            if *trouble != Trouble::Unconfigured {
                let standing = at(Fitness::Fit, true, n);
                world.standings.insert(replica.backend, standing);
            }
        }
        entries.push(Entry {
            part: 0,
            blob: id,
            offset: 0,
            length: *size,
            blob_size: *size,
            hash: Some(hash.hash),
            replicas: replicas.clone(),
        });
        let (hash, groups) = (hash.hash, hash.groups.into());
        world.blobs.insert(id, Blob { bytes: bytes.into(), hash, groups, replicas });
    }
    (world, entries)
}

fn truth(world: &World, entries: &[Entry], offset: u64, length: u64) -> Vec<u8> {
    let slices = entries.iter().map(|e| {
        world.blobs[&e.blob].bytes.slice(whole(e.offset)..whole(e.offset + e.length)).to_vec()
    });
    let all: Vec<u8> = slices.collect::<Vec<_>>().concat();
    all[whole(offset)..whole(offset + length)].to_vec()
}

/// Time is paused: a deadline passes as soon as nothing else can happen.
fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn means() -> Means {
    Means { budget: Budget::new(64 << 20), hashers: Hashers::new(1) }
}

/// What came, and how it ended.
async fn read(
    fake: &Fake,
    entries: Vec<Entry>,
    offset: u64,
    length: u64,
) -> (Vec<u8>, Result<(), EngineError>) {
    let means = means();
    let segments = segments(entries, offset, length);
    let mut body = match open(fake.clone(), means.clone(), segments, ()).await {
        Ok(body) => body,
        Err(err) => return (Vec::new(), Err(err)),
    };
    let mut bytes = Vec::new();
    let mut end = Ok(());
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(err) => end = Err(err),
        }
    }
    drop(body);
    assert_eq!(means.budget.free(), 64 << 20, "room in the budget was not given back");
    (bytes, end)
}

fn read_all(world: World, entries: Vec<Entry>) -> (Vec<u8>, Result<(), EngineError>, Fake) {
    let length = entries.iter().map(|e| e.length).sum();
    let fake = Fake(Arc::new(world));
    let (bytes, end) = paused().block_on(read(&fake, entries, 0, length));
    (bytes, end, fake)
}

const MIB: u64 = 1 << 20;

/// A size near a border of groups.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        1u64..70_000,
        (0u64..4, 0u64..5).prop_map(|(groups, off)| (groups * MIB + off).saturating_sub(2).max(1)),
        1u64..4 * MIB,
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let at = || prop_oneof![0u64..4 * MIB, 0u64..3, (0u64..4).prop_map(|g| g * MIB)];
    let fault = || {
        prop_oneof![
            Just(Fault::Missing),
            Just(Fault::Damaged),
            Just(Fault::Refused),
            Just(Fault::Passing),
            Just(Fault::Absent),
        ]
    };
    prop_oneof![
        2 => Just(Trouble::None),
        1 => fault().prop_map(Trouble::AtOpen),
        1 => (1u32..3).prop_map(Trouble::AtOpenFirst),
        1 => Just(Trouble::HangsAtOpen),
        2 => (at(), fault()).prop_map(|(at, fault)| Trouble::Errs(at, fault)),
        1 => (MIB..3 * MIB).prop_map(Trouble::ErrsAfter),
        1 => at().prop_map(Trouble::Hangs),
        1 => at().prop_map(Trouble::Ends),
        2 => at().prop_map(Trouble::Corrupt),
        1 => Just(Trouble::Unconfigured),
    ]
}

fn fitting(trouble: Trouble, size: u64) -> Trouble {
    match trouble {
        Trouble::Corrupt(at) => Trouble::Corrupt(at % size),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn what_comes_is_true_and_whole_when_a_good_replica_exists(
        blobs in prop::collection::vec((size(), prop::collection::vec(trouble(), 1..4)), 1..4),
        cut in (0u64..1000, 0u64..=1000),
        edges in any::<(bool, bool)>(),
    ) {
        let blobs: Vec<_> = blobs
            .into_iter()
            .map(|(size, t)| (size, t.into_iter().map(|t| fitting(t, size)).collect()))
            .collect();
        let (world, mut entries) = world(&blobs);
        // The first entry may be a slice of its blob.
        let slice = entries[0].length / 3;
        entries[0].offset = slice;
        entries[0].length -= slice;
        let total: u64 = entries.iter().map(|e| e.length).sum();
        let mut offset = (total - 1) * cut.0 / 1000;
        let mut length = (total - offset) * cut.1 / 1000;
        if edges.0 {
            offset -= (offset + slice) % MIB % (offset + 1);
        }
        if edges.1 {
            length -= (offset + slice + length) % MIB % (length + 1);
        }
        let truth = truth(&world, &entries, offset, length);
        let mut fine = true;
        for segment in segments(entries.clone(), offset, length) {
            let mut of = segment.replicas.iter().map(|r| world.troubles[&r.write]);
            let good = |t: Trouble| matches!(t, Trouble::None | Trouble::AtOpenFirst(1));
            let gets_on = |t: Trouble| matches!(t, Trouble::ErrsAfter(_));
            fine &= of.any(|t| good(t) || gets_on(t));
        }
        let fake = Fake(Arc::new(world));
        let (bytes, end) = paused().block_on(read(&fake, entries, offset, length));
        prop_assert!(truth.starts_with(&bytes), "{} bytes are not the object's", bytes.len());
        match &end {
            Ok(()) => prop_assert_eq!(bytes.len(), truth.len()),
            Err(err) => prop_assert!(matches!(err, EngineError::Unavailable(_)), "{err}"),
        }
        prop_assert!(!fine || end.is_ok(), "a good replica was passed over");
        // Only what is wrong is marked.
        for (write, state) in &fake.0.seen.lock().unwrap().marked {
            let right = match fake.0.troubles[write] {
                Trouble::Corrupt(_) => ReplicaState::Damaged,
                Trouble::AtOpen(fault) | Trouble::Errs(_, fault) => match fault {
                    Fault::Missing => ReplicaState::Missing,
                    Fault::Damaged => ReplicaState::Damaged,
                    other => panic!("{other:?} is no reason to mark"),
                },
                other => panic!("{other:?} is no reason to mark"),
            };
            prop_assert_eq!(*state, right);
        }
    }
}

#[test]
fn a_corrupt_byte_in_a_later_group_is_replaced_at_that_group() {
    let (world, entries) = world(&[(5 * MIB, vec![Trouble::Corrupt(3 * MIB + 7), Trouble::None])]);
    let truth = truth(&world, &entries, 0, 5 * MIB);
    let (bytes, end, fake) = read_all(world, entries);
    assert!(end.is_ok() && bytes == truth);
    let seen = fake.0.seen.lock().unwrap();
    // One ranged read for all groups, and one for the rest from the group that was wrong.
    assert_eq!(seen.opened, [(WriteId(0), 0..5 * MIB), (WriteId(1), 3 * MIB..5 * MIB)]);
    assert_eq!(seen.marked, [(WriteId(0), ReplicaState::Damaged)]);
}

#[test]
fn a_range_reads_only_the_groups_that_hold_it() {
    let (world, entries) = world(&[(5 * MIB + 5, vec![Trouble::None])]);
    let fake = Fake(Arc::new(world));
    let cases = [
        (0, 1, 0..MIB),
        (MIB - 1, 1, 0..MIB),
        (MIB, 1, MIB..2 * MIB),
        (MIB - 1, 2, 0..2 * MIB),
        (MIB, MIB, MIB..2 * MIB),
        (4 * MIB + 9, MIB - 9, 4 * MIB..5 * MIB),
        (5 * MIB + 4, 1, 5 * MIB..5 * MIB + 5),
        (5 * MIB - 1, 6, 4 * MIB..5 * MIB + 5),
    ];
    for (offset, length, range) in cases {
        let (bytes, end) = paused().block_on(read(&fake, entries.clone(), offset, length));
        assert!(end.is_ok());
        assert_eq!(bytes, truth(&fake.0, &entries, offset, length), "{offset}+{length}");
        assert_eq!(fake.0.seen.lock().unwrap().opened.pop(), Some((WriteId(0), range)));
    }
}

#[test]
fn what_is_fit_comes_before_local_before_the_order_of_the_fleet_and_failures_go_last() {
    let troubles = vec![Trouble::AtOpen(Fault::Passing); 7];
    let (mut world, entries) = world(&[(9, troubles)]);
    world.standings.insert(BackendId(0), at(Fitness::Absent, true, 0));
    world.standings.insert(BackendId(1), at(Fitness::Fit, false, 1));
    world.standings.insert(BackendId(2), at(Fitness::Fit, true, 2));
    world.standings.insert(BackendId(3), at(Fitness::Fit, true, 3));
    world.standings.insert(BackendId(4), at(Fitness::Spent, true, 4));
    world.standings.insert(BackendId(5), at(Fitness::Doubtful, true, 5));
    world.standings.insert(BackendId(6), at(Fitness::Resting, true, 6));
    let (bytes, end, fake) = read_all(world, entries);
    assert!(bytes.is_empty());
    assert!(matches!(end, Err(EngineError::Unavailable(Some(_)))));
    let seen = fake.0.seen.lock().unwrap();
    let order: Vec<u64> = seen.opened.iter().map(|(write, _)| write.0).collect();
    // The store was asked once, and each had a second chance.
    let once = [2, 3, 1, 5, 4, 6, 0];
    assert_eq!((order, seen.asked), ([once, once].concat(), 1));
}

#[test]
fn a_backend_that_failed_is_last_also_for_the_next_blob() {
    let troubles = vec![Trouble::ErrsAfter(MIB), Trouble::None];
    let (world, entries) = world(&[(2 * MIB, troubles.clone()), (2 * MIB, troubles)]);
    let (_, end, fake) = read_all(world, entries);
    assert!(end.is_ok());
    let order: Vec<u64> =
        fake.0.seen.lock().unwrap().opened.iter().map(|(write, _)| write.0).collect();
    assert_eq!(order, [0, 1, 11]);
}

#[test]
fn a_lone_replica_that_breaks_off_again_and_again_is_read_to_the_end() {
    let (world, entries) = world(&[(4 * MIB, vec![Trouble::ErrsAfter(MIB + 5)])]);
    let truth = truth(&world, &entries, 0, 4 * MIB);
    let (bytes, end, fake) = read_all(world, entries);
    assert!(end.is_ok() && bytes == truth);
    let seen = fake.0.seen.lock().unwrap();
    let starts: Vec<u64> = seen.opened.iter().map(|(_, range)| range.start / MIB).collect();
    assert_eq!((starts, seen.asked), (vec![0, 1, 2, 3], 0));
}

#[test]
fn what_is_known_to_be_wrong_is_tried_last_and_what_is_being_written_never() {
    for state in ReplicaState::ALL {
        let (mut world, mut entries) = world(&[(9, vec![Trouble::None])]);
        entries[0].replicas[0].state = state;
        world.blobs.get_mut(&BlobId(0)).unwrap().replicas[0].state = state;
        let (bytes, end, fake) = read_all(world, entries);
        assert_eq!(end.is_ok(), state != ReplicaState::Writing, "{state:?}");
        assert_eq!(bytes.len(), if end.is_ok() { 9 } else { 0 });
        assert_eq!(fake.0.seen.lock().unwrap().opened.len(), bytes.len() / 9);
    }
    let troubles = vec![Trouble::AtOpen(Fault::Passing); 3];
    let (mut world, mut entries) = world(&[(9, troubles)]);
    for (n, state) in [ReplicaState::Missing, ReplicaState::Damaged].into_iter().enumerate() {
        entries[0].replicas[n].state = state;
        world.blobs.get_mut(&BlobId(0)).unwrap().replicas[n].state = state;
    }
    let (_, _, fake) = read_all(world, entries);
    let opened: Vec<_> = fake.0.seen.lock().unwrap().opened.iter().map(|(w, _)| w.0).collect();
    assert_eq!(opened[..3], [2, 1, 0]);
}

#[test]
fn replicas_that_are_damaged_in_different_places_make_a_whole() {
    let troubles = vec![Trouble::Corrupt(7), Trouble::Corrupt(2 * MIB + 7)];
    let (mut world, mut entries) = world(&[(4 * MIB, troubles.clone())]);
    let truth = truth(&world, &entries, 0, 4 * MIB);
    for n in [0, 1] {
        entries[0].replicas[n].state = ReplicaState::Damaged;
        world.blobs.get_mut(&BlobId(0)).unwrap().replicas[n].state = ReplicaState::Damaged;
    }
    let (bytes, end, fake) = read_all(world, entries);
    assert!(end.is_ok() && bytes == truth);
    assert_eq!(fake.0.seen.lock().unwrap().marked, [], "the store knows it");
    let (world, entries) = self::world(&[(4 * MIB, troubles)]);
    let (bytes, end, fake) = read_all(world, entries);
    assert!(end.is_ok() && bytes == truth);
    let damaged = |n| (WriteId(n), ReplicaState::Damaged);
    assert_eq!(fake.0.seen.lock().unwrap().marked, [damaged(0), damaged(1)]);
}

#[test]
fn a_replica_that_came_meanwhile_is_found() {
    let (mut world, entries) = world(&[(3 * MIB, vec![Trouble::AtOpen(Fault::Missing)])]);
    let new = replica(0, 5);
    world.troubles.insert(new.write, Trouble::None);
    world.standings.insert(new.backend, at(Fitness::Fit, true, 5));
    world.later.insert(BlobId(0), vec![replica(0, 0), new]);
    let truth = truth(&world, &entries, 0, 3 * MIB);
    let (bytes, end, fake) = read_all(world, entries);
    assert!(end.is_ok() && bytes == truth);
    let seen = fake.0.seen.lock().unwrap();
    assert_eq!(seen.marked, [(WriteId(0), ReplicaState::Missing)]);
    assert_eq!(seen.opened.len(), 2, "a missing replica is not tried again");
}

#[test]
fn a_backend_that_hangs_is_left_after_a_while() {
    for trouble in [Trouble::HangsAtOpen, Trouble::Hangs(0), Trouble::Hangs(MIB + 1)] {
        let (world, entries) = world(&[(3 * MIB, vec![trouble, Trouble::None])]);
        let truth = truth(&world, &entries, 0, 3 * MIB);
        let fake = Fake(Arc::new(world));
        let (bytes, end) = paused().block_on(async {
            let before = tokio::time::Instant::now();
            let came = read(&fake, entries, 0, 3 * MIB).await;
            let took = before.elapsed();
            assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(31), "{took:?}");
            came
        });
        assert!(end.is_ok() && bytes == truth, "{trouble:?}");
        let seen = fake.0.seen.lock().unwrap();
        assert!(seen.marked.is_empty(), "a hang says nothing of the bytes");
        let [(BackendId(0), waited)] = seen.overdue[..] else { panic!("{:?}", seen.overdue) };
        assert!(waited >= Duration::from_secs(30), "{waited:?}");
    }
}

/// The entries as those of imported files that nobody has read yet.
fn unhashed(entries: Vec<Entry>) -> Vec<Entry> {
    entries.into_iter().map(|entry| Entry { hash: None, ..entry }).collect()
}

#[test]
fn bytes_without_a_hash_are_passed_on_as_they_come() {
    for size in [1, MIB, 3 * MIB + 5] {
        let (world, entries) = world(&[(size, vec![Trouble::Corrupt(0)])]);
        let mut expected = truth(&world, &entries, 0, size);
        expected[0] ^= 0x10;
        let (bytes, end, _) = read_all(world, unhashed(entries));
        assert!(bytes == expected && end.is_ok());
    }
}

#[test]
fn a_read_without_a_hash_goes_on_elsewhere_only_before_its_first_byte() {
    let size = 3 * MIB;
    let fails = |at| vec![Trouble::Errs(at, Fault::Passing), Trouble::None];
    let (early, entries) = world(&[(size, fails(MIB - 1))]);
    let expected = truth(&early, &entries, 0, size);
    let (bytes, end, _) = read_all(early, unhashed(entries));
    assert!(bytes == expected && end.is_ok());
    let (late, entries) = world(&[(size, fails(MIB + 1))]);
    let (bytes, end, fake) = read_all(late, unhashed(entries));
    assert!(bytes == expected[..whole(MIB)] && end.is_err());
    assert_eq!(fake.0.seen.lock().unwrap().opened.len(), 1);
}

#[test]
fn group_hashes_that_do_not_lead_to_the_hash_are_not_believed() {
    let (mut world, entries) = world(&[(2 * MIB, vec![Trouble::None])]);
    let blob = world.blobs.get_mut(&BlobId(0)).unwrap();
    blob.groups = blob.groups.iter().rev().copied().collect();
    assert_ne!(blob.hash, [0; 32]);
    let (bytes, end, fake) = read_all(world, entries);
    assert!(bytes.is_empty() && matches!(end, Err(EngineError::Unavailable(None))));
    let seen = fake.0.seen.lock().unwrap();
    assert!(seen.opened.is_empty() && seen.marked.is_empty());
}

#[test]
fn nothing_is_read_of_an_empty_object() {
    let (world, _) = world(&[]);
    let (bytes, end, _) = read_all(world, Vec::new());
    assert!(bytes.is_empty() && end.is_ok());
}

/// Bytes in the budget that a client holds that has taken `taken` pieces and takes no more.
async fn held(budget: u64, size: u64) -> u64 {
    let (world, entries) = world(&[(size, vec![Trouble::None])]);
    let means = Means { budget: Budget::new(budget), hashers: Hashers::new(1) };
    let source = Fake(Arc::new(world));
    let mut body = open(source, means.clone(), segments(entries, 0, size), ()).await.unwrap();
    assert!(body.next().await.unwrap().is_ok());
    // Time stands still until nothing can happen any more, the hashing threads apart.
    let mut calm = 0;
    let mut free = means.budget.free();
    while calm < 50 {
        means.hashers.run(|| ()).await;
        tokio::task::yield_now().await;
        calm = if means.budget.free() == free { calm + 1 } else { 0 };
        free = means.budget.free();
    }
    drop(body);
    while means.budget.free() < budget {
        tokio::task::yield_now().await;
    }
    budget - free
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_little() {
    let most = AHEAD_LOCAL as u64 + 1;
    assert_eq!(held(64 * MIB, 30 * MIB).await, most * MIB);
    // With little free, only the next one is ready.
    assert_eq!(held(4 * MIB, 30 * MIB).await, 2 * MIB);
    // A budget that is smaller than a group still lets the read go on.
    let (world, entries) = world(&[(3 * MIB, vec![Trouble::None])]);
    let truth = truth(&world, &entries, 0, 3 * MIB);
    let means = Means { budget: Budget::new(1000), hashers: Hashers::new(1) };
    let segments = segments(entries, 0, 3 * MIB);
    let mut body = open(Fake(Arc::new(world)), means, segments, ()).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert!(bytes == truth);
}

#[tokio::test]
async fn what_protects_the_paths_lives_until_all_was_read() {
    let (world, entries) = world(&[(9 * MIB, vec![Trouble::None])]);
    let ticket = Arc::new(());
    let segments = segments(entries, 0, 9 * MIB);
    let hold = Arc::clone(&ticket);
    let mut body = open(Fake(Arc::new(world)), means(), segments, hold).await.unwrap();
    let mut left = 9 * MIB;
    while let Some(piece) = body.next().await {
        left -= piece.unwrap().len() as u64;
        assert!(left <= 4 * MIB || Arc::strong_count(&ticket) == 2, "{left} bytes are unread");
    }
    assert_eq!(left, 0);
    drop(body);
    while Arc::strong_count(&ticket) > 1 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_replica_that_waits_for_bandwidth_does_not_hang() {
    let (mut world, entries) = world(&[(100_000, vec![Trouble::Throttled, Trouble::None])]);
    let bytes = world.blobs[&BlobId(0)].bytes.clone();
    paused().block_on(async {
        let (id, clock) = (BackendId(0), Clock::system());
        let free = Backend::for_tests("throttled", id, None, Faults::default()).await;
        let mut settings = free.settings().clone();
        settings.bandwidth.down = vec![Hours { from: 0, to: 0, rate: Bandwidth::RATE_MIN }];
        let meter = Meter::new(clock, DayBegins::default());
        let backend = Backend::open(settings, 1, id, meter).await.unwrap();
        backend.write_whole("0", bytes.clone()).await.unwrap();
        world.backend = Some(Arc::clone(&backend));
        let fake = Fake(Arc::new(world));
        let begun = tokio::time::Instant::now();
        // Readers beside it, so many that each waits for its turn for longer than is patient.
        let beside = (0..200).map(|_| async {
            let pieces = backend.read("0", 0..100_000).await.unwrap();
            pieces.for_each(async |piece| assert!(!piece.unwrap().is_empty())).await;
        });
        let beside = futures_util::future::join_all(beside);
        let ((got, end), _) = tokio::join!(read(&fake, entries, 0, 100_000), beside);
        end.unwrap();
        assert!(got == bytes);
        assert!(begun.elapsed() > Duration::from_secs(200), "{:?}", begun.elapsed());
        assert_eq!(fake.0.seen.lock().unwrap().opened.len(), 1, "nobody went elsewhere");
    });
}
