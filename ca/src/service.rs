//! The gRPC call `CreateCertificate`: limit, attest, issue, and one log event for each decision.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use selvedge_contract::identity::SpiffeId;
use selvedge_contract::sign::{
    INSTANCE, IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use zeroize::Zeroizing;

use crate::attest::{AttestError, Caller, Shown, attest, review};
use crate::authority::Authority;
use crate::holders::is_instance;
use crate::issue::{IssueError, Issued};
use crate::limit::{Limiter, subject};
use crate::log::LogError;
use crate::records::{Owner, Records};
use crate::review::{ReviewError, Reviewer};
use crate::tls::ServerIdentity;
use crate::token::TokenStore;
use crate::trust::MAX_FOLLOWERS;

/// Calls per second that one address may make.
pub const CALLS_PER_SECOND: u32 = 500;
/// Certificates per second for one identity, which may be that of many processes.
pub const CERTIFICATES_PER_SECOND: u32 = 50;
/// Certificates at once for one identity: all processes of a large workload may start together.
pub const CERTIFICATES_AT_ONCE: u32 = 1000;

/// The certificate service; a clone shares everything.
#[derive(Debug, Clone)]
pub struct CaService {
    pub(crate) authority: Arc<Authority>,
    pub(crate) tokens: Option<Arc<TokenStore>>,
    pub(crate) names: Arc<[String]>,
    /// `iss` of JWT-SVIDs.
    pub(crate) jwt_issuer: Option<Arc<str>>,
    reviewer: Option<Arc<dyn Reviewer>>,
    serving: Arc<Serving>,
    pub(crate) records: Arc<Records>,
    limiter: Arc<Limiter<IpAddr>>,
    budgets: Arc<Limiter<SpiffeId>>,
    /// Most proxies that follow the bundle.
    pub(crate) followers: usize,
    /// What was decided, for whoever counts.
    pub(crate) tally: Arc<Tally>,
}

/// How many calls ended how, since the start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Certificates that were given to workloads.
    pub issued: AtomicU64,
    /// JWT-SVIDs that were given to workloads.
    pub minted: AtomicU64,
    /// Callers who stayed unknown.
    pub unattested: AtomicU64,
    /// Requests that were refused though the caller was known, or could not be looked at.
    pub refused: AtomicU64,
    /// Calls beyond what one address or identity may make.
    pub limited: AtomicU64,
    /// Calls that failed for want of something here: the disk, the platform, time to sign for.
    pub failed: AtomicU64,
    /// Connections beyond what one address may have at a time.
    pub turned_away: AtomicU64,
    /// Proxies that follow the bundle at this moment.
    pub followers: AtomicU64,
}

/// DNS names that a certificate carries besides its identity, by that identity.
pub type Serving = BTreeMap<SpiffeId, Vec<String>>;

/// Who is at the other end of a connection; the server adds it to each request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address the connection comes from.
    pub address: SocketAddr,
    /// The certificate chain the handshake verified, leaf first; empty without one.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Why a call is refused, in full for the log.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("too many calls from this address")]
    TooMany,
    #[error("too many certificates for this identity")]
    Budget { id: SpiffeId },
    #[error("{error}")]
    NotLogged { id: SpiffeId, error: LogError },
    #[error("nobody is given another's certificate")]
    Impersonation,
    #[error("the request's peer is unknown")]
    NoPeer,
    #[error(transparent)]
    Unattested(#[from] AttestError),
    #[error("{error}")]
    NotIssued { id: SpiffeId, error: IssueError },
    #[error("the worker failed")]
    Worker,
}

