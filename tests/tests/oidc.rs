//! Login by OpenID Connect with a real provider, the npm package `oidc-provider`: by its forms, by
//! its grants, and with a browser.

use selvedge_tests::acme::free_port;
use selvedge_tests::node::Node;
use selvedge_tests::oidc::Provider;
use selvedge_tests::visitor::Visitor;
use selvedge_tests::{Selvedge, Upstream};
use serde_json::{Value, json};

/// A key of a session.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A gateway's place: its port is known before it listens, since the provider has to know it.
struct Place {
    port: u16,
    origin: String,
    app: Upstream,
}

impl Place {
    fn new() -> Self {
        let port = free_port();
        // Shows what it was told of the user.
        let app = Upstream::scripted(|connection| {
            while let Some(request) = connection.request() {
                let request = String::from_utf8_lossy(&request).into_owned();
                let name = request
                    .lines()
                    .find_map(|l| l.strip_prefix("X-User-Name: "));
                let path = request.split(' ').nth(1).unwrap_or_default();
                let body = format!("<p>{path} for {}</p>", name.unwrap_or("nobody"));
                let length = body.len();
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{body}"
                ));
            }
        });
        Self {
            port,
            origin: format!("http://127.0.0.1:{port}"),
            app,
        }
    }

    fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// A gateway that asks `issuer` as this client.
    fn gateway(&self, issuer: &str, client: &str, more: &str) -> Selvedge {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("keys"), KEY).unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
        let secret = match client {
            "public" => "",
            _ => "clientSecretFile: $DIR/secret,",
        };
        let config = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: {} }}]
policies:
  login:
    oidc: {{ issuer: \"{issuer}\", clientId: {client}, {secret} sessionKeyFile: $DIR/keys,
      scopes: [openid, profile], claimsToHeaders: [{{ claim: name, header: X-User-Name }}], {more} }}
routes: [{{ policies: [login], rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
",
            self.port,
            self.app.address()
        );
        Selvedge::start_in(dir, "gateway", &config, 2)
    }
}

#[test]
fn a_user_logs_in_and_the_application_knows_who() {
    let place = Place::new();
    let provider = Provider::start(&place.origin, 3600);
    for client in ["basic", "post", "public"] {
        let _proxy = place.gateway(&provider.issuer, client, "");
        let mut visitor = Visitor::new();
        let form = visitor.open(&place.url("/orders?page=2&next=//evil"));
        assert!(form.url.starts_with(&provider.issuer), "{form:?}");
        let page = visitor.log_in(&form, "ann");
        assert_eq!(
            page.url,
            place.url("/orders?page=2&next=//evil"),
            "{client}"
        );
        // The name came by the userinfo endpoint: this provider's ID tokens have none.
        assert!(
            page.reply.text().contains("for Ms ann"),
            "{}",
            page.reply.text()
        );
        assert_eq!(visitor.cookies(&place.authority()), ["selvedge_session"]);
        // Scripts and other programs too, once there is a session; forged names go.
        let fields = "X-User-Name: root\r\nx_user_name: root\r\nCookie: own=1\r\n";
        let reply = visitor.ask("POST", &place.url("/api"), fields, "").reply;
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "<p>/api for Ms ann</p>")
        );
    }
    let got = place.app.all();
    assert!(
        !got.contains("root") && !got.contains("selvedge_session"),
        "{got}"
    );
    assert!(got.contains("own=1"), "{got}");
}

#[test]
fn tabs_log_in_beside_each_other() {
    let place = Place::new();
    let provider = Provider::start(&place.origin, 3600);
    let _proxy = place.gateway(&provider.issuer, "basic", "");
    let mut visitor = Visitor::new();
    let first = visitor.get(&place.url("/first"));
    let second = visitor.get(&place.url("/second"));
    let form = visitor.follow(first);
    let page = visitor.log_in(&form, "ann");
    assert_eq!(page.url, place.url("/first"));
    // The other tab goes on: the issuer knows the user by now.
    let page = visitor.follow(second);
    assert_eq!(page.url, place.url("/second"));
    assert_eq!(visitor.cookies(&place.authority()), ["selvedge_session"]);
}

