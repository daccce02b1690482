//! Which country an address is in, as a database in MaxMind's form says. The database is the user's.

use std::fmt;
use std::net::IpAddr;

use maxminddb::{PathElement, Reader};

/// A country by its two capitals (ISO 3166-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no country.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two capital letters such as `DE` (ISO 3166-1)")]
pub struct CountryError;

impl std::str::FromStr for Country {
    type Err = CountryError;

    fn from_str(text: &str) -> Result<Self, CountryError> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([*a, *b])),
            _ => Err(CountryError),
        }
    }
}

/// A database.
pub struct Geo(Reader<Vec<u8>>);

impl fmt::Debug for Geo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Geo({})", self.0.metadata().database_type)
    }
}

/// What is wrong with a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GeoError(String);

impl Geo {
    /// Takes the bytes of a database.
    ///
    /// # Errors
    /// When they are none.
    pub fn new(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let reader = Reader::from_source(bytes);
        reader
            .map(Self)
            .map_err(|error| GeoError(error.to_string()))
    }

    /// The country that an address is in: that of the address itself, else that of whoever has
    /// registered it. `None` where the database knows neither.
    #[must_use]
    pub fn country(&self, address: IpAddr) -> Option<Country> {
        let found = self.0.lookup(address.to_canonical()).ok()?;
        let paths: [&[PathElement<'_>]; 4] = [
            &[PathElement::Key("country"), PathElement::Key("iso_code")],
            &[PathElement::Key("country_code")],
            // Of databases that know nothing but countries.
            &[PathElement::Key("country")],
            &[
                PathElement::Key("registered_country"),
                PathElement::Key("iso_code"),
            ],
        ];
        paths.iter().find_map(|path| {
            let text = found.decode_path::<&str>(path).ok()??;
            text.parse().ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_are_two_capitals() {
        assert_eq!("DE".parse::<Country>().unwrap().as_str(), "DE");
        for bad in ["", "D", "de", "DEU", "D1", "\u{c4}"] {
            assert_eq!(bad.parse::<Country>(), Err(CountryError), "{bad}");
        }
        assert!(Geo::new(b"no database".to_vec()).is_err());
    }
}
