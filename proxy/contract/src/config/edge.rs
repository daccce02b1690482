//! Policies of the configuration for what is done at the edge with responses and for browsers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Duration, Size};

/// Protection from requests that foreign pages send (cross-site request forgery).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Csrf {
    /// Other origins that may, such as `https://pay.example`.
    pub trusted_origins: Vec<String>,
}

/// Headers that are added where the application says nothing of that name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Security {
    /// `Strict-Transport-Security`, over TLS only. Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
    /// `X-Frame-Options`: `DENY`, `SAMEORIGIN` or `off`. Default: `DENY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<Frame>,
    /// `X-Content-Type-Options: nosniff`. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type_options: Option<bool>,
    /// `Referrer-Policy`. Default: `strict-origin-when-cross-origin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referrer_policy: Option<String>,
    /// `Content-Security-Policy`. Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_security_policy: Option<String>,
    /// `Permissions-Policy`. Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions_policy: Option<String>,
    /// `Cross-Origin-Opener-Policy`. Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opener_policy: Option<String>,
    /// Pass on `Server`, `X-Powered-By` and their like. Default: false.
    pub keep_server: bool,
}

/// How long browsers use nothing but TLS (RFC 6797).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hsts {
    /// How long: `8760h`, a year, is usual; begin with less.
    pub max_age: Duration,
    /// For all names below too. Default: false.
    #[serde(default)]
    pub include_subdomains: bool,
    /// Asks to be built into browsers. Default: false.
    #[serde(default)]
    pub preload: bool,
}

/// Whether pages may stand in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Frame {
    /// No.
    #[serde(rename = "DENY")]
    Deny,
    /// Of their own origin.
    #[serde(rename = "SAMEORIGIN")]
    SameOrigin,
    /// The header is not sent.
    #[serde(rename = "off")]
    Off,
}

/// A version of an API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VersionPolicy {
    /// Its name, for the metrics.
    pub name: String,
    /// The day from which it is deprecated, told in `Deprecation` (RFC 9745): `2027-01-31`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
    /// The day on which it ends, told in `Sunset` (RFC 8594).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<String>,
    /// Where clients read what to do, told in `Link`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Answer 410 from that day on. Default: false.
    #[serde(default)]
    pub refuse: bool,
}

/// A page in place of a failure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ErrorPage {
    /// Statuses: `404`, `5xx`, `500-504`.
    pub statuses: Vec<String>,
    /// Also for what an application answered. Default: only for this gateway's own answers.
    pub upstream: bool,
    /// Another status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// File with a page for browsers, read at every reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// JSON for everyone else. Default: a problem document stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
}

/// A shared cache (RFC 9111).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CachePolicy {
    /// Bytes of all that is kept. Default: 64MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Longer bodies are not kept. Default: 1MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest: Option<Size>,
    /// How long a response is fresh that says nothing of it. Default: not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Also for requests with cookies: what is asked for does not depend on them. Responses with a
    /// freshness of their own do not need it. Default: false.
    pub ignore_cookies: bool,
    /// The same as `ttl`, for 404 and 410. Default: not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_ttl: Option<Duration>,
    /// How long after that the old one is given while a new one is fetched, where the response does
    /// not say (RFC 5861). Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate: Option<Duration>,
    /// How long after that the old one is given while the upstream fails, where the response does
    /// not say (RFC 5861). Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<Duration>,
}

/// Compression of responses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compression {
    /// Codings, the best first. Default: `zstd`, `br`, `gzip`.
    pub codings: Vec<Coding>,
    /// Media types: exact, `text/*`, `*+json`. Default: text, JSON, XML, JavaScript, SVG, WebAssembly,
    /// fonts that are not compressed yet.
    pub types: Vec<String>,
    /// Shorter responses stay as they are. Default: 1KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Size>,
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Coding {
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// gzip.
    Gzip,
}

/// Changes of requests and responses. Values are templates: `{{ request.path }}`,
/// `{{ request.query.<name> }}`, `{{ request.header.<name> }}`, `{{ claims.sub }}`,
/// `{{ consumer.name }}`, in responses `{{ status }}`, in bodies `{{ body.<member> }}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Transform {
    /// Of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestTransform>,
    /// Of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseTransform>,
}

/// Changes of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestTransform {
    /// Headers that are set, by name; values are templates, or `cel:` and an expression.
    pub headers: BTreeMap<String, String>,
    /// Headers that are taken away.
    pub remove_headers: Vec<String>,
    /// New path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathReplacement>,
    /// Query parameters that are set, by name; values are templates, or `cel:` and an expression.
    pub query: BTreeMap<String, String>,
    /// Query parameters that are taken away.
    pub remove_query: Vec<String>,
    /// Changes of a JSON body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyTransform>,
}

/// Changes of a response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResponseTransform {
    /// Headers that are set, by name; values are templates, or `cel:` and an expression.
    pub headers: BTreeMap<String, String>,
    /// Headers that are taken away.
    pub remove_headers: Vec<String>,
    /// Changes of a JSON body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyTransform>,
}

/// A path by a regular expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathReplacement {
    /// What is found in the path: `^/users/([^/]+)/orders$`.
    pub regex: String,
    /// What stands in its place: `/orders/of/$1`; `${1}x` where a letter follows.
    pub replacement: String,
}

/// Changes of a JSON body: a new one by `template`, then `remove`, `rename`, `set`. Members are named by
/// paths: `user.address.city`, `items.*.price` in each item of a list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BodyTransform {
    /// The whole body anew: a template for JSON, or `cel:` and an expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Members that are taken away.
    pub remove: Vec<String>,
    /// Members and their new names.
    pub rename: BTreeMap<String, String>,
    /// Members and their values; a text with `{{` in it is a template for JSON, one after `cel:` an
    /// expression.
    pub set: BTreeMap<String, serde_json::Value>,
    /// Longer bodies are refused: 413 for a request, 502 for a response. Default: 1MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest: Option<Size>,
}

/// A service that decides whether a request may pass, as Envoy's `ext_authz`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtAuthz {
    /// Service that is asked: the request's method, host, path and headers, without its body.
    pub service: String,
    /// How it is asked. Default: `http`. `grpc` wants a service of `protocol: http2`.
    pub protocol: AuthzProtocol,
    /// Over HTTP: goes before the path. Default: none.
    pub path_prefix: String,
    /// To the last byte of its answer. Default: 200ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Requests pass while it cannot be asked. Default: false, they are answered 503.
    pub fail_open: bool,
    /// Headers that are sent along. Default: all.
    pub headers: Vec<String>,
    /// Headers of its answer that the application gets; what a client sends there is removed. Over
    /// gRPC the answer itself says what the application gets, and here stands what only it may say.
    pub upstream_headers: Vec<String>,
    /// Over gRPC: `context_extensions` of the question.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// How long an answer holds for the same question. Default: 0s, it is asked each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Duration>,
}

/// How a service that decides is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuthzProtocol {
    /// The request's own head, over HTTP: the status of the answer decides.
    #[default]
    Http,
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
}
