//! API keys: a store that knows keys only by their hash, and who each one belongs to.
//!
//! Keys are long random texts, so one fast keyed hash (BLAKE3) is enough, and what the store holds is
//! of no use to whoever reads it without its secret.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest key in bytes.
pub const KEY: usize = 256;
/// Bytes of chance in a key.
const CHANCE: usize = 32;
/// What a key begins with, so that scanners for leaked secrets find it.
const PREFIX: &str = "slv_";

/// A store as it stands in its file.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Store {
    /// Secret of the hash: 64 hexadecimal digits.
    pub secret: String,
    /// Keys.
    #[serde(default)]
    pub keys: Vec<Entry>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({} keys)", self.keys.len())
    }
}

/// A key as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Whose it is.
    pub name: String,
    /// Keyed hash: 64 hexadecimal digits.
    pub hash: String,
    /// Plan, for limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Unix seconds at which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// Whose a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Name.
    pub name: String,
    /// Plan.
    pub plan: Option<String>,
    expires: Option<u64>,
}

impl Consumer {
    /// Somebody who is known by other means than a key.
    #[must_use]
    pub const fn named(name: String, plan: Option<String>) -> Self {
        Self {
            name,
            plan,
            expires: None,
        }
    }
}

/// A store, ready to be asked.
pub struct Keys {
    secret: [u8; 32],
    by_hash: HashMap<[u8; 32], Consumer>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.by_hash.len())
    }
}

/// What is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The secret.
    #[error("`secret` is not 64 hexadecimal digits")]
    Secret,
    /// A hash.
    #[error("the hash of `{0}` is not 64 hexadecimal digits")]
    Hash(String),
    /// A name that a header cannot hold.
    #[error("`{0}` is not a name: expected visible characters")]
    Name(String),
    /// One key for two.
    #[error("the key of `{0}` is there twice")]
    Twice(String),
}

fn digits(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (to, pair) in out.iter_mut().zip(bytes.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *to = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(out)
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Keys {
    /// Makes a store ready.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        let secret = digits(&store.secret).ok_or(StoreError::Secret)?;
        let mut by_hash = HashMap::with_capacity(store.keys.len());
        for entry in &store.keys {
            let hash = digits(&entry.hash).ok_or_else(|| StoreError::Hash(entry.name.clone()))?;
            let plain = |b: u8| b.is_ascii_graphic();
            if entry.name.is_empty() || entry.name.len() > KEY || !entry.name.bytes().all(plain) {
                return Err(StoreError::Name(entry.name.clone()));
            }
            let consumer = Consumer {
                name: entry.name.clone(),
                plan: entry.plan.clone(),
                expires: entry.expires,
            };
            if by_hash.insert(hash, consumer).is_some() {
                return Err(StoreError::Twice(entry.name.clone()));
            }
        }
        Ok(Self { secret, by_hash })
    }

    /// Whose a key is, at a time in Unix seconds.
    ///
    /// What is looked up is a keyed hash: how long that takes says nothing of any key.
    #[must_use]
    pub fn find(&self, key: &[u8], now: u64) -> Option<&Consumer> {
        if key.is_empty() || key.len() > KEY {
            return None;
        }
        let hash = blake3::keyed_hash(&self.secret, key);
        let found = self.by_hash.get(hash.as_bytes())?;
        found.expires.is_none_or(|end| now < end).then_some(found)
    }
}

impl Store {
    /// An empty store. `chance` fills a buffer with random bytes.
    pub fn new(mut chance: impl FnMut(&mut [u8])) -> Self {
        let mut secret = [0; 32];
        chance(&mut secret);
        Self {
            secret: hex(&secret),
            keys: Vec::new(),
        }
    }

    /// Makes a key and adds its hash. The key itself is nowhere but in the answer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn add(
        &mut self,
        name: &str,
        plan: Option<String>,
        expires: Option<u64>,
        mut chance: impl FnMut(&mut [u8]),
    ) -> Result<String, StoreError> {
        let secret = digits(&self.secret).ok_or(StoreError::Secret)?;
        let mut bytes = [0; CHANCE];
        chance(&mut bytes);
        let key = format!("{PREFIX}{}", hex(&bytes));
        let hash = blake3::keyed_hash(&secret, key.as_bytes());
        self.keys.push(Entry {
            name: name.to_owned(),
            hash: hash.to_hex().to_string(),
            plan,
            expires,
        });
        Keys::of(self)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> impl FnMut(&mut [u8]) {
        let mut next = 0u8;
        move |bytes| {
            for byte in bytes {
                next = next.wrapping_add(7);
                *byte = next;
            }
        }
    }

    #[test]
    fn a_key_is_found_by_its_hash_until_it_ends() {
        let mut chance = counting();
        let mut store = Store::new(&mut chance);
        let key = store
            .add("ann", Some("pro".into()), Some(100), &mut chance)
            .unwrap();
        let other = store.add("bob", None, None, &mut chance).unwrap();
        assert!(key.starts_with("slv_") && key.len() == 68 && key != other);
        assert!(
            !format!("{:?}", store.keys).contains(&key[4..]),
            "only the hash is kept"
        );
        let keys = Keys::of(&store).unwrap();
        assert_eq!(
            keys.find(key.as_bytes(), 99).unwrap().plan.as_deref(),
            Some("pro")
        );
        assert_eq!(keys.find(key.as_bytes(), 100), None);
        assert_eq!(keys.find(other.as_bytes(), u64::MAX).unwrap().name, "bob");
        for bad in [
            "",
            "slv_",
            &key[..67],
            &key.to_uppercase(),
            &"a".repeat(300),
        ] {
            assert_eq!(keys.find(bad.as_bytes(), 0), None, "{bad}");
        }
        // Another secret, another store: the same hashes are of no use.
        store.secret = hex(&[1; 32]);
        assert_eq!(Keys::of(&store).unwrap().find(key.as_bytes(), 0), None);
    }

    #[test]
    fn what_is_wrong_with_a_store_is_said() {
        let mut store = Store::new(counting());
        assert_eq!(
            store.add("a b", None, None, counting()),
            Err(StoreError::Name("a b".into()))
        );
        store.keys.clear();
        store.add("a", None, None, counting()).unwrap();
        let twice = store.add("b", None, None, counting());
        assert_eq!(twice, Err(StoreError::Twice("b".into())));
        store.keys[1].hash = "+1".repeat(32);
        assert_eq!(Keys::of(&store).unwrap_err(), StoreError::Hash("b".into()));
        store.secret.pop();
        assert_eq!(Keys::of(&store).unwrap_err(), StoreError::Secret);
    }
}
