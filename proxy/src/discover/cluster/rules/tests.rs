//! Every rule of which endpoints are called, as a table.

use serde_json::{Value, json};

use super::super::objects::{Item, Kind, read, read_any};
use super::*;

fn service(spec: Value) -> ServiceFacts {
    let object = json!({ "metadata": { "name": "orders", "namespace": "shop" }, "spec": spec });
    match read(Kind::Service, object.to_string().as_bytes()).unwrap() {
        Some(Item::Service(service)) => service,
        other => panic!("{other:?}"),
    }
}

fn plain() -> ServiceFacts {
    service(
        json!({ "clusterIP": "10.96.0.1", "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] }),
    )
}

fn slice_of(kind: &str, ports: Value, endpoints: Value) -> SliceFacts {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "a", "namespace": "shop", "labels": { "kubernetes.io/service-name": "orders" } },
        "addressType": kind, "ports": ports, "endpoints": endpoints,
    });
    match read_any(&object).unwrap() {
        Some(Item::Slice(slice)) => slice,
        other => panic!("{other:?}"),
    }
}

fn slice(endpoints: Value) -> SliceFacts {
    slice_of(
        "IPv4",
        json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]),
        endpoints,
    )
}

/// An endpoint with conditions: ready, serving, terminating.
fn endpoint(address: &str, conditions: Value) -> Value {
    json!({ "addresses": [address], "conditions": conditions })
}

fn called(service: &ServiceFacts, slices: &[SliceFacts], zone: Option<&str>) -> Vec<String> {
    let port = service.ports.first().unwrap();
    let found = endpoints(service, slices.iter(), port, zone);
    found.iter().map(|f| f.address.to_string()).collect()
}

#[test]
fn conditions_decide_who_is_called() {
    let cases: [(Value, bool, &[&str]); 9] = [
        // Nothing said is ready; `null` is nothing said.
        (
            json!([
                endpoint("10.0.0.1", json!({})),
                endpoint("10.0.0.2", json!({ "ready": null }))
            ]),
            false,
            &["10.0.0.1:8080", "10.0.0.2:8080"],
        ),
        (
            json!([
                endpoint("10.0.0.1", json!({ "ready": false })),
                endpoint("10.0.0.2", json!({ "ready": true }))
            ]),
            false,
            &["10.0.0.2:8080"],
        ),
        // Ending ones are the last resort, and no resort where they do not answer.
        (
            json!([
                endpoint(
                    "10.0.0.1",
                    json!({ "ready": false, "serving": true, "terminating": true })
                ),
                endpoint("10.0.0.2", json!({ "ready": true }))
            ]),
            false,
            &["10.0.0.2:8080"],
        ),
        (
            json!([endpoint(
                "10.0.0.1",
                json!({ "ready": false, "serving": true, "terminating": true })
            )]),
            false,
            &["10.0.0.1:8080"],
        ),
        (
            json!([endpoint(
                "10.0.0.1",
                json!({ "ready": false, "serving": false, "terminating": true })
            )]),
            false,
            &[],
        ),
        // Not ready and not ending is starting, or broken.
        (
            json!([endpoint(
                "10.0.0.1",
                json!({ "ready": false, "serving": true })
            )]),
            false,
            &[],
        ),
        (
            json!([endpoint("10.0.0.1", json!({ "ready": false }))]),
            true,
            &["10.0.0.1:8080"],
        ),
        // Only the first address counts; one that is none is nobody's.
        (
            json!([{ "addresses": ["10.0.0.1", "10.0.0.9"] }, { "addresses": ["nonsense"] }, { "addresses": [] }, {}]),
            false,
            &["10.0.0.1:8080"],
        ),
        (Value::Null, false, &[]),
    ];
    for (endpoints, not_ready_too, wanted) in cases {
        let mut service = plain();
        service.not_ready_too = not_ready_too;
        assert_eq!(
            called(&service, &[slice(endpoints.clone())], None),
            wanted,
            "{endpoints}"
        );
    }
}

