//! Sealed texts: what a stranger keeps for us, and can neither read nor change.
//!
//! AES-256-GCM under a key that is derived for each text from 24 random bytes (HKDF, RFC 5869), so
//! that no number of texts wears a key out. A text is bound to where it belongs: opened anywhere
//! else it is nothing.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Random bytes in a sealed text: half of them derive its key, half are its nonce.
pub const CHANCE: usize = 24;
/// Keys of a ring.
pub const KEYS: usize = 16;
/// Longest sealed text that is looked at, in bytes.
const LONGEST: usize = 64 << 10;
/// Bytes of a nonce.
const NONCE: usize = 12;
/// Bytes that name a key.
const ID: usize = 4;
/// First byte of a sealed text: the form described here.
const FORM: u8 = 1;

/// Keys of which the first seals and all open, so that they can be replaced one by one.
#[derive(Clone, PartialEq, Eq)]
pub struct Ring {
    keys: Vec<Key>,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: [u8; ID],
    secret: [u8; 32],
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({})", self.keys.len())
    }
}

/// What is wrong with a file of keys. It never holds what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A line that is no key.
    #[error("line {0} is not 32 bytes in base64")]
    Line(usize),
    /// A key that is there twice.
    #[error("the key in line {0} is there twice")]
    Twice(usize),
    /// Too many.
    #[error("more than {KEYS} keys")]
    Many,
    /// None.
    #[error("no key in it")]
    Empty,
}

impl Ring {
    /// Reads keys: 32 bytes in base64, one a line. Empty lines and those that begin with `#` are
    /// nothing.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn read(text: &str) -> Result<Self, RingError> {
        const FORM: GeneralPurposeConfig =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, FORM);
        let mut keys: Vec<Key> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = RingError::Line(at + 1);
            let bytes = BASE64.decode(line).map_err(|_| wrong)?;
            let secret: [u8; 32] = bytes.try_into().map_err(|_| wrong)?;
            if keys.iter().any(|key| key.secret == secret) {
                return Err(RingError::Twice(at + 1));
            }
            if keys.len() == KEYS {
                return Err(RingError::Many);
            }
            keys.push(Key::of(secret));
        }
        if keys.is_empty() {
            return Err(RingError::Empty);
        }
        Ok(Self { keys })
    }

    /// Seals bytes for where they belong. `chance` must be random and never used before. `None` where
    /// the provider refuses, which it has no reason to.
    #[must_use]
    pub fn seal(&self, plain: &[u8], place: &[&str], chance: [u8; CHANCE]) -> Option<String> {
        let key = self.keys.first()?;
        let mut bytes = plain.to_vec();
        let (aead, nonce) = key.for_text(&chance)?;
        aead.seal_in_place_append_tag(nonce, Aad::from(bound(place)), &mut bytes)
            .ok()?;
        let mut out = Vec::with_capacity(1 + ID + CHANCE + bytes.len());
        out.push(FORM);
        out.extend_from_slice(&key.id);
        out.extend_from_slice(&chance);
        out.extend_from_slice(&bytes);
        Some(URL_SAFE_NO_PAD.encode(out))
    }

    /// Opens what was sealed for the same place by one of these keys; `None` for anything else.
    #[must_use]
    pub fn open(&self, sealed: &str, place: &[&str]) -> Option<Vec<u8>> {
        if sealed.len() > LONGEST {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (form, rest) = bytes.split_first()?;
        let (id, rest) = rest.split_first_chunk::<ID>()?;
        let (chance, text) = rest.split_first_chunk::<CHANCE>()?;
        if *form != FORM {
            return None;
        }
        let place = bound(place);
        self.keys
            .iter()
            .filter(|key| key.id == *id)
            .find_map(|key| {
                let mut text = text.to_vec();
                let (aead, nonce) = key.for_text(chance)?;
                let plain = aead.open_in_place(nonce, Aad::from(&place), &mut text);
                let length = plain.ok()?.len();
                text.truncate(length);
                Some(text)
            })
    }
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

impl Key {
    fn of(secret: [u8; 32]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"selvedge key id\0");
        context.update(&secret);
        let mut id = [0; ID];
        for (to, from) in id.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self { id, secret }
    }

    fn for_text(&self, chance: &[u8; CHANCE]) -> Option<(LessSafeKey, Nonce)> {
        let (salt, nonce) = chance.split_last_chunk::<NONCE>()?;
        let mut key = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.secret)
            .expand(&[b"selvedge sealed text"], KeyLength)
            .and_then(|okm| okm.fill(&mut key))
            .ok()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?);
        Some((key, Nonce::assume_unique_for_key(*nonce)))
    }
}

/// Each part with its length, so that no two places read the same.
fn bound(place: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in place {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const TWO: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA";

    #[test]
    fn what_is_sealed_opens_at_its_place_only() {
        let ring = Ring::read(ONE).unwrap();
        let place = ["login", "cookie"];
        let sealed = ring.seal(b"who", &place, [7; CHANCE]).unwrap();
        assert_eq!(ring.open(&sealed, &place).as_deref(), Some(&b"who"[..]));
        for other in [
            &["login", "cooki", "e"][..],
            &["loginc", "ookie"],
            &["cookie", "login"],
            &["login"],
            &[],
        ] {
            assert_eq!(ring.open(&sealed, other), None, "{other:?}");
        }
        assert_ne!(sealed, ring.seal(b"who", &place, [8; CHANCE]).unwrap());
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let ring = Ring::read(ONE).unwrap();
        let sealed = ring.seal(b"who is it", &["p"], [7; CHANCE]).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ring.open(&URL_SAFE_NO_PAD.encode(forged), &["p"]), None);
        }
        for cut in 0..sealed.len() {
            assert_eq!(ring.open(&sealed[..cut], &["p"]), None, "{cut}");
            assert_eq!(ring.open(&sealed[cut + 1..], &["p"]), None, "{cut}");
        }
        for junk in ["", "=", "é", &"A".repeat(70_000), &format!("{sealed}A")] {
            assert_eq!(ring.open(junk, &["p"]), None);
        }
    }

    #[test]
    fn keys_are_replaced_one_by_one() {
        let old = Ring::read(ONE).unwrap();
        let both = Ring::read(&format!("# new first\n{TWO}\n\n  {ONE}\n")).unwrap();
        let new = Ring::read(TWO).unwrap();
        let by_old = old.seal(b"x", &[], [1; CHANCE]).unwrap();
        let by_both = both.seal(b"x", &[], [2; CHANCE]).unwrap();
        assert!(both.open(&by_old, &[]).is_some() && new.open(&by_both, &[]).is_some());
        assert!(new.open(&by_old, &[]).is_none() && old.open(&by_both, &[]).is_none());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_its_content() {
        let twice = format!("{ONE}\n{ONE}");
        let many: Vec<String> = (0..17u8)
            .map(|n| base64::engine::general_purpose::STANDARD.encode([n; 32]))
            .collect();
        for (text, wanted) in [
            ("", RingError::Empty),
            ("# nothing\n\n", RingError::Empty),
            ("\nc2hvcnQ=", RingError::Line(2)),
            ("not base64!", RingError::Line(1)),
            (&twice, RingError::Twice(2)),
            (&many.join("\n"), RingError::Many),
        ] {
            assert_eq!(Ring::read(text), Err(wanted), "{text}");
        }
        assert_eq!(format!("{:?}", Ring::read(ONE).unwrap()), "Ring(1)");
    }
}
