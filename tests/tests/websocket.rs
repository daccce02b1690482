//! SC-06: a WebSocket server sees through two sidecars what it sees without them, also of clients that keep to
//! no rule. The cases are those of Autobahn's suite, which itself runs on Python 2 only.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use selvedge_tests::mesh::Mesh;
use selvedge_tests::python::{Server, judge};

fn verdicts(address: SocketAddr) -> BTreeMap<String, String> {
    let told = judge("websocket.py", &["call", &address.to_string()]);
    serde_json::from_str(&told).unwrap()
}

#[test]
fn every_case_has_the_same_answer_byte_for_byte() {
    let server = Server::start("websocket.py", &["serve"]);
    let app = SocketAddr::from(([127, 0, 0, 1], server.port));
    let mesh = Mesh::before(app, "http1");
    let (direct, through) = (verdicts(app), verdicts(mesh.outbound()));
    assert_eq!(direct.len(), 207, "cases");
    let other: Vec<_> = direct
        .iter()
        .filter(|(case, answer)| through.get(*case) != Some(answer))
        .map(|(case, _)| case)
        .collect();
    assert!(other.is_empty(), "{other:?}");
}
