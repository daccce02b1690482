//! A gateway with a cache before an application that numbers its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::process::{Selvedge, gateway};
use crate::{Raw, Reply, Upstream};

/// A gateway whose rules keep what they get, but for `/plain`; one rule asks for `X-Canary: yes`.
#[must_use]
pub fn caching(upstream: &Upstream, policy: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies: {{ kept: {{ cache: {{ {policy} }} }} }}
routes:
  - rules:
      - {{ matches: [{{ path: /plain }}], backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: / , headers: [{{ name: x-canary, value: yes }}] }}], policies: [kept], backendRefs: [{{ service: app }}] }}
      - {{ policies: [kept], backendRefs: [{{ service: app }}], retry: {{ attempts: 0 }} }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ).replace("value: yes", "value: \"yes\""))
}

/// An application that numbers its answers, each with these fields.
#[must_use]
pub fn numbered(fields: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            let body = format!("answer {}", counted.fetch_add(1, Ordering::SeqCst) + 1);
            let length = body.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
            ));
        }
    });
    (upstream, count)
}

/// Asks on a connection of its own: method and path, then fields a line.
#[must_use]
pub fn ask(proxy: &Selvedge, head: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    let (method, rest) = head.split_once(' ').unwrap();
    let (path, fields) = rest.split_once('\n').unwrap_or((rest, ""));
    let fields: String = fields.lines().map(|l| format!("{l}\r\n")).collect();
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n"
    ));
    client.try_reply_to(method).unwrap()
}
