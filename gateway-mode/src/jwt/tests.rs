//! Tokens at every edge, signed with keys made here: rows JW-01 to JW-05 and JW-10 of the battery,
//! where no server is needed.

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use serde_json::json;

use super::*;

pub(super) const NOW: u64 = 1_800_000_000;

pub(super) struct Signer {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    pub(super) keys: Keys,
    ec_spki: Vec<u8>,
}

pub(super) static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let point = ec.public_key().as_ref();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let set = json!({ "keys": [
        { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": b64(&point[1..33]), "y": b64(&point[33..65]) },
        { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "x": b64(ed.public_key().as_ref()) },
        { "kty": "oct", "kid": "hmac", "k": b64(b"secret") },
        { "kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": b64(&point[1..33]), "y": b64(&point[33..65]) },
        { "kty": "new-kind", "kid": "new" },
    ]});
    let keys = Keys::read(set.to_string().as_bytes()).unwrap();
    let ec_spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(ec.public_key())
        .unwrap()
        .as_ref()
        .to_vec();
    Signer {
        ec,
        ed,
        keys,
        ec_spki,
    }
});

pub(super) fn sign(head: &Value, payload: &[u8]) -> String {
    let head = URL_SAFE_NO_PAD.encode(head.to_string());
    let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(payload));
    let rng = aws_lc_rs::rand::SystemRandom::new();
    let signature = SIGNER.ec.sign(&rng, message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn claims() -> Value {
    json!({ "iss": "https://id.example", "aud": "shop", "exp": NOW + 60, "nbf": NOW, "iat": NOW,
        "sub": "ann", "scope": "read write", "roles": ["admin", "user"], "realm": { "tier": "pro" } })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn expect() -> Expect {
    Expect {
        issuer: "https://id.example".into(),
        audiences: vec!["shop".into(), "other".into()],
        skew: 60,
        ..Expect::default()
    }
}

fn outcome(claims: &Value) -> Result<(), Refusal> {
    let token = sign(
        &json!({ "alg": "ES256", "kid": "ec" }),
        claims.to_string().as_bytes(),
    );
    verify(&token, &SIGNER.keys, &expect(), NOW).map(|_| ())
}

#[test]
fn keys_that_cannot_sign_are_left_out() {
    assert_eq!(SIGNER.keys.len(), 2);
    for bad in ["", "[]", "{}", "{\"keys\": 1}"] {
        assert!(
            matches!(Keys::read(bad.as_bytes()), Err(KeysError::Form(_))),
            "{bad}"
        );
    }
    assert_eq!(Keys::read(b"{\"keys\": []}").unwrap_err(), KeysError::Empty);
}

#[test]
fn times_at_their_edges() {
    for (name, value, want) in [
        ("exp", json!(NOW - 59), Ok(())),
        ("exp", json!(NOW - 60), Err(Refusal::Expired)),
        ("nbf", json!(NOW + 60), Ok(())),
        ("nbf", json!(NOW + 61), Err(Refusal::NotYet)),
        ("iat", json!(NOW + 60), Ok(())),
        ("iat", json!(NOW + 61), Err(Refusal::NotYet)),
        ("exp", json!(u64::MAX), Ok(())),
    ] {
        assert_eq!(outcome(&with(name, value.clone())), want, "{name} {value}");
    }
    for name in ["exp", "nbf", "iat"] {
        for bad in [
            json!("1800000060"),
            json!(1_800_000_060.5),
            json!(-1),
            json!(1e30),
            json!([NOW + 60]),
            json!(null),
            json!(true),
            json!({}),
        ] {
            assert_eq!(
                outcome(&with(name, bad.clone())),
                Err(Refusal::Times),
                "{name} {bad}"
            );
        }
    }
    assert_eq!(outcome(&without("exp")), Err(Refusal::Times));
    assert_eq!(outcome(&without("nbf")), Ok(()));
}

#[test]
fn issuers_and_audiences_to_the_letter() {
    for bad in [
        json!("https://id.example/"),
        json!("https://ID.example"),
        json!("https://id.exampl"),
        json!(""),
        json!(["https://id.example"]),
        json!(null),
    ] {
        assert_eq!(
            outcome(&with("iss", bad.clone())),
            Err(Refusal::Issuer),
            "{bad}"
        );
    }
    assert_eq!(outcome(&without("iss")), Err(Refusal::Issuer));
    assert_eq!(outcome(&with("aud", json!(["x", "other"]))), Ok(()));
    for bad in [
        json!("Shop"),
        json!("shop/"),
        json!("sho"),
        json!("shop other"),
        json!(""),
        json!([]),
        json!(["shop", 1]),
        json!([["shop"]]),
        json!({ "shop": 1 }),
        json!(null),
    ] {
        assert_eq!(
            outcome(&with("aud", bad.clone())),
            Err(Refusal::Audience),
            "{bad}"
        );
    }
    assert_eq!(outcome(&without("aud")), Err(Refusal::Audience));
}

#[test]
fn the_algorithm_is_the_key_s() {
    let body = claims().to_string();
    for (head, want) in [
        (json!({ "alg": "ES256" }), Ok(())),
        (
            json!({ "alg": "ES256", "kid": "ec", "jku": "http://evil", "jwk": {}, "x5c": ["x"] }),
            Ok(()),
        ),
        (
            json!({ "alg": "none", "kid": "ec" }),
            Err(Refusal::Algorithm),
        ),
        (json!({ "alg": "None" }), Err(Refusal::Algorithm)),
        (json!({ "alg": "nOnE" }), Err(Refusal::Algorithm)),
        (
            json!({ "alg": "HS256", "kid": "ec" }),
            Err(Refusal::Algorithm),
        ),
        (
            json!({ "alg": "HS256", "kid": "hmac" }),
            Err(Refusal::Algorithm),
        ),
        (
            json!({ "alg": "es256", "kid": "ec" }),
            Err(Refusal::Algorithm),
        ),
        (
            json!({ "alg": "ES384", "kid": "ec" }),
            Err(Refusal::Algorithm),
        ),
        (
            json!({ "alg": "RS256", "kid": "ec" }),
            Err(Refusal::Algorithm),
        ),
        (
            json!({ "alg": "ES256", "kid": "ed" }),
            Err(Refusal::Algorithm),
        ),
        (
            json!({ "alg": "ES256", "kid": "enc" }),
            Err(Refusal::UnknownKey),
        ),
        (
            json!({ "alg": "ES256", "kid": "../../ec" }),
            Err(Refusal::UnknownKey),
        ),
        (
            json!({ "alg": "ES256", "kid": "ec\u{0}" }),
            Err(Refusal::UnknownKey),
        ),
        (
            json!({ "alg": "ES256", "kid": "k".repeat(300) }),
            Err(Refusal::Malformed),
        ),
        (json!({ "alg": "ES256", "kid": 1 }), Err(Refusal::Malformed)),
        (
            json!({ "alg": "ES256", "crit": ["b64"], "b64": false }),
            Err(Refusal::Malformed),
        ),
        (json!({ "kid": "ec" }), Err(Refusal::Malformed)),
        (json!({ "alg": ["ES256"] }), Err(Refusal::Malformed)),
        (json!([]), Err(Refusal::Malformed)),
    ] {
        let token = sign(&head, body.as_bytes());
        let got = verify(&token, &SIGNER.keys, &expect(), NOW).map(|_| ());
        assert_eq!(got, want, "{head}");
    }
    // Signed with the public key as if it were a secret.
    let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "kid": "ec" }).to_string());
    let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(&body));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &SIGNER.ec_spki);
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
    let got = verify(&token, &SIGNER.keys, &expect(), NOW).map(|_| ());
    assert_eq!(got, Err(Refusal::Algorithm));
}

