//! How services balance, every default filled in.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use selvedge_contract::config::{
    Balance, Balancer, ConsistentHash, HashBy, Scan, Service as Spec, Sticky as StickySpec,
    StickyCookie as CookieSpec,
};
use selvedge_contract::defaults::balance as defaults;

use crate::balance::key::of_bytes;
use crate::balance::plan::{KeyOf, Plan, Sticky, StickyCookie, Strategy, Subset};
use crate::protocol::http1::parse::is_token;

use super::{At, Pass};

/// Bounds of a bounded load, as multiples of the fair share: at 1 every key would be moved, and past a
/// hundred nothing is bounded.
const BOUNDS: std::ops::RangeInclusive<f64> = 1.01..=100.0;

/// Longest name of a cookie.
const COOKIE_NAME: usize = 64;

impl Pass<'_> {
    /// How a service balances.
    pub(super) fn balance(&mut self, at: &At, spec: &Spec) -> Plan {
        let (strategy, key) = self.strategy(&at.then("balance"), &spec.balance);
        let sticky = spec.sticky.as_ref();
        let sticky = sticky.and_then(|sticky| self.sticky(&at.then("sticky"), sticky));
        let mut plan = Plan {
            key,
            sticky,
            ..Plan::of(strategy)
        };
        if let Some(slow_start) = spec.slow_start {
            plan.slow_start = slow_start.0;
        }
        if let Some(share) = spec.panic_threshold {
            if share > 100 {
                let remedy = "expected a share in percent, 0 to 100";
                self.error(&at.then("panicThreshold"), "out of range", remedy);
            }
            plan.panic = share;
        }
        let cluster = self.config.kubernetes.as_ref();
        let zone = spec.zone.as_ref();
        // Endpoints of the cluster have been chosen by its own hints already.
        let zone = zone.or_else(|| cluster.and_then(|cluster| cluster.zone.as_ref()));
        let knows = |e: &selvedge_contract::config::Endpoint| match e {
            selvedge_contract::config::Endpoint::Weighted(e) => e.zone.is_some(),
            selvedge_contract::config::Endpoint::Address(_) => false,
        };
        let zones = spec.endpoints.iter().any(knows);
        if spec.zone.is_some() && !zones {
            let remedy = "give `endpoints` a `zone` each";
            self.error(&at.then("zone"), "no endpoint has a zone", remedy);
        }
        plan.zone = zone.filter(|_| zones).map(|zone| Arc::from(zone.as_str()));
        plan.subset = spec.subset.and_then(|size| {
            if size == 0 {
                let remedy = "expected the number of endpoints to use, 1 or more";
                self.error(&at.then("subset"), "0 is out of range", remedy);
                return None;
            }
            Some(Subset {
                size: size as usize,
                seed: own_seed(),
            })
        });
        plan
    }

    fn strategy(&mut self, at: &At, balance: &Balance) -> (Strategy, Option<KeyOf>) {
        let spec = match balance {
            Balance::Word(word) => return of_word(*word),
            Balance::With(spec) => spec,
        };
        match (&spec.least_request, &spec.ring_hash, &spec.maglev) {
            (Some(least), None, None) => {
                let full = least.scan == Scan::Full;
                (Strategy::LeastRequest { full }, None)
            }
            (None, Some(hash), None) => {
                let at = at.then("ringHash");
                let bound = self.bound(&at, hash);
                (Strategy::Ring { bound }, self.hash_key(&at, &hash.by))
            }
            (None, None, Some(hash)) => {
                let at = at.then("maglev");
                let bound = self.bound(&at, hash);
                (Strategy::Maglev { bound }, self.hash_key(&at, &hash.by))
            }
            _ => {
                let remedy = "set exactly one of `leastRequest`, `ringHash`, `maglev`";
                self.error(at, "an endpoint is chosen in one way", remedy);
                of_word(Balancer::LeastRequest)
            }
        }
    }

    fn bound(&mut self, at: &At, hash: &ConsistentHash) -> u32 {
        let Some(bound) = hash.bounded_load else {
            return defaults::BOUNDED_LOAD;
        };
        if bound != 0.0 && !BOUNDS.contains(&bound) {
            let remedy = "expected a multiple of the fair share from 1.01 to 100, or 0 for none";
            let message = format!("{bound} is out of range");
            self.error(&at.then("boundedLoad"), message, remedy);
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is within bounds"
        )]
        let percent = (bound * 100.0).round() as u32;
        percent
    }

    fn hash_key(&mut self, at: &At, by: &HashBy) -> Option<KeyOf> {
        let at = at.then("by");
        let key = match by {
            HashBy::Word(_) => return Some(KeyOf::Source),
            HashBy::Of(key) => key,
        };
        let (name, which, key) = match (&key.header, &key.cookie, &key.query) {
            (Some(name), None, None) => (name, "header", KeyOf::Header(name.clone())),
            (None, Some(name), None) => (name, "cookie", KeyOf::Cookie(name.clone())),
            (None, None, Some(name)) => (name, "query", KeyOf::Query(name.clone())),
            _ => {
                let remedy = "set exactly one of `header`, `cookie`, `query`, or `by: source`";
                self.error(&at, "a key is one thing of a request", remedy);
                return None;
            }
        };
        let fits = match key {
            KeyOf::Query(_) => !name.is_empty() && !name.contains(['&', '=', '#']),
            _ => is_token(name.as_bytes()),
        };
        if !fits {
            let message = format!("`{name}` is not a name for this");
            self.error(&at.then(which), message, "expected a name such as `user`");
        }
        Some(key)
    }

    fn sticky(&mut self, at: &At, sticky: &StickySpec) -> Option<Sticky> {
        match sticky {
            StickySpec::Word(_) => Some(Sticky::Source),
            StickySpec::By(by) => {
                let cookie = self.sticky_cookie(&at.then("cookie"), &by.cookie)?;
                Some(Sticky::Cookie(Arc::new(cookie)))
            }
        }
    }

    fn sticky_cookie(&mut self, at: &At, spec: &CookieSpec) -> Option<StickyCookie> {
        let name = spec.name.as_deref().unwrap_or(defaults::COOKIE);
        if !is_token(name.as_bytes()) || name.starts_with("__") || name.len() > COOKIE_NAME {
            let message = format!("`{name}` is not a name for this");
            let remedy =
                "expected letters, digits, `-` and `_`, 64 at most, not beginning with `__`";
            self.error(&at.then("name"), message, remedy);
        }
        let mut attributes = String::from("; Path=/; HttpOnly; SameSite=Lax");
        if let Some(ttl) = spec.ttl {
            if ttl.0.as_secs() == 0 {
                let remedy = "expected a second or more, such as `8h`";
                self.error(&at.then("ttl"), "a browser would drop it at once", remedy);
            }
            let _ = write!(attributes, "; Max-Age={}", ttl.0.as_secs());
        }
        let key = match &spec.secret_file {
            None => own_key(),
            Some(file) => {
                let secret = self.secret(&at.then("secretFile"), file)?;
                let digest = digest::digest(&digest::SHA256, secret.as_bytes());
                digest.as_ref().first_chunk().copied().unwrap_or_default()
            }
        };
        Some(StickyCookie {
            name: name.to_owned(),
            attributes: [attributes.clone(), format!("{attributes}; Secure")],
            key,
        })
    }
}

