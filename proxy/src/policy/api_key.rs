//! Part of stage 6, policy: finds the key of a request, and tells the application whose it is.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_gateway::apikey::{Consumer, Keys};

use crate::error::ErrorKind;
use crate::message::RequestHead;

use super::guard::{Notes, Seen, Stop};
use super::jwt::{cookie, only};

/// Where a key may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header.
    Header(String),
    /// A query parameter.
    Query(String),
    /// A cookie.
    Cookie(String),
}

/// A compiled policy.
#[derive(Debug)]
pub struct ApiKey {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Where to look, in order.
    pub places: Vec<Place>,
    /// The header with the consumer's name.
    pub name_header: String,
    /// Passes the key on.
    pub forward: bool,
    /// The keys.
    pub keys: Keys,
}

impl ApiKey {
    /// Finds out whose key a request brings, and notes what the application is told of it.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`].
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let Some(consumer) = self.consumer(seen.head) else {
            notes.fields.append(b"WWW-Authenticate", b"ApiKey");
            return Err(ErrorKind::Unauthenticated.into());
        };
        for place in self.places.iter().filter(|_| !self.forward) {
            match place {
                Place::Header(name) => notes.remove(name.as_bytes()),
                Place::Query(name) => notes.strip_query(name),
                Place::Cookie(_) => {}
            }
        }
        notes.remove(self.name_header.as_bytes());
        notes.append(self.name_header.as_bytes(), consumer.name.as_bytes());
        seen.consumer = Some(consumer.clone());
        Ok(())
    }

    /// The first place that has something decides: a wrong key is not made good by another.
    fn consumer(&self, head: &RequestHead) -> Option<&Consumer> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let key = self.places.iter().find_map(|place| match place {
            Place::Header(name) => only(head, name).map(<[u8]>::trim_ascii),
            Place::Query(name) => query(head.target.query(), name).map(str::as_bytes),
            Place::Cookie(name) => cookie(head, name),
        })?;
        self.keys.find(key, now)
    }
}

/// Whether a pair of a query has this name, in any encoding: applications decode it.
fn is_named(pair: &str, name: &str) -> bool {
    let key = pair.split_once('=').map_or(pair, |(key, _)| key);
    form_urlencoded::parse(key.as_bytes()).any(|(key, _)| key == name)
}

/// The first value of a query parameter. Keys have no characters that need an escape.
fn query<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&');
    let pair = pairs.find(|pair| is_named(pair, name))?;
    Some(pair.split_once('=').map_or("", |(_, value)| value))
}

/// A query without a parameter.
#[must_use]
pub fn without(query: &str, name: &str) -> String {
    let kept = query.split('&').filter(|pair| !is_named(pair, name));
    kept.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_lose_their_key_and_nothing_else() {
        for (text, want) in [
            ("key=1", ""),
            ("a=1&key=2&b=3&key=4", "a=1&b=3"),
            ("keys=1&akey=2", "keys=1&akey=2"),
            ("key&a", "a"),
            ("ke%79=forged&a=1&k%65y", "a=1"),
            ("", ""),
        ] {
            assert_eq!(without(text, "key"), want, "{text}");
        }
        assert_eq!(query("a=1&key=2&key=3", "key"), Some("2"));
        assert_eq!(query("xkey=1", "key"), None);
        assert_eq!(query("ke%79=1&key=2", "key"), Some("1"));
    }
}
