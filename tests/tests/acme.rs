//! Certificates by ACME, obtained from a real directory: pebble.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use selvedge_tests::acme::{Pebble, Prepared, s_client};
use selvedge_tests::acme_front::{Asked, Front};
use selvedge_tests::acme_place::{
    Place, TWO, is_verified, orders, wait_issued, wait_until, wait_within,
};
use selvedge_tests::{PATIENCE, Raw, Selvedge, gateway};

/// Obtains both certificates and looks at them as a stranger would.
fn both_names_come(place: &Place, more: &str) -> (Pebble, Selvedge) {
    let pebble = Pebble::start(place.setup);
    let proxy = place.start(&pebble, &format!("{TWO}, {more}"));
    wait_issued(&proxy, &["a.example", "b.example"]);
    let root = pebble.root();
    for name in ["a.example", "b.example"] {
        let seen = s_client(proxy.address("tls"), name, &root, &[]);
        assert!(seen.contains("Verify return code: 0 (ok)"), "{seen}");
        // The chain is whole: leaf and intermediate.
        let shown = seen
            .split(
                "Server certificate
",
            )
            .next()
            .unwrap();
        assert_eq!(shown.matches("-----BEGIN CERT").count(), 2, "{seen}");
        let labels = [format!("name=\"{name}\"")];
        let end = proxy.metric("selvedge_acme_certificate_expiry_seconds", &[&labels[0]]);
        assert!(end > 1.7e9, "{end}");
    }
    (pebble, proxy)
}

#[test]
fn two_names_come_by_http_01() {
    let place = Place::new();
    let (_pebble, proxy) = both_names_come(&place, "challenge: http-01");
    let (_, shown) = proxy.get("admin", "/certificates");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["acme"]["public"]["a.example"]["state"], "issued");
    // Challenges are closed, and files are for their owner only.
    use std::os::unix::fs::PermissionsExt;
    let mut files = Vec::new();
    files_below(&proxy.dir().join("store"), &mut files);
    assert!(
        files
            .iter()
            .all(|f| !f.display().to_string().contains("challenges"))
    );
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
}

fn files_below(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            files_below(&entry, found);
        } else {
            found.push(entry);
        }
    }
}

#[test]
fn two_names_come_by_tls_alpn_01() {
    let place = Place::new();
    let (pebble, proxy) = both_names_come(&place, "challenge: tls-alpn-01");
    // Ordinary traffic on the same port, h2 by ALPN.
    let seen = s_client(
        proxy.address("tls"),
        "a.example",
        &pebble.root(),
        &["-alpn", "h2"],
    );
    assert!(seen.contains("ALPN protocol: h2"), "{seen}");
}

#[test]
fn nonces_that_are_refused_are_asked_for_again() {
    let mut place = Place::new();
    place.setup.bad_nonces = 15;
    let pebble = Pebble::start(place.setup);
    let proxy = place.start(&pebble, "names: [a.example], challenge: http-01");
    wait_issued(&proxy, &["a.example"]);
}

#[test]
fn an_account_can_be_bound_to_an_external_one() {
    let mut place = Place::new();
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    place.setup.external = Some(("kid-1", key));
    let pebble = Pebble::start(place.setup);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let external = format!(
        "externalAccount: {{ keyId: kid-1, keyFile: {} }}",
        file.display()
    );
    let proxy = place.start(&pebble, &format!("names: [a.example], {external}"));
    wait_issued(&proxy, &["a.example"]);
}

