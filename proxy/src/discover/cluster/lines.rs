//! Discovery in a cluster: what a watch sends, cut into lines, each of them an event.

use selvedge_contract::defaults::kubernetes::LINE;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::objects::{Item, Kind};
use super::raw::{RawMeta, RawPod, RawService, RawSlice};

/// Bytes that came, until they are whole lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Looked through up to here.
    seen: usize,
}

/// A line longer than any object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of a watch is longer than {LINE} bytes")]
pub struct TooLong;

impl Lines {
    /// Takes what came.
    ///
    /// # Errors
    /// [`TooLong`]; nothing of it is kept.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.bytes.len().saturating_add(bytes.len()) > LINE {
            *self = Self::default();
            return Err(TooLong);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line, without its end; empty ones are left out.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = self.bytes.get(self.seen..)?;
            let Some(at) = memchr::memchr(b'\n', rest) else {
                self.seen = self.bytes.len();
                return None;
            };
            let end = self.seen + at;
            let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
            line.pop();
            self.seen = 0;
            if self.bytes.is_empty() {
                // A list of thousands came by here once; what follows is small.
                self.bytes = Vec::new();
            }
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An object is there, new or changed; with its version.
    Put(Option<Item>, String),
    /// It is gone.
    Gone(Option<Item>, String),
    /// Nothing, up to this version.
    Mark(String),
    /// The versions that were asked for are not known any more.
    Expired,
    /// Something else, by its status and its words.
    Failed(u16, String),
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "object")]
    _object: IgnoredAny,
}

#[derive(Deserialize)]
struct Of<T> {
    object: T,
}

#[derive(Deserialize)]
struct Bare {
    metadata: RawMeta,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

/// Reads a line of a watch of this kind.
///
/// # Errors
/// What is wrong with it.
pub fn read(kind: Kind, line: &[u8]) -> Result<Event, serde_json::Error> {
    let head: Head = serde_json::from_slice(line)?;
    let item = || -> Result<Option<Item>, serde_json::Error> {
        Ok(match kind {
            Kind::Service => {
                let read: Of<RawService> = serde_json::from_slice(line)?;
                Some(Item::Service(read.object.into()))
            }
            Kind::Slice => {
                let read: Of<RawSlice> = serde_json::from_slice(line)?;
                read.object.facts().map(Item::Slice)
            }
            Kind::Pod => {
                let read: Of<RawPod> = serde_json::from_slice(line)?;
                Some(Item::Pod(read.object.into()))
            }
        })
    };
    let version = || -> Result<String, serde_json::Error> {
        let bare: Of<Bare> = serde_json::from_slice(line)?;
        Ok(bare.object.metadata.resource_version)
    };
    Ok(match head.kind.as_str() {
        "ADDED" | "MODIFIED" => Event::Put(item()?, version()?),
        "DELETED" => Event::Gone(item()?, version()?),
        "BOOKMARK" => Event::Mark(version()?),
        _ => {
            let read: Of<Status> = serde_json::from_slice(line)?;
            let Status {
                code,
                message,
                reason,
            } = read.object;
            if code == 410 || reason == "Expired" || reason == "Gone" {
                Event::Expired
            } else {
                Event::Failed(code, message)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_bytes_are() {
        let text = b"one\n\ntwo\r\nthree";
        for at in 0..text.len() {
            let mut lines = Lines::default();
            let mut told = Vec::new();
            let (a, b) = text.split_at(at);
            for part in [a, b, b"\n"] {
                lines.push(part).unwrap();
                told.extend(std::iter::from_fn(|| lines.next_line()));
            }
            assert_eq!(told, [&b"one"[..], b"two\r", b"three"]);
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Lines::default();
        let part = vec![b'x'; 1 << 20];
        let taken = (0..10).take_while(|_| lines.push(&part).is_ok()).count();
        assert!((4..=5).contains(&taken), "{taken}");
        assert_eq!(lines.next_line(), None);
    }

    #[test]
    fn events_are_told_apart() {
        let event = |text: &str| read(Kind::Service, text.as_bytes()).unwrap();
        let put = event(
            r#"{"type":"ADDED","object":{"kind":"Service","metadata":{"name":"a","namespace":"n","resourceVersion":"7"},"spec":{"clusterIP":"10.0.0.1"}}}"#,
        );
        let Event::Put(Some(Item::Service(service)), version) = put else {
            panic!("{put:?}")
        };
        assert_eq!((service.name.name.as_str(), version.as_str()), ("a", "7"));
        let mark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","creationTimestamp":null}}}"#;
        assert_eq!(event(mark), Event::Mark("9".into()));
        let gone = r#"{"object":{"kind":"Status","code":410,"reason":"Expired"},"type":"ERROR"}"#;
        assert_eq!(event(gone), Event::Expired);
        let failed = r#"{"type":"ERROR","object":{"code":500,"message":"no"}}"#;
        assert_eq!(event(failed), Event::Failed(500, "no".into()));
        for broken in [
            "",
            "{",
            r#"{"type":"ADDED"}"#,
            r#"{"type":"ADDED","object":{"spec":{"ports":1}}}"#,
        ] {
            assert!(read(Kind::Service, broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
