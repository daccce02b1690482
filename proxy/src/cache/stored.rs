//! Part of the cache: one stored response, whom it is for, and how it answers.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use selvedge_gateway::cache::{Lifetime, none_match};
use selvedge_gateway::compression::{Coding, negotiate};

use crate::message::{Body, Fields, Known, RequestHead, Response, ResponseHead};

use super::Asked;

/// A request field that a response varies by, with its value then.
pub(super) type Varied = (Box<str>, Option<Box<[u8]>>);

/// See the module. Owns all its bytes: nothing of a connection's buffers is held.
#[derive(Debug)]
pub(super) struct Stored {
    /// What the rule is made of that it came through.
    pub(super) rule: Arc<str>,
    /// Request fields that it varies by, with their values then.
    pub(super) vary: Box<[Varied]>,
    /// Status.
    pub(super) status: StatusCode,
    /// Fields, as they are sent, but for `Age` and `Cache-Status`.
    pub(super) fields: Fields,
    /// Body.
    pub(super) body: Bytes,
    /// Seconds of the cache's clock at which it came.
    pub(super) since: u64,
    /// How long it is of use.
    pub(super) life: Lifetime,
    /// Groups that it can be purged by.
    pub(super) tags: Box<[Box<str>]>,
}

/// The value of a request field that a response varies by: all of its lines, blanks apart. Of
/// `Accept-Encoding` only the codings that are common count: there are many ways to write the same.
pub(super) fn varied(head: &RequestHead, name: &str) -> Option<Box<[u8]>> {
    if name.eq_ignore_ascii_case("Accept-Encoding") {
        let accepted = head.fields.known(Known::AcceptEncoding)?;
        let accepted = std::str::from_utf8(accepted).ok()?;
        let takes = |coding| u8::from(negotiate(accepted, &[coding]).is_some());
        return Some(
            [Coding::Zstd, Coding::Brotli, Coding::Gzip]
                .map(takes)
                .into(),
        );
    }
    let mut joined: Option<Vec<u8>> = None;
    for field in head.fields.iter() {
        if field.name.eq_ignore_ascii_case(name.as_bytes()) {
            let value = joined.get_or_insert_default();
            if !value.is_empty() {
                value.push(b',');
            }
            value.extend(field.value.iter().filter(|b| !matches!(b, b' ' | b'\t')));
        }
    }
    joined.map(Vec::into_boxed_slice)
}

impl Stored {
    /// Whether it answers this request.
    pub(super) fn fits(&self, asked: &Asked<'_>) -> bool {
        (Arc::ptr_eq(&self.rule, asked.rule) || self.rule == *asked.rule)
            && self
                .vary
                .iter()
                .all(|(name, value)| varied(asked.head, name) == *value)
    }

    /// Whether the two answer the same requests.
    pub(super) fn same_variant(&self, other: &Self) -> bool {
        self.rule == other.rule && self.vary == other.vary
    }

    /// Bytes that it takes, roughly.
    pub(super) fn weight(&self) -> u64 {
        let fields: usize = self
            .fields
            .iter()
            .map(|f| f.name.len() + f.value.len() + 24)
            .sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 24).sum();
        (self.body.len() + fields + self.varied_by() + tags + 256) as u64
    }

    /// Bytes of the values that it varies by.
    pub(super) fn varied_by(&self) -> usize {
        let value = |value: &Option<Box<[u8]>>| value.as_ref().map_or(0, |v| v.len());
        self.vary
            .iter()
            .map(|(name, v)| name.len() + value(v) + 48)
            .sum()
    }

    /// Whether it could still answer somebody.
    pub(super) const fn is_of_use(&self, now: u64) -> bool {
        let life = &self.life;
        let longest = if life.while_revalidate > life.if_error {
            life.while_revalidate
        } else {
            life.if_error
        };
        self.age(now) < life.fresh.saturating_add(longest)
    }

    /// Its age in seconds.
    pub(super) const fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.since).saturating_add(self.life.age)
    }

    /// The answer to a request: whole, a part, or that nothing has changed.
    pub(super) fn answer(&self, wants: &Wants<'_>, age: u64, how: &str) -> Response {
        let mut told = Vec::with_capacity(64);
        told.extend_from_slice(b"selvedge; ");
        told.extend_from_slice(how.as_bytes());
        told.extend_from_slice(b"; ttl=");
        if age > self.life.fresh {
            told.push(b'-');
        }
        let left = age.abs_diff(self.life.fresh);
        told.extend_from_slice(itoa::Buffer::new().format(left).as_bytes());
        let mut response = if self.status == StatusCode::OK && wants.is_unchanged(&self.fields) {
            self.not_modified()
        } else if let Some(range) = wants.range.filter(|_| self.status == StatusCode::OK)
            && wants.range_holds(&self.fields)
            && let Some(part) = range_of(range, self.body.len())
        {
            self.part(part, wants.head_only)
        } else {
            self.whole(wants.head_only)
        };
        let fields = &mut response.head.fields;
        fields.append_known(Known::Age, itoa::Buffer::new().format(age).as_bytes());
        fields.append(b"Cache-Status", &told);
        response
    }

    fn whole(&self, head_only: bool) -> Response {
        Response {
            head: ResponseHead {
                status: self.status,
                fields: self.fields.clone(),
            },
            body: if head_only || self.body.is_empty() {
                Body::Empty
            } else {
                Body::Full(self.body.clone())
            },
        }
    }

    /// RFC 9110 section 15.4.5: what a cache needs, and nothing of the body.
    fn not_modified(&self) -> Response {
        let mut fields = Fields::new();
        for field in self.fields.iter() {
            let kept = matches!(
                field.known,
                Known::CacheControl | Known::Date | Known::ETag | Known::Expires | Known::Vary
            );
            if kept || field.name.eq_ignore_ascii_case(b"Content-Location") {
                fields.append(field.name, field.value);
            }
        }
        Response {
            head: ResponseHead {
                status: StatusCode::NOT_MODIFIED,
                fields,
            },
            body: Body::Empty,
        }
    }

    fn part(&self, part: Option<(usize, usize)>, head_only: bool) -> Response {
        let mut fields = self.fields.clone();
        let whole = self.body.len();
        let Some((first, last)) = part else {
            let mut fields = Fields::new();
            fields.append(b"Content-Range", format!("bytes */{whole}").as_bytes());
            fields.append_known(Known::ContentLength, b"0");
            return Response {
                head: ResponseHead {
                    status: StatusCode::RANGE_NOT_SATISFIABLE,
                    fields,
                },
                body: Body::Empty,
            };
        };
        let length = last - first + 1;
        fields.set_known(
            Known::ContentLength,
            itoa::Buffer::new().format(length).as_bytes(),
        );
        let told = format!("bytes {first}-{last}/{whole}");
        fields.append(b"Content-Range", told.as_bytes());
        Response {
            head: ResponseHead {
                status: StatusCode::PARTIAL_CONTENT,
                fields,
            },
            body: if head_only {
                Body::Empty
            } else {
                Body::Full(self.body.slice(first..=last))
            },
        }
    }
}

