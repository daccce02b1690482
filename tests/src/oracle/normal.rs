//! Targets of requests, for the oracle: their forms (RFC 9112 section 3.2), and the normal form of a path (RFC 3986
//! section 6.2.2), one obvious step after the other.

/// `/path` or `/path?query`. The path has no backslash, fragment or broken escape; what else RFC 3986 does not
/// allow in it is sent by browsers. A query is handed on as it is.
#[must_use]
pub fn is_origin_form(target: &[u8]) -> bool {
    let (path, _) = cut(target);
    target.first() == Some(&b'/')
        && target
            .iter()
            .all(|b| (0x21..=0x7e).contains(b) && *b != b'#')
        && !path.contains(&b'\\')
        && escapes_are_whole(path)
}

/// `http://host:port/path?query`, in any case; https too, of which a proxy before us may have taken the TLS off.
#[must_use]
pub fn is_absolute_form(target: &[u8]) -> bool {
    match absolute(target) {
        Some((authority, rest)) => is_authority(&authority) && is_origin_form(&rest),
        None => false,
    }
}

/// Authority and origin-form of a target in absolute-form (RFC 9112 section 3.2.2).
#[must_use]
pub fn absolute(target: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let lower = target.to_ascii_lowercase();
    let start = match () {
        () if lower.starts_with(b"http://") => 7,
        () if lower.starts_with(b"https://") => 8,
        () => return None,
    };
    let rest = &target[start..];
    let end = rest.iter().position(|b| b"/?#".contains(b));
    let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
    let mut origin = path.to_vec();
    // RFC 9112 section 3.2.1: an empty path is sent as `/`.
    if origin.first() != Some(&b'/') {
        origin.insert(0, b'/');
    }
    Some((authority.to_vec(), origin))
}

/// A name of letters, digits, `-`, `.` and `_`, or an address of IPv6 in brackets; a port where there is a colon.
/// Narrower than RFC 3986 section 3.2, which has user names, escapes and commas.
#[must_use]
pub fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((inner, port)) if inner.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    let fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || !name.chars().all(fine) {
        return false;
    }
    match port.strip_prefix(':') {
        Some(digits) => digits.chars().all(|c| c.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    }
}

/// What the upstream must be asked for: path in normal form, query as it was.
#[must_use]
pub fn normal(target: &[u8]) -> Vec<u8> {
    if target == b"*" {
        return b"*".to_vec();
    }
    let origin = match absolute(target) {
        Some((_, origin)) => origin,
        None => target.to_vec(),
    };
    let (path, query) = cut(&origin);
    [normal_path(path), query.to_vec()].concat()
}

/// Path, and the query with its `?`.
fn cut(target: &[u8]) -> (&[u8], &[u8]) {
    let end = target.iter().position(|b| *b == b'?');
    target.split_at(end.unwrap_or(target.len()))
}

fn escapes_are_whole(path: &[u8]) -> bool {
    for (at, byte) in path.iter().enumerate() {
        let digits = path.get(at + 1..at + 3).unwrap_or_default();
        if *byte == b'%' && (digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit)) {
            return false;
        }
    }
    true
}

fn normal_path(path: &[u8]) -> Vec<u8> {
    let segments: Vec<Vec<u8>> = path.split(|b| *b == b'/').map(unescaped).collect();
    let last = segments.last().cloned().unwrap_or_default();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for segment in segments {
        match segment.as_slice() {
            // Repeated slashes are one.
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut out = Vec::new();
    for segment in &kept {
        out.push(b'/');
        out.extend(segment);
    }
    // What ends in a slash or a dot segment is a directory.
    if kept.is_empty() || matches!(last.as_slice(), b"" | b"." | b"..") {
        out.push(b'/');
    }
    out
}

/// RFC 3986 sections 6.2.2.1 and 6.2.2.2: escapes of unreserved characters are read, others have capitals.
fn unescaped(segment: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < segment.len() {
        if segment[at] != b'%' {
            out.push(segment[at]);
            at += 1;
            continue;
        }
        let digits = segment[at + 1..at + 3].to_ascii_uppercase();
        let byte = super::number(&digits, 16).and_then(|n| u8::try_from(n).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(byte),
            _ => {
                out.push(b'%');
                out.extend(digits);
            }
        }
        at += 3;
    }
    out
}
