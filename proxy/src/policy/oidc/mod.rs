//! Part of stage 6, policy: login by OpenID Connect. Sends users to their issuer, takes them back,
//! and knows them again by a cookie that only this gateway can read.

pub mod issuer;
mod jar;
mod tokens;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use selvedge_gateway::jwt::{Expect, Verified, content, headers};
use selvedge_gateway::oidc::{
    Browsing, Callback, ClientAuth, Leaving, Login, Names, Session, leaving,
};
use selvedge_gateway::seal::Ring;

use crate::error::{Error, ErrorKind};
use crate::message::{Body, Fields, Host, Known, RequestHead, Response, ResponseHead};

use super::forwarded;
use super::guard::{Found, Notes, Seen, Stop};

use issuer::{Failed, Issuer};
use jar::Jar;
pub use tokens::Done;

/// A compiled policy.
#[derive(Debug)]
pub struct Oidc {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Who knows the users.
    pub issuer: Arc<Issuer>,
    /// Who we are there.
    pub client: ClientAuth,
    /// What is asked for, separated by spaces.
    pub scopes: String,
    /// Origin that users see, where it is not told by requests.
    pub public: Option<String>,
    /// Path to which users come back.
    pub callback: String,
    /// Path that ends a session.
    pub logout: String,
    /// Path to which users come after that.
    pub after_logout: String,
    /// Name of the session's cookie, without a prefix.
    pub cookie: String,
    /// Names of cookies behind https.
    pub https: Names,
    /// And without it.
    pub http: Names,
    /// Keys of the cookies.
    pub ring: Ring,
    /// Seconds that a session lives.
    pub life: u64,
    /// Claims that a session keeps.
    pub kept: Vec<String>,
    /// What an ID token must say to be one.
    pub id: Expect,
    /// What its claims must say, and what the application is told.
    pub expect: Expect,
    /// For one question to the issuer.
    pub timeout: Duration,
}

/// What came of a wait.
#[derive(Debug)]
pub enum Outcome {
    /// A login.
    Login(Result<Done, Failed>),
    /// New tokens.
    Session(Result<Arc<Session>, Failed>),
}

/// One request, as this policy sees it.
struct Visit<'a> {
    head: &'a RequestHead,
    public: Option<&'a str>,
    scheme: &'static str,
    host: Host,
    jar: Jar<'a>,
    now: u64,
}

impl Visit<'_> {
    /// What the user sees before a path: without the port that the scheme has anyway.
    fn origin(&self) -> String {
        if let Some(public) = self.public {
            return public.to_owned();
        }
        let (scheme, name) = (self.scheme, self.host.name());
        match (scheme, self.host.port()) {
            (_, None) | ("https", Some(443)) | ("http", Some(80)) => format!("{scheme}://{name}"),
            (_, Some(port)) => format!("{scheme}://{name}:{port}"),
        }
    }
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

impl Oidc {
    /// Lets a request pass that brings a session, and notes what the application is told of it.
    ///
    /// # Errors
    /// [`Stop::Answered`] with a redirect for who must log in, comes back or leaves;
    /// [`Stop::Refused`] with 401 where that is no browser, 403 where claims do not suffice, and
    /// what a failed login has; [`Stop::Wait`] while the issuer is asked.
    pub fn check(self: &Arc<Self>, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let head = seen.head;
        let (scheme, host) = forwarded::origin(seen.downstream, head);
        let public = self.public.as_deref();
        let secure = public.map_or(scheme == "https", |url| url.starts_with("https://"));
        if public.is_none() && host.is_empty() {
            // HTTP/1.0: there is nowhere to come back to.
            return Err(ErrorKind::BadHost.into());
        }
        let visit = Visit {
            head,
            public,
            scheme,
            host,
            jar: Jar::new(self, head, if secure { &self.https } else { &self.http }),
            now: unix_now(),
        };
        let found = seen.found.take();
        match head.target.path() {
            path if path == self.callback => return Err(self.come_back(&visit, found, notes)),
            path if path == self.logout => return Err(self.leave(&visit, notes)),
            _ => {}
        }
        let waited = found.is_some();
        let session = match visit.jar.session(visit.now) {
            None => return Err(self.begin(&visit, waited, notes)),
            Some(session) if session.is_due(visit.now) => match found {
                Some(Found::Oidc(outcome)) => match *outcome {
                    Outcome::Session(outcome) => {
                        self.take_renewed(&visit, session, outcome, notes)?
                    }
                    Outcome::Login(_) => session,
                },
                _ => {
                    let this = self.clone();
                    return Err(Stop::wait(async move {
                        let renewed = this.renew(session).await;
                        Found::Oidc(Box::new(Outcome::Session(renewed)))
                    }));
                }
            },
            Some(session) => session,
        };
        self.pass(session, seen, notes)
    }

