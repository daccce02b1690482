//! Header edits, checked at config load: `set`, then `add`, then `remove`.

use crate::message::Fields;

type NameValue = (Box<[u8]>, Box<[u8]>);

/// Edits of one direction.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    set: Vec<NameValue>,
    add: Vec<NameValue>,
    remove: Vec<Box<[u8]>>,
}

impl Edits {
    /// Adds a `set`.
    pub fn push_set(&mut self, name: &str, value: &str) {
        self.set
            .push((name.as_bytes().into(), value.as_bytes().into()));
    }

    /// Adds an `add`.
    pub fn push_add(&mut self, name: &str, value: &str) {
        self.add
            .push((name.as_bytes().into(), value.as_bytes().into()));
    }

    /// Adds a `remove`.
    pub fn push_remove(&mut self, name: &str) {
        self.remove.push(name.as_bytes().into());
    }

    /// Carries them out.
    pub fn apply(&self, fields: &mut Fields) {
        for (name, value) in &self.set {
            fields.set(name, value);
        }
        for (name, value) in &self.add {
            fields.append(name, value);
        }
        for name in &self.remove {
            fields.remove(name);
        }
    }
}