#[test]
fn slices_of_a_service_are_one_list() {
    let (a, b) = (
        endpoint("10.0.0.1", json!({})),
        endpoint("10.0.0.2", json!({})),
    );
    let both = [
        slice(json!([b.clone(), a.clone()])),
        slice(json!([a.clone()])),
    ];
    assert_eq!(
        called(&plain(), &both, None),
        ["10.0.0.1:8080", "10.0.0.2:8080"]
    );
    // In the midst of a move: the copy that is ready counts, whichever comes first.
    let old = endpoint(
        "10.0.0.1",
        json!({ "ready": false, "serving": false, "terminating": true }),
    );
    for pair in [[&old, &a], [&a, &old]] {
        let moved = pair.map(|e| slice(json!([e.clone()])));
        assert_eq!(called(&plain(), &moved, None), ["10.0.0.1:8080"]);
    }
}

#[test]
fn ports_are_joined_by_name_and_numbered_by_slice() {
    let at =
        |port: u16| json!([{ "name": "http", "port": port }, { "name": "metrics", "port": 9090 }]);
    let one = slice_of("IPv4", at(8080), json!([endpoint("10.0.0.1", json!({}))]));
    let two = slice_of("IPv4", at(8081), json!([endpoint("10.0.0.2", json!({}))]));
    assert_eq!(
        called(&plain(), &[one, two], None),
        ["10.0.0.1:8080", "10.0.0.2:8081"]
    );
    let ends = json!([endpoint("10.0.0.1", json!({}))]);
    for ports in [
        json!([{ "name": "other", "port": 8080 }]),
        json!([{ "name": "http", "port": null }]),
        json!([{ "name": "http", "port": 0 }]),
        json!([{ "name": "http", "port": 53, "protocol": "UDP" }]),
        Value::Null,
    ] {
        let none = slice_of("IPv4", ports.clone(), ends.clone());
        assert_eq!(called(&plain(), &[none], None), [""; 0], "{ports}");
    }
    // The only port may have no name, on both sides.
    let bare =
        service(json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 80, "targetPort": 8080 }] }));
    let slice = slice_of("IPv4", json!([{ "name": "", "port": 8080 }]), ends.clone());
    assert_eq!(
        called(&bare, std::slice::from_ref(&slice), None),
        ["10.0.0.1:8080"]
    );
    let unnamed = slice_of("IPv4", json!([{ "port": 8080 }]), ends);
    assert_eq!(called(&bare, &[unnamed], None), ["10.0.0.1:8080"]);
}

#[test]
fn what_is_no_tcp_is_no_port() {
    let service = service(json!({ "clusterIP": "10.96.0.1", "ports": [
        { "name": "dns", "port": 53, "protocol": "UDP" },
        { "name": "sctp", "port": 54, "protocol": "SCTP" },
        { "name": "grpc-api", "port": 55 },
        { "name": "web", "port": 56, "appProtocol": "kubernetes.io/h2c" },
        { "name": "grpcish", "port": 57 },
        { "name": "http2", "port": 58, "appProtocol": "http" },
    ] }));
    let ports: Vec<_> = service.ports.iter().map(|p| (p.port, p.http2)).collect();
    assert_eq!(ports, [(55, true), (56, true), (57, false), (58, false)]);
}

#[test]
fn zones_count_where_everyone_has_hints() {
    let hinted = |address: &str, zone: &str| json!({ "addresses": [address], "hints": { "forZones": [{ "name": zone }] } });
    let bare = endpoint("10.0.0.3", json!({}));
    let (a, b) = (hinted("10.0.0.1", "a"), hinted("10.0.0.2", "b"));
    let all = ["10.0.0.1:8080", "10.0.0.2:8080"];
    let cases: [(Value, Option<&str>, &[&str]); 5] = [
        (json!([a, b]), Some("a"), &["10.0.0.1:8080"]),
        (json!([a, b]), None, &all),
        (json!([a, b]), Some("c"), &all),
        (
            json!([a, bare]),
            Some("a"),
            &["10.0.0.1:8080", "10.0.0.3:8080"],
        ),
        // One that is not called has no say.
        (
            json!([a, b, endpoint("10.0.0.4", json!({ "ready": false }))]),
            Some("b"),
            &["10.0.0.2:8080"],
        ),
    ];
    for (endpoints, zone, wanted) in cases {
        assert_eq!(
            called(&plain(), &[slice(endpoints.clone())], zone),
            wanted,
            "{endpoints} {zone:?}"
        );
    }
}

