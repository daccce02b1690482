//! Heads of HTTP/2 for the oracle: RFC 9113 sections 8.2 and 8.3, rule by rule. What is malformed names the rule.

use crate::oracle::{Field, Request, is_text, is_token, normal, number};

/// Why a head is malformed.
pub type Rule = &'static str;

/// A head that breaks no rule.
#[derive(Debug, Clone)]
pub struct Head {
    /// The request without its body. Its first field is `host`; crumbs of cookies are one field behind all others.
    pub request: Request,
    /// `content-length`.
    pub length: Option<u64>,
}

/// Reads the head of a request.
///
/// # Errors
/// The first rule that it breaks.
pub fn head(fields: &[Field]) -> Result<Head, Rule> {
    let regular = fields.iter().position(|(name, _)| !name.starts_with(b":"));
    let (pseudo, rest) = fields.split_at(regular.unwrap_or(fields.len()));
    // Section 8.3.1: each of these once, and nothing else that begins with a colon; the last may be left out.
    for (name, _) in pseudo {
        if ![&b":method"[..], b":scheme", b":path", b":authority"].contains(&name.as_slice()) {
            return Err("an unknown pseudo-field");
        }
    }
    let method = one(pseudo, b":method")?.ok_or("no :method")?;
    let scheme = one(pseudo, b":scheme")?.ok_or("no :scheme")?;
    let path = one(pseudo, b":path")?.ok_or("no :path")?;
    let authority = one(pseudo, b":authority")?;
    if !is_token(&method) || method == b"CONNECT" {
        // A tunnel (section 8.5) is nothing that anybody here offers.
        return Err("the method");
    }
    // RFC 3986 section 3.1.
    let fine = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
    if !scheme.first().is_some_and(u8::is_ascii_alphabetic) || !scheme.iter().all(fine) {
        return Err("the scheme");
    }
    let asterisk = path == b"*" && method == b"OPTIONS";
    if !asterisk && !normal::is_origin_form(&path) {
        return Err("the path");
    }
    each(rest)?;
    let host = host(authority, one(rest, b"host")?)?;
    let length = match one(rest, b"content-length")? {
        Some(digits) => Some(number(&digits, 10).ok_or("content-length is no number")?),
        None => None,
    };
    let mut fields = vec![(b"host".to_vec(), host)];
    fields.extend(joined(rest));
    let request = Request {
        method,
        target: path,
        minor: 1,
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
    };
    Ok(Head { request, length })
}

/// Looks at fields behind a body (section 8.1): none of them is a pseudo-field.
///
/// # Errors
/// The first rule that they break.
pub fn trailers(fields: &[Field]) -> Result<(), Rule> {
    each(fields)
}

/// The value of a field that is there once at most.
fn one(fields: &[Field], name: &[u8]) -> Result<Option<Vec<u8>>, Rule> {
    let mut values = fields
        .iter()
        .filter(|(n, _)| n == name)
        .map(|(_, v)| v.clone());
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err("a field twice"),
    }
}

/// Section 8.2: what holds for every field that is no pseudo-field.
fn each(fields: &[Field]) -> Result<(), Rule> {
    for (name, value) in fields {
        if name.starts_with(b":") {
            return Err("a pseudo-field behind a field, or in trailers");
        }
        // Section 8.2.1: lower case. A token, as HTTP/1 has it, is narrower than what is forbidden there.
        if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
            return Err("the name of a field");
        }
        // Section 8.2.1: no NUL, CR or LF; no other control characters either (RFC 9110 section 5.5).
        if !value.iter().all(|b| is_text(*b)) {
            return Err("a control character in a field");
        }
        let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
        if blank(value.first()) || blank(value.last()) {
            return Err("white space around a value");
        }
        // Section 8.2.2.
        let of_a_connection = match name.as_slice() {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => true,
            b"te" => value != b"trailers",
            _ => false,
        };
        if of_a_connection {
            return Err("a field of one connection");
        }
    }
    Ok(())
}

/// Section 8.3.1: `:authority` and `host` name the same, where both are there; one of them is.
fn host(authority: Option<Vec<u8>>, field: Option<Vec<u8>>) -> Result<Vec<u8>, Rule> {
    let host = match (&authority, &field) {
        (Some(a), Some(b)) if !a.eq_ignore_ascii_case(b) => return Err("two hosts"),
        (Some(host), _) | (None, Some(host)) => host.clone(),
        (None, None) => return Err("no host"),
    };
    match normal::is_authority(&host) {
        true => Ok(host),
        false => Err("the host"),
    }
}

/// Section 8.2.3: crumbs are put together before HTTP/1 has them. They go behind what else there is; order matters
/// among fields of one name only.
fn joined(fields: &[Field]) -> Vec<Field> {
    let is_crumb = |(name, _): &&Field| name == b"cookie";
    let crumbs: Vec<&[u8]> = fields
        .iter()
        .filter(|f| is_crumb(f) && !f.1.is_empty())
        .map(|(_, value)| value.as_slice())
        .collect();
    let mut all: Vec<Field> = fields.iter().filter(|f| !is_crumb(f)).cloned().collect();
    all.retain(|(name, _)| name != b"host");
    if !crumbs.is_empty() {
        all.push((b"cookie".to_vec(), crumbs.join(&b"; "[..])));
    }
    all
}
