//! What a reload made of services that it changed.

use std::time::Instant;

use selvedge_tests::{PATIENCE, Raw, Upstream, gateway};

/// Who was left alone got requests again, as many as it takes to see that it fails.
#[test]
fn an_ejected_endpoint_is_still_ejected_after_a_reload() {
    let bad = Upstream::replying("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let good = Upstream::answering("b");
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\", \"{}\"], balance: roundRobin, ejection: {{ consecutive: 2, base: 60s }} }} }}",
        bad.address(),
        good.address()
    ));
    let ask = || Raw::connect(proxy.address("web")).get("/").status;
    for _ in 0..6 {
        let _ = ask();
    }
    let ejected = || proxy.metric("selvedge_service_endpoints_ejected", &[]);
    assert_eq!(ejected(), 1.0);
    let seen = bad.all().len();
    // The service is another, at another weight of its endpoint, and another again.
    proxy.reload(|text| text.replace("base: 60s", "base: 50s"));
    assert_eq!(ejected(), 1.0);
    proxy.reload(|text| {
        let short = format!("\"{}\"", bad.address());
        let long = format!("{{ address: {short}, weight: 3 }}");
        text.replace(&short, &long)
    });
    assert_eq!(ejected(), 1.0);
    for _ in 0..20 {
        assert_eq!(ask(), 200);
    }
    assert_eq!(bad.all().len(), seen);
}

/// Until its name had been resolved again, a service that was changed had no endpoint.
#[test]
fn a_service_by_name_is_there_from_the_first_request_after_a_reload() {
    let upstream = Upstream::answering("b");
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ dns: localhost., port: {}, idleTimeout: 3s }} }}",
        upstream.address().port()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    let deadline = Instant::now() + PATIENCE;
    while client.get("/").status != 200 {
        assert!(Instant::now() < deadline, "the name is not resolved");
    }
    for seconds in 4..12 {
        let before = format!("idleTimeout: {}s", seconds - 1);
        proxy.reload(|text| text.replace(&before, &format!("idleTimeout: {seconds}s")));
        assert_eq!(client.get("/").status, 200);
    }
}
