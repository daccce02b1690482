//! What is signed, and what is not.

use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    RsaKeySize,
};
use selvedge_ca::issue::{MAX_CSR, MAX_LIFE, MIN_LIFE};
use selvedge_ca::{Authority, CsrError, IssueError, Issued};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::support::{DAY, HOUR, authority, der, now, orders, request, request_for, verify};

const ODD: &str = include_str!("fixtures/odd.csr");
const RSA_1024: &str = include_str!("fixtures/rsa1024.csr");
const RSA_SHA1: &str = include_str!("fixtures/rsa2048-sha1.csr");
const SECP256K1: &str = include_str!("fixtures/secp256k1.csr");

fn issue(csr: &str) -> Result<Issued, IssueError> {
    authority().issue(csr, &orders(), None, now())
}

fn refused(csr: &str) -> CsrError {
    match issue(csr) {
        Err(IssueError::Request(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// An SVID as SPIFFE's X509-SVID wants it, whatever the request said.
fn assert_is_plain_svid(issued: &Issued) {
    let leaf = der(&issued.chain_pem[0]);
    let (_, leaf) = parse_x509_certificate(&leaf).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    let uri = orders();
    assert_eq!(names.value.general_names, [GeneralName::URI(uri.as_str())]);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(extended.other.is_empty() && !extended.code_signing);
    // SAN, KU, EKU, BasicConstraints, AKI, SKI: nothing that the request brought.
    assert!(leaf.extensions().len() <= 6, "{:?}", leaf.extensions());
    let serial = leaf.raw_serial();
    assert!(serial.len() <= 17 && serial[0] < 0x80, "{serial:02x?}");
    assert!(leaf.validity().not_before.timestamp() == 1_800_000_000 - 60);
}

#[test]
fn a_chain_serves_both_sides_of_mutual_tls() {
    let (csr, key) = request();
    let issued = issue(&csr).unwrap();
    assert_eq!(issued.chain_pem.len(), 3);
    assert_eq!(issued.not_after, now() + DAY);
    assert_is_plain_svid(&issued);
    for client in [true, false] {
        verify(&issued.chain_pem, now(), client).unwrap();
        verify(&issued.chain_pem, now() + DAY, client).unwrap();
        let late = now() + DAY + Duration::from_secs(1);
        verify(&issued.chain_pem, late, client).unwrap_err();
    }
    let leaf = der(&issued.chain_pem[0]);
    let (_, leaf) = parse_x509_certificate(&leaf).unwrap();
    let bits = &leaf.public_key().subject_public_key.data;
    assert_eq!(bits.as_ref(), key.public_key_raw());
    let number = u128::from_str_radix(&issued.serial, 16).unwrap();
    assert_eq!(leaf.serial, number.into());
}

#[test]
fn the_last_element_is_the_bundle() {
    let authority = authority();
    let issued = authority.issue(&request().0, &orders(), None, now());
    assert_eq!(issued.unwrap().chain_pem[2], &*authority.bundle().pem);
}

#[test]
fn another_authority_of_the_same_domain_is_not_trusted() {
    let mut chain = issue(&request().0).unwrap().chain_pem;
    chain[2] = authority().bundle().pem.to_string();
    verify(&chain, now(), true).unwrap_err();
}

#[test]
fn serials_differ() {
    let authority = authority();
    let (csr, _) = request();
    let one = authority.issue(&csr, &orders(), None, now()).unwrap();
    let two = authority.issue(&csr, &orders(), None, now()).unwrap();
    assert_ne!(one.serial, two.serial);
}

#[test]
fn a_greedy_request_gets_an_ordinary_certificate() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    assert_is_plain_svid(&issue(&csr).unwrap());
    // CA:TRUE, foreign names, a critical extension nobody knows, a challenge password.
    let issued = issue(ODD).unwrap();
    assert_is_plain_svid(&issued);
    verify(&issued.chain_pem, now(), true).unwrap();
}

#[test]
fn every_accepted_key_type_works() {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for key in [rsa, p384, ed25519] {
        let issued = issue(&request_for(&key)).unwrap();
        verify(&issued.chain_pem, now(), true).unwrap();
        assert_is_plain_svid(&issued);
    }
}

#[test]
fn weak_keys_and_signatures_are_refused() {
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    assert_eq!(refused(&request_for(&p521)), CsrError::Key);
    assert_eq!(refused(RSA_1024), CsrError::Key);
    assert_eq!(refused(SECP256K1), CsrError::Key);
    assert_eq!(refused(RSA_SHA1), CsrError::Signature);
}

#[test]
fn a_request_must_prove_its_key() {
    // The key of one request under the signature of another.
    let victim = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&victim)
        .unwrap();
    let mut bytes = request.der().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let broken = pem("CERTIFICATE REQUEST", &bytes);
    assert_eq!(refused(&broken), CsrError::Signature);
}

#[test]
fn what_is_no_request_is_refused() {
    let (csr, _) = request();
    assert!(
        issue(
            &csr.replace("BEGIN ", "BEGIN NEW ")
                .replace("END ", "END NEW ")
        )
        .is_ok()
    );
    let certificate = authority().bundle().pem.to_string();
    let relabelled = certificate.replace("CERTIFICATE", "CERTIFICATE REQUEST");
    for bad in [
        "",
        "hello",
        &certificate,
        &relabelled,
        &csr[..csr.len() / 2],
    ] {
        assert_eq!(refused(bad), CsrError::Malformed, "{bad}");
    }
    let long = format!("{csr}{}", "x".repeat(MAX_CSR + 1 - csr.len()));
    assert_eq!(refused(&long), CsrError::TooLong);
    let mut trailing = x509_parser::pem::parse_x509_pem(csr.as_bytes())
        .unwrap()
        .1
        .contents;
    trailing.push(0);
    let trailing = pem("CERTIFICATE REQUEST", &trailing);
    assert_eq!(refused(&trailing), CsrError::Malformed);
}

#[test]
fn truncated_and_flipped_requests_never_panic() {
    let (csr, _) = request();
    let good = x509_parser::pem::parse_x509_pem(csr.as_bytes())
        .unwrap()
        .1
        .contents;
    // SEQUENCE { SEQUENCE (signed), algorithm, signature }, both with a length of two bytes.
    let signed = 3..6 + usize::from(good[5]);
    assert_eq!((good[1], good[4]), (0x81, 0x81));
    let authority = authority();
    for at in 0..good.len() {
        let cut = pem("CERTIFICATE REQUEST", &good[..at]);
        assert!(authority.issue(&cut, &orders(), None, now()).is_err());
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        let flipped = pem("CERTIFICATE REQUEST", &flipped);
        let issued = authority.issue(&flipped, &orders(), None, now());
        // Past the signed part only the algorithm's encoding has slack, which proves no less.
        assert!(issued.is_err() || !signed.contains(&at), "{at}");
    }
}

#[test]
fn life_has_edges() {
    let authority = authority();
    let (csr, _) = request();
    let second = Duration::from_secs(1);
    let ask = |ttl| authority.issue(&csr, &orders(), Some(ttl), now());
    assert_eq!(ask(Duration::ZERO).unwrap().not_after, now() + DAY);
    assert_eq!(ask(MIN_LIFE).unwrap().not_after, now() + MIN_LIFE);
    assert_eq!(ask(HOUR).unwrap().not_after, now() + HOUR);
    for bad in [second, MIN_LIFE - second, MAX_LIFE + second, Duration::MAX] {
        assert!(matches!(ask(bad), Err(IssueError::Life { .. })), "{bad:?}");
    }
    // More than the intermediate has left is cut, not refused.
    let longest = ask(MAX_LIFE).unwrap();
    assert_eq!(longest.not_after, authority.intermediate_ends());
    verify(&longest.chain_pem, longest.not_after, true).unwrap();
}

#[test]
fn nothing_is_issued_outside_the_issuers_life() {
    let authority = authority();
    let (csr, _) = request();
    let ends = authority.intermediate_ends();
    let ask = |at| authority.issue(&csr, &orders(), None, at);
    assert!(ask(ends - MIN_LIFE).is_ok());
    for at in [
        ends,
        ends + DAY,
        ends - MIN_LIFE / 2,
        now() - HOUR,
        UNIX_EPOCH - DAY,
    ] {
        assert_eq!(ask(at), Err(IssueError::Expired), "{at:?}");
    }
}

#[test]
fn only_identities_of_the_domain_and_outside_the_reserved_path() {
    let authority = authority();
    let (csr, _) = request();
    for (id, why) in [
        ("spiffe://other.local/ns/a/sa/b", IssueError::TrustDomain),
        (
            "spiffe://shop.local.evil/ns/a/sa/b",
            IssueError::TrustDomain,
        ),
        ("spiffe://shop.local/selvedge/ca", IssueError::Reserved),
        ("spiffe://shop.local/selvedge", IssueError::Reserved),
    ] {
        let issued = authority.issue(&csr, &id.parse().unwrap(), None, now());
        assert_eq!(issued, Err(why), "{id}");
    }
    let near = "spiffe://shop.local/selvedge-x/y".parse().unwrap();
    assert!(authority.issue(&csr, &near, None, now()).is_ok());
}

#[test]
fn the_longest_identity_fits() {
    let id = format!("spiffe://shop.local/{}", "x".repeat(2048 - 20));
    let issued = authority().issue(&request().0, &id.parse().unwrap(), None, now());
    verify(&issued.unwrap().chain_pem, now(), true).unwrap();
}

#[test]
fn the_servers_own_certificate_is_for_servers_only() {
    let authority = authority();
    let names = ["ca.shop.local", "10.0.0.1", "::1"].map(String::from);
    let identity = authority.server_identity(&names, now()).unwrap();
    assert_eq!(identity.not_after(), now() + DAY);
    let (_, leaf) = parse_x509_certificate(&identity.chain[0]).unwrap();
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    let found = &leaf.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(found.general_names.len(), 4);
    let own = GeneralName::URI("spiffe://shop.local/selvedge/ca");
    assert_eq!(found.general_names[0], own);
    for bad in ["", "a b", "https://ca", "*.", "é"] {
        let refused = authority.server_identity(&[bad.to_owned()], now());
        assert!(matches!(refused, Err(IssueError::Name(_))), "{bad}");
    }
    let many: Vec<_> = (0..65).map(|n| format!("a{n}.local")).collect();
    assert!(authority.server_identity(&many, now()).is_err());
    assert!(authority.server_identity(&many[1..], now()).is_ok());
}

#[test]
fn an_authority_is_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Authority>();
}

/// PEM with the standard alphabet, enough for tests.
fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::new();
    for chunk in der.chunks(3) {
        let mut bytes = [0; 3];
        bytes[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for index in 0..4 {
            let sextet = (bits >> (18 - 6 * index)) & 63;
            let pad = index > chunk.len();
            let letter = ALPHABET[sextet as usize] as char;
            body.push(if pad { '=' } else { letter });
        }
    }
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}
