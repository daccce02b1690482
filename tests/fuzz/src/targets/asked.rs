//! Beside the path: the file of attestors, what the command line asks a CA, and the frames of those who ask
//! for their identity.

use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use selvedge::attest::Attestors;
use selvedge::protocol::hpack::{Decoder, Name};
use selvedge::protocol::http2::frame::{self, HEADER, PREFACE, flag, kind};
use selvedge::workload::authority::Hosted;
use selvedge_ca::Reviewer;
use selvedge_ca::control::{Question, Step, read};
use selvedge_contract::identity::TrustDomain;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::runtime::Runtime;

/// For mutations of files of attestors, and of questions.
pub(crate) const WORDS: &[&[u8]] = &[
    b"\n",
    b": ",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"attestors:",
    b"- kubernetes: { issuer: a, audience: b, jwks: $KEYS }\n",
    b"- oidc: { issuer: c, audience: b, jwks: $KEYS, path: /ci/{sub} }\n",
    b"claims: { ref: [main, next] }",
    b"claims: { ref: [] }",
    b"path: /ci/{a/*}",
    b"{a}",
    b"{a/*}",
    b"/..",
    b"http://a",
    b"\"status\"",
    b"{\"step\":{\"step\":\"prepare\",\"force\":true}}",
    b"\"abort\"",
    b"\"retire\"",
    b"\"force\":",
    b"false",
    b"null",
    b"1",
];

/// A file with keys, and a runtime on which nothing ever runs: keys that are elsewhere are not fetched.
static KEYS: LazyLock<(PathBuf, tempfile::TempDir)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.json");
    // RFC 7517 appendix A.1.
    let keys = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","alg":"ES256","kid":"1"}]}"#;
    std::fs::write(&path, keys).expect("a file");
    (path, dir)
});

/// A file of attestors; `$KEYS` is a file with keys.
pub(crate) fn attestors(input: &[u8]) {
    let text = String::from_utf8_lossy(input).replace("$KEYS", &KEYS.0.display().to_string());
    // Each look at the system's roots costs milliseconds.
    let text = text.replace("https://", "http://");
    let domain: TrustDomain = "shop.local".parse().expect("a trust domain");
    let runtime = idle();
    let _inside = runtime.enter();
    let read = match Attestors::of(&text, &domain) {
        Ok(read) => read,
        Err(why) => return assert!(!why.is_empty()),
    };
    let issuers: Vec<_> = read.issuers().collect();
    assert!(issuers.len() <= 100);
    for (at, issuer) in issuers.iter().enumerate() {
        assert!(!issuer.is_empty());
        assert!(!issuers.get(at + 1..).unwrap_or_default().contains(issuer));
        // Nobody has signed these.
        for algorithm in ["none", "ES256", "HS256"] {
            let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
            let header = part(serde_json::json!({ "alg": algorithm, "kid": "1" }));
            let claims = part(
                serde_json::json!({ "iss": issuer, "aud": "b", "exp": 1_u64 << 33,
                "sub": "system:serviceaccount:a:b" }),
            );
            let vouched = once(read.review(&format!("{header}.{claims}.AAAA")));
            assert!(!matches!(vouched, Poll::Ready(Ok(_))), "{issuer}");
        }
    }
}

fn idle() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

fn once<T>(work: impl Future<Output = T>) -> Poll<T> {
    pin!(work).poll(&mut Context::from_waker(Waker::noop()))
}

/// What never waits is done at once.
fn done<T>(work: impl Future<Output = T>) -> T {
    match once(work) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits for something"),
    }
}

/// A question on the socket of a CA.
pub(crate) fn control(input: &[u8]) {
    let whole = done(read(input)).ok();
    assert_eq!(done(read(Pieces(input, 1))).ok(), whole);
    // Neither what is beyond the line nor what is beyond its bound is looked at.
    let line = input.split_inclusive(|byte| *byte == b'\n').next();
    let line = line.unwrap_or_default();
    assert_eq!(done(read(&line[..line.len().min(256)])).ok(), whole);
    let Some(question) = whole else { return };
    let written = serde_json::to_vec(&question).expect("JSON");
    assert_eq!(done(read(&*written)).ok(), Some(question));
    // Who asks for a step names it, and says whether by force.
    let text = String::from_utf8_lossy(line);
    match question {
        Question::Status => assert!(text.contains("status") || text.contains('\\')),
        Question::Step { step, .. } => {
            let name = match step {
                Step::Prepare => "prepare",
                Step::Activate => "activate",
                Step::Retire => "retire",
                Step::Abort => "abort",
            };
            assert!(text.contains(name) || text.contains('\\'), "{text}");
        }
    }
}

/// Bytes that come in pieces of this size.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.1.min(self.0.len()).min(buf.remaining());
        let (now, later) = self.0.split_at(size);
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

/// Frames of a caller at the socket of an application, behind the preface.
pub(crate) fn hosted(input: &[u8]) {
    let sent = [PREFACE, input].concat();
    let through = |size| {
        let mut read = Vec::new();
        done(Hosted::new(Pieces(&sent, size)).read_to_end(&mut read)).map(|_| read)
    };
    let whole = through(sent.len()).ok();
    assert_eq!(through(1).ok(), whole);
    let Some(seen) = whole else { return };
    let rest = seen.strip_prefix(PREFACE).expect("the preface");
    if !frames(input).any(|(head, _)| head.kind == kind::HEADERS) {
        // The begin of a frame's head may be missing.
        assert!(input.starts_with(rest) && input.len() - rest.len() < HEADER);
    }
    for (head, payload) in frames(rest).filter(|(head, _)| head.kind == kind::HEADERS) {
        assert_eq!(payload.len(), head.length, "whole");
        assert!(head.length <= 16 << 10);
        assert!(head.has(flag::END_HEADERS));
        assert!(!head.has(flag::PADDED) && !head.has(flag::PRIORITY));
        // Without a table: no block depends on another.
        let read = Decoder::new(0).decode(payload, 16 << 10, |field| {
            if field.kind == Name::Authority {
                assert_eq!(field.value, b"localhost");
            }
        });
        assert!(read.is_ok());
    }
}

/// The frames in these bytes; the last payload may be cut.
fn frames(bytes: &[u8]) -> impl Iterator<Item = (frame::Header, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = frame::Header::read(rest)?;
        let behind = rest.get(HEADER..)?;
        let (payload, next) = behind.split_at(head.length.min(behind.len()));
        rest = next;
        Some((head, payload))
    })
}