    /// Lets a session pass.
    fn pass(&self, session: Session, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let told = content(&session.claims, &self.expect)
            .and_then(|()| headers(&session.claims, &self.expect.headers));
        let told = told.map_err(|e| Stop::Refused(Error::with(ErrorKind::Denied, e)))?;
        for (_, header) in &self.expect.headers {
            notes.remove(header.as_bytes());
        }
        for (name, value) in &told {
            notes.append(name.as_bytes(), value.as_bytes());
        }
        notes.strip_session(&self.cookie);
        seen.token = Some(Rc::new(Verified {
            until: session.begun.saturating_add(self.life),
            claims: session.claims,
            headers: told,
        }));
        Ok(())
    }

    /// Goes on with what came of new tokens, or of trying to get them.
    fn take_renewed(
        &self,
        visit: &Visit<'_>,
        old: Session,
        outcome: Result<Arc<Session>, Failed>,
        notes: &mut Notes,
    ) -> Result<Session, Stop> {
        match outcome {
            Ok(new) => {
                let new = Session::clone(&new);
                visit.jar.keep(&new, visit.now, notes)?;
                // Whatever the application says of its answer: this one has a cookie for one user.
                notes.fields.append_known(Known::CacheControl, b"no-store");
                Ok(new)
            }
            Err(failed) if failed.kind == ErrorKind::Unauthenticated => {
                tracing::debug!(policy = %self.name, error = ?failed, "tokens not replaced");
                visit.jar.forget(notes);
                Err(self.begin(visit, true, notes))
            }
            Err(failed) if old.is_fresh(visit.now) => {
                tracing::warn!(policy = %self.name, error = ?failed, "tokens not replaced yet");
                Ok(old)
            }
            Err(failed) => Err(Stop::Refused(failed.into())),
        }
    }

    /// Sends a user to log in, or tells a program that it may not.
    fn begin(&self, visit: &Visit<'_>, waited: bool, notes: &mut Notes) -> Stop {
        let fields = &visit.head.fields;
        let browsing = Browsing {
            reads: matches!(visit.head.method, Method::GET | Method::HEAD),
            upgrades: visit.head.upgrade.is_some(),
            accept: fields.known(Known::Accept),
            mode: fields.named("Sec-Fetch-Mode"),
            requested_with: fields.named("X-Requested-With"),
        };
        if !browsing.is_navigation() {
            notes.fields.append(b"WWW-Authenticate", b"Cookie");
            return ErrorKind::Unauthenticated.into();
        }
        let Some(known) = self.issuer.look() else {
            if waited {
                return ErrorKind::IssuerLost.into();
            }
            let issuer = self.issuer.clone();
            return Stop::wait(async move {
                issuer.again().await;
                Found::Keys
            });
        };
        let target = std::str::from_utf8(visit.head.target.text()).unwrap_or("/");
        let mut random = match jar::random::<96>() {
            Ok(random) => random.into_iter(),
            Err(stop) => return stop,
        };
        let login = Login::new(target, visit.now, |bytes| {
            for (to, from) in bytes.iter_mut().zip(&mut random) {
                *to = from;
            }
        });
        if let Err(stop) = visit.jar.remember(&login, visit.now, notes) {
            return stop;
        }
        let callback = visit.origin() + &self.callback;
        redirect(
            StatusCode::FOUND,
            &login.address(&known.provider, &self.client.id, &callback, &self.scopes),
        )
    }

