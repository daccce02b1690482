//! A service that decides over gRPC whether requests may pass, from outside: a server made with tonic,
//! and one that answers with anything.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use selvedge_contract::authz::attribute_context::HttpRequest;
use selvedge_contract::authz::authorization_server::{Authorization, AuthorizationServer};
use selvedge_contract::authz::check_response::HttpResponse;
use selvedge_contract::authz::header_value_option::HeaderAppendAction;
use selvedge_contract::authz::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue,
    HeaderValueOption, HttpStatus, Message, OkHttpResponse, Status as Code,
};
use selvedge_tests::http2::{data, headers};
use selvedge_tests::http2_upstream::{Asked, Peer, answer};
use selvedge_tests::process::gateway;
use selvedge_tests::{Http2Upstream, Raw, Reply, Selvedge, Upstream};
use tonic::{Request, Response, Status};

/// Decides by the header `x-pass`, and keeps what it was asked.
#[derive(Clone, Default)]
struct Deciding(Arc<Mutex<Vec<AttributeContext>>>);

fn header(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        append: None,
        append_action: action as i32,
    }
}

fn letting_in() -> CheckResponse {
    use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists};
    let mut appended = header("X-List", "two", AppendIfExistsOrAdd);
    appended.append = Some(true);
    CheckResponse {
        status: Some(Code { code: 0 }),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![
                header("X-User", "ann", AppendIfExistsOrAdd),
                appended,
                header("X-List", "three", AddIfAbsent),
                header("X-None", "1", OverwriteIfExists),
                header("Host", "evil", AppendIfExistsOrAdd),
            ],
            headers_to_remove: vec!["X-Token".to_owned(), "Host".to_owned()],
            response_headers_to_add: vec![header("X-Checked", "yes", AppendIfExistsOrAdd)],
        })),
    }
}

#[tonic::async_trait]
impl Authorization for Deciding {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap();
        let asked = http(&attributes).headers.get("x-pass").cloned();
        self.0.lock().unwrap().push(attributes);
        let answer = match asked.as_deref() {
            Some("yes") => letting_in(),
            Some("broken") => return Err(Status::unavailable("later")),
            Some("nothing") => CheckResponse::default(),
            // Longer than is read.
            Some("flood") => CheckResponse {
                status: Some(Code { code: 7 }),
                http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                    body: "x".repeat(100_000),
                    ..DeniedHttpResponse::default()
                })),
            },
            _ => CheckResponse {
                status: Some(Code { code: 16 }),
                http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code: 401 }),
                    headers: vec![header(
                        "WWW-Authenticate",
                        "Bearer",
                        HeaderAppendAction::AppendIfExistsOrAdd,
                    )],
                    body: "who?".to_owned(),
                })),
            },
        };
        Ok(Response::new(answer))
    }
}

fn http(attributes: &AttributeContext) -> &HttpRequest {
    attributes.request.as_ref().unwrap().http.as_ref().unwrap()
}

