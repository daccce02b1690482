//! What `selvedge check` says of policies that cannot work, or not as they are meant.

use std::process::Command;

use selvedge_tests::process::binary;

/// What it says of this, with `$DIR` for a directory of its own that holds `short`, a secret of five
/// bytes, `long`, one of twenty, and `users`, which is no file of users.
fn said(text: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    for (name, text) in [
        ("short", "short"),
        ("long", "01234567890123456789"),
        ("users", "ann:{SHA}x"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let text = text.replace("$DIR", &dir.path().display().to_string());
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let output = command.arg("check").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    (output.status.success(), said)
}

#[test]
fn what_looks_at_callers_that_nobody_finds_is_a_warning() {
    let (fine, said) = said(
        "listeners: [{ name: web, port: 8080, policies: [each] }]
policies:
  each: { rateLimit: { key: jwt.sub, rate: 1/s } }
  plans: { concurrency: { max: 1, plans: { pro: 5 } } }
  pro: { allow: [{ plans: [pro] }] }
  keys: { signature: { form: message, keys: { a: { secretFile: $DIR/long } } } }
  who: { anyOf: [keys, other] }
  other: { signature: { form: message, keys: { b: { secretFile: $DIR/long } } } }
  shown: { clientCertificate: {} }
  any: { allow: [{}] }
routes:
  - rules:
      - { matches: [{ path: /a }], policies: [plans], backendRefs: [{ service: app }] }
      - { matches: [{ path: /b }], policies: [who, pro], backendRefs: [{ service: app }] }
      - { matches: [{ path: /c }], policies: [shown, any], backendRefs: [{ service: app }] }
services: { app: { endpoints: [\"127.0.0.1:1\"] } }
",
    );
    assert!(fine, "{said}");
    for (want, count) in [
        ("`each` looks at a token", 1),
        ("`plans` looks at a caller's name or plan", 1),
        ("`pro` looks", 0),
        ("`shown` asks for a certificate", 1),
        ("this fits every request", 1),
    ] {
        assert_eq!(said.matches(want).count(), count, "{want}\n{said}");
    }
}

#[test]
fn proofs_that_prove_nothing_are_refused() {
    let (fine, said) = said(
        "listeners:
  - name: web
    port: 8080
    protocol: HTTPS
    tls: { certificates: [], clientCertificates: { ca: $DIR/none } }
policies:
  basic: { basic: { file: $DIR/users, realm: 'a\"b' } }
  names: { clientCertificate: { names: [shop.example], fingerprints: [abc] } }
  short: { signature: { form: gitHub, secretFiles: [$DIR/short] } }
  none: { signature: { form: stripe } }
  mixed: { signature: { form: message, secretFiles: [$DIR/long], keys: { a: { secretFile: $DIR/long } } } }
  one: { anyOf: [names] }
  odd: { anyOf: [names, cors, nmes] }
  cors: { cors: { allowOrigins: [\"https://a.example\"] } }
  still: { bandwidth: {} }
  slow: { bandwidth: { response: 10/s } }
  nobody: { concurrency: { max: 0 } }
  first: { cache: {} }
  second: { cache: {} }
  far: { allow: [{ countries: [Germany] }] }
  said: { allow: [{ when: \"source.country != 'RU'\" }] }
  void: { allow: [{ consumers: [] }, { methods: [], paths: [/a] }] }
  loose: { clientCertificate: { names: [\"dns:*partner.example\"] } }
routes: [{ rules: [{ policies: [first, second], backendRefs: [{ service: app }] }] }]
services: { app: { endpoints: [\"127.0.0.1:1\"] } }
",
    );
    assert!(!fine);
    for want in [
        "line 1: expected a hash of argon2id",
        "not a realm",
        "`shop.example` is no name of a certificate",
        "`abc` is no fingerprint",
        "a secret of 5 bytes is found by trial",
        "nobody could sign",
        "`secretFiles` is not of this form",
        "nothing to choose from",
        "`cors` does not ask who calls",
        "did you mean `names`?",
        "a policy that slows nothing down",
        "`10/s` cannot be read",
        "nothing would ever pass",
        "`second` takes the place of one before it",
        "two capital letters such as `DE`",
        "`dns:*partner.example` is no name",
        "an empty `consumers` asks for nothing",
        "an empty `methods` asks for nothing",
        "no certificate",
    ] {
        assert_eq!(said.matches(want).count(), 1, "{want}\n{said}");
    }
    assert_eq!(
        said.matches("nothing says where addresses are").count(),
        2,
        "{said}"
    );
}

#[test]
fn identities_that_are_denied_on_a_permissive_port_are_a_warning() {
    let ask = |inbound: &str, deny: &str| {
        said(&format!(
            "identity: {{ trustDomain: shop.local, ca: \"https://127.0.0.1:1\", bundle: $DIR/none, token: $DIR/none }}
inbound: [{{ bind: 127.0.0.1, port: 9080, app: \"127.0.0.1:1\", policies: [out]{inbound} }}]
policies: {{ out: {{ {deny} }} }}
"
        ))
    };
    let warning = "`out` denies identities, and a permissive port lets in callers without one";
    let principal = "deny: [{ principals: [\"spiffe://shop.local/ns/jobs/*\"] }]";
    for (inbound, deny, warned) in [
        (", mtls: permissive", principal, true),
        (", mtls: permissive", "deny: [{ namespaces: [jobs] }]", true),
        (
            ", mtls: permissive",
            "deny: [{ paths: [/a], trustDomains: [shop.local] }]",
            true,
        ),
        (", mtls: permissive", "deny: [{ paths: [/admin] }]", false),
        (
            ", mtls: permissive",
            "allow: [{ namespaces: [shop] }]",
            false,
        ),
        (", mtls: strict", principal, false),
        ("", principal, false),
    ] {
        let (fine, said) = ask(inbound, deny);
        assert!(fine, "{deny}: {said}");
        assert_eq!(said.contains(warning), warned, "{inbound} {deny}: {said}");
        if warned {
            let remedy = "set `mtls: strict`, or `allow` those who may call";
            assert!(said.contains(remedy) && said.contains(".yaml:2:"), "{said}");
        }
    }
}
