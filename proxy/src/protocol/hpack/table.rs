//! The tables that an index in a header block points into (RFC 7541 section 2.3).

use std::collections::VecDeque;

use super::Name::{self, Authority, Field, Method, Path, Scheme, Status};
use crate::message::Known;

/// A field of the static table.
pub(super) struct StaticField {
    pub(super) name: &'static [u8],
    pub(super) value: &'static [u8],
    pub(super) kind: Name,
}

/// A field name that no stage looks at.
const OTHER: Name = Field(Known::Other);

/// RFC 7541 appendix A. Index 1 is the first one.
const ROWS: [(&str, &str, Name); 61] = [
    (":authority", "", Authority),
    (":method", "GET", Method),
    (":method", "POST", Method),
    (":path", "/", Path),
    (":path", "/index.html", Path),
    (":scheme", "http", Scheme),
    (":scheme", "https", Scheme),
    (":status", "200", Status),
    (":status", "204", Status),
    (":status", "206", Status),
    (":status", "304", Status),
    (":status", "400", Status),
    (":status", "404", Status),
    (":status", "500", Status),
    ("accept-charset", "", OTHER),
    (
        "accept-encoding",
        "gzip, deflate",
        Field(Known::AcceptEncoding),
    ),
    ("accept-language", "", OTHER),
    ("accept-ranges", "", OTHER),
    ("accept", "", Field(Known::Accept)),
    ("access-control-allow-origin", "", OTHER),
    ("age", "", Field(Known::Age)),
    ("allow", "", OTHER),
    ("authorization", "", Field(Known::Authorization)),
    ("cache-control", "", Field(Known::CacheControl)),
    ("content-disposition", "", OTHER),
    ("content-encoding", "", Field(Known::ContentEncoding)),
    ("content-language", "", OTHER),
    ("content-length", "", Field(Known::ContentLength)),
    ("content-location", "", OTHER),
    ("content-range", "", OTHER),
    ("content-type", "", Field(Known::ContentType)),
    ("cookie", "", Field(Known::Cookie)),
    ("date", "", Field(Known::Date)),
    ("etag", "", Field(Known::ETag)),
    ("expect", "", Field(Known::Expect)),
    ("expires", "", Field(Known::Expires)),
    ("from", "", OTHER),
    ("host", "", Field(Known::Host)),
    ("if-match", "", OTHER),
    ("if-modified-since", "", Field(Known::IfModifiedSince)),
    ("if-none-match", "", Field(Known::IfNoneMatch)),
    ("if-range", "", OTHER),
    ("if-unmodified-since", "", OTHER),
    ("last-modified", "", Field(Known::LastModified)),
    ("link", "", OTHER),
    ("location", "", OTHER),
    ("max-forwards", "", OTHER),
    ("proxy-authenticate", "", Field(Known::ProxyAuthenticate)),
    ("proxy-authorization", "", Field(Known::ProxyAuthorization)),
    ("range", "", Field(Known::Range)),
    ("referer", "", OTHER),
    ("refresh", "", OTHER),
    ("retry-after", "", Field(Known::RetryAfter)),
    ("server", "", Field(Known::Server)),
    ("set-cookie", "", Field(Known::SetCookie)),
    ("strict-transport-security", "", OTHER),
    ("transfer-encoding", "", Field(Known::TransferEncoding)),
    ("user-agent", "", Field(Known::UserAgent)),
    ("vary", "", Field(Known::Vary)),
    ("via", "", OTHER),
    ("www-authenticate", "", OTHER),
];

/// Place 0 is that of the index that must not be used.
#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
pub(super) static STATIC: [StaticField; ROWS.len() + 1] = {
    let mut fields = [const {
        StaticField {
            name: b"",
            value: b"",
            kind: OTHER,
        }
    }; ROWS.len() + 1];
    let mut at = 0;
    while at < ROWS.len() {
        let (name, value, kind) = ROWS[at];
        fields[at + 1] = StaticField {
            name: name.as_bytes(),
            value: value.as_bytes(),
            kind,
        };
        at += 1;
    }
    fields
};

/// First index of each known name in the static table; 0 for a name that is not there.
#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
pub(super) static STATIC_NAMES: [u8; 256] = {
    let mut indices = [0; 256];
    let mut index = ROWS.len();
    while index > 0 {
        if let Field(known) = ROWS[index - 1].2 {
            indices[known as usize] = index as u8;
        }
        index -= 1;
    }
    indices[Known::Other as usize] = 0;
    indices
};

/// What each entry counts for, beside its text (RFC 7541 section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// Text of the table is moved and its buffer grows only in steps of at least this many bytes.
const SMALLEST_BUFFER: usize = 256;

/// An entry of the dynamic table; its name stands at `start` in the text, its value right after it.
struct Entry {
    start: u32,
    name_len: u32,
    value_len: u32,
    kind: Name,
}

/// The dynamic table (RFC 7541 section 2.3.2). Empty, it holds no memory; full, at most its size
/// twice in text, and 16 bytes an entry.
pub(super) struct Dynamic {
    /// The newest entry is the first one.
    entries: VecDeque<Entry>,
    /// Names and values, the oldest first. What stands before the oldest entry was evicted.
    text: Vec<u8>,
    size: usize,
    max_size: usize,
}

