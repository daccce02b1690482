//! The gRPC call `CreateCertificate`: limit, attest, issue, and one log event for each decision.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use selvedge_contract::identity::SpiffeId;
use selvedge_contract::sign::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::attest::{AttestError, Shown, attest, review};
use crate::authority::Authority;
use crate::issue::{IssueError, Issued};
use crate::limit::Limiter;
use crate::review::{ReviewError, Reviewer};
use crate::token::TokenStore;

/// Calls per second that one address may make.
pub const CALLS_PER_SECOND: u32 = 500;

/// The certificate service; a clone shares everything.
#[derive(Debug, Clone)]
pub struct CaService {
    pub(crate) authority: Arc<Authority>,
    pub(crate) tokens: Option<Arc<TokenStore>>,
    pub(crate) names: Arc<[String]>,
    reviewer: Option<Arc<dyn Reviewer>>,
    serving: Arc<Serving>,
    limiter: Arc<Limiter>,
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
            reviewer: None,
            serving: Arc::default(),
            limiter: Arc::new(Limiter::new(CALLS_PER_SECOND)),
        }
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

    async fn decide(
        &self,
        peer: Option<&Peer>,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Decision, Refusal> {
        let peer = peer.ok_or(Refusal::NoPeer)?.clone();
        if !self.limiter.admit(peer.address.ip(), Instant::now()) {
            return Err(Refusal::TooMany);
        }
        let authorization = authorization(&request)?;
        let shown = authorization.as_deref().map(String::as_str);
        let reviewed = review(self.reviewer.as_deref(), shown).await?;
        let asked = request.into_inner();
        // Zero or less means the default; what does not fit is far over the maximum anyway.
        let seconds = u64::try_from(asked.validity_duration).unwrap_or(0);
        let life = (seconds > 0).then(|| Duration::from_secs(seconds));
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
            let names = service.serving.get(&caller.id);
            let names = names.map_or(&[][..], Vec::as_slice);
            let issued = service
                .authority
                .issue_for(&asked.csr, &caller.id, names, life, now);
            match issued {
                Ok(issued) => Ok(Decision {
                    issued,
                    id: caller.id,
                    proof: caller.proof.as_str(),
                }),
                Err(error) => Err(Refusal::NotIssued {
                    id: caller.id,
                    error,
                }),
            }
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or(Err(Refusal::Worker))
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
                log_issued(peer.as_ref(), &decision);
                let cert_chain = decision.issued.chain_pem;
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(refusal) => {
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
        Refusal::TooMany => Status::resource_exhausted("too many calls"),
        Refusal::Unattested(
            AttestError::Token(crate::TokenError::Store(_))
            | AttestError::Review(ReviewError::Unavailable(_)),
        ) => Status::unavailable("try again later"),
        Refusal::Unattested(_) => Status::unauthenticated("request authenticate failure"),
        Refusal::NotIssued { error, .. } => match error {
            IssueError::Request(_) | IssueError::Life => {
                Status::invalid_argument(error.to_string())
            }
            IssueError::TrustDomain | IssueError::Reserved => {
                Status::unauthenticated("request authenticate failure")
            }
            IssueError::Expired => Status::unavailable("try again later"),
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
        Refusal::NotIssued { id, .. } => Some(tracing::field::display(id)),
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
