//! Marsaglia's xorshift: noise that is the same for the same seed.

/// See the module.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// Noise of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Zero would stay zero; seeds that are near each other should not begin alike.
        Self((seed ^ 0x5e1f_edbe_c0de_d00d).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub const fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.word() >> 11) % end).unwrap_or(0)
    }

    /// One time in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}
