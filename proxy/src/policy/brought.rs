//! Part of stage 6, policy: where the proof stands that a request brings of who calls.

use super::guard::{Guard, Notes};
use super::{api_key, jwt};

/// A place in a request.
#[derive(Debug, Clone, Copy)]
pub enum Brought<'a> {
    /// A header.
    Header(&'a str),
    /// A query parameter.
    Query(&'a str),
    /// A cookie of sessions, with all that belongs to it.
    Session(&'a str),
}

const AUTHORIZATION: Brought<'static> = Brought::Header("Authorization");

impl Brought<'_> {
    /// Whether both are the same place: names of headers in any case, and with `_` for `-`.
    #[must_use]
    pub fn is(self, other: Brought<'_>) -> bool {
        let read = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        match (self, other) {
            (Self::Header(a), Brought::Header(b)) => read(a) == read(b),
            (Self::Query(a), Brought::Query(b)) => a == b,
            (Self::Session(a), Brought::Session(b)) => a == b,
            _ => false,
        }
    }

    /// The application will not get it.
    pub fn remove(self, notes: &mut Notes) {
        match self {
            Self::Header(name) => notes.remove(name.as_bytes()),
            Self::Query(name) => notes.strip_query(name),
            Self::Session(name) => notes.strip_session(name),
        }
    }
}

impl Guard {
    /// Where this guard looks for its proof; other cookies than sessions are left to applications.
    #[must_use]
    pub fn brings(&self) -> Vec<Brought<'_>> {
        match self {
            Self::Oidc(oidc) => vec![Brought::Session(&oidc.cookie)],
            Self::Jwt(jwt) => match &jwt.place {
                jwt::Place::Bearer => vec![AUTHORIZATION],
                jwt::Place::Header(name) => vec![Brought::Header(name)],
                jwt::Place::Cookie(_) => Vec::new(),
            },
            Self::Introspection(_) | Self::Basic(_) => vec![AUTHORIZATION],
            Self::ApiKey(keys) => {
                let places = keys.places.iter();
                let places = places.filter_map(|place| match place {
                    api_key::Place::Header(name) => Some(Brought::Header(name)),
                    api_key::Place::Query(name) => Some(Brought::Query(name)),
                    api_key::Place::Cookie(_) => None,
                });
                places.collect()
            }
            _ => Vec::new(),
        }
    }
}
