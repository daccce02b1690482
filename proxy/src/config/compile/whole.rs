//! What must hold of a configuration as a whole: it fits its mode, lets something through, and
//! opens nothing that it should not.

use std::net::SocketAddr;

use super::{At, Mode, Pass};

/// Control frames that every HTTP/2 client sends: SETTINGS, the acknowledgement of ours, the answer to the PING of a
/// polite end, GOAWAY.
const CONTROL_LEAST: u32 = 4;

impl Pass<'_> {
    pub(super) fn check_mode(&mut self, mode: Mode) {
        let config = self.config;
        match mode {
            Mode::Gateway => {
                if config.listeners.is_empty() {
                    self.error(
                        &At::default(),
                        "a gateway needs a listener",
                        "add `listeners`",
                    );
                }
                for (key, there) in [
                    ("inbound", !config.inbound.is_empty()),
                    ("outbound", config.outbound.is_some()),
                ] {
                    if there {
                        let remedy = "run `selvedge sidecar`, or remove it";
                        self.error(&At::key(key), format!("`{key}` is for a sidecar"), remedy);
                    }
                }
            }
            Mode::Sidecar => {
                if config.inbound.is_empty() && config.outbound.is_none() {
                    let remedy = "add `inbound` or `outbound`";
                    self.error(&At::default(), "a sidecar needs a port", remedy);
                }
                if !config.listeners.is_empty() {
                    let remedy = "run `selvedge gateway`, or remove it";
                    self.error(
                        &At::key("listeners"),
                        "`listeners` is for a gateway",
                        remedy,
                    );
                }
            }
        }
    }

    /// Limits that would refuse everything, and an admin port that strangers could reach.
    pub(super) fn check_limits(&mut self) {
        let limits = &self.config.limits;
        let at = At::key("limits");
        let zero = |size: Option<selvedge_contract::units::Size>| size.is_some_and(|s| s.0 == 0);
        let none =
            |time: Option<selvedge_contract::units::Duration>| time.is_some_and(|t| t.0.is_zero());
        for (key, wrong) in [
            ("headerBlock", zero(limits.header_block)),
            ("headerCount", limits.header_count == Some(0)),
            ("uri", zero(limits.uri)),
            ("handshake", none(limits.handshake)),
            ("headerRead", none(limits.header_read)),
            ("downstreamIdle", none(limits.downstream_idle)),
            (
                "requestsPerConnection",
                limits.requests_per_connection == Some(0),
            ),
            ("streams", limits.streams == Some(0)),
            ("connections", limits.connections == Some(0)),
            ("streamWindow", zero(limits.stream_window)),
        ] {
            if wrong {
                self.error(
                    &at.then(key),
                    "0 would let nothing through",
                    "expected more than 0",
                );
            }
        }
        let control = limits.http2.as_ref().and_then(|rates| rates.control_frames);
        if control.is_some_and(|n| n < CONTROL_LEAST) {
            self.error(
                &at.then("http2").then("controlFrames"),
                "no HTTP/2 connection would last",
                format!("expected {CONTROL_LEAST} or more"),
            );
        }
        let outside = |size: Option<selvedge_contract::units::Size>, least: u64, most: u64| {
            size.is_some_and(|s| !(least..=most).contains(&s.0))
        };
        for (key, wrong, remedy) in [
            (
                "streamWindow",
                outside(limits.stream_window, 0, (1 << 31) - 1),
                "expected at most 2147483647 (RFC 9113 section 6.9.1)",
            ),
            (
                "connectionWindow",
                outside(limits.connection_window, 65_535, (1 << 31) - 1),
                "expected 65535 to 2147483647 (RFC 9113 section 6.9)",
            ),
            (
                "buffer",
                outside(limits.buffer, 4096, 1 << 30),
                "expected 4KiB to 1GiB",
            ),
        ] {
            if wrong {
                self.error(&at.then(key), "not a size that can be used", remedy);
            }
        }
        self.check_admin();
    }

    fn check_admin(&mut self) {
        let bind = self
            .config
            .admin
            .bind
            .as_deref()
            .filter(|bind| *bind != "off");
        let public = |bind: &str| {
            bind.parse::<SocketAddr>()
                .is_ok_and(|a| !a.ip().is_loopback())
        };
        if let Some(bind) = bind
            && public(bind)
        {
            let remedy = "bind it to a loopback address such as `127.0.0.1:15000`";
            self.error(
                &At::key("admin").then("bind"),
                format!("{bind} is not a loopback address"),
                remedy,
            );
        }
    }

    pub(super) fn check_telemetry(&mut self) {
        if let Some(tracing) = &self.config.telemetry.tracing {
            let at = At::key("telemetry").then("tracing");
            if !(0.0..=100.0).contains(&tracing.sample) {
                let remedy = "expected a share in percent, 0 to 100";
                self.error(
                    &at.then("sample"),
                    format!("{} is out of range", tracing.sample),
                    remedy,
                );
            }
            let known = ["http://", "https://"]
                .iter()
                .any(|s| tracing.endpoint.starts_with(s));
            if !known || tracing.endpoint.parse::<http::Uri>().is_err() {
                let remedy = "expected a URL such as `http://127.0.0.1:4317`";
                self.error(
                    &at.then("endpoint"),
                    format!("`{}` is not valid", tracing.endpoint),
                    remedy,
                );
            }
        }
    }
}
