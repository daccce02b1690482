//! Whom the CA believes who they are: Kubernetes tokens by their keys, any OpenID Connect issuer, join
//! tokens (battery row CA-02).

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use selvedge_tests::authority::{CaProcess, run};
use selvedge_tests::ca_client::{Client, Shown};
use selvedge_tests::certs;
use selvedge_tests::control_plane::until;
use selvedge_tests::oidc::{Signer, unix_now};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Status};

const CLUSTER: &str = "https://kubernetes.default.svc";
const CI: &str = "https://ci.example";

/// A CA that takes tokens of a cluster and of a CI system.
struct Stage {
    ca: CaProcess,
    _dir: TempDir,
    cluster: Signer,
    ci: Signer,
    stranger: Signer,
}

fn jwks(dir: &Path, name: &str, signer: &Signer) -> String {
    let path = dir.join(name);
    fs::write(&path, json!({ "keys": [signer.jwk()] }).to_string()).unwrap();
    path.display().to_string()
}

fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let [cluster, ci, stranger] = ["cluster", "ci", "cluster"].map(Signer::new);
    let file = dir.path().join("attestors.yaml");
    let text = format!(
        "attestors:
- kubernetes: {{ issuer: \"{CLUSTER}\", jwks: {}, audience: selvedge-ca }}
- oidc:
    issuer: {CI}
    jwks: {}
    audience: selvedge-ca
    path: \"/ci/{{owner}}/{{repository/*}}\"
    claims: {{ ref: [refs/heads/main, refs/heads/release] }}
",
        jwks(dir.path(), "cluster.json", &cluster),
        jwks(dir.path(), "ci.json", &ci),
    );
    fs::write(&file, text).unwrap();
    let ca = CaProcess::start(&["--attestors", &file.display().to_string()]);
    Stage {
        ca,
        _dir: dir,
        cluster,
        ci,
        stranger,
    }
}

/// Claims as a kubelet's projected token has them.
fn account() -> Value {
    json!({
        "iss": CLUSTER, "aud": ["selvedge-ca"], "exp": unix_now() + 600, "iat": unix_now(),
        "nbf": unix_now(), "sub": "system:serviceaccount:shop:web",
        "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "web", "uid": "1" } },
    })
}

fn job() -> Value {
    json!({
        "iss": CI, "aud": "selvedge-ca", "exp": unix_now() + 600, "sub": "job:1",
        "owner": "acme", "repository": "acme/site", "ref": "refs/heads/main",
    })
}

fn with(mut claims: Value, edit: impl FnOnce(&mut Value)) -> Value {
    edit(&mut claims);
    claims
}

impl Stage {
    fn ask(&self, authorization: &str) -> Result<Vec<String>, Status> {
        let client = Client::new(self.ca.address(), &self.ca.bundle());
        client.create(&certs::request().0, &[authorization])
    }

    fn identity(&self, token: &str) -> String {
        let chain = self.ask(&format!("Bearer {token}")).unwrap();
        certs::uri(&chain[0])
    }

    fn issued(&self) -> usize {
        let file = self.ca.keys().join("issued/00000001.jsonl");
        let text = fs::read_to_string(file).unwrap();
        text.lines()
            .filter(|line| !line.contains("\"self\""))
            .count()
    }
}

#[test]
fn tokens_say_who_their_bearers_are() {
    let stage = stage();
    let id = stage.identity(&stage.cluster.sign(&account()));
    assert_eq!(id, "spiffe://shop.local/ns/shop/sa/web");
    let id = stage.identity(&stage.ci.sign(&job()));
    assert_eq!(id, "spiffe://shop.local/ci/acme/acme/site");
    let several = with(job(), |c| c["aud"] = json!(["other", "selvedge-ca"]));
    let id = stage.identity(&stage.ci.sign(&several));
    assert_eq!(id, "spiffe://shop.local/ci/acme/acme/site");
    let log = fs::read_to_string(stage.ca.keys().join("issued/00000001.jsonl")).unwrap();
    for proof in ["\"proof\":\"kubernetes\"", "\"proof\":\"oidc\""] {
        assert!(log.contains(proof), "{log}");
    }
}

/// What the CA must not believe: what it is, and the value of `authorization`.
fn refused(stage: &Stage) -> Vec<(&'static str, String)> {
    let cluster = |edit: &dyn Fn(&mut Value)| stage.cluster.sign(&with(account(), edit));
    let ci = |edit: &dyn Fn(&mut Value)| stage.ci.sign(&with(job(), edit));
    let mut cases = vec![
        ("wrong audience", cluster(&|c| c["aud"] = json!(["api"]))),
        (
            "audience prefix",
            cluster(&|c| c["aud"] = json!("selvedge")),
        ),
        (
            "no audience",
            cluster(&|c| drop(c.as_object_mut().unwrap().remove("aud"))),
        ),
        ("expired", cluster(&|c| c["exp"] = json!(unix_now() - 61))),
        (
            "no end",
            cluster(&|c| drop(c.as_object_mut().unwrap().remove("exp"))),
        ),
        ("end as text", cluster(&|c| c["exp"] = json!("9999999999"))),
        ("not yet", cluster(&|c| c["nbf"] = json!(unix_now() + 120))),
        (
            "no account",
            cluster(&|c| c["sub"] = json!("system:node:a")),
        ),
        (
            "a namespace that is a path",
            cluster(&|c| c["sub"] = json!("system:serviceaccount:a/b:c")),
        ),
        (
            "an account that is a path",
            cluster(&|c| c["sub"] = json!("system:serviceaccount:a:..")),
        ),
        (
            "unknown issuer",
            cluster(&|c| c["iss"] = json!("https://evil.example")),
        ),
        ("another issuer's key", stage.ci.sign(&account())),
        ("a stranger's key", stage.stranger.sign(&account())),
        ("a cluster's token as a job", stage.cluster.sign(&job())),
        (
            "claim of another value",
            ci(&|c| c["ref"] = json!("refs/heads/evil")),
        ),
        (
            "claim with a word of it",
            ci(&|c| c["ref"] = json!("x refs/heads/main")),
        ),
        (
            "claim with an item of it",
            ci(&|c| c["ref"] = json!(["refs/heads/main"])),
        ),
        (
            "claim missing",
            ci(&|c| drop(c.as_object_mut().unwrap().remove("owner"))),
        ),
        ("claim with a path", ci(&|c| c["owner"] = json!("a/b"))),
        (
            "claim that goes up",
            ci(&|c| c["repository"] = json!("a/../../ns/shop/sa/web")),
        ),
        (
            "claim that is a list",
            ci(&|c| c["owner"] = json!(["acme"])),
        ),
    ];
    cases.extend(forged(stage));
    cases
}

/// Signed by nobody, by anybody, or by its issuer over something else.
fn forged(stage: &Stage) -> Vec<(&'static str, String)> {
    let mut cases = Vec::new();
    // Without a signature, and with one that anybody can make.
    let payload = B64.encode(account().to_string());
    for alg in ["none", "None", "HS256"] {
        let head = B64.encode(json!({ "alg": alg, "kid": "cluster" }).to_string());
        for signature in ["", "AAAA"] {
            cases.push(("algorithm", format!("{head}.{payload}.{signature}")));
        }
    }
    let token = stage.cluster.sign(&account());
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let other = with(account(), |c| {
        c["sub"] = json!("system:serviceaccount:shop:admin")
    });
    let other = B64.encode(other.to_string());
    cases.push(("changed payload", format!("{head}.{other}.{signature}")));
    cases.push(("cut", token[..token.len() - 4].to_owned()));
    cases
}

#[test]
fn whoever_is_not_proven_is_told_nothing_and_given_nothing() {
    let stage = stage();
    let before = stage.issued();
    let cases = refused(&stage);
    assert!(cases.len() >= 18);
    for (what, token) in &cases {
        let refused = stage.ask(&format!("Bearer {token}")).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
        assert_eq!(refused.message(), "request authenticate failure", "{what}");
    }
    // A join token is good once, and only as what it is.
    let token = stage.ca.token("spiffe://shop.local/ns/shop/sa/orders");
    let _shown: Shown = Client::new(stage.ca.address(), &stage.ca.bundle()).join(&token);
    for authorization in [format!("Bearer {token}"), format!("Basic {token}"), token] {
        let refused = stage.ask(&authorization).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    assert_eq!(stage.issued(), before + 1);
    // Each has its line, with the reason and without the token.
    let log = until("a line for each", || {
        let log = stage.ca.process().log().join("\n");
        (log.matches("outcome=\"refused\"").count() >= cases.len() + 3).then_some(log)
    });
    for (_, token) in &cases {
        assert!(!log.contains(token.as_str()), "{token} in the log");
    }
    let (_, metrics) = run(&[
        "ca",
        "status",
        "--dir",
        &stage.ca.keys().display().to_string(),
    ]);
    assert!(metrics.contains("steady"), "{metrics}");
}

#[test]
fn a_file_of_attestors_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let good = jwks(dir.path(), "keys.json", &Signer::new("a"));
    let file = dir.path().join("attestors.yaml");
    let oidc = |path: &str, jwks: &str| {
        format!(
            "attestors: [{{ oidc: {{ issuer: i, audience: a, path: \"{path}\", jwks: \"{jwks}\" }} }}]"
        )
    };
    for (text, wanted) in [
        (oidc("/{claim}", &good), "must begin with a word"),
        (
            oidc("/selvedge/{claim}", &good),
            "belongs to the mesh itself",
        ),
        (oidc("/ci/{claim}", "/nowhere.json"), "/nowhere.json"),
        (
            oidc("/ci/{claim}", "http://ci.example/jwks"),
            "is not https",
        ),
        (
            format!("attestors: [{{ kubernetes: {{ issuer: i, audience: \"\", jwks: {good} }} }}]"),
            "`audience` is empty",
        ),
        ("attestors: [{ okta: {} }]".to_owned(), "okta"),
        (
            "attestors: [{ oidc: { issuer: i, paths: /x } }]".to_owned(),
            "paths",
        ),
    ] {
        fs::write(&file, &text).unwrap();
        let keys = dir.path().join("ca").display().to_string();
        let (well, said) = run(&[
            "ca",
            "--trust-domain",
            "shop.local",
            "--bind",
            "127.0.0.1:0",
            "--dir",
            &keys,
            "--attestors",
            &file.display().to_string(),
        ]);
        assert!(!well && said.contains(wanted), "{text}: {said}");
        assert!(said.contains("attestors.yaml"), "{said}");
    }
}