#[test]
fn a_session_outlives_the_process_and_holds_on_every_replica() {
    let place = Place::new();
    let provider = Provider::start(&place.origin, 3600);
    let proxy = place.gateway(&provider.issuer, "basic", "");
    let mut visitor = Visitor::new();
    let form = visitor.open(&place.url("/a"));
    visitor.log_in(&form, "ann");
    drop(proxy);
    // Another process, and nobody there to ask.
    let issuer = provider.issuer.clone();
    drop(provider);
    let _proxy = place.gateway(&issuer, "basic", "");
    let page = visitor.get(&place.url("/b"));
    assert_eq!(page.reply.text(), "<p>/b for Ms ann</p>");
}

#[test]
fn tokens_are_replaced_once_for_many_requests() {
    let place = Place::new();
    // Access tokens of 2 s are due after 2: a quarter of their life is no whole second.
    let provider = Provider::start(&place.origin, 2);
    let _proxy = place.gateway(&provider.issuer, "basic", "");
    let mut visitor = Visitor::new();
    let form = visitor.open(&place.url("/a"));
    visitor.log_in(&form, "ann");
    let first = visitor
        .cookie(&place.authority(), "selvedge_session")
        .unwrap()
        .to_owned();
    let begun = std::time::Instant::now();
    let mut asked = 0;
    while provider.granted("refresh_token") == 0 {
        assert!(begun.elapsed().as_secs() < 20, "never replaced");
        // Many at once with the same cookie. This provider takes a refresh token once, and ends
        // everything when it comes again.
        let replies: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                let mut visitor = visitor.clone();
                let url = place.url("/b");
                move || visitor.get(&url).reply
            };
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask())).collect();
            asking.into_iter().map(|a| a.join().unwrap()).collect()
        });
        asked += replies.len();
        assert!(replies.iter().all(|r| r.status == 200), "{replies:?}");
    }
    // Whoever has the first cookie goes on, also when those tokens have been replaced in turn.
    while provider.granted("refresh_token") < 3 {
        assert!(begun.elapsed().as_secs() < 20, "of {asked}");
        assert_eq!(visitor.clone().get(&place.url("/b")).reply.status, 200);
    }
    let page = visitor.get(&place.url("/c"));
    assert_eq!(page.reply.status, 200);
    assert_ne!(
        visitor.cookie(&place.authority(), "selvedge_session"),
        Some(&*first)
    );
    assert_eq!(page.reply.header("cache-control"), Some("no-store"));
}

