//! Claims: where one stands, what it holds, and what a header says of it.

use serde_json::{Map, Value};

use super::{Expect, Refusal};

/// Longest value of a claim in a header.
const HEADER: usize = 4 << 10;

/// Whether the claims that must be there are, with values that will do.
///
/// # Errors
/// [`Refusal::Claim`].
pub fn content(claims: &Map<String, Value>, expect: &Expect) -> Result<(), Refusal> {
    let there = |name: &String| find(claims, name).is_some_and(|v| !v.is_null());
    let held = |(name, values): (&String, &Vec<String>)| {
        let value = find(claims, name);
        value.is_some_and(|value| values.iter().any(|wanted| holds(value, wanted)))
    };
    if expect.required.iter().all(there) && expect.claims.iter().all(held) {
        Ok(())
    } else {
        Err(Refusal::Claim)
    }
}

/// Claims as headers: what there is of them.
///
/// # Errors
/// [`Refusal::Claim`] for one that a header cannot say.
pub fn headers(
    claims: &Map<String, Value>,
    wanted: &[(String, String)],
) -> Result<Vec<(String, String)>, Refusal> {
    let mut headers = Vec::new();
    for (claim, header) in wanted {
        if let Some(value) = find(claims, claim) {
            headers.push((header.clone(), told(value).ok_or(Refusal::Claim)?));
        }
    }
    Ok(headers)
}

/// A claim, or one inside others by `a.b`. A name with a dot in it is tried as it is first.
#[must_use]
pub fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    find(claims.get(first)?.as_object()?, rest)
}

/// Whether a claim is a value, or a list or words that hold it.
#[must_use]
pub fn holds(claim: &Value, wanted: &str) -> bool {
    match claim {
        Value::String(text) => text == wanted || text.split(' ').any(|word| word == wanted),
        Value::Array(items) => items.iter().any(|item| item.as_str() == Some(wanted)),
        Value::Bool(value) => value.to_string() == wanted,
        Value::Number(value) => value.to_string() == wanted,
        Value::Null | Value::Object(_) => false,
    }
}

/// A claim as a header value: lists by commas, and what a header cannot hold percent-encoded.
/// `None` where it is too long, or nothing that a header could say.
fn told(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts?.join(",")
        }
        Value::Null | Value::Object(_) => return None,
    };
    if text.len() > HEADER {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let inner = text.trim() == text;
    for byte in text.bytes() {
        let plain = byte.is_ascii_graphic() || (byte == b' ' && inner);
        if plain && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(out)
}
