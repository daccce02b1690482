//! HPACK (RFC 7541): the header blocks of an HTTP/2 connection, read strictly and written plainly.
//!
//! Reading keeps the dynamic table that the peer fills; its state is that of the connection, so
//! that every block must be decoded, also one whose request is refused. Writing keeps no state.

mod decode;
pub mod encode;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Header};

use crate::message::Known;

/// Why a header block cannot be read. Whatever the reason, the tables of the two sides may have
/// parted: the connection ends with `COMPRESSION_ERROR` (RFC 9113 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The block ends inside a field.
    #[error("header block ends inside a field")]
    Truncated,
    /// An index of 0, or past the end of the dynamic table (RFC 7541 section 2.3.3).
    #[error("header block names an index that is not in the table")]
    BadIndex,
    /// An integer of more than 32 bits, or more than five bytes after its prefix (section 5.1).
    #[error("integer in a header block is too large")]
    IntegerOverflow,
    /// A Huffman string holds the end of string, or its padding is wrong (section 5.2).
    #[error("malformed Huffman string in a header block")]
    BadHuffman,
    /// A table size update above what was announced, after a field, or the third one of a block
    /// (sections 4.2 and 6.3).
    #[error("table size update is too large or out of place")]
    TableSize,
    /// A name or value of more than 64 KiB.
    #[error("string in a header block is too long")]
    TooLong,
}

/// What a field name means to the path, told apart once: names of the static table when the
/// program is built, names of the dynamic table when they enter it, other names when they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:scheme`.
    Scheme,
    /// `:authority`.
    Authority,
    /// `:status`.
    Status,
    /// `:protocol` (RFC 8441).
    Protocol,
    /// Any other name that begins with a colon.
    UnknownPseudo,
    /// A regular field. Known names are found in any case: who forbids upper case looks at the name.
    Field(Known),
}

impl Name {
    /// Tells a name apart, however it was encoded. Pseudo-header fields are found in lower case
    /// only: RFC 9113 section 8.3 knows no others.
    #[must_use]
    pub fn classify(name: &[u8]) -> Self {
        match name {
            [b':', pseudo @ ..] => match pseudo {
                b"method" => Self::Method,
                b"path" => Self::Path,
                b"scheme" => Self::Scheme,
                b"authority" => Self::Authority,
                b"status" => Self::Status,
                b"protocol" => Self::Protocol,
                _ => Self::UnknownPseudo,
            },
            _ => Self::Field(Known::classify(name)),
        }
    }
}
