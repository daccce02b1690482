//! What a server of HTTP/2 says, as a strict client takes it (RFC 9113), for the oracle's judge. It pushes nothing and
//! has no trailers: nobody here has given it any.

use std::collections::BTreeMap;

use super::frame;
use super::hpack::Decoder;
use crate::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, NO_ERROR, PADDED,
    PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::oracle::{Field, all, is_text, is_token, number};

/// What came on one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status of the response; 0 while there is none.
    pub status: u16,
    /// Interim statuses before it.
    pub interim: Vec<u16>,
    /// Fields of the response.
    pub fields: Vec<Field>,
    /// Body.
    pub body: Vec<u8>,
    /// It has come to its end.
    pub ended: bool,
    /// The server has reset the stream, and with what.
    pub reset: Option<u32>,
}

impl Answer {
    /// Whether the server has no more to say.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended || self.reset.is_some()
    }
}

/// What came on a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Answers by stream.
    pub answers: BTreeMap<u32, Answer>,
    /// Code of GOAWAY, which ends it; none of one that only announces the end (section 6.8).
    pub goaway: Option<u32>,
    /// The end was announced: no stream is left out yet.
    pub announced: bool,
    /// The highest stream that it may have served, by GOAWAY.
    pub last: u32,
    /// Acknowledgements of SETTINGS.
    pub settings: usize,
    /// Payloads of acknowledged PING.
    pub pings: Vec<Vec<u8>>,
    /// Bytes behind the last frame.
    pub rest: usize,
}

/// Reads what has come. `is_head` tells of a stream that a HEAD was asked on it.
///
/// # Errors
/// What no server may say, and where.
pub fn read(bytes: &[u8], is_head: impl Fn(u32) -> bool) -> Result<Heard, String> {
    let mut reader = Reader::default();
    let mut at = 0;
    while let Some((frame, next)) = frame(bytes, at) {
        let done = reader.frame(&frame, &is_head);
        done.map_err(|why| format!("the answer's frame at {at}: {why}: {frame:?}"))?;
        at = next;
    }
    reader.heard.rest = bytes.len() - at;
    Ok(reader.heard)
}

#[derive(Default)]
struct Reader {
    heard: Heard,
    decoder: Decoder,
    greeted: bool,
    /// Stream, whether it ends there, and what has come of the block.
    block: Option<(u32, bool, Vec<u8>)>,
}

type Read = Result<(), &'static str>;

impl Reader {
    fn frame(&mut self, frame: &Frame, is_head: &impl Fn(u32) -> bool) -> Read {
        let of_block = self
            .block
            .as_ref()
            .is_some_and(|(id, ..)| *id == frame.stream);
        if (self.block.is_some() || frame.kind == CONTINUATION)
            && !(of_block && frame.kind == CONTINUATION)
        {
            return Err("within a block");
        }
        // Section 6.8: streams under way have their answers behind a polite one.
        if self.heard.goaway.is_some_and(|code| code != NO_ERROR) {
            return Err("behind GOAWAY");
        }
        // Section 3.4.
        if !self.greeted && (frame.kind != SETTINGS || frame.flags & ACK != 0) {
            return Err("before SETTINGS");
        }
        self.greeted = true;
        let of_stream = matches!(frame.kind, DATA | HEADERS | RST_STREAM | CONTINUATION);
        let fine = match of_stream {
            // Section 5.1.1: streams of the client.
            true => frame.stream % 2 == 1,
            false => frame.stream == 0 || frame.kind == WINDOW_UPDATE,
        };
        if !fine {
            return Err("its stream");
        }
        let length = frame.payload.len();
        match (frame.kind, length) {
            (DATA, _) => self.data(frame, is_head(frame.stream)),
            (HEADERS, _) => {
                let ended = frame.flags & END_STREAM != 0;
                if frame.flags & !(END_STREAM | END_HEADERS) != 0 {
                    return Err("padding or priorities");
                }
                self.block = Some((frame.stream, ended, Vec::new()));
                self.part(frame, is_head(frame.stream))
            }
            (CONTINUATION, _) => self.part(frame, is_head(frame.stream)),
            (RST_STREAM, 4) => {
                let answer = self.heard.answers.entry(frame.stream).or_default();
                answer.reset = answer.reset.or(Some(frame.word(0)));
                Ok(())
            }
            (SETTINGS, 0) if frame.flags & ACK != 0 => {
                self.heard.settings += 1;
                Ok(())
            }
            (SETTINGS, _) if length.is_multiple_of(6) && frame.flags == 0 => Ok(()),
            (PING, 8) if frame.flags & ACK != 0 => {
                self.heard.pings.push(frame.payload.clone());
                Ok(())
            }
            (WINDOW_UPDATE, 4) if (1..=0x7fff_ffff).contains(&frame.word(0)) => Ok(()),
            // Whether the client has heard of it.
            (PING, 8) if self.heard.announced && self.heard.goaway.is_none() => Ok(()),
            (GOAWAY, 8..) => self.goaway(frame.word(0) & 0x7fff_ffff, frame.word(4)),
            _ => Err("what it is, or its length"),
        }
    }

