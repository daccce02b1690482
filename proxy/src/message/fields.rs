//! Header fields between the stages: flat, in order, with the case they came in.
//!
//! Not `http::HeaderMap`, on purpose: a sidecar must hand on what it got, in order and case, and
//! a map costs a hash a field on the way in and another on the way out.

use bytes::{BufMut, Bytes, BytesMut};

use super::known::Known;

/// A place in one of the two buffers of [`Fields`]: the head as read, or what was added.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

/// Marks a span of the added buffer. Heads are bounded far below 2 GiB.
const ADDED: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: Span,
    value: Span,
    known: Known,
    sensitive: bool,
}

/// A list of fields.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    head: Bytes,
    added: Vec<u8>,
    entries: Vec<Entry>,
}

/// One field as the iterator gives it.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// Name, in the case it came in.
    pub name: &'a [u8],
    /// Value, without surrounding white space.
    pub value: &'a [u8],
    /// Which known field it is.
    pub known: Known,
    /// Must not enter the tables of HTTP/2 on any hop (RFC 7541 section 6.2.3).
    pub sensitive: bool,
}

impl Fields {
    /// An empty list with room for what an answer of ours has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list; [`Fields::push_parsed`] fills it, [`Fields::over`] gives it its head.
    #[must_use]
    pub(crate) fn with_room() -> Self {
        Self {
            head: Bytes::new(),
            added: Vec::new(),
            entries: Vec::with_capacity(16),
        }
    }

    /// Sets the bytes that the parsed fields stand in.
    #[must_use]
    pub(crate) fn over(mut self, head: Bytes) -> Self {
        self.head = head;
        self
    }

    /// The bytes of the head this list was parsed from.
    #[must_use]
    pub const fn head(&self) -> &Bytes {
        &self.head
    }

    /// Adds a field that stands in the head at the given ranges.
    pub(crate) fn push_parsed(
        &mut self,
        name: std::ops::Range<usize>,
        value: std::ops::Range<usize>,
        known: Known,
        sensitive: bool,
    ) {
        let span = |range: std::ops::Range<usize>| Span {
            at: u32::try_from(range.start).unwrap_or(ADDED - 1),
            len: u32::try_from(range.len()).unwrap_or(0),
        };
        self.entries.push(Entry {
            name: span(name),
            value: span(value),
            known,
            sensitive,
        });
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let (buffer, at): (&[u8], u32) = if span.at & ADDED == 0 {
            (&self.head, span.at)
        } else {
            (&self.added, span.at & !ADDED)
        };
        let at = at as usize;
        buffer.get(at..at + span.len as usize).unwrap_or_default()
    }

