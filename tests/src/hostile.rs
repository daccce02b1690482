//! The stage of the hostile-bytes tests: a proxy in either role before an upstream that records
//! and echoes, a case that says what must become of some bytes, and another user who must not
//! notice any of it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a rig fails where a test would"
)]

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::http2::{Http2, Outcome};
use crate::upstream::Connection;
use crate::{Raw, Seen, Selvedge, Upstream, gateway, sidecar};

/// In which role the proxy is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// At the edge.
    Gateway,
    /// Before an application, inbound.
    Sidecar,
}

/// Both roles.
pub const ROLES: [Role; 2] = [Role::Gateway, Role::Sidecar];

/// What must become of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// This status and a close; not a byte at the upstream.
    Refused(u16),
    /// This status and a close; what the upstream has of it must not look complete.
    Broken(u16),
    /// 200, and the connection carries another request.
    Served,
    /// 200, and the connection ends.
    ServedLast,
}

/// Some bytes and what must become of them. Their paths say `hostile` or `smuggled`.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub id: String,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// What is sent once the upstream has all of this text ...
    pub after: &'static str,
    /// ... where there is a second part.
    pub then: Vec<u8>,
    /// What must become of it.
    pub want: Want,
}

impl Case {
    /// Bytes sent at once.
    #[must_use]
    pub fn new(id: impl Into<String>, bytes: impl Into<Vec<u8>>, want: Want) -> Self {
        Self {
            id: id.into(),
            bytes: bytes.into(),
            after: "",
            then: Vec::new(),
            want,
        }
    }

    /// A second part, sent once the upstream has seen `after`.
    #[must_use]
    pub fn then(mut self, after: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        self.after = after;
        self.then = bytes.into();
        self
    }
}

type Requests = Arc<Mutex<Vec<Vec<u8>>>>;

/// A proxy and its upstream.
pub struct Stage {
    /// Role of the proxy.
    pub role: Role,
    /// The proxy.
    pub proxy: Selvedge,
    /// The upstream.
    pub upstream: Upstream,
    complete: Requests,
    canaries: AtomicU32,
}

/// How far an upstream's log had come.
pub struct Mark {
    lengths: Vec<usize>,
    complete: usize,
}

/// The target of a request.
#[must_use]
pub fn target(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Answers a request with its target as the body, so that each answer tells whose it is.
pub fn echo(connection: &mut Connection, request: &[u8]) {
    let target = target(request);
    let body = if request.starts_with(b"HEAD ") {
        ""
    } else {
        &target
    };
    connection.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        target.len()
    ));
}

/// Says for the summary of the battery (`tests/battery`) that so many cases of a row were carried out, and right.
pub fn held(row: &str, role: Role, cases: usize) {
    let Some(summary) = std::env::var_os("SELVEDGE_BATTERY") else {
        return;
    };
    let line = format!("{row} {role:?} {cases}\n");
    let file = OpenOptions::new().create(true).append(true).open(summary);
    // In one piece: all tests write to it.
    file.unwrap().write_all(line.as_bytes()).unwrap();
}

/// Runs a test in both roles, each before an upstream that echoes.
pub fn both(run: impl Fn(&Stage)) {
    for role in ROLES {
        run(&Stage::start(role, ""));
    }
}

impl Stage {
    /// Before an upstream that echoes; `limits` are entries of that section.
    #[must_use]
    pub fn start(role: Role, limits: &str) -> Self {
        let complete = Requests::default();
        let requests = complete.clone();
        let upstream = Upstream::scripted(move |connection| {
            while let Some(request) = connection.request() {
                requests.lock().unwrap().push(request.clone());
                echo(connection, &request);
            }
        });
        Self {
            complete,
            ..Self::over(role, limits, upstream)
        }
    }

    /// Before this upstream, which must echo what it has no other answer for.
    #[must_use]
    pub fn over(role: Role, limits: &str, upstream: Upstream) -> Self {
        let address = upstream.address();
        let proxy = match role {
            Role::Gateway => gateway(&format!(
                "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{address}\"] }} }}
limits: {{ {limits} }}"
            )),
            Role::Sidecar => sidecar(&format!(
                "inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{address}\", mtls: permissive }}]
limits: {{ {limits} }}"
            )),
        };
        Self {
            role,
            proxy,
            upstream,
            complete: Requests::default(),
            canaries: AtomicU32::new(0),
        }
    }

    /// A new connection to the proxy.
    #[must_use]
    pub fn client(&self) -> Raw {
        Raw::connect(self.address())
    }

    /// A new HTTP/2 connection to the proxy, with prior knowledge.
    #[must_use]
    pub fn http2(&self) -> Http2 {
        Http2::connect(self.address(), &[])
    }

