//! A bell that one thread rings and another waits for: what scripts and tests tell each other.

use std::sync::{Arc, Condvar, Mutex};

use crate::PATIENCE;

/// See the module. Rings that nobody has waited for yet are counted.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<(Mutex<u32>, Condvar)>);

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }

    /// Waits for a ring, and takes it.
    ///
    /// # Panics
    /// When none comes within [`PATIENCE`].
    pub fn wait(&self) {
        let rung = self.0.0.lock().unwrap();
        let silent = |rung: &mut u32| *rung == 0;
        let (mut rung, late) = self.0.1.wait_timeout_while(rung, PATIENCE, silent).unwrap();
        assert!(!late.timed_out(), "nobody rang");
        *rung -= 1;
    }
}
