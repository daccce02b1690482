//! Choice and ejection of endpoints.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::balance::Verdict;
use crate::balance::plan::Strategy;
use crate::balance::simulation::planned;

const LEAST_REQUEST: Strategy = Strategy::LeastRequest { full: false };

fn service(strategy: Strategy, weights: &[u32]) -> Service {
    planned(Plan::of(strategy), weights)
}

fn choose(service: &Service, avoid: Option<u64>) -> Arc<Endpoint> {
    let set = service.endpoints.load();
    let chosen = set.choose(service, &Asked::default(), avoid, Instant::now());
    chosen.unwrap().clone()
}

fn picks(service: &Service, count: usize) -> HashMap<u16, usize> {
    let mut picks = HashMap::new();
    for _ in 0..count {
        let endpoint = choose(service, None);
        *picks.entry(endpoint.address.port()).or_default() += 1;
    }
    picks
}

#[test]
fn round_robin_is_smooth_and_keeps_weights() {
    let service = service(Strategy::RoundRobin, &[5, 1, 1]);
    let order: Vec<u16> = (0..7)
        .map(|_| choose(&service, None).address.port())
        .collect();
    assert_eq!(order, [1, 1, 2, 1, 3, 1, 1], "nginx's example");
    assert_eq!(
        picks(&service, 700),
        HashMap::from([(1, 500), (2, 100), (3, 100)])
    );
}

#[test]
fn least_request_prefers_what_is_idle_and_what_has_weight() {
    let busy = service(LEAST_REQUEST, &[1, 1]);
    busy.endpoints.load().all[0].in_flight.store(3, Relaxed);
    assert_eq!(picks(&busy, 100), HashMap::from([(2, 100)]));
    let weighted = service(LEAST_REQUEST, &[10, 1]);
    assert_eq!(
        picks(&weighted, 100),
        HashMap::from([(1, 100)]),
        "1/10 is less than 1/1"
    );
    // Ten times the weight carries ten times the load.
    weighted.endpoints.load().all[0]
        .in_flight
        .store(10, Relaxed);
    assert_eq!(picks(&weighted, 100), HashMap::from([(2, 100)]));
}

#[test]
fn the_endpoint_that_failed_is_avoided() {
    let service = service(Strategy::RoundRobin, &[1, 1, 1]);
    let set = service.endpoints.load();
    let failed = set.all[1].id;
    assert!((0..30).all(|_| choose(&service, Some(failed)).id != failed));
}

#[test]
fn ejection_doubles_is_bounded_and_ends() {
    let service = service(Strategy::RoundRobin, &[1, 1, 1]);
    let start = Instant::now();
    let fail = |at: Instant| {
        let endpoint = service.endpoints.load().all[0].clone();
        endpoint.observe(&service, Verdict::Failure, at);
    };
    fail(start);
    assert_eq!(service.endpoints.load().ejected(), 0, "one error is none");
    fail(start);
    assert_eq!(service.endpoints.load().ejected(), 1);
    assert_eq!(picks(&service, 30).len(), 2);
    // A second one would be more than half.
    let other = service.endpoints.load().all[1].clone();
    other.observe(&service, Verdict::Failure, start);
    other.observe(&service, Verdict::Failure, start);
    assert_eq!(service.endpoints.load().ejected(), 1);
    // Back after a second and at most a tenth; one more error sends it out for two.
    let readmit = |at: Instant| {
        let set = service.endpoints.load_full();
        set.readmit_due(&service, at);
        service.endpoints.load().ejected()
    };
    assert_eq!(readmit(start + Duration::from_millis(900)), 1);
    let back = start + Duration::from_millis(1200);
    assert_eq!(readmit(back), 0);
    fail(back);
    assert_eq!(service.endpoints.load().ejected(), 1);
    assert_eq!(readmit(back + Duration::from_millis(1900)), 1);
    assert_eq!(readmit(back + Duration::from_millis(2300)), 0);
    // A success clears it.
    let endpoint = service.endpoints.load().all[0].clone();
    endpoint.observe(&service, Verdict::Success, back);
    fail(back);
    assert_eq!(service.endpoints.load().ejected(), 0);
}

#[test]
fn a_new_set_keeps_what_stays() {
    let service = service(Strategy::RoundRobin, &[1, 1]);
    let set = service.endpoints.load();
    let next = set.next(&[
        (set.all[1].address, 1).into(),
        (SocketAddr::from(([127, 0, 0, 1], 9)), 1).into(),
    ]);
    assert!(Arc::ptr_eq(&next.all[0], &set.all[1]));
    assert_ne!(next.all[1].id, set.all[0].id);
}
