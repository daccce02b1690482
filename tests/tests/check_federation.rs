//! Mistakes in `identity.federation` are told with file, line and key.

use std::path::Path;
use std::process::Command;

use selvedge_tests::process::binary;
use selvedge_tests::trusting::Trusting;
use selvedge_tests::{TestCa, Upstream};

/// A sidecar that trusts `partner.example`.
fn federated() -> (Trusting, Upstream) {
    let (own, app) = (TestCa::new(), Upstream::answering("ok"));
    let bundle = TestCa::named("partner").bundle();
    let federated = ", federation: [{ trustDomain: partner.example, bundle: $DIR/partner.pem }]";
    let files = [("partner.pem", &*bundle)];
    let mesh = Trusting::start(&own, &own.bundle(), (federated, "", ""), &files, &app);
    (mesh, app)
}

#[test]
fn mistakes_are_told_with_their_place() {
    let (mesh, _app) = federated();
    let config = mesh.path("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let at = text.find("federation: [").unwrap();
    let end = at + text[at..].find(']').unwrap() + 1;
    let web = "trustDomain: a.example, endpoint: \"https://a.example/\"";
    for (wrong, key, why) in [
        (
            "trustDomain: shop.local, bundle: $DIR/bundle.pem",
            "[0].trustDomain",
            "is there already",
        ),
        (
            "trustDomain: A.example, bundle: $DIR/bundle.pem",
            "[0].trustDomain",
            "is not valid",
        ),
        ("trustDomain: a.example", "[0]", "add `bundle: FILE`"),
        (
            "trustDomain: a.example, bundle: $DIR/none",
            "[0].bundle",
            "No such file",
        ),
        (
            "trustDomain: a.example, bundle: $DIR/orders.key",
            "[0].bundle",
            "neither a SPIFFE bundle",
        ),
        (
            "trustDomain: a.example, bundle: $DIR/bundle.pem, ca: a",
            "[0].ca",
            "there is no endpoint",
        ),
        (
            "trustDomain: a.example, endpoint: \"http://a/\"",
            "[0].endpoint",
            "https://",
        ),
        (
            &format!("{web}, endpointId: \"spiffe://a.example/x\""),
            "[0].endpointId",
            "https_spiffe",
        ),
        (
            &format!("{web}, profile: https_spiffe"),
            "[0]",
            "add `endpointId",
        ),
        (
            &format!("{web}, profile: https_spiffe, endpointId: \"spiffe://a.example/x\""),
            "[0].endpointId",
            "vouch for itself",
        ),
        (
            &format!("{web}, profile: https_spiffe, endpointId: \"spiffe://shop.locl/x\""),
            "[0].endpointId",
            "did you mean `shop.local`",
        ),
        (&format!("{web}, ca: $DIR/none"), "[0].ca", "No such file"),
    ] {
        let wrong = format!("federation: [{{ {wrong} }}]");
        let wrong = wrong.replace("$DIR", &mesh.path("").display().to_string());
        let path = mesh.path("wrong.yaml");
        std::fs::write(&path, text.replace(&text[at..end], &wrong)).unwrap();
        let said = check(&path);
        assert!(said.contains(why), "{wrong}: {said}");
        assert!(
            said.contains(&format!("key: identity.federation{key}")),
            "{wrong}: {said}"
        );
        assert!(said.contains("wrong.yaml:1:"), "{said}");
    }
}

#[test]
fn a_service_of_a_domain_that_nobody_has_heard_of() {
    let (mesh, _app) = federated();
    let text = std::fs::read_to_string(mesh.path("config.yaml")).unwrap();
    let path = mesh.path("wrong.yaml");
    let service = "services: { a: { endpoints: [\"127.0.0.1:1\"], mesh: { identity: \"spiffe://partner.exampl/x\" } } }";
    std::fs::write(&path, format!("{text}\n{service}\n")).unwrap();
    let said = check(&path);
    assert!(said.contains("did you mean `partner.example`"), "{said}");
}

fn check(config: &Path) -> String {
    let output = Command::new(binary()).arg("check").arg(config).output();
    let output = output.unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
