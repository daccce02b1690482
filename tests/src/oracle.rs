//! An oracle: requests of HTTP/1 as a strict and slow reader takes them, written from RFC 9112 and RFC 9110 to be
//! checked by eye. Nothing of it is shared with the proxy.
//!
//! Where the RFCs leave a choice it takes the narrow one: what it calls malformed may be legal, but then two
//! readers could differ on it.

pub mod answers;
pub mod http2;
pub mod judge;
pub mod mutation;
pub mod normal;
pub mod sequence;
pub mod stand;
pub mod witness;

use std::fmt;

/// Name and value of a field, the value without white space around it.
pub type Field = (Vec<u8>, Vec<u8>);

/// Who has written the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A client: HTTP/1.0 or 1.1, one empty line before a request, extensions of chunks.
    Client,
    /// The proxy: HTTP/1.1 without any of that, and `Host` always, though it may be empty.
    Proxy,
    /// A proxy of others: what a client may write, and an empty `Host`.
    Witness,
}

/// A whole request.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Vec<u8>,
    /// Target as it stands.
    pub target: Vec<u8>,
    /// Minor number of the version: 0 or 1.
    pub minor: u8,
    /// Fields in order.
    pub fields: Vec<Field>,
    /// Body without its framing.
    pub body: Vec<u8>,
    /// Fields behind a chunked body.
    pub trailers: Vec<Field>,
}

/// Why there is no further request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The bytes end with a request, and the connection is open for another.
    Open,
    /// The last request has closed the connection; whatever follows is nobody's.
    Closed,
    /// The bytes end inside a request.
    Short,
    /// This byte, or the line that ends before it, belongs to no request.
    Malformed(usize, &'static str),
}

/// What a stream of bytes says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Whole requests.
    pub requests: Vec<Request>,
    /// Why there is no further one.
    pub end: End,
}

/// Why a request could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// More bytes are needed.
    Short,
    /// See [`End::Malformed`].
    Malformed(usize, &'static str),
}

impl Request {
    /// Values of all fields of this name, in any case.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        all(&self.fields, name)
    }

    /// Whether `Connection` has this option (RFC 9110 section 7.6.1).
    #[must_use]
    pub fn says(&self, option: &str) -> bool {
        let values = self.all("connection");
        let mut options = values.iter().flat_map(|value| list(value));
        options.any(|o| o.eq_ignore_ascii_case(option.as_bytes()))
    }

    /// Whether the connection ends with it (RFC 9112 section 9.3).
    #[must_use]
    pub fn closes(&self) -> bool {
        self.says("close") || (self.minor == 0 && !self.says("keep-alive"))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, target) = (self.method.escape_ascii(), self.target.escape_ascii());
        write!(out, "{method} {target} 1.{}", self.minor)?;
        for (name, value) in self.fields.iter().chain(&self.trailers) {
            write!(out, " | {}: {}", name.escape_ascii(), value.escape_ascii())?;
        }
        write!(out, " | \"{}\"", self.body.escape_ascii())
    }
}

/// Elements of a comma-separated list (RFC 9110 section 5.6.1).
#[must_use]
pub fn list(value: &[u8]) -> Vec<Vec<u8>> {
    let elements = value.split(|b| *b == b',').map(trimmed);
    elements.filter(|e| !e.is_empty()).collect()
}

/// Reads requests one after the other, until there is none.
#[must_use]
pub fn read(bytes: &[u8], writer: Writer) -> Reading {
    let mut requests = Vec::new();
    let mut at = 0;
    loop {
        let end = match one(bytes, at, writer) {
            Ok((request, next)) => {
                at = next;
                let closes = request.closes();
                requests.push(request);
                match closes {
                    true => End::Closed,
                    false => continue,
                }
            }
            Err(Stop::Short) if at == bytes.len() => End::Open,
            Err(Stop::Short) => End::Short,
            Err(Stop::Malformed(at, why)) => End::Malformed(at, why),
        };
        return Reading { requests, end };
    }
}

