//! Injector: streams of YAML documents, as `kubectl` takes them. What is none of ours passes byte for
//! byte.

use serde_json::{Value, json};

use super::options::{INJECT, Options};
use super::settings::Settings;
use super::workload::{Outcome, inject, template_of, uninject};

/// Bytes of a stream.
pub const STREAM: usize = 32 << 20;

/// What is done to pods.
#[derive(Clone, Copy)]
pub enum Work<'a> {
    /// They get the label by which the cluster's injector gives them a sidecar.
    Label,
    /// They get their sidecar here.
    Render {
        /// The installation.
        settings: &'a Settings,
        /// Makes a sidecar's configuration.
        configure: &'a dyn Fn(&Settings, &Options) -> Value,
    },
    /// They lose label and sidecar.
    Remove,
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Label => "Label",
            Self::Render { .. } => "Render",
            Self::Remove => "Remove",
        })
    }
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `deployment/web`.
    pub object: String,
    /// `injected`, or why not.
    pub said: String,
    /// It is refused: nothing of the stream should be used.
    pub refused: bool,
}

/// A stream, and what became of each object with pods in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stream {
    /// The stream.
    pub text: String,
    /// In order.
    pub reports: Vec<Report>,
}

/// Works on every document of a stream.
///
/// # Errors
/// The first document that cannot be read, with its line.
pub fn process(text: &str, work: Work<'_>) -> Result<Stream, String> {
    if text.len() > STREAM {
        return Err(format!("longer than {STREAM} bytes"));
    }
    let mut stream = Stream::default();
    for (line, document) in documents(text) {
        let changed = match read(document) {
            Ok(Some(mut object)) => {
                let changed = object_of(&mut object, work, &mut stream.reports);
                changed.then_some(object)
            }
            // Comments, or nothing.
            Ok(None) => None,
            Err(error) => return Err(format!("the document in line {line}: {error}")),
        };
        match changed {
            None => stream.text.push_str(document),
            Some(object) if !is_kept(document, &object) => {
                return Err(format!(
                    "the document in line {line}: it has tags or numbers that would not stay as they are"
                ));
            }
            Some(object) => {
                if document.starts_with("---") {
                    stream.text.push_str("---\n");
                }
                let written = serde_saphyr::to_string(&object);
                stream
                    .text
                    .push_str(&written.map_err(|error| error.to_string())?);
            }
        }
    }
    Ok(stream)
}

/// Documents with the line in which each begins; what parts them belongs to the one that follows.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut starts = vec![(1, 0)];
    let mut at = 0;
    // Directives stand before the mark of their own document.
    let mut directives = false;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---").filter(|_| !directives);
        directives = line.starts_with('%') || (directives && !line.starts_with("---"));
        if at > 0
            && marker
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\n', '\r', '\t']))
        {
            starts.push((index + 1, at));
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).map(|(_, at)| *at).chain([text.len()]);
    let pairs = starts.iter().zip(ends);
    pairs
        .filter_map(|((line, start), end)| Some((*line, text.get(*start..end)?)))
        .collect()
}

fn read(document: &str) -> Result<Option<Value>, String> {
    let meaning = document.lines().any(|line| {
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line == "---")
    });
    if !meaning {
        return Ok(None);
    }
    // `0400` is a file's mode, as the cluster reads it.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let value: Value =
        serde_saphyr::from_str_with_options(document, options).map_err(|e| e.to_string())?;
    Ok((!value.is_null()).then_some(value))
}

/// Whether writing an object anew says what it said: tags and numbers that JSON has not would be lost.
fn is_kept(document: &str, object: &Value) -> bool {
    fn plain(value: &Value) -> bool {
        match value {
            Value::Number(number) => {
                number.is_i64()
                    || number.is_u64()
                    || number.as_f64().is_some_and(|n| n.abs() < 1e15)
            }
            Value::Array(list) => list.iter().all(plain),
            Value::Object(map) => map.values().all(plain),
            _ => true,
        }
    }
    !document.contains("!!") && plain(object)
}

/// Works on an object, and on those of a list; tells whether anything has changed.
fn object_of(object: &mut Value, work: Work<'_>, reports: &mut Vec<Report>) -> bool {
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if kind == "List" {
        let Some(Value::Array(items)) = object.get_mut("items") else {
            return false;
        };
        let mut changed = false;
        for item in items {
            changed |= object_of(item, work, reports);
        }
        return changed;
    }
    let Some(place) = template_of(&kind) else {
        return false;
    };
    let name = object
        .pointer("/metadata/name")
        .or_else(|| object.pointer("/metadata/generateName"));
    let name = name.and_then(Value::as_str).unwrap_or("?").to_owned();
    let report = |said: String, refused| Report {
        object: format!("{}/{name}", kind.to_ascii_lowercase()),
        said,
        refused,
    };
    let Some(template) = object.pointer_mut(place) else {
        reports.push(report(format!("nothing at `{place}`"), true));
        return false;
    };
    let (after, said, refused) = one(template, work);
    let changed = after.as_ref().is_some_and(|after| after != template);
    if let Some(after) = after {
        *template = after;
    }
    reports.push(report(said, refused));
    changed
}

