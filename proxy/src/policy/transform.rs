//! Beside stage 6, policy: changes a request before it is sent and a response before it is given:
//! headers, path, query, and JSON bodies, which are read whole for that.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, StatusCode};
use regex::Regex;
use selvedge_gateway::body::Path;
use selvedge_gateway::template::{Maker, Slot, slot};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind};
use crate::message::target::EncodedSlash;
use crate::message::{
    Body, BodyLength, Fields, Known, Request, RequestHead, Response, Target, read_whole,
};

use super::Caller;

/// A compiled policy.
#[derive(Debug, Default)]
pub struct Transform {
    /// Of the request.
    pub request: Side,
    /// Of the response.
    pub response: Side,
    /// New path: what the expression finds, and what stands in its place.
    pub path: Option<(Regex, String)>,
    /// Query parameters that are set.
    pub query: Vec<(String, Maker)>,
    /// Query parameters that are taken away.
    pub query_removed: Vec<String>,
    /// There are templates: without any, nobody asks what they know.
    pub has_templates: bool,
}

/// What is done to one direction.
#[derive(Debug, Default)]
pub struct Side {
    /// Headers that are set.
    pub headers: Vec<(String, Maker)>,
    /// Headers that are taken away.
    pub removed: Vec<String>,
    /// What is done to a JSON body.
    pub body: Option<BodyEdit>,
}

/// What is done to a JSON body, in this order.
#[derive(Debug)]
pub struct BodyEdit {
    /// Taken away.
    pub remove: Vec<Path>,
    /// Renamed.
    pub rename: Vec<(Path, String)>,
    /// Set.
    pub set: Vec<(Path, Given)>,
    /// Or all of it made anew.
    pub template: Option<Maker>,
    /// A template looks at the body: it is a second time in memory then.
    pub looks_at_body: bool,
    /// Values that a body may have.
    pub values: usize,
    /// Bytes of a body.
    pub largest: usize,
}

/// A value to set.
#[derive(Debug)]
pub enum Given {
    /// This one.
    Fixed(Value),
    /// What this makes.
    Made(Box<Maker>),
}

fn wrong(error: &impl ToString) -> Error {
    Error::with(ErrorKind::BadTransform, error.to_string())
}

/// What cannot be made of a request is its own fault: something is missing, or of another kind.
fn of_client(error: Error) -> Error {
    match error.kind {
        ErrorKind::BadTransform => Error::with(ErrorKind::BadInput, error.to_string()),
        _ => error,
    }
}

/// What templates know: `request`, `claims`, `consumer`.
#[must_use]
pub fn known(head: &RequestHead, caller: &Caller) -> BTreeMap<String, Slot> {
    let mut query = Map::new();
    for (name, value) in form_urlencoded::parse(head.target.query().as_bytes()) {
        // The first of a name: an application must not be told another one than we decided by.
        query.entry(name).or_insert_with(|| value.into());
    }
    let mut header = Map::new();
    for field in head.fields.iter() {
        let name = String::from_utf8_lossy(field.name).to_ascii_lowercase();
        let value = String::from_utf8_lossy(field.value).into_owned();
        header.entry(name).or_insert_with(|| value.into());
    }
    let request = json!({
        "method": head.method.as_str(),
        "path": head.target.path(),
        "host": head.host.as_str(),
        "query": query,
        "header": header,
    });
    let claims = caller
        .token
        .as_ref()
        .map(|token| token.claims.clone().into());
    let consumer = caller.consumer.as_ref();
    let consumer = consumer.map(|c| json!({ "name": c.name, "plan": c.plan }));
    BTreeMap::from([
        ("request".to_owned(), slot(&request)),
        ("claims".to_owned(), slot(&claims.unwrap_or(Value::Null))),
        (
            "consumer".to_owned(),
            slot(&consumer.unwrap_or(Value::Null)),
        ),
    ])
}

impl Transform {
    /// What its templates know of a request.
    #[must_use]
    pub fn known(&self, head: &RequestHead, caller: &Caller) -> BTreeMap<String, Slot> {
        if self.has_templates {
            known(head, caller)
        } else {
            BTreeMap::new()
        }
    }

    /// Whether anything of the response is changed.
    #[must_use]
    pub fn changes_response(&self) -> bool {
        let side = &self.response;
        side.body.is_some() || !side.headers.is_empty() || !side.removed.is_empty()
    }

