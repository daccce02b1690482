//! A root that is replaced, and those who are told of it late or in another way.

use std::path::Path;
use std::process::Command;

use selvedge_tests::authority::CaProcess;
use selvedge_tests::control_plane::until;
use selvedge_tests::process::{Selvedge, binary};
use selvedge_tests::python::judge;
use selvedge_tests::{Raw, Upstream};
use serde_json::Value;

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const INBOUND: &str = "inbound: [{ bind: 127.0.0.1, port: 0, app: \"127.0.0.1:9\" }]\n";

fn acknowledged(ca: &CaProcess, proxies: u64) {
    until("acknowledgements", || {
        let status = ca.status();
        (status["proxies"] == proxies && status["waiting"] == 0).then_some(())
    });
}

/// A CA that has places for this many followers.
fn with_few_places(keys: &Path, places: usize) -> CaProcess {
    // What is left of the files for others, see `cli/ca/serve.rs`.
    let files = (1152 + places).to_string();
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--nofile={files}:{files}"))
        .arg(binary());
    CaProcess::start_by(
        command,
        keys.to_owned(),
        &["--min-leaf-life", "1s", "--leaf-life", "3s"],
    )
}

#[test]
fn who_cannot_follow_hears_of_the_next_root_when_it_renews() {
    // It was given the root with its certificate and threw it away, and the CA took it for known.
    let dir = tempfile::tempdir().unwrap();
    let ca = with_few_places(&dir.path().join("ca"), 1);
    let app = Upstream::answering("ok");
    let inbound = format!(
        "inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]\n",
        app.address()
    );
    let orders = ca.sidecar(ORDERS, "", &inbound);
    acknowledged(&ca, 1);
    let outbound = format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{ identity: \"{ORDERS}\" }} }} }}\n",
        orders.address("inbound-0")
    );
    let web = ca.sidecar(WEB, "", &outbound);
    web.wait_for_log("too many followers");
    let (well, said) = ca.rotate(&["--wait"]);
    assert!(well, "{said}");
    web.wait_for_log("other roots are trusted too");
    let mut client = Raw::connect(web.address("outbound"));
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
    assert_eq!(client.reply().status, 200);
    // And it renews still.
    let renewals = || web.metric("selvedge_certificate_renewals_total", &[]);
    let before = renewals();
    until("renewals", || (renewals() > before + 1.5).then_some(()));
}

#[test]
fn the_application_has_a_certificate_under_the_new_root_soon() {
    // It was handed one under the old root until two thirds of its day were over.
    let ca = CaProcess::start(&[]);
    let sidecar: Selvedge = ca.sidecar(WEB, ", workloadApi: { socket: $DIR/api.sock }", INBOUND);
    let socket = sidecar.dir().join("api.sock").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let fetched = || -> Value {
        let told = judge(
            "workload.py",
            &["fetch", &socket, &dir.path().display().to_string()],
        );
        serde_json::from_str(&told).unwrap()
    };
    let first = fetched();
    acknowledged(&ca, 1);
    ca.step("prepare");
    acknowledged(&ca, 1);
    // Tokens of an application say nothing of what its sidecar trusts, and hold nothing up.
    ca.step("activate");
    until("a certificate under the new root", || {
        let own = sidecar.metric("selvedge_certificate_renewals_total", &[]);
        (own > 1.5 && fetched()["serial"] != first["serial"]).then_some(())
    });
    let (well, said) = ca.rotate(&["--step", "retire", "--force"]);
    assert!(well, "{said}");
    acknowledged(&ca, 1);
    assert_eq!(fetched()["id"], WEB);
}
