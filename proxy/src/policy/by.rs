//! Part of stage 6, policy: what tells clients apart where something is counted for each.

use std::net::IpAddr;

use selvedge_gateway::jwt::find;
use serde_json::Value;

use super::guard::Seen;

/// What something is counted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The client's address; of IPv6 the first 64 bits, which is what one client has.
    Address,
    /// Route and rule.
    Route,
    /// The host that the request is for.
    Host,
    /// A header's first value.
    Header(String),
    /// A claim of the token.
    Claim(String),
    /// Whose key it is.
    ApiKey,
}

/// All parts together tell clients apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By(pub Vec<Part>);

impl By {
    /// Whether it must be known who calls.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        let who = |part: &Part| matches!(part, Part::Claim(_) | Part::ApiKey);
        self.0.iter().any(who)
    }

    /// Gives what a request has of each part. What it does not have counts as its address: leaving
    /// it out must not be a way to be somebody else.
    pub fn give(&self, seen: &mut Seen<'_>, give: &mut dyn FnMut(&[u8])) {
        let address = seen.address();
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => (v6.to_bits() & (u128::MAX << 64)).to_be_bytes(),
        };
        let head = seen.head;
        let claims = seen.token.as_ref().map(|token| &token.claims);
        for part in &self.0 {
            match part {
                Part::Address => give(&octets),
                Part::Route => give(seen.rule.as_bytes()),
                // Ports and a final dot are no way to another bucket: routing ignores them too.
                Part::Host => give(head.host.name().trim_end_matches('.').as_bytes()),
                Part::Header(name) => give(head.fields.named(name).unwrap_or(&octets)),
                Part::ApiKey => {
                    let name = seen.consumer.as_ref().map(|c| c.name.as_bytes());
                    give(name.unwrap_or(&octets));
                }
                Part::Claim(path) => match claims.and_then(|c| find(c, path)) {
                    None => give(&octets),
                    Some(Value::String(text)) => give(text.as_bytes()),
                    // What a claim is not in words, it is in JSON.
                    Some(other) => give(other.to_string().as_bytes()),
                },
            }
        }
    }
}

/// The caller's plan: what a claim of its token says, or, where no claim is named, its key's.
#[must_use]
pub fn plan<'s>(seen: &'s Seen<'_>, claim: Option<&str>) -> Option<&'s str> {
    match claim {
        Some(path) => {
            let claims = seen.token.as_ref().map(|token| &token.claims);
            claims.and_then(|c| find(c, path)).and_then(Value::as_str)
        }
        None => seen.consumer.as_ref().and_then(|c| c.plan.as_deref()),
    }
}