impl Dynamic {
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            text: Vec::new(),
            size: 0,
            max_size,
        }
    }

    /// Size as section 4.1 counts it, in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Changes the size that the table may grow to (section 4.3).
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict_to(max_size);
    }

    /// The entry at a place, 0 being the newest: kind of the name, name, value.
    pub(super) fn entry(&self, at: usize) -> Option<(Name, &[u8], &[u8])> {
        let entry = self.entries.get(at)?;
        let text = self.text.get(entry.start as usize..)?;
        let (name, rest) = text.split_at_checked(entry.name_len as usize)?;
        Some((entry.kind, name, rest.get(..entry.value_len as usize)?))
    }

    /// Adds an entry, at the cost of the oldest ones. One that is larger than the whole table
    /// leaves it empty, which is no error (section 4.4).
    pub(super) fn insert(&mut self, kind: Name, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        let Some(room) = self.max_size.checked_sub(size) else {
            self.evict_to(0);
            return;
        };
        self.evict_to(room);
        self.make_room(name.len() + value.len());
        self.entries.push_front(Entry {
            start: self.text.len() as u32,
            name_len: name.len() as u32,
            value_len: value.len() as u32,
            kind,
        });
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.size += size;
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.name_len as usize + entry.value_len as usize + ENTRY_OVERHEAD;
        }
        if self.entries.is_empty() {
            self.text.clear();
        }
    }

    /// Makes room for new text: over the evicted, or, where that is less than half of the buffer,
    /// in a larger one. So each byte is moved about once, and the buffer stays below twice the size
    /// of the table.
    fn make_room(&mut self, new: usize) {
        if self.text.len() + new <= self.text.capacity() {
            return;
        }
        let dead = self.entries.back().map_or(0, |oldest| oldest.start);
        self.text.drain(..dead as usize);
        for entry in &mut self.entries {
            entry.start -= dead;
        }
        let wanted = (2 * (self.text.len() + new)).max(SMALLEST_BUFFER);
        if self.text.capacity() < wanted {
            self.text.reserve_exact(wanted - self.text.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_table_is_classified_as_any_name_is() {
        for field in STATIC.iter().skip(1) {
            assert_eq!(Name::classify(field.name), field.kind);
            assert_eq!(field.name.to_ascii_lowercase(), field.name);
        }
        assert_eq!(STATIC.len(), 62);
        assert_eq!(STATIC[61].name, b"www-authenticate");
        for (known, index) in STATIC_NAMES.iter().enumerate() {
            let kind = STATIC[usize::from(*index)].kind;
            let found = matches!(kind, Field(k) if k as usize == known);
            assert!(*index == 0 || found, "{known}");
        }
        assert_eq!(STATIC_NAMES[Known::Accept as usize], 19);
        assert_eq!(STATIC_NAMES[Known::Host as usize], 38);
        assert_eq!(STATIC_NAMES[Known::Other as usize], 0);
        assert_eq!(STATIC_NAMES[Known::Te as usize], 0);
    }

    fn all(table: &Dynamic) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..)
            .map_while(|at| table.entry(at))
            .map(|(_, name, value)| (name.to_vec(), value.to_vec()))
            .collect()
    }

    #[test]
    fn the_oldest_leave_first() {
        let mut table = Dynamic::new(3 * 34);
        for n in b'0'..=b'9' {
            table.insert(OTHER, b"a", &[n]);
        }
        assert_eq!(table.size(), 3 * 34);
        let want = [b"9", b"8", b"7"].map(|v| (b"a".to_vec(), v.to_vec()));
        assert_eq!(all(&table), want);
        table.resize(3 * 34 - 1);
        assert_eq!(all(&table), want[..2]);
        table.resize(4096);
        assert_eq!((table.size(), table.entries.len()), (2 * 34, 2));
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Dynamic::new(100);
        table.insert(OTHER, b"a", b"b");
        table.insert(OTHER, b"", &[b'x'; 68]);
        assert_eq!((table.size(), table.entries.len()), (100, 1));
        table.insert(OTHER, b"", &[b'x'; 69]);
        assert_eq!((table.size(), table.entries.len()), (0, 0));
        assert!(table.entry(0).is_none());
        table.insert(OTHER, b"a", b"b");
        assert_eq!(all(&table), [(b"a".to_vec(), b"b".to_vec())]);
        table.resize(0);
        table.insert(OTHER, b"", b"");
        assert_eq!((table.size(), table.entries.len()), (0, 0));
    }

    #[test]
    fn memory_stays_below_twice_the_size() {
        let mut table = Dynamic::new(4096);
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        for n in 0..20_000_usize {
            let value = vec![n as u8; n * 7919 % 500];
            table.insert(OTHER, b"name", &value);
            model.push_front(value);
            let mut size = 0;
            model.retain(|value| {
                size += value.len() + 36;
                size <= 4096
            });
            assert!(table.text.capacity() <= 2 * 4096);
            assert!(table.entries.capacity() <= 256);
            let values = (0..).map_while(|at| table.entry(at)).map(|entry| entry.2);
            assert!(values.eq(model.iter().map(Vec::as_slice)));
        }
    }
}
