//! `selvedge check --mtls`: whether running proxies could be strict, and who still calls them in plaintext.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admin::ListenerReport;

use super::{complain, say};

/// For one proxy.
const TIME: Duration = Duration::from_secs(5);
/// Longest answer in bytes.
const ANSWER: u64 = 4 * 1024 * 1024;
/// Clients that are named on a line.
const NAMED: usize = 5;

/// What a proxy said, or why it could not be asked.
type Asked = Result<Vec<ListenerReport>, String>;

/// Exit code 0 where all are ready to be strict, 1 where somebody still speaks plaintext to one of them, 2
/// where one could not be asked.
pub(super) fn run(addresses: &[String], as_json: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    let mut asked: Vec<(&str, Asked)> = Vec::new();
    for address in addresses {
        let answer = runtime.block_on(async { timeout(TIME, ask(address)).await });
        let answer = answer.unwrap_or_else(|_| Err("no answer in 5 s".to_owned()));
        asked.push((address, answer));
    }
    if as_json {
        say(document(&asked));
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        say(table(&asked, now.unwrap_or_default().as_secs()).trim_end());
    }
    let plain = |listener: &ListenerReport| listener.ports.iter().any(|port| port.plaintext > 0);
    if asked.iter().any(|(_, answer)| answer.is_err()) {
        return ExitCode::from(2);
    }
    let mut all = asked.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    match all.any(|listeners| listeners.iter().any(plain)) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Asks the admin port of one proxy: `http://127.0.0.1:15000`, or without the scheme.
async fn ask(address: &str) -> Asked {
    let place = address.strip_prefix("http://").unwrap_or(address);
    let place = place.trim_end_matches('/');
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(place).await.map_err(failed)?;
    // By this name only does it answer whoever has come through `kubectl port-forward`.
    let question = "GET /mtls HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream
        .write_all(question.as_bytes())
        .await
        .map_err(failed)?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER)
        .read_to_end(&mut answer)
        .await
        .map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        let line = head.lines().next().unwrap_or_default();
        return Err(format!("{line}: is this the admin port of a proxy?"));
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

fn document(asked: &[(&str, Asked)]) -> String {
    let all = asked.iter().map(|(proxy, answer)| match answer {
        Ok(listeners) => json!({ "proxy": proxy, "listeners": listeners }),
        Err(error) => json!({ "proxy": proxy, "error": error }),
    });
    let all: Vec<_> = all.collect();
    serde_json::to_string_pretty(&all).unwrap_or_default()
}

/// For people.
fn table(asked: &[(&str, Asked)], now: u64) -> String {
    let mut lines = Vec::new();
    for (proxy, answer) in asked {
        let listeners = match answer {
            Ok(listeners) => listeners,
            Err(error) => {
                lines.push(format!("{proxy}: cannot be asked: {error}"));
                continue;
            }
        };
        if listeners.is_empty() {
            lines.push(format!("{proxy}: no port speaks mutual TLS"));
        }
        for listener in listeners {
            lines.extend(of_listener(listener, now).map(|line| format!("{proxy}: {line}")));
        }
    }
    lines.join("\n")
}

fn of_listener(listener: &ListenerReport, now: u64) -> impl Iterator<Item = String> {
    let name = &listener.listener;
    let mut lines = Vec::new();
    if !listener.permissive {
        lines.push(format!("{name}: strict"));
    } else if listener.ports.is_empty() {
        lines.push(format!("{name}: permissive, nobody has called yet"));
    }
    for port in &listener.ports {
        let called = format!(
            "{name} port {}: permissive, {} by mutual TLS",
            port.port, port.mtls
        );
        if port.plaintext == 0 {
            lines.push(format!("{called}, none in plaintext: ready for strict"));
            continue;
        }
        let clients = port.clients.iter().take(NAMED).map(|client| {
            let ago = now.saturating_sub(client.last);
            format!(
                "{} ({} times, last {ago} s ago)",
                client.address, client.connections
            )
        });
        let mut clients: Vec<_> = clients.collect();
        if port.clients.len() > NAMED || port.others > 0 {
            clients.push("...".to_owned());
        }
        let clients = clients.join(", ");
        lines.push(format!(
            "{called}, {} in plaintext, by {clients}",
            port.plaintext
        ));
    }
    lines.into_iter()
}
