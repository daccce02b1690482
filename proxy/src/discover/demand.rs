//! Discovery on demand: what the path asks when it meets an address or a name that its snapshot does
//! not know, and what is remembered of answers that found nothing.
//!
//! A request to what is known never comes here.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use selvedge_contract::config::Service;
use selvedge_contract::defaults::kubernetes::{REMEMBERED, UNANSWERED, WAIT};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// Namespace and name of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Name {
    /// Both.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// What is not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// Which service is called at this address.
    Address(IpAddr),
    /// Whether there is this service.
    Service(Name),
}

/// A question on its way. Whoever answers drops it, after the snapshot that has the answer is in
/// force.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub question: Question,
    /// Dropped with the answer.
    pub answered: oneshot::Sender<()>,
}

/// What is told of discovery in metrics and in `/ready`.
#[derive(Debug, Default)]
pub struct Status {
    /// Watches that are open.
    pub watches: AtomicU64,
    /// Watches that were begun.
    pub begun: AtomicU64,
    /// Lists that were read, each the beginning of a watch or a new one after versions were gone.
    pub lists: AtomicU64,
    /// Requests to the API that failed.
    pub failures: AtomicU64,
    /// Look-ups that found a service, found none, and had no answer.
    pub found: AtomicU64,
    /// See `found`.
    pub unknown: AtomicU64,
    /// See `found`.
    pub unanswered: AtomicU64,
    heard: Mutex<Option<Instant>>,
    troubles: Mutex<BTreeMap<String, String>>,
}

impl Status {
    /// The source has said something.
    pub fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago it last said something.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|at| at.elapsed())
    }

    /// What is wrong with one thing now; `None` is nothing. Says whether anything was before.
    pub fn note(&self, what: &str, trouble: Option<String>) -> bool {
        let mut now = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match trouble {
            Some(said) => now.insert(what.to_owned(), said),
            None => now.remove(what),
        };
        before.is_some()
    }

    /// What is wrong, the first of it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let now = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let (what, said) = now.first_key_value()?;
        Some(format!("{what}: {said}"))
    }
}

/// A port of a service that was found because it was called, as the compiler takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovered {
    /// As if the configuration had said it.
    pub spec: Service,
    /// Ports at which it is called by its names.
    pub ports: Vec<u16>,
    /// Name of the port.
    pub port_name: String,
    /// Whether it is the service's only one: then it is meant where no port is said.
    pub alone: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Demand {
    home: String,
    domain: String,
    asks: mpsc::Sender<Ask>,
    remembered: Mutex<HashMap<Question, Instant>>,
    /// How it goes.
    pub status: Status,
}

impl Demand {
    /// Asks over this channel, for a workload of this namespace in a cluster of this domain.
    #[must_use]
    pub fn new(home: &str, domain: &str, asks: mpsc::Sender<Ask>) -> Self {
        Self {
            home: home.to_owned(),
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            asks,
            remembered: Mutex::default(),
            status: Status::default(),
        }
    }

    /// The service that a host without its port may name: `orders`, `orders.shop`, `orders.shop.svc`,
    /// or that with the cluster's domain. Hosts of single pods name none.
    #[must_use]
    pub fn service(&self, host: &str) -> Option<Name> {
        let host = host
            .strip_suffix(&self.domain)
            .and_then(|h| h.strip_suffix('.'))
            .unwrap_or(host);
        let mut labels = host.split('.');
        let name = labels.next().filter(|name| is_label(name))?;
        let namespace = labels.next();
        match (namespace, labels.next(), labels.next()) {
            (None, None, None) => Some(Name::new(&self.home, name)),
            (Some(namespace), None | Some("svc"), None) if is_label(namespace) => {
                Some(Name::new(namespace, name))
            }
            _ => None,
        }
    }

    /// The hosts by which a service is called.
    #[must_use]
    pub fn hosts(&self, service: &Name) -> Vec<String> {
        let Name { namespace, name } = service;
        let mut hosts = vec![
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.{}", self.domain),
        ];
        if *namespace == self.home {
            hosts.push(name.clone());
        }
        hosts
    }