impl Deciding {
    fn serve(&self) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = AuthorizationServer::new(self.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
                    .await
            })
        });
        address
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn asking(app: &Upstream, authz: SocketAddr, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [ask] }}]
policies: {{ ask: {{ extAuthz: {{ service: authz, protocol: grpc, upstreamHeaders: [X-User], {more} }} }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }}, authz: {{ protocol: http2, endpoints: [\"{authz}\"] }} }}
telemetry: {{ accessLog: {{ path: \"-\" }} }}",
        app.address(),
    ))
}

fn send(proxy: &Selvedge, line: &str, fields: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "{line} HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n{fields}\r\nbody"
    ));
    client
        .try_reply_to(line.split(' ').next().unwrap())
        .unwrap()
}

#[test]
fn it_is_told_of_the_request_and_its_changes_are_made() {
    let (app, deciding) = (Upstream::answering("ok"), Deciding::default());
    let proxy = asking(
        &app,
        deciding.serve(),
        "timeout: 10s, context: { shop: eu, tier: gold }",
    );
    let reply = send(
        &proxy,
        "POST /orders?a=1",
        "X-Pass: yes\r\nX-User: forged\r\nX_User: forged\r\nX-Token: secret\r\nX-List: one\r\nX-Forwarded-For: 9.9.9.9\r\nCookie: a=1\r\nCookie: b=2\r\n",
    );
    assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()));
    assert_eq!(reply.header("x-checked"), Some("yes"));
    let told = app.all();
    assert!(
        told.contains("Host: shop\r\n") && !told.contains("evil"),
        "{told}"
    );
    assert!(
        told.contains("X-User: ann") && !told.contains("forged"),
        "{told}"
    );
    assert!(
        told.contains("X-List: one") && told.contains("X-List: two"),
        "{told}"
    );
    assert!(
        !told.contains("three") && !told.contains("X-None"),
        "{told}"
    );
    assert!(!told.contains("secret") && told.ends_with("body"), "{told}");

    let asked = deciding.0.lock().unwrap().remove(0);
    let seen = http(&asked);
    assert_eq!(
        [
            &seen.method,
            &seen.path,
            &seen.host,
            &seen.scheme,
            &seen.protocol
        ],
        ["POST", "/orders?a=1", "shop", "http", "HTTP/1.1"]
    );
    assert_eq!(seen.size, 4);
    assert_eq!(seen.headers["cookie"], "a=1; b=2");
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen.headers[":path"], "/orders?a=1");
    assert_eq!(seen.headers["x-request-id"], seen.id);
    assert_eq!(asked.context_extensions["shop"], "eu");
    assert_eq!(asked.context_extensions["tier"], "gold");
    let place = |peer: Option<selvedge_contract::authz::attribute_context::Peer>| {
        peer.unwrap().address.unwrap().socket_address.unwrap()
    };
    let (source, destination) = (place(asked.source), place(asked.destination));
    assert_eq!(source.address, "127.0.0.1");
    assert_ne!(source.port_value, 0);
    assert_eq!(destination.address, "127.0.0.1");
    assert_eq!(
        destination.port_value,
        u32::from(proxy.address("web").port())
    );
    assert!(asked.request.unwrap().time.unwrap().seconds > 1_700_000_000);
}

