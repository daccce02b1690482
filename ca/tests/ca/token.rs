//! Join tokens: once means once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;
use std::time::Duration;

use selvedge_ca::attest::{AttestError, Proof, Shown, attest};
use selvedge_ca::token::{MAX_TOKEN_LIFE, MAX_TOKENS};
use selvedge_ca::{Authority, IssueError, TokenError, TokenStore};
use tempfile::TempDir;

use crate::support::{DAY, HOUR, authority, der, domain, now, orders, request};

fn store() -> (TempDir, TokenStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = TokenStore::open(&dir.path().join("tokens")).unwrap();
    (dir, store)
}

fn files(dir: &TempDir) -> Vec<String> {
    fs::read_dir(dir.path().join("tokens"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect()
}

#[test]
fn a_token_is_good_once() {
    let (dir, store) = store();
    let token = store.mint(&orders(), HOUR, now()).unwrap();
    assert_eq!(store.redeem(&token, now()).unwrap(), orders());
    assert!(matches!(
        store.redeem(&token, now()),
        Err(TokenError::Unknown)
    ));
    assert!(files(&dir).is_empty());
}

#[test]
fn the_disk_never_sees_the_token() {
    let (dir, store) = store();
    let token = store.mint(&orders(), HOUR, now()).unwrap();
    assert_eq!(token.len(), 68);
    assert!(
        token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
    );
    let [name] = &files(&dir)[..] else {
        panic!("{:?}", files(&dir));
    };
    let path = dir.path().join("tokens").join(name);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&token[4..]) && !name.contains(&token[4..]));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
}

#[test]
fn one_of_many_redeemers_wins() {
    let (dir, store) = store();
    for _ in 0..20 {
        let token = store.mint(&orders(), HOUR, now()).unwrap();
        let barrier = Barrier::new(16);
        let won: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        // As another process would: through the directory alone.
                        let store = TokenStore::open(&dir.path().join("tokens")).unwrap();
                        barrier.wait();
                        usize::from(store.redeem(&token, now()).is_ok())
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(won, 1);
    }
}

#[test]
fn wrong_tokens_are_unknown() {
    let (_dir, store) = store();
    let token = store.mint(&orders(), HOUR, now()).unwrap();
    let other = format!("sjt_{}", "0".repeat(64));
    let long = format!("{}x", *token);
    for bad in [
        "",
        "sjt_",
        "../../etc/passwd",
        &token[4..],
        &other,
        &long,
        &token.to_uppercase(),
    ] {
        assert!(
            matches!(store.redeem(bad, now()), Err(TokenError::Unknown)),
            "{bad}"
        );
    }
    assert!(store.redeem(&token, now()).is_ok());
}

#[test]
fn an_expired_token_is_refused_and_gone() {
    let (dir, store) = store();
    let token = store.mint(&orders(), HOUR, now()).unwrap();
    assert!(matches!(
        store.redeem(&token, now() + HOUR),
        Err(TokenError::Expired)
    ));
    assert!(matches!(
        store.redeem(&token, now()),
        Err(TokenError::Unknown)
    ));
    assert!(files(&dir).is_empty());
}

#[test]
fn sweeping_takes_what_is_over_and_what_is_broken() {
    let (dir, store) = store();
    let short = store.mint(&orders(), HOUR, now()).unwrap();
    let long = store.mint(&orders(), DAY, now()).unwrap();
    let tokens = dir.path().join("tokens");
    fs::write(tokens.join(format!("{}.tmp", "a".repeat(64))), "half").unwrap();
    fs::write(tokens.join("b".repeat(64)), "readable by others").unwrap();
    fs::write(tokens.join("README"), "not ours").unwrap();
    assert_eq!(store.sweep(now() + 2 * HOUR).unwrap(), 3);
    assert!(matches!(
        store.redeem(&short, now()),
        Err(TokenError::Unknown)
    ));
    assert!(store.redeem(&long, now() + 2 * HOUR).is_ok());
    assert_eq!(files(&dir), ["README"]);
}

