//! TL-06: chains of the x509-limbo suite, held against what verifies peers in the mesh.
//!
//! `data/limbo.jsonl.gz` is what x509-limbo (C2SP, Apache-2.0) generates, without its keys, and without
//! bettertls. Its leaves are servers with DNS names, so the whole verifier refuses all of them; here
//! its chains are looked at. Where the suite wants something else, the case stands below with its
//! reason.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use selvedge::tls::revocation::Revocations;
use selvedge::tls::trust::{Role, Trust, verify_chain};
use selvedge::tls::verify::spiffe_id;
use serde_json::Value;

const DATA: &[u8] = include_bytes!("../data/limbo.jsonl.gz");

fn cases() -> Vec<Value> {
    let mut text = String::new();
    GzDecoder::new(DATA).read_to_string(&mut text).unwrap();
    let cases = text.lines().map(|line| serde_json::from_str(line).unwrap());
    cases.collect()
}

fn certificate(text: &Value) -> CertificateDer<'static> {
    STANDARD.decode(text.as_str().unwrap()).unwrap().into()
}

fn certificates(list: &Value) -> Vec<CertificateDer<'static>> {
    list.as_array().unwrap().iter().map(certificate).collect()
}

struct Chain {
    leaf: CertificateDer<'static>,
    rest: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    role: Role,
    now: UnixTime,
    lists: String,
}

impl Chain {
    fn of(case: &Value) -> Self {
        let time = case["time"]
            .as_str()
            .map_or_else(jiff::Timestamp::now, |t| {
                t.parse::<jiff::Timestamp>().unwrap()
            });
        let seconds = u64::try_from(time.as_second()).unwrap();
        let lists = case["crls"].as_array().unwrap();
        let lists = lists.iter().map(|list| list.as_str().unwrap().to_owned());
        Self {
            leaf: certificate(&case["leaf"]),
            rest: certificates(&case["intermediates"]),
            roots: certificates(&case["roots"]),
            role: match case["role"].as_str().unwrap() {
                "client" => Role::Client,
                _ => Role::Server,
            },
            now: UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            lists: lists.collect(),
        }
    }

    /// What we make of it, as far as it is a chain.
    fn verify(&self) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).map_err(|e| e.to_string())?;
        }
        let lists = match self.lists.is_empty() {
            true => Revocations::default(),
            false => Revocations::parse(self.lists.clone().into_bytes())?,
        };
        let leaf = webpki::EndEntityCert::try_from(&self.leaf).map_err(|e| e.to_string())?;
        let when = (self.role, self.now);
        verify_chain(&leaf, &self.rest, &roots, &lists, when).map_err(|e| e.to_string())
    }
}

