//! Injector: an AdmissionReview, read.

use serde::Deserialize;
use serde_json::Value;

/// Longest `uid` in bytes: a UUID has 36.
const UID: usize = 128;

/// Why a body is no review that can be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or not of the form of a review.
    #[error("not an AdmissionReview: {0}")]
    Form(String),
    /// Another version or kind.
    #[error("expected kind AdmissionReview of admission.k8s.io/v1")]
    Version,
    /// A question without its name cannot be answered.
    #[error("`request.uid` is missing, or longer than {UID} bytes, or not plain text")]
    Uid,
    /// A namespace whose name could not be one.
    #[error("`request.namespace` is no name of a namespace")]
    Namespace,
    /// Nothing to look at.
    #[error("`request.object` is missing")]
    Object,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Default, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    kind: String,
}

/// The question that an API server asks.
///
/// Whether it is a dry run is not read: an answer has no side effects, so there is nothing to leave out.
#[derive(Debug, Clone, PartialEq)]
pub struct Review {
    /// Its name, which the answer repeats.
    pub uid: String,
    /// The namespace that the object is for: pods often do not say themselves.
    pub namespace: String,
    /// Whether a pod is being created; nothing else gets a sidecar.
    pub creates_pod: bool,
    /// The object.
    pub object: Value,
}

impl Review {
    /// Reads a body. Its size is for the caller to bound; `serde_json` bounds its depth.
    ///
    /// # Errors
    /// [`Malformed`]: there is nobody to answer.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let read: Result<Envelope, _> = serde_json::from_slice(body);
        let envelope = read.map_err(|error| Malformed::Form(error.to_string()))?;
        if envelope.api_version != "admission.k8s.io/v1" || envelope.kind != "AdmissionReview" {
            return Err(Malformed::Version);
        }
        let missing = || Malformed::Form("`request` is missing".to_owned());
        let request = envelope.request.ok_or_else(missing)?;
        let plain = request.uid.bytes().all(|b| b.is_ascii_graphic());
        if request.uid.is_empty() || request.uid.len() > UID || !plain {
            return Err(Malformed::Uid);
        }
        // It becomes part of a path that others are asked by.
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if request.namespace.len() > 63 || !request.namespace.bytes().all(label) {
            return Err(Malformed::Namespace);
        }
        let kind = &request.kind;
        let is_pod = kind.group.is_empty() && kind.version == "v1" && kind.kind == "Pod";
        let creates_pod =
            is_pod && request.operation == "CREATE" && request.sub_resource.is_empty();
        if creates_pod && !request.object.is_object() {
            return Err(Malformed::Object);
        }
        Ok(Self {
            uid: request.uid,
            namespace: request.namespace,
            creates_pod,
            object: request.object,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: impl Fn(&mut Value)) -> Result<Review, Malformed> {
        let mut review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": { "group": "", "version": "v1", "kind": "Pod" },
                "namespace": "shop", "operation": "CREATE", "dryRun": true,
                "object": { "spec": { "containers": [] } },
                "userInfo": { "username": "admin" },
            },
        });
        change(&mut review);
        Review::parse(review.to_string().as_bytes())
    }

    #[test]
    fn a_review_is_read() {
        let review = parse(|_| {}).unwrap();
        assert_eq!(review.uid, "705ab4f5-6393-11e8-b7cc-42010a800002");
        assert_eq!(review.namespace, "shop");
        assert!(review.creates_pod);
        assert!(review.object.is_object());
    }

    #[test]
    fn what_is_no_new_pod_is_told_apart() {
        let changes: [fn(&mut Value); 5] = [
            |r| r["request"]["operation"] = json!("UPDATE"),
            |r| r["request"]["subResource"] = json!("status"),
            |r| r["request"]["kind"]["kind"] = json!("Service"),
            |r| r["request"]["kind"]["group"] = json!("apps"),
            |r| r["request"]["kind"] = json!({}),
        ];
        for change in changes {
            assert!(!parse(change).unwrap().creates_pod);
        }
        let gone = parse(|r| {
            r["request"]["operation"] = json!("DELETE");
            r["request"]["object"] = Value::Null;
        });
        assert!(!gone.unwrap().creates_pod);
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let form = |r: Result<Review, Malformed>| matches!(r, Err(Malformed::Form(_)));
        assert!(form(Review::parse(b"")));
        assert!(form(Review::parse(b"{\"apiVersion\": 1}")));
        assert!(form(Review::parse(&b"[".repeat(100_000))));
        assert!(form(parse(|r| r["request"] = Value::Null)));
        assert!(form(parse(|r| r["request"]["namespace"] = json!(["a"]))));
        let version = parse(|r| r["apiVersion"] = json!("admission.k8s.io/v1beta1"));
        assert_eq!(version, Err(Malformed::Version));
        assert_eq!(
            parse(|r| r["kind"] = json!("Review")),
            Err(Malformed::Version)
        );
        for uid in [
            json!(""),
            json!("a b"),
            json!("\u{7}"),
            json!("x".repeat(200)),
        ] {
            let read = parse(|r| r["request"]["uid"] = uid.clone());
            assert_eq!(read, Err(Malformed::Uid), "{uid}");
        }
        for namespace in ["a/b", "..", "A", "x?watch=1", &"x".repeat(64)] {
            let read = parse(|r| r["request"]["namespace"] = json!(namespace));
            assert_eq!(read, Err(Malformed::Namespace), "{namespace}");
        }
        assert_eq!(
            parse(|r| r["request"]["object"] = Value::Null),
            Err(Malformed::Object)
        );
    }
}
