//! Export of spans: a bounded queue from the path, batches to an OTLP collector from the control
//! runtime. A collector that is down, slow or hostile costs spans, counted, and nothing else.

use std::sync::Arc;

use crate::message::Fields;

use super::trace::{Form, TraceContext};

#[cfg(feature = "otlp")]
pub use otlp::{SpanData, Tracing};

/// What a request is told: its place in a trace, the parent's span, and the form to pass it on in.
pub type Decision = (TraceContext, Option<u64>, Form);

/// Parent-based sampling: a parent's decision stands, a root is sampled by ratio.
///
/// `threshold` is the share of roots to sample, out of 2^32; `random` is uniform over `u32`.
#[must_use]
pub fn decide(fields: &Fields, threshold: u64, random: u32) -> Decision {
    match super::trace::extract(fields) {
        Some((parent, form)) => (parent.child(), Some(parent.span), form),
        None => (
            TraceContext::root(u64::from(random) < threshold),
            None,
            Form::W3c,
        ),
    }
}

#[cfg(feature = "otlp")]
mod otlp {
    use std::time::{Duration, SystemTime};

    use opentelemetry::trace::{
        SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
    };
    use opentelemetry::{InstrumentationScope, KeyValue};
    use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::{SpanData as OtelSpan, SpanExporter};
    use selvedge_contract::defaults::process::SPAN_QUEUE;
    use tokio::sync::mpsc;

    use super::{Arc, Decision, Fields, TraceContext};
    use crate::error::Side;
    use crate::telemetry::access_log::Line;
    use crate::telemetry::metrics::Metrics;

    /// Spans of one export.
    const BATCH: usize = 512;
    /// Longest time a span waits for company.
    const LINGER: Duration = Duration::from_millis(500);
    /// Longest time for one export, its connection included.
    const EXPORT: Duration = Duration::from_secs(5);

    /// A finished span.
    #[derive(Debug)]
    pub struct SpanData(Box<OtelSpan>);

    /// Sampling and export, as configured.
    #[derive(Debug)]
    pub struct Tracing {
        /// What it was started with, to tell whether a reload changes it.
        pub config: selvedge_contract::config::Tracing,
        threshold: u64,
        queue: mpsc::Sender<SpanData>,
        metrics: Arc<Metrics>,
    }

