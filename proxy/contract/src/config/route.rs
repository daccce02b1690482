//! The routes of the configuration: Gateway API's HTTPRoute `spec`, field by field.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

use super::{GrpcCode, RequestMirror};

/// An HTTPRoute `spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Route {
    /// Name in logs and metrics. Default: `route-<index>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Listeners this route is attached to. Empty: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts: exact, or `*.` and a suffix. Empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Names of policies for all rules; one of the same kind at a rule wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Rules; the most specific match wins, not the first.
    pub rules: Vec<Rule>,
}

/// A listener, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// Name of a listener, or `outbound` for a sidecar's outbound port.
    pub name: String,
}

/// One rule: what it matches, what it does, where it sends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    /// Name in logs and metrics. Default: the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Any of these. Empty: every request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// What happens to request and response, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Names of policies to apply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Where to send, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// Instead: one answer from several services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// Deadlines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RouteTimeouts>,
    /// Retries beyond the safe default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// How much its requests matter, where a service cannot take all: `batch` is shed first, `health` last.
    /// Default: what the proxy of the mesh says that passes them on, or else `interactive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// A class of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Priority {
    /// They tell whether something works; a tenth over a limit is for them.
    Health,
    /// Somebody waits for the answer.
    Interactive,
    /// Nobody does: they have three quarters of a limit.
    Batch,
}

/// One JSON answer from several calls, made at the same time where none needs another's answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Aggregate {
    /// Calls by name, 16 at most. Each one's answer goes into the answer under its name.
    pub calls: BTreeMap<String, Call>,
    /// Instead: a template for the answer, in JSON, with the parts by their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// All calls together. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Member of the answer that lists the parts that are missing. Default: `partial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial: Option<String>,
    /// The answer where a required call fails. Default: 502, a problem document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Failure>,
}

/// An answer of one's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// Status, 400 to 599.
    pub status: u16,
    /// Body, as JSON. Default: a problem document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<serde_json::Value>,
}

/// One call of an aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Call {
    /// Service.
    pub service: String,
    /// Path and query, a template: `/orders?user={{ user.id }}` uses what the call `user` answered,
    /// `request.path`, `request.query.<name>`, `request.header.<name>` what was asked, `claims` the
    /// caller's token.
    pub path: String,
    /// Method. Default: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Body, a template for JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// To the last byte of its answer. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Without it there is no answer. Default: true, false with a `fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// What stands in for it when it fails. Default: null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<serde_json::Value>,
    /// Members to keep, `a.b` for one inside another. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pick: Vec<String>,
    /// Its members go into the answer itself. Default: false.
    #[serde(default)]
    pub merge: bool,
    /// Retries. Default: as for any rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
}

/// Every key that is set must fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Path; a bare string means `PathPrefix`. Default: every path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Method, in capitals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<QueryMatch>,
}

/// A path match, in full or short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PathMatch {
    /// `/orders` is short for `{ type: PathPrefix, value: /orders }`.
    Prefix(String),
    /// The long form.
    Full(PathMatchSpec),
}

/// The long form of a path match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatchSpec {
    /// How `value` is read. Default: `PathPrefix`.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// A path beginning with `/`, or a regular expression over the whole path.
    pub value: String,
}

/// How a path is matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Whole segments: `/a` fits `/a` and `/a/b`, not `/ab`.
    #[default]
    PathPrefix,
    /// A regular expression that must fit the whole path.
    RegularExpression,
}

/// A header match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// How `value` is read. Default: `Exact`.
    #[serde(default, rename = "type")]
    pub kind: MatchType,
    /// Header name, in any case. `Cookie` is matched as a whole.
    pub name: String,
    /// Value or regular expression.
    pub value: String,
}

/// A query-parameter match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatch {
    /// How `value` is read. Default: `Exact`.
    #[serde(default, rename = "type")]
    pub kind: MatchType,
    /// Parameter name, exact; its first value counts.
    pub name: String,
    /// Value (percent-decoded) or regular expression.
    pub value: String,
}

/// How a value is matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MatchType {
    /// The whole value.
    #[default]
    Exact,
    /// A regular expression that must fit the whole value.
    RegularExpression,
}

/// A filter; the key named by `type` holds its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Filter {
    /// Edits the request's headers.
    RequestHeaderModifier {
        /// The edits.
        request_header_modifier: HeaderEdits,
    },
    /// Edits the response's headers.
    ResponseHeaderModifier {
        /// The edits.
        response_header_modifier: HeaderEdits,
    },
    /// Answers with a redirect.
    RequestRedirect {
        /// Where to.
        request_redirect: Redirect,
    },
    /// Changes host or path before the request is sent.
    #[serde(rename = "URLRewrite")]
    UrlRewrite {
        /// To what.
        url_rewrite: Rewrite,
    },
    /// Sends a copy elsewhere too; what comes of it is nobody's answer.
    RequestMirror {
        /// Where to.
        request_mirror: RequestMirror,
    },
}

/// Header edits: `set` replaces, `add` appends, `remove` deletes; in that order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Replace every field of that name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderValue>,
    /// Append.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderValue>,
    /// Delete every field of these names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header's name and value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderValue {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Where a redirect points; what is not set is kept from the request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Port; left out of the URL where it is the scheme's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// 301, 302, 303, 307 or 308. Default: 302.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

/// What a rewrite changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rewrite {
    /// New `Host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// New path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A new path; the key named by `type` holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// The whole new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// What stands for the prefix that matched; needs a `PathPrefix` match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
}

/// How a path is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathModifierType {
    /// All of it.
    ReplaceFullPath,
    /// The matched prefix.
    ReplacePrefixMatch,
}

/// A service and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Name of a service.
    #[serde(alias = "name")]
    pub service: String,
    /// Share of the requests, 0 to 1000000. Default: 1.
    #[serde(default = "BackendRef::default_weight")]
    pub weight: u32,
    /// Filters for this backend only (header edits).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

impl BackendRef {
    const fn default_weight() -> u32 {
        1
    }
}

/// Deadlines of a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// To the head of the response, all retries included; `0s` = off. Default: that of `limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// One try, to the head of its response. Default: none but `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}

/// Retries of a rule. Without it: one, and only of what was provably not processed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetrySpec {
    /// Tries after the first. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Response codes to retry, for idempotent methods or with an `Idempotency-Key`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// Statuses of gRPC to retry, where the answer is nothing but the status. The caller says that its calls
    /// may be carried out twice: gRPC has no method that would.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grpc: Vec<GrpcCode>,
    /// First pause; doubles, with jitter, to 250ms or ten times this. Default: 25ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
    /// A request without a body that may be repeated (as for `codes`) goes to a second endpoint too where
    /// no answer has begun after this long, and the first answer counts. `0s` = off. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Duration>,
}
