//! Discovery in a cluster: one query at the API, listed and then watched for as long as somebody
//! wants to know.
//!
//! What is told is always whole: a list is told when its last piece is here, and until then, and
//! for as long as the API is away, what was told before holds.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::Client;
use kube::client::Body;
use selvedge_contract::defaults::kubernetes::{
    ANSWER, BACKOFF, BACKOFF_MAX, PAGE, PAGE_BYTES, SILENCE, WATCH,
};
use tokio::time::{Instant, sleep, timeout};

use crate::discover::demand::Demand;

use super::lines::{self, Event, Lines};
use super::objects::{Item, Kind};
use super::raw::{RawList, RawListMeta, RawPod, RawService, RawSlice};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    /// Which kind.
    pub(super) kind: Kind,
    /// `None` is every namespace.
    pub(super) namespace: Option<String>,
    /// Selector by label; empty is none.
    pub(super) labels: String,
    /// Selector by field; empty is none.
    pub(super) fields: String,
}

/// What a feed tells.
#[derive(Debug)]
pub(super) enum Told {
    /// All there is.
    All(Vec<Item>),
    /// One is new, or another than before.
    Put(Item),
    /// One is gone.
    Gone(Item),
}

/// Why the API gives no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    #[error("the versions that were asked for are gone")]
    Expired,
    #[error("{0}: {1}")]
    Refused(StatusCode, String),
    #[error("{0}")]
    Lost(String),
}

impl Query {
    fn path(&self) -> String {
        let (base, plural) = match self.kind {
            Kind::Service => ("/api/v1", "services"),
            Kind::Pod => ("/api/v1", "pods"),
            Kind::Slice => ("/apis/discovery.k8s.io/v1", "endpointslices"),
        };
        match &self.namespace {
            Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}?"),
            None => format!("{base}/{plural}?"),
        }
    }

    /// What is asked for, in words for logs.
    fn what(&self) -> String {
        let kind = match self.kind {
            Kind::Service => "services",
            Kind::Slice => "endpointslices",
            Kind::Pod => "pods",
        };
        let place = self.namespace.as_deref().unwrap_or("every namespace");
        let narrow = if self.fields.is_empty() {
            &self.labels
        } else {
            &self.fields
        };
        format!("{kind} in {place} {narrow}").trim_end().to_owned()
    }

    fn request(&self, more: &[(&str, &str)]) -> Result<Request<Body>, FeedError> {
        let mut query = form_urlencoded::Serializer::new(self.path());
        for (name, value) in [
            ("labelSelector", &self.labels),
            ("fieldSelector", &self.fields),
        ] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        query.extend_pairs(more);
        let request = Request::get(query.finish()).header(http::header::ACCEPT, "application/json");
        request
            .body(Body::empty())
            .map_err(|e| FeedError::Lost(e.to_string()))
    }
}

fn lost(error: impl std::error::Error) -> FeedError {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        said = format!("{said}: {inner}");
        source = inner.source();
    }
    FeedError::Lost(said)
}

async fn send(client: &Client, request: Request<Body>) -> Result<http::Response<Body>, FeedError> {
    let answer = timeout(ANSWER, client.send(request)).await;
    let answer = answer.map_err(lost)?.map_err(lost)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    if status == StatusCode::GONE {
        return Err(FeedError::Expired);
    }
    let body = Limited::new(answer.into_body(), 64 << 10).collect();
    let said = match timeout(ANSWER, body).await {
        Ok(Ok(body)) => serde_json::from_slice(&body.to_bytes()).unwrap_or_default(),
        _ => serde_json::Value::Null,
    };
    let said = said
        .get("message")
        .and_then(|m| m.as_str())
        .unwrap_or_default();
    Err(FeedError::Refused(status, said.to_owned()))
}

/// Everything that a query asks for, with the version of the whole.
///
/// # Errors
/// [`FeedError`]; nothing of a list that breaks off is given.
pub(super) async fn list(
    client: &Client,
    query: &Query,
    most: usize,
) -> Result<(Vec<Item>, String), FeedError> {
    let mut items = Vec::new();
    let version = each(client, query, most, |item| items.push(item)).await?;
    Ok((items, version))
}