/// Reads the request that begins at `at`; gives it, and where it ends.
///
/// # Errors
/// Why it is none.
pub fn one(bytes: &[u8], at: usize, writer: Writer) -> Result<(Request, usize), Stop> {
    let mut reader = Reader { bytes, at, writer };
    let request = reader.request()?;
    Ok((request, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    writer: Writer,
}

impl Reader<'_> {
    fn bad<T>(&self, why: &'static str) -> Result<T, Stop> {
        Err(Stop::Malformed(self.at, why))
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Short)?;
        self.at += 1;
        Ok(byte)
    }

    /// RFC 9112 section 2.2: a line ends in CRLF. A recipient may take LF alone; this one does not.
    fn line(&mut self) -> Result<Vec<u8>, Stop> {
        let mut line = Vec::new();
        loop {
            match self.next()? {
                b'\r' => match self.next()? {
                    b'\n' => return Ok(line),
                    _ => return self.bad("CR without LF"),
                },
                b'\n' => return self.bad("LF without CR"),
                byte => line.push(byte),
            }
        }
    }

    /// RFC 9112 section 2.1.
    fn request(&mut self) -> Result<Request, Stop> {
        let mut line = self.line()?;
        // Section 2.2: at least one empty line before a request line is ignored.
        if line.is_empty() && self.writer != Writer::Proxy {
            line = self.line()?;
        }
        let (method, target, minor) = self.request_line(&line)?;
        let fields = self.fields()?;
        let mut request = Request {
            method,
            target,
            minor,
            fields,
            body: Vec::new(),
            trailers: Vec::new(),
        };
        self.host(&request)?;
        self.body(&mut request)?;
        Ok(request)
    }

    /// RFC 9112 section 3: method SP request-target SP HTTP-version.
    fn request_line(&self, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>, u8), Stop> {
        let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        if parts.len() != 3 {
            return self.bad("a request line has three parts");
        }
        let (method, target, version) = (parts[0], parts[1], parts[2]);
        if !is_token(method) {
            return self.bad("the method is no token");
        }
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" if self.writer != Writer::Proxy => 0,
            _ => return self.bad("the version"),
        };
        // Section 3.2: four forms. Nobody here offers the tunnel that authority-form asks for.
        let fine = match target {
            _ if method == b"CONNECT" => false,
            b"*" => method == b"OPTIONS",
            [b'/', ..] => normal::is_origin_form(target),
            _ if self.writer != Writer::Proxy => normal::is_absolute_form(target),
            _ => false,
        };
        match fine {
            true => Ok((method.to_vec(), target.to_vec(), minor)),
            false => self.bad("the target"),
        }
    }

    /// RFC 9112 section 5: field-line CRLF, until an empty line.
    fn fields(&mut self) -> Result<Vec<Field>, Stop> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            // Section 5.1: no white space before the colon. Section 5.2: no line folding; a line that begins with
            // white space has no token before its colon.
            let Some(colon) = line.iter().position(|b| *b == b':') else {
                return self.bad("a field without a colon");
            };
            if !is_token(&line[..colon]) {
                return self.bad("the name of a field is no token");
            }
            let value = &line[colon + 1..];
            if !value.iter().all(|b| is_text(*b)) {
                return self.bad("a control character in a field");
            }
            fields.push((line[..colon].to_vec(), trimmed(value)));
        }
    }

    /// RFC 9112 section 3.2: exactly one `Host`. HTTP/1.0 may go without.
    fn host(&self, request: &Request) -> Result<(), Stop> {
        match (request.all("host").as_slice(), request.minor) {
            ([], 0) => Ok(()),
            ([host], _) if normal::is_authority(host) => Ok(()),
            ([b""], _) if self.writer != Writer::Client => Ok(()),
            _ => self.bad("Host"),
        }
    }

    /// RFC 9112 section 6.3, with an error wherever it allows to repair.
    fn body(&mut self, request: &mut Request) -> Result<(), Stop> {
        let codings: Vec<Vec<u8>> = owned(request.all("transfer-encoding"));
        let lengths: Vec<Vec<u8>> = owned(request.all("content-length"));
        match (codings.as_slice(), lengths.as_slice()) {
            ([], []) => Ok(()),
            ([], [length]) => {
                let Some(length) = number(length, 10) else {
                    return self.bad("Content-Length is no number");
                };
                request.body = self.exactly(length)?;
                Ok(())
            }
            ([coding], []) if request.minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => {
                self.chunks(request)
            }
            _ => self.bad("the length of the body"),
        }
    }

    fn exactly(&mut self, count: u64) -> Result<Vec<u8>, Stop> {
        let mut data = Vec::new();
        for _ in 0..count {
            data.push(self.next()?);
        }
        Ok(data)
    }

    /// RFC 9112 section 7.1.
    fn chunks(&mut self, request: &mut Request) -> Result<(), Stop> {
        loop {
            let line = self.line()?;
            let digits: Vec<u8> = line.iter().copied().take_while(|b| *b != b';').collect();
            // Section 7.1.1: extensions are ignored, so their grammar is; but control characters are none.
            let extension = &line[digits.len()..];
            if !extension.iter().all(|b| is_text(*b)) {
                return self.bad("a control character in a chunk extension");
            }
            if self.writer == Writer::Proxy && line.len() > 1 && (line[0] == b'0' || line != digits)
            {
                return self.bad("a size as no writer of ours has it");
            }
            let Some(size) = number(&digits, 16) else {
                return self.bad("the size of a chunk");
            };
            if size == 0 {
                request.trailers = self.fields()?;
                return Ok(());
            }
            request.body.extend(self.exactly(size)?);
            if !self.line()?.is_empty() {
                return self.bad("a chunk longer than its size");
            }
        }
    }
}

fn owned(values: Vec<&[u8]>) -> Vec<Vec<u8>> {
    values.into_iter().map(<[u8]>::to_vec).collect()
}

/// Values of all fields of this name, in any case.
#[must_use]
pub fn all<'a>(fields: &'a [Field], name: &str) -> Vec<&'a [u8]> {
    let mut values = Vec::new();
    for (have, value) in fields {
        if have.eq_ignore_ascii_case(name.as_bytes()) {
            values.push(value.as_slice());
        }
    }
    values
}

/// RFC 9110 section 5.6.2.
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    let fine = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(fine)
}

/// RFC 9110 section 5.5: VCHAR, obs-text, SP, HTAB.
#[must_use]
pub fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// RFC 9110 section 5.6.3: OWS is spaces and tabs.
#[must_use]
pub fn trimmed(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    while matches!(value.first(), Some(b' ' | b'\t')) {
        value.remove(0);
    }
    while matches!(value.last(), Some(b' ' | b'\t')) {
        value.pop();
    }
    value
}

/// Digits and nothing else, of a number below 2^64.
#[must_use]
pub fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let mut total: u64 = 0;
    for digit in digits {
        let value = char::from(*digit).to_digit(radix)?;
        total = total.checked_mul(u64::from(radix))?;
        total = total.checked_add(u64::from(value))?;
    }
    (!digits.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests;