#[test]
fn life_and_number_are_bounded() {
    let (dir, store) = store();
    let ask = |life| store.mint(&orders(), life, now());
    for bad in [
        Duration::ZERO,
        Duration::from_millis(999),
        MAX_TOKEN_LIFE + Duration::from_secs(1),
        Duration::MAX,
    ] {
        assert!(matches!(ask(bad), Err(TokenError::Life)), "{bad:?}");
    }
    let tokens = dir.path().join("tokens");
    let ends = 1_800_000_000 + 3600;
    for n in 0..MAX_TOKENS {
        let path = tokens.join(format!("{n:064x}"));
        fs::write(&path, format!("{ends} {}\n", orders())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(matches!(ask(HOUR), Err(TokenError::Full)));
    assert!(store.mint(&orders(), HOUR, now() + HOUR).is_ok());
    assert_eq!(files(&dir).len(), 1);
}

/// A certificate for `orders`, with its intermediate.
fn certificates(authority: &Authority) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    let issued = authority
        .issue(&request().0, &orders(), None, now())
        .unwrap();
    issued.chain_pem[..2].iter().map(|pem| der(pem)).collect()
}

#[test]
fn a_certificate_or_a_token_proves_an_identity() {
    let (_dir, store) = store();
    let authority = authority();
    let chain = certificates(&authority);
    let ask = |authorization: Option<&str>, certificates, at| {
        let shown = Shown {
            authorization,
            certificates,
        };
        attest(&authority, Some(&store), None, shown, at)
    };
    let bearer = |id| format!("Bearer {}", *store.mint(&id, HOUR, now()).unwrap());

    let by_certificate = ask(None, &chain, now()).unwrap();
    assert_eq!(
        (by_certificate.id, by_certificate.proof),
        (orders(), Proof::Certificate)
    );
    let by_token = ask(Some(&bearer(orders())), &[], now()).unwrap();
    assert_eq!((by_token.id, by_token.proof), (orders(), Proof::Token));
    assert_eq!(
        ask(Some(&bearer(orders())), &chain, now()).unwrap().proof,
        Proof::Both
    );

    assert!(matches!(ask(None, &[], now()), Err(AttestError::Nothing)));
    assert!(matches!(
        ask(Some("Basic x"), &chain, now()),
        Err(AttestError::Scheme)
    ));
    assert!(matches!(
        ask(Some("Bearer x"), &chain, now()),
        Err(AttestError::Token(_))
    ));
    let late = now() + 2 * DAY;
    assert!(matches!(
        ask(None, &chain, late),
        Err(AttestError::Certificate(_))
    ));
    let web = "spiffe://shop.local/ns/shop/sa/web".parse().unwrap();
    assert!(matches!(
        ask(Some(&bearer(web)), &chain, now()),
        Err(AttestError::Disagree)
    ));
    let foreign = "spiffe://other.local/ns/shop/sa/web".parse().unwrap();
    let refused = ask(Some(&bearer(foreign)), &[], now());
    assert!(matches!(
        refused,
        Err(AttestError::NotPermitted(IssueError::TrustDomain))
    ));

    // A bad certificate does not spend the token that comes with it.
    let token = bearer(orders());
    let stranger = certificates(&Authority::ephemeral(&domain(), now()).unwrap());
    assert!(matches!(
        ask(Some(&token), &stranger, now()),
        Err(AttestError::Certificate(_))
    ));
    assert!(ask(Some(&token), &[], now()).is_ok());

    // The CA's own certificate and the intermediate are no callers.
    let server = authority.server_identity(&[], now()).unwrap();
    assert!(ask(None, &server.chain, now()).is_err());
    assert!(ask(None, &chain[1..], now()).is_err());
}

#[test]
fn without_a_store_tokens_are_refused() {
    let authority = authority();
    let shown = Shown {
        authorization: Some("Bearer x"),
        certificates: &[],
    };
    assert!(matches!(
        attest(&authority, None, None, shown, now()),
        Err(AttestError::NoTokens)
    ));
}