/// What a request asks of a response that is here already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wants<'a> {
    head_only: bool,
    none_match: Option<&'a [u8]>,
    modified_since: Option<&'a [u8]>,
    range: Option<&'a [u8]>,
    if_range: Option<&'a [u8]>,
}

impl<'a> Wants<'a> {
    /// Reads it off a request.
    pub(super) fn of(head: &'a RequestHead) -> Self {
        let mut wants = Self {
            head_only: head.method == Method::HEAD,
            ..Self::default()
        };
        for field in head.fields.iter() {
            match field.known {
                Known::IfNoneMatch => wants.none_match = Some(field.value),
                Known::IfModifiedSince => wants.modified_since = Some(field.value),
                Known::Range if head.method == Method::GET => wants.range = Some(field.value),
                Known::Other if field.name.eq_ignore_ascii_case(b"If-Range") => {
                    wants.if_range = Some(field.value);
                }
                _ => {}
            }
        }
        wants
    }

    /// RFC 9110 section 13.2.2: entity tags come before dates.
    fn is_unchanged(&self, fields: &Fields) -> bool {
        match (self.none_match, self.modified_since) {
            (Some(tags), _) => none_match(tags, fields.known(Known::ETag)),
            (None, Some(since)) => {
                let modified = fields.known(Known::LastModified);
                modified.is_some_and(|modified| {
                    modified == since
                        || date(modified).zip(date(since)).is_some_and(|(m, s)| m <= s)
                })
            }
            (None, None) => false,
        }
    }

    /// RFC 9110 section 13.1.5: by a strong tag, or the same date.
    fn range_holds(&self, fields: &Fields) -> bool {
        let Some(said) = self.if_range else {
            return true;
        };
        let tag = fields.known(Known::ETag).filter(|t| !t.starts_with(b"W/"));
        tag == Some(said) || fields.known(Known::LastModified) == Some(said)
    }
}

/// Unix seconds of an HTTP date.
pub(super) fn date(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// First and last byte of a single range; `Some(None)` where none of it is there, `None` where the
/// field is to be ignored (RFC 9110 section 14.2): other units, several ranges, nonsense.
#[expect(
    clippy::option_option,
    reason = "ignored and not satisfiable are two answers"
)]
fn range_of(field: &[u8], length: usize) -> Option<Option<(usize, usize)>> {
    let text = std::str::from_utf8(field).ok()?;
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| -> Option<usize> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    if first.is_empty() {
        let count = number(last)?.min(length);
        return Some((count > 0).then(|| (length - count, length - 1)));
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        usize::MAX
    } else {
        number(last)?
    };
    if last < first {
        return None;
    }
    Some((first < length).then(|| (first, last.min(length - 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, want) in [
            ("bytes=0-1", Some(Some((0, 1)))),
            ("bytes=2-", Some(Some((2, 9)))),
            ("bytes=-3", Some(Some((7, 9)))),
            ("bytes=-99", Some(Some((0, 9)))),
            ("bytes=5-99999999999999999999999", Some(Some((5, 9)))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=3-2", None),
            ("bytes=0-1,3-4", None),
            ("items=0-1", None),
            ("bytes=a-b", None),
            ("bytes=--1", None),
            ("bytes=-", None),
        ] {
            assert_eq!(range_of(text.as_bytes(), 10), want, "{text}");
        }
        assert_eq!(range_of(b"bytes=0-0", 0), Some(None));
    }
}
