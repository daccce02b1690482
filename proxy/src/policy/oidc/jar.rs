//! The cookies of one request: sessions and logins opened, and what the browser is told to keep.

use aws_lc_rs::rand;
use selvedge_gateway::oidc::cookie::{LOGIN_BYTES, LOGINS, PARTS, cut, join};
use selvedge_gateway::oidc::{Login, Names, Session};
use selvedge_gateway::seal::CHANCE;

use crate::error::{Error, ErrorKind};
use crate::message::{Known, RequestHead};
use crate::policy::guard::{Notes, Stop};
use crate::policy::jwt::cookie;

use super::Oidc;

/// Cookies of logins that are looked at in one request.
const LOOKED_AT: usize = 64;

/// Random bytes. The provider has no reason to fail; where it does, nothing is made without them.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Stop> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| failed("no random bytes"))?;
    Ok(bytes)
}

/// See the module.
pub(super) struct Jar<'a> {
    policy: &'a Oidc,
    head: &'a RequestHead,
    names: &'a Names,
}

impl<'a> Jar<'a> {
    pub(super) const fn new(policy: &'a Oidc, head: &'a RequestHead, names: &'a Names) -> Self {
        Self {
            policy,
            head,
            names,
        }
    }

    /// What a cookie is bound to. It opens nowhere else, and not for another client or issuer.
    fn place<'b>(&'b self, kind: &'b str) -> [&'b str; 5] {
        let policy = self.policy;
        [
            kind,
            &policy.name,
            &self.names.session,
            &policy.id.issuer,
            &policy.client.id,
        ]
    }

    fn seal(&self, plain: &[u8], kind: &str) -> Result<String, Stop> {
        let random = random::<CHANCE>()?;
        let sealed = self.policy.ring.seal(plain, &self.place(kind), random);
        sealed.ok_or_else(|| failed("a cookie could not be sealed"))
    }

    /// The session, if there is one that has not ended.
    pub(super) fn session(&self, now: u64) -> Option<Session> {
        let sealed = join(|part| cookie(self.head, &self.names.part(part)))?;
        let plain = self.policy.ring.open(&sealed, &self.place("session"))?;
        Session::read(&plain, self.policy.life, now)
    }

    /// Has a session kept to its end. The hint for the logout is left out where it does not fit.
    pub(super) fn keep(&self, session: &Session, now: u64, notes: &mut Notes) -> Result<(), Stop> {
        let mut values = cut(&self.seal(&session.bytes(), "session")?);
        if values.is_none() && session.hint.is_some() {
            let mut less = session.clone();
            less.hint = None;
            values = cut(&self.seal(&less.bytes(), "session")?);
        }
        let values = values.ok_or_else(|| failed("the session does not fit into four cookies"))?;
        let end = session.begun.saturating_add(self.policy.life);
        for (part, value) in values.iter().enumerate() {
            let set = self
                .names
                .set(&self.names.part(part), value, end.saturating_sub(now));
            notes.fields.append_known(Known::SetCookie, set.as_bytes());
        }
        self.clear_parts(values.len(), notes);
        Ok(())
    }

    /// Has the session forgotten.
    pub(super) fn forget(&self, notes: &mut Notes) {
        self.clear_parts(0, notes);
    }

    /// Clears the parts from this one on that the browser has.
    fn clear_parts(&self, from: usize, notes: &mut Notes) {
        for name in (from..PARTS).map(|part| self.names.part(part)) {
            if self.pairs().any(|(key, _)| key == name.as_bytes()) {
                self.clear(&name, notes);
            }
        }
    }

    fn clear(&self, name: &str, notes: &mut Notes) {
        let clear = self.names.clear(name);
        notes
            .fields
            .append_known(Known::SetCookie, clear.as_bytes());
    }

    /// The login that an answer belongs to.
    pub(super) fn login(&self, state: &str, now: u64) -> Option<Login> {
        let sealed = cookie(self.head, &self.names.login(state))?;
        let login = self.open_login(sealed, now)?;
        login.is_answered_by(state).then_some(login)
    }

    fn open_login(&self, sealed: &[u8], now: u64) -> Option<Login> {
        let sealed = std::str::from_utf8(sealed).ok()?;
        let plain = self.policy.ring.open(sealed, &self.place("login"))?;
        Login::read(&plain, now)
    }

    /// Has a login remembered beside those of other tabs; the oldest go where they are too many.
    pub(super) fn remember(&self, login: &Login, now: u64, notes: &mut Notes) -> Result<(), Stop> {
        let sealed = self.seal(&login.bytes(), "login")?;
        let name = self.names.login(&login.state);
        let first = self.names.logins();
        let mut others: Vec<(u64, &str, usize)> = self
            .pairs()
            .filter_map(|(name, value)| {
                let name = std::str::from_utf8(name).ok()?;
                let state = name.strip_prefix(&first)?;
                // Only names that this policy gives: they go back into a field.
                let own = self.names.login(state) == name;
                let until = self.open_login(value, now).map_or(0, |login| login.until);
                own.then_some((until, name, name.len() + value.len()))
            })
            .take(LOOKED_AT)
            .collect();
        others.sort_unstable();
        let mut count = others.len() + 1;
        let mut bytes = name.len() + sealed.len();
        bytes += others.iter().map(|(_, _, bytes)| bytes).sum::<usize>();
        for (_, name, size) in others {
            if count <= LOGINS && bytes <= LOGIN_BYTES {
                break;
            }
            self.clear(name, notes);
            count -= 1;
            bytes -= size;
        }
        let left = login.until.saturating_sub(now);
        let set = self.names.set(&name, &sealed, left);
        notes.fields.append_known(Known::SetCookie, set.as_bytes());
        Ok(())
    }

    /// Has a login forgotten.
    pub(super) fn forget_login(&self, state: &str, notes: &mut Notes) {
        self.clear(&self.names.login(state), notes);
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let head: &'a RequestHead = self.head;
        let lines = head.fields.all(Known::Cookie);
        lines
            .flat_map(|line| line.split(|b| *b == b';'))
            .map(|pair| {
                let pair = pair.trim_ascii();
                let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
                (
                    pair.get(..at).unwrap_or_default(),
                    pair.get(at + 1..).unwrap_or_default(),
                )
            })
    }
}

fn failed(why: &'static str) -> Stop {
    Stop::Refused(Error::with(ErrorKind::IssuerFailed, why))
}
