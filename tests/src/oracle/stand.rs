//! A proxy with its client and its upstream in one thread: each stream of bytes is carried out alone, and when it is
//! over, everything that the upstream will ever see of it lies in its sockets.

pub mod http2;

use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::judge::{Trial, Verdict, judge};
use super::{End, Reading, Request, Stop, Writer, answers, one, read};
use crate::hostile::Role;
use crate::{PATIENCE, Selvedge, gateway, sidecar};

/// See the module.
pub struct Stand {
    role: Role,
    front: SocketAddr,
    /// What listens there; it ends with the stand.
    _process: Box<dyn Any>,
    /// As what the upstream reads what comes from there.
    writer: Writer,
    listener: TcpListener,
    peers: Vec<Peer>,
    serial: u64,
    /// Of the last request that was put behind a connection of HTTP/2.
    nonce: u64,
    /// What the upstream saw whole of the last stream, byte for byte.
    pub passed: Vec<Vec<u8>>,
    /// With what its client was answered, in order, `100` left out.
    pub statuses: Vec<u16>,
}

/// One upstream connection.
struct Peer {
    stream: TcpStream,
    /// What has come and was not read whole yet.
    bytes: Vec<u8>,
    closed: bool,
}

/// Longer than it takes the proxy to open a connection.
const MOMENT: Duration = Duration::from_millis(2);

/// How a stream is sent.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The stream.
    pub bytes: Vec<u8>,
    /// Where it is cut into writes, in order.
    pub cuts: Vec<usize>,
    /// Between two writes there is a moment, in which the proxy may act on the first.
    pub slow: bool,
    /// The client ends its side with its last byte, and waits for no answer before.
    pub hasty: bool,
}

impl Stand {
    /// A proxy in this role.
    #[must_use]
    pub fn start(role: Role) -> Self {
        let (config, name): (fn(SocketAddr) -> Selvedge, _) = match role {
            Role::Gateway => (at_the_edge, "web"),
            Role::Sidecar => (inbound, "inbound-0"),
        };
        let start = |upstream: SocketAddr| {
            let proxy = config(upstream);
            (proxy.address(name), Box::new(proxy) as Box<dyn Any>)
        };
        Self::over(role, Writer::Proxy, start)
    }

    /// Somebody else's proxy, started by `start` before an upstream at the address given to it.
    #[must_use]
    pub fn before(start: impl FnOnce(SocketAddr) -> (SocketAddr, Box<dyn Any>)) -> Self {
        Self::over(Role::Sidecar, Writer::Witness, start)
    }

    fn over(
        role: Role,
        writer: Writer,
        start: impl FnOnce(SocketAddr) -> (SocketAddr, Box<dyn Any>),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (front, process) = start(listener.local_addr().unwrap());
        Self {
            role,
            front,
            _process: process,
            writer,
            listener,
            peers: Vec::new(),
            serial: 0,
            nonce: 0,
            passed: Vec::new(),
            statuses: Vec::new(),
        }
    }

    /// Sends what our proxy has let through, and compares what was made of it with the oracle: as many requests, with
    /// the same methods and bodies, each answered.
    ///
    /// # Errors
    /// Where they differ, with the bytes.
    pub fn replay(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut trial = Trial::default();
        let told = read(bytes, Writer::Proxy);
        let sending = Sending {
            bytes: bytes.to_vec(),
            cuts: Vec::new(),
            slow: false,
            hasty: false,
        };
        let done = self.carry_out(&sending, &told, &mut trial);
        let body = |r: &Request| (r.method.clone(), r.body.clone());
        let want: Vec<_> = told.requests.iter().map(body).collect();
        let seen: Vec<_> = trial.seen.iter().map(|(_, r)| body(r)).collect();
        match done {
            Ok(()) if seen == want && trial.cut.is_empty() && told.end == End::Open => Ok(()),
            Ok(()) => Err(format!("{} of {} requests", seen.len(), want.len())),
            Err(why) => Err(why),
        }
        .map_err(|why| {
            let (sent, heard) = (shown(bytes), shown(&trial.heard));
            let unlike = want.iter().zip(&seen).take_while(|(a, b)| a == b).count();
            let request = told.requests.get(unlike);
            format!("{why}\n  first: {request:?}\n  heard: \"{heard}\"\n  sent: \"{sent}\"")
        })
    }

