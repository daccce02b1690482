//! Cookies of logins and sessions: their names, their attributes, and how a long one is cut.

/// Bytes of a value. With name and attributes it stays below the 4096 that browsers take
/// (RFC 6265 section 6.1).
pub const PART: usize = 3800;
/// Parts of a session.
pub const PARTS: usize = 4;
/// Logins of a browser at a time; beyond that the oldest are given up. A browser that opens its tabs
/// again begins many at once.
pub const LOGINS: usize = 16;
/// Bytes of all their cookies: with a session in four they must fit into a request's head.
pub const LOGIN_BYTES: usize = 8 << 10;
/// Longest name in the configuration.
pub const NAME: usize = 64;
/// Characters of the state in the name of a login's cookie.
const STATE: usize = 12;
/// Proof that no other host has set a cookie, which browsers keep (RFC 6265bis section 4.1.3.2).
const HOST: &str = "__Host-";

/// Names of cookies for one scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The session's, and its first part's.
    pub session: String,
    secure: bool,
}

impl Names {
    /// For `https` or `http`.
    #[must_use]
    pub fn new(name: &str, secure: bool) -> Self {
        let prefix = if secure { HOST } else { "" };
        Self {
            session: format!("{prefix}{name}"),
            secure,
        }
    }

    /// A part of a session, from 0.
    #[must_use]
    pub fn part(&self, part: usize) -> String {
        match part {
            0 => self.session.clone(),
            part => format!("{}_{part}", self.session),
        }
    }

    /// What the names of all logins begin with.
    #[must_use]
    pub fn logins(&self) -> String {
        format!("{}_login_", self.session)
    }

    /// A login's.
    #[must_use]
    pub fn login(&self, state: &str) -> String {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let short: String = state.chars().filter(plain).take(STATE).collect();
        self.logins() + &short
    }

    /// `Set-Cookie` for this many seconds. Value and name must be plain.
    #[must_use]
    pub fn set(&self, name: &str, value: &str, seconds: u64) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    /// `Set-Cookie` that makes a browser forget one.
    #[must_use]
    pub fn clear(&self, name: &str) -> String {
        self.set(name, "", 0)
    }
}

/// Whether a cookie is one of those that a policy sets, behind `https` or not. `name` is the
/// configured one.
#[must_use]
pub fn is_own(cookie: &[u8], name: &str) -> bool {
    let bare = cookie.strip_prefix(HOST.as_bytes()).unwrap_or(cookie);
    match bare.strip_prefix(name.as_bytes()) {
        Some(rest) => match rest {
            [] => true,
            [b'_', digit] => digit.is_ascii_digit(),
            rest => rest.starts_with(b"_login_"),
        },
        None => false,
    }
}

/// `Cookie` without those that a policy sets; `None` where nothing changes.
#[must_use]
pub fn without_own(line: &[u8], name: &str) -> Option<Vec<u8>> {
    let own = |pair: &&[u8]| {
        let key = pair.split(|b| *b == b'=').next().unwrap_or_default();
        is_own(key.trim_ascii(), name)
    };
    let pairs = || line.split(|b| *b == b';');
    if !pairs().any(|pair| own(&pair)) {
        return None;
    }
    let kept: Vec<&[u8]> = pairs()
        .filter(|pair| !own(pair))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
        .collect();
    Some(kept.join(&b"; "[..]))
}

/// Cuts a sealed session into the values of its cookies; `None` where they do not suffice. The
/// first says how many there are.
#[must_use]
pub fn cut(sealed: &str) -> Option<Vec<String>> {
    let count = sealed.len().div_ceil(PART).max(1);
    if count > PARTS || !sealed.is_ascii() {
        return None;
    }
    let parts = sealed.as_bytes().chunks(PART);
    let mut values: Vec<String> = parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    if let Some(first) = values.first_mut() {
        first.insert_str(0, &format!("{count}."));
    }
    Some(values)
}

/// Puts a session together again. `value` gives the value of a part.
pub fn join<'a>(value: impl Fn(usize) -> Option<&'a [u8]>) -> Option<String> {
    let (count, first) = value(0)?.split_at_checked(2)?;
    let count = match count {
        [digit @ b'1'..=b'9', b'.'] => usize::from(digit - b'0'),
        _ => return None,
    };
    if count > PARTS {
        return None;
    }
    let mut all = first.to_vec();
    for part in 1..count {
        all.extend_from_slice(value(part)?);
    }
    (all.len() <= PART * PARTS).then(|| String::from_utf8(all).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_attributes() {
        let https = Names::new("s", true);
        assert_eq!(
            https.set(&https.part(0), "v", 5),
            "__Host-s=v; Path=/; Max-Age=5; HttpOnly; SameSite=Lax; Secure"
        );
        let http = Names::new("s", false);
        assert_eq!(
            http.clear(&http.part(2)),
            "s_2=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
        assert_eq!(http.login("ab;c\r\n-_defghijklmn"), "s_login_abc-_defghij");
    }

    #[test]
    fn cookies_are_cut_and_put_together() {
        for length in [0, 1, PART, PART + 1, 4 * PART] {
            let text = "x".repeat(length);
            let values = cut(&text).unwrap_or_default();
            if length == 0 {
                continue;
            }
            assert_eq!(values.len(), length.div_ceil(PART));
            assert!(values.iter().all(|v| v.len() <= PART + 2));
            let part = |n: usize| values.get(n).map(String::as_bytes);
            assert_eq!(join(part), Some(text));
            assert_eq!(join(|n| part(n).filter(|_| n + 1 < values.len())), None);
        }
        assert_eq!(cut(&"x".repeat(4 * PART + 1)), None);
        for bad in ["", "1", "5.x", "0.x", "x.x", "11.", "2.x"] {
            assert_eq!(join(|n| (n == 0).then_some(bad.as_bytes())), None, "{bad}");
        }
        let long = "y".repeat(70_000);
        assert_eq!(
            join(|n| Some(if n == 0 { b"4.x" } else { long.as_bytes() })),
            None
        );
    }

    #[test]
    fn an_application_does_not_get_them() {
        let gone = |line: &str| {
            let found = without_own(line.as_bytes(), "s");
            found.map(|l| String::from_utf8(l).unwrap())
        };
        assert_eq!(gone("a=1; s_x=2; sx=3; s_login=4; __Host-sx=5"), None);
        assert_eq!(gone("a=1; s=x; b=2").as_deref(), Some("a=1; b=2"));
        assert_eq!(
            gone("__Host-s=1.x;__Host-s_1=y; s_3=z;s_login_abc=q; __Host-s_login_ =r").as_deref(),
            Some("")
        );
        assert_eq!(gone("s; a=s").as_deref(), Some("a=s"));
    }
}
