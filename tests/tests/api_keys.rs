//! API keys from outside: made by the command line, found in header, query and cookie, with plans,
//! taken away by a reload; the application learns the name and never the key.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use selvedge_tests::process::{binary, gateway};
use selvedge_tests::{Raw, Selvedge, Upstream};

fn new_key(file: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.args(["apikey", "new", "--file"]).arg(file);
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn proxy(app: &Upstream, file: &Path) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies:
  keys: {{ apiKey: {{ file: {}, header: X-API-Key, query: key, cookie: k }} }}
  plans: {{ rateLimit: {{ key: apiKey, rate: 1/hour, plans: {{ pro: {{ rate: 3/hour }} }} }} }}
routes:
  - rules:
      - {{ matches: [{{ path: /limited }}], policies: [keys, plans], backendRefs: [{{ service: app }}] }}
      - {{ policies: [keys], backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        file.display(),
        app.address()
    ))
}

fn ask(proxy: &Selvedge, target: &str, fields: &str) -> u16 {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.reply().status
}

#[test]
fn a_key_opens_the_door_and_stays_outside() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let ann = new_key(&file, &["--name", "ann", "--plan", "pro"]);
    let old = new_key(&file, &["--name", "old", "--ttl", "0s"]);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("ann") && !kept.contains(&ann[4..]), "{kept}");

    let app = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = proxy(&app, &file);
    let header = format!("x-api-key: {ann}\r\n");
    assert_eq!(
        ask(
            &proxy,
            "/header",
            &(header.clone() + "X-Consumer: root\r\nX_Consumer: root\r\nX_API_KEY: x\r\n")
        ),
        200
    );
    assert_eq!(ask(&proxy, &format!("/query?a=1&key={ann}&b=2"), ""), 200);
    assert_eq!(
        ask(&proxy, "/cookie", &format!("Cookie: a=1; k={ann}\r\n")),
        200
    );
    let got = app.all();
    assert_eq!(got.matches("X-Consumer: ann\r\n").count(), 3, "{got}");
    assert!(got.contains("GET /query?a=1&b=2 HTTP/1.1"), "{got}");
    assert!(
        !got.contains("root") && !got.to_lowercase().contains("api_key"),
        "{got}"
    );
    assert_eq!(
        got.matches(&ann[..]).count(),
        1,
        "only the cookie is passed on: {got}"
    );

    for (id, target, fields) in [
        ("none", "/", String::new()),
        ("expired", "/", format!("X-API-Key: {old}\r\n")),
        ("cut", "/", format!("X-API-Key: {}\r\n", &ann[..60])),
        (
            "a wrong one first",
            &*format!("/?key={ann}"),
            "X-API-Key: no\r\n".to_owned(),
        ),
        ("two cookies", "/", format!("Cookie: k=1; k={ann}\r\n")),
        ("long", "/", format!("X-API-Key: {}\r\n", "a".repeat(5000))),
    ] {
        assert_eq!(ask(&proxy, target, &fields), 401, "{id}");
    }
    assert_eq!(app.all().len(), got.len(), "nothing of these got through");
}

#[test]
fn plans_limit_and_a_key_can_be_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let free = new_key(&file, &["--name", "free"]);
    let pro = new_key(&file, &["--name", "pro", "--plan", "pro"]);
    let app = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = proxy(&app, &file);
    let times = |key: &str, count: usize| -> Vec<u16> {
        let fields = format!("X-API-Key: {key}\r\n");
        (0..count)
            .map(|_| ask(&proxy, "/limited", &fields))
            .collect()
    };
    assert_eq!(times(&free, 2), [200, 429]);
    assert_eq!(times(&pro, 4), [200, 200, 200, 429]);

    let text = std::fs::read_to_string(&file).unwrap();
    let mut store: serde_json::Value = serde_json::from_str(&text).unwrap();
    store["keys"].as_array_mut().unwrap().remove(0);
    std::fs::write(&file, store.to_string()).unwrap();
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    let fields = format!("X-API-Key: {free}\r\n");
    assert_eq!(ask(&proxy, "/", &fields), 401);
    assert_eq!(times(&pro, 1), [429], "the others' limits go on");
}
