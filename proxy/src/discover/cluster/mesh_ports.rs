//! Discovery in a cluster: at which ports of a pod its sidecar answers, from what the injector has left.

use serde::Deserialize;

/// Entries that are read of a list.
const ENTRIES: usize = 64;

/// Ports at which a pod speaks the mesh's mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshPorts {
    /// All but these ranges: they are reached without the sidecar.
    Except(Box<[(u16, u16)]>),
    /// These only: nothing else is redirected.
    Only(Box<[u16]>),
}

#[derive(Deserialize)]
struct Status {
    mesh: Option<Mesh>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Mesh {
    Except(Vec<String>),
    Only(Vec<u16>),
}

impl MeshPorts {
    /// Reads the annotation `selvedge.dev/status`. `None`: nothing that the injector has written.
    #[must_use]
    pub fn read(status: &str) -> Option<Self> {
        let status: Status = serde_json::from_str(status).ok()?;
        Some(match status.mesh {
            None => Self::Except(Box::default()),
            Some(Mesh::Only(ports)) => Self::Only(ports.into_iter().take(ENTRIES).collect()),
            Some(Mesh::Except(ports)) => {
                let ranges = ports.iter().take(ENTRIES).filter_map(|text| {
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    Some((first.parse().ok()?, last.parse().ok()?))
                });
                Self::Except(ranges.collect())
            }
        })
    }

    /// Whether a port is one.
    #[must_use]
    pub fn has(&self, port: u16) -> bool {
        match self {
            Self::Except(ranges) => !ranges.iter().any(|(a, b)| (*a..=*b).contains(&port)),
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_what_the_injector_has_left() {
        let all = MeshPorts::read("{}").unwrap();
        assert!(all.has(80) && all.has(9000));
        let some = r#"{ "mesh": { "except": ["22", "9000-9100", "x"] }, "hash": "1" }"#;
        let some = MeshPorts::read(some).unwrap();
        for (port, want) in [(22, false), (80, true), (9050, false), (9101, true)] {
            assert_eq!(some.has(port), want, "{port}");
        }
        let one = MeshPorts::read(r#"{"mesh":{"only":[18080]}}"#).unwrap();
        assert!(one.has(18080) && !one.has(8080));
        for other in [
            "",
            "enabled",
            "[]",
            r#"{"mesh":1}"#,
            r#"{"mesh":{"only":["x"]}}"#,
        ] {
            assert_eq!(MeshPorts::read(other), None, "{other}");
        }
    }
}
