//! `selvedge check`: every mistake at once, each with place and remedy.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use selvedge_tests::process::binary;

fn check(text: &str, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    std::fs::write(&file, text).unwrap();
    Command::new(binary())
        .arg("check")
        .args(arguments)
        .arg(&file)
        .output()
        .unwrap()
}

/// Ten mistakes, one a line that ends in its number.
const MISTAKES: &str = r#"listeners:
  - { name: web, port: 8080, protcol: HTTP } # 1 unknown key
  - { name: web, port: 8081 } # 2 the name is taken
routes:
  - hostnames: ["shop example"] # 3 not a host name
    rules:
      - matches: [{ path: { type: Prefix, value: /a } }] # 4 unknown word
        backendRefs: [{ service: ordrs }] # 5 no such service
        timeouts: { request: 10 } # 6 not a duration
      - matches: [{ path: b }] # 7 not a path
        policies: [nobody] # 8 no such policy
        backendRefs: [{ service: orders, weight: 2000000 }] # 9 out of range
services:
  orders: { endpoints: ["orders:8080"] } # 10 not an address
"#;

#[test]
fn ten_mistakes_are_named_with_place_and_remedy() {
    let output = check(MISTAKES, &["--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut lines = Vec::new();
    for finding in found.as_array().unwrap() {
        assert_ne!(finding["remedy"], "", "{finding}");
        assert!(finding["column"].as_u64().unwrap() > 1, "{finding}");
        lines.push(finding["line"].as_u64().unwrap());
    }
    assert_eq!(lines, [2, 3, 5, 7, 8, 9, 10, 11, 12, 14]);
}

#[test]
fn a_mistake_of_form_causes_no_second_finding() {
    for text in [
        // Misspelt, but meant: the routes below find their service.
        "listeners: [{ name: a, port: 1 }]\nservces: { s: { endpoints: [\"1.2.3.4:5\"] } }\nroutes: [{ rules: [{ backendRefs: [{ service: s }] }] }]\n",
        // Cut out: what names it is not blamed.
        "listeners: [{ name: a, port: 1 }]\nservices: { s: 5 }\nroutes: [{ rules: [{ backendRefs: [{ service: s }] }] }]\n",
        // The only listener is broken: nobody says that there is none.
        "listeners: [{ name: a, port: many }]\n",
        "listeners: [{ port: 80 }]\n",
        "listeners: [{ name: a, port: 443, protocol: HTPS, tls: { certificates: [] } }]\n",
    ] {
        let output = check(text, &["--format", "json"]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let errors = found.as_array().unwrap().iter();
        let errors: Vec<_> = errors.filter(|f| f["severity"] == "error").collect();
        let more = text.contains("certificates: []");
        assert!(
            errors.len() == 1 || (more && errors.len() == 2),
            "{text}\n{found:#}"
        );
    }
}

#[test]
fn findings_read_like_a_compiler_s() {
    let output = check("listners:\n  - { name: web, port: 80 }\n", &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("error: unknown key `listners`"), "{text}");
    assert!(text.contains("gateway.yaml:1:1"), "{text}");
    assert!(text.contains("did you mean `listeners`?"), "{text}");
    assert!(text.contains("1 | listners:"), "{text}");
}

#[test]
fn what_else_is_refused() {
    for (text, wanted) in [
        (
            "listeners: [{ name: a, port: 1 }]\nlisteners: []\n",
            "is there twice",
        ),
        ("listeners: [{ name: a, port: 70000 }]\n", "out of range"),
        ("listeners: [{ port: 80 }]\n", "`name` is missing"),
        (
            "listeners: [{ name: a, port: 1 }]\npolicies: { \"a\\r\\nX: y\": { rateLimit: { rate: 1/s } } }\n",
            "is no name for a policy",
        ),
        ("listeners: { name: a }\n", "expected a list"),
        ("a: [b\n", "not valid YAML"),
        ("", "a gateway needs a listener"),
        (
            "listeners: [{ name: a, port: 443, protocol: HTTPS }]\n",
            "needs `tls`",
        ),
        (
            "limits: { body: 10Mb }\nlisteners: [{ name: a, port: 1 }]\n",
            "expected a size",
        ),
        (
            "listeners: [{ name: a, port: 1 }]\nservices: { s: { endpoints: [\"1.2.3.4:5\"], mesh: {} } }\n",
            "identity",
        ),
        (
            "listeners: [{ name: a, port: 1 }]\nroutes: [{ rules: [{ filters: [{ type: RequestRedirec }] }] }]\n",
            "did you mean `RequestRedirect`?",
        ),
    ] {
        let output = check(text, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(said.contains(wanted), "{text}\n{said}");
    }
}

/// Mistakes in `acme`, one a line that ends in its number.
const ACME_MISTAKES: &str = r#"acme:
  first:
    directory: http://ca.example/dir # 1 not https
    names: ["*.shop.example", shop.example, "10.0.0.1", a_b.example, SHOP.example] # 2 to 5
    contact: [ops@shop.example] # 6 not mailto:
    store: "" # 7 no store
    externalAccount: { keyId: a, keyFile: /nowhere/key } # 8 no such file
  two: { names: [], store: /tmp/x, challenge: http-01 } # 9 no name
  three: { names: [a.example] } # 10 no store
  four: { names: [a.example], store: /tmp/x, challenge: dns-01 } # 11 unknown word
listeners:
  - { name: a, port: 1, protocol: HTTPS, tls: { acme: frist } } # 12 no such entry
  - { name: b, port: 2, protocol: HTTPS, tls: {} } # 13 nothing to show
  - { name: c, port: 3, protocol: HTTPS, tls: { acme: first } }
  - { name: d, port: 4, protocol: HTTPS, tls: { acme: two } }
  - { name: e, port: 5, protocol: HTTPS, tls: { acme: three } }
  - { name: f, port: 6, protocol: HTTPS, tls: { acme: four } }
"#;

#[test]
fn mistakes_in_acme_are_named_with_place_and_remedy() {
    let output = check(ACME_MISTAKES, &["--format", "json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut lines = Vec::new();
    for finding in found.as_array().unwrap() {
        assert_ne!(finding["remedy"], "", "{finding}");
        if finding["severity"] == "error" {
            lines.push(finding["line"].as_u64().unwrap());
        }
    }
    assert_eq!(
        lines,
        [3, 4, 4, 4, 4, 5, 6, 7, 8, 9, 10, 12, 13],
        "{found:#}"
    );
    let said = String::from_utf8_lossy(&check(ACME_MISTAKES, &[]).stderr).into_owned();
    for wanted in [
        "neither challenge can prove a wildcard",
        "`10.0.0.1` is not a DNS host name",
        "`SHOP.example` is there twice",
        "did you mean `first`?",
    ] {
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
}

#[test]
fn acme_that_cannot_work_is_a_warning() {
    let text = "acme: { a: { names: [a.example], store: /tmp/x, challenge: http-01 }, b: { names: [b.example], store: /tmp/x } }
listeners: [{ name: a, port: 1, protocol: HTTPS, tls: { acme: a } }]
";
    let output = check(text, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("there is no HTTP listener"), "{said}");
    assert!(said.contains("no listener uses `b`"), "{said}");
}

/// A key as `sessionKeyFile` holds it.
const SESSION_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Mistakes in policies that ask an issuer, one a line that ends in its number. `$DIR` has the files
/// `key` and `empty`.
const LOGIN_MISTAKES: &str = r#"listeners: [{ name: a, port: 1 }]
policies:
  one: { oidc: { clientId: a, sessionKeyFile: $DIR/key,
      issuer: http://id.example, # 1 no TLS
      publicUrl: shop.example/x, # 2 not an origin
      callback: callback, # 3 not a path
      logout: "/out\"><script>", # 4 not a plain path
      afterLogout: //evil.example, # 5 another host
      cookie: "a b", # 6 not a name
      scopes: ["openid email"], # 7 two words
      sessionLife: 0s, # 8 nobody stays
      claimsToHeaders: [{ claim: a, header: Host }] } } # 9 not for this
  two: { oidc: { issuer: https://id.example, clientId: a,
      clientSecretFile: $DIR/empty, # 10 no secret
      sessionKeyFile: $DIR/empty } } # 11 no key
  three: { oidc: { issuer: https://id.example, sessionKeyFile: $DIR/key,
      clientId: "", # 12 nobody
      issuerCa: /nowhere, # 13 no file
      callback: /oauth2/logout } } # one path for two things, said at the policy
  four: { introspection: { clientId: a, clientSecretFile: $DIR/key,
      endpoint: http://id.example/introspect, # 14 no TLS
      scopes: [""] } } # 15 nothing
  five: { introspection: { endpoint: https://a/, clientId: a,
      clientSecretFile: /nowhere } } # 16 no file
"#;

#[test]
fn mistakes_in_logins_are_named_with_place_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), SESSION_KEY).unwrap();
    std::fs::write(dir.path().join("empty"), "\n").unwrap();
    let text = LOGIN_MISTAKES.replace("$DIR", &dir.path().display().to_string());
    let output = check(&text, &["--format", "json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut lines = Vec::new();
    for finding in found.as_array().unwrap() {
        assert_ne!(finding["remedy"], "", "{finding}");
        assert!(!finding.to_string().contains(SESSION_KEY), "{finding}");
        if finding["severity"] == "error" {
            lines.push(finding["line"].as_u64().unwrap());
        }
    }
    let wanted = [4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 21, 22, 24];
    assert_eq!(lines, wanted, "{found:#}");
}

/// Whether a configuration with a login is warned of.
fn is_warned_of(listener: &str, callback: &str, routes: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), SESSION_KEY).unwrap();
    let key = dir.path().join("key").display().to_string();
    let text = format!(
        "listeners: [{{ name: a, port: 1, {listener} }}]
policies: {{ in: {{ oidc: {{ issuer: \"https://i\", clientId: a, sessionKeyFile: {key}, {callback} }} }} }}
services: {{ s: {{ endpoints: [\"1.2.3.4:5\"] }} }}
routes: [{{ {routes} }}]
"
    );
    let output = check(&text, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said.contains("where its users come back")
}

#[test]
fn a_login_that_nobody_comes_back_from_is_a_warning() {
    let back = "backendRefs: [{ service: s }]";
    let below = "callback: /app/in, logout: /app/out";
    for (listener, callback, routes, warned) in [
        (
            "",
            "",
            format!("policies: [in], rules: [{{ {back} }}]"),
            false,
        ),
        (
            "",
            "",
            format!("rules: [{{ policies: [in], matches: [{{ path: /app }}], {back} }}]"),
            true,
        ),
        (
            "",
            below,
            format!("rules: [{{ policies: [in], matches: [{{ path: /app }}], {back} }}]"),
            false,
        ),
        (
            "",
            below,
            format!(
                "rules: [{{ policies: [in], matches: [{{ path: /app, method: POST }}], {back} }}]"
            ),
            true,
        ),
        (
            "",
            "",
            format!(
                "rules: [{{ policies: [in], matches: [{{ path: /app }}], {back} }}, {{ {back} }}]"
            ),
            true,
        ),
        (
            "",
            "",
            format!(
                "policies: [in], rules: [{{ matches: [{{ path: /app }}], {back} }}, {{ matches: [{{ path: /oauth2 }}], {back} }}]"
            ),
            false,
        ),
        (
            "policies: [in]",
            "",
            format!("rules: [{{ matches: [{{ path: /app }}], {back} }}]"),
            true,
        ),
        (
            "policies: [in]",
            "",
            format!("rules: [{{ {back} }}]"),
            false,
        ),
    ] {
        assert_eq!(
            is_warned_of(listener, callback, &routes),
            warned,
            "{listener} {callback} {routes}"
        );
    }
}

#[test]
fn shadowed_rules_are_a_warning() {
    let text = "listeners: [{ name: a, port: 1 }]
routes: [{ rules: [{ matches: [{ path: /a }], backendRefs: [{ service: s }] }, { matches: [{ path: /a/ }], backendRefs: [{ service: s }] }] }]
services: { s: { endpoints: [\"1.2.3.4:5\"] } }
";
    let output = check(text, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("warning: this match is never reached"),
        "{said}"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

#[test]
fn every_example_is_right() {
    // Secrets that examples name, and that no repository holds.
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("client-secret"), "s3cret").unwrap();
    std::fs::write(secrets.path().join("session-keys"), SESSION_KEY).unwrap();
    let at = format!("{}/", secrets.path().display());
    let mut checked = 0;
    for example in std::fs::read_dir(root().join("examples")).unwrap() {
        let dir = example.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()) {
            if file.extension().is_some_and(|e| e == "yaml") {
                let text = std::fs::read_to_string(&file).unwrap();
                let copy = secrets.path().join("config.yaml");
                std::fs::write(&copy, text.replace("/etc/selvedge/", &at)).unwrap();
                let output = Command::new(binary())
                    .arg("check")
                    .arg(&copy)
                    .current_dir(root())
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{}: {said}", file.display());
                assert!(
                    output.stdout.starts_with(b"ok:"),
                    "{}: one line",
                    file.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 7);
}

#[test]
fn generated_documents_are_fresh() {
    for (what, file) in [
        ("config", "docs/config.md"),
        ("schema", "docs/selvedge.schema.json"),
        ("end-codes", "docs/end-codes.md"),
    ] {
        let output = Command::new(binary())
            .args(["docs", what])
            .output()
            .unwrap();
        let fresh = String::from_utf8_lossy(&output.stdout).into_owned();
        let kept = std::fs::read_to_string(root().join(file)).unwrap();
        assert!(
            fresh == kept,
            "{file} is stale: `selvedge docs {what} > {file}`"
        );
    }
}
