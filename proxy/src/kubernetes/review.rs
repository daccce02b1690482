//! CA: whom a token of a service account belongs to, by the API's TokenReview.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use selvedge_ca::review::{Reviewed, Vouched};
use selvedge_ca::{Account, ReviewError, Reviewer};
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest wait for the API, with the wait for a place.
const ASK: Duration = Duration::from_secs(5);
/// Questions at a time.
const QUESTIONS: usize = 32;
/// The group that every service account is in.
const ACCOUNTS: &str = "system:serviceaccounts";

/// See the module.
#[derive(Clone)]
pub struct TokenReviewer {
    reviews: Api<TokenReview>,
    audience: String,
    trust_domain: TrustDomain,
    places: Arc<Semaphore>,
}

impl fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenReviewer({})", self.audience)
    }
}

impl TokenReviewer {
    /// Accepts tokens that were made for `audience`, and no others.
    #[must_use]
    pub fn new(client: Client, audience: String, trust_domain: TrustDomain) -> Self {
        Self {
            reviews: Api::all(client),
            audience,
            trust_domain,
            places: Arc::new(Semaphore::new(QUESTIONS)),
        }
    }

    async fn ask(&self, token: &str) -> Result<SpiffeId, ReviewError> {
        let _place = self.places.acquire().await;
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.audience.clone()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let answer = self.reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| ReviewError::Unavailable(error.to_string()))?;
        let account = account(answer.status.unwrap_or_default(), &self.audience)?;
        account
            .id(&self.trust_domain)
            .ok_or(ReviewError::NoAccount(account.name))
    }
}

impl Reviewer for TokenReviewer {
    fn review<'a>(&'a self, token: &'a str) -> Reviewed<'a> {
        Box::pin(async {
            let asked = timeout(ASK, self.ask(token)).await;
            let id = asked
                .unwrap_or_else(|_| Err(ReviewError::Unavailable("no answer in 5 s".into())))?;
            Ok(Vouched {
                id,
                by: "service-account",
            })
        })
    }
}

/// Whom an answer names. An API server that does not know of audiences names none: then the token may
/// be anybody's for anything, and is not accepted.
fn account(status: TokenReviewStatus, audience: &str) -> Result<Account, ReviewError> {
    let refused = |why: &str| ReviewError::Refused(why.to_owned());
    if let Some(error) = status.error.filter(|error| !error.is_empty()) {
        return Err(refused(&error));
    }
    if status.authenticated != Some(true) {
        return Err(refused("not authenticated"));
    }
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|a| a == audience) {
        return Err(refused("it was made for another audience"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let is_account = user.groups.iter().flatten().any(|group| group == ACCOUNTS);
    let account = Account::of_user(&name).filter(|_| is_account);
    account.ok_or(ReviewError::NoAccount(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(change: impl Fn(&mut Value)) -> Result<Account, ReviewError> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["selvedge-ca"],
            "user": {
                "username": "system:serviceaccount:shop:web",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:shop"],
                "extra": { "authentication.kubernetes.io/pod-name": ["web-1"] },
            },
        });
        change(&mut status);
        account(serde_json::from_value(status).unwrap(), "selvedge-ca")
    }

    #[test]
    fn an_account_is_named_by_an_answer_without_any_doubt() {
        let account = told(|_| {}).unwrap();
        assert_eq!((&*account.namespace, &*account.name), ("shop", "web"));
        let refused: [fn(&mut Value); 5] = [
            |s| s["authenticated"] = json!(false),
            |s| s["authenticated"] = Value::Null,
            |s| s["error"] = json!("expired"),
            |s| s["audiences"] = Value::Null,
            |s| s["audiences"] = json!(["https://kubernetes.default.svc"]),
        ];
        for change in refused {
            assert!(matches!(told(change), Err(ReviewError::Refused(_))));
        }
        let nobody: [fn(&mut Value); 4] = [
            |s| s["user"]["username"] = json!("system:admin"),
            |s| s["user"]["groups"] = json!(["system:masters"]),
            |s| s["user"]["groups"] = Value::Null,
            |s| s["user"] = Value::Null,
        ];
        for change in nobody {
            assert!(matches!(told(change), Err(ReviewError::NoAccount(_))));
        }
    }
}