#[test]
fn a_restart_uses_the_store_and_orders_nothing() {
    let place = Place::new();
    let pebble = Pebble::start(place.setup);
    let shared = tempfile::tempdir().unwrap();
    let store = shared.path().join("store").display().to_string();
    let config = place.config(&pebble.directory(), &pebble.ca(), &store, TWO);
    let proxy = gateway(&config);
    wait_issued(&proxy, &["a.example", "b.example"]);
    drop(proxy);
    let before = pebble.issued();
    let root = pebble.root();
    let proxy = gateway(&config);
    // Shown from the first handshake on.
    for name in ["a.example", "b.example"] {
        assert!(is_verified(&proxy, name, &root), "{name}");
        assert!((orders(&proxy, name, "issued")).abs() < 0.5);
    }
    assert_eq!((before, pebble.issued()), (2, 2));
}

#[test]
fn a_reload_keeps_certificates_and_obtains_for_new_names() {
    let place = Place::new();
    let pebble = Pebble::start(place.setup);
    let config = |names: &str| {
        let text = place.config(&pebble.directory(), &pebble.ca(), "$DIR/store", names);
        text + "admin: { bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }\n"
    };
    let proxy = gateway(&config("names: [a.example]"));
    wait_issued(&proxy, &["a.example"]);
    let text = config(TWO).replace("$DIR", &proxy.dir().display().to_string());
    std::fs::write(proxy.dir().join("config.yaml"), text).unwrap();
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    let root = pebble.root();
    assert!(is_verified(&proxy, "a.example", &root));
    wait_issued(&proxy, &["b.example"]);
    assert!(is_verified(&proxy, "b.example", &root));
    assert_eq!(pebble.issued(), 2);
}

#[test]
fn until_the_directory_comes_up_a_self_signed_certificate_is_shown() {
    let place = Place::new();
    let pebble = Prepared::new(place.setup);
    let (directory, ca) = (pebble.directory(), pebble.ca());
    let proxy = gateway(&place.config(&directory, &ca, "$DIR/store", "names: [a.example]"));
    wait_until("a failure", || orders(&proxy, "a.example", "failed") >= 1.0);
    let seen = s_client(proxy.address("tls"), "a.example", &ca, &[]);
    assert!(
        seen.contains("CONNECTED") && seen.contains("self-signed"),
        "{seen}"
    );
    let (_, shown) = proxy.get("admin", "/certificates");
    assert!(
        shown.contains("self-signed") && shown.contains("lastError"),
        "{shown}"
    );
    // The plain port, too, works as ever.
    assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 200);
    let pebble = pebble.start();
    wait_issued(&proxy, &["a.example"]);
    assert!(is_verified(&proxy, "a.example", &pebble.root()));
}

#[test]
fn a_directory_that_has_lost_the_account_gets_a_new_one() {
    let place = Place::new();
    let pebble = Pebble::start(place.setup);
    let shared = tempfile::tempdir().unwrap();
    let store = shared.path().display().to_string();
    let config = |names: &str| place.config(&pebble.directory(), &pebble.ca(), &store, names);
    let (one, two) = (config("names: [a.example]"), config(TWO));
    let proxy = gateway(&one);
    wait_issued(&proxy, &["a.example"]);
    drop(proxy);
    let pebble = pebble.again();
    let proxy = gateway(&two);
    wait_issued(&proxy, &["b.example"]);
    assert!(is_verified(&proxy, "b.example", &pebble.root()));
    assert!(orders(&proxy, "b.example", "failed") < 0.5);
}

#[test]
fn a_proof_that_fails_is_logged_with_the_directory_s_problem() {
    let place = Place::new();
    let pebble = Pebble::start(place.setup);
    // Not where the directory looks.
    let more = "names: [a.example], challenge: http-01";
    let (directory, ca) = (pebble.directory(), pebble.ca());
    let mut proxy = gateway(&place.config_at(0, 0, &directory, &ca, "$DIR/store", more));
    let line = proxy.wait_for("no certificate; the one in use stays");
    assert!(line.contains("urn:ietf:params:acme:error:"), "{line}");
    assert!((orders(&proxy, "a.example", "failed") - 1.0).abs() < 0.5);
    // The directory counts failures: it is a minute at least.
    let pause: f64 = line
        .split("retry_in=")
        .nth(1)
        .unwrap()
        .split('s')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((60.0..=75.1).contains(&pause), "{line}");
}

