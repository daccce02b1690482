//! Choice and ejection of endpoints.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::balance::outcomes::Ejected;
use crate::balance::plan::Strategy;
use crate::balance::simulation::planned;
use crate::balance::{Failing, Verdict};

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
    let begin = |service: &Service, count| {
        for _ in 0..count {
            service.endpoints.load().all[0].begin();
        }
    };
    begin(&busy, 3);
    assert_eq!(picks(&busy, 100), HashMap::from([(2, 100)]));
    let weighted = service(LEAST_REQUEST, &[10, 1]);
    assert_eq!(
        picks(&weighted, 100),
        HashMap::from([(1, 100)]),
        "1/10 is less than 1/1"
    );
    // Ten times the weight carries ten times the load.
    begin(&weighted, 10);
    assert_eq!(picks(&weighted, 100), HashMap::from([(2, 100)]));
}

#[test]
fn the_endpoint_that_failed_is_avoided() {
    let service = service(Strategy::RoundRobin, &[1, 1, 1]);
    let set = service.endpoints.load();
    let failed = set.all[1].id;
    assert!((0..30).all(|_| choose(&service, Some(failed)).id != failed));
}

const FAILURE: Verdict = Verdict::Failure(Failing::Status(503));

/// A moment after the start, in milliseconds.
fn at(start: Instant, after: u64) -> Instant {
    start + Duration::from_millis(after)
}

/// Sends the first endpoint out.
fn eject_first(service: &Service, now: Instant) -> Arc<Endpoint> {
    let endpoint = service.endpoints.load().all[0].clone();
    for _ in 0..2 {
        endpoint.observe(service, FAILURE, now);
    }
    endpoint
}

/// The endpoint that is tried at this moment, if one is.
fn tried(service: &Service, now: Instant) -> Option<u64> {
    let set = service.endpoints.load_full();
    set.on_trial(now).map(|e| e.id)
}

#[test]
fn a_retry_leaves_a_level_that_has_nobody_else() {
    let service = service(LEAST_REQUEST, &[]);
    let mut list = crate::balance::simulation::wanted(&[1, 1]);
    list[1].priority = 1;
    service.replace_endpoints(&list);
    let first = service.endpoints.load().all[0].clone();
    assert!((0..20).all(|_| choose(&service, None).id == first.id));
    assert!((0..20).all(|_| choose(&service, Some(first.id)).id != first.id));
}

#[test]
fn ejection_is_bounded() {
    let service = service(Strategy::RoundRobin, &[1, 1, 1]);
    let start = Instant::now();
    let first = service.endpoints.load().all[0].clone();
    first.observe(&service, FAILURE, start);
    assert!(!first.is_ejected(), "one error is none");
    first.observe(&service, FAILURE, start);
    assert_eq!(service.endpoints.load().ejected(), 1);
    assert_eq!(picks(&service, 30).len(), 2);
    // A second one would be more than half.
    let other = service.endpoints.load().all[1].clone();
    other.observe(&service, FAILURE, start);
    other.observe(&service, FAILURE, start);
    assert_eq!(service.endpoints.load().ejected(), 1);
    let counts = service.ejections.counts(Ejected::ALL, Ejected::name);
    assert_eq!(
        counts,
        [("consecutive", 1), ("successRate", 0), ("trial", 0)]
    );
}

#[test]
fn workers_that_eject_at_once_leave_somebody() {
    for _ in 0..2000 {
        let service = service(LEAST_REQUEST, &[1, 1]);
        let set = service.endpoints.load_full();
        std::thread::scope(|scope| {
            for endpoint in &set.all {
                scope.spawn(|| {
                    for _ in 0..2 {
                        endpoint.observe(&service, FAILURE, Instant::now());
                    }
                });
            }
        });
        assert!(service.endpoints.load().ejected() <= 1);
    }
}

#[test]
fn one_request_tries_an_endpoint_and_decides() {
    let service = service(Strategy::RoundRobin, &[1, 1, 1]);
    let start = Instant::now();
    let first = eject_first(&service, start);
    assert_eq!(tried(&service, at(start, 900)), None);
    // After a second and at most a tenth, one request, and one only.
    assert_eq!(tried(&service, at(start, 1200)), Some(first.id));
    assert_eq!(tried(&service, at(start, 1200)), None);
    assert_eq!(picks(&service, 30).len(), 2, "the others go elsewhere");
    // It fails: out for two seconds. The next succeeds: back, and slowly.
    first.decide(&service, FAILURE, at(start, 1200));
    assert_eq!(tried(&service, at(start, 3100)), None);
    assert_eq!(tried(&service, at(start, 3500)), Some(first.id));
    first.decide(&service, Verdict::Success, at(start, 3500));
    assert!(first.is_available());
    let soon = millis(at(start, 3500));
    assert!(first.warmth(Duration::from_secs(30), soon) < 0.2);
    // Soon out again, it is out for longer; after a while in peace it starts over.
    eject_first(&service, at(start, 4000));
    assert_eq!(tried(&service, at(start, 7900)), None);
    assert_eq!(tried(&service, at(start, 8500)), Some(first.id));
    first.decide(&service, Verdict::Success, at(start, 8500));
    eject_first(&service, at(start, 60_000));
    assert_eq!(tried(&service, at(start, 61_200)), Some(first.id));
}

#[test]
fn a_trial_that_says_nothing_never_sticks() {
    let service = service(Strategy::RoundRobin, &[1, 1]);
    let start = Instant::now();
    let first = eject_first(&service, start);
    for n in 0..1000 {
        let now = at(start, 1200 + n * 200);
        assert_eq!(tried(&service, now), Some(first.id));
        first.decide(&service, Verdict::Neutral, now);
        assert_eq!(tried(&service, now), None, "not at once");
    }
}

#[test]
fn what_checks_find_unhealthy_is_neither_used_nor_tried() {
    let service = service(Strategy::RoundRobin, &[1, 1]);
    let start = Instant::now();
    let first = eject_first(&service, start);
    first.checked.set(true, 0);
    service.endpoints_changed();
    assert_eq!(tried(&service, at(start, 5000)), None);
    first.checked.set(false, 0);
    service.endpoints_changed();
    assert_eq!(tried(&service, at(start, 5000)), Some(first.id));
}

#[test]
fn who_is_degraded_gets_less() {
    for strategy in [
        LEAST_REQUEST,
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Maglev { bound: 0 },
        Strategy::Ring { bound: 0 },
    ] {
        let service = service(strategy, &[1; 4]);
        let first = service.endpoints.load().all[0].clone();
        first.checked.set(false, 75);
        service.endpoints_changed();
        let count = picks(&service, 10_000).get(&1).copied().unwrap_or(0);
        // A quarter of a share, of three and a quarter; keys are random here, and spread less evenly.
        assert!((400..1200).contains(&count), "{strategy:?}: {count}");
    }
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