/// The same one after the other, nothing kept.
///
/// # Errors
/// [`FeedError`].
pub(super) async fn each(
    client: &Client,
    query: &Query,
    most: usize,
    mut keep: impl FnMut(Item),
) -> Result<String, FeedError> {
    let mut count = 0;
    let mut size = PAGE;
    let mut go_on = String::new();
    loop {
        let mut items = Vec::new();
        let page = size.to_string();
        let mut more = vec![("limit", page.as_str())];
        if !go_on.is_empty() {
            more.push(("continue", &go_on));
        }
        let answer = send(client, query.request(&more)?).await?;
        let body = Limited::new(answer.into_body(), PAGE_BYTES).collect();
        let bytes = match timeout(ANSWER, body).await.map_err(lost)? {
            Ok(body) => body.to_bytes(),
            // Objects are large here: fewer at a time.
            Err(error) if error.is::<LengthLimitError>() && size > 1 => {
                size = size.div_ceil(5);
                continue;
            }
            Err(error) => return Err(FeedError::Lost(error.to_string())),
        };
        let meta = match query.kind {
            Kind::Service => piece(&bytes, &mut items, |raw: RawService| {
                Some(Item::Service(raw.into()))
            }),
            Kind::Slice => piece(&bytes, &mut items, |raw: RawSlice| {
                raw.facts().map(Item::Slice)
            }),
            Kind::Pod => piece(&bytes, &mut items, |raw: RawPod| {
                Some(Item::Pod(raw.into()))
            }),
        };
        let meta = meta.map_err(lost)?;
        count += items.len();
        items.into_iter().for_each(&mut keep);
        if meta.go_on.is_empty() {
            return Ok(meta.resource_version);
        }
        if count > most {
            return Err(FeedError::Lost(format!("more than {most} objects")));
        }
        go_on = meta.go_on;
    }
}

fn piece<'b, T: serde::Deserialize<'b>>(
    bytes: &'b [u8],
    items: &mut Vec<Item>,
    item: impl Fn(T) -> Option<Item>,
) -> Result<RawListMeta, serde_json::Error> {
    let list: RawList<T> = serde_json::from_slice(bytes)?;
    items.extend(list.items.into_iter().filter_map(item));
    Ok(list.metadata)
}

/// A list that is out of date sooner than this was read in vain: the next waits longer.
const IN_VAIN: Duration = Duration::from_secs(1);

/// Lists and watches until it is dropped.
pub(super) async fn follow(
    client: Client,
    query: Query,
    most: usize,
    demand: Arc<Demand>,
    tell: impl Fn(Told) + Send + Sync,
) {
    let status = &demand.status;
    let _voice = Voice(&demand, query.what());
    let mut failures: u32 = 0;
    // Lists whose versions were gone before anything could be heard of them.
    let mut in_vain: u32 = 0;
    loop {
        let begun = Instant::now();
        let failed = match list(&client, &query, most).await {
            Ok((items, version)) => {
                status.lists.fetch_add(1, Relaxed);
                well(&query, &demand, &mut failures);
                tell(Told::All(items));
                watch_on(&client, &query, version, &demand, &tell, &mut failures).await
            }
            Err(error) => {
                pause(&query, &error, &demand, &mut failures).await;
                continue;
            }
        };
        tracing::debug!(what = query.what(), error = %failed, "listing anew");
        in_vain = if begun.elapsed() < IN_VAIN {
            in_vain + 1
        } else {
            0
        };
        // At once, but not all who hear of it in the same moment.
        let most = (BACKOFF * 2u32.saturating_pow(in_vain.min(16))).min(BACKOFF_MAX);
        sleep(most.mul_f64(fastrand::f64())).await;
    }
}

/// What is wrong with a query that nobody follows any more is wrong no more.
struct Voice<'d>(&'d Demand, String);

impl Drop for Voice<'_> {
    fn drop(&mut self) {
        let _ = self.0.status.note(&self.1, None);
    }
}

