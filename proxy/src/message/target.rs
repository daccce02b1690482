//! Where a request points: host and target, in the one normal form that routing, policy and
//! upstream all use.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::Bytes;
use std::borrow::Cow;

use crate::error::ErrorKind;

/// What is done with an encoded slash or backslash in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodedSlash {
    /// Refused: an upstream that decodes it would see another path than routing did.
    Refuse,
    /// Kept as it is.
    Keep,
}

/// Path and query of a request. The path begins with `/` and is in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Path and, behind a `?`, the query.
    text: Bytes,
    path_len: usize,
}

/// Bytes that may stand in a path as they are, and never need a second look: unreserved,
/// sub-delims, `:` and `@`. Not `%`, `.`, `/`, `\`, `;`: those go the slow way.
#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~!$&'()*+,=:@;|^[]{}\"<>`";
    let mut i = 0;
    while i < plain.len() {
        table[plain[i] as usize] = true;
        i += 1;
    }
    table
};

impl Target {
    /// Takes an origin-form target (`/path?query`) whose bytes are visible ASCII, and brings the
    /// path into normal form: percent-encoded unreserved characters decoded, other escapes in
    /// capitals, repeated slashes merged, dot segments removed.
    ///
    /// # Errors
    /// [`ErrorKind::BadTarget`] for a fragment, a backslash, a broken escape or `%00`, and, with
    /// [`EncodedSlash::Refuse`], for `%2F` and `%5C`.
    pub fn parse(text: Bytes, slash: EncodedSlash) -> Result<Self, ErrorKind> {
        let path_len = memchr::memchr(b'?', &text).unwrap_or(text.len());
        if memchr::memchr(b'#', &text).is_some() || text.first() != Some(&b'/') {
            return Err(ErrorKind::BadTarget);
        }
        let path = text.get(..path_len).unwrap_or_default();
        if is_normal(path) {
            return Ok(Self { text, path_len });
        }
        let mut normal = normalise(path, slash)?;
        let path_len = normal.len();
        normal.extend_from_slice(text.get(text.len().min(path.len())..).unwrap_or_default());
        Ok(Self {
            text: normal.into(),
            path_len,
        })
    }

    /// `*`, the target of a server-wide `OPTIONS`.
    #[must_use]
    pub const fn asterisk() -> Self {
        Self {
            text: Bytes::from_static(b"*"),
            path_len: 1,
        }
    }

    /// Path and query as they are sent.
    #[must_use]
    pub const fn text(&self) -> &Bytes {
        &self.text
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        let path = self.text.get(..self.path_len).unwrap_or_default();
        std::str::from_utf8(path).unwrap_or_default()
    }

    /// Path without its parameters (`;v=1`): upstreams disagree on them, and a rule that could be
    /// dodged by one is no rule.
    #[must_use]
    pub fn bare_path(&self) -> Cow<'_, str> {
        let path = self.path();
        if !path.contains(';') {
            return Cow::Borrowed(path);
        }
        // A segment of parameters only is none: some applications see nothing there.
        let bare = |segment: &'_ str| {
            let bare = segment.split(';').next().unwrap_or_default();
            (!bare.is_empty() || segment.is_empty()).then(|| bare.to_owned())
        };
        let bare: Vec<String> = path.split('/').filter_map(bare).collect();
        let bare = bare.join("/");
        Cow::Owned(if bare.is_empty() {
            "/".to_owned()
        } else {
            bare
        })
    }

    /// The query, without `?`; empty where there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        let query = self
            .text
            .get(self.path_len.saturating_add(1)..)
            .unwrap_or_default();
        std::str::from_utf8(query).unwrap_or_default()
    }

    /// The same path with another query, whose bytes came from one; none if it is empty.
    #[must_use]
    pub fn with_query(&self, query: &str) -> Self {
        let path = self.text.get(..self.path_len).unwrap_or_default();
        let mut text = path.to_vec();
        if !query.is_empty() {
            text.push(b'?');
            text.extend_from_slice(query.as_bytes());
        }
        Self {
            text: text.into(),
            path_len: self.path_len,
        }
    }

    /// The same query under another path, which configuration vouches for.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        let mut text = Vec::with_capacity(path.len().saturating_add(self.text.len()));
        text.extend_from_slice(path.as_bytes());
        text.extend_from_slice(self.text.get(self.path_len..).unwrap_or_default());
        Self {
            text: text.into(),
            path_len: path.len(),
        }
    }
}

