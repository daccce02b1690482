//! One trace across gateway, both sidecars and a retry, as an OTLP collector receives it; and
//! WebSocket across the mesh, where it changes form twice.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use selvedge_tests::certs::Leaf;
use selvedge_tests::{PATIENCE, Raw, Selvedge, TestCa, Upstream, gateway, sidecar};
use tempfile::TempDir;
use tonic::{Request, Response, Status};

struct Collector(Mutex<Sender<Span>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let sender = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for resource in request.into_inner().resource_spans {
            for scope in resource.scope_spans {
                for span in scope.spans {
                    let _ = sender.send(span);
                }
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn collector() -> (SocketAddr, Receiver<Span>) {
    let (sender, spans) = channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(Collector(Mutex::new(sender))))
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
                .await
        })
    });
    (address, spans)
}

/// Gateway, web sidecar and orders sidecar in front of an application, with this telemetry.
struct Mesh {
    _dir: TempDir,
    _orders: Selvedge,
    _web: Selvedge,
    gateway: Selvedge,
}

fn identity(dir: &TempDir, ca: &TestCa, name: &str) -> String {
    let leaf: Leaf = ca.svid(&format!("spiffe://shop.local/ns/shop/sa/{name}"));
    let (certificate, key) = leaf.write(dir.path(), name);
    let bundle = dir.path().join("bundle.pem");
    std::fs::write(&bundle, ca.bundle()).unwrap();
    let (bundle, certificate, key) = (bundle.display(), certificate.display(), key.display());
    format!(
        "identity: {{ trustDomain: shop.local, bundle: {bundle}, certificate: {certificate}, key: {key} }}"
    )
}

/// you -> gateway -> web's inbound -> (as its application) web's outbound -> orders -> app.
fn mesh(app: &Upstream, telemetry: &str) -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    let orders = sidecar(&format!(
        "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\" }}]\n{telemetry}",
        identity(&dir, &ca, "orders"),
        app.address()
    ));
    // Behind web's inbound port is its own outbound port, in place of an application that calls
    // orders: what it would pass on, it passes on.
    let web_out = sidecar(&format!(
        "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{}} }} }}\n{telemetry}",
        identity(&dir, &ca, "web"),
        orders.address("inbound-0")
    ));
    let gateway = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: out }}] }}] }}]
services: {{ out: {{ endpoints: [\"{}\"] }} }}
{telemetry}",
        web_out.address("outbound")
    ));
    Mesh {
        _dir: dir,
        _orders: orders,
        _web: web_out,
        gateway,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|a| a.key == key)?;
    Some(format!("{:?}", found.value.as_ref()?.value.as_ref()?))
}

#[test]
fn one_trace_across_gateway_and_both_sidecars() {
    let (address, spans) = collector();
    let app = Upstream::answering("ok");
    let telemetry =
        format!("telemetry: {{ tracing: {{ endpoint: \"http://{address}\", sample: 0 }} }}");
    let mesh = mesh(&app, &telemetry);
    let mut client = Raw::connect(mesh.gateway.address("web"));
    // Not sampled: a root at 0 %, and a parent that says no. Sampled: a parent that says yes.
    client.send("GET /unsampled HTTP/1.1\r\nHost: orders\r\n\r\n");
    assert_eq!(client.reply().status, 200);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    client.send(format!(
        "GET /traced?q=1 HTTP/1.1\r\nHost: orders\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n"
    ));
    assert_eq!(client.reply().status, 200);

    let deadline = Instant::now() + PATIENCE;
    let mut got: Vec<Span> = Vec::new();
    while got.len() < 3 {
        let left = deadline.saturating_duration_since(Instant::now());
        got.push(spans.recv_timeout(left).expect("three spans"));
    }
    assert!(
        got.iter().all(|s| hex(&s.trace_id) == trace),
        "only what is sampled is exported"
    );
    // Each is the child of the one before: gateway, outbound, inbound.
    let child = |parent: &str| {
        let found = got.iter().find(|s| hex(&s.parent_span_id) == parent);
        found.unwrap_or_else(|| panic!("no child of {parent}"))
    };
    let first = child("00f067aa0ba902b7");
    let second = child(&hex(&first.span_id));
    let third = child(&hex(&second.span_id));
    assert!(
        attribute(first, "selvedge.listener")
            .unwrap()
            .contains("web")
    );
    assert!(
        attribute(second, "selvedge.listener")
            .unwrap()
            .contains("outbound")
    );
    assert!(
        attribute(third, "selvedge.listener")
            .unwrap()
            .contains("inbound")
    );
    assert!(
        attribute(third, "tls.client.spiffe_id")
            .unwrap()
            .contains("/sa/web")
    );
    assert!(
        attribute(first, "http.response.status_code")
            .unwrap()
            .contains("200")
    );
    assert!(attribute(first, "url.path").unwrap().contains("/traced"));
    // The application got the last of them as its parent, and the unsampled one as unsampled.
    let seen = app.all();
    let passed = format!("00-{trace}-{}-01", hex(&third.span_id));
    assert!(seen.contains(&passed), "{seen}");
    let unsampled = seen
        .split("GET /traced")
        .next()
        .unwrap()
        .to_ascii_lowercase();
    let parent = unsampled
        .split("traceparent: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    assert!(parent.ends_with("-00"), "{parent}");
}

#[test]
fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let away = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let app = Upstream::answering("ok");
    let telemetry =
        format!("telemetry: {{ tracing: {{ endpoint: \"http://{away}\", sample: 100 }} }}");
    let mesh = mesh(&app, &telemetry);
    let mut client = Raw::connect(mesh.gateway.address("web"));
    for _ in 0..200 {
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
        assert_eq!(client.reply().status, 200);
    }
    let deadline = Instant::now() + PATIENCE;
    while mesh.gateway.metric("selvedge_span_drops_total", &[]) < 1.0 {
        assert!(Instant::now() < deadline, "drops are not counted");
    }
}

#[test]
fn a_websocket_crosses_the_mesh() {
    let app = Upstream::scripted(|connection| {
        let request = connection.request().unwrap_or_default();
        let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
        assert!(request.contains("upgrade: websocket"), "{request}");
        assert!(request.contains("sec-websocket-key: "), "{request}");
        connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: chat\r\n\r\n");
        while let Some(byte) = connection.exactly(1) {
            connection.send([byte[0].to_ascii_uppercase()]);
        }
    });
    let mesh = mesh(&app, "");
    let mut client = Raw::connect(mesh.gateway.address("web"));
    client.send("GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let reply = client.reply();
    assert_eq!(reply.status, 101);
    assert_eq!(
        reply.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(reply.header("sec-websocket-protocol"), Some("chat"));
    client.send("hello");
    assert_eq!(client.until("HELLO"), "HELLO");
}