fn well(query: &Query, demand: &Demand, failures: &mut u32) {
    demand.status.heard();
    *failures = 0;
    if demand.status.note(&query.what(), None) {
        tracing::info!(what = query.what(), "the Kubernetes API answers again");
    }
}

/// Waits after a failure, and says so where it is news.
async fn pause(query: &Query, error: &FeedError, demand: &Demand, failures: &mut u32) {
    demand.status.failures.fetch_add(1, Relaxed);
    // One connection that breaks is no news: the next is made at once.
    if *failures > 0 || matches!(error, FeedError::Refused(..)) {
        let first = demand.status.trouble().is_none();
        let again = demand.status.note(&query.what(), Some(error.to_string()));
        // Away for everybody is said once; what is refused is said of each.
        if first || (!again && matches!(error, FeedError::Refused(..))) {
            tracing::warn!(what = query.what(), %error, "the Kubernetes API gives no answer; what was known before holds");
        }
    }
    let most = (BACKOFF * 2u32.saturating_pow((*failures).min(16))).min(BACKOFF_MAX);
    *failures = failures.saturating_add(1);
    sleep(most.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
}

/// Watches from a version on; gives why it can not go on from where it is.
async fn watch_on(
    client: &Client,
    query: &Query,
    mut version: String,
    demand: &Demand,
    tell: &(impl Fn(Told) + Send + Sync),
    failures: &mut u32,
) -> FeedError {
    loop {
        match watch(client, query, &mut version, demand, tell, failures).await {
            // It ended as it was asked to.
            Ok(()) => {}
            Err(FeedError::Expired) => {
                *failures = 0;
                return FeedError::Expired;
            }
            Err(error) => pause(query, &error, demand, failures).await,
        }
    }
}

/// Counts a watch as open until it is dropped.
struct Open<'d>(&'d Demand);

impl<'d> Open<'d> {
    fn begin(demand: &'d Demand) -> Self {
        demand.status.begun.fetch_add(1, Relaxed);
        demand.status.watches.fetch_add(1, Relaxed);
        Self(demand)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.status.watches.fetch_sub(1, Relaxed);
    }
}

async fn watch(
    client: &Client,
    query: &Query,
    version: &mut String,
    demand: &Demand,
    tell: &(impl Fn(Told) + Send + Sync),
    failures: &mut u32,
) -> Result<(), FeedError> {
    // Not all at the same time: a server that has just come back is asked by everybody.
    let life = WATCH.mul_f64(0.75 + fastrand::f64() / 4.0);
    let seconds = life.as_secs().to_string();
    let more = [
        ("watch", "true"),
        ("resourceVersion", version.as_str()),
        ("allowWatchBookmarks", "true"),
        ("timeoutSeconds", &seconds),
    ];
    let answer = send(client, query.request(&more)?).await?;
    let _open = Open::begin(demand);
    well(query, demand, failures);
    let mut body = answer.into_body();
    let mut lines = Lines::default();
    let most: Duration = life + SILENCE;
    loop {
        let frame = timeout(most, body.frame()).await.map_err(lost)?;
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|e| FeedError::Lost(e.to_string()))?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        lines.push(&bytes).map_err(lost)?;
        while let Some(line) = lines.next_line() {
            demand.status.heard();
            let event = match lines::read(query.kind, &line) {
                Ok(event) => event,
                Err(error) => {
                    // One object that says what it cannot must not hide all others.
                    demand.status.failures.fetch_add(1, Relaxed);
                    tracing::warn!(what = query.what(), %error, "a line of a watch is left out");
                    continue;
                }
            };
            match event {
                Event::Put(item, next) => {
                    item.into_iter().for_each(|item| tell(Told::Put(item)));
                    *version = next;
                }
                Event::Gone(item, next) => {
                    item.into_iter().for_each(|item| tell(Told::Gone(item)));
                    *version = next;
                }
                Event::Mark(next) => *version = next,
                Event::Expired => return Err(FeedError::Expired),
                Event::Failed(code, said) => {
                    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
                    return Err(FeedError::Refused(status, said));
                }
            }
        }
    }
}
