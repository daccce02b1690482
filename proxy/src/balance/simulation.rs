//! Each balancer's property with numbers, on a simulated clock: requests arrive, take their time at
//! their endpoint and end, without network or waiting. The same services, sets and picks as on the path.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::class::Class;
use super::endpoint::{Endpoint, Wanted, millis};
use super::key::{Asked, of_bytes};
use super::plan::{Plan, Strategy};
use super::service::{EjectionSpec, Reached, Service, ServiceSpec, Speaks};
use crate::upstream::Security;

const LEAST_REQUEST: Strategy = Strategy::LeastRequest { full: false };
const UNBOUND_RING: Strategy = Strategy::Ring { bound: 0 };
const UNBOUND_MAGLEV: Strategy = Strategy::Maglev { bound: 0 };

/// A service with that plan and endpoints of those weights.
pub(super) fn planned(plan: Plan, weights: &[u32]) -> Service {
    let spec = ServiceSpec {
        name: "s".into(),
        reached: Reached::AtEndpoints,
        balance: Arc::new(plan),
        speaks: Speaks::Http1,
        security: Security::Plain,
        announces: None,
        connect_timeout: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        max_requests: u32::MAX,
        adaptive: None,
        max_connections: 10,
        max_pending: 10,
        max_retries: 1,
        ejection: EjectionSpec {
            consecutive: 2,
            success_rate: 0,
            min_requests: 5,
            base: Duration::from_secs(1),
            max: Duration::from_secs(4),
            max_share: 50,
        },
        health: None,
        breaker: None,
        dns: None,
        kubernetes: None,
    };
    Service::new(spec, &wanted(weights))
}

pub(super) fn wanted(weights: &[u32]) -> Vec<Wanted> {
    let weighted = weights.iter().zip(1u16..);
    weighted
        .map(|(weight, port)| (at(port), *weight).into())
        .collect()
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn chosen(service: &Service, asked: &Asked, now: Instant) -> Arc<Endpoint> {
    let set = service.endpoints.load();
    set.choose(service, asked, None, now).unwrap().clone()
}

fn keyed(key: u64) -> Asked {
    Asked {
        key: Some(of_bytes(&key.to_be_bytes())),
        ..Asked::default()
    }
}

/// What became of a simulated load.
struct Outcome {
    /// Requests by address.
    counts: HashMap<SocketAddr, u32>,
    /// Times in flight, sorted.
    times: Vec<Duration>,
}

impl Outcome {
    fn share(&self, endpoint: usize) -> f64 {
        let address = at(u16::try_from(endpoint + 1).unwrap());
        let own = self.counts.get(&address).copied().unwrap_or(0);
        f64::from(own) / self.times.len() as f64
    }

    fn p99(&self) -> Duration {
        self.times[self.times.len() * 99 / 100]
    }
}

/// Sends `count` requests, one each `gap` on average, as chance has it (Poisson); each endpoint takes
/// one at a time, `work` long each.
fn run(service: &Service, count: u32, gap: Duration, work: impl Fn(usize) -> Duration) -> Outcome {
    let start = Instant::now();
    let mut ends: BinaryHeap<Reverse<(Instant, u32)>> = BinaryHeap::new();
    let mut out: HashMap<u32, (Arc<Endpoint>, Instant)> = HashMap::new();
    let mut free: HashMap<SocketAddr, Instant> = HashMap::new();
    let (mut counts, mut times) = (HashMap::new(), Vec::new());
    let mut end = |ends: &mut BinaryHeap<_>, out: &mut HashMap<_, (Arc<Endpoint>, Instant)>| {
        let Some(Reverse((at, id))): Option<Reverse<(Instant, u32)>> = ends.pop() else {
            return;
        };
        let (endpoint, since) = out.remove(&id).unwrap();
        endpoint.end();
        service.leave();
        endpoint.took(at - since, false, millis(at));
        endpoint.carries(1000, millis(at));
        times.push(at - since);
    };
    let mut now = start;
    for id in 0..count {
        now += gap.mul_f64(-(1.0 - fastrand::f64()).ln());
        while ends.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            end(&mut ends, &mut out);
        }
        service.enter(Class::default(), now).unwrap();
        let endpoint = chosen(service, &keyed(id.into()), now);
        endpoint.begin();
        *counts.entry(endpoint.address).or_insert(0) += 1;
        let index = usize::from(endpoint.address.port()) - 1;
        let begun = free.get(&endpoint.address).copied().unwrap_or(now).max(now);
        let done = begun + work(index);
        free.insert(endpoint.address, done);
        ends.push(Reverse((done, id)));
        out.insert(id, (endpoint, now));
    }
    while !ends.is_empty() {
        end(&mut ends, &mut out);
    }
    times.sort_unstable();
    Outcome { counts, times }
}

const MS: Duration = Duration::from_millis(1);

/// Ten endpoints, the first ten times slower; it could just do the tenth that chance gives it.
fn one_slow(strategy: Strategy) -> Duration {
    fastrand::seed(7);
    let service = planned(Plan::of(strategy), &[1; 10]);
    let work = |index| if index == 0 { MS * 80 } else { MS * 8 };
    run(&service, 50_000, MS * 10, work).p99()
}