#[test]
fn chains_are_good_where_the_suite_says_so() {
    let known = DIFFERS.iter().flat_map(|(_, ids)| ids.iter().copied());
    let known: BTreeSet<&str> = known.collect();
    let (mut found, mut wrong) = (BTreeSet::new(), Vec::new());
    let cases = cases();
    for case in &cases {
        let id = case["id"].as_str().unwrap();
        let verified = Chain::of(case).verify();
        if verified.is_ok() == case["ok"].as_bool().unwrap() {
            continue;
        }
        found.insert(id.to_owned());
        if !known.contains(id) {
            let (ok, what) = (&case["ok"], &case["what"]);
            wrong.push(format!(
                "{id}: the suite says {ok}, we {verified:?}: {what}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
    let gone: Vec<_> = known.iter().filter(|id| !found.contains(**id)).collect();
    assert!(gone.is_empty(), "differ no more: {gone:?}");
    assert!(cases.len() > 190, "{}", cases.len());
}

/// None of them is an SVID, so none of them gets in, whatever its chain.
#[test]
fn no_web_server_is_a_peer() {
    let own = "example.com".parse().unwrap();
    for case in cases() {
        let chain = Chain::of(&case);
        let mut trust = Trust::nobody();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain.roots.clone());
        trust.own = roots.into();
        let leaf = (&chain.leaf, &*chain.rest);
        assert!(spiffe_id(&chain.leaf).is_err(), "{}", case["id"]);
        let verified = trust.verify(&own, leaf, chain.role, chain.now);
        assert!(verified.is_err(), "{}", case["id"]);
    }
}

/// Where we differ, and why.
const DIFFERS: &[(&str, &[&str])] = &[
    (
        "the names of servers: a peer in the mesh has one URI, and the rules of SVIDs refuse any other",
        &[
            "rfc5280::nc::invalid-dnsname-leading-period",
            "rfc5280::san::ip-in-dns",
            "rfc5280::san::noncritical-with-empty-subject",
            "rfc5280::san::underscore-dns",
            "webpki::cn::case-mismatch",
            "webpki::cn::ipv4-hex-mismatch",
            "webpki::cn::ipv4-leading-zeros-mismatch",
            "webpki::cn::ipv6-non-rfc5952-mismatch",
            "webpki::cn::ipv6-uncompressed-mismatch",
            "webpki::cn::ipv6-uppercase-mismatch",
            "webpki::cn::not-in-san",
            "webpki::cn::punycode-not-in-san",
            "webpki::cn::utf8-vs-punycode-mismatch",
            "webpki::san::mismatch-apex-subdomain-san",
            "webpki::san::mismatch-domain-san",
            "webpki::san::mismatch-subdomain-apex-san",
            "webpki::san::mismatch-subdomain-san",
            "webpki::san::no-san",
            "webpki::san::public-suffix-multi-label-wildcard-san",
            "webpki::san::public-suffix-private-namespace-wildcard-san",
            "webpki::san::public-suffix-wildcard-san",
            "webpki::san::san-critical-with-nonempty-subject",
            "webpki::san::san-wildcard-only",
            "webpki::san::san-wildcard-only-tld",
            "webpki::san::unicode-emoji-san",
            "webpki::san::wildcard-embedded-leftmost-san",
            "webpki::san::wildcard-embedded-ulabel-san",
            "webpki::san::wildcard-match-across-labels-san",
            "webpki::san::wildcard-not-in-leftmost-san",
        ],
    ),
    (
        "a root is a name and a key that were configured: what else its certificate says is not looked at (RFC 5280 section 6.1.1)",
        &[
            "rfc5280::root-inconsistent-ca-extensions",
            "rfc5280::root-missing-basic-constraints",
            "rfc5280::root-non-critical-basic-constraints",
            "rfc5280::ski::root-missing-ski",
            "rfc5280::unknown-critical-extension-root",
            "rfc5280::validity::expired-root",
            "webpki::aki::root-with-aki-all-fields",
            "webpki::aki::root-with-aki-authoritycertissuer",
            "webpki::aki::root-with-aki-authoritycertserialnumber",
            "webpki::aki::root-with-aki-missing-keyidentifier",
            "webpki::aki::root-with-aki-ski-mismatch",
            "webpki::eku::root-has-eku",
            "webpki::forbidden-rsa-not-divisible-by-8-in-root",
            "rfc5280::aki::cross-signed-root-missing-aki",
        ],
    ),
    (
        "key identifiers help to find an issuer, and prove nothing: signatures do",
        &[
            "rfc5280::aki::critical-aki",
            "rfc5280::aki::intermediate-missing-aki",
            "rfc5280::aki::leaf-missing-aki",
            "rfc5280::ski::critical-ski",
            "rfc5280::ski::intermediate-missing-ski",
        ],
    ),
    (
        "what an issuer owes to the profile, without any say in who the peer is",
        &[
            "rfc5280::ca-empty-subject",
            "rfc5280::serial::too-long",
            "rfc5280::serial::zero",
            "rfc5280::pc::ica-noncritical-pc",
            "rfc5280::nc::permitted-dns-match-noncritical",
            "rfc5280::nc::not-allowed-in-ee-critical",
            "rfc5280::nc::not-allowed-in-ee-noncritical",
            "webpki::malformed-aia",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-null",
        ],
    ),
    (
        "the rules of SVIDs refuse it: see svid_certificates.rs",
        &["rfc5280::leaf-ku-keycertsign"],
    ),
    (
        "an SVID may lack it (X509-SVID 4.4), and one for any use is for this too",
        &[
            "webpki::eku::ee-without-eku",
            "webpki::eku::ee-anyeku",
            "webpki::eku::ee-critical-eku",
        ],
    ),
    (
        "the key of a leaf is looked at when the handshake is signed with it: see svid_certificates.rs",
        &[
            "webpki::forbidden-dsa-leaf",
            "webpki::forbidden-p192-leaf",
            "webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf",
            "webpki::forbidden-weak-rsa-in-leaf",
        ],
    ),
    (
        "stricter: a CA is no leaf (X509-SVID 4.1)",
        &[
            "pathlen::validation-ignores-pathlen-in-leaf",
            "rfc5280::ca-as-leaf",
        ],
    ),
    (
        "stricter: names of these kinds are not compared, so a constraint on them fits nothing; SVIDs have none",
        &[
            "rfc5280::nc::nc-permits-email-domain",
            "rfc5280::nc::nc-permits-email-exact",
            "rfc5280::nc::nc-permits-email-literal-asterisk-exact-match",
            "rfc5280::nc::nc-permits-email-literal-double-asterisk",
            "rfc5280::nc::nc-permits-email-literal-mid-asterisk",
            "rfc5280::nc::permitted-dn-match",
        ],
    ),
    (
        "stricter: among issuers of one name a path with a wrong signature may be the one that is told",
        &[
            "pathlen::self-issued-certs-pathlen",
            "rfc5280::nc::permitted-self-issued",
        ],
    ),
    (
        "six intermediates and bounded work are the limit, not what a caller of the suite asks for",
        &[
            "pathlen::max-chain-depth-0-exhausted",
            "pathlen::max-chain-depth-1-exhausted",
            "pathological::nc-dos-3",
        ],
    ),
    (
        "lists are files that were configured, and only take away: those of a root count, numbered or not",
        &[
            "crl::issuer-missing-crlsign",
            "crl::crlnumber-critical",
            "crl::crlnumber-missing",
        ],
    ),
];