    /// Carries one stream out, and judges.
    ///
    /// # Errors
    /// What is not as it must be, with what the upstream saw and the client heard.
    pub fn check(&mut self, sending: &Sending) -> Result<Verdict, String> {
        let mut trial = Trial::default();
        self.passed.clear();
        let told = read(&sending.bytes, Writer::Client);
        let done = self.carry_out(sending, &told, &mut trial);
        let methods: Vec<&[u8]> = told.requests.iter().map(|r| r.method.as_slice()).collect();
        let heard = answers::read(&trial.heard, &methods, true).unwrap_or_default();
        let last = heard.answers.iter().filter(|a| !a.is_interim());
        self.statuses = last.map(|a| a.status).collect();
        done.and_then(|()| judge(&trial, self.role)).map_err(|why| {
            let seen: Vec<String> = trial.seen.iter().map(|(_, r)| format!("{r:?}")).collect();
            let seen = seen.join("\n    ");
            let cut: Vec<String> = trial.cut.iter().map(|b| shown(b)).collect();
            format!(
                "{why}\n  role: {:?}, {}\n  sent: \"{}\"\n  in parts from {:?}\n  upstream: \n    {seen}\n  cut off: {cut:?}\n  client: \"{}\"",
                self.role,
                if trial.patient { "patient" } else { "hasty" },
                shown(&trial.sent),
                sending.cuts,
                shown(&trial.heard),
            )
        })
    }

    /// Another user gets their own answer, on whatever connections the last stream has left behind.
    ///
    /// # Errors
    /// What they got instead.
    pub fn canary(&mut self) -> Result<(), String> {
        let sending = Sending {
            bytes: b"GET /own HTTP/1.1\r\nHost: own\r\nConnection: close\r\n\r\n".to_vec(),
            cuts: Vec::new(),
            slow: false,
            hasty: false,
        };
        match self.check(&sending) {
            Ok(verdict) if verdict.served == 1 => Ok(()),
            Ok(verdict) => Err(format!("the canary was not served: {verdict:?}")),
            Err(why) => Err(format!("the canary: {why}")),
        }
    }

    fn carry_out(
        &mut self,
        sending: &Sending,
        told: &Reading,
        trial: &mut Trial,
    ) -> Result<(), String> {
        trial.sent.clone_from(&sending.bytes);
        // Whoever waits for the rest of a request would wait for ever.
        trial.patient = !sending.hasty && matches!(told.end, End::Open | End::Closed);
        let methods: Vec<&[u8]> = told.requests.iter().map(|r| r.method.as_slice()).collect();
        let mut client = TcpStream::connect(self.front).unwrap();
        client.set_nodelay(true).unwrap();
        let mut from = 0;
        for to in sending.cuts.iter().copied().chain([sending.bytes.len()]) {
            // A proxy that has closed already is no error: what it said is to be read. Streams are far shorter than
            // what the kernel takes.
            let _ = client.write_all(&sending.bytes[from..to]);
            from = to;
            self.serve(trial)?;
            if sending.slow && (to < sending.bytes.len() || !trial.patient) {
                // Whether it was long enough changes what is tried, and no verdict.
                self.wait(None, MOMENT);
                self.serve(trial)?;
            }
        }
        if !trial.patient {
            let _ = client.shutdown(Shutdown::Write);
        }
        client.set_nonblocking(true).unwrap();
        let mut waits = trial.patient && told.end == End::Open;
        let deadline = Instant::now() + PATIENCE;
        while !take(&mut client, &mut trial.heard) {
            if waits
                && let Ok(heard) = answers::read(&trial.heard, &methods, false)
                && heard.answers.iter().filter(|a| !a.is_interim()).count() >= methods.len()
            {
                let _ = client.shutdown(Shutdown::Write);
                waits = false;
            }
            let left = left(deadline, "the client's connection")?;
            self.wait(Some(&client), left);
            self.serve(trial)?;
        }
        drop(client);
        self.settle(trial)
    }

