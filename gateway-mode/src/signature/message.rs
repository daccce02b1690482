//! HTTP Message Signatures (RFC 9421) with `hmac-sha256`, and digests of bodies (RFC 9530).

use aws_lc_rs::digest;
use sfv::{BareItem, Dictionary, InnerList, Item, ListEntry, ListSerializer, Parser};

use super::{Claim, Refusal, SIGNATURES, is_fresh};

/// Longest `Signature-Input` and `Signature` in bytes, and most components of a signature.
const TEXT: usize = 4096;
const COMPONENTS: usize = 32;

/// A request, as far as it can be signed.
pub struct Parts<'a> {
    /// Method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host in lower case, with the port where it is not the scheme's own.
    pub authority: &'a str,
    /// Path.
    pub path: &'a str,
    /// Query without its `?`, if there is one.
    pub query: Option<&'a str>,
    /// The lines of a header, by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Vec<&'a [u8]>,
    /// Whether there is a body.
    pub body: bool,
}

impl std::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts({} {}{})", self.method, self.authority, self.path)
    }
}

/// The digest that a body must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    wide: bool,
    bytes: Vec<u8>,
}

impl Digest {
    pub(super) fn fits(&self, body: &[u8]) -> bool {
        let algorithm = match self.wide {
            true => &digest::SHA512,
            false => &digest::SHA256,
        };
        digest::digest(algorithm, body).as_ref() == self.bytes
    }
}

/// Reads what a request claims: those of its signatures that name one of `keys` and cover the method,
/// the authority, the path, the query and the body, and each header of `cover`. Any of them will do.
///
/// # Errors
/// What is wrong with the last signature that was looked at, where none will do.
pub fn read(
    parts: &Parts<'_>,
    keys: &[&str],
    cover: &[String],
    now: u64,
    age: u64,
) -> Result<Vec<Claim>, Refusal> {
    let inputs = dictionary(parts, "signature-input")?;
    let signatures = dictionary(parts, "signature")?;
    let (mut claims, mut refusal) = (Vec::new(), Refusal::Missing);
    for (label, input) in inputs.iter().take(SIGNATURES) {
        let signature = match signatures.get(label) {
            Some(ListEntry::Item(Item {
                bare_item: BareItem::ByteSequence(bytes),
                ..
            })) => bytes.clone(),
            _ => continue,
        };
        let ListEntry::InnerList(input) = input else {
            continue;
        };
        match claim(parts, input, keys, cover, now, age) {
            Ok((key, base)) => claims.push(Claim {
                key: Some(key),
                before: base.into_bytes(),
                body: false,
                digests: match parts.body || covers(input, "content-digest") {
                    true => digests(parts)?,
                    false => Vec::new(),
                },
                signatures: vec![signature],
                covered: fields(input),
            }),
            Err(why) => refusal = why,
        }
    }
    match claims.is_empty() {
        true => Err(refusal),
        false => Ok(claims),
    }
}

/// The headers that a signature covers.
fn fields(input: &InnerList) -> Vec<String> {
    let names = input.items.iter().filter_map(|item| match &item.bare_item {
        BareItem::String(name) => Some(name.as_str()),
        _ => None,
    });
    let fields = names.filter(|name| !name.starts_with('@'));
    fields.map(str::to_owned).collect()
}

/// A dictionary in a header, whose lines count as one list.
fn dictionary(parts: &Parts<'_>, name: &str) -> Result<Dictionary, Refusal> {
    let lines = (parts.header)(name);
    if lines.is_empty() {
        return Err(Refusal::Missing);
    }
    let text = lines.join(&b", "[..]);
    if text.len() > TEXT {
        return Err(Refusal::Malformed);
    }
    Parser::new(&text).parse().map_err(|_| Refusal::Malformed)
}

fn covers(input: &InnerList, name: &str) -> bool {
    let mut items = input.items.iter();
    items.any(|item| matches!(&item.bare_item, BareItem::String(own) if own.as_str() == name))
}

/// The place of the key of a signature, and what is signed (section 2.5).
fn claim(
    parts: &Parts<'_>,
    input: &InnerList,
    keys: &[&str],
    cover: &[String],
    now: u64,
    age: u64,
) -> Result<(usize, String), Refusal> {
    let text = |name: &str| match input.params.get(name) {
        None => Ok(None),
        Some(BareItem::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Refusal::Malformed),
    };
    let time = |name: &str| match input.params.get(name) {
        None => Ok(None),
        Some(BareItem::Integer(n)) => u64::try_from(*n).map(Some).map_err(|_| Refusal::Malformed),
        Some(_) => Err(Refusal::Malformed),
    };
    let id = text("keyid")?.ok_or(Refusal::UnknownKey)?;
    let key = keys.iter().position(|key| *key == id);
    let key = key.ok_or(Refusal::UnknownKey)?;
    if text("alg")?.is_some_and(|alg| alg != "hmac-sha256") {
        return Err(Refusal::UnknownKey);
    }
    let created = time("created")?.ok_or(Refusal::Uncovered)?;
    let expired = time("expires")?.is_some_and(|end| now >= end);
    if expired || !is_fresh(created, now, age) {
        return Err(Refusal::Stale);
    }
    let whole = covers(input, "@target-uri");
    let target = whole || covers(input, "@request-target");
    let query = target || parts.query.is_none() || covers(input, "@query");
    let enough = covers(input, "@method")
        && (whole || covers(input, "@authority"))
        && (target || covers(input, "@path"))
        && query
        && (!parts.body || covers(input, "content-digest"))
        && cover.iter().all(|name| covers(input, name));
    if !enough {
        return Err(Refusal::Uncovered);
    }
    Ok((key, base(parts, input)?))
}