#[test]
fn two_replicas_with_one_store_order_once() {
    let place = Place::new();
    let pebble = Pebble::start(place.setup);
    let shared = tempfile::tempdir().unwrap();
    let store = shared.path().display().to_string();
    let more = format!("{TWO}, challenge: http-01");
    let (directory, ca) = (pebble.directory(), pebble.ca());
    // Only one of them is where the directory looks: it must answer what the other has ordered.
    let seen = place.config(&directory, &ca, &store, &more);
    let unseen = place.config_at(0, 0, &directory, &ca, &store, &more);
    let replicas = [gateway(&unseen), gateway(&seen)];
    let root = pebble.root();
    for replica in &replicas {
        for name in ["a.example", "b.example"] {
            wait_until(name, || is_verified(replica, name, &root));
        }
    }
    let count = |outcome| -> f64 {
        let all = replicas.iter();
        all.map(|r| r.metric("selvedge_acme_orders_total", &[outcome]))
            .sum()
    };
    assert!((count("outcome=\"issued\"") - 2.0).abs() < 0.5);
    assert!(count("outcome=\"failed\"") < 0.5);
    assert_eq!(pebble.issued(), 2);
    assert!(
        orders(&replicas[0], "a.example", "issued") > 0.5,
        "the unseen one was first"
    );
}

#[test]
fn a_replica_that_is_killed_while_it_orders_holds_up_nobody() {
    let place = Place::new();
    let pebble = Pebble::start(place.setup);
    let hangs = Arc::new(AtomicBool::new(false));
    let hung = hangs.clone();
    let judge = Box::new(move |asked: &Asked| {
        // The first order hangs, with the lock held.
        if asked.payload["csr"].is_string() && !hung.swap(true, Ordering::SeqCst) {
            std::thread::park();
        }
        None
    });
    let front = Front::start(Some(&pebble), judge, Box::new(|_, json| json));
    let shared = tempfile::tempdir().unwrap();
    let store = shared.path().display().to_string();
    let more = "names: [a.example], challenge: http-01";
    let (directory, ca) = (front.directory(), front.ca());
    let killed = gateway(&place.config(&directory, &ca, &store, more));
    let mut found = Vec::new();
    wait_until("an open challenge", || {
        found.clear();
        files_below(shared.path(), &mut found);
        found
            .iter()
            .any(|f| f.display().to_string().contains("/challenges/"))
    });
    wait_until("the order", || hangs.load(Ordering::SeqCst));
    killed.signal("KILL");
    drop(killed);
    let next = gateway(&place.config(&directory, &ca, &store, more));
    wait_issued(&next, &["a.example"]);
    assert!(is_verified(&next, "a.example", &pebble.root()));
    found.clear();
    files_below(shared.path(), &mut found);
    assert!(
        !found
            .iter()
            .any(|f| f.display().to_string().contains("/challenges/")),
        "{found:?}"
    );
}

