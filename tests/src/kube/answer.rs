//! Test API server: one request from its path to its answer.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};

use super::access::Token;
use super::body::{self, Response};
use super::kinds::{KINDS, Kind};
use super::refusal::{Answer, Refusal};
use super::select::Selector;
use super::{Shared, change, watch};

/// Largest body.
const BODY: usize = 3 * 1024 * 1024;

/// How objects are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Full,
    Metadata,
}

impl Form {
    pub(super) fn of(self, object: &Value) -> Value {
        match self {
            Self::Full => object.clone(),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            }),
        }
    }
}

/// What a request is for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) selector: Selector,
    pub(super) form: Form,
    pub(super) user: Token,
    /// Of the body.
    pub(super) content_type: String,
    pub(super) agent: String,
    query: Vec<(String, String)>,
}

impl Asked {
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.query(name), Some("true" | "1"))
    }

    /// Who writes, by name: as said, or the first word of the program's.
    pub(super) fn manager(&self) -> String {
        let said = self.query("fieldManager").filter(|m| !m.is_empty());
        let program = self.agent.split('/').next().unwrap_or_default();
        said.unwrap_or(program).to_owned()
    }
}

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer<Response> {
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    shared.delay().await;
    let user = shared.access.lock().unwrap().user(header(AUTHORIZATION))?;
    if request.uri().path() == "/version" {
        return Ok(body::json(
            200,
            &json!({ "major": "1", "minor": "34", "gitVersion": "v1.34.1" }),
        ));
    }
    let (kind, namespace, name, sub) = path(request.uri().path())?;
    let query = pairs(request.uri().query().unwrap_or_default());
    let of = |wanted: &str| {
        let found = query.iter().find(|(n, _)| n == wanted);
        found.map_or("", |(_, v)| v.as_str()).to_owned()
    };
    let watched = ["true", "1"].contains(&of("watch").as_str());
    let verb = verb(request.method().as_str(), name.is_some(), watched)?;
    let resource = match &sub {
        Some(sub) => format!("{}/{sub}", kind.plural),
        None => kind.plural.to_owned(),
    };
    shared.count(verb, &resource);
    shared.refuse_as_told(&resource)?;
    let place = namespace.as_ref().map_or_else(
        || "at the cluster scope".to_owned(),
        |n| format!("in the namespace {n:?}"),
    );
    if !shared
        .access
        .lock()
        .unwrap()
        .may(&user.user, verb, &resource)
    {
        let why = format!(
            "{resource}.{} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {:?} {place}",
            kind.group, user.user, kind.group
        );
        return Err(Refusal::new(403, "Forbidden", why));
    }
    let asked = Asked {
        kind,
        namespace,
        name,
        sub,
        selector: Selector::parse(kind, &of("labelSelector"), &of("fieldSelector"))?,
        form: form(header(ACCEPT).unwrap_or("*/*"))?,
        user,
        content_type: header(CONTENT_TYPE).unwrap_or_default().to_owned(),
        agent: header(hyper::header::USER_AGENT)
            .unwrap_or("unknown")
            .to_owned(),
        query,
    };
    let bytes = read(request.into_body()).await?;
    match verb {
        "watch" => watch::begin(&shared, asked),
        "list" => list(&shared, &asked),
        "get" => {
            let name = asked.name.as_deref().unwrap_or_default();
            let namespace = asked.namespace.as_deref().unwrap_or_default();
            let store = shared.store.lock().unwrap();
            let found = store.object(kind, namespace, name);
            let found = found.ok_or_else(|| Refusal::not_found(kind.plural, name))?;
            Ok(body::json(200, &asked.form.of(found)))
        }
        _ => change::change(&shared, &asked, verb, &bytes),
    }
}

async fn read(body: Incoming) -> Answer<Bytes> {
    let read = Limited::new(body, BODY).collect().await;
    let too_large = |_| {
        Refusal::new(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        )
    };
    Ok(read.map_err(too_large)?.to_bytes())
}