#[test]
fn ed25519_signs_too() {
    let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "EdDSA", "kid": "ed" }).to_string());
    let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims().to_string()));
    let signature = SIGNER.ed.sign(message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert!(verify(&token, &SIGNER.keys, &expect(), NOW).is_ok());
}

#[test]
fn what_is_no_token() {
    let token = sign(
        &json!({ "alg": "ES256", "kid": "ec" }),
        claims().to_string().as_bytes(),
    );
    let (message, signature) = token.rsplit_once('.').unwrap();
    let other = sign(&json!({ "alg": "ES256", "kid": "ec" }), b"{}");
    let (_, stolen) = other.rsplit_once('.').unwrap();
    for (bad, want) in [
        (String::new(), Refusal::Malformed),
        ("..".into(), Refusal::Malformed),
        (message.to_owned(), Refusal::Malformed),
        (format!("{message}."), Refusal::Signature),
        (format!("{message}.{stolen}"), Refusal::Signature),
        (format!("{token}."), Refusal::Malformed),
        (format!("{token}=="), Refusal::Malformed),
        (format!("{token} "), Refusal::Malformed),
        (
            format!("{message}.{}", &signature[..80]),
            Refusal::Signature,
        ),
        (
            format!("{message}.{signature}{}", "A".repeat(9000)),
            Refusal::Malformed,
        ),
        (
            sign(&json!({ "alg": "ES256", "kid": "ec" }), b"not json"),
            Refusal::Malformed,
        ),
        (
            sign(&json!({ "alg": "ES256", "kid": "ec" }), b"[]"),
            Refusal::Malformed,
        ),
    ] {
        let got = verify(&bad, &SIGNER.keys, &expect(), NOW).unwrap_err();
        assert_eq!(got, want, "{bad}");
    }
    // Twice the same key in the header: two readers could see two tokens.
    let head = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\",\"alg\":\"ES256\"}");
    let double = format!("{head}.e30.AA");
    let got = verify(&double, &SIGNER.keys, &expect(), NOW).unwrap_err();
    assert_eq!(got, Refusal::Malformed);
}

