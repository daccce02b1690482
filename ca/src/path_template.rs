//! From the claims of a token to the path of an identity, by a template that no claim can get out of.

use std::fmt;

use selvedge_contract::identity::{SpiffeId, TrustDomain};

use crate::issue::RESERVED;

/// Most parts of a template.
const PARTS: usize = 32;

/// A path such as `/ci/{repository_owner}/{repository/*}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Vec<Part>);

/// A segment of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Fixed(String),
    /// A claim that is one segment.
    One(String),
    /// A claim that is one or more, at the end.
    Rest(String),
}

/// Why a text is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A segment that is neither a word nor a claim in braces, or none at all.
    #[error("expected a path such as `/ci/{{claim}}`, each segment a word or a claim in braces")]
    Form,
    /// The first segment is a claim: whoever is let in could be anybody.
    #[error("must begin with a word, so that no claim can make somebody else's identity")]
    Prefix,
    /// The first segment belongs to the mesh itself.
    #[error("`/{RESERVED}` belongs to the mesh itself")]
    Reserved,
    /// A claim of several segments that is not the last.
    #[error("a claim of several segments (`{{claim/*}}`) has to be the last")]
    Several,
}

/// Why claims make no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It is not there, or no text.
    #[error("the claim `{0}` is missing or no text")]
    Missing(String),
    /// It is not what a segment of an identity may be.
    #[error("the claim `{0}` is no segment of a path: letters, digits, `.`, `-`, `_`")]
    Segment(String),
    /// All together are too long.
    #[error("the identity would be too long")]
    TooLong,
}

impl std::str::FromStr for PathTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let rest = text.strip_prefix('/').ok_or(TemplateError::Form)?;
        // `{claim/*}` has a slash of its own.
        let rest = rest.replace("/*}", "*}");
        let parts: Result<Vec<_>, _> = rest.split('/').map(part).collect();
        let parts = parts?;
        if parts.len() > PARTS {
            return Err(TemplateError::Form);
        }
        match parts.first() {
            Some(Part::Fixed(first)) if first == RESERVED => return Err(TemplateError::Reserved),
            Some(Part::Fixed(_)) => {}
            _ => return Err(TemplateError::Prefix),
        }
        let several = |part: &Part| matches!(part, Part::Rest(_));
        if parts.iter().rev().skip(1).any(several) {
            return Err(TemplateError::Several);
        }
        Ok(Self(parts))
    }
}

fn part(text: &str) -> Result<Part, TemplateError> {
    let Some(claim) = text.strip_prefix('{') else {
        return match is_segment(text) {
            true => Ok(Part::Fixed(text.to_owned())),
            false => Err(TemplateError::Form),
        };
    };
    let claim = claim.strip_suffix('}').ok_or(TemplateError::Form)?;
    let (claim, several) = match claim.strip_suffix('*') {
        Some(claim) => (claim, true),
        None => (claim, false),
    };
    if claim.is_empty() || claim.contains(['{', '}', '*']) {
        return Err(TemplateError::Form);
    }
    let claim = claim.to_owned();
    Ok(if several {
        Part::Rest(claim)
    } else {
        Part::One(claim)
    })
}

/// What SPIFFE lets a segment be (SPIFFE-ID section 2.2).
fn is_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && text.bytes().all(plain) && !matches!(text, "." | "..")
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Fixed(text) => write!(f, "/{text}"),
            Part::One(claim) => write!(f, "/{{{claim}}}"),
            Part::Rest(claim) => write!(f, "/{{{claim}/*}}"),
        })
    }
}

impl PathTemplate {
    /// The identity that these claims make; `claim` gives the text of one.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn identity(
        &self,
        domain: &TrustDomain,
        claim: impl Fn(&str) -> Option<String>,
    ) -> Result<SpiffeId, ClaimError> {
        let mut id = domain.uri();
        for part in &self.0 {
            id.push('/');
            match part {
                Part::Fixed(text) => id.push_str(text),
                Part::One(name) | Part::Rest(name) => {
                    let value = claim(name).ok_or_else(|| ClaimError::Missing(name.clone()))?;
                    let fits = match part {
                        Part::Rest(_) => value.split('/').all(is_segment),
                        _ => is_segment(&value),
                    };
                    if !fits {
                        return Err(ClaimError::Segment(name.clone()));
                    }
                    id.push_str(&value);
                }
            }
        }
        id.parse().map_err(|_| ClaimError::TooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(template: &str, value: &str) -> Result<String, ClaimError> {
        let template: PathTemplate = template.parse().unwrap();
        let domain = "shop.local".parse().unwrap();
        let id = template.identity(&domain, |name| (name == "c").then(|| value.to_owned()));
        id.map(|id| id.as_str().to_owned())
    }

    #[test]
    fn claims_fill_segments() {
        for (template, value, want) in [
            ("/ci/{c}", "web", "spiffe://shop.local/ci/web"),
            ("/ci/{c}/x", "we-b_1.2", "spiffe://shop.local/ci/we-b_1.2/x"),
            ("/ci/{c/*}", "org/repo", "spiffe://shop.local/ci/org/repo"),
            ("/fixed", "", "spiffe://shop.local/fixed"),
        ] {
            assert_eq!(made(template, value).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn no_claim_gets_out() {
        for value in [
            "", ".", "..", "a/b", "../x", "a%2fb", "a b", "ä", "a:b", "{c}", "a\0", "a?b", "a#b",
        ] {
            let refused = made("/ci/{c}/x", value);
            assert_eq!(refused, Err(ClaimError::Segment("c".into())), "{value:?}");
        }
        for value in ["", "/a", "a/", "a//b", "a/../b", "a/./b", "..", "a/b c"] {
            let refused = made("/ci/{c/*}", value);
            assert_eq!(refused, Err(ClaimError::Segment("c".into())), "{value:?}");
        }
        let missing = made("/ci/{other}", "x");
        assert_eq!(missing, Err(ClaimError::Missing("other".into())));
        assert_eq!(made("/ci/{c}", &"x".repeat(2048)), Err(ClaimError::TooLong));
    }

    #[test]
    fn templates_say_whom_they_make() {
        for (text, error) in [
            ("", TemplateError::Form),
            ("ci/{c}", TemplateError::Form),
            ("/", TemplateError::Form),
            ("/ci/", TemplateError::Form),
            ("/ci/../{c}", TemplateError::Form),
            ("/ci/{c", TemplateError::Form),
            ("/ci/x{c}", TemplateError::Form),
            ("/ci/{}", TemplateError::Form),
            ("/{c}", TemplateError::Prefix),
            ("/{c/*}", TemplateError::Prefix),
            ("/selvedge/{c}", TemplateError::Reserved),
            ("/ci/{c/*}/x", TemplateError::Several),
        ] {
            assert_eq!(text.parse::<PathTemplate>(), Err(error), "{text}");
        }
        let text = "/ci/{a}/{b/*}";
        assert_eq!(text.parse::<PathTemplate>().unwrap().to_string(), text);
    }
}
