//! Part of stage 4, the spine: a mirror's answer is held against the one that the client got. Of the client's side
//! nothing waits for it: bodies are looked into on threads beside the workers, a few at a time.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use selvedge_contract::defaults::mirror::{AT_WORK, NAME_BYTES, NAMES, VALUES};
use selvedge_contract::defaults::policy::ZSTD_LARGEST_WINDOW;
use selvedge_gateway::difference::{Bounds, differing, disregard, shortened};
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::message::{Fields, Known, RequestHead, Response};
use crate::policy::transform::{is_dense, is_json};
use crate::route::mirror::{Compare, Mirror};
use crate::telemetry::comparisons::{Bodies, Difference, Outcome, Place};

use super::overheard::{Heard, overhear};

/// Who may use a processor for comparing.
static TURNS: Semaphore = Semaphore::const_new(AT_WORK);

/// A comparison that is to be made.
pub(super) struct Due {
    pub(super) compare: Arc<Compare>,
    place: Place,
    client: oneshot::Receiver<Arc<Heard>>,
}

/// Which of these mirrors are compared with an answer, which is copied for them as it passes. Without an answer
/// none of them has anything to be compared with, and says so.
pub(super) fn due(mirrors: &[Arc<Mirror>], answer: Option<&mut Response>) -> Vec<Option<Due>> {
    let (mut most, mut listeners) = (0, Vec::new());
    let due = mirrors.iter().map(|mirror| {
        let compare = mirror.compare.clone()?;
        let place = compare.comparisons.begin(compare.at_once())?;
        let (tell, client) = oneshot::channel();
        most = compare.body.unwrap_or(0).max(most);
        listeners.push(tell);
        Some(Due {
            compare,
            place,
            client,
        })
    });
    let due: Vec<_> = due.collect();
    if let Some(answer) = answer
        && !listeners.is_empty()
    {
        overhear(answer, most, listeners);
    }
    due
}

impl Due {
    /// Compares, once the client has got the whole of its answer, if that is so by `until`. `mirror`: the other
    /// one, unless it failed.
    pub(super) async fn settle(
        self,
        asked: RequestHead,
        mirror: Option<Heard>,
        until: Option<Instant>,
    ) {
        let Self {
            compare,
            place,
            client,
        } = self;
        let Some(mirror) = mirror else {
            return place.ended(Outcome::MirrorFailed);
        };
        let client = match until {
            Some(until) => timeout_at(until, client).await.ok(),
            None => Some(client.await),
        };
        let Some(Ok(client)) = client else {
            return place.ended(Outcome::PrimaryIncomplete);
        };
        let Ok(turn) = TURNS.acquire().await else {
            return;
        };
        // Dropping the handle cancels nothing: it ends by itself, soon.
        drop(tokio::task::spawn_blocking(move || {
            let difference = difference(&compare, &asked, &client, &mirror);
            match difference.outcome() {
                same @ (Outcome::Same | Outcome::NotCompared) => place.ended(same),
                _ => place.differs(difference),
            }
            drop(turn);
        }));
    }
}

fn difference(
    compare: &Compare,
    asked: &RequestHead,
    client: &Heard,
    mirror: &Heard,
) -> Difference {
    let (ours, theirs) = (client.status.as_u16(), mirror.status.as_u16());
    Difference {
        at: SystemTime::now(),
        method: shortened(asked.method.as_str(), NAME_BYTES),
        path: shortened(asked.target.path(), NAME_BYTES),
        status: (ours != theirs).then_some((ours, theirs)),
        headers: headers(compare, client, mirror),
        bodies: match compare.body {
            None => Bodies::Same,
            Some(most) => bodies(compare, most, client, mirror),
        },
    }
}