#[test]
fn a_pod_of_both_families_is_called_once() {
    let pod = |address: &str, pod: &str| json!({ "addresses": [address], "targetRef": { "kind": "Pod", "name": pod, "uid": pod } });
    let ports = json!([{ "name": "http", "port": 8080 }]);
    let four = slice_of(
        "IPv4",
        ports.clone(),
        json!([pod("10.0.0.1", "x"), pod("10.0.0.2", "y")]),
    );
    let six = slice_of(
        "IPv6",
        ports.clone(),
        json!([pod("fd00::1", "x"), pod("fd00::3", "z")]),
    );
    let slices = [four, six];
    assert_eq!(
        called(&plain(), &slices, None),
        ["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::3]:8080"]
    );
    let mut v6 = service(
        json!({ "clusterIP": "fd96::1", "clusterIPs": ["fd96::1", "10.96.0.1"], "ports": [{ "name": "http", "port": 80 }] }),
    );
    assert_eq!(
        called(&v6, &slices, None),
        ["10.0.0.2:8080", "[fd00::1]:8080", "[fd00::3]:8080"]
    );
    assert_eq!(v6.addresses.len(), 2);
    v6.external = Some("elsewhere.example".into());
    assert_eq!(called(&v6, &slices, None), [""; 0]);
    // Slices of names have no meaning, nor have those of no service.
    let mut named = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "FQDN",
        "metadata": { "name": "a", "labels": { "kubernetes.io/service-name": "orders" } },
        "endpoints": [{ "addresses": ["a.example"] }], "ports": ports,
    });
    assert_eq!(read_any(&named).unwrap(), None);
    named["addressType"] = json!("IPv4");
    named["metadata"]["labels"] = Value::Null;
    assert_eq!(read_any(&named).unwrap(), None);
}

#[test]
fn a_service_has_no_more_endpoints_than_are_held() {
    let ports = json!([{ "name": "http", "port": 8080 }]);
    let many = |at: usize| {
        let each =
            (0..1200).map(|n| endpoint(&format!("10.{at}.{}.{}", n / 250, n % 250 + 1), json!({})));
        slice_of("IPv4", ports.clone(), each.collect::<Vec<_>>().into())
    };
    let slices: Vec<_> = (0..6).map(many).collect();
    let first: usize = slices.iter().map(|slice| slice.endpoints.len()).sum();
    assert_eq!(first, 6000);
    assert_eq!(called(&plain(), &slices, None).len(), ENDPOINTS);
}

#[test]
fn a_pod_is_meshed_by_what_the_injector_left() {
    let pod = |object: Value| match read(Kind::Pod, object.to_string().as_bytes()).unwrap() {
        Some(Item::Pod(pod)) => pod.meshed.map(|(account, _)| account),
        other => panic!("{other:?}"),
    };
    let status = json!({ "selvedge.dev/status": "{}" });
    let sidecar = json!([{ "name": "selvedge-proxy" }]);
    for (object, account) in [
        (
            json!({ "metadata": { "name": "x", "annotations": status }, "spec": { "serviceAccountName": "orders", "initContainers": sidecar } }),
            Some("orders"),
        ),
        (
            json!({ "metadata": { "name": "x", "annotations": status }, "spec": { "containers": sidecar } }),
            Some("default"),
        ),
        (
            json!({ "metadata": { "name": "x", "annotations": { "other": "1" } }, "spec": { "serviceAccountName": "orders" } }),
            None,
        ),
        (
            json!({ "metadata": { "name": "x", "annotations": null }, "spec": {} }),
            None,
        ),
        (
            json!({ "metadata": { "name": "x", "annotations": status }, "spec": { "hostNetwork": true, "containers": sidecar } }),
            None,
        ),
        // A manifest that was copied from a pod with a sidecar has none itself.
        (
            json!({ "metadata": { "name": "x", "annotations": status }, "spec": { "containers": [{ "name": "web" }] } }),
            None,
        ),
        (
            json!({ "metadata": { "name": "x", "annotations": { "selvedge.dev/status": "" } }, "spec": { "containers": sidecar } }),
            None,
        ),
    ] {
        assert_eq!(pod(object.clone()), account.map(str::to_owned), "{object}");
    }
}