/// Whether a path is in normal form already: the common case, one pass, no copy.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0u8;
    for &byte in path {
        let fine = PLAIN.get(usize::from(byte)).copied().unwrap_or(false)
            || (byte == b'/' && before != b'/')
            || (byte == b'.' && before != b'/');
        if !fine {
            return false;
        }
        before = byte;
    }
    true
}

#[expect(
    clippy::arithmetic_side_effects,
    reason = "each within the range of its arm"
)]
const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The slow way: decodes, merges slashes and removes dot segments in one pass (RFC 3986, 6.2.2).
fn normalise(path: &[u8], slash: EncodedSlash) -> Result<Vec<u8>, ErrorKind> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut rest = path.iter().copied();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'\\' => return Err(ErrorKind::BadTarget),
            b'%' => {
                let high = rest.next().and_then(hex).ok_or(ErrorKind::BadTarget)?;
                let low = rest.next().and_then(hex).ok_or(ErrorKind::BadTarget)?;
                let decoded = high << 4 | low;
                match decoded {
                    0 => return Err(ErrorKind::BadTarget),
                    b'/' | b'\\' if slash == EncodedSlash::Refuse => {
                        return Err(ErrorKind::BadTarget);
                    }
                    _ if decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded) => decoded,
                    _ => {
                        const HEX: &[u8; 16] = b"0123456789ABCDEF";
                        let digit = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or(b'0');
                        out.extend_from_slice(&[b'%', digit(high), digit(low)]);
                        continue;
                    }
                }
            }
            other => other,
        };
        if byte == b'/' {
            end_segment(&mut out)?;
            if out.last() == Some(&b'/') {
                continue;
            }
        }
        out.push(byte);
    }
    // A final dot segment leaves a directory: `/a/..` is `/`.
    end_segment(&mut out)?;
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

/// Resolves a dot segment that has just been completed. One with a parameter (`..;x`) is refused:
/// some servers cut the parameter off and climb.
fn end_segment(out: &mut Vec<u8>) -> Result<(), ErrorKind> {
    let start = memchr::memrchr(b'/', out).map_or(0, |slash| slash.saturating_add(1));
    let segment = out.get(start..).unwrap_or_default();
    let name = segment.split(|b| *b == b';').next().unwrap_or_default();
    match name {
        b"." | b".." if name.len() < segment.len() => return Err(ErrorKind::BadTarget),
        _ => {}
    }
    if out.ends_with(b"/.") {
        out.pop();
    } else if out.ends_with(b"/..") {
        out.truncate(out.len().saturating_sub(3));
        let parent = memchr::memrchr(b'/', out).unwrap_or(0);
        out.truncate(parent);
        out.push(b'/');
    }
    Ok(())
}

/// A host name or address in lower case, with its port where one was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    text: Bytes,
    name_len: usize,
}

impl Host {
    /// Parses `name`, `name:port`, `192.0.2.1:port` or `[v6]:port`.
    ///
    /// # Errors
    /// [`ErrorKind::BadHost`] for anything else: user part, path, comma, white space, bad port.
    pub fn parse(text: Bytes) -> Result<Self, ErrorKind> {
        let name_len = if text.first() == Some(&b'[') {
            let end = memchr::memchr(b']', &text).ok_or(ErrorKind::BadHost)?;
            let inner = text.get(1..end).unwrap_or_default();
            let inner = std::str::from_utf8(inner).map_err(|_| ErrorKind::BadHost)?;
            inner
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| ErrorKind::BadHost)?;
            end.saturating_add(1)
        } else {
            memchr::memchr(b':', &text).unwrap_or(text.len())
        };
        let name = text.get(..name_len).unwrap_or_default();
        let bracketed = name.first() == Some(&b'[');
        if name.is_empty() || (!bracketed && !is_host_name(name)) {
            return Err(ErrorKind::BadHost);
        }
        match text.get(name_len..).unwrap_or_default() {
            [] => {}
            [b':', port @ ..] => {
                let port = std::str::from_utf8(port).map_err(|_| ErrorKind::BadHost)?;
                let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                if !digits || port.parse::<u16>().is_err() {
                    return Err(ErrorKind::BadHost);
                }
            }
            _ => return Err(ErrorKind::BadHost),
        }
        if text.iter().any(u8::is_ascii_uppercase) {
            let text = text.to_ascii_lowercase().into();
            return Ok(Self { text, name_len });
        }
        Ok(Self { text, name_len })
    }

    /// Name and port as sent in `Host` or `:authority`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// The same as shared bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.text
    }

    /// The name, without the port and without a final dot.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.as_str().get(..self.name_len).unwrap_or_default();
        name.strip_suffix('.').unwrap_or(name)
    }

    /// The port, where one was given.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.as_str()
            .get(self.name_len.saturating_add(1)..)?
            .parse()
            .ok()
    }

    /// Whether the request named no host (HTTP/1.0 only).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// Whether these are labels with a dot between each two, and perhaps one behind the last: an empty
