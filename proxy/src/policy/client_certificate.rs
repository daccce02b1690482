//! Part of stage 6, policy: who calls, by the certificate that its connection was opened with.

use std::sync::Arc;

use selvedge_gateway::apikey::Consumer;

use crate::error::ErrorKind;
use crate::tls::client::ClientCertificate;

use super::guard::{Notes, Seen, Stop};

/// A name that will do, such as `dns:*.partner.example` or `uri:urn:fleet:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// This one.
    Exact(Box<str>),
    /// Of this kind, with this end.
    Ends(Box<str>, Box<str>),
    /// With this beginning, its kind included.
    Begins(Box<str>),
}

impl Name {
    /// Reads one. `None` where it names no kind, or nothing of it.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        if !matches!(kind, "dns" | "uri" | "email" | "cn") || name.trim_matches('*').is_empty() {
            return None;
        }
        let name = match kind {
            "dns" => name.to_ascii_lowercase(),
            _ => name.to_owned(),
        };
        let inner = name.strip_prefix('*').unwrap_or(&name);
        let inner = inner.strip_suffix('*').unwrap_or(inner);
        if inner.contains('*') || name.len() > inner.len() + 1 {
            return None;
        }
        // `*partner.example` would take `evilpartner.example` too.
        if kind == "dns" && name.starts_with('*') && !inner.starts_with('.') {
            return None;
        }
        Some(match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(end), _) => Self::Ends(format!("{kind}:").into(), end.into()),
            (None, Some(begin)) => Self::Begins(format!("{kind}:{begin}").into()),
            (None, None) => Self::Exact(format!("{kind}:{name}").into()),
        })
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == &**exact,
            Self::Begins(begin) => name.starts_with(&**begin),
            Self::Ends(kind, end) => name
                .strip_prefix(&**kind)
                .is_some_and(|name| name.len() > end.len() && name.ends_with(&**end)),
        }
    }
}

/// A compiled policy.
#[derive(Debug)]
pub struct ClientCertificates {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Names of which it must have one. Empty, as are `fingerprints`: any certificate will do.
    pub names: Vec<Name>,
    /// SHA-256 of certificates that will do.
    pub fingerprints: Vec<Box<str>>,
    /// The header with the holder's name.
    pub name_header: String,
}

impl ClientCertificates {
    /// Lets a request pass whose connection was opened with a certificate that will do.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] without a certificate, [`ErrorKind::Denied`] with another.
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let Some(certificate) = &seen.downstream.client else {
            let challenge = b"ClientCertificate";
            notes.fields.append(b"WWW-Authenticate", challenge);
            return Err(ErrorKind::Unauthenticated.into());
        };
        let Some(holder) = self.holder(certificate) else {
            let holder = certificate.holder();
            tracing::debug!(policy = %self.name, holder, "refused");
            return Err(ErrorKind::Denied.into());
        };
        notes.remove(self.name_header.as_bytes());
        notes.append(self.name_header.as_bytes(), holder.as_bytes());
        seen.consumer = Some(Consumer::named(holder, None));
        Ok(())
    }

    /// By what its holder is known: the name that will do, not another that its CA has put beside it.
    fn holder(&self, certificate: &ClientCertificate) -> Option<String> {
        if self.names.is_empty() && self.fingerprints.is_empty() {
            return Some(certificate.holder());
        }
        let fits = |name: &str| self.names.iter().any(|wanted| wanted.fits(name));
        let mut names = certificate.bare_names();
        if let Some(name) = names.find(|name| fits(name)) {
            return Some(name.to_owned());
        }
        let known = self.fingerprints.contains(&certificate.fingerprint);
        known.then(|| certificate.by_fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_patterns_at_one_end() {
        for (pattern, name, want) in [
            ("dns:a.example", "dns:a.example", true),
            ("dns:A.example", "dns:a.example", true),
            ("dns:a.example", "cn:a.example", false),
            ("dns:*.example", "dns:a.example", true),
            ("dns:*.example", "dns:.example", false),
            ("dns:*.example", "dns:aexample", false),
            ("dns:*.example", "uri:a.example", false),
            ("uri:urn:fleet:*", "uri:urn:fleet:7", true),
            ("uri:urn:fleet:*", "uri:urn:fleets", false),
            ("email:*@b.example", "email:ann@b.example", true),
        ] {
            let fits = Name::read(pattern).unwrap().fits(name);
            assert_eq!(fits, want, "{pattern} {name}");
        }
        for bad in [
            "a.example",
            "ip:1.2.3.4",
            "dns:",
            "dns:*",
            "dns:**",
            "dns:a*b",
            "dns:*a*",
            "dns:*a.example",
        ] {
            assert_eq!(Name::read(bad), None, "{bad}");
        }
    }
}
