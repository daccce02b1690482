//! The Helm chart, for the value sets of `deploy/chart/ci`, and the plain manifests that are rendered from
//! it. `SELVEDGE_WRITE=1` writes what is expected anew, to be read before it is committed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use selvedge_injector::pods::settings::Settings;
use selvedge_tests::process::binary;
use selvedge_tests::python::judge;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where `.ci/run` puts it, step `helm`.
fn helm_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/test
    let helm = test.ancestors().nth(3).unwrap().join("helm/helm");
    assert!(
        helm.exists(),
        "{} is missing: `.ci/run` installs it",
        helm.display()
    );
    helm
}

fn helm(arguments: &[&str]) -> Output {
    Command::new(helm_binary())
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap()
}

fn good(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Names of value sets.
fn sets() -> Vec<String> {
    let files = std::fs::read_dir(root().join("deploy/chart/ci")).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut sets: Vec<_> = files.map(|e| stem(e.unwrap().path())).collect();
    sets.sort();
    assert!(sets.len() >= 5, "{sets:?}");
    sets
}

fn rendered(set: &str) -> String {
    let values = format!("deploy/chart/ci/{set}.yaml");
    let in_namespace = ["--namespace", "selvedge-system", "-f", &values];
    good(helm(
        &[&["template", "selvedge", "deploy/chart"], &in_namespace[..]].concat(),
    ))
}

fn objects(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    all.into_iter().filter(Value::is_object).collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn every_value_set_is_linted_and_renders_what_stands_beside() {
    let write = std::env::var_os("SELVEDGE_WRITE").is_some();
    let folder = root().join("tests/cases/chart");
    let mut files = Vec::new();
    for set in sets() {
        let values = format!("deploy/chart/ci/{set}.yaml");
        let _ = good(helm(&["lint", "--strict", "deploy/chart", "-f", &values]));
        let got = rendered(&set);
        let file = folder.join(format!("{set}.yaml"));
        if write {
            std::fs::write(&file, &got).unwrap();
        }
        let want = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(got == want, "{set}: not what it was:\n{got}");
        files.push(file.display().to_string());
    }
    let mut arguments = vec!["schemas"];
    arguments.extend(files.iter().map(String::as_str));
    let checked: usize = judge("kubernetes.py", &arguments).trim().parse().unwrap();
    assert!(checked > 200, "{checked}");
}

#[test]
fn what_cannot_be_set_is_refused() {
    for wrong in [
        "injector.replica=3",
        "sidecar.mtls=off",
        "gateway.ports[0].targetPort=80",
        "trustDomain=Shop_Local",
    ] {
        let output = helm(&["template", "deploy/chart", "--set", wrong]);
        assert!(!output.status.success(), "{wrong}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("don't meet the specifications"), "{told}");
    }
}

#[test]
fn plain_manifests_are_what_the_chart_renders() {
    let output = Command::new(root().join("deploy/render"))
        .arg("check")
        .env("HELM", helm_binary())
        .output()
        .unwrap();
    let _ = good(output);
}

/// Pods of every workload.
fn pods(objects: &[Value]) -> Vec<(&str, &Value)> {
    let pods = objects.iter().filter_map(|object| {
        let name = object["metadata"]["name"].as_str()?;
        Some((name, object.pointer("/spec/template/spec")?))
    });
    pods.collect()
}

#[test]
fn every_pod_may_run_under_the_profile_restricted() {
    let mut seen = 0;
    for set in sets() {
        let objects = objects(&rendered(&set));
        for (name, pod) in pods(&objects) {
            let around = &pod["securityContext"];
            assert_eq!(around["runAsNonRoot"], true, "{set} {name}");
            assert_eq!(around["seccompProfile"]["type"], "RuntimeDefault");
            assert_ne!(around["runAsUser"], 0);
            for key in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[key].is_null(), "{set} {name} {key}");
            }
            // Its token is for what it asks, and nothing else has one.
            assert_eq!(pod["automountServiceAccountToken"], false);
            for container in pod["containers"].as_array().unwrap() {
                let own = &container["securityContext"];
                assert_eq!(own["allowPrivilegeEscalation"], false, "{set} {name}");
                assert_eq!(own["capabilities"]["drop"][0], "ALL");
                assert!(own["capabilities"]["add"].is_null());
                assert_eq!(own["readOnlyRootFilesystem"], true);
                assert!(container["resources"]["limits"]["memory"].is_string());
                assert!(container["readinessProbe"].is_object());
            }
            for volume in pod["volumes"].as_array().unwrap() {
                assert!(volume["hostPath"].is_null(), "{set} {name}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 11, "{seen}");
}

#[test]
fn processes_take_what_the_chart_gives_them() {
    for set in sets() {
        let objects = objects(&rendered(&set));
        for (_, pod) in pods(&objects) {
            for container in pod["containers"].as_array().unwrap() {
                takes(container);
            }
        }
        if set != "gateway" {
            let map = find(&objects, "ConfigMap", "selvedge-injector");
            let text = map["data"]["settings.yaml"].as_str().unwrap();
            let settings: Settings = serde_saphyr::from_str(text).unwrap();
            assert_eq!(settings.strict, set == "production");
            assert_eq!(settings.own_namespace, "selvedge-system");
            assert_eq!(settings.resources[2].as_deref(), Some("24Mi"));
            assert_eq!(settings.cluster_domain.is_empty(), set == "small");
        }
    }
}

#[test]
fn a_gateway_takes_what_the_chart_writes_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display().to_string();
    let leaf = selvedge_tests::TestCa::new().server(&["shop.example"]);
    let (certificate, key) = leaf.write(dir.path(), "edge");
    for (set, name) in [
        ("gateway", "selvedge-gateway"),
        ("plain", "selvedge-gateway"),
        ("production", "edge"),
    ] {
        let objects = objects(&rendered(set));
        let map = find(&objects, "ConfigMap", name);
        let config = dir.path().join(set);
        std::fs::create_dir(&config).unwrap();
        for file in ["cluster.yaml", "gateway.yaml"] {
            let text = map["data"][file].as_str().unwrap();
            let text = text
                .replace(
                    "/etc/selvedge/secrets/edge-tls/tls.crt",
                    &certificate.display().to_string(),
                )
                .replace(
                    "/etc/selvedge/secrets/edge-tls/tls.key",
                    &key.display().to_string(),
                );
            std::fs::write(config.join(file), text).unwrap();
        }
        let output = Command::new(binary())
            .args(["check", "--mode", "gateway"])
            .arg(&config)
            .output()
            .unwrap();
        let told = good(output);
        assert!(
            told.contains("ok: gateway configuration, 2 file(s)"),
            "{place}: {told}"
        );
    }
}

/// Arguments are those of the binary: one that is not known, or missing, is told apart from a file that
/// is not here.
fn takes(container: &Value) {
    let arguments = container["args"].as_array().unwrap().iter();
    let arguments: Vec<&str> = arguments.map(|a| a.as_str().unwrap()).collect();
    let role = arguments[0];
    let output = match role {
        // Nothing is started: the directory of keys cannot be made below a file.
        "ca" => {
            let mut changed = arguments.clone();
            let dir = changed
                .iter()
                .position(|a| a.starts_with("--dir="))
                .unwrap();
            changed[dir] = "--dir=/dev/null/keys";
            Command::new(binary()).args(changed).output().unwrap()
        }
        _ => Command::new(binary()).args(&arguments).output().unwrap(),
    };
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    let wanted = match role {
        "ca" => "/dev/null/keys",
        "injector" => "/etc/selvedge/settings.yaml",
        _ => "/etc/selvedge/config",
    };
    assert!(told.contains(wanted) && !told.contains("Usage"), "{told}");
}

/// A webhook must match what its injector acts on, and never both ways at once.
#[test]
fn webhooks_select_each_pod_once() {
    let objects = objects(&rendered("default"));
    let found = find(
        &objects,
        "MutatingWebhookConfiguration",
        "selvedge-injector",
    );
    let webhooks = found["webhooks"].as_array().unwrap();
    let matches = |selector: &Value, labels: &[(&str, &str)]| -> bool {
        let rules = selector["matchExpressions"].as_array().unwrap();
        rules.iter().all(|rule| {
            let key = rule["key"].as_str().unwrap();
            let own = labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
            let listed = |v: &str| {
                let values = rule["values"].as_array().unwrap();
                values.iter().any(|value| value == v)
            };
            match rule["operator"].as_str().unwrap() {
                "Exists" => own.is_some(),
                "NotIn" => !own.is_some_and(listed),
                other => panic!("{other}"),
            }
        })
    };
    let values = [None, Some("enabled"), Some("disabled"), Some("yes")];
    for of_namespace in values {
        for of_pod in values {
            for name in ["shop", "kube-system", "selvedge-system"] {
                let mut around = vec![("kubernetes.io/metadata.name", name)];
                around.extend(of_namespace.map(|v| ("selvedge.dev/inject", v)));
                let own: Vec<_> = of_pod
                    .map(|v| ("selvedge.dev/inject", v))
                    .into_iter()
                    .collect();
                let asked = webhooks
                    .iter()
                    .filter(|w| {
                        matches(&w["namespaceSelector"], &around)
                            && matches(&w["objectSelector"], &own)
                    })
                    .count();
                let want = match (name, of_namespace, of_pod) {
                    ("shop", _, Some("disabled")) => 0,
                    // What is neither yes nor no is asked about, so that somebody is told.
                    ("shop", Some("enabled" | "yes"), None) => 1,
                    ("shop", Some("yes"), Some(_)) => 2,
                    ("shop", _, Some(_)) => 1,
                    _ => 0,
                };
                assert_eq!(asked, want, "{name} {of_namespace:?} {of_pod:?}");
            }
        }
    }
}
