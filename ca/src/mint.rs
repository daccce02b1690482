//! The call by which a proxy gets a JWT-SVID: limit, attest by certificate, sign, write down.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use selvedge_contract::identity::SpiffeId;
use selvedge_contract::sign::{MintRequest, Minted, Tokens};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::attest::{Proof, certificate};
use crate::issue::permitted;
use crate::jwt::Token;
use crate::limit::Limiter;
use crate::records::Owner;
use crate::service::{CERTIFICATES_AT_ONCE, CERTIFICATES_PER_SECOND, CaService, Peer};

/// Most audiences of a token. One is better: each can use it towards the others (JWT-SVID section 6.2).
pub const AUDIENCES: usize = 16;
/// All of them together in bytes: they are written down.
const AUDIENCES_BYTES: usize = 1024;
/// Longest audience in bytes.
pub const AUDIENCE: usize = 255;
/// Life of a token for which none is asked: whoever sees it can use it, so it is short.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(300);
/// Longest life of a token.
pub const MAX_LIFE: Duration = Duration::from_secs(3600);

/// Serves [`Tokens`] for `service`; a clone shares everything.
#[derive(Debug, Clone)]
pub(crate) struct MintService {
    service: CaService,
    /// Apart from that of certificates: whoever wants too many tokens can still renew.
    budgets: Arc<Limiter<SpiffeId>>,
}

impl MintService {
    pub(crate) fn new(service: CaService) -> Self {
        let budgets = Limiter::new(CERTIFICATES_PER_SECOND, CERTIFICATES_AT_ONCE);
        Self {
            service,
            budgets: Arc::new(budgets),
        }
    }

    /// Who calls, by the certificate alone.
    fn caller(&self, peer: &Peer, now: SystemTime) -> Result<SpiffeId, Status> {
        let authority = &self.service.authority;
        let shown = certificate(authority, &peer.certificates, now);
        let known = shown
            .map_err(|error| error.to_string())
            .and_then(|(id, _)| {
                let allowed = permitted(&id, authority.trust_domain());
                allowed.map(|()| id).map_err(|error| error.to_string())
            });
        known.map_err(|error| {
            self.service.tally.unattested.fetch_add(1, Relaxed);
            tracing::warn!(target: "selvedge::ca", peer = %peer.address, error, "token refused");
            Status::unauthenticated("request authenticate failure")
        })
    }

    /// Signs, then writes it down. Blocks.
    fn mint(&self, id: &SpiffeId, peer: &Peer, asked: Asked) -> Result<Token, Status> {
        let now = SystemTime::now();
        let authority = &self.service.authority;
        let failed = |error: &dyn std::fmt::Display| {
            self.service.tally.failed.fetch_add(1, Relaxed);
            tracing::error!(target: "selvedge::ca", identity = %id, %error, "no token");
            Status::unavailable("try again later")
        };
        let _turn = authority.issuing();
        let issuer = self.service.jwt_issuer.as_deref();
        let who = (id, issuer);
        let signed = authority
            .jwt_key()
            .sign(who, asked.audience, asked.life, now);
        let token = signed.map_err(|error| failed(&error))?;
        let owner = Owner {
            id: id.as_str(),
            proof: Proof::Certificate.as_str(),
            peer: Some(peer.address.ip().to_canonical()),
            instance: None,
        };
        let written = self.service.records.token(authority, &token, owner, now);
        written.map_err(|error| failed(&error))?;
        self.service.tally.minted.fetch_add(1, Relaxed);
        tracing::info!(
            target: "selvedge::ca",
            identity = %id,
            jti = token.jti,
            peer = %peer.address,
            "token issued"
        );
        Ok(token)
    }
}

/// A request that can be granted.
struct Asked {
    audience: Vec<String>,
    life: Duration,
}

impl Asked {
    fn read(request: MintRequest) -> Result<Self, String> {
        let MintRequest { audience, ttl } = request;
        let fits = |one: &String| {
            (1..=AUDIENCE).contains(&one.len()) && !one.chars().any(char::is_control)
        };
        let all: usize = audience.iter().map(String::len).sum();
        let few = (1..=AUDIENCES).contains(&audience.len()) && all <= AUDIENCES_BYTES;
        if !few || !audience.iter().all(fits) {
            let why = format!(
                "expected 1 to {AUDIENCES} audiences of 1 to {AUDIENCE} bytes without control characters, \
                 {AUDIENCES_BYTES} bytes in all"
            );
            return Err(why);
        }
        let life = match Duration::from_secs(ttl.into()) {
            Duration::ZERO => DEFAULT_LIFE,
            asked if asked > MAX_LIFE => {
                return Err(format!("a token lives {} s at most", MAX_LIFE.as_secs()));
            }
            asked => asked,
        };
        Ok(Self { audience, life })
    }
}

#[tonic::async_trait]
impl Tokens for MintService {
    async fn mint_jwt(&self, request: Request<MintRequest>) -> Result<Response<Minted>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("internal error"))?;
        let tally = &self.service.tally;
        let many = || {
            tally.limited.fetch_add(1, Relaxed);
            Status::resource_exhausted("too many calls")
        };
        if !self.service.admits(&peer) {
            return Err(many());
        }
        let id = self.caller(&peer, SystemTime::now())?;
        if !self.budgets.admit(id.clone(), Instant::now()) {
            return Err(many());
        }
        let asked = Asked::read(request.into_inner()).map_err(|why| {
            tally.refused.fetch_add(1, Relaxed);
            Status::invalid_argument(why)
        })?;
        let this = self.clone();
        // It waits for the disk: not on the reactor.
        let work = move || this.mint(&id, &peer, asked);
        let token = tokio::task::spawn_blocking(work).await;
        let token = token.map_err(|_| Status::internal("internal error"))??;
        Ok(Response::new(Minted {
            token: token.text.to_string(),
            issued: token.issued,
            expires: token.expires,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_bounded() {
        let read = |audience: &[&str], ttl| {
            let audience = audience.iter().map(|one| (*one).to_owned()).collect();
            let asked = Asked::read(MintRequest { audience, ttl });
            asked.map(|asked| asked.life.as_secs())
        };
        let (long, longer) = ("a".repeat(AUDIENCE), "a".repeat(AUDIENCE + 1));
        assert_eq!(read(&["billing"], 0), Ok(300));
        assert_eq!(read(&[&*long; 4], 3600), Ok(3600));
        assert_eq!(read(&["a"; AUDIENCES], 3600), Ok(3600));
        assert!(read(&[&*long; 5], 3600).is_err());
        assert!(read(&["bill\u{1}ing"], 0).is_err());
        for (audience, ttl) in [
            (&[][..], 0),
            (&[""], 0),
            (&["billing", ""], 0),
            (&[&*longer], 0),
            (&["a"; AUDIENCES + 1], 0),
            (&["billing"], 3601),
            (&["billing"], u32::MAX),
        ] {
            assert!(read(audience, ttl).is_err(), "{audience:?} {ttl}");
        }
    }
}
