//! Injector: what a namespace and a pod say about their sidecar, in annotations. Each is checked; what
//! cannot be meant is refused, and what is not known is named.

use std::collections::BTreeMap;

use super::settings::Settings;

/// What every annotation and label of ours begins with.
pub const PREFIX: &str = "selvedge.dev/";
/// Label that turns injection on (`enabled`) or off (`disabled`), at a namespace or a pod.
pub const INJECT: &str = "selvedge.dev/inject";
/// Annotation in which an injected pod says what was done to it.
pub const STATUS: &str = "selvedge.dev/status";

/// Annotation with the sidecar's configuration, which its volume shows as a file.
pub const CONFIG: &str = "selvedge.dev/config";

/// Annotations that tune a sidecar.
const KNOWN: [&str; 18] = [
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-outbound-cidrs",
    "proxy-image",
    "proxy-cpu-request",
    "proxy-cpu-limit",
    "proxy-memory-request",
    "proxy-memory-limit",
    "log",
    "native-sidecar",
    "hold-application",
    "rewrite-probes",
    "capture",
    "drain-delay",
    "mtls",
    "opaque-ports",
    "inbound-ports",
    "workload-api",
];

/// Those of them that need redirection.
const REDIRECTED: [&str; 5] = [
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-outbound-cidrs",
    "rewrite-probes",
    "opaque-ports",
];

/// How a pod's traffic comes to its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// By redirection rules, which an init container writes.
    Redirect,
    /// By `http_proxy` and ports of its own: for namespaces where no container may write rules.
    Proxy,
}

/// What holds for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Ports that are reached without the sidecar.
    pub skip_inbound: Vec<String>,
    /// Ports that the application reaches without it.
    pub skip_outbound: Vec<String>,
    /// Addresses that the application reaches without it.
    pub skip_cidrs: Vec<String>,
    /// The sidecar's image.
    pub image: String,
    /// Resources: `requests.cpu`, `limits.cpu`, `requests.memory`, `limits.memory`.
    pub resources: [Option<String>; 4],
    /// Log filter.
    pub log: String,
    /// As an init container that goes on (Kubernetes 1.29), not as an ordinary container.
    pub native: bool,
    /// The application starts when the sidecar is ready.
    pub hold: bool,
    /// Probes are asked of the sidecar, where redirection would break them.
    pub rewrite_probes: bool,
    /// How traffic comes to it.
    pub capture: Capture,
    /// How long the sidecar goes on accepting when the pod ends.
    pub drain_delay: String,
    /// Whether callers without the mesh's mutual TLS are refused.
    pub strict: bool,
    /// Ports of the application whose plaintext is not looked into.
    pub opaque: Vec<u16>,
    /// Without redirection: ports of the sidecar, with the application's behind them.
    pub inbound: Vec<(u16, u16)>,
    /// The application is given a socket for certificates and tokens of its own.
    pub workload_api: bool,
}

/// What came of reading annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What holds.
    pub options: Options,
    /// What was said and has no meaning.
    pub warnings: Vec<String>,
}

impl Options {
    /// Reads annotations: the pod's win over the namespace's, these over the installation's.
    ///
    /// # Errors
    /// Each value that is not what its annotation takes.
    pub fn read(
        settings: &Settings,
        namespace: &BTreeMap<String, String>,
        pod: &BTreeMap<String, String>,
    ) -> Result<Read, Vec<String>> {
        let mut options = settings.options();
        let (mut wrong, mut warnings) = (Vec::new(), Vec::new());
        for (of, annotations) in [("namespace", namespace), ("pod", pod)] {
            for (name, value) in annotations {
                let Some(short) = name.strip_prefix(PREFIX) else {
                    continue;
                };
                if matches!(name.as_str(), STATUS | INJECT | CONFIG) {
                    if name == INJECT {
                        warnings.push(format!(
                            "{name} is a label; as an annotation of the {of} it does nothing"
                        ));
                    }
                    continue;
                }
                if !KNOWN.contains(&short) {
                    let near = nearest(short);
                    warnings.push(format!("{name} of the {of} is not known{near}"));
                    continue;
                }
                if let Err(want) = options.set(short, value.trim()) {
                    let cut: String = value.chars().take(40).collect();
                    wrong.push(format!("{name} of the {of}: `{cut}`: expected {want}"));
                }
            }
        }
        options.say_what_does_nothing(namespace, pod, &mut warnings);
        match wrong.is_empty() {
            true => Ok(Read { options, warnings }),
            false => Err(wrong),
        }
    }

