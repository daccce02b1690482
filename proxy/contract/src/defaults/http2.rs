//! HTTP/2 rates and sizes that no setting negotiates: a peer past one gets GOAWAY.

/// Frames of a connection that cost us more than the peer; what is in a window starts over after
/// [`WINDOW_SECONDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// CONTINUATION frames of one header block.
    pub continuations: u32,
    /// Streams reset by the client in a window (rapid reset, CVE-2023-44487).
    pub client_resets: u32,
    /// Resets that the peer made us send on one connection (MadeYouReset, CVE-2025-8671).
    pub provoked_resets: u32,
    /// Streams above the announced limit that one connection may try.
    pub refused_streams: u32,
    /// PING, SETTINGS and GOAWAY frames in a window, and one more for each DATA frame sent.
    pub control_frames: u32,
    /// Empty DATA or HEADERS frames without END_STREAM in a window.
    pub empty_frames: u32,
    /// DATA frames of less than [`TRICKLE_BYTES`] in a window.
    pub trickle_frames: u32,
    /// Frames of unknown type in a window.
    pub unknown_frames: u32,
}

impl Rates {
    /// The defaults, those of every role.
    pub const DEFAULT: Self = Self {
        continuations: 8,
        client_resets: 100,
        provoked_resets: 100,
        refused_streams: 100,
        control_frames: 1000,
        empty_frames: 10,
        trickle_frames: 20_000,
        unknown_frames: 1000,
    };
}

/// DATA frames of less than this many bytes are a trickle: the emptiest message of gRPC has 5, of a
/// WebSocket client 6.
pub const TRICKLE_BYTES: usize = 5;
/// Heads larger than this many times their limit end the connection, smaller ones get 431.
pub const HEAD_FACTOR: usize = 4;
/// PRIORITY frames: this many times (1 + streams opened), as Envoy counts them.
pub const PRIORITY_FACTOR: u32 = 100;
/// WINDOW_UPDATE frames: 5 + 2 x (streams opened + this x DATA frames sent), as Envoy.
pub const WINDOW_UPDATE_FACTOR: u32 = 10;
/// The window of the rates above, in seconds.
pub const WINDOW_SECONDS: u64 = 10;
/// HPACK dynamic table, bytes (the protocol's own default).
pub const HEADER_TABLE: u32 = 4096;
/// Largest frame we accept, bytes (the protocol's least).
pub const FRAME: u32 = 16_384;