/// label is no name of DNS (RFC 1035 section 2.3.1), and upstreams would make different things of it.
fn is_host_name(name: &[u8]) -> bool {
    let mut before = b'.';
    name.iter().all(|byte| {
        let before = std::mem::replace(&mut before, *byte);
        is_host_byte(*byte) && (*byte, before) != (b'.', b'.')
    })
}

/// Registered names as they occur: letters, digits, `-`, `.`, `_`. Not percent-encoded: DNS names
/// are not, and a decoded one could differ from what was routed.
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<String, ErrorKind> {
        Target::parse(
            Bytes::copy_from_slice(text.as_bytes()),
            EncodedSlash::Refuse,
        )
        .map(|t| t.path().to_owned())
    }

    #[test]
    fn normal_form() {
        for (raw, want) in [
            ("/", "/"),
            ("/a/b.c/.d", "/a/b.c/.d"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/%61%2D%7e", "/a-~"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%2e%2e/x", "/x"),
            ("/a/%2e%2e/x", "/x"),
            ("/a%3bx", "/a%3Bx"),
            ("/a;x=1/b", "/a;x=1/b"),
            ("/...", "/..."),
            ("/a/..b", "/a/..b"),
        ] {
            assert_eq!(path(raw).as_deref(), Ok(want), "{raw}");
        }
    }

    #[test]
    fn refused_targets() {
        for raw in [
            "/a#b",
            "/a%00",
            "/a%2",
            "/a%zz",
            "/a\\b",
            "/a%2fb",
            "/a%5Cb",
            "x",
            "",
            "/a/..;/b",
            "/.;x",
            "/a/%2e%2e;v=1",
        ] {
            assert_eq!(path(raw), Err(ErrorKind::BadTarget), "{raw}");
        }
        let kept = Target::parse(Bytes::from_static(b"/a%2fb?c%2f"), EncodedSlash::Keep);
        assert_eq!(
            kept.map(|t| t.text().clone()),
            Ok(Bytes::from_static(b"/a%2Fb?c%2f"))
        );
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for first in 0..=255u8 {
            for tail in ["", "/x", "../y", "."] {
                let raw = format!("/a/%{first:02X}{tail}");
                if let Ok(once) = path(&raw) {
                    assert_eq!(path(&once).as_deref(), Ok(once.as_str()), "{raw}");
                }
            }
        }
    }

    #[test]
    fn queries_stay_as_they_are() {
        let target = Target::parse(
            Bytes::from_static(b"/a/../b?x=/../%2f"),
            EncodedSlash::Refuse,
        );
        let target = target.unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((target.path(), target.query()), ("/b", "x=/../%2f"));
        assert_eq!(
            target.with_path("/c").text(),
            &Bytes::from_static(b"/c?x=/../%2f")
        );
    }

    #[test]
    fn hosts() {
        let host = |text: &str| Host::parse(Bytes::copy_from_slice(text.as_bytes()));
        for (raw, name, port) in [
            ("A.example", "a.example", None),
            ("a.example.:80", "a.example", Some(80)),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("127.0.0.1", "127.0.0.1", None),
        ] {
            let host = host(raw).unwrap_or_else(|e| panic!("{raw}: {e:?}"));
            assert_eq!((host.name(), host.port()), (name, port));
        }
        for bad in [
            "", "a b", "u@a", "a/b", "a,b", "a:", "a:x", "a:65536", "a:+1", "[::1", "[x]",
            "[::1]x", "a%41", ":80", ".", "..", ".a", "a..b", "a..", ".:80",
        ] {
            assert_eq!(host(bad), Err(ErrorKind::BadHost), "{bad}");
        }
    }
}