/// Works on one pod: what it becomes, what is said of that, and whether it is refused.
fn one(pod: &Value, work: Work<'_>) -> (Option<Value>, String, bool) {
    match work {
        Work::Label => match label(pod, Some("enabled")) {
            Some(pod) => (Some(pod), "labelled".to_owned(), false),
            None => (None, "its metadata is not that of a pod".to_owned(), true),
        },
        Work::Render {
            settings,
            configure,
        } => match inject(settings, None, pod, configure) {
            Ok(Outcome::Injected { pod, warnings }) => {
                let told: Vec<String> =
                    warnings.iter().map(|w| format!("; warning: {w}")).collect();
                (Some(pod), format!("injected{}", told.concat()), false)
            }
            Ok(Outcome::Skipped(skip)) => (
                None,
                format!("skipped ({}): {}", skip.label(), skip.text()),
                false,
            ),
            Err(refusal) => (None, format!("refused: {refusal}"), true),
        },
        Work::Remove => match uninject(pod) {
            Ok(without) => {
                let had = without.is_some();
                let bare = label(without.as_ref().unwrap_or(pod), None);
                let said = match (had, bare.as_ref() == Some(pod)) {
                    (true, _) => "uninjected",
                    (false, false) => "label removed",
                    (false, true) => "had nothing of ours",
                };
                (bare.or(without), said.to_owned(), false)
            }
            Err(error) => (None, format!("refused: {error}"), true),
        },
    }
}

/// A pod with our label, or without it.
fn label(pod: &Value, value: Option<&str>) -> Option<Value> {
    let mut pod = pod.clone();
    let object = pod.as_object_mut()?;
    let there = object
        .get("metadata")
        .is_some_and(|m| m.get("labels").is_some());
    if value.is_none() && !there {
        return Some(pod);
    }
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut()?;
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    let labels = labels.as_object_mut()?;
    match value {
        Some(value) => {
            labels.insert(INJECT.to_owned(), value.into());
        }
        None => {
            // Who says no goes on saying it.
            let had = labels.get(INJECT).is_some_and(|said| said == "enabled");
            if had {
                labels.remove(INJECT);
            }
            if had && labels.is_empty() {
                metadata.remove("labels");
            }
            if had && metadata.is_empty() {
                object.remove("metadata");
            }
        }
    }
    Some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "# a comment
apiVersion: v1
kind: Service # stays: as it is
metadata: {name:   web}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    spec:
      containers:
        - name: app
          image: app:1
---
# nothing
---
apiVersion: v1
kind: List
items:
  - kind: CronJob
    metadata: { name: night }
    spec: { jobTemplate: { spec: { template: { spec: { containers: [{ name: app }] } } } } }
  - kind: ConfigMap
    data: { a: b }
  - kind: Pod
    metadata: { generateName: host- }
    spec: { hostNetwork: true, containers: [] }
";

    fn rendered(text: &str) -> Stream {
        let settings = Settings::default();
        let configure = |_: &Settings, _: &Options| json!({});
        let work = Work::Render {
            settings: &settings,
            configure: &configure,
        };
        process(text, work).unwrap()
    }

    fn said(stream: &Stream) -> Vec<String> {
        let reports = stream.reports.iter();
        reports
            .map(|r| format!("{} {}", r.object, r.said))
            .collect()
    }

    #[test]
    fn streams_are_worked_on_and_the_rest_passes() {
        let once = rendered(STREAM);
        assert_eq!(
            said(&once),
            [
                "deployment/web injected",
                "cronjob/night injected",
                "pod/host- skipped (host_network): it uses the network of its node",
            ]
        );
        let (service, _) = STREAM.split_once("---\n").unwrap();
        assert!(once.text.starts_with(service), "{}", once.text);
        assert!(once.text.contains("---\n# nothing\n---\n"));
        assert_eq!(rendered(&once.text).text, once.text);
        let back = process(&once.text, Work::Remove).unwrap();
        let values = |text: &str| -> Vec<Option<Value>> {
            documents(text)
                .iter()
                .map(|(_, d)| read(d).unwrap())
                .collect()
        };
        assert_eq!(values(&back.text), values(STREAM));
    }

    #[test]
    fn labels_come_and_go() {
        let labelled = process(STREAM, Work::Label).unwrap();
        assert_eq!(
            labelled
                .text
                .matches("selvedge.dev/inject: enabled")
                .count(),
            3
        );
        assert_eq!(
            process(&labelled.text, Work::Label).unwrap().text,
            labelled.text
        );
        let back = process(&labelled.text, Work::Remove).unwrap();
        assert!(!back.text.contains("selvedge.dev"), "{}", back.text);
        let untouched = process(STREAM, Work::Remove).unwrap();
        assert_eq!(untouched.text, STREAM);
    }

    #[test]
    fn modes_and_directives_stay_what_they_are() {
        let text = "%YAML 1.1\n---\nkind: Pod\nspec: { containers: [], volumes: [{ name: s, secret: { defaultMode: 0400 } }] }\n";
        let labelled = process(text, Work::Label).unwrap();
        assert!(
            labelled.text.contains("defaultMode: 256"),
            "{}",
            labelled.text
        );
        for odd in ["a: !!binary aGVsbG8=", "a: 12345678901234567890123"] {
            let text = format!("kind: Pod\nspec: {{ containers: [] }}\n{odd}\n");
            assert!(process(&text, Work::Label).is_err(), "{odd}");
            let other = format!("kind: Secret\n{odd}\n");
            assert_eq!(process(&other, Work::Label).unwrap().text, other);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        let error = process("kind: A\n---\nkind: [\n", Work::Label).unwrap_err();
        assert!(error.starts_with("the document in line 2:"), "{error}");
        let refused = rendered("kind: Deployment\nmetadata: { name: x }\nspec: {}\n");
        assert!(refused.reports[0].refused);
    }
}
