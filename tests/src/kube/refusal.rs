//! Test API server: what it says when it refuses, as the `Status` objects that clients look at.

use serde_json::{Value, json};

/// A refusal: becomes a `Status`.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Why, field by field: reason, message, field.
    pub(super) causes: Vec<(&'static str, String, String)>,
}

pub(super) type Answer<T> = Result<T, Refusal>;

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            causes: Vec::new(),
        }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(super) fn not_found(plural: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{plural} \"{name}\" not found"))
    }

    pub(super) fn no_such_resource() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    pub(super) fn conflict(plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {plural} \"{name}\": {why}");
        Self::new(409, "Conflict", message)
    }

    pub(super) fn stale(plural: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(plural, name, why)
    }

    pub(super) fn expired(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", message)
    }

    /// An object with fields that cannot be.
    pub(super) fn invalid(kind: &str, name: &str, found: &[(&str, String)]) -> Self {
        let said: Vec<_> = found.iter().map(|(f, m)| format!("{f}: {m}")).collect();
        let message = format!("{kind} \"{name}\" is invalid: {}", said.join(", "));
        let mut this = Self::new(422, "Invalid", message);
        this.causes = found
            .iter()
            .map(|(field, message)| ("FieldValueInvalid", message.clone(), (*field).to_owned()))
            .collect();
        this
    }

    /// As an object.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|(reason, message, field)| {
                json!({ "reason": reason, "message": message, "field": field })
            });
            status["details"] = json!({ "causes": causes.collect::<Vec<_>>() });
        }
        status
    }
}