fn of_word(word: Balancer) -> (Strategy, Option<KeyOf>) {
    let bound = defaults::BOUNDED_LOAD;
    let strategy = match word {
        Balancer::LeastRequest => Strategy::LeastRequest { full: false },
        Balancer::RoundRobin => Strategy::RoundRobin,
        Balancer::LeastConnections => Strategy::LeastConnections,
        Balancer::ResponseTime => Strategy::ResponseTime,
        Balancer::Random => Strategy::Random,
        Balancer::LeastBandwidth => Strategy::Bandwidth,
        Balancer::ReportedLoad => Strategy::ReportedLoad,
        Balancer::RingHash => return (Strategy::Ring { bound }, Some(KeyOf::Source)),
        Balancer::Maglev => return (Strategy::Maglev { bound }, Some(KeyOf::Source)),
    };
    (strategy, None)
}

/// The key of this process, for cookies that no other proxy needs to know. The same over reloads.
fn own_key() -> [u8; 32] {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = [0; 32];
        // The provider has no reason to fail; where it does, a weaker key hides addresses still.
        if aws_lc_rs::rand::fill(&mut key).is_err() {
            key.fill_with(|| fastrand::u8(..));
        }
        key
    })
}

/// What tells this proxy from others, and is the same after a restart: the name of its host, which in a
/// cluster is that of its pod.
fn own_seed() -> u64 {
    let name = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    of_bytes(name.trim_ascii())
}
