//! Bodies that are held whole, in the whole process: how many bytes of them there may be.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use selvedge_contract::defaults::policy::HELD_BYTES;

use crate::error::ErrorKind;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are held; given back when this is dropped.
#[derive(Debug, Default)]
pub struct Reserve(usize);

impl Reserve {
    /// Room for so many more.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] where the whole process holds too many.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ErrorKind> {
        let before = HELD.fetch_add(bytes, Relaxed);
        if before.saturating_add(bytes) > HELD_BYTES {
            HELD.fetch_sub(bytes, Relaxed);
            return Err(ErrorKind::Overloaded);
        }
        self.0 += bytes;
        Ok(())
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_has_an_end() {
        let mut first = Reserve::default();
        assert_eq!(first.grow(HELD_BYTES - 10), Ok(()));
        let mut second = Reserve::default();
        assert_eq!(second.grow(11), Err(ErrorKind::Overloaded));
        assert_eq!(second.grow(10), Ok(()));
        drop(first);
        assert_eq!(second.grow(11), Ok(()));
    }
}
