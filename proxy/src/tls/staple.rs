//! What a certificate's issuer says of it (OCSP, RFC 6960), from a file: read as far as it takes to
//! know that it is an answer, whose, and until when. Its signature is the client's to check.

use std::time::SystemTime;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// An answer that can be shown beside a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staple {
    /// As it came.
    pub bytes: Vec<u8>,
    /// From then on.
    pub from: SystemTime,
    /// Until then; none if it does not say.
    pub until: Option<SystemTime>,
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, `[1]` and `[2]` around something else.
const FIRST: u8 = 0xa0;
const SECOND: u8 = 0xa1;
const THIRD: u8 = 0xa2;

/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: [u8; 9] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// Reads an answer; `None` if it speaks of other certificates than that with this serial number.
///
/// # Errors
/// Why it is none.
pub fn read(bytes: &[u8], serial: &[u8]) -> Result<Option<Staple>, &'static str> {
    let none = "not an OCSP response in DER";
    let mut rest = bytes;
    let mut response = Der(take(&mut rest, SEQUENCE).ok_or(none)?);
    if !rest.is_empty() {
        return Err("something follows the OCSP response");
    }
    match response.take(ENUMERATED).ok_or(none)? {
        [0] => {}
        _ => return Err("the responder has not answered: its status is not successful"),
    }
    let mut told = Der(response.take(FIRST).ok_or(none)?);
    let mut told = Der(told.take(SEQUENCE).ok_or(none)?);
    if told.take(OID).ok_or(none)? != BASIC {
        return Err("an OCSP response of a kind that is not known");
    }
    let mut basic = Der(told.take(OCTETS).ok_or(none)?);
    let mut basic = Der(basic.take(SEQUENCE).ok_or(none)?);
    let mut data = Der(basic.take(SEQUENCE).ok_or(none)?);
    // Version, then who answers, by name or by key.
    let _ = data.take(FIRST);
    data.take(SECOND).or_else(|| data.take(THIRD)).ok_or(none)?;
    data.take(TIME).ok_or(none)?;
    let mut answers = Der(data.take(SEQUENCE).ok_or(none)?);
    while !answers.0.is_empty() {
        let answer = Der(answers.take(SEQUENCE).ok_or(none)?);
        let (about, from, until) = single(answer).ok_or(none)?;
        if unsigned(about) == unsigned(serial) {
            return Ok(Some(Staple {
                bytes: bytes.to_vec(),
                from,
                until,
            }));
        }
    }
    Ok(None)
}

impl Staple {
    /// Whether clients would believe it now.
    #[must_use]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }
}

/// What is said of one certificate: its serial number, and from when until when.
fn single(mut answer: Der<'_>) -> Option<(&[u8], SystemTime, Option<SystemTime>)> {
    let mut about = Der(answer.take(SEQUENCE)?);
    about.take(SEQUENCE)?;
    about.take(OCTETS)?;
    about.take(OCTETS)?;
    let serial = about.take(INTEGER)?;
    // Good, revoked or unknown: clients are to learn it, whatever it is.
    any(&mut answer.0)?;
    let from = time(answer.take(TIME)?)?;
    let until = match answer.take(FIRST) {
        Some(inner) => Some(time(Der(inner).take(TIME)?)?),
        None => None,
    };
    Some((serial, from, until))
}

/// A number without the zero that keeps it positive.
fn unsigned(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}

/// `YYYYMMDDHHMMSSZ`, the one form that DER knows here.
fn time(text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if text.len() != 14 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let year: i16 = text.get(..4)?.parse().ok()?;
    let two = |at: usize| -> Option<i8> { text.get(at..at + 2)?.parse().ok() };
    let (month, day) = (two(4)?, two(6)?);
    let (hour, minute, second) = (two(8)?, two(10)?, two(12)?);
    let time = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

/// What is left of a value.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        take(&mut self.0, tag)
    }
}

/// The content of the next value, if it has this tag; else nothing is taken.
fn take<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    (rest.first() == Some(&tag)).then(|| any(rest)).flatten()
}