    /// Section 6.8: the last stream is never a later one than was said before.
    fn goaway(&mut self, last: u32, code: u32) -> Read {
        if self.heard.goaway.is_some() && last > self.heard.last {
            return Err("a later stream than before");
        }
        if (last, code) == (0x7fff_ffff, NO_ERROR) {
            self.heard.announced = true;
            return Ok(());
        }
        self.heard.goaway = Some(code);
        self.heard.last = last;
        Ok(())
    }

    /// A stream on which something may still come.
    fn open(&mut self, stream: u32) -> Result<&mut Answer, &'static str> {
        let answer = self.heard.answers.entry(stream).or_default();
        match answer.is_over() {
            true => Err("behind the end of the stream"),
            false => Ok(answer),
        }
    }

    fn data(&mut self, frame: &Frame, is_head: bool) -> Read {
        let answer = self.open(frame.stream)?;
        if answer.status == 0 || frame.flags & PADDED != 0 {
            return Err("DATA before its head, or padded");
        }
        answer.body.extend(&frame.payload);
        answer.ended = frame.flags & END_STREAM != 0;
        answer.measured(is_head)
    }

    fn part(&mut self, frame: &Frame, is_head: bool) -> Read {
        let Some((stream, ended, bytes)) = &mut self.block else {
            return Err("CONTINUATION of nothing");
        };
        bytes.extend(&frame.payload);
        if frame.flags & END_HEADERS == 0 {
            return Ok(());
        }
        let (stream, ended) = (*stream, *ended);
        let fields = self.decoder.read(bytes)?;
        self.block = None;
        let answer = self.open(stream)?;
        if answer.status != 0 {
            return Err("a second response, or trailers");
        }
        let status = status(&fields)?;
        if status < 200 {
            answer.interim.push(status);
            // Section 8.1: an interim response ends nothing.
            return if ended {
                Err("an interim response that ends it")
            } else {
                Ok(())
            };
        }
        answer.status = status;
        answer.fields = fields[1..].to_vec();
        answer.ended = ended;
        answer.measured(is_head)
    }
}

impl Answer {
    /// Section 8.1.1: as many bytes as the head says.
    fn measured(&self, is_head: bool) -> Read {
        let length = match all(&self.fields, "content-length").as_slice() {
            [] => return Ok(()),
            [length] => number(length, 10).ok_or("content-length")?,
            _ => return Err("content-length twice"),
        };
        let have = self.body.len() as u64;
        // RFC 9110 section 8.6: what would have been there.
        let empty = is_head || matches!(self.status, 204 | 304);
        match (empty, self.ended) {
            (true, _) if have == 0 => Ok(()),
            (false, true) if have == length => Ok(()),
            (false, false) if have <= length => Ok(()),
            _ => Err("not as long as it says"),
        }
    }
}

/// Section 8.3.2: `:status` first and alone, then fields of the form of section 8.2.
fn status(fields: &[Field]) -> Result<u16, &'static str> {
    let (first, rest) = fields.split_first().ok_or("no :status")?;
    let digits = (first.0 == b":status" && first.1.len() == 3).then_some(&first.1);
    let status = digits
        .and_then(|digits| number(digits, 10))
        .and_then(|n| u16::try_from(n).ok());
    for (name, value) in rest {
        let lower = is_token(name) && !name.iter().any(u8::is_ascii_uppercase);
        let ours = ["connection", "keep-alive", "transfer-encoding", "upgrade"];
        if !lower || ours.iter().any(|n| n.as_bytes() == name) || !value.iter().all(|b| is_text(*b))
        {
            return Err("a field");
        }
    }
    status.filter(|s| (100..600).contains(s)).ok_or(":status")
}
