//! Which replicas move to other backends so that the limited ones fill up as their owner wants.
//!
//! `pack` pulls toward the fullest, so that as few backends as possible are in use; `spread` evens
//! the used shares out. Only backends with a quota take part, for others have no share.
//!
//! # Invariants
//!
//! - No blob is twice in a plan: the moves of a plan run side by side, and each looks at the other
//!   replicas of its blob.
//! - Nothing moves to where the blob is already, or where labels or devices forbid it.
//! - A run right after another plans nothing, whether cleanup has come between them or not; only a
//!   blob of which another replica moved in the first may move in the second. For that the plan is
//!   made by carrying it out in a small world until nothing is left that may move.
//! - Runs come to an end. Each move that packs raises Σ kept²/quota and each that spreads lowers
//!   it, so nothing ever moves in a circle.
//!
//! # What counts
//!
//! Bytes that wait for deletion fill a backend until cleanup has been there: they count in the used
//! share by which a run begins, in the room, and where bytes would go to. They are no reason to
//! move others away: those would have left for nothing a minute later. So a move, which leaves such
//! bytes behind, does not look as if it had changed nothing. Room that a move leaves behind is
//! given to later ones, which wait for cleanup as every write does that finds none.
//!
//! # Why smallest or largest first
//!
//! To pack, the smallest go first: as many as possible find room at the fullest, and few stay
//! behind. To spread, the largest go first: the fewest requests for the bytes that have to move,
//! and the small ones fill the gap that is left.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::WriteId;

/// Rounds over all pairs of backends, of which two or three suffice: a bound on the time only.
const ROUNDS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    Pack,
    Spread,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub strategy: Strategy,
    /// How far used shares must be apart: 0 to 1.
    pub threshold: f64,
    /// The most moves of a plan.
    pub batch: usize,
}

/// One backend as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub backend: BackendId,
    pub quota: Option<u64>,
    /// Bytes that stay: used and reserved.
    pub kept: u64,
    /// Bytes that wait for deletion.
    pub orphan: u64,
    /// What really fits, by quota and disk.
    pub room: u64,
    /// It may be read from.
    pub is_source: bool,
    /// It may be written to: not draining, broken or full, and no limit is reached.
    pub is_destination: bool,
}

/// A replica that could move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub blob: BlobId,
    pub write: WriteId,
    pub from: BackendId,
    pub size: u64,
    /// Where the blob lives or is being written, this replica's backend among them.
    pub holders: Vec<BackendId>,
    /// It is good, not borrowed, and what its backend charges for at least is over.
    pub is_movable: bool,
    /// Where labels, devices and the largest blob of a backend let it be, in place of where it is;
    /// that place is among them if they let it be there.
    pub allowed: Vec<BackendId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub blob: BlobId,
    pub write: WriteId,
    pub from: BackendId,
    pub to: BackendId,
    pub bytes: u64,
}

/// Why a run moves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The used shares are not far enough apart, or fewer than two backends have one.
    Threshold,
    /// Nothing is left that may move, be the shares as they may.
    EmptyPlan,
}

impl Skipped {
    pub fn name(self) -> &'static str {
        match self {
            Skipped::Threshold => "threshold",
            Skipped::EmptyPlan => "empty_plan",
        }
    }
}

/// Whether two of the backends that take part are at least `threshold` of used share apart.
pub fn is_due(loads: &[Load], threshold: f64) -> bool {
    let sides: Vec<Side> = loads.iter().filter_map(Side::new).collect();
    let held = |side: &Side| (side.kept.saturating_add(side.orphan), side.quota);
    let by_share = |a: &&Side, b: &&Side| compare(held(a), held(b));
    let (Some(least), Some(most)) = (sides.iter().min_by(by_share), sides.iter().max_by(by_share))
    else {
        return false;
    };
    let ((low, low_quota), (high, high_quota)) = (held(least), held(most));
    // One division, so that a difference of exactly the threshold is not lost to rounding.
    let apart = product(high, low_quota) - product(low, high_quota);
    sides.len() >= 2 && apart as f64 / product(low_quota, high_quota) as f64 >= threshold
}

