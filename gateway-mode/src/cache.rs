//! The rules of a shared HTTP cache (RFC 9111, RFC 5861): what may be stored, for how long it is
//! fresh, and for how long it may serve when it is not.

/// What `Cache-Control` says (RFC 9111 section 5.2), of a request or a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, also for some fields only: those could not be told apart in a body.
    pub no_cache: bool,
    /// `private`, also for some fields only.
    pub private: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate` or `proxy-revalidate`.
    pub must_revalidate: bool,
    /// `max-age`, seconds.
    pub max_age: Option<u64>,
    /// `s-maxage`, seconds.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate`, seconds.
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error`, seconds.
    pub stale_if_error: Option<u64>,
}

/// Longest time that is told apart (RFC 9111 section 1.2.2).
const LONGEST: u64 = 1 << 31;

impl Control {
    /// Reads all values of the field together. What is said twice counts as the shorter time, what
    /// is not a number of seconds as 0: a cache in doubt asks again.
    pub fn read<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut control = Self::default();
        for value in values {
            // Nobody can say what a quote that never ends has swallowed.
            control.no_store |= is_torn(value);
            for item in items(value) {
                control.add(item);
            }
        }
        control
    }

    fn add(&mut self, item: &[u8]) {
        let at = item.iter().position(|b| *b == b'=');
        let (name, argument) = match at {
            Some(at) => {
                let (name, rest) = item.split_at(at);
                (name, rest.get(1..))
            }
            None => (item, None),
        };
        let name = name.trim_ascii().to_ascii_lowercase();
        let seconds = |known: Option<u64>| {
            let said = seconds(argument.unwrap_or_default());
            Some(known.map_or(said, |known| known.min(said)))
        };
        match name.as_slice() {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
            b"public" => self.public = true,
            b"must-revalidate" | b"proxy-revalidate" => self.must_revalidate = true,
            b"max-age" => self.max_age = seconds(self.max_age),
            b"s-maxage" => self.s_maxage = seconds(self.s_maxage),
            b"stale-while-revalidate" => {
                self.stale_while_revalidate = seconds(self.stale_while_revalidate);
            }
            b"stale-if-error" => self.stale_if_error = seconds(self.stale_if_error),
            _ => {}
        }
    }
}

/// Goes through a value that may have quoted parts, with `\` before what stands for itself there.
#[derive(Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn is_comma_outside(&mut self, byte: u8) -> bool {
        if std::mem::take(&mut self.escaped) {
            return false;
        }
        match byte {
            b'\\' if self.open => self.escaped = true,
            b'"' => self.open = !self.open,
            _ => {}
        }
        byte == b',' && !self.open
    }
}

fn is_torn(value: &[u8]) -> bool {
    let mut quotes = Quotes::default();
    for byte in value {
        quotes.is_comma_outside(*byte);
    }
    quotes.open
}

/// Items of a list, commas in quotes left alone.
fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quotes = Quotes::default();
    value.split(move |byte| quotes.is_comma_outside(*byte))
}

fn seconds(text: &[u8]) -> u64 {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    let text = text.strip_suffix(b"\"").unwrap_or(text);
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    // Longer than any number that counts.
    if text.len() > 10 {
        return LONGEST;
    }
    let digits = text.iter().map(|b| u64::from(b - b'0'));
    digits.fold(0, |n, digit| n * 10 + digit).min(LONGEST)
}

/// What else of an exchange decides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Status of the response.
    pub status: u16,
    /// `Cache-Control` of the response.
    pub control: Control,
    /// The request proved who calls.
    pub authorized: bool,
    /// The request came with cookies, and it is not known that they do not matter.
    pub has_cookie: bool,
    /// The response sets a cookie.
    pub sets_cookie: bool,
    /// `Vary: *`.
    pub varies_by_all: bool,
    /// It has an `ETag` or `Last-Modified`.
    pub has_validator: bool,
    /// `Age`, seconds.
    pub age: u64,
    /// `Date`, Unix seconds.
    pub date: Option<u64>,
    /// `Expires`: Unix seconds; what is there but no date has passed.
    pub expires: Option<u64>,
    /// Now, Unix seconds.
    pub now: u64,
}

/// What a policy says where responses say nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Defaults {
    /// How long what has no freshness of its own is fresh, seconds.
    pub ttl: Option<u64>,
    /// The same for 404 and 410.
    pub negative_ttl: Option<u64>,
    /// See RFC 5861; seconds.
    pub stale_while_revalidate: u64,
    /// See RFC 5861; seconds.
    pub stale_if_error: u64,
}

/// For how long something that was stored is of use, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// How old it was when it came.
    pub age: u64,
    /// It is fresh until it is this old.
    pub fresh: u64,
    /// After that, it may serve this long while a new one is fetched.
    pub while_revalidate: u64,
    /// And this long while the upstream fails.
    pub if_error: u64,
}

/// Whether a response to GET may be stored, and for how long it is of use.
#[must_use]
pub fn lifetime(facts: &Facts, defaults: &Defaults) -> Option<Lifetime> {
    let control = &facts.control;
    if control.no_store || control.private || facts.sets_cookie || facts.varies_by_all {
        return None;
    }
    let shared = control.public || control.s_maxage.is_some() || control.must_revalidate;
    if facts.authorized && !shared {
        return None;
    }
    let negative = matches!(facts.status, 404 | 410);
    let explicit = matches!(
        facts.status,
        200 | 203 | 300 | 301 | 302 | 307 | 308 | 404 | 405 | 410 | 414 | 451 | 501
    );
    let by_default = matches!(facts.status, 200 | 203 | 300 | 301 | 308);
    if !explicit {
        return None;
    }
    let said = control.s_maxage.or(control.max_age).or_else(|| {
        let expires = facts.expires?;
        Some(expires.saturating_sub(facts.date.unwrap_or(facts.now)))
    });
    let fresh = if control.no_cache {
        Some(0)
    } else {
        // A page that says nothing may well have been made for the cookie.
        said.or(match (negative, by_default, facts.has_cookie) {
            (_, _, true) => None,
            (true, ..) => defaults.negative_ttl,
            (_, true, _) => defaults.ttl,
            _ => None,
        })
    };
    let fresh = fresh?.min(LONGEST);
    // RFC 9111 section 5.2.2.2: what must be revalidated never serves stale, nor does `s-maxage`
    // (section 5.2.2.10).
    let strict = control.must_revalidate || control.no_cache || control.s_maxage.is_some();
    let stale = |said: Option<u64>, default: u64| match (said, strict) {
        (Some(said), _) if !control.must_revalidate && !control.no_cache => said,
        (_, true) => 0,
        (None, false) => default,
        _ => 0,
    };
    let apparent = facts.date.map_or(0, |date| facts.now.saturating_sub(date));
    let lifetime = Lifetime {
        age: facts.age.max(apparent).min(LONGEST),
        fresh,
        while_revalidate: stale(
            control.stale_while_revalidate,
            defaults.stale_while_revalidate,
        ),
        if_error: stale(control.stale_if_error, defaults.stale_if_error),
    };
    let useful = lifetime.fresh > lifetime.age
        || facts.has_validator
        || lifetime.while_revalidate > 0
        || lifetime.if_error > 0;
    useful.then_some(lifetime)
}

/// Whether `If-None-Match` names an entity tag, by the weak comparison (RFC 9110 section 13.1.2).
#[must_use]
pub fn none_match(field: &[u8], tag: Option<&[u8]>) -> bool {
    let bare = |tag: &[u8]| -> Vec<u8> {
        let tag = tag.trim_ascii();
        tag.strip_prefix(b"W/").unwrap_or(tag).to_vec()
    };
    if field.trim_ascii() == b"*" {
        return true;
    }
    let Some(tag) = tag.map(bare) else {
        return false;
    };
    items(field).take(64).any(|item| bare(item) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(text: &str) -> Control {
        Control::read([text.as_bytes()].into_iter())
    }

    fn life(status: u16, text: &str) -> Option<Lifetime> {
        let facts = Facts {
            status,
            control: control(text),
            now: 1000,
            ..Facts::default()
        };
        lifetime(&facts, &Defaults::default())
    }

    #[test]
    fn directives() {
        let said = control("Public, MAX-AGE=60 , s-maxage=\"30\", private=\"a, no-store\"");
        assert_eq!((said.max_age, said.s_maxage), (Some(60), Some(30)));
        assert!(said.public && said.private && !said.no_store);
        assert_eq!(control("max-age=60, max-age=10").max_age, Some(10));
        for bad in [
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.5",
            "max-age=a",
        ] {
            assert_eq!(control(bad).max_age, Some(0), "{bad}");
        }
        assert_eq!(control("max-age=99999999999999").max_age, Some(LONGEST));
        assert_eq!(control("max-age=9999999999").max_age, Some(LONGEST));
        assert!(control(",,no-cache,,").no_cache);
        assert!(control("ext=\"a\\\"b\", private").private);
        assert!(control("ext=\"a, private").no_store);
    }

    #[test]
    fn what_is_stored_and_for_how_long() {
        for (status, text, fresh) in [
            (200, "max-age=60", Some(60)),
            (200, "max-age=60, s-maxage=5", Some(5)),
            (200, "", None),
            (200, "no-store, max-age=60", None),
            (200, "private, max-age=60", None),
            (206, "max-age=60", None),
            (404, "max-age=60", Some(60)),
            (500, "max-age=60", None),
            (200, "max-age=0", None),
            (200, "max-age=0, stale-while-revalidate=5", Some(0)),
            (200, "no-cache", None),
        ] {
            assert_eq!(
                life(status, text).map(|l| l.fresh),
                fresh,
                "{status} {text}"
            );
        }
        let stale = |text| life(200, text).map(|l| (l.while_revalidate, l.if_error));
        assert_eq!(
            stale("max-age=1, stale-while-revalidate=7, stale-if-error=9"),
            Some((7, 9))
        );
        assert_eq!(
            stale("max-age=1, stale-if-error=9, must-revalidate"),
            Some((0, 0))
        );
    }

    #[test]
    fn credentials_need_leave_and_ages_count() {
        let mut facts = Facts {
            status: 200,
            control: control("max-age=60"),
            authorized: true,
            now: 1000,
            ..Facts::default()
        };
        let store = |facts: &Facts| lifetime(facts, &Defaults::default());
        assert_eq!(store(&facts), None);
        facts.control = control("max-age=60, public");
        facts.age = 10;
        facts.date = Some(980);
        assert_eq!(store(&facts).map(|l| (l.age, l.fresh)), Some((20, 60)));
        facts.control = control("public");
        facts.expires = Some(1010);
        assert_eq!(store(&facts).map(|l| l.fresh), Some(30));
        facts.expires = Some(0);
        assert_eq!(store(&facts), None);
        facts.has_validator = true;
        assert_eq!(store(&facts).map(|l| l.fresh), Some(0));
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        let defaults = Defaults {
            ttl: Some(10),
            negative_ttl: Some(2),
            stale_while_revalidate: 3,
            stale_if_error: 4,
        };
        let life = |status, text| {
            let facts = Facts {
                status,
                control: control(text),
                now: 1000,
                ..Facts::default()
            };
            lifetime(&facts, &defaults)
        };
        assert_eq!(life(200, "").map(|l| l.fresh), Some(10));
        let cookie = Facts {
            status: 200,
            has_cookie: true,
            now: 1000,
            ..Facts::default()
        };
        assert_eq!(lifetime(&cookie, &defaults), None);
        assert_eq!(life(404, "").map(|l| l.fresh), Some(2));
        assert_eq!(life(302, ""), None);
        assert_eq!(
            life(200, "max-age=7").map(|l| (l.fresh, l.if_error)),
            Some((7, 4))
        );
        assert_eq!(life(200, "s-maxage=7").map(|l| l.if_error), Some(0));
    }

    #[test]
    fn tags_match_weakly() {
        for (field, tag, want) in [
            ("\"a\"", Some("\"a\""), true),
            ("W/\"a\"", Some("\"a\""), true),
            ("\"b\", \"a\"", Some("W/\"a\""), true),
            ("\"b\"", Some("\"a\""), false),
            ("*", None, true),
            ("\"a\"", None, false),
            ("\"a,b\"", Some("\"a,b\""), true),
        ] {
            let tag = tag.map(str::as_bytes);
            assert_eq!(none_match(field.as_bytes(), tag), want, "{field}");
        }
    }
}
