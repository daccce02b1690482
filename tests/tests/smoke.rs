//! One request through the gateway.

use selvedge_tests::{Raw, Upstream, gateway};

#[test]
fn a_request_goes_through() {
    let upstream = Upstream::answering("hello");
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..3 {
        let reply = client.get("/x");
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    }
    assert_eq!(
        upstream.seen().len(),
        1,
        "one upstream connection is used again"
    );
    proxy.wait_for_metric("selvedge_requests_total", &["class=\"2xx\""], 3.0);
}