#[test]
fn renewal_under_load_fails_no_handshake() {
    let mut place = Place::new();
    // Pebble may ask for pauses of five seconds in an order, and this machine may be busy: a third of
    // the life must be enough for both.
    place.setup.life = 60;
    let pebble = Pebble::start(place.setup);
    let proxy = place.start(&pebble, "names: [a.example]");
    wait_issued(&proxy, &["a.example"]);
    let (root, address) = (pebble.root(), proxy.address("tls"));
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seen = s_client(address, "a.example", &root, &[]);
                    assert!(seen.contains("Verify return code: 0 (ok)"), "{seen}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let renewed = &mut || orders(&proxy, "a.example", "issued") >= 2.0;
        wait_within(PATIENCE * 5, "a renewal", renewed);
        let before = done.load(Ordering::Relaxed);
        wait_until("more", || done.load(Ordering::Relaxed) > before + 20);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(done.load(Ordering::Relaxed) > 50);
    assert!(orders(&proxy, "a.example", "failed") < 0.5);
}

#[test]
fn a_window_that_has_begun_renews_and_says_what_is_replaced() {
    let mut place = Place::new();
    // Short enough that two orders may follow each other in seconds.
    place.setup.life = 300;
    let pebble = Pebble::start(place.setup);
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let replaced: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let (windows, seen) = (asked.clone(), replaced.clone());
    // The first certificate is to be replaced at once, the second in years.
    let judge = Box::new(move |request: &Asked| {
        let id = request.line.strip_prefix("GET /ari/")?.to_owned();
        let mut asked = windows.lock().unwrap();
        let (start, end) = match asked.first() {
            Some(first) if *first != id => ("2040-01-01T00:00:00Z", "2040-01-02T00:00:00Z"),
            _ => ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"),
        };
        asked.push(id);
        let body = format!("{{\"suggestedWindow\":{{\"start\":\"{start}\",\"end\":\"{end}\"}}}}");
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nRetry-After: 21600\r\nContent-Length:";
        Some(format!("{head} {length}\r\n\r\n{body}").into_bytes())
    });
    let edit = Box::new(move |request: &Asked, mut json: serde_json::Value| {
        if let Some(nonce) = json["newNonce"].as_str() {
            let base = nonce.split("/nonce").next().unwrap().to_owned();
            json["renewalInfo"] = format!("{base}/ari").into();
        }
        let replaces = &request.payload["replaces"];
        if replaces.is_string() {
            seen.lock().unwrap().push(replaces.clone());
            json["replaces"] = replaces.clone();
        }
        json
    });
    let front = Front::start(Some(&pebble), judge, edit);
    let proxy = gateway(&place.config(
        &front.directory(),
        &front.ca(),
        "$DIR/store",
        "names: [a.example]",
    ));
    wait_until("a renewal", || orders(&proxy, "a.example", "issued") >= 2.0);
    wait_until("the second window", || asked.lock().unwrap().len() >= 2);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(*replaced.lock().unwrap(), [serde_json::json!(asked[0])]);
    assert_ne!(asked[0], asked[1]);
    assert_eq!(pebble.issued(), 2);
    let (_, shown) = proxy.get("admin", "/certificates");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    wait_until("the plan", || {
        let (_, shown) = proxy.get("admin", "/certificates");
        !shown.contains("\"renewAt\": \"2020")
    });
    assert_eq!(
        shown["acme"]["public"]["a.example"]["lastError"],
        serde_json::Value::Null
    );
}

#[test]
fn the_example_does_what_its_page_says() {
    let place = Place::new();
    let pebble = Pebble::start(place.setup);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("examples/acme/gateway.yaml")).unwrap();
    let directory = "https://acme-staging-v02.api.letsencrypt.org/directory";
    for needed in [
        directory,
        "port: 80 ",
        "port: 443",
        "store: /var/lib/selvedge/acme",
    ] {
        assert!(text.contains(needed), "{needed}");
    }
    let ca = format!(
        "{}\n    directoryCa: {}",
        pebble.directory(),
        pebble.ca().display()
    );
    let text = text
        .replace(directory, &ca)
        .replace("port: 80 ", &format!("port: {} ", place.setup.http))
        .replace("port: 443", &format!("port: {}", place.setup.tls))
        .replace("store: /var/lib/selvedge/acme", "store: $DIR/store")
        .replace("0.0.0.0", "127.0.0.1");
    let proxy = gateway(&text);
    wait_issued(&proxy, &["shop.example.com", "www.shop.example.com"]);
    assert!(is_verified(&proxy, "www.shop.example.com", &pebble.root()));
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET /a HTTP/1.1\r\nHost: shop.example.com\r\n\r\n");
    assert_eq!(client.reply().status, 301);
}
