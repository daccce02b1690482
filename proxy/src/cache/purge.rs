//! Part of the cache: forgetting on request, by address, prefix or tag.

use std::cell::Cell;

use super::{Cache, Resource};

/// What is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge<'a> {
    /// This address: `https://shop.example/catalogue?page=1`.
    Key(&'a str),
    /// All addresses that begin so.
    Prefix(&'a str),
    /// All that came with this `Cache-Tag`.
    Tag(&'a str),
    /// Everything.
    All,
}

impl Cache {
    /// Forgets; gives how many addresses. Looks at all that is stored: one address may stand several
    /// times, for what applications are told of it.
    pub fn purge(&self, what: Purge<'_>) -> usize {
        // What is on its way in was asked for before: it is not stored.
        self.pending().clear();
        let gone = Cell::new(0);
        let forget = |which: bool| {
            gone.set(gone.get() + usize::from(which));
            !which
        };
        let tagged = |resource: &Resource, tag: &str| match resource {
            Resource::Stored(list) => list.iter().any(|s| s.tags.iter().any(|t| **t == *tag)),
            Resource::Pass(_) => false,
        };
        match what {
            Purge::Key(wanted) => self.store.retain(|key, _| {
                let rest = key.strip_prefix(wanted.as_bytes());
                forget(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(&[0])))
            }),
            Purge::All => self.store.retain(|_, _| forget(true)),
            Purge::Prefix(prefix) => {
                let prefix = prefix.as_bytes();
                self.store.retain(|key, _| forget(key.starts_with(prefix)));
            }
            Purge::Tag(tag) => self.store.retain(|_, value| forget(tagged(value, tag))),
        }
        gone.get()
    }
}
