//! Who decides whether a proxy has done right by a connection of HTTP/2: its streams, what an HTTP/1 upstream saw of
//! them and what each was answered.

use super::{REFUSALS, Trial, same};
use crate::hostile::Role;
use crate::http2::NO_ERROR;
use crate::oracle::http2::answers::{Answer, Heard, read as hear};
use crate::oracle::http2::stream::Stream;
use crate::oracle::http2::{End, Reading, read};
use crate::oracle::{Request, all, normal};

/// What became of a connection that was treated well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Streams that the client has opened.
    pub streams: usize,
    /// Requests that the upstream saw whole.
    pub served: usize,
    /// Streams that were reset or refused.
    pub refused: usize,
    /// Requests that the upstream saw the beginning of.
    pub cut: usize,
    /// The proxy has ended the connection.
    pub broken: bool,
}

/// Decides.
///
/// # Errors
/// What is not as it must be.
pub fn judge(trial: &Trial, role: Role) -> Result<Verdict, String> {
    if let Some(junk) = &trial.junk {
        return Err(format!("the upstream got what is no request: {junk}"));
    }
    let told = read(&trial.sent);
    let heard = hear(&trial.heard, |id| is_head(&told, id))?;
    let goes_on = ended(trial, &told, &heard)?;
    let mut left: Vec<&(u64, Request)> = trial.seen.iter().collect();
    let mut refused = 0;
    for (id, answer) in &heard.answers {
        let of = |why: String| format!("stream {id}: {why}: {answer:?}");
        let Some(stream) = told.streams.get(id) else {
            return Err(of("nobody has opened it".to_owned()));
        };
        refused += usize::from(answered(stream, answer, &mut left, role).map_err(of)?);
    }
    // Who goes politely has served what it names first.
    let named = |id: u32| trial.patient && heard.goaway == Some(NO_ERROR) && id <= heard.last;
    for (id, stream) in told.streams.iter().filter(|(id, _)| goes_on || named(**id)) {
        let over = heard.answers.get(id).is_some_and(Answer::is_over);
        if stream.is_owed() && !over {
            return Err(format!("stream {id} has no end: {stream:?}"));
        }
    }
    unanswered(&told, &heard, &left, role)?;
    begun(trial, &told)?;
    Ok(Verdict {
        streams: told.streams.len(),
        served: trial.seen.len(),
        refused,
        cut: trial.cut.len(),
        broken: heard.goaway.is_some(),
    })
}

/// Whether a HEAD was asked on a stream.
#[must_use]
pub fn is_head(told: &Reading, stream: u32) -> bool {
    told.streams.get(&stream).is_some_and(|s| s.is_head)
}

/// The connection ended with a reason and for one, or went on: says whether it did.
fn ended(trial: &Trial, told: &Reading, heard: &Heard) -> Result<bool, String> {
    let broken = match told.end {
        End::Broken(_, why) => Some(why),
        End::Open | End::Short => None,
    };
    if (heard.announced || heard.goaway == Some(NO_ERROR)) && !told.leaves {
        return Err("it goes without a reason".to_owned());
    }
    match (heard.goaway, broken) {
        (Some(NO_ERROR), None) => {}
        (Some(NO_ERROR), Some(why)) if trial.patient => {
            return Err(format!("it goes, in spite of: {why}"));
        }
        (Some(code), None) if told.loose.is_none() => {
            return Err(format!("GOAWAY with {code} for nothing"));
        }
        (None, Some(why)) if trial.patient => return Err(format!("no GOAWAY for: {why}")),
        _ => {}
    }
    if heard.rest > 0 && trial.patient {
        return Err(format!("half a frame: {} bytes", heard.rest));
    }
    let goes_on = trial.patient && heard.goaway.is_none();
    if heard.settings > told.settings || !told.pings.starts_with(&heard.pings) {
        return Err("an acknowledgement of what was not sent".to_owned());
    }
    if goes_on && (heard.settings, heard.pings.len()) != (told.settings, told.pings.len()) {
        return Err("SETTINGS or PING without acknowledgement".to_owned());
    }
    Ok(goes_on)
}

/// One answer is that of its stream, which is taken out of `left`; says whether it is a refusal.
fn answered(
    stream: &Stream,
    answer: &Answer,
    left: &mut Vec<&(u64, Request)>,
    role: Role,
) -> Result<bool, String> {
    if answer.interim.iter().any(|s| *s != 100) || answer.interim.len() > 1 {
        return Err("interim answers that nobody asked for".to_owned());
    }
    let polite = answer.ended && answer.reset == Some(NO_ERROR);
    if answer.reset.is_some() && !polite && stream.fault.is_none() && !stream.reset {
        return Err("reset for nothing".to_owned());
    }
    match answer.status {
        0 => Ok(answer.reset.is_some()),
        200 => {
            let serial = all(&answer.fields, "x-serial").concat();
            let of = |(have, _): &&(u64, Request)| have.to_string().as_bytes() == serial;
            let at = left.iter().position(of).ok_or("an answer of nothing")?;
            let (_, seen) = left.remove(at);
            let Some(whole) = &stream.whole else {
                return Err(format!("served, but {:?}", stream.fault));
            };
            same(whole, seen, role)?;
            match answer.body == serial || whole.method == b"HEAD" || !answer.ended {
                true => Ok(false),
                false => Err("the body is that of another".to_owned()),
            }
        }
        status if REFUSALS.contains(&status) => Ok(true),
        status => Err(format!("{status}")),
    }
}

/// What the upstream saw whole and no client was told of belongs to one stream each, whole too, and neither refused nor
/// served already.
fn unanswered(
    told: &Reading,
    heard: &Heard,
    left: &[&(u64, Request)],
    role: Role,
) -> Result<(), String> {
    let free = |id: &u32| heard.answers.get(id).is_none_or(|a| a.status == 0);
    let mut free: Vec<&Request> = told
        .streams
        .iter()
        .filter(|(id, _)| free(id))
        .filter_map(|(_, stream)| stream.whole.as_ref())
        .collect();
    for (serial, seen) in left {
        let Some(at) = free
            .iter()
            .position(|whole| same(whole, seen, role).is_ok())
        else {
            return Err(format!(
                "the upstream saw {serial} whole, which is no stream: {seen:?}"
            ));
        };
        free.remove(at);
    }
    Ok(())
}

/// What the upstream saw half of is half of something whose head is right.
fn begun(trial: &Trial, told: &Reading) -> Result<(), String> {
    let heads: Vec<Vec<u8>> = told
        .streams
        .values()
        .filter_map(|stream| stream.request.as_ref())
        .map(|r| {
            [
                &r.method[..],
                b" ",
                &normal::normal(&r.target),
                b" HTTP/1.1\r\n",
            ]
            .concat()
        })
        .collect();
    for cut in &trial.cut {
        if !heads
            .iter()
            .any(|h| h.starts_with(cut) || cut.starts_with(h))
        {
            return Err(format!("half of nothing: \"{}\"", cut.escape_ascii()));
        }
    }
    match trial.cut.len() > heads.len() {
        true => Err("more requests were begun than there are".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
