//! Injector: a review, decided and answered.

use json_patch::Patch;
use serde_json::{Value, json};

use crate::pods::decide::Skip;
use crate::pods::settings::Settings;
use crate::pods::workload::{self, Namespace, Outcome, Refusal};

use super::patch;
use super::review::Review;

/// Longest warning in bytes: the API server may cut what is longer than 256.
const WARNING: usize = 250;
/// Most warnings of one answer: the API server keeps 4 KiB of them.
const WARNINGS: usize = 15;
/// Longest reason of a refusal in bytes.
const REASON: usize = 2048;

/// What was decided, for metrics and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod gets its sidecar.
    Injected,
    /// It has it already, as it is to be.
    Unchanged,
    /// It is left alone.
    Skipped(Skip),
    /// No pod is created.
    NotAPod,
    /// It must not run as it is.
    Refused(String),
}

impl Verdict {
    /// Outcomes with their reasons, as labels: every pair that [`Self::labels`] gives.
    #[must_use]
    pub fn all_labels() -> Vec<(&'static str, &'static str)> {
        let skips = Skip::ALL.map(|skip| ("skipped", skip.label()));
        let rest = [
            ("injected", ""),
            ("unchanged", ""),
            ("skipped", "not_a_new_pod"),
            ("refused", "pod"),
        ];
        rest.into_iter().chain(skips).collect()
    }

    /// Outcome and reason, as labels.
    #[must_use]
    pub const fn labels(&self) -> (&'static str, &'static str) {
        match self {
            Self::Injected => ("injected", ""),
            Self::Unchanged => ("unchanged", ""),
            Self::Skipped(skip) => ("skipped", skip.label()),
            Self::NotAPod => ("skipped", "not_a_new_pod"),
            Self::Refused(_) => ("refused", "pod"),
        }
    }
}

/// What the API server is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The body: an AdmissionReview with a response.
    pub body: Value,
    /// What was decided.
    pub verdict: Verdict,
}

/// Answers a review. `namespace` is what is known of the pod's namespace.
///
/// The same question has the same answer, dry run or not.
#[must_use]
pub fn answer(settings: &Settings, review: Review, namespace: &Namespace) -> Answer {
    let uid = &review.uid;
    if !review.creates_pod {
        return allowed(uid, None, &[], Verdict::NotAPod);
    }
    // Its upkeep is the API server's own, and nothing is changed in it: it only costs.
    let mut before = review.object;
    if let Some(metadata) = before.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let outcome = workload::inject(settings, Some(namespace), &before, &workload::configuration);
    match outcome {
        Ok(Outcome::Skipped(skip)) => allowed(uid, None, &[], Verdict::Skipped(skip)),
        Ok(Outcome::Injected { pod, warnings }) => match patch::between(before, pod) {
            None => allowed(uid, None, &warnings, Verdict::Unchanged),
            Some(patch) => allowed(uid, Some(&patch), &warnings, Verdict::Injected),
        },
        Err(refusal) => refused(uid, &refusal),
    }
}

fn allowed(uid: &str, patch: Option<&Patch>, warnings: &[String], verdict: Verdict) -> Answer {
    let (outcome, reason) = verdict.labels();
    let said = match reason {
        "" => outcome.to_owned(),
        reason => format!("{outcome}: {reason}"),
    };
    let mut response = json!({
        "uid": uid,
        "allowed": true,
        "auditAnnotations": { "sidecar": said },
    });
    // Both or neither: an answer with one of them fails the call.
    if let Some(patch) = patch {
        let written = serde_json::to_vec(patch).unwrap_or_default();
        response["patch"] = base64(&written).into();
        response["patchType"] = "JSONPatch".into();
    }
    let warnings = warnings.iter().take(WARNINGS).map(|w| cut(w, WARNING));
    let warnings: Vec<&str> = warnings.collect();
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    Answer {
        body: envelope(response),
        verdict,
    }
}

fn refused(uid: &str, refusal: &Refusal) -> Answer {
    let reason = format!("selvedge: {refusal}");
    let reason = cut(&reason, REASON);
    let response = json!({
        "uid": uid,
        "allowed": false,
        "status": { "code": 400, "reason": "BadRequest", "message": reason },
        "auditAnnotations": { "sidecar": "refused" },
    });
    Answer {
        body: envelope(response),
        verdict: Verdict::Refused(reason.to_owned()),
    }
}

