//! What a session holds, and when it ends.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::login::Tokens;
use crate::jwt::find;

/// Tokens are replaced this many seconds before they expire, or a quarter of their life if that is
/// less.
const EARLY: u64 = 30;

/// Longest hint that is kept, in bytes: it becomes part of an address.
const HINT: usize = 4 << 10;

/// Who is logged in, as a sealed cookie keeps it. Names are short: it is sent with every request.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The claims that are of use, `sub` among them.
    #[serde(rename = "c")]
    pub claims: Map<String, Value>,
    /// Unix seconds of the login.
    #[serde(rename = "b")]
    pub begun: u64,
    /// For new tokens, where the issuer gave one.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// Unix seconds from which on new tokens are fetched.
    #[serde(rename = "a", default)]
    due: u64,
    /// Unix seconds at which the present ones expire.
    #[serde(rename = "e", default)]
    expires: u64,
    /// The ID token, to tell the issuer at the end who leaves.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session(begun {})", self.begun)
    }
}

impl Session {
    /// A new one. `kept` names the claims that are of use (`a.b` for one inside another).
    #[must_use]
    pub fn new(claims: &Map<String, Value>, kept: &[String], tokens: Tokens, now: u64) -> Self {
        let mut session = Self {
            claims: pick(claims, kept),
            begun: now,
            refresh: None,
            due: 0,
            expires: 0,
            hint: None,
        };
        session.take(tokens, claims, now);
        session
    }

    /// The same session with new tokens; with new claims, if an ID token came with them.
    #[must_use]
    pub fn renewed(
        &self,
        claims: Option<&Map<String, Value>>,
        kept: &[String],
        tokens: Tokens,
        now: u64,
    ) -> Self {
        let mut session = self.clone();
        if let Some(claims) = claims {
            // What the issuer says no more holds no more.
            session.claims = pick(claims, kept);
        }
        let none = Map::new();
        session.take(tokens, claims.unwrap_or(&none), now);
        session
    }

    fn take(&mut self, tokens: Tokens, claims: &Map<String, Value>, now: u64) {
        let by_token = claims.get("exp").and_then(Value::as_u64);
        let life = tokens.life.or(by_token.map(|exp| exp.saturating_sub(now)));
        // Issuers that replace refresh tokens send the next one; others let the first one stand.
        self.refresh = tokens.refresh.or_else(|| self.refresh.take());
        let hint = tokens.id.or_else(|| self.hint.take());
        self.hint = hint.filter(|hint| hint.len() <= HINT);
        let life = life.unwrap_or(u64::MAX).max(1);
        self.expires = now.saturating_add(life);
        self.due = self.expires.saturating_sub(EARLY.min(life / 4));
    }

    /// For a cookie, before it is sealed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From a cookie that was opened; `None` when its life, in seconds, is over.
    #[must_use]
    pub fn read(bytes: &[u8], life: u64, now: u64) -> Option<Self> {
        let session: Self = serde_json::from_slice(bytes).ok()?;
        (now < session.begun.saturating_add(life)).then_some(session)
    }

    /// Whose it is.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.claims
            .get("sub")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether new tokens should be fetched; never without a refresh token.
    #[must_use]
    pub const fn is_due(&self, now: u64) -> bool {
        self.refresh.is_some() && now >= self.due
    }

    /// Whether it can go on with the tokens that it has.
    #[must_use]
    pub const fn is_fresh(&self, now: u64) -> bool {
        self.refresh.is_none() || now < self.expires
    }
}

/// Whether a claim that is of use is missing.
#[must_use]
pub fn lacks(claims: &Map<String, Value>, kept: &[String]) -> bool {
    kept.iter().any(|path| find(claims, path).is_none())
}

/// Only the claims that are named, in the places where they stood.
fn pick(claims: &Map<String, Value>, kept: &[String]) -> Map<String, Value> {
    let mut out = Map::new();
    for path in kept.iter().map(String::as_str).chain(["sub"]) {
        copy(claims, path, &mut out);
    }
    out
}

