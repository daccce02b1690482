//! Calls of gRPC, counted by method. Which methods there are is known from what services answer: whatever clients
//! call, they make up no series.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use selvedge_contract::defaults::calls::{METHOD_BYTES, METHODS, METHODS_OF_ONE};

use crate::error::ErrorKind;
use crate::message::Target;

use super::metrics::{Durations, Lone, shards};

/// What `grpc_status` may be: the statuses there are, then any other number, then none.
pub const STATUSES: [&str; 19] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    "other", "none",
];

/// In place of both names: what is counted together.
pub const REST: &str = "other";

/// Statuses that only an application gives, and no library or proxy before it (gRPC, "Status codes and their use in
/// gRPC"): whoever gives one has the method. 12 says that it has not, and 7, 8, 14 or 16 may be said of any name.
const TELLING: [u32; 8] = [0, 3, 5, 6, 9, 10, 11, 15];

/// A call on its way.
#[derive(Debug)]
pub struct Call {
    target: Target,
    /// What its caller is told that it came to.
    pub(super) status: Option<u32>,
    /// A service has answered, not this proxy.
    pub(super) is_served: bool,
}

impl Call {
    /// One for this path, `/SERVICE/METHOD`.
    pub(super) fn new(target: &Target) -> Self {
        Self {
            target: target.clone(),
            status: None,
            is_served: false,
        }
    }

    /// Whether what it came to proves that there is such a method.
    fn is_telling(&self) -> bool {
        let telling = |status: u32| TELLING.contains(&status);
        self.is_served && self.status.is_some_and(telling)
    }
}

/// One worker's part of a method's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct MethodShard {
    /// By status, as [`STATUSES`] has them.
    pub status: [Lone; STATUSES.len()],
    /// From the head of a request to the last byte of its response.
    pub durations: Durations,
}

/// Counters of a method.
#[derive(Debug)]
pub struct Method {
    /// `package.Service`.
    pub service: Box<str>,
    /// Its name there.
    pub name: Box<str>,
    /// By worker.
    pub shards: Box<[MethodShard]>,
}

impl Method {
    fn new((service, name): (&str, &str), workers: usize) -> Arc<Self> {
        Arc::new(Self {
            service: service.into(),
            name: name.into(),
            shards: shards(workers),
        })
    }

    fn count(&self, status: Option<u32>, worker: usize, duration: Duration) {
        let last = self.shards.len().saturating_sub(1);
        let Some(shard) = self.shards.get(worker.min(last)) else {
            return;
        };
        let other = STATUSES.len() - 2;
        let at = match status.map(usize::try_from) {
            Some(Ok(status)) => status.min(other),
            Some(Err(_)) => other,
            None => other + 1,
        };
        if let Some(count) = shard.status.get(at) {
            count.add(1);
        }
        shard.durations.observe(duration);
    }
}

/// What all routes together may know of methods.
#[derive(Debug, Default)]
pub struct Room {
    taken: AtomicUsize,
    /// Held where a method is added, which is as often as there are methods.
    adding: Mutex<()>,
}

type Known = HashMap<Box<str>, Arc<Method>>;

/// The methods that one pair of route and service knows.
#[derive(Debug)]
pub struct Methods {
    /// By path. Another map for each method that is added: who looks up one waits for nobody.
    known: ArcSwapOption<Known>,
    /// Calls of any other.
    rest: OnceLock<Arc<Method>>,
    room: Arc<Room>,
    workers: usize,
}

impl Methods {
    pub(super) fn new(room: Arc<Room>, workers: usize) -> Self {
        Self {
            known: ArcSwapOption::empty(),
            rest: OnceLock::new(),
            room,
            workers,
        }
    }

