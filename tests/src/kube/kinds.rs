//! Test API server: the kinds that it knows, what can be selected by, and what it refuses of each.

use serde_json::{Value, json};

use super::refusal::{Answer, Refusal};

/// One kind.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) name: &'static str,
    pub(super) namespaced: bool,
    /// Whether `status` is written apart from the rest.
    pub(super) status: bool,
    /// Whether it is stored: reviews are only answered.
    pub(super) stored: bool,
    /// What field selectors may name besides name and namespace, with where it stands.
    pub(super) fields: &'static [(&'static str, &'static str)],
}

const fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    name: &'static str,
) -> Kind {
    Kind {
        group,
        version,
        plural,
        name,
        namespaced: true,
        status: false,
        stored: true,
        fields: &[],
    }
}

/// Every kind.
pub(super) static KINDS: &[Kind] = &[
    Kind {
        namespaced: false,
        status: true,
        fields: &[("status.phase", "/status/phase")],
        ..kind("", "v1", "namespaces", "Namespace")
    },
    Kind {
        status: true,
        fields: &[
            ("spec.clusterIP", "/spec/clusterIP"),
            ("spec.type", "/spec/type"),
        ],
        ..kind("", "v1", "services", "Service")
    },
    Kind {
        status: true,
        fields: &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
        ],
        ..kind("", "v1", "pods", "Pod")
    },
    kind("", "v1", "configmaps", "ConfigMap"),
    Kind {
        fields: &[("type", "/type")],
        ..kind("", "v1", "secrets", "Secret")
    },
    kind("", "v1", "serviceaccounts", "ServiceAccount"),
    kind("", "v1", "events", "Event"),
    Kind {
        namespaced: false,
        status: true,
        ..kind("", "v1", "nodes", "Node")
    },
    kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    kind("coordination.k8s.io", "v1", "leases", "Lease"),
    Kind {
        namespaced: false,
        ..kind(
            "admissionregistration.k8s.io",
            "v1",
            "mutatingwebhookconfigurations",
            "MutatingWebhookConfiguration",
        )
    },
    Kind {
        namespaced: false,
        stored: false,
        ..kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
    },
    Kind {
        namespaced: false,
        stored: false,
        ..kind(
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
        )
    },
];

impl Kind {
    /// `apiVersion` of its objects.
    pub(super) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Its place in [`KINDS`].
    pub(super) fn index(&self) -> usize {
        let at = KINDS.iter().position(|k| std::ptr::eq(k, self));
        at.unwrap()
    }

    /// The kind of an object that names its own.
    ///
    /// # Panics
    /// When there is none such: a test that writes one is wrong.
    pub(super) fn of(object: &Value) -> &'static Self {
        let found = KINDS
            .iter()
            .find(|k| object["kind"] == k.name && object["apiVersion"] == json!(k.api_version()));
        found.unwrap_or_else(|| {
            panic!(
                "this server knows no {} {}",
                object["apiVersion"], object["kind"]
            )
        })
    }

    /// The kind of this plural name.
    ///
    /// # Panics
    /// When there is none.
    pub(super) fn called(plural: &str) -> &'static Self {
        let found = KINDS.iter().find(|k| k.plural == plural);
        found.unwrap_or_else(|| panic!("this server knows no {plural}"))
    }

    /// What an object must be, beyond being one.
    pub(super) fn check(&self, object: &Value, before: Option<&Value>) -> Answer<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let mut found: Vec<(&str, String)> = Vec::new();
        if !is_name(name) {
            found.push(("metadata.name", format!("Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'")));
        }
        match self.plural {
            "endpointslices" => check_slice(object, before, &mut found),
            "services" => check_service(object, &mut found),
            "configmaps" | "secrets"
                if before
                    .is_some_and(|b| b["immutable"] == true && b["data"] != object["data"]) =>
            {
                let why = "Forbidden: field is immutable when `immutable` is set";
                found.push(("data", why.into()));
            }
            "leases" => check_lease(object, &mut found),
            "mutatingwebhookconfigurations" => check_webhooks(object, &mut found),
            "pods"
                if object["spec"]["containers"]
                    .as_array()
                    .is_none_or(Vec::is_empty) =>
            {
                found.push(("spec.containers", "Required value".into()));
            }
            _ => {}
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(Refusal::invalid(&self.singular(), name, &found))
    }

    fn singular(&self) -> String {
        match self.group {
            "" => self.name.to_owned(),
            group => format!("{}.{group}", self.name),
        }
    }
}

fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && name.chars().all(inner)
        && outer(name.chars().next())
        && outer(name.chars().last())
}

fn check_slice(object: &Value, before: Option<&Value>, found: &mut Vec<(&str, String)>) {
    let kind = object["addressType"].as_str().unwrap_or_default();
    if !["IPv4", "IPv6", "FQDN"].contains(&kind) {
        found.push(("addressType", "Required value".into()));
    }
    if before.is_some_and(|b| b["addressType"] != object["addressType"]) {
        found.push(("addressType", "field is immutable".into()));
    }
    let count = |field: &str| object[field].as_array().map_or(0, Vec::len);
    if count("endpoints") > 1000 {
        found.push(("endpoints", "Too many: must have at most 1000 items".into()));
    }
    if count("ports") > 100 {
        found.push(("ports", "Too many: must have at most 100 items".into()));
    }
    let endpoints = object["endpoints"].as_array().into_iter().flatten();
    for endpoint in endpoints {
        let addresses = endpoint["addresses"].as_array().map_or(0, Vec::len);
        if !(1..=100).contains(&addresses) {
            found.push(("endpoints.addresses", "Required value".into()));
        }
    }
}

fn check_service(object: &Value, found: &mut Vec<(&str, String)>) {
    let spec = &object["spec"];
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    let external = spec["type"] == "ExternalName";
    if ports == 0 && !external && spec["clusterIP"] != "None" {
        found.push(("spec.ports", "Required value".into()));
    }
    if external && spec["externalName"].as_str().is_none_or(str::is_empty) {
        found.push(("spec.externalName", "Required value".into()));
    }
    let each = spec["ports"].as_array().into_iter().flatten();
    for port in each {
        if !port["port"]
            .as_u64()
            .is_some_and(|p| (1..=65_535).contains(&p))
        {
            found.push((
                "spec.ports.port",
                "must be between 1 and 65535, inclusive".into(),
            ));
        }
        if ports > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            found.push(("spec.ports.name", "Required value".into()));
        }
    }
}

fn check_lease(object: &Value, found: &mut Vec<(&str, String)>) {
    let spec = &object["spec"];
    let seconds = &spec["leaseDurationSeconds"];
    if !seconds.is_null() && seconds.as_i64().is_none_or(|s| s <= 0) {
        found.push(("spec.leaseDurationSeconds", "must be greater than 0".into()));
    }
    let turns = &spec["leaseTransitions"];
    if !turns.is_null() && turns.as_i64().is_none_or(|s| s < 0) {
        found.push((
            "spec.leaseTransitions",
            "must be greater than or equal to 0".into(),
        ));
    }
    for field in ["acquireTime", "renewTime"] {
        let time = &spec[field];
        if !time.is_null()
            && time
                .as_str()
                .is_none_or(|t| t.parse::<jiff::Timestamp>().is_err())
        {
            found.push(("spec", format!("{field}: not a time")));
        }
    }
}

fn check_webhooks(object: &Value, found: &mut Vec<(&str, String)>) {
    let each = object["webhooks"].as_array().into_iter().flatten();
    for webhook in each {
        if webhook["name"]
            .as_str()
            .is_none_or(|n| n.split('.').count() < 3)
        {
            found.push((
                "webhooks.name",
                "should be a domain with at least three segments separated by dots".into(),
            ));
        }
        let effects = webhook["sideEffects"].as_str().unwrap_or_default();
        if !["None", "NoneOnDryRun"].contains(&effects) {
            found.push((
                "webhooks.sideEffects",
                "must specify one of None, NoneOnDryRun".into(),
            ));
        }
        if webhook["admissionReviewVersions"]
            .as_array()
            .is_none_or(Vec::is_empty)
        {
            found.push(("webhooks.admissionReviewVersions", "Required value".into()));
        }
        let client = &webhook["clientConfig"];
        if client["url"].is_null() == client["service"].is_null() {
            found.push((
                "webhooks.clientConfig",
                "exactly one of url or service is required".into(),
            ));
        }
    }
}
