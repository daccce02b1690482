//! Who decides whether a proxy has done right by a stream of bytes: what was sent, what the upstream saw of it and
//! what the client was answered, held against the oracle.

pub mod http2;

use super::answers::{self, Answer, Heard};
use super::{End, Field, Reading, Request, Writer, list, normal, read};
use crate::hostile::Role;

/// One stream and what became of it.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// What the client sent.
    pub sent: Vec<u8>,
    /// The client left its side open until it had all answers that the oracle expects.
    pub patient: bool,
    /// What the client was answered, to the end of the connection.
    pub heard: Vec<u8>,
    /// What the upstream read whole, in order, as the oracle reads it, with the number by which it answered.
    pub seen: Vec<(u64, Request)>,
    /// What upstream connections held of a request when they ended.
    pub cut: Vec<Vec<u8>>,
    /// What the upstream got that is no request.
    pub junk: Option<String>,
}

/// What became of a stream that was treated well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Requests that the upstream saw whole.
    pub served: usize,
    /// The proxy refused what came behind them.
    pub refused: bool,
    /// The upstream saw a beginning of it.
    pub cut: bool,
}

/// Fields of one connection (RFC 9110 section 7.6.1, with what came before it).
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Fields that are written anew from what was parsed, or answered here.
const OURS: [&str; 3] = ["host", "content-length", "expect"];

/// Fields that `Connection` cannot take off (docs/request.md): of those, only what is not among the others here.
const PROTECTED: [&str; 3] = ["content-type", "authorization", "cookie"];

/// Who is asking, and traces: what the proxy writes or takes off, each with tests of its own. Spelt with `_` they
/// are taken off too.
const STAMPED: [&str; 13] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-client-cert",
    "x-real-ip",
    "x-request-id",
    "x-selvedge-attempt",
    "x-selvedge-priority",
    "traceparent",
    "tracestate",
    "proxy",
];

/// With what a request may be refused, well-formed or not.
const REFUSALS: [u16; 12] = [400, 404, 405, 408, 411, 413, 414, 417, 421, 431, 501, 505];

/// Decides.
///
/// # Errors
/// What is not as it must be.
pub fn judge(trial: &Trial, role: Role) -> Result<Verdict, String> {
    if let Some(junk) = &trial.junk {
        return Err(format!("the upstream got what is no request: {junk}"));
    }
    let told = read(&trial.sent, Writer::Client);
    passed_on(trial, &told, role)?;
    let refused = answered(trial, &told)?;
    if trial.cut.len() > 1 {
        return Err("more than one request was begun and not ended".to_owned());
    }
    Ok(Verdict {
        served: trial.seen.len(),
        refused,
        cut: !trial.cut.is_empty(),
    })
}

/// What the upstream saw whole is what the client sent, as far as it goes.
fn passed_on(trial: &Trial, told: &Reading, role: Role) -> Result<(), String> {
    let seen = trial.seen.iter().map(|(_, request)| request);
    for (at, seen) in seen.enumerate() {
        let Some(sent) = told.requests.get(at) else {
            let have = told.requests.len();
            return Err(format!(
                "the upstream saw request {at} whole, but there are {have}: {:?}",
                told.end
            ));
        };
        same(sent, seen, role).map_err(|why| format!("request {at}: {why}"))?;
    }
    Ok(())
}

fn same(sent: &Request, seen: &Request, role: Role) -> Result<(), String> {
    let differ = |what: &str, sent: &[u8], seen: &[u8]| match sent == seen {
        true => Ok(()),
        false => Err(format!(
            "{what}: \"{}\" became \"{}\"",
            sent.escape_ascii(),
            seen.escape_ascii()
        )),
    };
    differ("method", &sent.method, &seen.method)?;
    differ("target", &normal::normal(&sent.target), &seen.target)?;
    differ("body", &sent.body, &seen.body)?;
    let hosts = seen.all("host");
    differ("host", &host(sent), hosts.first().unwrap_or(&&b""[..]))?;
    if !seen.trailers.is_empty() {
        return Err("trailers of a request were passed on".to_owned());
    }
    let options = sent.all("connection");
    let nominated: Vec<Vec<u8>> = options.iter().flat_map(|value| list(value)).collect();
    // At the edge, who asks is known to the gateway alone.
    let from = seen.all("x-forwarded-for");
    if role == Role::Gateway && from != [&b"127.0.0.1"[..]] {
        return Err(format!("X-Forwarded-For is {from:?}"));
    }
    let (sent, seen) = (
        end_to_end(&sent.fields, &nominated),
        end_to_end(&seen.fields, &[]),
    );
    if sent != seen {
        return Err(format!("fields: {} became {}", shown(&sent), shown(&seen)));
    }
    Ok(())
}

