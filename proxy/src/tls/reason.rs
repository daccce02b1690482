//! Why handshakes fail, in words that are few enough to be labels of a metric.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage, OtherError};

use super::verify::SvidError;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The peer has shown no certificate.
    NoCertificate,
    /// One that has ended, or has not begun.
    NotInTime,
    /// One that nobody who is trusted has signed.
    UnknownIssuer,
    /// One that was taken back.
    Revoked,
    /// One of a trust domain that is not trusted.
    TrustDomain,
    /// One that is no SVID.
    NoSvid,
    /// One that is not good otherwise: its signature, its chain, its form.
    BadCertificate,
    /// What it offers is not what is spoken here.
    Incompatible,
    /// What it has sent is not TLS.
    NotTls,
    /// It was in time, but what is trusted has changed since.
    Distrusted,
    /// It has told us that it does not like what it was shown.
    Alert,
    /// It has gone.
    Gone,
    /// It took too long.
    Timeout,
    /// Anything else.
    Other,
}

impl Reason {
    /// All, in order.
    pub const ALL: [Self; 14] = [
        Self::NoCertificate,
        Self::NotInTime,
        Self::UnknownIssuer,
        Self::Revoked,
        Self::TrustDomain,
        Self::NoSvid,
        Self::BadCertificate,
        Self::Incompatible,
        Self::NotTls,
        Self::Distrusted,
        Self::Alert,
        Self::Gone,
        Self::Timeout,
        Self::Other,
    ];

    /// As a label says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NotInTime => "not_in_time",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Revoked => "revoked",
            Self::TrustDomain => "trust_domain",
            Self::NoSvid => "no_svid",
            Self::BadCertificate => "bad_certificate",
            Self::Incompatible => "incompatible",
            Self::NotTls => "not_tls",
            Self::Distrusted => "distrusted",
            Self::Alert => "alert",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }

    /// Why a handshake has ended in this error.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
        match inner {
            None => Self::Gone,
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(why)) => Self::of_certificate(why),
            Some(Error::PeerIncompatible(_)) => Self::Incompatible,
            Some(Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )) => Self::NotTls,
            Some(Error::AlertReceived(_)) => Self::Alert,
            Some(_) => Self::Other,
        }
    }

    fn of_certificate(why: &CertificateError) -> Self {
        use CertificateError as E;
        match why {
            E::Expired | E::ExpiredContext { .. } => Self::NotInTime,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotInTime,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Revoked => Self::Revoked,
            E::Other(OtherError(other)) => match other.downcast_ref::<SvidError>() {
                Some(SvidError::TrustDomain(_)) => Self::TrustDomain,
                Some(_) => Self::NoSvid,
                None => Self::BadCertificate,
            },
            _ => Self::BadCertificate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_each_reason_once_in_order() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }
}
