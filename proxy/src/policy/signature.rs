//! Part of stage 6, policy: who calls, by a signature of the request. Where the body is signed, it is
//! read before the request goes on.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_gateway::apikey::Consumer;
use selvedge_gateway::signature::{
    Claim, Form, Parts, Refusal, Secret, read_message, read_webhook,
};

use crate::error::{Error, ErrorKind};
use crate::message::{BodyLength, RequestHead};

use super::forwarded;
use super::guard::{Found, Notes, Seen, Stop};
use super::jwt::only;

/// Somebody who signs.
#[derive(Debug)]
pub struct Signer {
    /// Name: for message signatures the `keyid`. None for webhooks.
    pub name: String,
    /// Plan, for limits.
    pub plan: Option<String>,
    /// Any of these.
    pub secrets: Vec<Secret>,
}

/// A compiled policy.
#[derive(Debug)]
pub struct Signature {
    /// Name of the policy.
    pub name: Arc<str>,
    /// How signatures are written.
    pub form: Form,
    /// Who signs; webhooks have one.
    pub signers: Vec<Signer>,
    /// Headers that a message signature must cover, beside what it always must.
    pub cover: Vec<String>,
    /// Seconds for which a signature is good.
    pub age: u64,
    /// Most bytes of a body.
    pub largest: usize,
    /// The header with the signer's name.
    pub name_header: String,
}

impl Signature {
    /// Lets a request pass that somebody known has signed, and notes what the application is told.
    ///
    /// # Errors
    /// [`Stop::Refused`] with 401; [`Stop::Body`] for the body.
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let claims = self.claims(seen).map_err(|why| self.refuse(why, notes))?;
        let Some(Found::Body(body)) = seen.found.take() else {
            return Err(Stop::Body(self.largest));
        };
        // Held for another way, which may take more.
        if body.len() > self.largest {
            return Err(ErrorKind::BodyTooLarge.into());
        }
        let signers = |claim: &Claim| match claim.key {
            Some(key) => self.signers.get(key..=key).unwrap_or_default(),
            None => &self.signers,
        };
        let held = claims.iter().find(|claim| {
            let secrets = signers(claim).iter().flat_map(|signer| &signer.secrets);
            claim.holds(&body, secrets).is_ok()
        });
        let Some(claim) = held else {
            return Err(self.refuse(Refusal::Wrong, notes));
        };
        for name in &claim.covered {
            notes.remove_lookalikes(name);
        }
        let signers = signers(claim);
        if let (Form::Message, [signer]) = (self.form, signers) {
            notes.remove(self.name_header.as_bytes());
            notes.append(self.name_header.as_bytes(), signer.name.as_bytes());
            seen.consumer = Some(Consumer::named(signer.name.clone(), signer.plan.clone()));
        } else {
            seen.signed = true;
        }
        Ok(())
    }

    fn claims(&self, seen: &Seen<'_>) -> Result<Vec<Claim>, Refusal> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |d| d.as_secs());
        let head = seen.head;
        if self.form != Form::Message {
            let claim = read_webhook(self.form, |name| only(head, name), now, self.age)?;
            return Ok(vec![claim]);
        }
        // What proxies before this one say of the host is not what the request was routed by.
        let (scheme, _) = forwarded::origin(seen.downstream, head);
        let host = &head.host;
        let port = host.port().filter(|port| !is_own_port(scheme, *port));
        let authority = match port {
            Some(port) => format!("{}:{port}", host.name()),
            None => host.name().to_owned(),
        };
        let target = &head.target;
        let parts = Parts {
            method: head.method.as_str(),
            scheme,
            authority: &authority,
            path: target.path(),
            query: (!target.query().is_empty()).then_some(target.query()),
            header: &|name| lines(head, name),
            body: seen.body != BodyLength::Exact(0),
        };
        let keys: Vec<&str> = self.signers.iter().map(|s| &*s.name).collect();
        read_message(&parts, &keys, &self.cover, now, self.age)
    }

    fn refuse(&self, refusal: Refusal, notes: &mut Notes) -> Stop {
        tracing::debug!(policy = %self.name, %refusal, "refused");
        notes.fields.append(b"WWW-Authenticate", b"Signature");
        Stop::Refused(Error::with(ErrorKind::Unauthenticated, refusal))
    }
}

fn is_own_port(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

/// The lines of a header.
fn lines<'a>(head: &'a RequestHead, name: &str) -> Vec<&'a [u8]> {
    let named = |own: &[u8]| own.eq_ignore_ascii_case(name.as_bytes());
    let fields = head.fields.iter().filter(|field| named(field.name));
    fields.map(|field| field.value).collect()
}