/// The moves of one run, in the order in which they are best begun. Of `replicas` all that their
/// backends have should be given, or so many that the batch is full: what is left out cannot move.
pub fn plan(loads: &[Load], replicas: &[Replica], rules: &Rules) -> Result<Vec<Move>, Skipped> {
    if !is_due(loads, rules.threshold) {
        return Err(Skipped::Threshold);
    }
    let mut world = World::new(loads, replicas, rules.batch);
    match rules.strategy {
        Strategy::Pack => world.pack(),
        Strategy::Spread => world.spread(),
    }
    let moves = world.moves();
    if moves.is_empty() { Err(Skipped::EmptyPlan) } else { Ok(moves) }
}

/// A backend that takes part, as it would be after the moves planned so far.
#[derive(Clone, Debug)]
struct Side {
    backend: BackendId,
    quota: u64,
    kept: u64,
    orphan: u64,
    room: u64,
    is_source: bool,
    is_destination: bool,
}

impl Side {
    fn new(load: &Load) -> Option<Side> {
        let quota = load.quota.filter(|quota| *quota > 0)?;
        let Load { backend, kept, orphan, room, is_source, is_destination, .. } = *load;
        let side = Side { backend, quota, kept, orphan, room, is_source, is_destination };
        (is_source || is_destination).then_some(side)
    }
}

/// A replica that may move, as it would be after the moves planned so far.
struct Piece<'a> {
    replica: &'a Replica,
    /// Its side.
    at: usize,
    /// Which of all steps was its last.
    step: usize,
}

/// A plan is made by moving pieces here. One may move on from where it has come to; only where it
/// is at the end is planned.
struct World<'a> {
    sides: Vec<Side>,
    /// By size.
    pieces: Vec<Piece<'a>>,
    /// Which replica of a blob is elsewhere than it was.
    away: BTreeMap<BlobId, WriteId>,
    batch: usize,
    steps: usize,
}

impl<'a> World<'a> {
    fn new(loads: &[Load], replicas: &'a [Replica], batch: usize) -> World<'a> {
        let sides: Vec<Side> = loads.iter().filter_map(Side::new).collect();
        let piece = |replica: &'a Replica| {
            let at = sides.iter().position(|side| side.backend == replica.from)?;
            Some(Piece { replica, at, step: 0 })
        };
        let movable = replicas.iter().filter(|replica| replica.is_movable);
        let mut pieces: Vec<Piece> = movable.filter_map(piece).collect();
        pieces.sort_by_key(|piece| (piece.replica.size, piece.replica.write));
        World { sides, pieces, away: BTreeMap::new(), batch, steps: 0 }
    }

    /// The fullest takes what it can from the emptiest, then from the next, up to itself; then so
    /// does the next fullest; and again, until nothing moves.
    fn pack(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let before = self.steps;
            let mut fullest_first: Vec<usize> = (0..self.sides.len()).collect();
            fullest_first.sort_by(|a, b| self.compare_shares(*b, *a));
            for to in &fullest_first {
                for from in fullest_first.iter().rev() {
                    self.pull(*from, *to);
                }
            }
            if self.steps == before {
                return;
            }
        }
    }

    fn pull(&mut self, from: usize, to: usize) {
        for piece in 0..self.pieces.len() {
            let is_upward = self.compare_shares(from, to) == Ordering::Less;
            if is_upward && self.pieces[piece].at == from && self.may_move(piece, to) {
                self.step(piece, to);
            }
        }
    }

    /// Sources and destinations are on two sides of the common share, and no move takes one across
    /// it: a move that may not be made now may not be made later, so one round is enough.
    fn spread(&mut self) {
        let goal = Goal::of(&self.sides);
        let mut sources: Vec<usize> = (0..self.sides.len()).collect();
        sources.sort_by_key(|side| std::cmp::Reverse(goal.excess(&self.sides[*side])));
        for from in sources {
            for piece in (0..self.pieces.len()).rev() {
                let size = self.pieces[piece].replica.size;
                if self.pieces[piece].at != from || size > goal.excess(&self.sides[from]) {
                    continue;
                }
                let to = (0..self.sides.len())
                    .filter(|to| size <= goal.gap(&self.sides[*to]) && self.may_move(piece, *to))
                    .max_by_key(|to| (goal.gap(&self.sides[*to]), std::cmp::Reverse(*to)));
                if let Some(to) = to {
                    self.step(piece, to);
                }
            }
        }
    }

    /// Whether all but the strategy lets it.
    fn may_move(&self, piece: usize, to: usize) -> bool {
        let Piece { replica, at, .. } = &self.pieces[piece];
        let side = &self.sides[to];
        let is_held = side.backend != replica.from && replica.holders.contains(&side.backend);
        let is_free = match self.away.get(&replica.blob) {
            Some(write) => *write == replica.write,
            None => self.away.len() < self.batch,
        };
        *at != to
            && self.sides[*at].is_source
            && side.is_destination
            && replica.size <= side.room
            && !is_held
            && is_free
            && replica.allowed.contains(&side.backend)
    }

    fn step(&mut self, piece: usize, to: usize) {
        let Piece { replica, at, step } = &mut self.pieces[piece];
        let from = &mut self.sides[*at];
        from.kept = from.kept.saturating_sub(replica.size);
        from.room = from.room.saturating_add(replica.size);
        let side = &mut self.sides[to];
        side.kept = side.kept.saturating_add(replica.size);
        side.room = side.room.saturating_sub(replica.size);
        if side.backend == replica.from {
            self.away.remove(&replica.blob);
        } else {
            self.away.insert(replica.blob, replica.write);
        }
        self.steps += 1;
        (*at, *step) = (to, self.steps);
    }

    fn compare_shares(&self, a: usize, b: usize) -> Ordering {
        let kept = |side: &Side| (side.kept, side.quota);
        compare(kept(&self.sides[a]), kept(&self.sides[b]))
    }

    fn moves(mut self) -> Vec<Move> {
        self.pieces.sort_by_key(|piece| piece.step);
        let moves = self.pieces.iter().map(|piece| {
            let Replica { blob, write, from, size, .. } = *piece.replica;
            Move { blob, write, from, to: self.sides[piece.at].backend, bytes: size }
        });
        moves.filter(|planned| planned.from != planned.to).collect()
    }
}

