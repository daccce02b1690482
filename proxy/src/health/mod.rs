//! Beside the path: active health checks. One task an endpoint, on the control thread and so once for the
//! whole process; what they find goes into the endpoint's state, which picks read (`balance/checked.rs`).

pub mod check;
pub mod grpc;
pub mod plan;
mod verdict;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use selvedge_contract::defaults::health::{AT_ONCE, AT_ONCE_IN_ALL};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::balance::{CheckResult, Endpoint, Finding, Service};

use check::{NotAsked, Way, ask};
use plan::Plan;
use verdict::Verdict;

/// Checks that run at a time, over all services: each is a connection.
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE_IN_ALL);

/// Starts to check a service's endpoints, unless nobody asks for that or it is done already. Ends when the
/// service is gone. Must run inside the control runtime.
pub fn watch(service: &Arc<Service>) {
    if let Some(plan) = &service.spec.health
        && !service.begin_checks()
    {
        tokio::spawn(follow(Arc::downgrade(service), plan.clone()));
    }
}

/// One task for each endpoint, as they come and go.
async fn follow(service: Weak<Service>, plan: Arc<Plan>) {
    let mut tasks: HashMap<u64, AbortOnDropHandle<()>> = HashMap::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Some(live) = service.upgrade() else {
            return;
        };
        let mut replaced = live.replaced();
        let set = live.endpoints.load_full();
        drop(live);
        tasks.retain(|id, _| set.contains(*id));
        for endpoint in &set.all {
            tasks.entry(endpoint.id).or_insert_with(|| {
                let (service, places) = (service.clone(), places.clone());
                let checks = check_forever(service, endpoint.clone(), plan.clone(), places);
                AbortOnDropHandle::new(tokio::spawn(checks))
            });
        }
        drop(set);
        if replaced.changed().await.is_err() {
            return;
        }
    }
}

async fn check_forever(
    service: Weak<Service>,
    endpoint: Arc<Endpoint>,
    plan: Arc<Plan>,
    places: Arc<Semaphore>,
) {
    // A reload may have begun these checks anew, and has kept what was found.
    let begun = endpoint.last_check().is_some();
    let mut verdict = Verdict::of(endpoint.is_unhealthy(), begun);
    loop {
        // First those of its service: who waits for them keeps no other service from being checked.
        let (Ok(place), Ok(place_in_all)) = (places.acquire().await, PLACES.acquire().await) else {
            return;
        };
        // Held while nothing is waited for only: a service that is gone has to be let go.
        let Some(way) = service.upgrade().map(|live| Way::to(&live, &endpoint)) else {
            return;
        };
        let found = once(&way, &plan).await;
        drop((place, place_in_all));
        let Some(live) = service.upgrade() else {
            return;
        };
        if let Some((finding, load)) = found {
            let now = Instant::now();
            if let Some(load) = load {
                live.reports(&endpoint, load, now);
            }
            let unhealthy = verdict.after(finding.result != CheckResult::Bad, &plan);
            let withheld = match finding.result {
                CheckResult::Degraded => plan.withheld(),
                _ => 0,
            };
            live.checked(&endpoint, finding, unhealthy, withheld, now);
        }
        drop(live);
        let wait = if verdict.wavers() {
            plan.interval / 5
        } else {
            plan.interval
        };
        // A tenth more or less, so that endpoints, and proxies, do not ask all at once.
        sleep(wait.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}

/// One check, and the load that its answer tells. `None`: it could not be asked, for a reason that is ours.
async fn once(way: &Way, plan: &Plan) -> Option<(Finding, Option<f32>)> {
    let at = SystemTime::now();
    let asked = tokio::time::timeout(plan.timeout, ask(way, plan)).await;
    let (result, text, load) = match asked {
        Ok(Ok(answer)) => (answer.result, answer.text, answer.load),
        Ok(Err(NotAsked::Ours)) => return None,
        Ok(Err(NotAsked::Theirs(why))) => (CheckResult::Bad, why, None),
        Err(_) => (CheckResult::Bad, late(plan.timeout), None),
    };
    Some((Finding { at, result, text }, load))
}

fn late(timeout: Duration) -> String {
    format!("no answer within {timeout:?}")
}
