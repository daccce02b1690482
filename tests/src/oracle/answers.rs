//! Responses as a strict client reads them (RFC 9112), for the oracle's judge.

use super::{Field, all, is_text, is_token, list, number, trimmed};

/// A whole response, interim or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Fields in order.
    pub fields: Vec<Field>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether it is only a word between.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Whether it says that the connection ends.
    #[must_use]
    pub fn closes(&self) -> bool {
        let values = all(&self.fields, "connection");
        let mut options = values.iter().flat_map(|value| list(value));
        options.any(|o| o.eq_ignore_ascii_case(b"close"))
    }
}

/// What came, and whether there was half an answer behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whole answers.
    pub answers: Vec<Answer>,
    /// Bytes behind them.
    pub rest: usize,
}

/// Why an answer could not be read.
enum Stop {
    Short,
    Malformed(&'static str),
}

/// Reads answers to requests with these methods (those beyond are read as to a GET). `over`: the connection has
/// ended, and with it a body that has no other end.
///
/// # Errors
/// What is malformed, and where.
pub fn read(bytes: &[u8], methods: &[&[u8]], over: bool) -> Result<Heard, String> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if answers.last().is_some_and(Answer::closes) {
            return Err(format!("bytes at {at}, behind the last answer"));
        }
        let finals = answers.iter().filter(|a| !a.is_interim()).count();
        let method = methods.get(finals).copied().unwrap_or(b"GET");
        let mut reader = Reader { bytes, at, over };
        match reader.answer(method) {
            Ok(answer) => answers.push(answer),
            Err(Stop::Short) => break,
            Err(Stop::Malformed(why)) => return Err(format!("the answer at {at}: {why}")),
        }
        at = reader.at;
    }
    let rest = bytes.len() - at;
    Ok(Heard { answers, rest })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    over: bool,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn line(&mut self) -> Result<Vec<u8>, Stop> {
        let mut line = Vec::new();
        loop {
            match self.next()? {
                b'\r' => match self.next()? {
                    b'\n' => return Ok(line),
                    _ => return Err(Stop::Malformed("CR without LF")),
                },
                b'\n' => return Err(Stop::Malformed("LF without CR")),
                byte => line.push(byte),
            }
        }
    }

    fn answer(&mut self, method: &[u8]) -> Result<Answer, Stop> {
        let status = status(&self.line()?).ok_or(Stop::Malformed("the status line"))?;
        let mut answer = Answer {
            status,
            fields: self.fields()?,
            body: Vec::new(),
        };
        let codings = all(&answer.fields, "transfer-encoding");
        let lengths = all(&answer.fields, "content-length");
        // RFC 9112 section 6.3, rules 1 and 2.
        let empty = method == b"HEAD" || matches!(status, 100..=199 | 204 | 304);
        answer.body = match (codings.as_slice(), lengths.as_slice()) {
            _ if empty => Vec::new(),
            ([], [length]) => {
                let length = number(length, 10).ok_or(Stop::Malformed("Content-Length"))?;
                self.exactly(length)?
            }
            ([b"chunked"], []) => self.chunks()?,
            ([], []) if self.over => self.exactly((self.bytes.len() - self.at) as u64)?,
            ([], []) => return Err(Stop::Short),
            _ => return Err(Stop::Malformed("the length of the body")),
        };
        Ok(answer)
    }

    fn fields(&mut self) -> Result<Vec<Field>, Stop> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|b| *b == b':').unwrap_or(0);
            if !is_token(&line[..colon]) || !line.iter().all(|b| is_text(*b)) {
                return Err(Stop::Malformed("a field"));
            }
            fields.push((line[..colon].to_vec(), trimmed(&line[colon + 1..])));
        }
    }

    fn exactly(&mut self, count: u64) -> Result<Vec<u8>, Stop> {
        let mut data = Vec::new();
        for _ in 0..count {
            data.push(self.next()?);
        }
        Ok(data)
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Stop> {
        let mut body = Vec::new();
        loop {
            let size = number(&self.line()?, 16).ok_or(Stop::Malformed("the size of a chunk"))?;
            if size == 0 {
                self.fields()?;
                return Ok(body);
            }
            body.extend(self.exactly(size)?);
            if !self.line()?.is_empty() {
                return Err(Stop::Malformed("a chunk longer than its size"));
            }
        }
    }
}

/// RFC 9112 section 4: HTTP-version SP status-code SP reason-phrase.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ")?;
    let (code, reason) = rest.split_at_checked(3)?;
    let fine = reason.first() == Some(&b' ') && reason.iter().all(|b| is_text(*b));
    let status = number(code, 10).and_then(|n| u16::try_from(n).ok())?;
    (fine && (100..600).contains(&status)).then_some(status)
}