/// The share that all would have if bytes could be cut at will.
struct Goal {
    kept: u128,
    quota: u128,
}

impl Goal {
    fn of(sides: &[Side]) -> Goal {
        let sum = |of: fn(&Side) -> u64| sides.iter().map(|side| u128::from(of(side))).sum();
        Goal { kept: sum(|side| side.kept), quota: sum(|side| side.quota) }
    }

    /// What `side` has too much.
    fn excess(&self, side: &Side) -> u64 {
        let (goal, rest) = self.share(side);
        side.kept.saturating_sub(goal.saturating_add(u64::from(rest)))
    }

    /// What `side` has too little, and is not filled by what waits for deletion.
    fn gap(&self, side: &Side) -> u64 {
        self.share(side).0.saturating_sub(side.kept).saturating_sub(side.orphan)
    }

    /// The bytes that `side` would have, rounded down, and whether a part of one was cut off.
    fn share(&self, side: &Side) -> (u64, bool) {
        // Neither factor is larger than what a fleet can hold: 2^63 bytes and not many backends.
        let wide = self.kept.saturating_mul(u128::from(side.quota));
        let goal = u64::try_from(wide / self.quota.max(1)).unwrap_or(u64::MAX);
        (goal, !wide.is_multiple_of(self.quota.max(1)))
    }
}

