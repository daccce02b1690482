//! Test API server: who asks, what each may do, and reviews of tokens and of access.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::refusal::{Answer, Refusal};

/// Whom tokens without an audience are for.
pub const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// What a token says.
#[derive(Debug, Clone)]
pub struct Token {
    /// User name.
    pub user: String,
    /// Its unique name.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Whom it is for.
    pub audiences: Vec<String>,
    /// What else is known, such as `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Token {
    /// A token of a service account, for the API itself.
    #[must_use]
    pub fn of_account(namespace: &str, account: &str) -> Self {
        Self {
            user: format!("system:serviceaccount:{namespace}:{account}"),
            uid: format!("uid-of-{namespace}-{account}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            audiences: vec![API_AUDIENCE.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    /// For these audiences only.
    #[must_use]
    pub fn for_audiences(mut self, audiences: &[&str]) -> Self {
        self.audiences = audiences.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// Bound to a pod.
    #[must_use]
    pub fn of_pod(mut self, name: &str, uid: &str) -> Self {
        for (key, value) in [("pod-name", name), ("pod-uid", uid)] {
            let key = format!("authentication.kubernetes.io/{key}");
            self.extra.insert(key, vec![value.to_owned()]);
        }
        self
    }
}

/// A rule of access; `*` is everything.
#[derive(Debug, Clone)]
struct Rule {
    user: String,
    verb: String,
    resource: String,
    allowed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Access {
    tokens: BTreeMap<String, Token>,
    rules: Vec<Rule>,
}

impl Access {
    pub(super) fn add(&mut self, secret: &str, token: Token) {
        self.tokens.insert(secret.to_owned(), token);
    }

    pub(super) fn revoke(&mut self, secret: &str) {
        self.tokens.remove(secret);
    }

    /// A rule; the last that fits decides.
    pub(super) fn rule(&mut self, user: &str, verb: &str, resource: &str, allowed: bool) {
        self.rules.push(Rule {
            user: user.to_owned(),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            allowed,
        });
    }

    /// Who asks with this header.
    pub(super) fn user(&self, authorization: Option<&str>) -> Answer<Token> {
        let secret = authorization.and_then(|a| a.strip_prefix("Bearer "));
        let token = secret.and_then(|s| self.tokens.get(s.trim()));
        let ours = token.filter(|t| t.audiences.iter().any(|a| a == API_AUDIENCE));
        ours.cloned().ok_or_else(Refusal::unauthorized)
    }

    /// Whether a user may.
    pub(super) fn may(&self, user: &str, verb: &str, resource: &str) -> bool {
        let fits = |rule: &&Rule| {
            let one = |have: &str, is: &str| have == "*" || have == is;
            one(&rule.user, user) && one(&rule.verb, verb) && one(&rule.resource, resource)
        };
        self.rules
            .iter()
            .rev()
            .find(fits)
            .is_some_and(|rule| rule.allowed)
    }

    /// Answers a `TokenReview`.
    pub(super) fn review_token(&self, review: &Value) -> Answer<Value> {
        let secret = review["spec"]["token"].as_str().unwrap_or_default();
        if secret.is_empty() {
            return Err(Refusal::bad(
                "token is required for TokenReview in authentication",
            ));
        }
        let asked = review["spec"]["audiences"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut asked: Vec<&str> = asked.iter().filter_map(Value::as_str).collect();
        if asked.is_empty() {
            asked.push(API_AUDIENCE);
        }
        let mut answer = review.clone();
        answer["status"] = match self.tokens.get(secret) {
            None => json!({ "user": {}, "error": "[invalid bearer token, token lookup failed]" }),
            Some(token) => {
                let both: Vec<_> = asked
                    .iter()
                    .filter(|a| token.audiences.iter().any(|t| t == **a))
                    .collect();
                if both.is_empty() {
                    let error = format!(
                        "[invalid bearer token, token audiences {:?} is invalid for the target audiences {asked:?}]",
                        token.audiences
                    );
                    json!({ "user": {}, "error": error })
                } else {
                    let user = json!({
                        "username": token.user, "uid": token.uid,
                        "groups": token.groups, "extra": token.extra,
                    });
                    json!({ "authenticated": true, "user": user, "audiences": both })
                }
            }
        };
        Ok(answer)
    }

    /// Answers a `SelfSubjectAccessReview`.
    pub(super) fn review_access(&self, user: &Token, review: &Value) -> Answer<Value> {
        let asked = &review["spec"]["resourceAttributes"];
        if asked.is_null() {
            return Err(Refusal::bad(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
        let text = |field: &str| asked[field].as_str().unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            sub => format!("{}/{sub}", text("resource")),
        };
        let mut answer = review.clone();
        answer["status"] = json!({ "allowed": self.may(&user.user, text("verb"), &resource) });
        Ok(answer)
    }
}
