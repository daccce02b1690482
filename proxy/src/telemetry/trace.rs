//! Trace contexts: W3C `traceparent` and B3 taken and passed on, and the decision to sample.

use crate::message::{Fields, Known};

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Trace.
    pub trace: u128,
    /// Span.
    pub span: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

/// In which form a context came, and is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `traceparent`.
    W3c,
    /// `b3`.
    B3Single,
    /// `X-B3-TraceId` and its siblings.
    B3Multi,
}

/// Reads the context of a request; W3C wins over B3. Anything ill-formed is as if absent, as the
/// recommendation asks.
#[must_use]
pub fn extract(fields: &Fields) -> Option<(TraceContext, Form)> {
    let mut parents = fields.all(Known::Traceparent);
    if let Some(value) = parents.next() {
        // Of two, neither can be believed.
        if parents.next().is_some() {
            return None;
        }
        return traceparent(value).map(|context| (context, Form::W3c));
    }
    if let Some(value) = fields.known(Known::B3) {
        return b3_single(value).map(|context| (context, Form::B3Single));
    }
    let trace = b3_trace(fields.known(Known::XB3TraceId)?)?;
    let span = hex64(fields.known(Known::XB3SpanId)?)?;
    let debug = fields.known(Known::XB3Flags) == Some(b"1");
    let sampled = debug || matches!(fields.known(Known::XB3Sampled), Some(b"1" | b"true"));
    Some((
        TraceContext {
            trace,
            span,
            sampled,
        },
        Form::B3Multi,
    ))
}

/// Writes a context in the form the request had.
pub fn inject(fields: &mut Fields, context: TraceContext, parent: Option<u64>, form: Form) {
    let TraceContext { trace, span, .. } = context;
    match form {
        Form::W3c => fields.set_known(Known::Traceparent, &format_traceparent(context)),
        Form::B3Single => {
            let flag = u8::from(context.sampled);
            let parent = parent.map_or_else(String::new, |parent| format!("-{parent:016x}"));
            let value = format!("{trace:032x}-{span:016x}-{flag}{parent}");
            fields.set_known(Known::B3, value.as_bytes());
        }
        Form::B3Multi => {
            let flag: &[u8] = if context.sampled { b"1" } else { b"0" };
            fields.set_known(Known::XB3TraceId, format!("{trace:032x}").as_bytes());
            fields.set_known(Known::XB3SpanId, format!("{span:016x}").as_bytes());
            fields.set_known(Known::XB3Sampled, flag);
            fields.remove_known(Known::XB3ParentSpanId);
            if let Some(parent) = parent {
                fields.append_known(Known::XB3ParentSpanId, format!("{parent:016x}").as_bytes());
            }
        }
    }
}

impl TraceContext {
    /// The root of a new trace.
    #[must_use]
    pub fn root(sampled: bool) -> Self {
        Self {
            trace: fastrand::u128(1..),
            span: fastrand::u64(1..),
            sampled,
        }
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span: fastrand::u64(1..),
            ..self
        }
    }
}

/// Without a heap: an unsampled request pays for its bytes and nothing else.
fn format_traceparent(context: TraceContext) -> [u8; 55] {
    let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
    put_hex(&mut out[3..35], context.trace);
    put_hex(&mut out[36..52], u128::from(context.span));
    if context.sampled {
        out[54] = b'1';
    }
    out
}

/// 128 bits as 32 digits.
#[must_use]
pub fn hex32(value: u128) -> [u8; 32] {
    let mut out = [0; 32];
    put_hex(&mut out, value);
    out
}

fn put_hex(out: &mut [u8], mut value: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for place in out.iter_mut().rev() {
        *place = DIGITS.get((value & 0xf) as usize).copied().unwrap_or(b'0');
        value >>= 4;
    }
}

/// Lower-case hex of exactly this many digits; zero is not an ID.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    let lower = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.iter().all(lower) {
        return None;
    }
    let value = u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()?;
    (value != 0).then_some(value)
}

fn hex64(text: &[u8]) -> Option<u64> {
    u64::try_from(hex(text, 16)?).ok()
}

fn b3_trace(text: &[u8]) -> Option<u128> {
    hex(text, 32).or_else(|| hex(text, 16))
}

/// `00-<trace>-<span>-<flags>`; later versions may have more behind (W3C Trace Context 3.2.2).
fn traceparent(value: &[u8]) -> Option<TraceContext> {
    let text = value.get(..55)?;
    let version = text.get(..2)?;
    let rest = value.get(55..)?;
    let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
    let version_fine = version != b"ff"
        && version.iter().all(u8::is_ascii_hexdigit)
        && (rest.is_empty() || (version != b"00" && rest.first() == Some(&b'-')));
    let flags = std::str::from_utf8(text.get(53..)?).ok()?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    if !dashes || !version_fine {
        return None;
    }
    Some(TraceContext {
        trace: hex(text.get(3..35)?, 32)?,
        span: hex64(text.get(36..52)?)?,
        sampled: flags & 1 == 1,
    })
}

/// `<trace>-<span>[-<sampled>[-<parent>]]`.
fn b3_single(value: &[u8]) -> Option<TraceContext> {
    let mut parts = value.split(|b| *b == b'-');
    let trace = b3_trace(parts.next()?)?;
    let span = hex64(parts.next()?)?;
    let sampled = matches!(parts.next(), Some(b"1" | b"d"));
    Some(TraceContext {
        trace,
        span,
        sampled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn contexts_survive_a_round_trip() {
        let b3 = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1";
        for (list, form) in [
            (vec![("traceparent", W3C)], Form::W3c),
            (vec![("b3", b3)], Form::B3Single),
            (
                vec![
                    ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
                    ("x-b3-spanid", "00f067aa0ba902b7"),
                    ("x-b3-sampled", "1"),
                ],
                Form::B3Multi,
            ),
        ] {
            let mut fields = fields(&list);
            let (context, read) = extract(&fields).unwrap();
            assert_eq!(
                (read, context.span, context.sampled),
                (form, 0x00f0_67aa_0ba9_02b7, true)
            );
            inject(&mut fields, context, None, form);
            assert_eq!(extract(&fields), Some((context, form)));
        }
    }

    #[test]
    fn junk_is_as_if_absent() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let long = format!("{W3C}-x");
        let version = W3C.replacen("00", "ff", 1);
        for bad in [
            "",
            "00",
            &W3C[..54],
            zero,
            &long,
            &version,
            &W3C.to_uppercase(),
        ] {
            assert_eq!(extract(&fields(&[("traceparent", bad)])), None, "{bad}");
        }
        let later = format!("{}-x", W3C.replacen("00", "01", 1));
        assert!(extract(&fields(&[("traceparent", &later)])).is_some());
    }
}
