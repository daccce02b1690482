//! A gate that holds the answers of endpoints until a test opens it.

use std::sync::{Arc, Condvar, Mutex};

use crate::{PATIENCE, Upstream};

/// See the module. Opened when it is dropped, also where a test fails: clients wait for answers.
#[derive(Debug, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    held: usize,
}

impl Gate {
    /// Opens it, for good.
    pub fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// How many have come to it so far.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.0.lock().unwrap().held
    }

    /// Waits until so many have come to it.
    ///
    /// # Panics
    /// When they have not within [`PATIENCE`].
    pub fn wait_for(&self, held: usize) {
        let state = self.0.0.lock().unwrap();
        let waiting = self
            .0
            .1
            .wait_timeout_while(state, PATIENCE, |s| s.held < held);
        let (state, late) = waiting.unwrap();
        assert!(!late.timed_out(), "{} of {held}", state.held);
    }

    /// An endpoint that answers with this body, once the gate is open.
    #[must_use]
    pub fn upstream(&self, body: &'static str) -> Upstream {
        let gate = self.0.clone();
        Upstream::scripted(move |connection| {
            while connection.request().is_some() {
                let mut state = gate.0.lock().unwrap();
                state.held += 1;
                gate.1.notify_all();
                drop(
                    gate.1
                        .wait_timeout_while(state, PATIENCE, |s| !s.open)
                        .unwrap(),
                );
                let length = body.len();
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
                ));
            }
        })
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}
