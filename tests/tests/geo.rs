//! Callers by the country of their address, from a database that a reload replaces.

use selvedge_tests::mmdb::countries;
use selvedge_tests::{Raw, Selvedge, Upstream};

fn from(proxy: &Selvedge, path: &str, address: &str) -> u16 {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n"
    ));
    client.reply().status
}

#[test]
fn callers_pass_by_country() {
    let app = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("countries.mmdb");
    let networks = [
        ("192.0.2.0", 24, "DE"),
        ("198.51.100.0", 25, "FR"),
        ("2001:db8::", 32, "DE"),
    ];
    std::fs::write(&file, countries(&networks)).unwrap();
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, trustedHops: 1 }}]
geo: {{ database: $DIR/countries.mmdb }}
policies:
  in: {{ allow: [{{ countries: [DE, AT] }}] }}
  out: {{ deny: [{{ countries: [FR] }}] }}
  said: {{ allow: [{{ when: \"source.country in ['DE', '']\" }}] }}
routes:
  - rules:
      - {{ matches: [{{ path: /in }}], policies: [in], backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: /out }}], policies: [out], backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: /said }}], policies: [said], backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        app.address()
    );
    let proxy = Selvedge::start_in(dir, "gateway", &config, 1);
    for (address, inside, outside, said) in [
        ("192.0.2.7", 200, 200, 200),
        ("2001:db8::7", 200, 200, 200),
        ("::ffff:192.0.2.7", 200, 200, 200),
        ("198.51.100.7", 403, 403, 403),
        // Nobody knows where these are.
        ("198.51.100.200", 403, 200, 200),
        ("203.0.113.7", 403, 200, 200),
    ] {
        assert_eq!(from(&proxy, "/in", address), inside, "{address}");
        assert_eq!(from(&proxy, "/out", address), outside, "{address}");
        assert_eq!(from(&proxy, "/said", address), said, "{address}");
    }
    // Replaced whole, as those who write such files do.
    let new = proxy.dir().join("new.mmdb");
    std::fs::write(&new, countries(&[("203.0.113.0", 24, "AT")])).unwrap();
    std::fs::rename(&new, &file).unwrap();
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(from(&proxy, "/in", "203.0.113.7"), 200);
    assert_eq!(from(&proxy, "/in", "192.0.2.7"), 403);
    // One that is none changes nothing.
    std::fs::write(&new, "no database").unwrap();
    std::fs::rename(&new, &file).unwrap();
    proxy.wait_for_metric("selvedge_config_reload_failures_total", &[], 1.0);
    assert_eq!(from(&proxy, "/in", "203.0.113.7"), 200);
}