    /// Whether it was asked in vain a moment ago.
    #[must_use]
    pub fn is_known_to_be_none(&self, question: &Question) -> bool {
        let remembered = self.lock();
        remembered
            .get(question)
            .is_some_and(|until| Instant::now() < *until)
    }

    /// Not to be asked again for this long.
    pub fn remember(&self, question: Question, how_long: Duration) {
        let now = Instant::now();
        let mut remembered = self.lock();
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, until| now < *until);
        }
        // Full of what is fresh: it is asked again, which costs a request and is no fault.
        if remembered.len() < REMEMBERED {
            remembered.insert(question, now + how_long);
        }
    }

    /// What was there may be there again.
    pub fn forget(&self, question: &Question) {
        self.lock().remove(question);
    }

    /// Asks, and waits for the answer to be in force, or for [`WAIT`].
    ///
    /// Dropping the future gives up waiting; the answer comes nevertheless. Says whether it came in
    /// time.
    pub async fn ask(&self, question: Question) -> bool {
        let (answered, answer) = oneshot::channel();
        let again = question.clone();
        if self.asks.try_send(Ask { question, answered }).is_ok() {
            // An answer is that the other end is gone.
            if timeout(WAIT, answer).await.is_ok() {
                return true;
            }
            // One has waited; those that follow in the next moment need not.
            self.remember(again, UNANSWERED);
        }
        self.status.unanswered.fetch_add(1, Relaxed);
        false
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Question, Instant>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = [text.bytes().next(), text.bytes().last()];
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    (1..=63).contains(&text.len())
        && !digits
        && text.bytes().all(inner)
        && edges.iter().flatten().all(|b| *b != b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn hosts_name_services_as_dns_does() {
        let demand = Demand::new("shop", "cluster.local", mpsc::channel(1).0);
        for (host, service) in [
            ("orders", Some(("shop", "orders"))),
            ("orders.bank", Some(("bank", "orders"))),
            ("orders.bank.svc", Some(("bank", "orders"))),
            ("orders.bank.svc.cluster.local", Some(("bank", "orders"))),
            ("orders-0.orders.shop", None),
            ("orders-0.orders.shop.svc.cluster.local", None),
            ("a.b.example", None),
            ("10.0.0.1", None),
            ("Orders", None),
            ("-a", None),
            ("", None),
        ] {
            let wanted = service.map(|(namespace, name)| Name::new(namespace, name));
            assert_eq!(demand.service(host), wanted, "{host}");
        }
        for host in demand.hosts(&Name::new("shop", "orders")) {
            assert_eq!(demand.service(&host), Some(Name::new("shop", "orders")));
        }
        assert_eq!(demand.hosts(&Name::new("bank", "orders")).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_remembered_for_a_while_and_bounded() {
        let demand = Demand::new("shop", "cluster.local", mpsc::channel(1).0);
        let address = |at: u32| Question::Address(IpAddr::from(at.to_be_bytes()));
        demand.remember(address(1), Duration::from_secs(30));
        assert!(demand.is_known_to_be_none(&address(1)));
        assert!(!demand.is_known_to_be_none(&address(2)));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(!demand.is_known_to_be_none(&address(1)));
        for at in 0..10_000 {
            demand.remember(address(at), Duration::from_secs(30));
        }
        assert!(demand.lock().len() <= REMEMBERED);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (sender, mut asks) = mpsc::channel(1);
        let demand = Demand::new("shop", "cluster.local", sender);
        let begun = Instant::now();
        demand.ask(Question::Service(Name::new("shop", "a"))).await;
        assert_eq!(begun.elapsed(), WAIT);
        // Nobody takes the first: there is no room for a second, and no wait.
        demand.ask(Question::Service(Name::new("shop", "b"))).await;
        assert_eq!(begun.elapsed(), WAIT);
        assert!(asks.recv().await.is_some());
    }
}