/// The host that was asked for: that of the target before that of the field (RFC 9112 section 3.2.2).
fn host(sent: &Request) -> Vec<u8> {
    let named = sent.all("host");
    let host = match normal::absolute(&sent.target) {
        Some((authority, _)) => authority,
        None => named.first().map(|h| h.to_vec()).unwrap_or_default(),
    };
    host.to_ascii_lowercase()
}

/// What must arrive as it was sent.
fn end_to_end(fields: &[Field], nominated: &[Vec<u8>]) -> Vec<Field> {
    let mut kept = fields.to_vec();
    kept.retain(|(name, _)| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let dashed = name.replace('_', "-");
        let named = nominated
            .iter()
            .any(|n| n.eq_ignore_ascii_case(name.as_bytes()))
            && name != "close"
            && !PROTECTED.contains(&&*name);
        !named
            && !HOP_BY_HOP.contains(&&*name)
            && !OURS.contains(&&*name)
            && !STAMPED.contains(&&*dashed)
    });
    kept
}

fn shown(fields: &[Field]) -> String {
    let field =
        |(name, value): &Field| format!("{}: {}", name.escape_ascii(), value.escape_ascii());
    format!("{:?}", fields.iter().map(field).collect::<Vec<_>>())
}

/// The client got the answers of the requests that were served, in their order, and a refusal at most behind them.
fn answered(trial: &Trial, told: &Reading) -> Result<bool, String> {
    let methods: Vec<&[u8]> = told.requests.iter().map(|r| r.method.as_slice()).collect();
    let Heard { answers, rest } = answers::read(&trial.heard, &methods, true)?;
    if rest > 0 && trial.patient {
        return Err(format!("half an answer: {rest} bytes"));
    }
    let (interim, answers): (Vec<Answer>, Vec<Answer>) =
        answers.into_iter().partition(Answer::is_interim);
    if interim.iter().any(|a| a.status != 100) || interim.len() > told.requests.len() + 1 {
        return Err("interim answers that nobody asked for".to_owned());
    }
    let broken = matches!(told.end, End::Short | End::Malformed(..));
    if answers.len() > told.requests.len() + usize::from(broken) {
        return Err(format!("{} answers are too many", answers.len()));
    }
    let served = answers.iter().take_while(|a| a.status == 200).count();
    let mut serials = trial.seen.iter().map(|(serial, _)| *serial);
    for (at, answer) in answers[..served].iter().enumerate() {
        let serial = super::all(&answer.fields, "x-serial").concat();
        let want = serials.next().map(|s| s.to_string()).unwrap_or_default();
        let body = methods.get(at) == Some(&&b"HEAD"[..]) || answer.body == serial;
        if serial != want.as_bytes() || !body {
            let got = serial.escape_ascii();
            return Err(format!(
                "answer {at} is that of \"{got}\", not of \"{want}\""
            ));
        }
    }
    // An answer to HTTP/1.0 whose length nobody knows ends with the connection, whatever was asked for.
    let last_of_all = answers.last().is_some_and(Answer::closes)
        && served > 0
        && told.requests[served - 1].minor == 0;
    match &answers[served..] {
        [] if trial.patient && served < told.requests.len() && !last_of_all => Err(format!(
            "{served} of {} answers, and no refusal",
            told.requests.len()
        )),
        [] => Ok(false),
        // Whoever ends their side before they have their answer is taken for gone.
        [last] if last.status == 499 && !trial.patient && last.closes() => Ok(false),
        [last] if REFUSALS.contains(&last.status) && last.closes() => match serials.next() {
            None => Ok(true),
            Some(_) => Err(format!("refused with {}, but served", last.status)),
        },
        [last] => Err(format!("{} without a close", last.status)),
        more => {
            let list: Vec<u16> = more.iter().map(|a| a.status).collect();
            Err(format!("answers behind a refusal: {list:?}"))
        }
    }
}

#[cfg(test)]
mod tests;
