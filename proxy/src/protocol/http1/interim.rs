//! Part of stage 9, respond: interim responses (1xx) on their way to an HTTP/1 client.

use bytes::BufMut;
use http::StatusCode;

use crate::message::ResponseHead;
use crate::upstream::Interim;

use super::conn::SharedConn;

/// Hands interim responses to an HTTP/1.1 client as they come.
pub(super) struct EarlyHints<'a> {
    /// The connection, of which the response is not begun.
    pub(super) conn: &'a SharedConn,
    /// Whether its version knows them.
    pub(super) wanted: bool,
}

impl Interim for EarlyHints<'_> {
    fn interim(&self, head: ResponseHead) {
        let mut conn = self.conn.borrow_mut();
        if self.wanted && head.status != StatusCode::CONTINUE && conn.has_room() {
            let out = conn.output();
            crate::upstream::http1::write_status(out, head.status);
            head.fields.write_http1(out);
            out.put_slice(b"\r\n");
        }
    }
}