    /// What this makes of a request, by which its answers differ: its target, and headers that were
    /// made from other things.
    #[must_use]
    pub fn made(&self, head: &RequestHead) -> Vec<u8> {
        let mut made = Vec::new();
        if self.path.is_some() || !self.query.is_empty() || !self.query_removed.is_empty() {
            made.extend_from_slice(head.target.text());
        }
        for (name, _) in &self.request.headers {
            made.push(b'\n');
            made.extend_from_slice(head.fields.named(name).unwrap_or_default());
        }
        made
    }

    /// Changes a request; reads its body if that is to be changed.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] where a template gives nothing; 400 or 413 for a body that is no JSON or
    /// too long.
    pub async fn request(
        &self,
        request: &mut Request,
        known: &BTreeMap<String, Slot>,
    ) -> Result<(), Error> {
        let values = Slot::from(known.clone());
        self.target(&mut request.head, &values).map_err(of_client)?;
        let fields = &mut request.head.fields;
        self.request.headers(fields, &values).map_err(of_client)?;
        if self.response.body.is_some() {
            // What is to be changed must come whole, and as it is.
            for known in [Known::AcceptEncoding, Known::Range] {
                request.head.fields.remove_known(known);
            }
        }
        let Some(edit) = &self.request.body else {
            return Ok(());
        };
        let fields = &request.head.fields;
        if is_doubtful(fields) {
            return Err(ErrorKind::BadBody.into());
        }
        if !is_json(fields) || request.body.length() == BodyLength::Exact(0) {
            return Ok(());
        }
        if fields.known(Known::ContentEncoding).is_some() {
            return Err(ErrorKind::BadBody.into());
        }
        let body = std::mem::replace(&mut request.body, Body::Empty);
        let read = read_whole(body, edit.largest, ErrorKind::BodyTooLarge).await?;
        if read.is_empty() {
            return Ok(());
        }
        if is_dense(&read, edit.values) {
            return Err(ErrorKind::BodyTooLarge.into());
        }
        let body: Value =
            serde_json::from_slice(&read).map_err(|e| Error::with(ErrorKind::BadBody, e))?;
        let body = edit.apply(body, known).map_err(of_client)?;
        request.head.fields.remove_known(Known::Expect);
        put(&mut request.head.fields, &mut request.body, body);
        // Whoever sends it writes its length.
        request.head.fields.remove_known(Known::ContentLength);
        Ok(())
    }

    /// Changes a response; reads its body if that is to be changed.
    ///
    /// # Errors
    /// [`ErrorKind::BadTransform`] where a template gives nothing, or the body is no JSON, is
    /// encoded or too long: what was to be taken away is not let through.
    pub async fn response(
        &self,
        mut response: Response,
        method: &Method,
        known: &BTreeMap<String, Slot>,
    ) -> Result<Response, Error> {
        let mut known = known.clone();
        let status = response.head.status;
        known.insert("status".to_owned(), Slot::from(status.as_u16()));
        let values = Slot::from(known.clone());
        self.response.headers(&mut response.head.fields, &values)?;
        let bodiless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let Some(edit) = self.response.body.as_ref().filter(|_| !bodiless) else {
            return Ok(response);
        };
        let fields = &mut response.head.fields;
        if is_doubtful(fields) {
            return Err(wrong(&"more than one content type"));
        }
        if !is_json(fields) {
            return Ok(response);
        }
        let strong = fields
            .known(Known::ETag)
            .filter(|tag| tag.starts_with(b"\""));
        if let Some(tag) = strong {
            let weak = [b"W/", tag].concat();
            fields.set_known(Known::ETag, &weak);
        }
        if method == Method::HEAD {
            fields.remove_known(Known::ContentLength);
            return Ok(response);
        }
        if fields.known(Known::ContentEncoding).is_some() || status == StatusCode::PARTIAL_CONTENT {
            return Err(wrong(&"the body is encoded, or a part"));
        }
        let body = std::mem::replace(&mut response.body, Body::Empty);
        let read = read_whole(body, edit.largest, ErrorKind::BadTransform).await?;
        if is_dense(&read, edit.values) {
            return Err(wrong(&"too many values"));
        }
        let body = serde_json::from_slice(&read).map_err(|e| wrong(&e))?;
        let body = edit.apply(body, &known)?;
        put(&mut response.head.fields, &mut response.body, body);
        Ok(response)
    }

