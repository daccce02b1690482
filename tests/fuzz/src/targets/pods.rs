//! Injector: reviews that an API server may send, and streams of documents that people may pipe.

use base64::Engine;
use selvedge_injector::admission::{Review, Verdict, answer};
use selvedge_injector::pods::settings::Settings;
use selvedge_injector::pods::stream::{Work, process};
use selvedge_injector::pods::workload::{Namespace, configuration};
use serde_json::Value;

/// A review is answered with its own name; a patch applies, and leaves nothing to do.
pub(crate) fn review(input: &[u8]) {
    let Ok(review) = Review::parse(input) else {
        return;
    };
    let settings = Settings::default();
    let namespace = Namespace {
        name: "shop".to_owned(),
        labels: [("selvedge.dev/inject".to_owned(), "enabled".to_owned())].into(),
        ..Namespace::default()
    };
    let object = review.object.clone();
    let told = answer(&settings, review.clone(), &namespace);
    let response = &told.body["response"];
    assert_eq!(response["uid"], *review.uid);
    assert_eq!(
        response["allowed"],
        !matches!(told.verdict, Verdict::Refused(_))
    );
    let Some(patch) = response["patch"].as_str() else {
        assert_eq!(response.get("patchType"), None);
        return;
    };
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = base64::engine::general_purpose::STANDARD
        .decode(patch)
        .unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut after = object;
    json_patch::patch(&mut after, &patch).unwrap();
    let again = Review {
        object: after,
        ..review
    };
    let told = answer(&settings, again, &namespace);
    assert_eq!(told.verdict, Verdict::Unchanged, "{}", told.body);
}

/// What has been worked on stays as it is when it is worked on again.
pub(crate) fn manifests(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let settings = Settings::default();
    let render = Work::Render {
        settings: &settings,
        configure: &configuration,
    };
    for work in [render, Work::Label, Work::Remove] {
        let Ok(once) = process(&text, work) else {
            continue;
        };
        if once.reports.iter().any(|report| report.refused) {
            continue;
        }
        let twice = process(&once.text, work);
        let twice = twice.unwrap_or_else(|error| panic!("{work:?}: {error}\n{}", once.text));
        assert_eq!(twice.text, once.text, "{work:?}");
        let _: Vec<Value> = serde_saphyr::from_multiple(&once.text).unwrap_or_default();
    }
}