#[test]
fn a_small_limit_for_bodies_of_clients_is_none_for_questions() {
    let (app, deciding) = (Upstream::answering("ok"), Deciding::default());
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [ask] }}]
limits: {{ body: 10 }}
policies: {{ ask: {{ extAuthz: {{ service: authz, protocol: grpc, timeout: 10s }} }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }}, authz: {{ protocol: http2, endpoints: [\"{}\"] }} }}",
        app.address(),
        deciding.serve()
    ));
    assert_eq!(send(&proxy, "POST /", "X-Pass: yes\r\n").status, 200);
}

#[test]
fn a_refusal_is_its_own_and_has_its_end_code() {
    let (app, deciding) = (Upstream::answering("ok"), Deciding::default());
    let mut proxy = asking(&app, deciding.serve(), "timeout: 10s, failOpen: true");
    let reply = send(&proxy, "GET /", "");
    assert_eq!((reply.status, reply.text()), (401, "who?".to_owned()));
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    let line = proxy.wait_for("\"status\":401");
    assert!(line.contains("\"end\":\"RE\""), "{line}");
    assert!(app.seen().is_empty());
}

#[test]
fn a_service_that_says_nothing_lets_in_by_the_mode_of_failure_only() {
    let (app, deciding) = (Upstream::answering("ok"), Deciding::default());
    let address = deciding.serve();
    for (more, want) in [("timeout: 10s", 503), ("timeout: 10s, failOpen: true", 200)] {
        let proxy = asking(&app, address, more);
        for pass in ["broken", "nothing", "flood"] {
            let fields = format!("X-Pass: {pass}\r\nX-User: forged\r\n");
            let reply = send(&proxy, "GET /", &fields);
            assert_eq!(reply.status, want, "{more} {pass}");
        }
    }
    assert!(!app.all().contains("forged"));
}

#[test]
fn a_verdict_is_remembered_for_its_question_only() {
    let (app, deciding) = (Upstream::answering("ok"), Deciding::default());
    let proxy = asking(
        &app,
        deciding.serve(),
        "timeout: 10s, cache: 1m, headers: [X-Pass]",
    );
    let ask = |line: &str, fields: &str, status: u16, asked: usize| {
        assert_eq!(send(&proxy, line, fields).status, status, "{line} {fields}");
        assert_eq!(deciding.count(), asked, "{line} {fields}");
    };
    ask("GET /", "X-Pass: yes\r\n", 200, 1);
    ask("GET /", "X-Pass: yes\r\nX-Other: 1\r\n", 200, 1);
    ask("GET /", "X-Pass: no\r\n", 401, 2);
    ask("GET /", "X-Pass: no\r\n", 401, 2);
    ask("PUT /", "X-Pass: yes\r\n", 200, 3);
    ask("GET /a", "X-Pass: yes\r\n", 200, 4);
    ask("GET /", "X-Pass: broken\r\n", 503, 5);
    ask("GET /", "X-Pass: broken\r\n", 503, 6);
}

/// Answers each call with these bytes for a body and these trailers.
fn scripted(script: impl Fn(&mut Peer, &Asked) + Send + Sync + 'static) -> Http2Upstream {
    Http2Upstream::serving(&[], script)
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

#[test]
fn answers_that_are_no_answers_let_nobody_in() {
    let app = Upstream::answering("ok");
    let good = framed(&letting_in().encode_to_vec());
    let mut compressed = good.clone();
    compressed[0] = 1;
    for (name, body, head, end) in [
        ("garbage", framed(b"\xff\xff\xff\xff"), GRPC, "0"),
        ("compressed", compressed, GRPC, "0"),
        ("cut", good[..good.len() - 1].to_vec(), GRPC, "0"),
        ("twice", [good.clone(), good.clone()].concat(), GRPC, "0"),
        ("failed", good.clone(), GRPC, "13"),
        (
            "no gRPC",
            good.clone(),
            &[("content-type", "text/html")],
            "0",
        ),
        ("no trailers", good.clone(), GRPC, ""),
        ("no end", good.clone(), GRPC, "never"),
    ] {
        let authz = scripted(move |peer, asked| {
            assert_eq!(asked.field(":method"), "POST");
            let stream = asked.stream;
            peer.send(answer(stream, "200", head, false));
            peer.send(data(stream, &body, end.is_empty()));
            if !end.is_empty() && end != "never" {
                let trailers = selvedge_tests::http2::block(&[("grpc-status", end)]);
                peer.send(headers(stream, &trailers, true));
            }
        });
        let timeout = if end == "never" { "200ms" } else { "10s" };
        let proxy = asking(&app, authz.address(), &format!("timeout: {timeout}"));
        assert_eq!(send(&proxy, "GET /", "").status, 503, "{name}");
    }
    assert!(app.seen().is_empty());
}

#[test]
fn gone_in_the_middle_or_not_there_lets_nobody_in() {
    let app = Upstream::answering("ok");
    let authz = scripted(|peer, asked| {
        peer.send(selvedge_tests::http2::reset(asked.stream));
    });
    assert_eq!(
        send(&asking(&app, authz.address(), ""), "GET /", "").status,
        503
    );
    let gone = Upstream::scripted(|_| {});
    assert_eq!(
        send(&asking(&app, gone.address(), ""), "GET /", "").status,
        503
    );
    assert!(app.seen().is_empty());
}

#[test]
fn the_call_is_grpc() {
    let app = Upstream::answering("ok");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let body = framed(&letting_in().encode_to_vec());
    let authz = scripted(move |peer, asked| {
        kept.lock().unwrap().push(asked.clone());
        peer.send(answer(asked.stream, "200", GRPC, false));
        peer.send(data(asked.stream, &body, false));
        let trailers = selvedge_tests::http2::block(&[("grpc-status", "0")]);
        peer.send(headers(asked.stream, &trailers, true));
    });
    let proxy = asking(&app, authz.address(), "timeout: 10s");
    assert_eq!(send(&proxy, "GET /", "").status, 200);
    let asked = seen.lock().unwrap().remove(0);
    assert_eq!(
        asked.field(":path"),
        "/envoy.service.auth.v3.Authorization/Check"
    );
    assert_eq!(asked.field(":authority"), "authz");
    assert_eq!(asked.field("te"), "trailers");
    let values: Vec<_> = asked
        .fields
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    assert!(values.contains(&"application/grpc"), "{values:?}");
}

#[test]
fn a_service_that_is_asked_over_grpc_speaks_http2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    let text = "listeners: [{ name: web, port: 8080, policies: [ask] }]
policies:
  ask: { extAuthz: { service: authz, protocol: grpc, pathPrefix: /a } }
  old: { extAuthz: { service: authz, context: { a: b } } }
services: { authz: { endpoints: [\"127.0.0.1:1\"] } }
routes: [{ rules: [{ backendRefs: [{ service: authz }] }] }]
";
    std::fs::write(&file, text).unwrap();
    let output = std::process::Command::new(selvedge_tests::process::binary())
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for what in [
        "gRPC needs HTTP/2, and `authz` speaks HTTP/1",
        "set `protocol: http2` at `services.authz`",
        "a call over gRPC has its own path",
        "`context` is told over gRPC only",
    ] {
        assert!(text.contains(what), "{text}");
    }
}