    /// Where the proxy listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.proxy.address(match self.role {
            Role::Gateway => "web",
            Role::Sidecar => "inbound-0",
        })
    }

    /// A path that nobody has asked for yet.
    pub fn nonce(&self) -> String {
        format!("/own/{}", self.canaries.fetch_add(1, Ordering::Relaxed))
    }

    /// How far the upstream's log has come.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            lengths: self.upstream.seen().iter().map(|s| s.bytes.len()).collect(),
            complete: self.complete.lock().unwrap().len(),
        }
    }

    /// What each upstream connection has brought since.
    #[must_use]
    pub fn fresh(&self, mark: &Mark) -> Vec<Seen> {
        since(mark, &self.upstream.seen())
    }

    /// The requests that arrived whole since, canaries left out.
    #[must_use]
    pub fn complete(&self, mark: &Mark) -> Vec<Vec<u8>> {
        let all = self.complete.lock().unwrap();
        let fresh = all.get(mark.complete..).unwrap_or_default();
        let hostile = fresh.iter().filter(|r| !target(r).starts_with("/own/"));
        hostile.cloned().collect()
    }

    /// Memory of the proxy, in bytes.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.proxy.resident()
    }

    /// The most it ever was.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.proxy.peak()
    }

    /// Another user, on connections of their own, gets their own answers.
    ///
    /// # Errors
    /// What they got instead.
    pub fn canary(&self) -> Result<(), String> {
        let nonce = self.nonce();
        let mut raw = self.client();
        raw.send(format!("GET {nonce} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let reply = raw
            .try_reply_to("GET")
            .map_err(|e| format!("canary: {e}"))?;
        if (reply.status, reply.text()) != (200, nonce.clone()) {
            return Err(format!("the canary for {nonce} got {reply:?}"));
        }
        let nonce = self.nonce();
        let mut http2 = self.http2();
        http2.get(1, &nonce);
        let got = http2.outcome(1);
        if got != Outcome::Answer(200, nonce.clone().into_bytes()) {
            return Err(format!("the HTTP/2 canary for {nonce} got {got:?}"));
        }
        Ok(())
    }

    /// Carries one case out; gives the requests of it that reached the upstream whole.
    ///
    /// # Errors
    /// What was otherwise than it must be.
    pub fn check(&self, case: &Case) -> Result<Vec<Vec<u8>>, String> {
        let mark = self.mark();
        let mut client = self.client();
        client.send(&case.bytes);
        if !case.then.is_empty() {
            self.await_upstream(|seen| {
                let fresh = since(&mark, seen);
                fresh.iter().any(|s| s.text().contains(case.after))
            })?;
            client.send(&case.then);
        }
        let reply = client
            .try_reply_to("GET")
            .map_err(|e| format!("no answer: {e}"))?;
        let status = match case.want {
            Want::Refused(status) | Want::Broken(status) => status,
            Want::Served | Want::ServedLast => 200,
        };
        if reply.status != status {
            return Err(format!("{} instead of {status}: {reply:?}", reply.status));
        }
        if case.want == Want::Served {
            let nonce = self.nonce();
            client.send(format!("GET {nonce} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let next = client
                .try_reply_to("GET")
                .map_err(|e| format!("no second answer: {e}"))?;
            if (next.status, next.text()) != (200, nonce) {
                return Err(format!("the next request got {next:?}"));
            }
        } else {
            if reply.header("connection") != Some("close") {
                return Err(format!("no `Connection: close`: {reply:?}"));
            }
            let rest = client.rest();
            if !rest.is_empty() {
                return Err(format!(
                    "behind the end: {:?}",
                    String::from_utf8_lossy(&rest)
                ));
            }
        }
        self.canary()?;
        self.judge(case, &mark)
    }

    fn judge(&self, case: &Case, mark: &Mark) -> Result<Vec<Vec<u8>>, String> {
        let complete = self.complete(mark);
        let hostile =
            |seen: &Seen| seen.text().contains("hostile") || seen.text().contains("smuggled");
        match case.want {
            Want::Refused(_) => {
                if let Some(leak) = self.fresh(mark).iter().find(|s| hostile(s)) {
                    return Err(format!("the upstream has {:?}", leak.text()));
                }
            }
            Want::Broken(_) => {
                self.await_upstream(|seen| {
                    let fresh = since(mark, seen);
                    fresh.iter().all(|s| !hostile(s) || s.closed)
                })
                .map_err(|e| format!("the upstream connection lives on: {e}"))?;
                if !complete.is_empty() {
                    return Err(format!("the upstream has {}", shown(&complete)));
                }
            }
            Want::Served | Want::ServedLast => {
                if complete.len() != 1 {
                    return Err(format!("the upstream has {}", shown(&complete)));
                }
            }
        }
        Ok(complete)
    }

    fn await_upstream(&self, fits: impl Fn(&[Seen]) -> bool) -> Result<(), String> {
        catch_unwind(AssertUnwindSafe(|| self.upstream.wait_until(fits)))
            .map(drop)
            .map_err(|_| "not seen in time".to_owned())
    }

    /// Carries out a whole table, and names every case that failed.
    ///
    /// # Panics
    /// When one did.
    pub fn run(&self, row: &str, cases: &[Case]) {
        let wrong: Vec<String> = cases
            .iter()
            .filter_map(|case| Some(format!("{}: {}", case.id, self.check(case).err()?)))
            .collect();
        let (role, count) = (self.role, cases.len());
        assert!(
            wrong.is_empty(),
            "{row} as {role:?}: {} of {count} cases\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        held(row, role, count);
    }

    /// Says that one more case of a row was carried out, and right.
    pub fn held(&self, row: &str) {
        held(row, self.role, 1);
    }

    /// Carries out a case that must be served, and gives the one request that arrived.
    ///
    /// # Panics
    /// When it was not served so.
    pub fn served(&self, case: &Case) -> String {
        match self.check(case) {
            Ok(requests) => String::from_utf8_lossy(&requests[0]).into_owned(),
            Err(why) => panic!("{} as {:?}: {why}", case.id, self.role),
        }
    }
}

fn shown(requests: &[Vec<u8>]) -> String {
    let text = |r: &Vec<u8>| String::from_utf8_lossy(r).into_owned();
    format!("{:?}", requests.iter().map(text).collect::<Vec<_>>())
}

fn since(mark: &Mark, seen: &[Seen]) -> Vec<Seen> {
    let fresh = seen.iter().enumerate().map(|(at, seen)| {
        let from = mark.lengths.get(at).copied().unwrap_or(0);
        Seen {
            bytes: seen.bytes.get(from..).unwrap_or_default().to_vec(),
            closed: seen.closed,
        }
    });
    fresh.filter(|seen| !seen.bytes.is_empty()).collect()
}
