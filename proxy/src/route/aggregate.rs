//! What a rule that answers from several services is compiled to.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use selvedge_gateway::template::Template;
use serde_json::Value;

use super::Rule;

/// See the module.
#[derive(Debug)]
pub struct Aggregate {
    /// The calls, in the order of their names.
    pub calls: Vec<Call>,
    /// Templates look at headers of the request: the answer is for who sent those.
    pub uses_headers: bool,
    /// All of them together; zero = off.
    pub timeout: Duration,
    /// The answer; without one, the parts under their names.
    pub template: Option<Template>,
    /// Member of the answer that names what is missing.
    pub partial: String,
    /// Status of the answer where a required call fails.
    pub failure_status: StatusCode,
    /// And its body.
    pub failure_body: Option<Value>,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    /// Name of its part.
    pub name: String,
    /// An ordinary rule with one backend.
    pub rule: Arc<Rule>,
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: Template,
    /// Body, JSON.
    pub body: Option<Template>,
    /// Calls whose parts its templates use, by index.
    pub needs: Vec<usize>,
    /// From its start to the last byte of its answer.
    pub timeout: Duration,
    /// Without it, there is no answer.
    pub required: bool,
    /// What stands in for it.
    pub fallback: Value,
    /// Members that are kept; empty = all.
    pub pick: Vec<String>,
    /// Its members go into the answer itself.
    pub merge: bool,
}