/// By the rules of [`find`].
fn copy(from: &Map<String, Value>, path: &str, to: &mut Map<String, Value>) {
    if let Some(value) = from.get(path) {
        to.insert(path.to_owned(), value.clone());
        return;
    }
    if let Some((first, rest)) = path.split_once('.')
        && let Some(Value::Object(inner)) = from.get(first)
        && let Value::Object(place) = to.entry(first).or_insert_with(|| Map::new().into())
    {
        copy(inner, rest, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokens(refresh: Option<&str>, life: Option<u64>) -> Tokens {
        Tokens {
            id: Some("i".into()),
            access: None,
            refresh: refresh.map(str::to_owned),
            life,
        }
    }

    fn claims() -> Map<String, Value> {
        let value = json!({ "sub": "ann", "name": "Ann", "x.y": 1, "realm": { "tier": "pro",
            "deep": { "a": 1 } }, "exp": 1400, "big": "b" });
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn only_what_is_of_use_is_kept() {
        let kept = [
            "name",
            "realm.tier",
            "x.y",
            "realm.deep.a",
            "realm.no",
            "none.x",
        ];
        let kept = kept.map(str::to_owned);
        let session = Session::new(&claims(), &kept, tokens(None, None), 1000);
        let wanted = json!({ "sub": "ann", "name": "Ann", "x.y": 1,
            "realm": { "tier": "pro", "deep": { "a": 1 } } });
        assert_eq!(Value::Object(session.claims.clone()), wanted);
        assert_eq!(session.subject(), "ann");
        assert!(lacks(&claims(), &kept) && !lacks(&claims(), &kept[..4]));
        assert!(!format!("{session:?}").contains("ann"));
    }

    #[test]
    fn what_the_issuer_says_no_more_holds_no_more() {
        let kept = ["name".to_owned()];
        let session = Session::new(&claims(), &kept, tokens(None, None), 1000);
        let mut news = claims();
        news.remove("name");
        let renewed = session.renewed(Some(&news), &kept, tokens(None, None), 1100);
        assert_eq!(renewed.claims.get("name"), None);
        assert_eq!(renewed.subject(), "ann");
        // Without an ID token nothing is said.
        let same = session.renewed(None, &kept, tokens(None, None), 1100);
        assert_eq!(same.claims, session.claims);
    }

    #[test]
    fn it_ends_by_its_own_life() {
        let session = Session::new(&claims(), &[], tokens(None, Some(5)), 1000);
        let bytes = session.bytes();
        assert_eq!(Session::read(&bytes, 100, 1099), Some(session.clone()));
        assert_eq!(Session::read(&bytes, 100, 1100), None);
        assert_eq!(Session::read(b"junk", 100, 0), None);
        // Without a refresh token nothing is due, and it goes on.
        assert!(!session.is_due(1099) && session.is_fresh(1099));
    }

    #[test]
    fn tokens_are_due_shortly_before_they_expire() {
        let long = Session::new(&claims(), &[], tokens(Some("r"), None), 1000);
        assert!(!long.is_due(1369) && long.is_due(1370));
        assert!(long.is_fresh(1399) && !long.is_fresh(1400));
        let short = Session::new(&claims(), &[], tokens(Some("r"), Some(8)), 1000);
        assert!(!short.is_due(1005) && short.is_due(1006) && !short.is_fresh(1008));
        let next = short.renewed(None, &[], tokens(None, Some(100)), 1008);
        assert_eq!((next.refresh.as_deref(), next.begun), (Some("r"), 1000));
        assert!(next.is_fresh(1100) && next.is_due(1100));
        let other = json!({ "sub": "ann", "name": "Anna" });
        let kept = ["name".to_owned()];
        let next = next.renewed(other.as_object(), &kept, tokens(Some("s"), None), 1108);
        assert_eq!(next.claims["name"], "Anna");
        assert_eq!(next.refresh.as_deref(), Some("s"));
    }
}
