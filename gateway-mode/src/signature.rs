//! Requests that carry a signature of a shared secret: what is signed, and whether it is.
//!
//! Four forms: HTTP Message Signatures (RFC 9421, `hmac-sha256`, bodies by RFC 9530), and the three
//! that webhooks come in: Standard Webhooks, GitHub's and Stripe's. A request is read twice: its head
//! tells what is claimed ([`Claim`]), its body whether that is so ([`Claim::holds`]).

mod message;
mod webhook;

use std::fmt;

use aws_lc_rs::hmac;

pub use message::{Parts, read as read_message};
pub use webhook::read as read_webhook;

/// Shortest secret, in bytes. HMAC is as strong as its key, and short ones are found by trial.
pub const SECRET: usize = 16;
/// Signatures of one request that are looked at.
const SIGNATURES: usize = 8;

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `X-Hub-Signature-256` over the body. It has no time: what was recorded can be sent again.
    GitHub,
    /// `Stripe-Signature` over time and body.
    Stripe,
    /// `webhook-signature` over ID, time and body.
    StandardWebhooks,
    /// `Signature` over what `Signature-Input` names (RFC 9421).
    Message,
}

/// A secret, ready to sign.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What is wrong with a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Its length.
    #[error("a secret of {0} bytes is found by trial; expected {SECRET} or more")]
    Short(usize),
    /// `whsec_` or `base64:` before something else.
    #[error("the secret is not base64")]
    Encoding,
}

impl Secret {
    /// Reads a secret as a form writes it: Standard Webhooks as `whsec_` and base64, the others as
    /// the bytes themselves, or as `base64:` and base64.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(form: Form, text: &str) -> Result<Self, SecretError> {
        let encoded = match form {
            Form::StandardWebhooks => Some(text.strip_prefix("whsec_").unwrap_or(text)),
            Form::GitHub | Form::Stripe | Form::Message => text.strip_prefix("base64:"),
        };
        let bytes = match encoded {
            Some(encoded) => base64(encoded).ok_or(SecretError::Encoding)?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.len() < SECRET {
            return Err(SecretError::Short(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// Why a request is not what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("no signature")]
    Missing,
    /// It cannot be read.
    #[error("the signature is not well formed")]
    Malformed,
    /// It does not say who signed, or names nobody known.
    #[error("the key is not known")]
    UnknownKey,
    /// It leaves out what must be signed.
    #[error("the signature does not cover what it must")]
    Uncovered,
    /// It is too old, or from the future.
    #[error("the signature is out of date")]
    Stale,
    /// It is of something else, or of somebody else.
    #[error("the signature is wrong")]
    Wrong,
}

/// What a request claims to be signed by, as far as its head says.
#[derive(Debug)]
pub struct Claim {
    /// Who: the place of a key among those that were given. `None`: any.
    pub key: Option<usize>,
    /// What stands before the body in what is signed.
    before: Vec<u8>,
    /// The body itself is signed; else what is signed holds its digests.
    body: bool,
    digests: Vec<message::Digest>,
    /// Any of these will do.
    signatures: Vec<Vec<u8>>,
    /// Headers that are signed, in lower case.
    pub covered: Vec<String>,
}

impl Claim {
    /// Whether one of the secrets has made one of the signatures.
    ///
    /// # Errors
    /// [`Refusal::Wrong`].
    pub fn holds<'a>(
        &self,
        body: &[u8],
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Result<(), Refusal> {
        if !self.digests.iter().all(|digest| digest.fits(body)) {
            return Err(Refusal::Wrong);
        }
        let signed = |secret: &Secret| {
            let mut context = hmac::Context::with_key(&secret.0);
            context.update(&self.before);
            if self.body {
                context.update(body);
            }
            let tag = context.sign();
            // In constant time, so that nobody finds it byte by byte.
            let same = |other: &Vec<u8>| {
                aws_lc_rs::constant_time::verify_slices_are_equal(tag.as_ref(), other).is_ok()
            };
            self.signatures.iter().any(same)
        };
        match secrets.into_iter().any(signed) {
            true => Ok(()),
            false => Err(Refusal::Wrong),
        }
    }
}

/// Whether a time in Unix seconds is near enough.
const fn is_fresh(time: u64, now: u64, age: u64) -> bool {
    /// Clocks may differ by this much, in seconds.
    const AHEAD: u64 = 60;
    time <= now.saturating_add(AHEAD) && now.saturating_sub(time) <= age
}