    /// Some annotations are for one way of capture only.
    fn say_what_does_nothing(
        &self,
        namespace: &BTreeMap<String, String>,
        pod: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) {
        let mut nothing = |name: &str, when: &str| {
            let name = format!("{PREFIX}{name}");
            if namespace.contains_key(&name) || pod.contains_key(&name) {
                warnings.push(format!("{name} does nothing {when}"));
            }
        };
        if self.capture == Capture::Redirect {
            nothing("inbound-ports", "without selvedge.dev/capture: proxy");
            return;
        }
        for name in REDIRECTED {
            nothing(name, "with selvedge.dev/capture: proxy");
        }
        if self.inbound.is_empty() {
            nothing("mtls", "without selvedge.dev/inbound-ports");
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "skip-inbound-ports" => self.skip_inbound = ports(value)?,
            "skip-outbound-ports" => self.skip_outbound = ports(value)?,
            "skip-outbound-cidrs" => self.skip_cidrs = cidrs(value)?,
            "proxy-image" => self.image = image(value)?,
            "proxy-cpu-request" => self.resources[0] = Some(quantity(value)?),
            "proxy-cpu-limit" => self.resources[1] = Some(quantity(value)?),
            "proxy-memory-request" => self.resources[2] = Some(quantity(value)?),
            "proxy-memory-limit" => self.resources[3] = Some(quantity(value)?),
            "log" => self.log = filter(value)?,
            "native-sidecar" => self.native = flag(value)?,
            "hold-application" => self.hold = flag(value)?,
            "rewrite-probes" => self.rewrite_probes = flag(value)?,
            "capture" => {
                self.capture = match value {
                    "redirect" => Capture::Redirect,
                    "proxy" => Capture::Proxy,
                    _ => return Err("`redirect` or `proxy`"),
                }
            }
            "mtls" => self.strict = strict(value)?,
            "inbound-ports" => self.inbound = pairs(value)?,
            "opaque-ports" => self.opaque = single_ports(value)?,
            "workload-api" => self.workload_api = flag(value)?,
            "drain-delay" => self.drain_delay = seconds(value)?,
            _ => {}
        }
        Ok(())
    }
}

/// The known annotation that differs in the fewest letters, if that is near.
fn nearest(name: &str) -> String {
    let distance = |a: &str, b: &str| {
        let b: Vec<char> = b.chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.chars().enumerate() {
            let mut last = i;
            let mut next = vec![i + 1];
            for (j, y) in b.iter().enumerate() {
                let above = row.get(j + 1).copied().unwrap_or(usize::MAX);
                let left = next.last().copied().unwrap_or(usize::MAX);
                let cost = (last + usize::from(x != *y)).min(above + 1).min(left + 1);
                last = above;
                next.push(cost);
            }
            row = next;
        }
        row.last().copied().unwrap_or(usize::MAX)
    };
    let name: String = name.chars().take(64).collect();
    let near = KNOWN
        .iter()
        .map(|known| (distance(&name, known), known))
        .min();
    match near {
        Some((far, known)) if far <= 3 => format!("; did you mean {PREFIX}{known}?"),
        _ => String::new(),
    }
}

/// Most entries of a list.
const ENTRIES: usize = 64;

fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

