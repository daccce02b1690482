//! The call by which proxies follow the trust bundle, and say which one they have.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use selvedge_contract::sign::{Bundle, Held, Trust};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::attest::certificate;
use crate::crowd::{Counted, Crowd};
use crate::holders::is_instance;
use crate::line::Line;
use crate::server::CALL_TIMEOUT;
use crate::service::{CaService, Peer};
use crate::validity::unix_seconds;

/// Most proxies that follow at a time.
pub const MAX_FOLLOWERS: usize = 20_000;
/// Most messages of one follower, which has one certificate: nobody changes bundles that often.
const MAX_MESSAGES: usize = 1_000;
/// Most followers of one address: those of a machine's pods may all have its own.
const OF_ONE: u32 = 256;

/// Serves [`Trust`] for `service`; a clone shares everything.
#[derive(Debug, Clone)]
pub(crate) struct TrustService {
    service: CaService,
    places: Arc<Semaphore>,
    addresses: Crowd,
    shutdown: CancellationToken,
}

impl TrustService {
    pub(crate) fn new(service: CaService, shutdown: CancellationToken) -> Self {
        let places = Arc::new(Semaphore::new(service.followers));
        Self {
            service,
            places,
            addresses: Crowd::new(OF_ONE),
            shutdown,
        }
    }
}

#[tonic::async_trait]
impl Trust for TrustService {
    type FollowStream = ReceiverStream<Result<Bundle, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<Held>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let unknown = || Status::unauthenticated("request authenticate failure");
        let extensions = request.extensions();
        let peer = extensions.get::<Peer>().cloned().ok_or_else(unknown)?;
        let line = extensions.get::<Line>().cloned().ok_or_else(unknown)?;
        if !self.service.admits(&peer) {
            return Err(Status::resource_exhausted("too many calls"));
        }
        let now = SystemTime::now();
        let shown = certificate(&self.service.authority, &peer.certificates, now);
        let (id, ends) = shown.map_err(|error| {
            tracing::info!(target: "selvedge::ca", peer = %peer.address, %error, "follower refused");
            unknown()
        })?;
        let full = || Status::resource_exhausted("too many followers");
        let place = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| full())?;
        let counted = self.addresses.admit(peer.address.ip()).ok_or_else(full)?;
        // It stays, so it must not take the place of those who come and go.
        if !line.follows() {
            return Err(Status::already_exists("this connection follows already"));
        }
        let (answers, stream) = mpsc::channel(1);
        let follower = Follower {
            service: self.service.clone(),
            id: id.as_str().into(),
            ends,
            instance: None,
            answers,
            _place: (place, counted),
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            follower.service.tally.followers.fetch_add(1, Relaxed);
            let tally = follower.service.tally.clone();
            follower.run(request.into_inner(), shutdown).await;
            tally.followers.fetch_sub(1, Relaxed);
            line.ends();
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Follower {
    service: CaService,
    id: String,
    /// When the certificate that it has shown ends, in seconds since 1970.
    ends: u64,
    instance: Option<String>,
    answers: mpsc::Sender<Result<Bundle, Status>>,
    _place: (OwnedSemaphorePermit, Counted),
}

impl Follower {
    /// Until it leaves, its certificate ends, or the CA does.
    async fn run(mut self, mut says: Streaming<Held>, shutdown: CancellationToken) {
        let mut bundles = self.service.authority.bundles();
        bundles.mark_changed();
        let now = unix_seconds(SystemTime::now()).unwrap_or(0);
        let left = Duration::from_secs(self.ends.saturating_sub(now) + 1);
        let mut over = pin!(sleep(left));
        let mut messages = 0;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = &mut over => return,
                changed = bundles.changed() => {
                    let bundle = {
                        let bundle = bundles.borrow_and_update();
                        Bundle { pem: bundle.pem.to_string(), jwks: bundle.jwks.to_string() }
                    };
                    if changed.is_err() || !self.say(Ok(bundle)).await {
                        return;
                    }
                }
                held = says.message() => {
                    messages += 1;
                    let Ok(Some(held)) = held else { return };
                    if messages > MAX_MESSAGES || !self.note(held) {
                        let status = Status::invalid_argument("not a bundle that is held");
                        self.say(Err(status)).await;
                        return;
                    }
                }
            }
        }
    }

    /// Whether it was taken, by somebody who reads what it asked for.
    async fn say(&self, answer: Result<Bundle, Status>) -> bool {
        let sent = timeout(CALL_TIMEOUT, self.answers.send(answer)).await;
        sent.is_ok_and(|sent| sent.is_ok())
    }

    fn note(&mut self, held: Held) -> bool {
        let Ok(sha256) = <[u8; 32]>::try_from(held.sha256) else {
            return false;
        };
        let instance = self.instance.get_or_insert(held.instance.clone());
        if *instance != held.instance || !is_instance(instance) {
            return false;
        }
        let holders = &self.service.records.holders;
        holders.acknowledged(&self.id, instance, sha256);
        true
    }
}