    /// All that have been called, and the rest of calls.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Method>> {
        let known = self.known.load_full().unwrap_or_default();
        let mut all: Vec<_> = known.values().cloned().collect();
        all.sort_unstable_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
        all.extend(self.rest.get().cloned());
        all
    }

    /// Counts a call that is over. One that ended badly before anybody told its caller a status has that of the
    /// table of errors.
    pub(super) fn count(
        &self,
        call: &Call,
        end: Option<ErrorKind>,
        worker: usize,
        duration: Duration,
    ) {
        let status = call.status.or(end.map(|kind| kind.row().grpc.into()));
        let known = self.known.load();
        let method = known.as_ref().and_then(|k| k.get(call.target.path()));
        match method {
            Some(method) => method.count(status, worker, duration),
            None => self.unknown(call).count(status, worker, duration),
        }
    }

    /// Where a call counts whose method is not known so far.
    #[cold]
    fn unknown(&self, call: &Call) -> Arc<Method> {
        let path = call.target.path();
        let named = names(path).filter(|_| call.is_telling());
        let added = named.and_then(|names| self.add(path, names));
        added.unwrap_or_else(|| {
            let rest = || Method::new((REST, REST), self.workers);
            self.rest.get_or_init(rest).clone()
        })
    }

    /// `None`: there is no room for it.
    fn add(&self, path: &str, names: (&str, &str)) -> Option<Arc<Method>> {
        let room = &self.room;
        let is_full =
            |known: &Known| known.len() >= METHODS_OF_ONE || room.taken.load(Relaxed) >= METHODS;
        // Without a lock first: a service that has any method must not make workers wait for each other.
        if is_full(&self.known.load_full().unwrap_or_default()) {
            return None;
        }
        let _adding = room.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load_full().unwrap_or_default();
        if let Some(method) = known.get(path) {
            return Some(method.clone());
        }
        if is_full(&known) {
            return None;
        }
        let method = Method::new(names, self.workers);
        let mut more = Known::clone(&known);
        more.insert(path.into(), method.clone());
        self.known.store(Some(Arc::new(more)));
        room.taken.fetch_add(1, Relaxed);
        Some(method)
    }
}

/// Service and method of a path, if they are such names: identifiers, the service's with dots between.
fn names(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let plain = |name: &str, dots: bool| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || dots && b == b'.';
        !name.is_empty() && name.bytes().all(fits)
    };
    let fits = path.len() <= METHOD_BYTES && plain(service, true) && plain(method, false);
    (fits && (service, method) != (REST, REST)).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::target::EncodedSlash;

    fn call(path: &str, status: Option<u32>, is_served: bool) -> Call {
        let target = Target::parse(path.to_owned().into(), EncodedSlash::Keep).unwrap();
        Call {
            target,
            status,
            is_served,
        }
    }

    fn count(methods: &Methods, path: &str, status: u32) {
        let call = call(path, Some(status), true);
        methods.count(&call, None, 0, Duration::ZERO);
    }

    #[test]
    fn only_what_a_service_has_answered_itself_is_known() {
        let methods = Methods::new(Arc::default(), 2);
        for status in (0..20).filter(|status| !TELLING.contains(status)) {
            count(&methods, "/a.B/C", status);
        }
        let own = call("/a.B/C", Some(0), false);
        methods.count(&own, None, 0, Duration::ZERO);
        assert_eq!(methods.all().len(), 1);
        assert_eq!(&*methods.all()[0].service, REST);
        for path in [
            "/a.B",
            "/a.B/",
            "//C",
            "/a.B/C/d",
            "/a.B/C.d",
            "/a%22/C",
            "/other/other",
        ] {
            count(&methods, path, 0);
        }
        count(&methods, &format!("/{}/C", "a".repeat(METHOD_BYTES)), 0);
        assert_eq!(methods.all().len(), 1);
        count(&methods, "/a.B/C", 5);
        let ended = call("/a.B/C", None, true);
        methods.count(&ended, Some(ErrorKind::ClientGone), 1, Duration::ZERO);
        let known = methods.all();
        assert_eq!((&*known[0].service, &*known[0].name), ("a.B", "C"));
        assert_eq!(known[0].shards[0].status[5].value(), 1);
        assert_eq!(known[0].shards[1].status[1].value(), 1);
    }

    #[test]
    fn methods_are_bounded_by_route_and_in_all() {
        let room = Arc::default();
        let (first, second) = (Methods::new(Arc::clone(&room), 1), Methods::new(room, 1));
        for methods in [&first, &second] {
            for nth in 0..METHODS {
                count(methods, &format!("/a.B/M{nth}"), 0);
            }
        }
        assert_eq!(first.all().len(), METHODS_OF_ONE + 1);
        assert_eq!(second.all().len(), METHODS - METHODS_OF_ONE + 1);
        let rest = second.rest.get().unwrap().shards[0].status[0].value();
        assert_eq!(rest, METHODS_OF_ONE as u64);
    }

    #[test]
    fn every_status_has_its_label() {
        let methods = Methods::new(Arc::default(), 1);
        for status in [Some(16), Some(17), Some(u32::MAX), None] {
            let call = call("/a/b", status, true);
            methods.count(&call, None, 0, Duration::ZERO);
        }
        let rest = methods.rest.get().unwrap();
        let counts: Vec<u64> = rest.shards[0].status.iter().map(Lone::value).collect();
        assert_eq!(counts[16..], [1, 2, 1]);
        assert_eq!(STATUSES[16..], ["16", "other", "none"]);
    }
}
