//! Who calls, by passwords and by any of several proofs: from outside, with users made by the command
//! line.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use selvedge_tests::Reply;
use selvedge_tests::process::{binary, gateway};
use selvedge_tests::{Raw, Selvedge, Upstream};

fn set_password(file: &Path, user: &str, password: &str) -> bool {
    let mut command = Command::new(binary());
    command
        .args(["password", "--name", user, "--file"])
        .arg(file);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // A refused name ends it before it reads.
    let _ = writeln!(input, "{password}");
    drop(input);
    child.wait().unwrap().success()
}

fn new_key(file: &Path, name: &str) -> String {
    let mut command = Command::new(binary());
    command
        .args(["apikey", "new", "--name", name, "--file"])
        .arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn proxy(app: &Upstream, policies: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies:
  {policies}
routes:
  - rules: [{{ policies: [who], backendRefs: [{{ service: app }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        app.address()
    ))
}

fn ok() -> Upstream {
    Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

fn ask(proxy: &Selvedge, fields: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.reply()
}

fn basic(user: &str, password: &str) -> String {
    let token = STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {token}\r\n")
}

#[test]
fn passwords_open_the_door_and_stay_outside() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    assert!(set_password(&file, "ann", "old"));
    assert!(set_password(&file, "bob", "swordfish"));
    assert!(set_password(&file, "ann", "open sesame"));
    assert!(!set_password(&file, "a:b", "x") && !set_password(&file, "eve", ""));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    let app = ok();
    let proxy = proxy(
        &app,
        &format!(
            "who: {{ basic: {{ file: {}, realm: shop }} }}",
            file.display()
        ),
    );
    let good = basic("ann", "open sesame");
    let reply = ask(
        &proxy,
        &format!("{good}X-Consumer: root\r\nx_consumer: root\r\n"),
    );
    assert_eq!(reply.status, 200);
    // Remembered now, and no less right.
    assert_eq!(ask(&proxy, &good).status, 200);
    for wrong in [
        basic("ann", "old"),
        basic("ann", ""),
        basic("bob", "open sesame"),
        basic("eve", "open sesame"),
        format!("{good}{}", basic("bob", "swordfish")),
        "Authorization: Basic !\r\n".to_owned(),
        "Authorization: Bearer x\r\n".to_owned(),
        format!("Authorization: Basic {}\r\n", "A".repeat(8000)),
        String::new(),
    ] {
        let reply = ask(&proxy, &wrong);
        assert_eq!(reply.status, 401, "{wrong}");
        let challenge = reply.header("www-authenticate");
        assert_eq!(challenge, Some("Basic realm=\"shop\", charset=\"UTF-8\""));
    }
    let got = app.all();
    assert_eq!(got.matches("X-Consumer: ann\r\n").count(), 2, "{got}");
    assert!(
        !got.contains("root") && !got.contains("Authorization"),
        "{got}"
    );

    // A user who is taken away stays outside, remembered or not.
    let line = text.lines().find(|line| line.starts_with("bob")).unwrap();
    std::fs::write(&file, line).unwrap();
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(ask(&proxy, &good).status, 401);
    assert_eq!(ask(&proxy, &basic("bob", "swordfish")).status, 200);
}

#[test]
fn a_flood_of_passwords_waits_beside_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    assert!(set_password(&file, "ann", "open sesame"));
    let app = ok();
    let proxy = proxy(
        &app,
        &format!("who: {{ basic: {{ file: {} }} }}", file.display()),
    );
    assert_eq!(ask(&proxy, &basic("ann", "open sesame")).status, 200);
    let mut flood: Vec<Raw> = (0..30)
        .map(|_| Raw::connect(proxy.address("web")))
        .collect();
    for (index, client) in flood.iter_mut().enumerate() {
        let wrong = basic("ann", &index.to_string());
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{wrong}\r\n"));
    }
    // Who is known already does not wait for them: none of thirty hashes is ready as soon.
    assert_eq!(ask(&proxy, &basic("ann", "open sesame")).status, 200);
    for client in &mut flood {
        assert!(matches!(client.reply().status, 401 | 503));
    }
    // Two of argon2id's 19 MiB at a time, not thirty.
    assert!(proxy.peak() < 200 << 20, "{}", proxy.peak());
}

#[test]
fn of_several_ways_one_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (users, keys) = (dir.path().join("users"), dir.path().join("keys.json"));
    assert!(set_password(&users, "ann", "open sesame"));
    let key = new_key(&keys, "mobile");
    let app = ok();
    let proxy = proxy(
        &app,
        &format!(
            "password: {{ basic: {{ file: {}, nameHeader: X-User }} }}
  key: {{ apiKey: {{ file: {}, nameHeader: X-Key-Name }} }}
  who: {{ anyOf: [key, password] }}",
            users.display(),
            keys.display()
        ),
    );
    let forged = "X-User: root\r\nX-Key-Name: root\r\nx_user: root\r\n";
    let by_key = format!("X-API-Key: {key}\r\n");
    let by_password = basic("ann", "open sesame");
    assert_eq!(ask(&proxy, &format!("{by_key}{forged}")).status, 200);
    assert_eq!(ask(&proxy, &format!("{by_password}{forged}")).status, 200);
    // A way that fails is no reason against another.
    assert_eq!(
        ask(&proxy, &format!("X-API-Key: x\r\n{by_password}")).status,
        200
    );
    assert_eq!(
        ask(&proxy, &format!("{by_key}{}", basic("ann", "x"))).status,
        200
    );
    let got = app.all();
    assert!(!got.contains("root"), "{got}");
    assert_eq!(got.matches("X-Key-Name: mobile\r\n").count(), 2, "{got}");
    assert_eq!(got.matches("X-User: ann\r\n").count(), 2, "{got}");
    for wrong in ["", "X-API-Key: x\r\n", &basic("ann", "x")] {
        let reply = ask(&proxy, wrong);
        assert_eq!(reply.status, 401, "{wrong}");
        let all = reply.headers.iter();
        let told: Vec<&str> = all
            .filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"))
            .map(|(_, value)| &**value)
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
    }
}