    /// Appends a field. The caller vouches for its form: names and values come from parsed heads,
    /// from configuration checked at load, or from constants.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        let known = Known::classify(name);
        self.append_as(name, value, known);
    }

    /// Appends a field whose name is known, in its canonical spelling.
    pub fn append_known(&mut self, known: Known, value: &[u8]) {
        self.append_as(known.name().as_bytes(), value, known);
    }

    fn append_as(&mut self, name: &[u8], value: &[u8], known: Known) {
        if self.added.capacity() == 0 {
            self.added.reserve(256);
        }
        // As they are written, so that what is added together is written together.
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0);
        let at = u32::try_from(self.added.len()).unwrap_or(ADDED - 1) | ADDED;
        self.added.reserve(name.len() + value.len() + 4);
        self.added.extend_from_slice(name);
        self.added.extend_from_slice(b": ");
        self.added.extend_from_slice(value);
        self.added.extend_from_slice(b"\r\n");
        let name = Span {
            at,
            len: length(name),
        };
        let value = Span {
            at: at.saturating_add(name.len + 2),
            len: length(value),
        };
        self.entries.push(Entry {
            name,
            value,
            known,
            sensitive: false,
        });
    }

    /// Replaces all fields of that name by one.
    pub fn set_known(&mut self, known: Known, value: &[u8]) {
        self.remove_known(known);
        self.append_known(known, value);
    }

    /// Replaces all fields of that name, given in any case, by one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Removes all fields of a known name.
    pub fn remove_known(&mut self, known: Known) {
        self.entries.retain(|entry| entry.known != known);
    }

    /// Removes all fields of a name, given in any case.
    pub fn remove(&mut self, name: &[u8]) {
        let known = Known::classify(name);
        if known != Known::Other {
            return self.remove_known(known);
        }
        let (head, added) = (&self.head, &self.added);
        self.entries.retain(|entry| {
            let span = entry.name;
            let (buffer, at): (&[u8], u32) = if span.at & ADDED == 0 {
                (head, span.at)
            } else {
                (added, span.at & !ADDED)
            };
            let at = at as usize;
            let have = buffer.get(at..at + span.len as usize).unwrap_or_default();
            entry.known != Known::Other || !have.eq_ignore_ascii_case(name)
        });
    }

    /// Removes all fields of a name, in any case and with `_` for `-`: applications behind CGI and
    /// its heirs read both as one.
    pub fn remove_alike(&mut self, name: &[u8]) {
        let read = |b: &u8| {
            let lower = b.to_ascii_lowercase();
            if lower == b'_' { b'-' } else { lower }
        };
        let same = |entry: &Entry| {
            let have = self.bytes(entry.name);
            have.len() == name.len() && have.iter().map(read).eq(name.iter().map(read))
        };
        if self.entries.iter().any(same) {
            let kept = self.entries.iter().filter(|e| !same(e)).copied().collect();
            self.entries = kept;
        }
    }

    /// Removes every field for which `drop` says so.
    pub fn remove_if(&mut self, drop: impl Fn(Known) -> bool) {
        self.entries.retain(|entry| !drop(entry.known));
    }

    /// Removes fields whose name spells this one with `_` for `-`, and leaves those that are it.
    pub fn remove_lookalikes_of(&mut self, name: &[u8]) {
        let dash = |b: &u8| {
            if *b == b'_' {
                b'-'
            } else {
                b.to_ascii_lowercase()
            }
        };
        let fake = |entry: &Entry| {
            let have = self.bytes(entry.name);
            !have.eq_ignore_ascii_case(name) && have.iter().map(dash).eq(name.iter().map(dash))
        };
        if self.entries.iter().any(fake) {
            let kept = self.entries.iter().filter(|e| !fake(e)).copied().collect();
            self.entries = kept;
        }
    }

    /// Removes fields whose name only spells a known one with `_` for `-`: applications behind CGI
    /// and its heirs read both as one, and would take a client's word for ours.
    pub fn remove_lookalikes(&mut self, asserted: impl Fn(Known) -> bool) {
        let fake = |entry: &Entry| {
            let name = self.bytes(entry.name);
            if entry.known != Known::Other || memchr::memchr(b'_', name).is_none() {
                return false;
            }
            let read: Vec<u8> = name
                .iter()
                .map(|b| if *b == b'_' { b'-' } else { *b })
                .collect();
            asserted(Known::classify(&read))
        };
        if self.entries.iter().any(fake) {
            let kept = self.entries.iter().filter(|e| !fake(e)).copied().collect();
            self.entries = kept;
        }
    }

    /// The first field of a known name.
    #[must_use]
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        let entry = self.entries.iter().find(|entry| entry.known == known)?;
        Some(self.bytes(entry.value))
    }

    /// What a call of gRPC came to, of the head or the trailers that say so.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        let value = self.known(Known::GrpcStatus)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// All fields of a known name, in order.
    pub fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.entries
            .iter()
            .filter(move |entry| entry.known == known)
            .map(|entry| self.bytes(entry.value))
    }

    /// The first field of a name, given in any case.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value)
    }

    /// Every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.entries.iter().map(|entry| Field {
            name: self.bytes(entry.name),
            value: self.bytes(entry.value),
            known: entry.known,
            sensitive: entry.sensitive,
        })
    }

    /// How many fields there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes all fields as HTTP/1 lines, without the empty line that ends a head.
    pub fn write_http1(&self, out: &mut BytesMut) {
        let size: usize = self
            .entries
            .iter()
            .map(|e| e.name.len as usize + e.value.len as usize + 4)
            .sum();
        out.reserve(size + 2);
        // Lines that stand together in a buffer, in the form in which they would be written, are
        // copied together: most heads are two or three runs.
        let mut run = Run::default();
        for entry in &self.entries {
            // `TE: trailers` of an HTTP/2 request belongs to that connection.
            if entry.known == Known::Te {
                continue;
            }
            let Some(line) = self.line(entry) else {
                out.put_slice(self.run(std::mem::take(&mut run)));
                out.put_slice(self.bytes(entry.name));
                out.put_slice(b": ");
                out.put_slice(self.bytes(entry.value));
                out.put_slice(b"\r\n");
                continue;
            };
            if line.start != run.end || line.added != run.added {
                out.put_slice(self.run(run));
                run = line;
            }
            run.end = line.end;
        }
        out.put_slice(self.run(run));
    }

    fn run(&self, run: Run) -> &[u8] {
        let buffer: &[u8] = if run.added { &self.added } else { &self.head };
        buffer.get(run.start..run.end).unwrap_or_default()
    }

    /// Where a field's line stands in its buffer, if it stands there as `name: value CRLF`.
    fn line(&self, entry: &Entry) -> Option<Run> {
        let Entry { name, value, .. } = entry;
        if name.at + name.len + 2 != value.at {
            return None;
        }
        let added = name.at & ADDED != 0;
        let start = (name.at & !ADDED) as usize;
        let colon = start + name.len as usize;
        let end = colon + 2 + value.len as usize;
        let line = Run {
            added,
            start,
            end: end + 2,
        };
        // Those of ours are written so.
        let plain = added
            || (self.head.get(colon..colon + 2) == Some(b": ")
                && self.head.get(end..end + 2) == Some(b"\r\n"));
        plain.then_some(line)
    }
}