type Place = (
    &'static Kind,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// Kind, namespace, name, subresource.
fn path(path: &str) -> Answer<Place> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Refusal::no_such_resource()),
    };
    let own = |plural: &str| {
        let found = KINDS
            .iter()
            .find(|k| k.group == group && k.version == version && k.plural == plural);
        found.ok_or_else(Refusal::no_such_resource)
    };
    let text = |s: &&str| Some((*s).to_owned());
    let (kind, namespace, name, sub) = match rest {
        ["namespaces", name, sub @ ("status" | "finalize")] => {
            (own("namespaces")?, None, text(name), text(sub))
        }
        ["namespaces", namespace, plural] => (own(plural)?, text(namespace), None, None),
        ["namespaces", namespace, plural, name] => {
            (own(plural)?, text(namespace), text(name), None)
        }
        ["namespaces", namespace, plural, name, sub] => {
            (own(plural)?, text(namespace), text(name), text(sub))
        }
        [plural] => (own(plural)?, None, None, None),
        [plural, name] => (own(plural)?, None, text(name), None),
        [plural, name, sub] => (own(plural)?, None, text(name), text(sub)),
        _ => return Err(Refusal::no_such_resource()),
    };
    let misplaced =
        kind.namespaced != namespace.is_some() && (namespace.is_some() || name.is_some());
    let unknown = sub
        .as_deref()
        .is_some_and(|s| s != "status" || !kind.status);
    if misplaced || unknown {
        return Err(Refusal::no_such_resource());
    }
    Ok((kind, namespace, name, sub))
}

fn verb(method: &str, named: bool, watched: bool) -> Answer<&'static str> {
    Ok(match (method, named) {
        ("GET", false) if watched => "watch",
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", false) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        _ => {
            return Err(Refusal::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
    })
}

fn form(accept: &str) -> Answer<Form> {
    for one in accept.split(',').map(str::trim) {
        let mut words = one.split(';').map(str::trim);
        let plain = words
            .next()
            .is_some_and(|t| ["application/json", "*/*", "application/*"].contains(&t));
        let kind = words.clone().find_map(|w| w.strip_prefix("as="));
        let group = words.clone().find_map(|w| w.strip_prefix("g="));
        match (plain, kind) {
            (true, None) => return Ok(Form::Full),
            (true, Some("PartialObjectMetadata" | "PartialObjectMetadataList"))
                if group == Some("meta.k8s.io") =>
            {
                return Ok(Form::Metadata);
            }
            _ => {}
        }
    }
    Err(Refusal::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json",
    ))
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let text = |t: &str| {
        let (mut bytes, mut rest) = (Vec::new(), t.bytes());
        while let Some(byte) = rest.next() {
            let mut digit = || {
                rest.next()
                    .and_then(|b| char::from(b).to_digit(16))
                    .unwrap_or(0)
            };
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => u8::try_from(digit() * 16 + digit()).unwrap_or(b'?'),
                other => other,
            });
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pair = |p: &str| {
        p.split_once('=')
            .map_or((text(p), String::new()), |(n, v)| (text(n), text(v)))
    };
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(pair)
        .collect()
}

fn list(shared: &Shared, asked: &Asked) -> Answer<Response> {
    let kind = asked.kind;
    if !kind.stored {
        return Err(Refusal::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ));
    }
    let store = shared.store.lock().unwrap();
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| Refusal::bad(format!("invalid resource version {text:?}")))
    };
    let exact = asked.query("resourceVersionMatch") == Some("Exact");
    let given = number(
        asked
            .query("resourceVersion")
            .filter(|v| !v.is_empty())
            .unwrap_or("0"),
    )?;
    if given > store.version() {
        return Err(Refusal::new(504, "Timeout", "Too large resource version"));
    }
    // `continue` is opaque: the version of the first chunk, then how many were told.
    let token = asked.query("continue").filter(|t| !t.is_empty());
    let (version, told) = match token {
        Some(token) => {
            let bad = || Refusal::bad("continue key is not valid");
            let (version, told) = token.split_once('.').ok_or_else(bad)?;
            (
                version.parse().map_err(|_| bad())?,
                told.parse::<usize>().map_err(|_| bad())?,
            )
        }
        None if exact => (given, 0),
        None => (store.version(), 0),
    };
    let all = store.list(kind, asked.namespace.as_deref(), version)?;
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|o| asked.selector.takes(o))
        .collect();
    let limit = asked
        .query("limit")
        .and_then(|l| l.parse::<usize>().ok())
        .filter(|l| *l > 0);
    let end = limit.map_or(chosen.len(), |l| chosen.len().min(told + l));
    let mut items: Vec<Value> = chosen[told.min(end)..end]
        .iter()
        .map(|o| asked.form.of(o))
        .collect();
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if end < chosen.len() {
        metadata["continue"] = json!(format!("{version}.{end}"));
        if asked.selector.is_empty() {
            metadata["remainingItemCount"] = json!(chosen.len() - end);
        }
    }
    let (name, api) = match asked.form {
        Form::Full => {
            // Items of a list do not say what they are: the list does.
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.remove("kind");
                item.remove("apiVersion");
            }
            (format!("{}List", kind.name), kind.api_version())
        }
        Form::Metadata => (
            "PartialObjectMetadataList".to_owned(),
            "meta.k8s.io/v1".to_owned(),
        ),
    };
    let list = json!({ "kind": name, "apiVersion": api, "metadata": metadata, "items": items });
    Ok(body::json(200, &list))
}