impl CaService {
    /// A service that issues from `authority`.
    ///
    /// Without `tokens` only certificates of this authority are accepted as proof. `names` are the
    /// DNS names and IP addresses in the service's own TLS certificate.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        tokens: Option<Arc<TokenStore>>,
        names: Vec<String>,
    ) -> Self {
        Self {
            authority,
            tokens,
            names: names.into(),
            jwt_issuer: None,
            reviewer: None,
            serving: Arc::default(),
            records: Arc::default(),
            limiter: Arc::new(Limiter::new(CALLS_PER_SECOND, CALLS_PER_SECOND)),
            budgets: Arc::new(Limiter::new(CERTIFICATES_PER_SECOND, CERTIFICATES_AT_ONCE)),
            followers: MAX_FOLLOWERS,
            tally: Arc::default(),
        }
    }

    /// Lets so many proxies follow the bundle at a time, where files are few.
    #[must_use]
    pub fn with_followers(mut self, most: usize) -> Self {
        self.followers = most.min(MAX_FOLLOWERS);
        self
    }

    /// Writes down what is issued, instead of only remembering it.
    #[must_use]
    pub fn with_records(mut self, records: Arc<Records>) -> Self {
        self.records = records;
        self
    }

    /// What was decided since the start.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What was issued, and who holds it.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Names an issuer (`iss`) in JWT-SVIDs, for verifiers who ask for one. SPIFFE does not.
    #[must_use]
    pub fn with_jwt_issuer(mut self, issuer: Option<&str>) -> Self {
        self.jwt_issuer = issuer.map(Into::into);
        self
    }

    /// Takes tokens of the platform too, as far as `reviewer` vouches for them.
    #[must_use]
    pub fn with_reviewer(mut self, reviewer: Arc<dyn Reviewer>) -> Self {
        self.reviewer = Some(reviewer);
        self
    }

    /// Adds DNS names to certificates of these identities: for servers that are verified by name, as
    /// webhooks are. Who asks has no say in it.
    #[must_use]
    pub fn with_serving(mut self, serving: Serving) -> Self {
        self.serving = Arc::new(serving);
        self
    }

    /// Whether the address may make one more call now.
    pub(crate) fn admits(&self, peer: &Peer) -> bool {
        let caller = subject(peer.address.ip());
        self.limiter.admit(caller, Instant::now())
    }

    async fn decide(
        &self,
        peer: Option<&Peer>,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Decision, Refusal> {
        let peer = peer.ok_or(Refusal::NoPeer)?.clone();
        if !self.admits(&peer) {
            return Err(Refusal::TooMany);
        }
        let instance = instance(&request);
        let authorization = authorization(&request)?;
        let shown = authorization.as_deref().map(String::as_str);
        let reviewed = review(self.reviewer.as_deref(), shown).await?;
        let asked = request.into_inner();
        impersonates(&asked)?;
        let service = self.clone();
        // Tokens wait for the disk, and an RSA request costs CPU: not on the reactor.
        let work = move || {
            let now = SystemTime::now();
            let shown = Shown {
                authorization: authorization.as_deref().map(String::as_str),
                certificates: &peer.certificates,
            };
            let tokens = service.tokens.as_deref();
            let caller = attest(&service.authority, tokens, reviewed, shown, now)?;
            let peer = peer.address.ip().to_canonical();
            service.issue(&asked, caller, (peer, instance.as_deref()), now)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or(Err(Refusal::Worker))
    }

    /// Issues to a caller who is known, and writes it down. Blocks.
    fn issue(
        &self,
        asked: &IstioCertificateRequest,
        caller: Caller,
        (peer, instance): (IpAddr, Option<&str>),
        now: SystemTime,
    ) -> Result<Decision, Refusal> {
        let Caller { id, proof } = caller;
        if !self.budgets.admit(id.clone(), Instant::now()) {
            return Err(Refusal::Budget { id });
        }
        // Zero or less means the default; what does not fit is far over the maximum anyway.
        let seconds = u64::try_from(asked.validity_duration).unwrap_or(0);
        let life = (seconds > 0).then(|| Duration::from_secs(seconds));
        let names = self.serving.get(&id).map_or(&[][..], Vec::as_slice);
        let authority = &self.authority;
        let _turn = authority.issuing();
        let issued = match authority.issue_for(&asked.csr, &id, names, life, now) {
            Ok(issued) => issued,
            Err(error) => return Err(Refusal::NotIssued { id, error }),
        };
        let proof = proof.as_str();
        let owner = Owner {
            id: id.as_str(),
            proof,
            peer: Some(peer),
            instance,
        };
        if let Err(error) = self.records.workload(authority, &issued, owner, now) {
            return Err(Refusal::NotLogged { id, error });
        }
        Ok(Decision { issued, id, proof })
    }

    /// The CA's own certificate, written down.
    pub(crate) fn own_identity(&self, now: SystemTime) -> Result<ServerIdentity, IssueError> {
        let _turn = self.authority.issuing();
        let identity = self.authority.server_identity(&self.names, now)?;
        let written = self.records.own(&self.authority, &identity, now);
        written.map_err(|error| IssueError::Log(error.to_string()))?;
        Ok(identity)
    }

    fn count(&self, refusal: &Refusal) {
        let tally = &self.tally;
        let cell = match status(refusal).code() {
            Code::ResourceExhausted => &tally.limited,
            Code::Unauthenticated => &tally.unattested,
            Code::InvalidArgument => &tally.refused,
            _ => &tally.failed,
        };
        cell.fetch_add(1, Relaxed);
    }
}

/// Which process of its identity asks, where it says so in a form that is kept.
fn instance(request: &Request<IstioCertificateRequest>) -> Option<String> {
    let text = request.metadata().get(INSTANCE)?.to_str().ok()?;
    is_instance(text).then(|| text.to_owned())
}

/// Node proxies of Istio ask for certificates of the pods beside them. A certificate of their own would
/// not be what they asked for.
fn impersonates(asked: &IstioCertificateRequest) -> Result<(), Refusal> {
    let hints = asked.metadata.as_ref().map(|hints| &hints.fields);
    match hints.is_some_and(|hints| hints.contains_key("ImpersonatedIdentity")) {
        true => Err(Refusal::Impersonation),
        false => Ok(()),
    }
}

struct Decision {
    issued: Issued,
    id: SpiffeId,
    proof: &'static str,
}

#[tonic::async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        match self.decide(peer.as_ref(), request).await {
            Ok(decision) => {
                self.tally.issued.fetch_add(1, Relaxed);
                log_issued(peer.as_ref(), &decision);
                let cert_chain = decision.issued.chain_pem;
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(refusal) => {
                self.count(&refusal);
                log_refused(peer.as_ref(), &refusal);
                Err(status(&refusal))
            }
        }
    }
}