/// Ports and ranges, `25,3306,4000-4100`.
fn ports(value: &str) -> Result<Vec<String>, &'static str> {
    const WANT: &str = "up to 64 ports and ranges such as `25,4000-4100`";
    let port = |text: &str| -> Result<u16, &'static str> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(port @ 1..) if plain => Ok(port),
            _ => Err(WANT),
        }
    };
    let mut out = Vec::new();
    for entry in list(value) {
        match entry.split_once('-') {
            None => out.push(port(entry)?.to_string()),
            Some((first, last)) => {
                let (first, last) = (port(first)?, port(last)?);
                if first > last {
                    return Err(WANT);
                }
                out.push(format!("{first}-{last}"));
            }
        }
    }
    match out.len() {
        0..=ENTRIES => Ok(out),
        _ => Err(WANT),
    }
}

/// Ports without ranges.
fn single_ports(value: &str) -> Result<Vec<u16>, &'static str> {
    const WANT: &str = "up to 64 ports such as `3306,5432`";
    let all = ports(value).map_err(|_| WANT)?;
    all.iter().map(|p| p.parse().map_err(|_| WANT)).collect()
}

/// Ports of the sidecar with those behind them, `18080:8080`.
fn pairs(value: &str) -> Result<Vec<(u16, u16)>, &'static str> {
    const WANT: &str = "up to 64 pairs such as `18080:8080`: a port of the sidecar, over 1023 and of \
        no other use, and the application's";
    let port = |text: &str| match ports(text.trim()).as_deref() {
        Ok([port]) => port.parse::<u16>().ok(),
        _ => None,
    };
    let mut out: Vec<(u16, u16)> = Vec::new();
    for entry in list(value) {
        let (own, app) = entry.split_once(':').ok_or(WANT)?;
        let (own, app) = port(own).zip(port(app)).ok_or(WANT)?;
        let taken = own < 1024 || (15000..15100).contains(&own) || own == app;
        if taken || out.iter().any(|(other, _)| *other == own) {
            return Err(WANT);
        }
        out.push((own, app));
    }
    match out.len() {
        0..=ENTRIES => Ok(out),
        _ => Err(WANT),
    }
}

/// How callers must come: `strict` or `permissive`.
pub(super) fn strict(value: &str) -> Result<bool, &'static str> {
    match value {
        "strict" => Ok(true),
        "permissive" => Ok(false),
        _ => Err("`strict` or `permissive`"),
    }
}

fn cidrs(value: &str) -> Result<Vec<String>, &'static str> {
    const WANT: &str = "up to 64 ranges such as `10.0.0.0/8,2001:db8::/32`";
    let mut out = Vec::new();
    for entry in list(value) {
        let (address, length) = entry.split_once('/').ok_or(WANT)?;
        let address: std::net::IpAddr = address.parse().map_err(|_| WANT)?;
        let length: u8 = length.parse().map_err(|_| WANT)?;
        if length > if address.is_ipv4() { 32 } else { 128 } {
            return Err(WANT);
        }
        out.push(format!("{address}/{length}"));
    }
    match out.len() {
        0..=ENTRIES => Ok(out),
        _ => Err(WANT),
    }
}

fn flag(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("`true` or `false`"),
    }
}

/// An amount as Kubernetes writes them: `100m`, `0.5`, `64Mi`.
fn quantity(value: &str) -> Result<String, &'static str> {
    const WANT: &str = "an amount such as `100m`, `0.5` or `64Mi`";
    let digits = value
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let (number, unit) = value.split_at(digits);
    let units = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    let dots = number.matches('.').count();
    let fine = number.len() <= 16
        && dots <= 1
        && number.starts_with(|c: char| c.is_ascii_digit())
        && !number.ends_with('.');
    match fine && units.contains(&unit) {
        true => Ok(value.to_owned()),
        false => Err(WANT),
    }
}

fn image(value: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    match (1..=512).contains(&value.len()) && value.bytes().all(plain) {
        true => Ok(value.to_owned()),
        false => Err("an image such as `registry.example/selvedge:1`"),
    }
}

fn filter(value: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_:=,-".contains(&b);
    match (1..=256).contains(&value.len()) && value.bytes().all(plain) {
        true => Ok(value.to_owned()),
        false => Err("a log filter such as `info` or `selvedge=debug`"),
    }
}