/// The content of the next value: a tag of one byte, a length of up to three.
fn any<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [_, first, tail @ ..] = *rest else {
        return None;
    };
    let (length, tail) = match (first, tail) {
        (0..=0x7f, tail) => (usize::from(*first), tail),
        (0x81, [a, tail @ ..]) => (usize::from(*a), tail),
        (0x82, [a, b, tail @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), tail),
        _ => return None,
    };
    let (content, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, &content].concat()
    }

    fn about(serial: &[u8], from: &str, until: Option<&str>) -> Vec<u8> {
        let id = der(
            SEQUENCE,
            &[
                &der(SEQUENCE, &[]),
                &der(OCTETS, &[b"n"]),
                &der(OCTETS, &[b"k"]),
                &der(INTEGER, &[serial]),
            ],
        );
        let until = until.map(|until| der(FIRST, &[&der(TIME, &[until.as_bytes()])]));
        let from = der(TIME, &[from.as_bytes()]);
        let parts = [&id[..], &[0x80, 0], &from, &until.unwrap_or_default()];
        der(SEQUENCE, &parts)
    }

    fn response(status: u8, answers: &[&[u8]]) -> Vec<u8> {
        let data = der(
            SEQUENCE,
            &[
                &der(THIRD, &[&der(OCTETS, &[b"key"])]),
                &der(TIME, &[b"20261101000000Z"]),
                &der(SEQUENCE, answers),
            ],
        );
        let basic = der(
            SEQUENCE,
            &[&data, &der(SEQUENCE, &[]), &der(0x03, &[b"\0"])],
        );
        let told = der(SEQUENCE, &[&der(OID, &[&BASIC]), &der(OCTETS, &[&basic])]);
        let status = der(ENUMERATED, &[&[status]]);
        der(SEQUENCE, &[&status, &der(FIRST, &[&told])])
    }

    #[test]
    fn an_answer_is_found_by_its_serial_number_and_has_its_time() {
        let (from, until) = ("20261101000000Z", Some("20261108123456Z"));
        let one = about(b"\x05", from, None);
        let other = about(b"\x00\xff\x01", from, until);
        let bytes = response(0, &[&one, &other]);
        let staple = read(&bytes, b"\xff\x01").unwrap().unwrap();
        let at = |text: &str| {
            let time: jiff::Timestamp = text.parse().unwrap();
            SystemTime::from(time)
        };
        assert_eq!(staple.bytes, bytes);
        assert!(staple.is_fresh(at("2026-11-08T12:34:55Z")));
        assert!(!staple.is_fresh(at("2026-11-08T12:34:56Z")));
        assert!(!staple.is_fresh(at("2026-10-31T23:59:59Z")));
        let endless = read(&bytes, b"\x05").unwrap().unwrap();
        assert!(endless.is_fresh(at("2030-01-01T00:00:00Z")));
        assert_eq!(read(&bytes, b"\x06"), Ok(None));
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = response(0, &[&about(b"\x05", "20261101000000Z", None)]);
        assert!(read(&good, b"\x05").is_ok());
        for status in [1, 2, 3, 5, 6] {
            assert!(read(&response(status, &[]), b"\x05").is_err());
        }
        // What a responder says that has nothing to say.
        assert!(read(b"\x30\x03\x0a\x01\x06", b"\x05").is_err());
        for cut in 0..good.len() {
            assert!(read(&good[..cut], b"\x05").is_err(), "{cut}");
        }
        assert!(read(&[&good[..], b"x"].concat(), b"\x05").is_err());
        for wrong in [
            "2026110100000Z",
            "20261301000000Z",
            "20261101000000",
            "+0261101000000Z",
        ] {
            let bytes = response(0, &[&about(b"\x05", wrong, None)]);
            assert!(read(&bytes, b"\x05").is_err(), "{wrong}");
        }
        assert!(read(b"-----BEGIN CERTIFICATE-----", b"\x05").is_err());
    }
}
