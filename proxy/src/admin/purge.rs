//! Beside the path: caches forget what an operator names.

use http::StatusCode;
use serde_json::json;

use crate::cache::Purge;
use crate::worker::Shared;

use super::{Answer, object, text};

/// Purges all caches, or the one whose policy is named.
pub(super) fn answer(shared: &Shared, query: Option<&str>) -> Answer {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .into_owned()
        .collect();
    let known = ["key", "prefix", "tag", "all", "policy"];
    if let Some((name, _)) = pairs
        .iter()
        .find(|(name, _)| !known.contains(&name.as_str()))
    {
        let told = format!("`{name}` is not known; percent-encode the `&` of an address\n");
        return text(StatusCode::BAD_REQUEST, told);
    }
    let value = |name: &str| {
        let found = pairs.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let what = match (value("key"), value("prefix"), value("tag"), value("all")) {
        (Some(key), None, None, None) => Purge::Key(key),
        (None, Some(prefix), None, None) => Purge::Prefix(prefix),
        (None, None, Some(tag), None) => Purge::Tag(tag),
        (None, None, None, Some(_)) => Purge::All,
        _ => {
            let remedy = "give one of key=, prefix=, tag= or all\n";
            return text(StatusCode::BAD_REQUEST, remedy);
        }
    };
    let snapshot = shared.snapshot();
    let policy = value("policy");
    let wanted = |name: &str| policy.is_none_or(|policy| policy == name);
    let caches = snapshot.caches.iter().filter(|c| wanted(&c.name));
    let gone: Vec<usize> = caches.map(|cache| cache.purge(what)).collect();
    if gone.is_empty() {
        return text(StatusCode::NOT_FOUND, "no such cache\n");
    }
    object(&json!({ "purged": gone.iter().sum::<usize>() }))
}