#[test]
fn least_request_and_response_time_go_round_the_slow_one() {
    let random = one_slow(Strategy::Random);
    let full = Strategy::LeastRequest { full: true };
    for strategy in [
        LEAST_REQUEST,
        full,
        Strategy::ResponseTime,
        Strategy::LeastConnections,
    ] {
        let p99 = one_slow(strategy);
        println!(
            "one slow of ten, p99: {} {p99:?}, random {random:?}",
            strategy.name()
        );
        assert!(
            p99 * 3 <= random,
            "{strategy:?}: {p99:?}, random {random:?}"
        );
    }
}

#[test]
fn shares_are_those_of_the_weights() {
    fastrand::seed(7);
    let weights = [1, 2, 3, 4, 10];
    for (strategy, most) in [
        (Strategy::RoundRobin, 0.001),
        (Strategy::Random, 0.03),
        (Strategy::LeastConnections, 0.03),
        (UNBOUND_RING, 0.25),
        (UNBOUND_MAGLEV, 0.05),
    ] {
        let service = planned(Plan::of(strategy), &weights);
        let shares = run(&service, 100_000, MS, |_| Duration::ZERO);
        let total: u32 = weights.iter().sum();
        for (index, weight) in weights.iter().enumerate() {
            let fair = f64::from(*weight) / f64::from(total);
            let error = (shares.share(index) / fair - 1.0).abs();
            println!(
                "{} weight {weight}: error {:.2} %",
                strategy.name(),
                error * 100.0
            );
            assert!(error <= most, "{strategy:?} {weight}: {error}");
        }
    }
}

#[test]
fn least_bandwidth_evens_out_bytes() {
    fastrand::seed(7);
    let service = planned(Plan::of(Strategy::Bandwidth), &[1, 1, 2]);
    let start = Instant::now();
    // The first one's answers are ten times as large.
    let mut bytes = [0u64; 3];
    for nth in 0..60_000u32 {
        let now = start + MS * nth;
        let endpoint = chosen(&service, &Asked::default(), now);
        let index = (0..3u16).find(|i| at(i + 1) == endpoint.address).unwrap();
        let size = if index == 0 { 10_000 } else { 1000 };
        bytes[usize::from(index)] += size;
        endpoint.carries(size, millis(now));
    }
    println!("least bandwidth, bytes by weight 1, 1, 2: {bytes:?}");
    let ratio = |a: u64, b: u64| a as f64 / b as f64;
    assert!(
        (0.85..1.15).contains(&ratio(bytes[0], bytes[1])),
        "{bytes:?}"
    );
    assert!((1.7..2.3).contains(&ratio(bytes[2], bytes[1])), "{bytes:?}");
}

#[test]
fn reported_load_goes_to_those_that_have_less_to_do_until_it_is_stale() {
    fastrand::seed(7);
    let service = planned(Plan::of(Strategy::ReportedLoad), &[1, 1]);
    let now = Instant::now();
    for (endpoint, load) in service.endpoints.load().all.iter().zip([0.9, 0.3]) {
        endpoint.reports(load, millis(now));
    }
    let first = |now| {
        let picks = (0..1000).map(|_| chosen(&service, &Asked::default(), now));
        picks.filter(|e| e.address == at(1)).count()
    };
    assert_eq!(first(now), 0);
    assert_eq!(first(now + Duration::from_secs(179)), 0);
    let stale = first(now + Duration::from_secs(181));
    assert!((400..600).contains(&stale), "{stale}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_is_a_ramp_with_any_balancer() {
    for strategy in [
        LEAST_REQUEST,
        Strategy::LeastRequest { full: true },
        Strategy::RoundRobin,
        Strategy::LeastConnections,
        Strategy::ResponseTime,
        Strategy::Random,
        Strategy::Bandwidth,
        Strategy::ReportedLoad,
        UNBOUND_RING,
        UNBOUND_MAGLEV,
    ] {
        for (second, share, wanted) in ramp(strategy) {
            println!("{} {second} s: {share:.2} of {wanted:.2}", strategy.name());
            // A ring is not quite even to begin with.
            let most = if strategy == UNBOUND_RING { 0.15 } else { 0.1 };
            let error = share - wanted;
            assert!(error.abs() <= most, "{strategy:?} {second}: {error}");
        }
    }
}

/// What one new endpoint of four gets, as a part of what the others get: seconds, that, and what it
/// should be.
fn ramp(strategy: Strategy) -> Vec<(u64, f64, f64)> {
    fastrand::seed(7);
    let service = planned(Plan::of(strategy), &[1; 3]);
    service.replace_endpoints(&wanted(&[1; 4]));
    let start = Instant::now();
    let set = service.endpoints.load_full();
    let after = |second: u64| {
        let now = start + Duration::from_secs(second);
        // The others have much to do, and the new one little, until its ramp is over.
        let over = second > 30;
        let rates = set.all.iter().map(|e| e.bandwidth(millis(now)));
        let most = rates.fold(0.0, f32::max) + 1e6;
        for endpoint in &set.all {
            let busy = over || endpoint.address != at(4);
            let missing = (most - endpoint.bandwidth(millis(now))) * 10.0;
            endpoint.carries(if busy { missing as u64 } else { 10 }, millis(now));
            endpoint.reports(if busy { 0.9 } else { 0.1 }, millis(now));
        }
        let picks = (0..40_000).map(|key| chosen(&service, &keyed(key), now).address);
        let new = picks.filter(|address| *address == at(4)).count() as f64;
        let share = new / ((40_000.0 - new) / 3.0);
        (second, share, (0.1 + 0.9 * second as f64 / 30.0).min(1.0))
    };
    [0, 5, 10, 15, 20, 25, 29, 31, 60].map(after).to_vec()
}

mod places;
mod plot;