/// Orders two shares, each a part and its whole.
fn compare(a: (u64, u64), b: (u64, u64)) -> Ordering {
    product(a.0, b.1).cmp(&product(b.0, a.1))
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::Strategy as Generator;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::Strategy;
    use super::*;

    /// A fleet whose blobs can be moved about.
    #[derive(Clone, Debug)]
    struct Fleet {
        loads: Vec<Load>,
        replicas: Vec<Replica>,
    }

    /// Backends 0, 1, ... of these `(quota, bytes)`, filled with replicas of `size` bytes each.
    fn fleet(backends: &[(u64, u64)], size: u64) -> Fleet {
        let mut replicas = Vec::new();
        let load = |(id, (quota, kept)): (u64, &(u64, u64))| {
            for _ in 0..kept / size {
                let id_of_blob = replicas.len() as u64 + 1;
                replicas.push(Replica {
                    blob: BlobId(id_of_blob),
                    write: WriteId(id_of_blob),
                    from: BackendId(id),
                    size,
                    holders: vec![BackendId(id)],
                    is_movable: true,
                    allowed: (0..backends.len() as u64).map(BackendId).collect(),
                });
            }
            Load {
                backend: BackendId(id),
                quota: Some(*quota),
                kept: *kept,
                orphan: 0,
                room: quota.saturating_sub(*kept),
                is_source: true,
                is_destination: true,
            }
        };
        let loads = (0..).zip(backends).map(load).collect();
        Fleet { loads, replicas }
    }

    impl Fleet {
        fn plan(&self, strategy: Strategy, batch: usize) -> Result<Vec<Move>, Skipped> {
            plan(&self.loads, &self.replicas, &Rules { strategy, threshold: 0.1, batch })
        }

        fn load(&mut self, id: BackendId) -> &mut Load {
            self.loads.iter_mut().find(|load| load.backend == id).unwrap()
        }

        /// The state after `moves`; cleanup has been everywhere, or only where room was needed.
        fn after(&self, moves: &[Move], cleaned: bool) -> Fleet {
            let mut next = self.clone();
            for planned in moves {
                let Move { blob, write, from, to, bytes } = *planned;
                let moved = next.replicas.iter().position(|r| (r.write, r.from) == (write, from));
                for replica in next.replicas.iter_mut().filter(|r| r.blob == blob) {
                    assert!(!replica.holders.contains(&to), "it is there already: {planned:?}");
                    replica.holders.retain(|holder| *holder != from);
                    replica.holders.push(to);
                }
                let replica = &mut next.replicas[moved.expect("it is where it is said to be")];
                assert!(
                    replica.is_movable && replica.allowed.contains(&to) && replica.size == bytes
                );
                replica.from = to;
                replica.write = WriteId(replica.write.0 + 1_000_000);
                assert!(next.load(from).is_source && next.load(to).is_destination);
                next.load(from).kept -= bytes;
                next.load(to).kept += bytes;
            }
            for (id, before) in self.loads.iter().map(|load| (load.backend, load)) {
                let sum = |of: fn(&Move) -> BackendId| -> u64 {
                    moves.iter().filter(|m| of(m) == id).map(|m| m.bytes).sum()
                };
                let (left, came) = (sum(|m| m.from), sum(|m| m.to));
                let room = (before.room + left).checked_sub(came).expect("it fits in the end");
                let orphan = if cleaned { 0 } else { left.min(room) };
                next.load(id).room = room - orphan;
                next.load(id).orphan += orphan;
            }
            next
        }

        fn cleaned(mut self) -> Fleet {
            for load in &mut self.loads {
                load.room += load.orphan;
                load.orphan = 0;
            }
            self
        }

        fn taking_part(&self) -> impl Iterator<Item = (&Load, u64)> {
            let quota = |load: &Load| load.quota.filter(|quota| *quota > 0);
            let parts = self.loads.iter().filter(|load| load.is_source || load.is_destination);
            parts.filter_map(move |load| Some((load, quota(load)?)))
        }

        /// The blobs of which something may move: all pairs are looked at, one by one.
        fn left_over(&self, strategy: Strategy) -> Vec<BlobId> {
            let kept: u64 = self.taking_part().map(|(load, _)| load.kept).sum();
            let quota: u64 = self.taking_part().map(|(_, quota)| quota).sum();
            let mut found = Vec::new();
            for replica in self.replicas.iter().filter(|replica| replica.is_movable) {
                for (to, to_quota) in self.taking_part().filter(|(to, _)| to.is_destination) {
                    for (from, from_quota) in self.taking_part().filter(|(from, _)| from.is_source)
                    {
                        let is_wanted = match strategy {
                            Strategy::Pack => from.kept * to_quota < to.kept * from_quota,
                            Strategy::Spread => {
                                let after_from = from.kept.checked_sub(replica.size);
                                after_from.is_some_and(|left| left * quota >= kept * from_quota)
                                    && (to.kept + to.orphan + replica.size) * quota
                                        <= kept * to_quota
                            }
                        };
                        if is_wanted
                            && replica.from == from.backend
                            && replica.size <= to.room
                            && replica.allowed.contains(&to.backend)
                            && !replica.holders.contains(&to.backend)
                        {
                            found.push(replica.blob);
                        }
                    }
                }
            }
            found
        }

        /// Σ kept²/quota, times a number that does not change.
        fn unevenness(&self) -> u128 {
            let whole: u128 = self.taking_part().map(|(_, quota)| u128::from(quota)).product();
            let square = |(load, quota): (&Load, u64)| {
                u128::from(load.kept).pow(2) * (whole / u128::from(quota))
            };
            self.taking_part().map(square).sum()
        }
    }

    fn moved(moves: &[Move]) -> Vec<(u64, u64)> {
        moves.iter().map(|planned| (planned.from.0, planned.to.0)).collect()
    }

    const BOTH: [Strategy; 2] = [Strategy::Pack, Strategy::Spread];

    #[test]
    fn nothing_moves_below_the_threshold() {
        for strategy in BOTH {
            let plan = |backends: &[(u64, u64)]| fleet(backends, 1).plan(strategy, 100);
            assert_eq!(plan(&[(100, 20), (100, 29)]), Err(Skipped::Threshold));
            assert!(plan(&[(100, 20), (100, 30)]).is_ok());
            assert_eq!(plan(&[(100, 50), (200, 100)]), Err(Skipped::Threshold));
            assert_eq!(plan(&[(100, 50)]), Err(Skipped::Threshold));
            assert_eq!(plan(&[]), Err(Skipped::Threshold));
        }
        assert!(!is_due(&fleet(&[(100, 50)], 1).loads, 0.0));
        assert!(is_due(&fleet(&[(100, 50), (100, 50)], 1).loads, 0.0));
    }

    #[test]
    fn pack_consolidates() {
        let three = fleet(&[(100, 60), (100, 10), (100, 30)], 10);
        let moves = three.plan(Strategy::Pack, 100).unwrap();
        assert_eq!(moved(&moves), [(1, 0), (2, 0), (2, 0), (2, 0)]);
        let after = three.after(&moves, true);
        assert_eq!(after.loads.iter().map(|load| load.kept).collect::<Vec<_>>(), [100, 0, 0]);
        // Of equally full ones none is the one to pull toward.
        let even = fleet(&[(100, 50), (100, 50), (100, 0)], 10);
        assert_eq!(even.plan(Strategy::Pack, 100), Err(Skipped::EmptyPlan));
    }

    #[test]
    fn pack_takes_the_smallest_first() {
        let mut two = fleet(&[(100, 90), (100, 10)], 10);
        let small =
            |write, size| Replica { write: WriteId(write), size, ..two.replicas[9].clone() };
        let small = [small(50, 4), small(51, 3), small(52, 8)];
        two.replicas.pop();
        for replica in small {
            two.replicas.push(Replica { blob: BlobId(replica.write.0), ..replica });
        }
        two.load(BackendId(1)).kept = 15;
        let moves = two.plan(Strategy::Pack, 100).unwrap();
        assert_eq!(moves.iter().map(|planned| planned.bytes).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn spread_equalises() {
        let three = fleet(&[(100, 90), (100, 0), (200, 30)], 10);
        let moves = three.plan(Strategy::Spread, 100).unwrap();
        let after = three.after(&moves, true);
        assert_eq!(after.loads.iter().map(|load| load.kept).collect::<Vec<_>>(), [30, 30, 60]);
        assert_eq!(after.plan(Strategy::Spread, 100), Err(Skipped::Threshold));
    }

    /// Backends of 100 bytes with so many that stay, and `(backend, size, where it may be)`.
    fn hundreds(fixed: &[u64], movable: &[(u64, u64, &[u64])]) -> Fleet {
        let backends: Vec<_> = fixed.iter().map(|kept| (100, *kept)).collect();
        let mut fleet = Fleet { replicas: Vec::new(), ..fleet(&backends, 1) };
        for (blob, (from, size, allowed)) in (1..).zip(movable) {
            let from = BackendId(*from);
            fleet.replicas.push(Replica {
                blob: BlobId(blob),
                write: WriteId(blob),
                from,
                size: *size,
                holders: vec![from],
                is_movable: true,
                allowed: allowed.iter().map(|id| BackendId(*id)).collect(),
            });
            fleet.load(from).kept += size;
            fleet.load(from).room -= size;
        }
        fleet
    }

    #[test]
    fn pack_goes_on_until_nothing_is_left() {
        // What the fuller one gives away makes room for the next.
        let three = hundreds(&[90, 70, 0], &[(1, 10, &[0]), (2, 30, &[1])]);
        assert_eq!(moved(&three.plan(Strategy::Pack, 100).unwrap()), [(1, 0), (2, 1)]);
        // Backend 1 is fuller than 0 at first, and not at the end.
        let four = hundreds(&[30, 27, 0, 60], &[(1, 5, &[0]), (2, 10, &[3]), (2, 24, &[0])]);
        assert_eq!(moved(&four.plan(Strategy::Pack, 100).unwrap()), [(2, 3), (2, 0), (1, 0)]);
    }

    #[test]
    fn what_would_move_on_goes_straight_to_where_it_ends() {
        // Backend 1 is the fullest at first, and 0 when it has taken the large one.
        let three = hundreds(&[60, 62, 20], &[(2, 22, &[0]), (2, 2, &[0, 1])]);
        let moves = three.plan(Strategy::Pack, 100).unwrap();
        assert_eq!(moved(&moves), [(2, 0), (2, 0)]);
        assert_eq!(three.after(&moves, true).left_over(Strategy::Pack), []);
    }

    #[test]
    fn spread_takes_the_largest_of_the_fullest_first() {
        let movable: &[(u64, u64, &[u64])] =
            &[(0, 4, &[2]), (1, 5, &[2]), (1, 8, &[2]), (1, 30, &[2]), (1, 6, &[2])];
        let three = hundreds(&[50, 40, 0], movable);
        let moves = three.plan(Strategy::Spread, 100).unwrap();
        let bytes: Vec<_> = moves.iter().map(|planned| planned.bytes).collect();
        assert_eq!((moved(&moves), bytes), (vec![(1, 2), (1, 2), (0, 2)], vec![30, 8, 4]));
    }

    #[test]
    fn a_batch_is_the_most_that_moves() {
        for strategy in BOTH {
            let two = fleet(&[(100, 60), (100, 10)], 1);
            assert_eq!(two.plan(strategy, 3).unwrap().len(), 3);
            assert_eq!(two.plan(strategy, 0), Err(Skipped::EmptyPlan));
        }
    }

    #[test]
    fn what_is_larger_than_any_room_stays() {
        for strategy in BOTH {
            let mut two = fleet(&[(100, 80), (100, 40)], 40);
            two.load(BackendId(0)).room = 39;
            two.load(BackendId(1)).room = 39;
            assert_eq!(two.plan(strategy, 100), Err(Skipped::EmptyPlan));
        }
        let mut two = fleet(&[(100, 60), (100, 40)], 40);
        two.load(BackendId(0)).room = 40;
        assert_eq!(moved(&two.plan(Strategy::Pack, 100).unwrap()), [(1, 0)]);
    }

    #[test]
    fn a_backend_without_a_quota_takes_no_part() {
        for (strategy, quota) in BOTH.into_iter().zip([None, Some(0)]) {
            let mut three = fleet(&[(100, 60), (100, 50), (100, 0)], 10);
            three.load(BackendId(2)).quota = quota;
            three.load(BackendId(2)).room = u64::MAX;
            let plan = three.plan(strategy, 100);
            assert!(plan.unwrap_or_default().iter().all(|m| m.from.0 != 2 && m.to.0 != 2));
            three.load(BackendId(1)).quota = quota;
            assert_eq!(three.plan(strategy, 100), Err(Skipped::Threshold));
        }
    }

    #[test]
    fn neither_holders_nor_what_is_no_destination_is_moved_to() {
        for (strategy, from, to) in [(Strategy::Pack, 1, 0), (Strategy::Spread, 0, 1)] {
            let two = fleet(&[(100, 80), (100, 10)], 10);
            let (from, to) = (BackendId(from), BackendId(to));
            assert!(two.plan(strategy, 100).is_ok());
            let changed = |change: fn(&mut Fleet, BackendId, BackendId)| {
                let mut two = two.clone();
                change(&mut two, from, to);
                two.plan(strategy, 100)
            };
            let empty = Err(Skipped::EmptyPlan);
            assert_eq!(changed(|fleet, _, to| fleet.load(to).is_destination = false), empty);
            assert_eq!(changed(|fleet, from, _| fleet.load(from).is_source = false), empty);
            let held = |fleet: &mut Fleet, _, to| {
                fleet.replicas.iter_mut().for_each(|replica| replica.holders.push(to));
            };
            assert_eq!(changed(held), empty);
            let forbidden = |fleet: &mut Fleet, _, to| {
                fleet.replicas.iter_mut().for_each(|r| r.allowed.retain(|a| *a != to));
            };
            assert_eq!(changed(forbidden), empty);
            let fixed = |fleet: &mut Fleet, _, _| {
                fleet.replicas.iter_mut().for_each(|replica| replica.is_movable = false);
            };
            assert_eq!(changed(fixed), empty);
        }
    }

    #[test]
    fn what_waits_for_deletion_fills_a_backend_and_moves_nothing_away() {
        let mut two = fleet(&[(100, 50), (100, 20)], 10);
        two.load(BackendId(1)).orphan = 70;
        two.load(BackendId(1)).room = 10;
        // It counts in the used shares: 50 and 90.
        assert!(is_due(&two.loads, 0.4));
        // Backend 1 will be the emptier one, and has no room for it before that.
        assert_eq!(two.plan(Strategy::Spread, 100), Err(Skipped::EmptyPlan));
        assert_eq!(two.clone().cleaned().plan(Strategy::Spread, 100).unwrap().len(), 1);
        assert_eq!(moved(&two.plan(Strategy::Pack, 100).unwrap()), [(1, 0), (1, 0)]);
    }

    #[test]
    fn two_replicas_of_a_blob_move_one_after_the_other() {
        let mut four = fleet(&[(100, 80), (100, 80), (100, 0), (100, 0)], 40);
        let both = vec![BackendId(0), BackendId(1)];
        four.replicas.retain(|replica| [1, 3].contains(&replica.blob.0));
        for replica in &mut four.replicas {
            (replica.blob, replica.holders) = (BlobId(9), both.clone());
        }
        let first = four.plan(Strategy::Spread, 100).unwrap();
        assert_eq!(moved(&first), [(0, 2)]);
        let next = four.after(&first, true);
        let second = next.plan(Strategy::Spread, 100).unwrap();
        assert_eq!(moved(&second), [(1, 3)]);
        assert_eq!(next.after(&second, true).left_over(Strategy::Spread), []);
    }

    #[test]
    fn numbers_that_are_as_large_as_can_be_do_no_harm() {
        let huge = Load { kept: u64::MAX, orphan: u64::MAX, ..fleet(&[(u64::MAX, 0)], 1).loads[0] };
        let other = Load { backend: BackendId(1), kept: 1, orphan: 0, room: 1, ..huge };
        for strategy in BOTH {
            let mut two =
                Fleet { loads: vec![huge, other], replicas: fleet(&[(1, 1)], 1).replicas };
            two.replicas[0].size = u64::MAX;
            assert_eq!(two.plan(strategy, 100), Err(Skipped::EmptyPlan));
        }
    }

    /// A backend: quota, what is reserved, orphan, room on the disk, whether it is a source and a
    /// destination.
    type Place = (Option<u64>, u64, u64, u64, bool, bool);
    /// A blob: size, its holders, where it may be, whether it may move.
    type Stored = (u64, Vec<Index>, Vec<bool>, bool);

    fn place() -> impl Generator<Value = Place> {
        let quota = prop::option::weighted(0.95, 0_u64..80);
        (
            quota,
            0_u64..4,
            0_u64..10,
            0_u64..120,
            prop::bool::weighted(0.9),
            prop::bool::weighted(0.9),
        )
    }

    fn stored(holders: usize) -> impl Generator<Value = Stored> {
        let allowed = prop::collection::vec(prop::bool::weighted(0.8), 6);
        let holders = prop::collection::vec(any::<Index>(), 1..=holders);
        (1_u64..30, holders, allowed, prop::bool::weighted(0.9))
    }

    fn any_fleet(holders: usize) -> impl Generator<Value = Fleet> {
        let places = prop::collection::vec(place(), 2..6);
        let blobs = prop::collection::vec(stored(holders), 0..14);
        let loose = (places, blobs).prop_map(|(places, blobs)| build(&places, &blobs));
        prop_oneof![loose, tight(holders)]
    }

    /// One in which all take part, with little room and many rules: there one move opens the way
    /// for another.
    fn tight(holders: usize) -> impl Generator<Value = Fleet> {
        let place = (20_u64..100).prop_map(|quota| (Some(quota), 0, 0, 120, true, true));
        let holders = prop::collection::vec(any::<Index>(), 1..=holders);
        let allowed = prop::collection::vec(prop::bool::weighted(0.6), 6);
        let blob = (1_u64..40, holders, allowed, Just(true));
        (prop::collection::vec(place, 3..7), prop::collection::vec(blob, 6..20))
            .prop_map(|(places, blobs)| build(&places, &blobs))
    }

    fn build(places: &[Place], blobs: &[Stored]) -> Fleet {
        let mut replicas: Vec<Replica> = Vec::new();
        for (blob, (size, holders, allowed, is_movable)) in (1..).zip(blobs) {
            let mut holders: Vec<_> =
                holders.iter().map(|holder| BackendId(holder.index(places.len()) as u64)).collect();
            holders.sort();
            holders.dedup();
            let allowed = (0..).zip(allowed).filter(|(_, is)| **is);
            let allowed: Vec<_> = allowed.map(|(id, _)| BackendId(id)).collect();
            for from in &holders {
                replicas.push(Replica {
                    blob: BlobId(blob),
                    write: WriteId(replicas.len() as u64 + 1),
                    from: *from,
                    size: *size,
                    holders: holders.clone(),
                    is_movable: *is_movable,
                    allowed: allowed.clone(),
                });
            }
        }
        let load = |(id, place): (u64, &Place)| {
            let (quota, reserved, orphan, disk, is_source, is_destination) = *place;
            let here = replicas.iter().filter(|replica| replica.from == BackendId(id));
            let kept = reserved + here.map(|replica| replica.size).sum::<u64>();
            let room = quota.map_or(disk, |quota| disk.min(quota.saturating_sub(kept + orphan)));
            let backend = BackendId(id);
            Load { backend, quota, kept, orphan, room, is_source, is_destination }
        };
        Fleet { loads: (0..).zip(places).map(load).collect(), replicas }
    }

    fn strategies() -> impl Generator<Value = Strategy> {
        prop::sample::select(BOTH.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// `after` checks each move; here is what holds for a plan as a whole.
        #[test]
        fn a_plan_is_legal(fleet in any_fleet(3), strategy in strategies(), batch in 0_usize..20) {
            let Ok(moves) = fleet.plan(strategy, batch) else { return Ok(()) };
            prop_assert!(!moves.is_empty() && moves.len() <= batch);
            let mut blobs: Vec<_> = moves.iter().map(|planned| planned.blob).collect();
            blobs.sort();
            prop_assert!(blobs.is_sorted_by(|a, b| a < b), "a blob is twice in {:?}", moves);
            let after = fleet.after(&moves, true);
            match strategy {
                Strategy::Pack => prop_assert!(after.unevenness() > fleet.unevenness()),
                Strategy::Spread => prop_assert!(after.unevenness() < fleet.unevenness()),
            }
        }

        #[test]
        fn spread_takes_no_backend_across_the_common_share(fleet in any_fleet(3)) {
            let Ok(moves) = fleet.plan(Strategy::Spread, 100) else { return Ok(()) };
            let kept: u64 = fleet.taking_part().map(|(load, _)| load.kept).sum();
            let quota: u64 = fleet.taking_part().map(|(_, quota)| quota).sum();
            let after = fleet.after(&moves, true);
            for ((before, own), (load, _)) in fleet.taking_part().zip(after.taking_part()) {
                let above = |load: &Load| (load.kept * quota).cmp(&(kept * own));
                prop_assert!(above(load) == above(before) || above(load) == Ordering::Equal);
            }
        }

        #[test]
        fn a_second_run_right_after_a_first_plans_nothing(
            fleet in any_fleet(1), strategy in strategies(), cleaned in any::<bool>(),
        ) {
            let moves = fleet.plan(strategy, 100).unwrap_or_default();
            let after = fleet.after(&moves, cleaned);
            prop_assert!(after.plan(strategy, 100).is_err(), "{:?}", moves);
            if is_due(&fleet.loads, 0.1) {
                prop_assert_eq!(after.left_over(strategy), []);
            }
        }

        #[test]
        fn only_another_replica_of_a_moved_blob_moves_in_a_second_run(
            fleet in any_fleet(4), strategy in strategies(), cleaned in any::<bool>(),
        ) {
            if !is_due(&fleet.loads, 0.1) {
                return Ok(());
            }
            let moves = fleet.plan(strategy, 100).unwrap_or_default();
            let after = fleet.after(&moves, cleaned);
            for blob in after.left_over(strategy) {
                prop_assert!(moves.iter().any(|m| m.blob == blob), "{} of {:?}", blob, moves);
            }
        }

        /// However small the batches are, and whenever cleanup comes.
        #[test]
        fn runs_come_to_an_end_and_never_turn_back(
            mut fleet in any_fleet(4),
            strategy in strategies(),
            batch in 1_usize..4,
            cleaned in prop::collection::vec(any::<bool>(), 1..8),
        ) {
            let places = fleet.loads.len() * fleet.replicas.len();
            for run in 0..=places {
                let Ok(moves) = fleet.plan(strategy, batch) else {
                    return Ok(());
                };
                let next = fleet.after(&moves, false);
                let next = if cleaned[run % cleaned.len()] { next.cleaned() } else { next };
                match strategy {
                    Strategy::Pack => prop_assert!(next.unevenness() > fleet.unevenness()),
                    Strategy::Spread => prop_assert!(next.unevenness() < fleet.unevenness()),
                }
                fleet = next;
            }
            prop_assert!(false, "still moving after {} runs", places);
        }
    }
}