/// The one `authorization` of a call. Two would leave open which one counts.
fn authorization(
    request: &Request<IstioCertificateRequest>,
) -> Result<Option<Zeroizing<String>>, Refusal> {
    let mut values = request.metadata().get_all("authorization").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| AttestError::Scheme)?;
    if values.next().is_some() {
        return Err(AttestError::Scheme.into());
    }
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// What the caller is told. Nothing about why it is unknown: that would help guessing.
fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::TooMany | Refusal::Budget { .. } => Status::resource_exhausted("too many calls"),
        Refusal::NotLogged { .. } => Status::unavailable("try again later"),
        Refusal::Impersonation => Status::invalid_argument(refusal.to_string()),
        Refusal::Unattested(
            AttestError::Token(crate::TokenError::Store(_))
            | AttestError::Review(ReviewError::Unavailable(_)),
        ) => Status::unavailable("try again later"),
        Refusal::Unattested(_) => Status::unauthenticated("request authenticate failure"),
        Refusal::NotIssued { error, .. } => match error {
            IssueError::Request(_) | IssueError::Life { .. } => {
                Status::invalid_argument(error.to_string())
            }
            IssueError::TrustDomain | IssueError::Reserved => {
                Status::unauthenticated("request authenticate failure")
            }
            IssueError::Expired | IssueError::Log(_) => Status::unavailable("try again later"),
            IssueError::Name(_) | IssueError::Sign(_) => Status::internal("cannot sign"),
        },
        Refusal::NoPeer | Refusal::Worker => Status::internal("internal error"),
    }
}

fn log_issued(peer: Option<&Peer>, decision: &Decision) {
    tracing::info!(
        target: "selvedge::ca",
        outcome = "issued",
        identity = %decision.id,
        serial = %decision.issued.serial,
        proof = decision.proof,
        peer = peer.map(|peer| tracing::field::display(peer.address)),
        "certificate request"
    );
}

fn log_refused(peer: Option<&Peer>, refusal: &Refusal) {
    let identity = match refusal {
        Refusal::NotIssued { id, .. } | Refusal::NotLogged { id, .. } | Refusal::Budget { id } => {
            Some(tracing::field::display(id))
        }
        _ => None,
    };
    tracing::warn!(
        target: "selvedge::ca",
        outcome = "refused",
        identity,
        reason = %refusal,
        peer = peer.map(|peer| tracing::field::display(peer.address)),
        "certificate request"
    );
}
