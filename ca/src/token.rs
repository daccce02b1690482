//! One-use join tokens: minted by the command line, redeemed by the server, shared on disk.
//!
//! Only the SHA-256 of a token is stored, as a file name. Whoever removes that file has redeemed
//! the token: the kernel lets exactly one caller do so, in any process of the machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use selvedge_contract::identity::SpiffeId;
use zeroize::{Zeroize, Zeroizing};

use crate::disk::{self, DiskError};
use crate::signer::hex;
use crate::validity::unix_seconds;

/// Most tokens that may wait to be redeemed.
pub const MAX_TOKENS: usize = 10_000;
/// Longest life of a token; it is meant for the start of one workload.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Lets secret scanners recognise a leaked token.
const PREFIX: &str = "sjt_";
/// Random bytes in a token: 256 bits, so guessing needs no further limit.
const RANDOM: usize = 32;
/// Length of a SHA-256 in hexadecimal, which is also that of a token after its prefix.
const HEX: usize = 64;

/// Why a token is not minted or not accepted. Never says the token itself.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Never minted here, already redeemed, or swept after its end.
    #[error("the token is unknown or was used before")]
    Unknown,
    /// Redeemed after its end; it is gone now.
    #[error("the token expired")]
    Expired,
    /// The stored token cannot be read.
    #[error("the stored token is damaged")]
    Damaged,
    /// A life of under a second or over seven days was asked for, or the clock is far off.
    #[error("the life of a token is one second to seven days")]
    Life,
    /// 10,000 tokens wait already.
    #[error("{MAX_TOKENS} tokens wait already")]
    Full,
    /// The random number generator failed.
    #[error("no random numbers")]
    Random,
    /// The directory cannot be used.
    #[error(transparent)]
    Store(#[from] DiskError),
}

/// A directory of join tokens.
#[derive(Debug, Clone)]
pub struct TokenStore {
    dir: PathBuf,
}

impl TokenStore {
    /// Opens the store in `dir`, which is created with mode 0700 when absent.
    ///
    /// # Errors
    /// When `dir` cannot be used, or group or others may write to it.
    pub fn open(dir: &Path) -> Result<Self, TokenError> {
        disk::private_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Mints a token that lets its bearer obtain one certificate for `id` within `life`.
    ///
    /// The answer is the only copy: URL-safe text of 68 characters. Whether `id` may be issued at
    /// all is for [`crate::issue::permitted`] to say. Blocks on the disk.
    ///
    /// # Errors
    /// When `life` is not between one second and [`MAX_TOKEN_LIFE`], [`MAX_TOKENS`] wait already,
    /// or the disk fails.
    pub fn mint(
        &self,
        id: &SpiffeId,
        life: Duration,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, TokenError> {
        if life < Duration::from_secs(1) || life > MAX_TOKEN_LIFE {
            return Err(TokenError::Life);
        }
        let ends = unix_seconds(now).ok_or(TokenError::Life)? + life.as_secs();
        let mut random = [0; RANDOM];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| TokenError::Random)?;
        let secret = Zeroizing::new(hex(&random));
        random.zeroize();
        let token = Zeroizing::new([PREFIX, &secret].concat());

        let _lock = disk::lock(&self.dir)?;
        if self.waiting()?.len() >= MAX_TOKENS {
            self.sweep_locked(now)?;
        }
        if self.waiting()?.len() >= MAX_TOKENS {
            return Err(TokenError::Full);
        }
        disk::write_whole(&self.path_of(&token), &format!("{ends} {id}\n"), 0o600)?;
        Ok(token)
    }

    /// Redeems `token`: its identity, to exactly one caller ever. Blocks on the disk.
    ///
    /// The token is spent even when what follows fails.
    ///
    /// # Errors
    /// When the token is unknown, used, expired or damaged, or the disk fails.
    pub fn redeem(&self, token: &str, now: SystemTime) -> Result<SpiffeId, TokenError> {
        let secret = token.strip_prefix(PREFIX).ok_or(TokenError::Unknown)?;
        if secret.len() != HEX {
            return Err(TokenError::Unknown);
        }
        let path = self.path_of(token);
        let text = disk::read_private(&path)?.ok_or(TokenError::Unknown)?;
        if !disk::remove(&path)? {
            return Err(TokenError::Unknown);
        }
        // Or a crash of the machine would bring the token back.
        disk::sync_parent(&path)?;
        let (ends, id) = parse(&text).ok_or(TokenError::Damaged)?;
        match unix_seconds(now) {
            Some(now) if now < ends => Ok(id),
            _ => Err(TokenError::Expired),
        }
    }

    /// Removes expired and damaged tokens; says how many. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sweep(&self, now: SystemTime) -> Result<usize, TokenError> {
        let _lock = disk::lock(&self.dir)?;
        self.sweep_locked(now)
    }

    fn sweep_locked(&self, now: SystemTime) -> Result<usize, TokenError> {
        let Some(now) = unix_seconds(now) else {
            return Ok(0);
        };
        let mut swept = 0;
        for name in disk::names(&self.dir)? {
            let path = self.dir.join(&name);
            // Under the lock nobody is writing: a temporary file is left from a crash.
            let stale = match name.strip_suffix(".tmp") {
                Some(stem) => is_hash(stem),
                None if is_hash(&name) => match disk::read_private(&path) {
                    Ok(None) => false,
                    Ok(Some(text)) => parse(&text).is_none_or(|(ends, _)| ends <= now),
                    Err(error @ DiskError::Io { .. }) => return Err(error.into()),
                    // Never to be redeemed, so it must not take up a place.
                    Err(_) => true,
                },
                None => false,
            };
            if stale && disk::remove(&path)? {
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn waiting(&self) -> Result<Vec<String>, TokenError> {
        let mut names = disk::names(&self.dir)?;
        names.retain(|name| is_hash(name));
        Ok(names)
    }

    /// Looked up by hash: neither a path nor the timing of a comparison depends on the caller.
    fn path_of(&self, token: &str) -> PathBuf {
        self.dir
            .join(hex(digest(&SHA256, token.as_bytes()).as_ref()))
    }
}

fn is_hash(name: &str) -> bool {
    name.len() == HEX && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The end in seconds since 1970, and the identity.
fn parse(text: &str) -> Option<(u64, SpiffeId)> {
    let (ends, id) = text.strip_suffix('\n')?.split_once(' ')?;
    Some((ends.parse().ok()?, id.parse().ok()?))
}