fn base(parts: &Parts<'_>, input: &InnerList) -> Result<String, Refusal> {
    let mut base = String::new();
    if input.items.len() > COMPONENTS {
        return Err(Refusal::Malformed);
    }
    for (index, item) in input.items.iter().enumerate() {
        let BareItem::String(name) = &item.bare_item else {
            return Err(Refusal::Malformed);
        };
        let name = name.as_str();
        let mut before = input.items.iter().take(index);
        let again = before.any(|other| other.bare_item == item.bare_item);
        // Parameters take parts of fields, or fields of other messages: not known here.
        if again || !item.params.is_empty() || name.contains(['"', '\\']) {
            return Err(Refusal::Malformed);
        }
        base.push_str(&format!("\"{name}\": {}\n", component(parts, name)?));
    }
    let mut list = ListSerializer::new();
    list.members([&ListEntry::InnerList(input.clone())]);
    let params = list.finish().ok_or(Refusal::Malformed)?;
    base.push_str(&format!("\"@signature-params\": {params}"));
    Ok(base)
}

/// The value of one component (sections 2.1 and 2.2).
fn component(parts: &Parts<'_>, name: &str) -> Result<String, Refusal> {
    let query = parts
        .query
        .map_or(String::new(), |query| format!("?{query}"));
    let (path, authority) = (parts.path, parts.authority);
    Ok(match name {
        "@method" => parts.method.to_owned(),
        "@scheme" => parts.scheme.to_owned(),
        "@authority" => authority.to_owned(),
        "@path" => path.to_owned(),
        "@query" if query.is_empty() => "?".to_owned(),
        "@query" => query,
        "@request-target" => format!("{path}{query}"),
        "@target-uri" => format!("{}://{authority}{path}{query}", parts.scheme),
        _ if name.starts_with('@') || name.bytes().any(|b| b.is_ascii_uppercase()) => {
            return Err(Refusal::Malformed);
        }
        _ => {
            let lines = (parts.header)(name);
            if lines.is_empty() {
                return Err(Refusal::Uncovered);
            }
            let trimmed: Vec<&[u8]> = lines.iter().map(|line| line.trim_ascii()).collect();
            let value = trimmed.join(&b", "[..]);
            String::from_utf8(value).map_err(|_| Refusal::Malformed)?
        }
    })
}

