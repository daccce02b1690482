//! What the contract reads: SPIFFE IDs, trust domains, durations, sizes.

use selvedge_contract::identity::{MAX_ID, MAX_TRUST_DOMAIN, SpiffeId, TrustDomain};
use selvedge_contract::units::{Duration, Size};

/// The rules of SPIFFE-ID 2.1 to 2.4, said in another way.
fn is_id(text: &str) -> bool {
    let mut parts = text.split('/');
    let scheme = parts.next() == Some("spiffe:") && parts.next() == Some("");
    let domain = parts.next().is_some_and(is_domain);
    let path: Vec<&str> = parts.collect();
    let segment = |s: &&str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !matches!(*s, "" | "." | "..") && s.chars().all(fine)
    };
    scheme && domain && !path.is_empty() && path.iter().all(segment) && text.len() <= MAX_ID
}

fn is_domain(text: &str) -> bool {
    let fine = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    !text.is_empty() && text.len() <= MAX_TRUST_DOMAIN && text.chars().all(fine)
}

pub(crate) fn identity(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let domain = text.parse::<TrustDomain>();
    assert_eq!(domain.is_ok(), is_domain(&text));
    let id = text.parse::<SpiffeId>();
    assert_eq!(id.is_ok(), is_id(&text));
    let Ok(id) = id else { return };
    assert_eq!(id.as_str(), text);
    let parts = format!("spiffe://{}{}", id.trust_domain(), id.path());
    assert_eq!(parts, text);
    let domain: TrustDomain = id.trust_domain().parse().expect("a trust domain");
    assert!(id.is_member_of(&domain));
    assert!(text.starts_with(&format!("{}/", domain.uri())));
}

pub(crate) fn units(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(duration) = text.parse::<Duration>() {
        assert!(duration.0 <= std::time::Duration::from_secs(366 * 24 * 3600));
        assert_eq!(duration.to_string().parse(), Ok(duration));
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_digit() || b"hms".contains(&b))
        );
    }
    if let Ok(size) = text.parse::<Size>() {
        assert!(size.0 <= 1 << 40);
        assert_eq!(size.to_string().parse(), Ok(size));
    }
}