/// Lines that stand together.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    added: bool,
    start: usize,
    end: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fields {
        let mut fields = Fields::new();
        fields.append(b"Host", b"a");
        fields.append(b"X-Own", b"1");
        fields.append(b"cookie", b"a=1");
        fields.append(b"x-own", b"2");
        fields
    }

    #[test]
    fn order_and_case_stay() {
        let mut out = BytesMut::new();
        sample().write_http1(&mut out);
        assert_eq!(
            &out[..],
            b"Host: a\r\nX-Own: 1\r\ncookie: a=1\r\nx-own: 2\r\n"
        );
    }

    #[test]
    fn lines_are_copied_in_runs_and_in_one_form() {
        let head = Bytes::from_static(b"A: 1\r\nB:2\r\nC: 3 \r\nD: 4\r\nE: 5\r\n\r\n");
        let error = crate::error::ErrorKind::BadRequest;
        let mut fields = crate::protocol::http1::parse::fields(head, 0, 9, error, error).unwrap();
        fields.remove(b"d");
        fields.append(b"F", b"6");
        let mut out = BytesMut::new();
        fields.write_http1(&mut out);
        assert_eq!(&out[..], b"A: 1\r\nB: 2\r\nC: 3\r\nE: 5\r\nF: 6\r\n");
    }

    #[test]
    fn names_are_found_and_removed_in_any_case() {
        let mut fields = sample();
        assert_eq!(fields.named("x-OWN"), Some(&b"1"[..]));
        fields.remove(b"X-OWN");
        assert_eq!(fields.named("x-own"), None);
        fields.set(b"HOST", b"b");
        assert_eq!(fields.known(Known::Host), Some(&b"b"[..]));
        assert_eq!(fields.len(), 2);
    }
}
