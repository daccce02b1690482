//! A root that is replaced: under load, step by step, across crashes of the CA.

use std::process::{Command, Stdio};

use selvedge_tests::authority::CaProcess;
use selvedge_tests::ca_client::{Client, Shown};
use selvedge_tests::certs::Leaf;
use selvedge_tests::control_plane::until;
use selvedge_tests::oidc::{Signer, unix_now};
use selvedge_tests::process::Selvedge;
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::{Raw, TlsPeer, Upstream};

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
/// Certificates of two seconds, which are renewed in less.
const SHORT: [&str; 4] = ["--min-leaf-life", "1s", "--leaf-life", "2s"];
/// Where the CA is away in between, on a machine that may be busy: who has no certificate left when it is back has
/// no way to prove who he is.
const CALM: [&str; 4] = ["--min-leaf-life", "1s", "--leaf-life", "8s"];

/// An application behind a sidecar, and a sidecar that calls it.
fn mesh(ca: &CaProcess, app: &Upstream) -> (Selvedge, Selvedge) {
    let inbound = format!(
        "inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]\nlimits: {{ requestsPerConnection: 200 }}\n",
        app.address()
    );
    let orders = ca.sidecar(ORDERS, "", &inbound);
    // h2load does not go on at its rate over a connection that took the place of one that ended:
    // the caller's own connections live for as long as it calls.
    let outbound = format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}\nlimits: {{ requestsPerConnection: 1000000 }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{ identity: \"{ORDERS}\" }} }} }}\n",
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
    // By force it is taken, and says who was left behind.
    let (well, said) = ca.rotate(&["--step", "activate", "--force"]);
    let want = format!(
        "left behind       1 of 2 proxies, which had not acknowledged the bundle\n  {WEB} "
    );
    assert!(well && said.contains(&want), "{said}");
    ca.step("abort");
    let (well, said) = ca.rotate(&["--step", "retire", "--force"]);
    assert!(well, "{said}");
    web.signal("CONT");
    acknowledged(&ca, 2);
    ca.step("prepare");
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
    assert!(
        !ca.keys().join("1").exists(),
        "the aborted root's key is gone"
    );
    assert_eq!(ask(&web), 200);
}

#[test]
fn a_rotation_goes_on_after_a_crash_at_every_step() {
    let mut ca = CaProcess::start(&CALM);
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
fn what_a_crash_leaves_half_written_is_cleared_away() {
    // Of a step that never was: the next start found a directory that it could not remove.
    let mut ca = CaProcess::start(&[]);
    let left = |name: &str, ca: &CaProcess| {
        let dir = ca.keys().join("1");
        let _ = std::fs::create_dir(&dir);
        std::fs::write(dir.join(name), "").unwrap();
    };
    left("jwt.key.tmp", &ca);
    left("root.next.key.tmp", &ca);
    ca.crash();
    assert!(!ca.keys().join("1").exists());
    // What is somebody else's is kept, and in nobody's way.
    left("backup.tar", &ca);
    ca.crash();
    assert!(ca.keys().join("1/backup.tar").exists());
    ca.step("prepare");
    ca.step("abort");
    assert_eq!((phase(&ca).as_str(), roots(&ca)), ("steady", 1));
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
    late.wait_for("other roots are trusted");
    acknowledged(&ca, 3);
    ca.step("activate");
}

#[test]
fn the_way_to_another_ca_is_found_by_file_and_token() {
    // A CA that was lost, and one that took its place: what the first one said last counts no more.
    let mut ca = CaProcess::start(&CALM);
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

#[test]
fn a_retired_root_is_refused_at_once_and_its_connections_end_within_the_minute() {
    let ca = CaProcess::start(&[]);
    let app = Upstream::answering("ok");
    let (orders, web) = mesh(&ca, &app);
    // Somebody who has not heard of anything: a certificate of a day under the old root.
    let leaf = |shown: Shown| Leaf {
        certificate: shown.chain[..2].concat(),
        key: shown.key,
    };
    let client = || Client::new(ca.address(), &ca.bundle());
    let old = leaf(client().join(&ca.token(WEB)));
    let inbound = orders.address("inbound-0");
    let mut idle = TlsPeer::connect(inbound, Some(&old), "http/1.1").unwrap();
    assert_eq!(idle.get(), Outcome::Answered(200));
    ca.step("prepare");
    acknowledged(&ca, 2);
    // It cannot say which bundle it has, so it would be waited out.
    let (well, said) = ca.rotate(&["--step", "activate"]);
    assert!(
        !well && said.contains("callers that cannot say which bundle they have"),
        "{said}"
    );
    let (well, said) = ca.rotate(&["--step", "activate", "--force"]);
    assert!(well, "{said}");
    let new = leaf(client().join(&ca.token(WEB)));
    let mut kept = TlsPeer::connect(inbound, Some(&new), "http/1.1").unwrap();
    assert_eq!(kept.get(), Outcome::Answered(200));
    assert_eq!(TlsPeer::ask(inbound, Some(&old)), Outcome::Answered(200));
    // The proxies renew within their spread of 20 s, without being due.
    until("renewal under the new root", || {
        let renewed =
            |proxy: &Selvedge| proxy.metric("selvedge_certificate_renewals_total", &[]) > 1.5;
        (renewed(&orders) && renewed(&web)).then_some(())
    });
    let (well, said) = ca.rotate(&["--step", "retire", "--force"]);
    assert!(well, "{said}");
    let begun = std::time::Instant::now();
    until("refusal of the old root", || {
        (TlsPeer::ask(inbound, Some(&old)) != Outcome::Answered(200)).then_some(())
    });
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    let _ = idle.rest(std::time::Duration::from_secs(60));
    assert_eq!(kept.get(), Outcome::Answered(200));
    assert_eq!(ask(&web), 200);
    println!(
        "connections of the old root ended after {:?}",
        begun.elapsed()
    );
}

#[test]
fn whoever_has_a_retired_root_does_not_pass_for_the_ca() {
    // The file that the proxy began with has that root still: nobody has written it since.
    let mut ca = CaProcess::start(&CALM);
    let inbound = "inbound: [{ bind: 127.0.0.1, port: 0, app: \"127.0.0.1:9\" }]\n";
    let sidecar = ca.sidecar(ORDERS, "", inbound);
    acknowledged(&ca, 1);
    let stolen = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(copied.unwrap().success());
    };
    copy(&ca.keys(), &stolen.path().join("ca"));
    let (well, said) = ca.rotate(&["--wait"]);
    assert!(well, "{said}");
    acknowledged(&ca, 1);
    let trusted = || sidecar.get("admin", "/certificates").1;
    let changes = || {
        let log = sidecar.log();
        log.iter()
            .filter(|line| line.contains("other roots are trusted"))
            .count()
    };
    let before = changes();
    let fresh = ca.bundle();
    ca.kill();
    std::fs::remove_dir_all(ca.keys()).unwrap();
    copy(&stolen.path().join("ca"), &ca.keys());
    ca.start_again();
    ca.process().wait_for_log("handshake failed");
    until("its certificate's end", || {
        (sidecar.get("health", "/ready").0 == 503).then_some(())
    });
    // It has tried with its certificate and with its token, and nobody has had either.
    assert_eq!(changes(), before, "{}", trusted());
    let log = ca.process().log().join("\n");
    assert!(!log.contains("certificate request"), "{log}");
    // A CA that was restored from a backup looks just like that: the operator, whose file has had the root in
    // force, writes the other one into it again.
    let mut sidecar = sidecar;
    std::fs::write(sidecar.dir().join("bundle.pem"), fresh).unwrap();
    sidecar.wait_for_log("generation=2");
    let _ = ca.identity(sidecar.dir(), ORDERS, "");
    sidecar.skip_log();
    sidecar.wait_for_next("certificate obtained");
    acknowledged(&ca, 1);
}

#[test]
fn a_ca_that_is_away_is_missed_when_certificates_end_and_found_when_it_is_back() {
    // TL-10: until then all is well, after it nothing passes, and soon after its return all is well.
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::new("cluster");
    let keys = dir.path().join("keys.json");
    let set = serde_json::json!({ "keys": [signer.jwk()] });
    std::fs::write(&keys, set.to_string()).unwrap();
    let file = dir.path().join("attestors.yaml");
    let text = format!(
        "attestors: [{{ kubernetes: {{ issuer: c, audience: ca, jwks: {} }} }}]",
        keys.display()
    );
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let more = [
        "--min-leaf-life",
        "1s",
        "--leaf-life",
        "5s",
        "--attestors",
        &file,
    ];
    let mut ca = CaProcess::start(&more);
    let app = Upstream::answering("ok");
    let join = |account: &str, config: &str| {
        let dir = tempfile::tempdir().unwrap();
        let token = signer.sign(&serde_json::json!({ "iss": "c", "aud": "ca",
            "exp": unix_now() + 600, "sub": format!("system:serviceaccount:shop:{account}") }));
        let config = ca.identity_by(dir.path(), &token, "") + config;
        let mut sidecar = Selvedge::start_in(dir, "sidecar", &config, 1);
        sidecar.wait_for("certificate obtained");
        sidecar
    };
    let inbound = format!(
        "inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]\nlimits: {{ requestsPerConnection: 1 }}\n",
        app.address()
    );
    let orders = join("orders", &inbound);
    let web = join(
        "web",
        &format!(
            "outbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{ identity: \"{ORDERS}\" }} }} }}\n",
            orders.address("inbound-0")
        ),
    );
    assert_eq!(ask(&web), 200);
    ca.kill();
    assert_eq!(ask(&web), 200);
    until("the certificates' end", || (ask(&web) == 503).then_some(()));
    // That of the other side may have ended a moment before its own.
    let unready = || web.get("health", "/ready").0 == 503;
    until("its own", || unready().then_some(()));
    ca.start_again();
    let begun = std::time::Instant::now();
    until("certificates", || (ask(&web) == 200).then_some(()));
    assert!(begun.elapsed().as_secs() <= 5, "{:?}", begun.elapsed());
}