#[test]
fn who_leaves_must_log_in_again() {
    let place = Place::new();
    let provider = Provider::start(&place.origin, 3600);
    let _proxy = place.gateway(&provider.issuer, "basic", "");
    let mut visitor = Visitor::new();
    let form = visitor.open(&place.url("/a"));
    visitor.log_in(&form, "ann");
    let leave = place.url("/oauth2/logout");
    // Other sites cannot do it.
    for (method, fields, status) in [
        ("GET", "Sec-Fetch-Site: cross-site\r\n", 200),
        ("GET", "", 200),
        ("POST", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("POST", "Origin: http://evil\r\n", 403),
        ("PUT", "Sec-Fetch-Site: same-origin\r\n", 405),
    ] {
        let page = visitor.ask(method, &leave, fields, "");
        assert_eq!(page.reply.status, status, "{method} {fields}");
        assert_eq!(visitor.get(&place.url("/b")).reply.status, 200);
    }
    let own = format!("Origin: {}\r\n", place.origin);
    let page = visitor.ask("POST", &leave, &own, "");
    let there = page.reply.header("location").unwrap().to_owned();
    assert_eq!(page.reply.status, 303);
    assert!(
        there.starts_with(&format!("{}/session/end?id_token_hint=", provider.issuer)),
        "{there}"
    );
    assert!(visitor.cookies(&place.authority()).is_empty());
    let page = visitor.follow(page);
    assert_eq!(page.reply.status, 200, "{page:?}");
    assert_eq!(visitor.get(&place.url("/b")).reply.status, 302);
}

/// A browser, and the last page that it showed.
struct Browser {
    node: Node,
}

impl Browser {
    fn start() -> Self {
        let mut node = Node::start("browser.mjs", &[]);
        node.wait_for("{\"ready\"");
        Self { node }
    }

    fn tell(&mut self, command: &Value) -> Value {
        self.node.say(&command.to_string());
        let line = self.node.wait_for("{");
        let page: Value = serde_json::from_str(&format!("{{{line}")).unwrap();
        assert_eq!(page["error"], Value::Null, "{command}: {page:#}");
        page
    }

    fn go(&mut self, url: &str) -> Value {
        self.tell(&json!({ "go": url }))
    }

    fn click(&mut self, what: &str) -> Value {
        self.tell(&json!({ "click": what }))
    }

    fn log_in(&mut self, name: &str) -> Value {
        self.tell(&json!({ "type": "input[name=login]", "text": name }));
        self.tell(&json!({ "type": "input[name=password]", "text": "x" }));
        self.click("button[type=submit]");
        // Consent.
        self.click("button[type=submit]")
    }
}

#[test]
fn a_browser_logs_in_stays_and_leaves() {
    let place = Place::new();
    let provider = Provider::start(&place.origin, 3600);
    let proxy = place.gateway(&provider.issuer, "basic", "");
    let mut browser = Browser::start();
    let url = place.url("/orders?page=2");
    let form = browser.go(&url);
    assert!(
        form["url"].as_str().unwrap().starts_with(&provider.issuer),
        "{form:#}"
    );
    let page = browser.log_in("ann");
    assert_eq!(page["url"], json!(url), "{page:#}");
    assert_eq!(page["text"], "/orders?page=2 for Ms ann");
    // The provider's are there too: cookies know no ports.
    let cookies = page["cookies"].as_array().unwrap().iter();
    let own: Vec<&str> = cookies
        .map(|name| name.as_str().unwrap())
        .filter(|name| name.starts_with("selvedge"))
        .collect();
    assert_eq!(own, ["selvedge_session"]);
    // A restart with the same keys.
    drop(proxy);
    let _proxy = place.gateway(&provider.issuer, "basic", "");
    let page = browser.go(&place.url("/later"));
    assert_eq!(page["text"], "/later for Ms ann");
    // Leaves, also at the issuer, and is asked to log in again.
    browser.go(&place.url("/oauth2/logout"));
    let page = browser.click("button[value=yes]");
    assert!(
        page["url"].as_str().unwrap().starts_with(&provider.issuer),
        "{page:#}"
    );
    let form = browser.go(&url);
    assert!(
        form["url"].as_str().unwrap().starts_with(&provider.issuer),
        "{form:#}"
    );
    let page = browser.log_in("bob");
    assert_eq!(page["text"], "/orders?page=2 for Ms bob");
}

#[test]
fn the_example_does_what_its_page_says() {
    let place = Place::new();
    let provider = Provider::start(&place.origin, 3600);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let text = std::fs::read_to_string(root.join("examples/oidc-login/gateway.yaml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys"), KEY).unwrap();
    std::fs::write(dir.path().join("secret"), "s3cret").unwrap();
    let mut config = text;
    for (from, to) in [
        ("https://id.example.com", provider.issuer.as_str()),
        ("clientId: shop", "clientId: basic"),
        ("/etc/selvedge/client-secret", "$DIR/secret"),
        ("/etc/selvedge/session-keys", "$DIR/keys"),
        (
            "0.0.0.0, port: 8080",
            &format!("127.0.0.1, port: {}", place.port),
        ),
        ("127.0.0.1:9001", &place.app.address().to_string()),
    ] {
        assert!(config.contains(from), "{from}");
        config = config.replace(from, to);
    }
    let _proxy = Selvedge::start_in(dir, "gateway", &config, 1);
    let mut visitor = Visitor::new();
    assert_eq!(visitor.get(&place.url("/assets/x.css")).reply.status, 200);
    let form = visitor.open(&place.url("/"));
    let page = visitor.log_in(&form, "ann");
    assert_eq!(page.reply.text(), "<p>/ for Ms ann</p>");
    assert!(place.app.all().contains("X-User: ann\r\n"));
}