#[test]
fn claims_scopes_and_headers() {
    let token = sign(
        &json!({ "alg": "ES256", "kid": "ec" }),
        with("name", json!("A\r\nX: y %é ")).to_string().as_bytes(),
    );
    let check = |edit: &dyn Fn(&mut Expect)| {
        let mut expect = expect();
        edit(&mut expect);
        verify(&token, &SIGNER.keys, &expect, NOW)
    };
    assert!(check(&|e| e.required = vec!["sub".into(), "realm.tier".into()]).is_ok());
    assert_eq!(
        check(&|e| e.required = vec!["email".into()]).unwrap_err(),
        Refusal::Claim
    );
    let role = |value: &str| {
        let values = vec![value.to_owned()];
        check(&|e| e.claims = BTreeMap::from([("roles".to_owned(), values.clone())]))
    };
    assert!(role("admin").is_ok());
    assert_eq!(role("adm").unwrap_err(), Refusal::Claim);
    assert!(check(&|e| e.scopes = vec!["write".into(), "read".into()]).is_ok());
    assert_eq!(
        check(&|e| e.scopes = vec!["rea".into()]).unwrap_err(),
        Refusal::Scope
    );
    let told = check(&|e| {
        e.headers = [
            ("sub", "X-User"),
            ("roles", "X-Roles"),
            ("realm.tier", "X-Tier"),
            ("name", "X-Name"),
            ("no", "X-No"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .to_vec();
    });
    let headers: Vec<(String, String)> = told.unwrap().headers;
    let want = [
        ("X-User", "ann"),
        ("X-Roles", "admin,user"),
        ("X-Tier", "pro"),
        ("X-Name", "A%0D%0AX:%20y%20%25%C3%A9%20"),
    ];
    assert_eq!(headers, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let object = check(&|e| e.headers = vec![("realm".into(), "X-R".into())]);
    assert_eq!(object.unwrap_err(), Refusal::Claim);
}
