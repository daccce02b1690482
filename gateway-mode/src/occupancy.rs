//! How many requests of each client are on their way, over a bounded table of atomics: no lock, no
//! memory per client beyond its slot.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use super::limit::Keys;

/// Slots that a key may use: a line of the processor's cache.
const WAYS: usize = 8;
/// The low bits of a slot count, the others tell whose it is.
const COUNT: u64 = (1 << 24) - 1;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// Counts of requests by key.
///
/// A key stands in one of eight slots while it has requests on their way. Two threads that bring a
/// key's first requests at the same instant, just when a slot gets free, may count them apart for as
/// long as they last.
#[derive(Debug)]
pub struct Occupancy {
    sets: Box<[Set]>,
    keys: Keys,
}

/// A place among a key's requests. To be given back by [`Occupancy::leave`].
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    set: usize,
    way: usize,
}

/// What came of a request for a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// There was one.
    Placed(Place),
    /// The key has as many as it may have.
    Full,
    /// All slots that it may use are other keys': it is not counted.
    Uncounted,
}

impl Occupancy {
    /// A table of at least `slots` slots (of 8 bytes each): several times as many as keys that are
    /// busy at a time.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let sets = slots.div_ceil(WAYS).next_power_of_two().max(1);
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            keys: Keys::default(),
        }
    }

    /// The key of a client, from parts that are given one by one. The same parts give the same key in
    /// this table only.
    #[must_use]
    pub fn key(&self, parts: impl FnOnce(&mut dyn FnMut(&[u8]))) -> u64 {
        self.keys.of(parts)
    }

    /// Takes a place for a key that may have `most`.
    #[must_use]
    pub fn enter(&self, key: u64, most: u32) -> Entry {
        let set = usize::try_from(key & 0xffff_ffff).unwrap_or(0) & (self.sets.len() - 1);
        let Some(Set(slots)) = self.sets.get(set) else {
            return Entry::Uncounted;
        };
        // Never 0, which is a slot that nobody has used yet.
        let tag = (key & !COUNT) | (1 << 63);
        let most = u64::from(most).min(COUNT);
        loop {
            let mut place = None;
            for (way, slot) in slots.iter().enumerate() {
                let seen = slot.load(Acquire);
                if seen & !COUNT == tag && seen & COUNT > 0 {
                    place = Some((way, slot, seen, seen + 1));
                    break;
                }
                if seen & COUNT == 0 && place.is_none() {
                    place = Some((way, slot, seen, tag | 1));
                }
            }
            let Some((way, slot, seen, next)) = place else {
                return Entry::Uncounted;
            };
            if next & COUNT > most {
                return Entry::Full;
            }
            // Another thread was there first: whose the slot is may have changed.
            if slot.compare_exchange(seen, next, AcqRel, Acquire).is_ok() {
                return Entry::Placed(Place { set, way });
            }
        }
    }

    /// Gives a place back.
    pub fn leave(&self, place: &Place) {
        let slot = self
            .sets
            .get(place.set)
            .and_then(|set| set.0.get(place.way));
        if let Some(slot) = slot {
            slot.fetch_sub(1, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(entry: Entry) -> Place {
        match entry {
            Entry::Placed(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_has_as_many_places_as_it_may_have() {
        let table = Occupancy::new(64);
        let key = |name: &[u8]| table.key(|give| give(name));
        let (ann, bob) = (key(b"ann"), key(b"bob"));
        let places: Vec<Place> = (0..3).map(|_| placed(table.enter(ann, 3))).collect();
        assert_eq!(table.enter(ann, 3), Entry::Full);
        let other = placed(table.enter(bob, 1));
        assert_eq!(table.enter(bob, 1), Entry::Full);
        table.leave(&places[0]);
        let again = placed(table.enter(ann, 3));
        assert_eq!(table.enter(ann, 3), Entry::Full);
        for place in places[1..].iter().chain([&again, &other]) {
            table.leave(place);
        }
        assert_eq!(table.enter(ann, 0), Entry::Full);
        assert_eq!(placed(table.enter(bob, 1)).set, other.set);
    }

    #[test]
    fn more_keys_than_slots_are_let_through_uncounted() {
        let table = Occupancy::new(8);
        let places: Vec<Place> = (0..8u64)
            .map(|n| placed(table.enter(table.key(|give| give(&n.to_le_bytes())), 1)))
            .collect();
        assert_eq!(
            table.enter(table.key(|give| give(b"one more")), 1),
            Entry::Uncounted
        );
        table.leave(&places[3]);
        placed(table.enter(table.key(|give| give(b"one more")), 1));
    }

    #[test]
    fn threads_share_the_places_of_a_key() {
        let table = Occupancy::new(64);
        let key = table.key(|give| give(b"ann"));
        // The first is there already: its slot is known to all.
        let first = placed(table.enter(key, 4));
        let most = AtomicU64::new(0);
        let now = AtomicU64::new(1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Entry::Placed(place) = table.enter(key, 4) {
                            most.fetch_max(now.fetch_add(1, AcqRel) + 1, AcqRel);
                            now.fetch_sub(1, AcqRel);
                            table.leave(&place);
                        }
                    }
                });
            }
        });
        assert!((2..=4).contains(&most.into_inner()));
        table.leave(&first);
        let all: Vec<Place> = (0..4).map(|_| placed(table.enter(key, 4))).collect();
        assert_eq!((all.len(), table.enter(key, 4)), (4, Entry::Full));
    }
}
