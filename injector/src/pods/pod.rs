//! Injector: a pod, taken apart as far as a sidecar concerns it, and put together again.

use serde_json::{Map, Value};

/// Most containers, init containers and volumes, each: what is rendered grows with them.
const MOST: usize = 256;

/// What is wrong with a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// It is none.
    #[error("`{0}` is not what a pod has there")]
    Shape(&'static str),
    /// A list of it is longer than any node could run.
    #[error("`{0}` has more than {MOST} entries")]
    Many(&'static str),
    /// It cannot have a sidecar in this way.
    #[error("{0}")]
    Unfit(String),
}

/// A pod, or the template of one. What is `None` was not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    rest: Map<String, Value>,
    spec: Map<String, Value>,
    /// `metadata` without its annotations.
    pub metadata: Option<Map<String, Value>>,
    /// `metadata.annotations`.
    pub annotations: Option<Map<String, Value>>,
    /// `spec.containers`.
    pub containers: Vec<Value>,
    /// `spec.initContainers`.
    pub inits: Option<Vec<Value>>,
    /// `spec.volumes`.
    pub volumes: Option<Vec<Value>>,
}

fn map(
    from: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Option<Map<String, Value>>, PodError> {
    match from.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(PodError::Shape(key)),
    }
}

fn list(from: &mut Map<String, Value>, key: &'static str) -> Result<Option<Vec<Value>>, PodError> {
    match from.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) if list.len() > MOST => Err(PodError::Many(key)),
        Some(Value::Array(list)) if list.iter().all(Value::is_object) => Ok(Some(list)),
        Some(_) => Err(PodError::Shape(key)),
    }
}

impl Pod {
    /// Takes an object with a `spec` of containers apart.
    ///
    /// # Errors
    /// [`PodError::Shape`].
    pub fn new(object: &Value) -> Result<Self, PodError> {
        let mut rest = object
            .as_object()
            .ok_or(PodError::Shape("the object"))?
            .clone();
        let mut spec = map(&mut rest, "spec")?.ok_or(PodError::Shape("spec"))?;
        let mut metadata = map(&mut rest, "metadata")?;
        let annotations = match &mut metadata {
            Some(metadata) => map(metadata, "annotations")?,
            None => None,
        };
        let texts = annotations
            .iter()
            .flatten()
            .all(|(_, value)| value.is_string());
        if !texts {
            return Err(PodError::Shape("metadata.annotations"));
        }
        Ok(Self {
            containers: list(&mut spec, "containers")?.ok_or(PodError::Shape("spec.containers"))?,
            inits: list(&mut spec, "initContainers")?,
            volumes: list(&mut spec, "volumes")?,
            metadata,
            annotations,
            spec,
            rest,
        })
    }

    /// Puts it together.
    #[must_use]
    pub fn into_value(self) -> Value {
        let Self {
            mut rest,
            mut spec,
            metadata,
            annotations,
            containers,
            inits,
            volumes,
        } = self;
        spec.insert("containers".to_owned(), containers.into());
        for (key, list) in [("initContainers", inits), ("volumes", volumes)] {
            if let Some(list) = list {
                spec.insert(key.to_owned(), list.into());
            }
        }
        rest.insert("spec".to_owned(), spec.into());
        if metadata.is_some() || annotations.is_some() {
            let mut metadata = metadata.unwrap_or_default();
            if let Some(annotations) = annotations {
                metadata.insert("annotations".to_owned(), annotations.into());
            }
            rest.insert("metadata".to_owned(), metadata.into());
        }
        Value::Object(rest)
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name)?.as_str()
    }

    /// The user or group (`runAsUser`, `runAsGroup`) that a container runs as, if anybody says so.
    #[must_use]
    pub fn runs_as(&self, container: &Value, key: &str) -> Option<u64> {
        let own = container.get("securityContext").and_then(|c| c.get(key));
        let around = self.spec.get("securityContext").and_then(|c| c.get(key));
        own.or(around)?.as_u64()
    }
}

/// The name of a container, volume or variable.
#[must_use]
pub fn name(of: &Value) -> &str {
    of.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_taken_apart_is_put_together_again() {
        for pod in [
            json!({ "spec": { "containers": [] } }),
            json!({
                "kind": "Pod",
                "metadata": { "name": "a", "annotations": { "b": "c" } },
                "spec": {
                    "containers": [{ "name": "x" }], "initContainers": [], "volumes": [{ "name": "v" }],
                    "dnsPolicy": "Default",
                },
                "status": {},
            }),
            json!({ "metadata": {}, "spec": { "containers": [{}] } }),
        ] {
            assert_eq!(Pod::new(&pod).unwrap().into_value(), pod);
        }
        for bad in [
            json!(1),
            json!({}),
            json!({ "spec": {} }),
            json!({ "spec": { "containers": {} } }),
            json!({ "spec": { "containers": [1] } }),
            json!({ "metadata": [], "spec": { "containers": [] } }),
            json!({ "spec": { "containers": vec![json!({}); MOST + 1] } }),
            json!({ "metadata": { "annotations": { "a": 1 } }, "spec": { "containers": [] } }),
        ] {
            assert!(Pod::new(&bad).is_err(), "{bad}");
        }
    }
}