    fn target(&self, head: &mut RequestHead, values: &Slot) -> Result<(), Error> {
        if let Some((regex, with)) = &self.path {
            let path = regex
                .replace(head.target.path(), with.as_str())
                .into_owned();
            let query = head.target.query();
            let text = if query.is_empty() {
                path.clone()
            } else {
                format!("{path}?{query}")
            };
            let target = Target::parse(text.into(), EncodedSlash::Keep)?;
            // What would climb, or mean something else once it is normal, is nobody's intention.
            if target.path() != path {
                return Err(wrong(&"the new path is not in its normal form"));
            }
            head.target = target;
        }
        if self.query.is_empty() && self.query_removed.is_empty() {
            return Ok(());
        }
        let named = |pair: &str, name: &str| {
            let key = pair.split_once('=').map_or(pair, |(key, _)| key);
            form_urlencoded::parse(key.as_bytes()).any(|(key, _)| key == name)
        };
        let gone = |pair: &&str| {
            let set = self.query.iter().map(|(name, _)| name);
            set.chain(&self.query_removed).any(|name| named(pair, name))
        };
        let query = head.target.query();
        let kept = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !gone(pair));
        let mut pairs: Vec<String> = kept.map(str::to_owned).collect();
        for (name, template) in &self.query {
            let value = template.render(values).map_err(|e| wrong(&e))?;
            let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
            pairs.push(format!("{name}={value}"));
        }
        head.target = head.target.with_query(&pairs.join("&"));
        Ok(())
    }
}

impl Side {
    /// Whether it has a template.
    #[must_use]
    pub fn has_templates(&self) -> bool {
        let given = |(_, given): &(Path, Given)| matches!(given, Given::Made(_));
        let body = self.body.as_ref();
        !self.headers.is_empty()
            || body.is_some_and(|b| b.template.is_some() || b.set.iter().any(given))
    }

    fn headers(&self, fields: &mut Fields, values: &Slot) -> Result<(), Error> {
        for name in &self.removed {
            fields.remove_alike(name.as_bytes());
        }
        for (name, template) in &self.headers {
            let value = template.render(values).map_err(|e| wrong(&e))?;
            fields.remove_alike(name.as_bytes());
            fields.append(name.as_bytes(), value.trim().as_bytes());
        }
        Ok(())
    }
}

impl BodyEdit {
    fn apply(&self, mut body: Value, known: &BTreeMap<String, Slot>) -> Result<Bytes, Error> {
        let mut known = known.clone();
        if self.looks_at_body {
            known.insert("body".to_owned(), slot(&body));
        }
        let values = Slot::from(known);
        let render = |template: &Maker| -> Result<Value, Error> {
            let text = template.render(&values).map_err(|e| wrong(&e))?;
            serde_json::from_str(&text).map_err(|e| wrong(&e))
        };
        if let Some(template) = &self.template {
            body = render(template)?;
        }
        for path in &self.remove {
            path.remove(&mut body);
        }
        for (path, name) in &self.rename {
            path.rename(&mut body, name);
        }
        for (path, given) in &self.set {
            match given {
                Given::Fixed(value) => path.set(&mut body, value),
                Given::Made(template) => path.set(&mut body, &render(template)?),
            }
        }
        serde_json::to_vec(&body)
            .map(Bytes::from)
            .map_err(|e| wrong(&e))
    }
}

/// Two types, or a list of them: who reads it may take another one than we do.
fn is_doubtful(fields: &Fields) -> bool {
    let mut lines = fields.all(Known::ContentType);
    let first = lines.next().unwrap_or_default();
    lines.next().is_some() || first.contains(&b',') || first.starts_with(b"\"")
}

/// So many values that they would take hundreds of times their bytes.
#[must_use]
pub fn is_dense(body: &[u8], most: usize) -> bool {
    let marks = body.iter().filter(|b| matches!(b, b',' | b'{' | b'['));
    marks.count() > most
}

/// Whether a body says that it is JSON.
#[must_use]
pub fn is_json(fields: &Fields) -> bool {
    let kind = fields.known(Known::ContentType).unwrap_or_default();
    let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    matches!(
        essence,
        "application/json" | "text/json" | "application/x-json"
    ) || essence.ends_with("+json")
}

fn put(fields: &mut Fields, place: &mut Body, body: Bytes) {
    let mut digits = itoa::Buffer::new();
    fields.set_known(Known::ContentLength, digits.format(body.len()).as_bytes());
    for name in ["Content-MD5", "Content-Digest", "Digest"] {
        fields.remove(name.as_bytes());
    }
    *place = Body::Full(body);
}
