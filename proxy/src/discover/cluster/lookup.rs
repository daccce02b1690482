//! Discovery in a cluster: questions of the path. Those that ask the same share one answer, and
//! addresses of a second family share one look at all services.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use selvedge_contract::defaults::kubernetes::{
    LOOKUP_RATE, LOOKUPS, SCAN_AGAIN, UNANSWERED, UNKNOWN,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::discover::demand::{Ask, Name, Question};

use super::feed::FeedError;
use super::{Cluster, State};

type Waiting = Vec<oneshot::Sender<()>>;

/// What is being asked.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    under_way: HashMap<Question, Waiting>,
    /// Addresses that no service has as its first.
    second: BTreeSet<IpAddr>,
    scanning: bool,
    scanned: Option<Instant>,
    said: Option<Instant>,
    /// The present second of the rate, and the look-ups in it.
    second_of: Option<(Instant, u32)>,
}

impl Lookups {
    /// Counts one more; says whether it is not too many.
    fn is_in_rate(&mut self) -> bool {
        let now = Instant::now();
        let present = self
            .second_of
            .filter(|(since, _)| now < *since + Duration::from_secs(1));
        let (since, count) = present.unwrap_or((now, 0));
        self.second_of = Some((since, count + 1));
        count < LOOKUP_RATE
    }
}

/// Answers what the path asks, for as long as there is somebody to answer for.
pub(super) async fn answer(cluster: Weak<Cluster>, mut asked: mpsc::Receiver<Ask>) {
    while let Some(Ask { question, answered }) = asked.recv().await {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        let mut state = cluster.lock();
        if cluster.demand.is_known_to_be_none(&question) {
            continue;
        }
        if let Some(waiting) = state.lookups.under_way.get_mut(&question) {
            waiting.push(answered);
            continue;
        }
        if let Some(name) = cluster.is_held(&state, &question) {
            // It is there, and the path does not find it: at another port, perhaps.
            let settled = state
                .tracked
                .get(&name)
                .is_some_and(|t| t.waiting.is_empty());
            let held = cluster.want(&mut state, &name, vec![answered]);
            if settled || !held {
                cluster.demand.remember(question, UNANSWERED);
            }
            continue;
        }
        if state.lookups.under_way.len() >= LOOKUPS || !state.lookups.is_in_rate() {
            cluster.demand.remember(question, UNANSWERED);
            continue;
        }
        state
            .lookups
            .under_way
            .insert(question.clone(), vec![answered]);
        drop(state);
        // Ends with its answer, which comes within the time of one request.
        tokio::spawn(look_up(cluster, question));
    }
}

async fn look_up(cluster: Arc<Cluster>, question: Question) {
    let found = match &question {
        Question::Address(address) => cluster.source.at(*address).await,
        Question::Service(name) => {
            let there = cluster.source.named(name).await;
            there.map(|there| there.then(|| name.clone()))
        }
    };
    if let (Ok(None), Question::Address(address)) = (&found, &question)
        && is_private(*address)
    {
        let mut state = cluster.lock();
        state.lookups.second.insert(*address);
        let soon = state
            .lookups
            .scanned
            .is_none_or(|last| Instant::now() >= last + SCAN_AGAIN);
        if !soon && let Some(waiting) = state.lookups.under_way.get_mut(&question) {
            // The next look is not due: whoever waits goes on as it would without discovery.
            waiting.clear();
            cluster.demand.remember(question.clone(), SCAN_AGAIN);
        }
        drop(state);
        cluster.scan();
        return;
    }
    cluster.found(question, found);
}

impl Cluster {
    /// The service that a question is about, where it is followed already.
    fn is_held(&self, state: &State, question: &Question) -> Option<Name> {
        match question {
            Question::Service(name) => state
                .tracked
                .get_key_value(name)
                .map(|(name, _)| name.clone()),
            Question::Address(address) => {
                let has = |tracked: &super::Tracked| {
                    let service = tracked.service.as_ref();
                    service.is_some_and(|service| service.addresses.contains(address))
                };
                let mut all = state.tracked.iter();
                all.find(|(_, tracked)| has(tracked))
                    .map(|(name, _)| name.clone())
            }
        }
    }

    /// Takes the answer to a question.
    fn found(self: &Arc<Self>, question: Question, found: Result<Option<Name>, FeedError>) {
        let status = &self.demand.status;
        let mut state = self.lock();
        let waiting = state
            .lookups
            .under_way
            .remove(&question)
            .unwrap_or_default();
        match found {
            Ok(Some(name)) => {
                status.found.fetch_add(1, Relaxed);
                self.demand.forget(&question);
                if !self.want(&mut state, &name, waiting) {
                    self.demand.remember(question, UNKNOWN);
                }
            }
            Ok(None) => {
                status.unknown.fetch_add(1, Relaxed);
                self.demand.remember(question, UNKNOWN);
            }
            Err(error) => {
                status.unanswered.fetch_add(1, Relaxed);
                self.demand.remember(question.clone(), UNANSWERED);
                let now = Instant::now();
                if state.lookups.said.is_none_or(|said| now >= said + UNKNOWN) {
                    state.lookups.said = Some(now);
                    tracing::warn!(?question, %error, "no answer from the Kubernetes API; what is not known passes as it is");
                }
            }
        }
    }

    /// Looks at all services for the addresses that wait, unless somebody does, or has a moment ago.
    fn scan(self: &Arc<Self>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.lookups.scanning, true) {
            return;
        }
        let not_before = state.lookups.scanned.map(|last| last + SCAN_AGAIN);
        drop(state);
        let this = self.clone();
        // Ends with the answers to all that waited.
        tokio::spawn(async move {
            if let Some(at) = not_before {
                sleep_until(at).await;
            }
            let wanted: Vec<IpAddr> = {
                let mut state = this.lock();
                state.lookups.scanned = Some(Instant::now());
                std::mem::take(&mut state.lookups.second)
                    .into_iter()
                    .collect()
            };
            let scanned = this.source.scan(&wanted).await;
            this.lock().lookups.scanning = false;
            for address in wanted {
                let found = match &scanned {
                    Ok(found) => {
                        let own = found.iter().find(|(at, _)| *at == address);
                        Ok(own.map(|(_, name)| name.clone()))
                    }
                    Err(error) => Err(FeedError::Lost(error.to_string())),
                };
                this.found(Question::Address(address), found);
            }
            let more = !this.lock().lookups.second.is_empty();
            if more {
                this.scan();
            }
        });
    }
}

/// Whether an address is one that clusters give their services: RFC 1918, RFC 6598, RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_api_is_not_asked_for_the_whole_world() {
        let mut lookups = Lookups::default();
        for _ in 0..3 {
            let taken = (0..1000).filter(|_| lookups.is_in_rate()).count();
            assert_eq!(taken, LOOKUP_RATE as usize);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[test]
    fn addresses_of_services_are_private() {
        for (address, private) in [
            ("10.96.0.1", true),
            ("172.20.0.1", true),
            ("192.168.1.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("8.8.8.8", false),
            ("fd00::1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }
}