    impl Tracing {
        /// Starts the exporter on the runtime that this is called in.
        ///
        /// # Errors
        /// When the endpoint is not a URL.
        pub fn start(
            config: &selvedge_contract::config::Tracing,
            metrics: &Arc<Metrics>,
        ) -> Result<Arc<Self>, String> {
            let mut exporter = OtlpExporter::builder()
                .with_tonic()
                .with_endpoint(&config.endpoint)
                .with_timeout(EXPORT)
                .build()
                .map_err(|error| error.to_string())?;
            let name = config.service_name.as_deref().unwrap_or("selvedge");
            let resource = Resource::builder()
                .with_service_name(name.to_owned())
                .build();
            exporter.set_resource(&resource);
            let (queue, spans) = mpsc::channel(SPAN_QUEUE);
            tokio::spawn(export_all(exporter, spans, metrics.clone()));
            // Exact enough: a share in percent of 2^32.
            #[expect(
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                reason = "clamped to 0..=2^32 first"
            )]
            let threshold = (config.sample.clamp(0.0, 100.0) / 100.0 * 4_294_967_296.0) as u64;
            Ok(Arc::new(Self {
                config: config.clone(),
                threshold,
                queue,
                metrics: metrics.clone(),
            }))
        }

        /// See [`super::decide`].
        #[must_use]
        pub fn decide(&self, fields: &Fields) -> Decision {
            super::decide(fields, self.threshold, fastrand::u32(..))
        }

        /// Hands a span over, or drops and counts it.
        pub fn export(&self, span: SpanData) {
            if self.queue.try_send(span).is_err() {
                self.drop_span(1);
            }
        }

        fn drop_span(&self, count: u64) {
            count_drops(&self.metrics, count);
        }
    }

    fn count_drops(metrics: &Metrics, count: u64) {
        metrics
            .process
            .span_drops
            .fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    }

    /// Ends when the last [`Tracing`] of this queue is gone, after what it held is exported.
    async fn export_all(
        exporter: OtlpExporter,
        mut spans: mpsc::Receiver<SpanData>,
        metrics: Arc<Metrics>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = spans.recv().await {
            batch.push(first);
            let deadline = tokio::time::Instant::now() + LINGER;
            while batch.len() < BATCH {
                // Cancelled by its deadline; a span is either received or still queued.
                match tokio::time::timeout_at(deadline, spans.recv()).await {
                    Ok(Some(span)) => batch.push(span),
                    Ok(None) | Err(_) => break,
                }
            }
            let count = batch.len() as u64;
            let batch = batch.drain(..).map(|span| *span.0).collect();
            let sent = tokio::time::timeout(EXPORT * 2, exporter.export(batch)).await;
            if !matches!(sent, Ok(Ok(()))) {
                count_drops(&metrics, count);
                tracing::debug!(count, "spans could not be exported");
            }
        }
    }

    impl SpanData {
        /// A span with OpenTelemetry's HTTP conventions, from what a log line says.
        #[must_use]
        pub fn of(line: &Line, context: TraceContext, parent: Option<u64>) -> Self {
            let detail = &line.detail;
            let method = detail
                .method
                .as_ref()
                .map_or_else(|| "_OTHER".to_owned(), ToString::to_string);
            let attributes = attributes(line, &method);
            let failed = line.end.is_some_and(|kind| kind.side() != Side::Downstream)
                || line.status.is_some_and(|s| s.is_server_error());
            let start = detail.time;
            Self(Box::new(OtelSpan {
                span_context: SpanContext::new(
                    TraceId::from(context.trace),
                    SpanId::from(context.span),
                    TraceFlags::SAMPLED,
                    false,
                    TraceState::default(),
                ),
                parent_span_id: SpanId::from(parent.unwrap_or(0)),
                parent_span_is_remote: parent.is_some(),
                span_kind: if &*detail.listener == "outbound" {
                    SpanKind::Client
                } else {
                    SpanKind::Server
                },
                name: format!("{method} {}", line.route).into(),
                start_time: start,
                end_time: start
                    .checked_add(line.duration)
                    .unwrap_or_else(SystemTime::now),
                attributes,
                dropped_attributes_count: 0,
                events: opentelemetry_sdk::trace::SpanEvents::default(),
                links: opentelemetry_sdk::trace::SpanLinks::default(),
                status: if failed {
                    Status::error("")
                } else {
                    Status::Unset
                },
                instrumentation_scope: InstrumentationScope::builder("selvedge")
                    .with_version(env!("CARGO_PKG_VERSION"))
                    .build(),
            }))
        }
    }

    /// OpenTelemetry's HTTP conventions, and what only a mesh knows.
    fn attributes(line: &Line, method: &str) -> Vec<KeyValue> {
        let detail = &line.detail;
        let (path, query) = detail
            .target
            .split_once('?')
            .unwrap_or((&detail.target, ""));
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("url.path", path.to_owned()),
            KeyValue::new("server.address", detail.host.clone()),
            KeyValue::new("client.address", detail.peer.ip().to_string()),
            KeyValue::new("network.protocol.version", version(detail.version)),
            KeyValue::new("http.route", line.route.to_string()),
            KeyValue::new("selvedge.listener", detail.listener.to_string()),
        ];
        let mut optional = |key: &'static str, value: Option<String>| {
            attributes.extend(value.map(|value| KeyValue::new(key, value)));
        };
        optional("url.query", (!query.is_empty()).then(|| query.to_owned()));
        optional(
            "selvedge.service",
            (!line.service.is_empty()).then(|| line.service.to_string()),
        );
        optional("selvedge.upstream", detail.upstream.map(|a| a.to_string()));
        optional(
            "tls.client.spiffe_id",
            detail.peer_id.as_deref().map(str::to_owned),
        );
        optional(
            "error.type",
            line.end.map(|kind| kind.row().token.to_owned()),
        );
        if let Some(status) = line.status {
            attributes.push(KeyValue::new(
                "http.response.status_code",
                i64::from(status.as_u16()),
            ));
        }
        if line.retries > 0 {
            attributes.push(KeyValue::new(
                "http.request.resend_count",
                i64::from(line.retries),
            ));
        }
        attributes
    }

    fn version(text: &'static str) -> &'static str {
        text.trim_start_matches("HTTP/")
    }
}

/// Without the feature `otlp`: contexts are passed on as they are, nothing is exported.
#[cfg(not(feature = "otlp"))]
mod absent {
    use super::{Arc, Decision, Fields, TraceContext};
    use crate::telemetry::access_log::Line;
    use crate::telemetry::metrics::Metrics;

    /// A span nobody asks for.
    #[derive(Debug)]
    pub struct SpanData;

    impl SpanData {
        /// Nothing.
        #[must_use]
        pub const fn of(_: &Line, _: TraceContext, _: Option<u64>) -> Self {
            Self
        }
    }

    /// Cannot be started in this build.
    #[derive(Debug)]
    pub struct Tracing {
        /// As configured.
        pub config: selvedge_contract::config::Tracing,
    }

    impl Tracing {
        /// Refuses: this build has no exporter.
        ///
        /// # Errors
        /// Always.
        pub fn start(
            _: &selvedge_contract::config::Tracing,
            _: &Arc<Metrics>,
        ) -> Result<Arc<Self>, String> {
            Err("this build has no OTLP exporter (feature `otlp`)".into())
        }

        /// Keeps a parent's context.
        #[must_use]
        pub fn decide(&self, fields: &Fields) -> Decision {
            super::decide(fields, 0, 0)
        }

        /// Nothing to do.
        pub const fn export(&self, _: SpanData) {}
    }
}

#[cfg(not(feature = "otlp"))]
pub use absent::{SpanData, Tracing};