fn envelope(response: Value) -> Value {
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

/// The beginning of a text, not longer than this in bytes.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn namespace(label: Option<&str>) -> Namespace {
        let labels = label.map(|l| ("selvedge.dev/inject".to_owned(), l.to_owned()));
        Namespace {
            name: "shop".to_owned(),
            labels: labels.into_iter().collect(),
            annotations: BTreeMap::new(),
        }
    }

    fn review(object: Value) -> Review {
        Review {
            uid: "u-1".to_owned(),
            namespace: "shop".to_owned(),
            creates_pod: true,
            object,
        }
    }

    fn pod() -> Value {
        json!({
            "metadata": { "managedFields": [{ "manager": "kubectl" }] },
            "spec": { "containers": [{ "name": "web", "image": "web:1" }] },
        })
    }

    fn applied(object: &Value, answer: &Answer) -> Value {
        use base64::Engine;
        let response = &answer.body["response"];
        let text = response["patch"].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        let patch: Patch = serde_json::from_slice(&bytes.unwrap()).unwrap();
        assert_eq!(response["patchType"], "JSONPatch");
        let mut object = object.clone();
        json_patch::patch(&mut object, &patch).unwrap();
        object
    }

    #[test]
    fn a_pod_gets_its_sidecar_once() {
        let settings = Settings::default();
        let first = answer(&settings, review(pod()), &namespace(Some("enabled")));
        assert_eq!(first.verdict, Verdict::Injected);
        assert_eq!(first.body["response"]["uid"], "u-1");
        assert_eq!(first.body["response"]["allowed"], true);
        let injected = applied(&pod(), &first);
        assert_eq!(
            injected["metadata"]["managedFields"][0]["manager"],
            "kubectl"
        );
        assert_eq!(
            injected["spec"]["initContainers"][1]["name"],
            "selvedge-proxy"
        );
        let again = answer(&settings, review(injected), &namespace(Some("enabled")));
        assert_eq!(again.verdict, Verdict::Unchanged);
        assert!(again.body["response"].get("patch").is_none());
        assert!(again.body["response"].get("patchType").is_none());
    }

    #[test]
    fn what_is_left_alone_is_allowed() {
        let settings = Settings::default();
        let skipped = answer(&settings, review(pod()), &namespace(None));
        assert_eq!(skipped.verdict, Verdict::Skipped(Skip::NotEnabled));
        assert_eq!(skipped.body["response"]["allowed"], true);
        assert!(skipped.body["response"].get("patch").is_none());
        let mut other = review(json!(null));
        other.creates_pod = false;
        let other = answer(&settings, other, &namespace(Some("enabled")));
        assert_eq!(other.verdict, Verdict::NotAPod);
        assert_eq!(other.body["response"]["allowed"], true);
    }

    #[test]
    fn what_must_not_run_is_refused_with_its_reason() {
        let mut bad = pod();
        bad["metadata"]["annotations"] = json!({ "selvedge.dev/skip-inbound-ports": "all" });
        let refused = answer(
            &Settings::default(),
            review(bad),
            &namespace(Some("enabled")),
        );
        let response = &refused.body["response"];
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains("skip-inbound-ports"), "{message}");
        assert!(matches!(refused.verdict, Verdict::Refused(_)));
    }

    #[test]
    fn warnings_are_bounded() {
        let mut said = pod();
        for n in 0..40 {
            let name = format!("selvedge.dev/{}{n}", "é".repeat(200));
            said["metadata"]["annotations"][name] = json!("x");
        }
        let warned = answer(
            &Settings::default(),
            review(said),
            &namespace(Some("enabled")),
        );
        let warnings = warned.body["response"]["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), WARNINGS);
        assert!(
            warnings
                .iter()
                .all(|w| w.as_str().unwrap().len() <= WARNING)
        );
    }

    #[test]
    fn every_verdict_has_its_labels() {
        let all = Verdict::all_labels();
        let mut verdicts = vec![
            Verdict::Injected,
            Verdict::Unchanged,
            Verdict::NotAPod,
            Verdict::Refused(String::new()),
        ];
        verdicts.extend(Skip::ALL.map(Verdict::Skipped));
        assert_eq!(verdicts.len(), all.len());
        assert!(verdicts.iter().all(|v| all.contains(&v.labels())));
    }
}
