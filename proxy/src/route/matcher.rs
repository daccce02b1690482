//! One match of a rule: what must hold of a request besides host and path.

use std::borrow::Cow;

use http::Method;
use regex::Regex;

use crate::message::RequestHead;

/// A value to match.
#[derive(Debug, Clone)]
pub enum Value {
    /// The whole value.
    Exact(String),
    /// A regular expression over the whole value.
    Regex(Box<Regex>),
}

impl Value {
    fn fits(&self, value: &str) -> bool {
        match self {
            Self::Exact(want) => want == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Method, headers and query parameters of one match; every one must fit.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    /// Method.
    pub method: Option<Method>,
    /// Headers: lower-case name and value.
    pub headers: Vec<(String, Value)>,
    /// Query parameters: name and value.
    pub query: Vec<(String, Value)>,
}

impl Matcher {
    /// Whether a request fits. Repeated headers fit as one, joined by commas (RFC 9110 5.3), so
    /// that a second copy cannot hide from a rule.
    #[must_use]
    pub fn fits(&self, head: &RequestHead) -> bool {
        self.method.as_ref().is_none_or(|m| *m == head.method)
            && self
                .headers
                .iter()
                .all(|(name, want)| header(head, name).is_some_and(|value| want.fits(&value)))
            && self.query.iter().all(|(name, want)| {
                parameter(head.target.query(), name).is_some_and(|value| want.fits(&value))
            })
    }

    /// How specific it is: method, then number of headers, then of query parameters.
    #[must_use]
    pub const fn rank(&self) -> (bool, usize, usize) {
        (self.method.is_some(), self.headers.len(), self.query.len())
    }
}

fn header<'a>(head: &'a RequestHead, name: &str) -> Option<Cow<'a, str>> {
    if name == "host" {
        return Some(Cow::Borrowed(head.host.as_str()));
    }
    let mut values = head
        .fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
        .map(|field| String::from_utf8_lossy(field.value));
    let first = values.next()?;
    Some(values.fold(first, |all, next| Cow::Owned(format!("{all},{next}"))))
}

/// The first value of a query parameter, percent-decoded.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let escaped = tail
            .get(..2)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        match (byte, escaped) {
            (b'%', Some(value)) => {
                out.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(*other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        assert_eq!(parameter("a=1&b=2&a=3", "a").as_deref(), Some("1"));
        assert_eq!(parameter("a%20b=c+d%2", "a b").as_deref(), Some("c d%2"));
        assert_eq!(parameter("flag", "flag").as_deref(), Some(""));
        assert_eq!(parameter("", "x"), None);
    }
}
