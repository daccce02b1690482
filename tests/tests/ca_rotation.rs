//! A root that is replaced: under load, step by step, across crashes of the CA.

use std::process::{Command, Stdio};

use selvedge_tests::authority::CaProcess;
use selvedge_tests::control_plane::until;
use selvedge_tests::process::Selvedge;
use selvedge_tests::{Raw, Upstream};

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
/// Certificates of two seconds, which are renewed in less.
const SHORT: [&str; 4] = ["--min-leaf-life", "1s", "--leaf-life", "2s"];

/// An application behind a sidecar, and a sidecar that calls it.
fn mesh(ca: &CaProcess, app: &Upstream) -> (Selvedge, Selvedge) {
    let inbound = format!(
        "inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]\nlimits: {{ requestsPerConnection: 200 }}\n",
        app.address()
    );
    let orders = ca.sidecar(ORDERS, "", &inbound);
    let outbound = format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{ identity: \"{ORDERS}\" }} }} }}\n",
        orders.address("inbound-0")
    );
    let web = ca.sidecar(WEB, "", &outbound);
    (orders, web)
}

fn ask(web: &Selvedge) -> u16 {
    let mut client = Raw::connect(web.address("outbound"));
    client.send("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n");
    client.reply().status
}

fn phase(ca: &CaProcess) -> String {
    ca.status()["rotation"]["phase"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn roots(ca: &CaProcess) -> usize {
    ca.bundle().matches("BEGIN CERTIFICATE").count()
}

/// Waits until every proxy has said that it has the bundle in force.
fn acknowledged(ca: &CaProcess, proxies: u64) {
    until("acknowledgements", || {
        let status = ca.status();
        let all = status["proxies"] == proxies && status["waiting"] == 0;
        all.then_some(())
    });
}

#[test]
fn three_roots_and_fifty_leaves_are_replaced_under_load() {
    let long = std::env::var_os("SELVEDGE_LONG").is_some();
    let ca = CaProcess::start(&SHORT);
    let app = Upstream::answering("ok");
    let (orders, web) = mesh(&ca, &app);
    let (seconds, renewals) = if long { (80, 50.0) } else { (25, 15.0) };
    let mut load = Command::new("h2load")
        .args(["--h1", "-c", "4", "--rps", "250"])
        .args(["-n", &(1000 * seconds).to_string()])
        .arg(format!("--connect-to={}", web.address("outbound")))
        .arg("http://orders/")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let first = ca.bundle();
    for rotation in 1..=3 {
        let (well, said) = ca.rotate(&["--wait"]);
        assert!(well, "{rotation}: {said}");
        assert_eq!((phase(&ca).as_str(), roots(&ca)), ("steady", 1));
    }
    assert_ne!(ca.bundle(), first);
    let early = load.try_wait().unwrap().is_some();
    let said = load.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(!early, "the load ended first: {said}");
    assert!(said.contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains(" 0 3xx, 0 4xx, 0 5xx"), "{said}");
    assert!(
        said.contains(&format!("{} succeeded", 1000 * seconds)),
        "{said}"
    );
    for proxy in [&orders, &web] {
        let renewed = proxy.metric("selvedge_certificate_renewals_total", &[]);
        assert!(renewed >= renewals, "{renewed} renewals");
        let failed = proxy.metric("selvedge_handshake_errors_total", &[]);
        assert!(failed.abs() < 0.5, "{failed} failed handshakes");
    }
    println!("{said}");
}

#[test]
fn steps_that_would_leave_somebody_behind_are_refused() {
    let ca = CaProcess::start(&[]);
    let app = Upstream::answering("ok");
    let (_orders, web) = mesh(&ca, &app);
    acknowledged(&ca, 2);
    let (well, said) = ca.rotate(&["--step", "retire"]);
    assert!(!well && said.contains("the rotation is steady"), "{said}");
    ca.step("prepare");
    assert_eq!((phase(&ca).as_str(), roots(&ca)), ("prepared", 2));
    acknowledged(&ca, 2);

    // Somebody who has a certificate, and cannot say what it trusts.
    web.signal("STOP");
    ca.step("abort");
    ca.step("prepare");
    let (well, said) = ca.rotate(&["--step", "activate"]);
    let want = "1 of 2 proxies have not acknowledged the new bundle";
    assert!(!well && said.contains(want), "{said}");
    let status = ca.status();
    assert_eq!(status["waitingFor"][0]["id"], WEB);
    assert_eq!(status["rotation"]["ready"], false);
    web.signal("CONT");
    acknowledged(&ca, 2);
    ca.step("activate");
    let (well, said) = ca.rotate(&[]);
    let want = "certificates under the old root are valid until 20";
    assert!(!well && said.contains(want), "{said}");
    assert_eq!(ask(&web), 200);

    // Back, as safely as forward; and by force.
    ca.step("abort");
    assert_eq!((phase(&ca).as_str(), roots(&ca)), ("activated", 2));
    let (well, said) = ca.rotate(&["--step", "retire", "--force"]);
    assert!(well, "{said}");
    assert_eq!((phase(&ca).as_str(), roots(&ca)), ("steady", 1));
    assert_eq!(ask(&web), 200);
}

#[test]
fn a_rotation_goes_on_after_a_crash_at_every_step() {
    let mut ca = CaProcess::start(&SHORT);
    let app = Upstream::answering("ok");
    let (orders, web) = mesh(&ca, &app);
    let crash = |ca: &mut CaProcess, expected: &str, count: usize| {
        let before = ca.bundle();
        ca.crash();
        assert_eq!((phase(ca).as_str(), roots(ca)), (expected, count));
        assert_eq!(ca.bundle(), before);
        acknowledged(ca, 2);
        assert_eq!(ask(&web), 200);
    };
    crash(&mut ca, "steady", 1);
    let first = ca.bundle();
    ca.step("prepare");
    crash(&mut ca, "prepared", 2);
    ca.step("activate");
    crash(&mut ca, "activated", 2);
    assert!(ca.bundle().ends_with(&first), "the new root comes first");
    until("the old certificates' end", || {
        let (well, said) = ca.rotate(&["--step", "retire"]);
        assert!(well || said.contains("are valid until"), "{said}");
        well.then_some(())
    });
    crash(&mut ca, "steady", 1);
    assert!(!ca.bundle().contains(&first));
    // The old root's key is gone, and nothing else is left of it.
    assert!(!ca.keys().join("root.key").exists());
    assert!(ca.keys().join("1").join("root.key").exists());
    drop(orders);
}

#[test]
fn whoever_joins_late_has_to_acknowledge_too() {
    let ca = CaProcess::start(&[]);
    let stale = ca.bundle();
    ca.step("prepare");
    let app = Upstream::answering("ok");
    let (_orders, _web) = mesh(&ca, &app);
    acknowledged(&ca, 2);
    // Its file says nothing of the new root: the CA does.
    let dir = tempfile::tempdir().unwrap();
    let config = ca.identity(dir.path(), ORDERS, "");
    std::fs::write(dir.path().join("bundle.pem"), stale).unwrap();
    let config = config + "inbound: [{ bind: 127.0.0.1, port: 0, app: \"127.0.0.1:9\" }]\n";
    let mut late = Selvedge::start_in(dir, "sidecar", &config, 1);
    late.wait_for("other roots are trusted now");
    acknowledged(&ca, 3);
    ca.step("activate");
}

#[test]
fn the_way_to_another_ca_is_found_by_file_and_token() {
    // A CA that was lost, and one that took its place: what the first one said last counts no more.
    let mut ca = CaProcess::start(&SHORT);
    let dir = tempfile::tempdir().unwrap();
    let config = ca.identity(dir.path(), ORDERS, "")
        + "inbound: [{ bind: 127.0.0.1, port: 0, app: \"127.0.0.1:9\" }]\n";
    let mut sidecar = Selvedge::start_in(dir, "sidecar", &config, 1);
    sidecar.wait_for("certificate obtained");
    acknowledged(&ca, 1);
    ca.lose();
    let _ = ca.identity(sidecar.dir(), ORDERS, "");
    sidecar.skip_log();
    sidecar.wait_for_next("certificate obtained");
    acknowledged(&ca, 1);
}
