//! Passwords: a file of users in the form of `htpasswd`, and whether a password is a user's.
//!
//! Passwords are short, so their hashes are slow on purpose (argon2id, RFC 9106; bcrypt). What this
//! module verifies takes tens of milliseconds and, for argon2id, tens of megabytes: callers bound how
//! much of it goes on at a time.

use std::collections::HashMap;
use std::fmt;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest user name and longest password, in bytes. More is refused before anything is hashed.
pub const TEXT: usize = 256;
/// What bcrypt can tell apart, in bytes: of more it would look at the beginning only.
const BCRYPT_TEXT: usize = 72;
/// Most users in a file.
const USERS: usize = 10_000;
/// Most memory that one argon2id hash may ask for, in KiB.
const MEMORY: u32 = 128 * 1024;
/// Most passes of argon2id.
const PASSES: u32 = 16;
/// Dearest cost of bcrypt: some 1 s.
const COST: u32 = 14;

/// A user and a password, as a client claims them.
#[derive(Clone, PartialEq, Eq)]
pub struct Claimed {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claimed({:?})", self.user)
    }
}

impl Claimed {
    /// Reads what stands after `Basic ` (RFC 7617 section 2). `None` for what is none, is not UTF-8,
    /// or is longer than [`TEXT`].
    #[must_use]
    pub fn read(token: &[u8]) -> Option<Self> {
        if token.len() > 4 * TEXT {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(token.trim_ascii()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        let fits = |text: &str| text.len() <= TEXT && !text.chars().any(char::is_control);
        (is_name(user) && fits(password)).then(|| Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// What tells it from others without telling it.
    #[must_use]
    pub fn fingerprint(&self, secret: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(&self.user.len().to_le_bytes());
        hasher.update(self.user.as_bytes());
        hasher.update(self.password.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Users are told to applications in a header.
fn is_name(user: &str) -> bool {
    !user.is_empty() && user.len() <= TEXT && user.bytes().all(|b| b.is_ascii_graphic())
}

/// What is kept of a password.
#[derive(Debug, Clone)]
enum Hash {
    Argon2(Box<PasswordHash>),
    Bcrypt(String),
}

/// Users by name.
pub struct Users {
    by_name: HashMap<String, Hash>,
    /// What stands in for users that are not there: each takes as long as one who is.
    stand_ins: Vec<Hash>,
    /// Chooses among them, by the name.
    secret: [u8; 32],
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.by_name.len())
    }
}

/// What is wrong with a file of users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// A line.
    #[error("line {0} is not `user:hash`")]
    Line(usize),
    /// A hash of another kind, or one that is too weak, too dear or broken.
    #[error("line {0}: {1}")]
    Hash(usize, &'static str),
    /// A user.
    #[error("line {0}: `{1}` is there twice")]
    Twice(usize, String),
    /// How many.
    #[error("more than {USERS} users")]
    Many,
    /// None.
    #[error("no user")]
    Empty,
}

impl Users {
    /// Reads a file: a line for each user, `#` begins a comment.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(text: &str, secret: [u8; 32]) -> Result<Self, FileError> {
        let mut by_name = HashMap::new();
        let mut stand_ins = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line.split_once(':').ok_or(FileError::Line(number))?;
            if !is_name(user) {
                return Err(FileError::Line(number));
            }
            let hash = Hash::read(hash).map_err(|what| FileError::Hash(number, what))?;
            stand_ins.push(hash.clone());
            if by_name.insert(user.to_owned(), hash).is_some() {
                return Err(FileError::Twice(number, user.to_owned()));
            }
            if by_name.len() > USERS {
                return Err(FileError::Many);
            }
        }
        if by_name.is_empty() {
            return Err(FileError::Empty);
        }
        Ok(Self {
            by_name,
            stand_ins,
            secret,
        })
    }

    /// Whether a password is its user's. Takes as long for users that are not there as for somebody who
    /// is, always the same for a name: a file may have hashes of several kinds.
    #[must_use]
    pub fn verify(&self, claimed: &Claimed) -> bool {
        match self.by_name.get(&claimed.user) {
            Some(hash) => hash.verify(&claimed.password),
            None => {
                let chance = blake3::keyed_hash(&self.secret, claimed.user.as_bytes());
                let [a, b, c, d, ..] = *chance.as_bytes();
                let at = u32::from_be_bytes([a, b, c, d]) as usize % self.stand_ins.len().max(1);
                if let Some(hash) = self.stand_ins.get(at) {
                    let _ = hash.verify(&claimed.password);
                }
                false
            }
        }
    }
}

impl Hash {
    fn read(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("$argon2id$") {
            let hash: PasswordHash = text.parse().map_err(|_| "not a hash of argon2id")?;
            if hash.hash.is_none() || hash.salt.is_none() {
                return Err("argon2id without its hash");
            }
            let number = |name: &str| hash.params.get_decimal(name);
            let dear = number("m").is_none_or(|m| m > MEMORY)
                || number("t").is_none_or(|t| t > PASSES)
                || number("p").is_none_or(|p| p > 8);
            if dear {
                return Err("argon2id with more than 128 MiB, 16 passes or 8 lanes");
            }
            return Ok(Self::Argon2(Box::new(hash)));
        }
        if ["$2y$", "$2b$", "$2a$"].iter().any(|p| text.starts_with(p)) {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| "not a hash of bcrypt")?;
            return match parts.get_cost() {
                ..8 => Err("bcrypt with a cost below 8 is too weak"),
                cost if cost > COST => Err("bcrypt with a cost above 14 takes seconds"),
                _ => Ok(Self::Bcrypt(text.to_owned())),
            };
        }
        Err("expected a hash of argon2id (`$argon2id$`) or bcrypt (`$2y$`)")
    }

    fn verify(&self, password: &str) -> bool {
        match self {
            Self::Argon2(hash) => {
                let argon = Argon2::default();
                argon.verify_password(password.as_bytes(), &**hash).is_ok()
            }
            Self::Bcrypt(hash) => {
                let verified = bcrypt::verify(password, hash);
                // Of a longer one the rest would not count.
                password.len() <= BCRYPT_TEXT && verified.unwrap_or(false)
            }
        }
    }
}

/// The line of a user, with argon2id at 19 MiB and two passes.
#[must_use]
pub fn line(claimed: &Claimed, salt: &[u8; 16]) -> Option<String> {
    use argon2::password_hash::CustomizedPasswordHasher;
    if !is_name(&claimed.user) || claimed.user.contains(':') || claimed.user.starts_with('#') {
        return None;
    }
    if claimed.password.is_empty() || claimed.password.len() > TEXT {
        return None;
    }
    let argon = Argon2::default();
    let hash = argon.hash_password_customized(
        claimed.password.as_bytes(),
        salt,
        None,
        None,
        argon2::Params::default(),
    );
    Some(format!("{}:{}", claimed.user, hash.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(user: &str, password: &str) -> Claimed {
        Claimed {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn users_are_known_by_either_hash() {
        let ann = line(&claimed("ann", "open sesame"), &[7; 16]).unwrap();
        assert!(
            ann.starts_with("ann:$argon2id$v=19$m=19456,t=2,p=1$"),
            "{ann}"
        );
        let bob = bcrypt::hash_with_salt("swordfish", 8, [3; 16]).unwrap();
        let bob = bob.format_for_version(bcrypt::Version::TwoY);
        let users = Users::read(&format!("# ours\n{ann}\n\nbob:{bob}\n"), [1; 32]).unwrap();
        for (user, password, want) in [
            ("ann", "open sesame", true),
            ("ann", "open sesame ", false),
            ("ann", "", false),
            ("bob", "swordfish", true),
            ("bob", "open sesame", false),
            ("eve", "open sesame", false),
            ("Ann", "open sesame", false),
        ] {
            assert_eq!(
                users.verify(&claimed(user, password)),
                want,
                "{user} {password}"
            );
        }
    }

    #[test]
    fn bcrypt_does_not_cut_passwords_short() {
        let long = "x".repeat(72);
        let hash = bcrypt::hash_with_salt(&long, 8, [3; 16]).unwrap();
        let users = Users::read(&format!("bob:{hash}"), [1; 32]).unwrap();
        assert!(users.verify(&claimed("bob", &long)));
        assert!(!users.verify(&claimed("bob", &format!("{long}y"))));
    }

    #[test]
    fn files_are_read_or_refused() {
        let weak = bcrypt::hash_with_salt("a", 4, [3; 16]).unwrap().to_string();
        let dear = "$argon2id$v=19$m=1048576,t=2,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA";
        for (text, want) in [
            ("", "no user"),
            ("ann", "line 1 is not"),
            (":x", "line 1 is not"),
            ("\n\nann:{SHA}abc", "line 3: expected a hash"),
            ("ann:$apr1$abc$def", "line 1: expected a hash"),
            ("ann:plain", "line 1: expected a hash"),
            ("ann:$2y$10$short", "line 1: not a hash of bcrypt"),
            ("ann:$argon2id$v=19$m=1", "line 1: argon2id without"),
            (&format!("ann:{weak}"), "too weak"),
            (&format!("ann:{dear}"), "more than 128 MiB"),
        ] {
            let error = Users::read(text, [1; 32]).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        let ann = line(&claimed("ann", "a"), &[7; 16]).unwrap();
        let error = Users::read(&format!("{ann}\n{ann}"), [1; 32]).unwrap_err();
        assert_eq!(error, FileError::Twice(2, "ann".to_owned()));
    }

    #[test]
    fn claims_are_read_strictly() {
        let read = |text: &str| Claimed::read(STANDARD.encode(text).as_bytes());
        assert_eq!(read("a:b:c"), Some(claimed("a", "b:c")));
        assert_eq!(read("a:"), Some(claimed("a", "")));
        for bad in ["", "a", ":b", "a\nb:c", "a:b\0", "ü:x"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(read(&format!("a:{}", "b".repeat(TEXT + 1))), None);
        assert_eq!(Claimed::read(b"!!!"), None);
        assert_eq!(Claimed::read(&[b'A'; 5000]), None);
    }

    #[test]
    fn fingerprints_tell_where_a_name_ends() {
        let secret = [1; 32];
        let print = |u: &str, p: &str| claimed(u, p).fingerprint(&secret);
        assert_ne!(print("ab", "c"), print("a", "bc"));
        assert_eq!(print("a", "b"), print("a", "b"));
        assert_ne!(print("a", "b"), claimed("a", "b").fingerprint(&[2; 32]));
    }
}
