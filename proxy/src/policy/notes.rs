//! Part of stage 6, policy: what guards leave for the request that goes on and for its response.

use std::sync::Arc;

use selvedge_gateway::oidc::cookie::without_own;

use crate::message::{Fields, Known, RequestHead, Reserve};
use crate::respond::pages::Pages;

use super::api_key::without;
use super::bandwidth::Paced;
use super::concurrency::Held;
use super::ext_authz::Change;
use super::guard::Headers;
use super::manners::Security;

/// What guards leave for the response, whoever gives it.
#[derive(Debug, Default)]
pub struct Notes {
    /// Fields to add.
    pub fields: Fields,
    /// What the application says about other origins is replaced.
    pub cors: bool,
    /// How the response is marked.
    pub security: Option<Arc<Security>>,
    /// What stands in for failures.
    pub pages: Option<Arc<Pages>>,
    /// What whoever was asked wants changed in the response.
    pub changes: Vec<Change>,
    /// The query holds a secret: it is in no log and no span.
    pub conceal: bool,
    /// The first policy on trial that would have refused it.
    pub audited: Option<Arc<str>>,
    /// Edits of the request that is sent and of its response.
    pub headers: Option<Arc<Headers>>,
    /// What is held of the request's body, until its answer begins.
    pub reserve: Option<Reserve>,
    /// Places of its client, held to the last byte of the response.
    pub held: Vec<Held>,
    /// How fast the body of the request may come.
    pub paced_request: Option<Paced>,
    /// How fast the body of the response may go.
    pub paced_response: Option<Paced>,
    /// Edits of the request, in order.
    edits: Vec<Edit>,
}

/// An edit of the request.
#[derive(Debug)]
enum Edit {
    Append(Box<[u8]>, Box<[u8]>),
    Remove(Box<[u8]>),
    StripQuery(Box<str>),
    StripSession(Box<str>),
    Change(Change),
    Lookalikes(Box<str>),
}

impl Notes {
    /// The application will get this field.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.edits.push(Edit::Append(name.into(), value.into()));
    }

    /// The application will not get fields of this name, however it is spelt.
    pub fn remove(&mut self, name: &[u8]) {
        self.edits.push(Edit::Remove(name.into()));
    }

    /// The application will not get fields whose names only look like this one.
    pub fn remove_lookalikes(&mut self, name: &str) {
        self.edits.push(Edit::Lookalikes(name.into()));
    }

    /// What the application gets is changed.
    pub fn change(&mut self, change: Change) {
        self.edits.push(Edit::Change(change));
    }

    /// The application will not get this query parameter.
    pub fn strip_query(&mut self, name: &str) {
        self.edits.push(Edit::StripQuery(name.into()));
    }

    /// The application will not get the cookies of sessions and logins of this name.
    pub fn strip_session(&mut self, name: &str) {
        self.edits.push(Edit::StripSession(name.into()));
    }

    /// Adds what one of several ways has left.
    pub fn merge(&mut self, other: Self) {
        for field in other.fields.iter() {
            self.fields.append(field.name, field.value);
        }
        self.conceal |= other.conceal;
        self.changes.extend(other.changes);
        self.edits.extend(other.edits);
    }

    /// Edits the request.
    pub fn apply(&self, head: &mut RequestHead) {
        for edit in &self.edits {
            match edit {
                Edit::Append(name, value) => head.fields.append(name, value),
                Edit::Remove(name) => head.fields.remove_alike(name),
                Edit::StripQuery(name) => {
                    let query = without(head.target.query(), name);
                    head.target = head.target.with_query(&query);
                }
                Edit::Lookalikes(name) => head.fields.remove_lookalikes_of(name.as_bytes()),
                Edit::Change(change) => change.apply(&mut head.fields),
                Edit::StripSession(name) => strip_session(&mut head.fields, name),
            }
        }
    }
}

/// Rewrites `Cookie` only where there is something to take out.
fn strip_session(fields: &mut Fields, name: &str) {
    let lines: Vec<&[u8]> = fields.all(Known::Cookie).collect();
    let left = |line: &&[u8]| without_own(line, name);
    if !lines.iter().any(|line| left(line).is_some()) {
        return;
    }
    let kept: Vec<Vec<u8>> = lines
        .iter()
        .map(|line| left(line).unwrap_or_else(|| line.to_vec()))
        .filter(|line| !line.is_empty())
        .collect();
    fields.remove_known(Known::Cookie);
    for line in kept {
        fields.append_known(Known::Cookie, &line);
    }
}