/// Whole seconds up to ten minutes.
fn seconds(value: &str) -> Result<String, &'static str> {
    const WANT: &str = "whole seconds up to ten minutes, such as `5s`";
    let number = value.strip_suffix('s').ok_or(WANT)?;
    match number.parse::<u16>() {
        Ok(0..=600) => Ok(value.to_owned()),
        _ => Err(WANT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pod: &[(&str, &str)]) -> Result<Read, Vec<String>> {
        let named = |list: &[(&str, &str)]| {
            let pairs = list.iter();
            pairs
                .map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned()))
                .collect()
        };
        let namespace = named(&[("log", "warn"), ("skip-inbound-ports", "25")]);
        Options::read(&Settings::default(), &namespace, &named(pod))
    }

    #[test]
    fn pods_win_over_namespaces_and_these_over_the_installation() {
        let options = read(&[
            ("skip-inbound-ports", " 80 , 90-95,"),
            ("proxy-cpu-limit", "2"),
        ]);
        let options = options.unwrap().options;
        assert_eq!(options.skip_inbound, ["80", "90-95"]);
        assert_eq!(options.log, "warn");
        assert_eq!(options.resources[1].as_deref(), Some("2"));
        assert_eq!(options.image, Settings::default().image);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_all_at_once() {
        let bad = [
            ("skip-inbound-ports", "0"),
            ("skip-outbound-ports", "http"),
            ("skip-outbound-cidrs", "10.0.0.0/33"),
            ("proxy-cpu-request", "much"),
            ("proxy-memory-limit", "1."),
            ("native-sidecar", "yes"),
            ("capture", "tproxy"),
            ("drain-delay", "5"),
            ("proxy-image", "a b"),
            ("log", "a;b"),
            ("mtls", "on"),
            ("opaque-ports", "80-90"),
            ("inbound-ports", "80:8080"),
        ];
        let wrong = read(&bad).unwrap_err();
        assert_eq!(wrong.len(), bad.len(), "{wrong:?}");
        for (name, value) in bad {
            let said = wrong
                .iter()
                .find(|w| w.contains(&format!("{PREFIX}{name} of the pod")));
            assert!(said.is_some_and(|w| w.contains(value)), "{name}: {wrong:?}");
        }
        let many: Vec<String> = (1..=65).map(|n| n.to_string()).collect();
        assert!(read(&[("skip-inbound-ports", &many.join(","))]).is_err());
        assert!(read(&[("skip-inbound-ports", "80-70")]).is_err());
    }

    #[test]
    fn what_does_nothing_is_said() {
        let nothing = |pod: &[(&str, &str)]| {
            let warnings = read(pod).unwrap().warnings;
            assert!(warnings.iter().all(|w| w.contains("does nothing")));
            warnings.len()
        };
        // The namespace says `skip-inbound-ports`.
        assert_eq!(nothing(&[("capture", "proxy"), ("mtls", "strict")]), 2);
        let inbound = ("inbound-ports", "18080:8080, 18081:8081");
        let all = [("capture", "proxy"), ("mtls", "strict"), inbound];
        assert_eq!(nothing(&all), 1);
        assert_eq!(nothing(&[inbound]), 1);
        let options = read(&all).unwrap().options;
        assert_eq!(options.inbound, [(18080, 8080), (18081, 8081)]);
        for bad in [
            "1:2",
            "15006:80",
            "18080:0",
            "18080",
            "18080:80,18080:81",
            "9000:9000",
            "a:b",
        ] {
            assert!(read(&[("inbound-ports", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let warnings = read(&[
            ("skip-inbound-port", "80"),
            ("wonder", "1"),
            ("inject", "enabled"),
        ]);
        let warnings = warnings.unwrap().warnings;
        assert_eq!(warnings.len(), 3);
        assert!(
            warnings
                .iter()
                .any(|w| w.ends_with("did you mean selvedge.dev/skip-inbound-ports?"))
        );
        assert!(
            warnings
                .iter()
                .any(|w| w.ends_with("wonder of the pod is not known"))
        );
        assert!(warnings.iter().any(|w| w.contains("is a label")));
    }
}