/// Names of headers and trailers that differ. Trailers count as headers: what gRPC says at the end of an answer it
/// may say in its head, too.
fn headers(compare: &Compare, client: &Heard, mirror: &Heard) -> Vec<String> {
    // Those of a body that is too long are not known.
    let trailers = client.text.is_some() && mirror.text.is_some();
    let (ours, theirs) = (
        named(compare, client, trailers),
        named(compare, mirror, trailers),
    );
    let changed = ours
        .iter()
        .filter(|(name, values)| theirs.get(*name) != Some(values))
        .map(|(name, _)| name);
    let added = theirs.keys().filter(|name| !ours.contains_key(*name));
    let mut names: Vec<String> = changed
        .chain(added)
        .map(|name| shortened(&String::from_utf8_lossy(name), NAME_BYTES))
        .collect();
    names.sort_unstable();
    names.truncate(NAMES);
    names
}

/// Values by name in lower case. Lines of one name are a list in order (RFC 9110 section 5.3).
fn named(compare: &Compare, heard: &Heard, trailers: bool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut named: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let behind = heard.text.as_ref().filter(|_| trailers);
    let behind = behind.into_iter().flat_map(|(_, trailers)| trailers.iter());
    for field in heard.fields.iter().chain(behind) {
        let name = field.name.to_ascii_lowercase();
        if compare.ignored_headers.contains(&name) {
            continue;
        }
        let values = named.entry(name).or_default();
        if !values.is_empty() {
            values.extend_from_slice(b", ");
        }
        values.extend_from_slice(field.value);
    }
    named
}

fn bodies(compare: &Compare, most: usize, client: &Heard, mirror: &Heard) -> Bodies {
    let (Some((ours, _)), Some((theirs, _))) = (&client.text, &mirror.text) else {
        return Bodies::NotCompared;
    };
    let fits = ours.len() <= most && theirs.len() <= most;
    let coding = |heard: &Heard| {
        heard
            .fields
            .known(Known::ContentEncoding)
            .map(<[u8]>::to_vec)
    };
    if fits && ours == theirs && coding(client) == coding(mirror) {
        return Bodies::Same;
    }
    let decoded = |heard: &Heard, text| fits.then(|| decoded(&heard.fields, text, most)).flatten();
    let (Some(ours), Some(theirs)) = (decoded(client, ours), decoded(mirror, theirs)) else {
        return Bodies::NotCompared;
    };
    if ours == theirs {
        return Bodies::Same;
    }
    if !is_json(&client.fields) || !is_json(&mirror.fields) {
        return Bodies::Bytes;
    }
    if is_dense(&ours, VALUES) || is_dense(&theirs, VALUES) {
        return Bodies::NotCompared;
    }
    let read = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    let (Some(mut ours), Some(mut theirs)) = (read(&ours), read(&theirs)) else {
        return Bodies::Bytes;
    };
    disregard(&mut ours, &mut theirs, &compare.ignored_members);
    let bounds = Bounds {
        paths: NAMES,
        bytes: NAME_BYTES,
    };
    match differing(&ours, &theirs, bounds) {
        none if none.is_empty() => Bodies::Same,
        members => Bodies::Members(members),
    }
}

/// The text behind its coding: two compressors make different bytes of the same text. `None`: another coding than
/// those that are known here, several of them, no such text, or too long a one.
fn decoded(fields: &Fields, text: &Bytes, most: usize) -> Option<Bytes> {
    let mut lines = fields.all(Known::ContentEncoding);
    let coding = lines.next().unwrap_or(b"identity").to_ascii_lowercase();
    if lines.next().is_some() {
        return None;
    }
    let packed: &[u8] = text;
    match coding.as_slice() {
        b"identity" => Some(text.clone()),
        _ if packed.is_empty() => Some(Bytes::new()),
        b"gzip" | b"x-gzip" => unpacked(flate2::read::MultiGzDecoder::new(packed), most),
        b"br" => unpacked(brotli::Decompressor::new(packed, 4 << 10), most),
        b"zstd" => {
            let mut decoder = zstd::stream::read::Decoder::new(packed).ok()?;
            decoder.window_log_max(ZSTD_LARGEST_WINDOW).ok()?;
            unpacked(decoder, most)
        }
        _ => None,
    }
}

fn unpacked(from: impl Read, most: usize) -> Option<Bytes> {
    let mut text = Vec::new();
    let read = from.take(most as u64 + 1).read_to_end(&mut text).ok()?;
    (read <= most).then(|| text.into())
}
