//! Injector: probes of the application. The system asks them in plain text and from outside the mesh,
//! where redirection takes them to the sidecar; so they are asked of its health port, which asks the
//! application.

use serde_json::{Map, Value, json};

use super::pod::name;

const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "livez"),
    ("readinessProbe", "readyz"),
    ("startupProbe", "startupz"),
];
/// What asks over the network; `exec` does not.
const WAYS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Has probes asked of the sidecar; gives the originals, by container and probe.
pub fn rewrite(containers: &mut [Value], health: u16) -> Map<String, Value> {
    let mut originals = Map::new();
    for container in containers {
        let of = name(container).to_owned();
        let ports = named_ports(container);
        let mut kept = Map::new();
        for (probe, path) in PROBES {
            let Some(Value::Object(probe_spec)) = container.get_mut(probe) else {
                continue;
            };
            let Some((way, asked)) = WAYS
                .iter()
                .find_map(|way| Some((*way, probe_spec.get(*way)?.clone())))
            else {
                continue;
            };
            // One of another machine is asked there.
            if asked
                .get("host")
                .is_some_and(|host| !host.is_null() && host != "")
            {
                continue;
            }
            // One that is the sidecar's already, or whose port nobody knows.
            let Some(of_app) = port(&asked, &ports).filter(|port| *port != health) else {
                continue;
            };
            probe_spec.remove(way);
            probe_spec.insert(
                "httpGet".to_owned(),
                json!({ "path": format!("/app-health/{of}/{path}"), "port": health }),
            );
            let seconds = probe_spec.get("timeoutSeconds").cloned();
            kept.insert(
                probe.to_owned(),
                json!({ "way": way, "original": asked, "port": of_app, "timeoutSeconds": seconds }),
            );
        }
        if !kept.is_empty() {
            originals.insert(of, kept.into());
        }
    }
    originals
}

/// Puts probes back as they were, where they are still asked of the sidecar.
pub fn restore(containers: &mut [Value], originals: &Map<String, Value>, health: u16) {
    for container in containers {
        let of = name(container).to_owned();
        let Some(kept) = originals.get(&of).and_then(Value::as_object) else {
            continue;
        };
        for (probe, path) in PROBES {
            let Some(kept) = kept.get(probe) else {
                continue;
            };
            let way = kept.get("way").and_then(Value::as_str);
            let way = way.and_then(|way| WAYS.into_iter().find(|known| *known == way));
            let ours = json!({ "path": format!("/app-health/{of}/{path}"), "port": health });
            if let (Some(Value::Object(probe)), Some(way), Some(original)) =
                (container.get_mut(probe), way, kept.get("original"))
                && probe.get("httpGet") == Some(&ours)
            {
                probe.remove("httpGet");
                probe.insert(way.to_owned(), original.clone());
            }
        }
    }
}

fn named_ports(container: &Value) -> Vec<(String, u16)> {
    let ports = container.get("ports").and_then(Value::as_array);
    let ports = ports.into_iter().flatten();
    ports
        .filter_map(|port| {
            let number = port.get("containerPort")?.as_u64()?;
            Some((name(port).to_owned(), u16::try_from(number).ok()?))
        })
        .collect()
}

fn port(asked: &Value, ports: &[(String, u16)]) -> Option<u16> {
    match asked.get("port")? {
        Value::String(text) => {
            let named = ports.iter().find(|(name, _)| name == text);
            named.map(|(_, port)| *port).or_else(|| text.parse().ok())
        }
        number => u16::try_from(number.as_u64()?).ok(),
    }
}

/// What the sidecar is told of probes, from the originals.
#[must_use]
pub fn configured(originals: &Map<String, Value>) -> Value {
    let mut all = Map::new();
    for (container, kept) in originals {
        let mut of = Map::new();
        for (probe, kept) in kept.as_object().into_iter().flatten() {
            let path = PROBES.iter().find(|(name, _)| name == probe);
            if let (Some((_, path)), Some(told)) = (path, told(kept)) {
                of.insert((*path).to_owned(), told);
            }
        }
        all.insert(container.clone(), of.into());
    }
    all.into()
}

fn told(kept: &Value) -> Option<Value> {
    let asked = kept.get("original")?;
    let mut told = Map::new();
    let way = match kept.get("way")?.as_str()? {
        "tcpSocket" => "tcp",
        "grpc" => "grpc",
        _ if asked.get("scheme").and_then(Value::as_str) == Some("HTTPS") => "https",
        _ => "http",
    };
    told.insert("way".to_owned(), way.into());
    told.insert("port".to_owned(), kept.get("port")?.clone());
    let members = [
        ("path", "path"),
        ("httpHeaders", "headers"),
        ("service", "service"),
    ];
    for (theirs, ours) in members {
        if let Some(value) = asked.get(theirs).filter(|value| !value.is_null()) {
            // As the system does, which asks by an address that it has read.
            let value = match value.as_str() {
                Some(path) if ours == "path" => path.replace(' ', "%20").into(),
                _ => value.clone(),
            };
            told.insert(ours.to_owned(), value);
        }
    }
    if let Some(seconds) = kept.get("timeoutSeconds").and_then(Value::as_u64) {
        told.insert("timeout".to_owned(), format!("{seconds}s").into());
    }
    Some(told.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_asked_of_the_sidecar_and_put_back() {
        let before = json!([
            {
                "name": "app",
                "ports": [{ "name": "web", "containerPort": 8080 }],
                "livenessProbe": { "httpGet": { "path": "/live", "port": "web" }, "periodSeconds": 5 },
                "readinessProbe": { "tcpSocket": { "port": 8080 }, "timeoutSeconds": 3 },
                "startupProbe": { "exec": { "command": ["true"] } },
            },
            { "name": "other", "livenessProbe": { "httpGet": { "port": 15020 } } },
        ]);
        let mut containers = before.as_array().unwrap().clone();
        let originals = rewrite(&mut containers, 15020);
        assert_eq!(
            containers[0]["livenessProbe"],
            json!({ "httpGet": { "path": "/app-health/app/livez", "port": 15020 }, "periodSeconds": 5 })
        );
        assert_eq!(originals["app"]["livenessProbe"]["port"], 8080);
        assert_eq!(
            configured(&originals)["app"],
            json!({
                "livez": { "way": "http", "port": 8080, "path": "/live" },
                "readyz": { "way": "tcp", "port": 8080, "timeout": "3s" },
            })
        );
        assert_eq!(containers[0]["startupProbe"], before[0]["startupProbe"]);
        assert_eq!(containers[1], before[1]);
        restore(&mut containers, &originals, 15020);
        assert_eq!(json!(containers), before);
    }
}
