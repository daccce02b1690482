//! A hash for tables whose keys are ours: numbers of endpoints, hosts and paths of the configuration.
//! Nobody outside puts keys into such a table, so nobody can make them collide, and a keyed hash would
//! only cost.

use std::hash::{BuildHasherDefault, Hasher};

/// See the module: each word is mixed in by a rotation and a multiplication.
#[derive(Debug, Default, Clone, Copy)]
pub struct Quick(u64);

/// A table of such keys.
pub type Table<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Quick>>;

/// 2^64 divided by the golden ratio, odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Quick {
    const fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let last = rest.iter().fold(1, |last, b| (last << 8) | u64::from(*b));
            self.mix(last);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(byte.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn finish(&self) -> u64 {
        // The best bits are the high ones, and tables look at the low ones too.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::Hash;

    #[test]
    fn keys_that_are_alike_are_spread() {
        let hash = |key: &dyn Fn(&mut Quick)| {
            let mut hasher = Quick::default();
            key(&mut hasher);
            hasher.finish()
        };
        let mut low = HashSet::new();
        let mut high = HashSet::new();
        for number in 0..4096_u64 {
            let one = hash(&|h| number.hash(h));
            let text = hash(&|h| format!("service-{number}.example").hash(h));
            for hash in [one, text] {
                low.insert(hash & 0xffff);
                high.insert(hash >> 57);
            }
        }
        assert!(low.len() > 7000, "{}", low.len());
        assert_eq!(high.len(), 128);
    }
}
