//! What the Kubernetes API, or whoever is in its place, tells of services, endpoints and pods.

use selvedge::discover::cluster::lines::{Event, Lines, read};
use selvedge::discover::cluster::objects::{Item, Kind, PORTS, SLICE_ENDPOINTS};
use selvedge::discover::cluster::rules::endpoints;
use selvedge_contract::defaults::kubernetes::ENDPOINTS;

/// By the first byte the kind, and into how many pieces the rest is cut. The same lines however they
/// arrive; an event names no port that is none and holds no more than it may; no rule finds an
/// endpoint that no slice has.
pub(crate) fn watched(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let kind = match first % 3 {
        0 => Kind::Service,
        1 => Kind::Slice,
        _ => Kind::Pod,
    };
    let whole = lines_of(rest, rest.len().max(1));
    let cut = lines_of(rest, usize::from(first / 3) % 17 + 1);
    assert_eq!(whole, cut);
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for line in whole {
        assert!(!line.is_empty() && !line.contains(&b'\n'));
        let Ok(Event::Put(Some(item), _)) = read(kind, &line) else {
            continue;
        };
        // The same object, as a slice and as a service: what one rule reads another must bear.
        match item {
            Item::Service(service) => {
                assert!(service.addresses.len() <= 2 && service.ports.len() <= PORTS);
                assert!(service.ports.iter().all(|port| port.port != 0));
                services.push(service);
            }
            Item::Slice(slice) => {
                assert!(slice.endpoints.len() <= SLICE_ENDPOINTS && slice.ports.len() <= PORTS);
                assert!(slice.ports.iter().all(|(_, port)| *port != 0));
                slices.push(slice);
            }
            Item::Pod(pod) => assert!(pod.meshed.is_none_or(|(account, _)| !account.is_empty())),
        }
    }
    // A service with the ports that the slices have, so that something is found.
    for slice in &slices {
        let Ok(Event::Put(Some(Item::Service(mut service)), _)) = read(Kind::Service, SERVICE)
        else {
            unreachable!("it is one");
        };
        service.not_ready_too = first % 2 == 0;
        for (name, _) in &slice.ports {
            service.ports[0].name.clone_from(name);
            let found = endpoints(&service, slices.iter(), &service.ports[0], Some("a"));
            assert!(found.len() <= ENDPOINTS);
            let known = |at: &std::net::SocketAddr| {
                slices.iter().any(|slice| {
                    let port = |(of, number): &(String, u16)| of == name && *number == at.port();
                    slice.ports.iter().any(port)
                        && slice.endpoints.iter().any(|e| e.address == at.ip())
                })
            };
            assert!(found.iter().all(|found| known(&found.address)));
            assert!(found.windows(2).all(|two| two[0].address < two[1].address));
        }
    }
}

/// A service with one port.
const SERVICE: &[u8] = br#"{"type":"ADDED","object":{"metadata":{"name":"s"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":80}]}}}"#;

fn lines_of(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut lines = Lines::default();
    let mut told = Vec::new();
    for part in bytes.chunks(piece) {
        if lines.push(part).is_err() {
            break;
        }
        told.extend(std::iter::from_fn(|| lines.next_line()));
    }
    told
}

/// Words of such lines.
pub(crate) const WORDS: &[&[u8]] = &[
    b"{\"type\":\"ADDED\",\"object\":",
    b"\"MODIFIED\"",
    b"\"DELETED\"",
    b"\"BOOKMARK\"",
    b"\"ERROR\"",
    b"\"code\":410",
    b"\"metadata\":{",
    b"\"resourceVersion\":\"7\"",
    b"\"kubernetes.io/service-name\":",
    b"\"selvedge.dev/status\":",
    b"\"addressType\":\"IPv6\"",
    b"\"endpoints\":[",
    b"\"endpoints\":null",
    b"\"addresses\":[\"fd00::1\"]",
    b"\"conditions\":{\"ready\":null}",
    b"\"terminating\":true",
    b"\"hints\":{\"forZones\":[{\"name\":\"a\"}]}",
    b"\"targetRef\":{\"kind\":\"Pod\"",
    b"\"port\":65536",
    b"\"port\":0",
    b"\"clusterIP\":\"None\"",
    b"\"type\":\"ExternalName\"",
    b"\n",
    b"null",
];