/// The digests of a body that are known (RFC 9530 section 2), at least one.
fn digests(parts: &Parts<'_>) -> Result<Vec<Digest>, Refusal> {
    let all = dictionary(parts, "content-digest").map_err(|_| Refusal::Uncovered)?;
    let mut found = Vec::new();
    for (name, wide) in [("sha-256", false), ("sha-512", true)] {
        match all.get(name) {
            None => {}
            Some(ListEntry::Item(Item {
                bare_item: BareItem::ByteSequence(bytes),
                ..
            })) => found.push(Digest {
                wide,
                bytes: bytes.clone(),
            }),
            Some(_) => return Err(Refusal::Malformed),
        }
    }
    match found.is_empty() {
        true => Err(Refusal::Uncovered),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Form, Secret};
    use super::*;

    const NOW: u64 = 1_618_884_473;

    struct Sent {
        query: Option<&'static str>,
        body: &'static str,
        headers: Vec<(&'static str, String)>,
    }

    impl Sent {
        fn judge(&self, secret: &Secret, cover: &[String], now: u64) -> Result<(), Refusal> {
            let header = |name: &str| {
                let found = self.headers.iter().filter(|(key, _)| *key == name);
                found.map(|(_, value)| value.as_bytes()).collect()
            };
            let parts = Parts {
                method: "POST",
                scheme: "https",
                authority: "example.com",
                path: "/foo",
                query: self.query,
                header: &header,
                body: !self.body.is_empty(),
            };
            let claims = read(&parts, &["other", "test-shared-secret"], cover, now, 300)?;
            assert!(claims.iter().all(|claim| claim.key == Some(1)));
            let mut held = claims
                .iter()
                .map(|c| c.holds(self.body.as_bytes(), [secret]));
            held.find(Result::is_ok).unwrap_or(Err(Refusal::Wrong))
        }
    }

    // The key of RFC 9421, appendix B.1.5.
    fn secret() -> Secret {
        let text = "base64:uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
        Secret::read(Form::Message, text).unwrap()
    }

    fn tag(base: &str) -> String {
        use base64::Engine;
        let tag = aws_lc_rs::hmac::sign(&secret().0, base.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(tag)
    }

    /// The HMAC of appendix B.2.5, whose cover is too small for us; its bytes must be what the RFC says.
    #[test]
    fn the_example_of_the_rfc_has_its_signature() {
        let base = "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@authority\": example.com\n\
            \"content-type\": application/json\n\
            \"@signature-params\": (\"date\" \"@authority\" \"content-type\")\
            ;created=1618884473;keyid=\"test-shared-secret\"";
        assert_eq!(tag(base), "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=");
    }

    const INPUT: &str = "(\"@method\" \"@target-uri\" \"content-digest\")\
        ;created=1618884473;keyid=\"test-shared-secret\"";
    const DIGEST: &str = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";

    fn sent(input: &str, base: &str) -> Sent {
        Sent {
            query: Some("a=1"),
            body: "{\"hello\": \"world\"}",
            headers: vec![
                ("content-digest", DIGEST.to_owned()),
                ("signature-input", format!("sig={input}")),
                ("signature", format!("sig=:{}:", tag(base))),
            ],
        }
    }

    fn base_of(input: &str) -> String {
        format!(
            "\"@method\": POST\n\"@target-uri\": https://example.com/foo?a=1\n\
             \"content-digest\": {DIGEST}\n\"@signature-params\": {input}"
        )
    }

    #[test]
    fn what_is_signed_must_be_what_is_there() {
        let good = sent(INPUT, &base_of(INPUT));
        assert_eq!(good.judge(&secret(), &[], NOW), Ok(()));
        assert_eq!(good.judge(&secret(), &[], NOW + 301), Err(Refusal::Stale));
        assert_eq!(good.judge(&secret(), &[], NOW - 61), Err(Refusal::Stale));
        let type_too = ["content-type".to_owned()];
        assert_eq!(
            good.judge(&secret(), &type_too, NOW),
            Err(Refusal::Uncovered)
        );
        let other = Secret::read(Form::Message, "0123456789abcdef").unwrap();
        assert_eq!(good.judge(&other, &[], NOW), Err(Refusal::Wrong));
        let mut changed = sent(INPUT, &base_of(INPUT));
        changed.body = "{\"hello\": \"World\"}";
        assert_eq!(changed.judge(&secret(), &[], NOW), Err(Refusal::Wrong));
        let mut elsewhere = sent(INPUT, &base_of(INPUT));
        elsewhere.query = Some("a=2");
        assert_eq!(elsewhere.judge(&secret(), &[], NOW), Err(Refusal::Wrong));
    }

    #[test]
    fn a_wrong_signature_is_no_reason_against_another() {
        let mut sent = sent(INPUT, &base_of(INPUT));
        let input = sent.headers[1].1.clone();
        sent.headers[1].1 = format!("first={INPUT}, {input}");
        let tag = sent.headers[2].1.clone();
        sent.headers[2].1 = format!("first=:AAAA:, {tag}");
        assert_eq!(sent.judge(&secret(), &[], NOW), Ok(()));
    }

    #[test]
    fn signatures_that_cover_too_little_or_cannot_be_read_are_refused() {
        use Refusal::{Malformed, Missing, Stale, Uncovered, UnknownKey};
        let end = ";created=1618884473;keyid=\"test-shared-secret\"";
        for (input, want) in [
            (format!("(\"@method\" \"@target-uri\"){end}"), Uncovered),
            (
                format!("(\"@method\" \"@path\" \"content-digest\"){end}"),
                Uncovered,
            ),
            (
                format!("(\"@authority\" \"@path\" \"content-digest\"){end}"),
                Uncovered,
            ),
            (
                format!("(\"@method\" \"@authority\" \"@path\" \"content-digest\"){end}"),
                Uncovered,
            ),
            (INPUT.replace("keyid", "other"), UnknownKey),
            (INPUT.replace("test-", "best-"), UnknownKey),
            (INPUT.replace("created", "made"), Uncovered),
            (format!("{INPUT};alg=\"none\""), UnknownKey),
            (format!("{INPUT};expires=1618884400"), Stale),
            (INPUT.replace("\"@method\"", "\"@method\";req"), Malformed),
            (
                INPUT.replace("\"@method\"", "\"@method\" \"@method\""),
                Malformed,
            ),
            (
                INPUT.replace("\"@method\"", "\"@method\" \"@status\""),
                Malformed,
            ),
            (
                INPUT.replace("\"@method\"", "\"@method\" \"x-none\""),
                Uncovered,
            ),
            (
                INPUT.replace("\"@method\"", "\"@method\" \"X-Up\""),
                Malformed,
            ),
            ("x".to_owned(), Missing),
            ("(".to_owned(), Malformed),
        ] {
            let sent = sent(&input, &base_of(&input));
            assert_eq!(sent.judge(&secret(), &[], NOW), Err(want), "{input}");
        }
        let mut no_digest = sent(INPUT, &base_of(INPUT));
        no_digest.headers.remove(0);
        assert_eq!(no_digest.judge(&secret(), &[], NOW), Err(Uncovered));
        let mut none = sent(INPUT, &base_of(INPUT));
        none.headers.truncate(2);
        assert_eq!(none.judge(&secret(), &[], NOW), Err(Missing));
    }
}