    /// Takes what the upstream has still got. Half a request stays only on a connection that ends.
    fn settle(&mut self, trial: &mut Trial) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.serve(trial)?;
            if self.peers.iter().all(|p| p.closed || p.bytes.is_empty()) {
                break;
            }
            let left = left(deadline, "half a request at the upstream")?;
            self.wait(None, left);
        }
        for peer in self.peers.extract_if(.., |peer| peer.closed) {
            if !peer.bytes.is_empty() {
                trial.cut.push(peer.bytes);
            }
        }
        Ok(())
    }

    /// Waits until something has come for the client or the upstream, and no longer than this.
    fn wait(&self, client: Option<&TcpStream>, longest: Duration) {
        let open = self.peers.iter().filter(|p| !p.closed);
        let mut sockets = vec![PollFd::new(&self.listener, PollFlags::IN)];
        sockets.extend(open.map(|p| PollFd::new(&p.stream, PollFlags::IN)));
        sockets.extend(client.map(|c| PollFd::new(c, PollFlags::IN)));
        let longest = Timespec::try_from(longest).unwrap();
        let _ = poll(&mut sockets, Some(&longest));
    }

    /// Accepts, reads and answers whatever is there.
    fn serve(&mut self, trial: &mut Trial) -> Result<(), String> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            self.peers.push(Peer {
                stream,
                bytes: Vec::new(),
                closed: false,
            });
        }
        for peer in &mut self.peers {
            peer.closed = peer.closed || take(&mut peer.stream, &mut peer.bytes);
            loop {
                let (request, end) = match one(&peer.bytes, 0, self.writer) {
                    Ok(found) => found,
                    Err(Stop::Short) => break,
                    Err(Stop::Malformed(at, why)) => {
                        let junk = format!("{why} before {at} of \"{}\"", shown(&peer.bytes));
                        trial.junk = Some(junk.clone());
                        return Err(junk);
                    }
                };
                self.passed.push(peer.bytes.drain(..end).collect());
                self.serial += 1;
                let answer = answer(self.serial, &request.method);
                let _ = peer.stream.write_all(answer.as_bytes());
                trial.seen.push((self.serial, request));
            }
        }
        Ok(())
    }
}

fn at_the_edge(upstream: SocketAddr) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{upstream}\"] }} }}"
    ))
}

fn inbound(upstream: SocketAddr) -> Selvedge {
    sidecar(&format!(
        "inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{upstream}\", mtls: permissive }}]"
    ))
}

/// What is left of the time, if anything is.
fn left(deadline: Instant, what: &str) -> Result<Duration, String> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(format!("does not end in time: {what}")),
        left => Ok(left),
    }
}

/// The answer to a request: its number, in a field and as the body, with a length or in chunks.
fn answer(serial: u64, method: &[u8]) -> String {
    let serial = serial.to_string();
    let length = serial.len();
    let (framing, body) = match serial.ends_with('7') {
        true => (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{length:x}\r\n{serial}\r\n0\r\n\r\n"),
        ),
        false => (format!("Content-Length: {length}"), serial.clone()),
    };
    let body = if method == b"HEAD" { "" } else { &body };
    format!("HTTP/1.1 200 OK\r\nX-Serial: {serial}\r\n{framing}\r\n\r\n{body}")
}

/// Takes what a socket has; says whether that was all it will ever have.
fn take(stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    let mut part = [0; 16 << 10];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return true,
            Ok(n) => into.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