    /// Takes a user back from the issuer.
    fn come_back(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        found: Option<Found>,
        notes: &mut Notes,
    ) -> Stop {
        notes.conceal = true;
        if let Some(Found::Oidc(outcome)) = found
            && let Outcome::Login(outcome) = *outcome
        {
            return match outcome {
                Ok(done) => match visit.jar.keep(&done.session, visit.now, notes) {
                    Ok(()) => redirect(StatusCode::FOUND, &done.back),
                    Err(stop) => stop,
                },
                Err(failed) => Stop::Refused(failed.into()),
            };
        }
        if visit.head.method != Method::GET {
            return ErrorKind::MethodNotAllowed.into();
        }
        let unknown = |why: String| Stop::Refused(Error::with(ErrorKind::LoginUnknown, why));
        let answer = match Callback::read(visit.head.target.query()) {
            Ok(answer) => answer,
            Err(error) => return unknown(error.to_string()),
        };
        let Some(login) = visit.jar.login(&answer.state, visit.now) else {
            return unknown("no login of this browser has that state".to_owned());
        };
        // Whatever becomes of it: it is answered.
        visit.jar.forget_login(&answer.state, notes);
        let this = self.clone();
        let callback = visit.origin() + &self.callback;
        Stop::wait(async move {
            let done = this.finish(login, answer, callback).await;
            Found::Oidc(Box::new(Outcome::Login(done)))
        })
    }

    /// Ends a session, here and at the issuer.
    fn leave(&self, visit: &Visit<'_>, notes: &mut Notes) -> Stop {
        let head = visit.head;
        let post = match head.method {
            Method::POST => true,
            Method::GET | Method::HEAD => false,
            _ => return ErrorKind::MethodNotAllowed.into(),
        };
        // An image or a prefetch of one's own page is nobody's wish either.
        let mode = head.fields.named("Sec-Fetch-Mode");
        let by_hand = mode.is_none_or(|mode| mode == b"navigate");
        let early = head.fields.named("Sec-Purpose").is_some();
        let site = match head.fields.named("Sec-Fetch-Site") {
            Some(_) if !post && (!by_hand || early) => Some(&b"cross-site"[..]),
            site => site,
        };
        let origin = head.fields.named("Origin");
        match leaving(post, site, origin, &visit.origin()) {
            Leaving::Now if head.method != Method::HEAD => {}
            Leaving::Now | Leaving::Ask => return self.ask_whether_to_leave(notes),
            Leaving::Never => return ErrorKind::Denied.into(),
        }
        let session = visit.jar.session(visit.now);
        visit.jar.forget(notes);
        let after = visit.origin() + &self.after_logout;
        let hint = session.as_ref().and_then(|s| s.hint.as_deref());
        let known = self.issuer.look();
        let there = known.and_then(|k| k.provider.logout(&self.client.id, hint, &after));
        redirect(
            StatusCode::SEE_OTHER,
            there.as_deref().unwrap_or(&self.after_logout),
        )
    }

    /// A page for who was sent here by a link: it may stand on another site.
    fn ask_whether_to_leave(&self, notes: &mut Notes) -> Stop {
        // The path was checked at load: it needs no escape.
        let page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Log out</title>\
             <h1>Log out?</h1><form method=\"post\" action=\"{}\">\
             <button>Log out</button></form></html>\n",
            self.logout
        );
        let policy = b"default-src 'none'; frame-ancestors 'none'";
        notes.fields.append(b"Content-Security-Policy", policy);
        notes.fields.append(b"X-Frame-Options", b"DENY");
        let mut fields = Fields::new();
        fields.append_known(Known::ContentType, b"text/html; charset=utf-8");
        answered(StatusCode::OK, fields, page)
    }

    fn is_own_path(&self, target: &str) -> bool {
        let path = target.split('?').next().unwrap_or_default();
        path == self.callback || path == self.logout
    }
}

/// Nobody may keep it: it is for one user, once.
fn redirect(status: StatusCode, location: &str) -> Stop {
    let mut fields = Fields::new();
    fields.append(b"Location", location.as_bytes());
    answered(status, fields, String::new())
}

fn answered(status: StatusCode, mut fields: Fields, body: String) -> Stop {
    let mut digits = itoa::Buffer::new();
    fields.append_known(Known::CacheControl, b"no-store");
    fields.append_known(Known::ContentLength, digits.format(body.len()).as_bytes());
    let body = match body.is_empty() {
        true => Body::Empty,
        false => Body::Full(body.into()),
    };
    Stop::Answered(Box::new(Response {
        head: ResponseHead { status, fields },
        body,
    }))
}
