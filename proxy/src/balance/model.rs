//! What workers share of a service, under 100,000 orders of their steps each: `cargo test -p selvedge --lib
//! --features model-check balance::model`. Pools themselves are a worker's own; what they share are the permits.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use shuttle::sync::atomic::AtomicU32;
use shuttle::thread;
use tokio::time::Instant;

use super::breaker::{Breaker, BreakerSpec, BreakerState, Verdict};
use super::budget::Budget;
use super::caps::Caps;
use super::outcomes::{Failing, Outcomes};
use super::plan::{Plan, Strategy};
use super::service::EjectionSpec;
use super::simulation::planned;

const SCHEDULES: usize = 100_000;
const FAILURE: Verdict = Verdict::Failure(Failing::Status(503));

/// Runs these at once, in every order that is drawn.
fn at_once(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    for thread in running {
        assert!(thread.join().is_ok());
    }
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(model, SCHEDULES);
}

fn same(count: usize, work: &Arc<dyn Fn(usize) + Send + Sync>) -> Vec<Box<dyn FnOnce() + Send>> {
    let one = |n| {
        let work = work.clone();
        Box::new(move || work(n)) as Box<dyn FnOnce() + Send>
    };
    (0..count).map(one).collect()
}

#[test]
fn a_breaker_has_one_probe_and_never_sticks() {
    let start = Instant::now();
    check(move || {
        let spec = BreakerSpec {
            error_rate: 50,
            min_requests: 2,
            open: Duration::from_secs(5),
        };
        let breaker = Arc::new(Breaker::new(Some(spec)));
        let probes = Arc::new(AtomicU32::new(0));
        for _ in 0..2 {
            breaker.observe(FAILURE, false, start);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        let later = start + Duration::from_secs(6);
        let shared = breaker.clone();
        let work: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(move |n| {
            let Ok(probe) = shared.admit(later) else {
                return;
            };
            if probe {
                assert_eq!(probes.fetch_add(1, SeqCst), 0, "one at a time");
                probes.fetch_sub(1, SeqCst);
            }
            match n {
                // Cancelled, failed, and good.
                0 if probe => shared.cancel_probe(),
                0 => {}
                1 => shared.observe(FAILURE, probe, later),
                _ => shared.observe(Verdict::Success, probe, later),
            }
        });
        at_once(same(4, &work));
        assert_ne!(breaker.state(), BreakerState::HalfOpen, "it stuck");
        assert!(breaker.admit(later + Duration::from_secs(60)).is_ok());
    });
}

#[test]
fn a_cap_is_never_passed_and_comes_back_to_nothing() {
    check(|| {
        let caps = Caps::new(1);
        let running = Arc::new(AtomicU32::new(0));
        let shared = caps.clone();
        let work: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(move |_| {
            for _ in 0..2 {
                if shared.enter(2).is_ok() {
                    assert!(running.fetch_add(1, SeqCst) < 2, "over the cap");
                    running.fetch_sub(1, SeqCst);
                    shared.leave();
                }
            }
        });
        at_once(same(4, &work));
        assert_eq!(caps.in_flight(), 0);
    });
}

#[test]
fn connections_are_never_more_than_there_are_permits() {
    check(|| {
        let caps = Caps::new(2);
        let open = Arc::new(AtomicU32::new(0));
        let shared = caps.clone();
        let work: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(move |n| {
            if n == 0 {
                // A reload in between.
                shared.resize(3);
                shared.resize(2);
                return;
            }
            shared.pending.fetch_add(1, Relaxed);
            if let Ok(permit) = shared.connections.clone().try_acquire_owned() {
                assert!(open.fetch_add(1, SeqCst) < 3);
                open.fetch_sub(1, SeqCst);
                drop(permit);
            }
            shared.pending.fetch_sub(1, Relaxed);
        });
        at_once(same(4, &work));
        assert_eq!(caps.pending.load(Relaxed), 0);
        assert!(caps.connections.available_permits() <= 3);
    });
}

#[test]
fn a_budget_gives_no_more_than_was_earned() {
    let start = Instant::now();
    check(move || {
        let budget = Arc::new(Budget::default());
        let spent = Arc::new(AtomicU32::new(0));
        let (shared, count) = (budget.clone(), spent.clone());
        let work: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(move |n| {
            if n < 2 {
                (0..5).for_each(|_| shared.earn());
                return;
            }
            for _ in 0..7 {
                if shared.spend(start) {
                    count.fetch_add(1, SeqCst);
                }
            }
        });
        at_once(same(4, &work));
        while budget.spend(start) {
            spent.fetch_add(1, SeqCst);
        }
        // Ten for the first second, and a fifth of ten requests.
        assert_eq!(spent.load(SeqCst), 12);
    });
}

#[test]
fn an_ejected_endpoint_has_one_trial_and_never_sticks() {
    check(|| {
        let spec = EjectionSpec {
            consecutive: 1,
            success_rate: 0,
            min_requests: 5,
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            max_share: 50,
        };
        let outcomes = Arc::new(Outcomes::default());
        assert!(outcomes.eject(&spec, false, 1).is_some());
        let trials = Arc::new(AtomicU32::new(0));
        let (shared, count) = (outcomes.clone(), trials.clone());
        let work: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(move |n| {
            let now = 5000;
            if n == 3 {
                // A check finds it well meanwhile.
                shared.come_back(7, now);
                return;
            }
            if !shared.begin_trial(now) {
                return;
            }
            assert_eq!(count.fetch_add(1, SeqCst), 0, "one at a time");
            count.fetch_sub(1, SeqCst);
            match n {
                0 => shared.cancel_trial(Duration::from_secs(1), now),
                1 => drop(shared.eject(&spec, true, now)),
                _ => shared.come_back(9, now),
            }
        });
        at_once(same(4, &work));
        assert!(!outcomes.is_on_trial(), "it stuck");
    });
}

#[test]
fn somebody_is_always_left() {
    let start = Instant::now();
    check(move || {
        let service = Arc::new(planned(Plan::of(Strategy::RoundRobin), &[1, 1]));
        let set = service.endpoints.load_full();
        let shared = service.clone();
        let work: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(move |n| {
            if let Some(endpoint) = set.all.get(n) {
                endpoint.observe(&shared, FAILURE, start);
                endpoint.observe(&shared, FAILURE, start);
            }
        });
        at_once(same(2, &work));
        let set = service.endpoints.load_full();
        assert!(set.all.iter().any(|e| e.is_available()));
        assert!(set.ejected() <= 1, "and the table knows");
    });
}
