//! Part of stage 7, balance: what an endpoint says of its own load with an answer, in the field
//! `endpoint-load-metrics` of ORCA, in the forms that gRPC (A51) and Envoy write: text, JSON, binary.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::message::Fields;

/// Longest report that is read; longer ones count as none.
const LONGEST: usize = 4096;

/// Base64 with and without padding: gRPC leaves it out, Envoy writes it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The figures of `xds.data.orca.v3.OrcaLoadReport` that say how much there is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Report {
    cpu: f64,
    application: f64,
}

impl Report {
    /// Utilisation as gRPC's A58 has it: the application's own figure, else the CPU's; `None` where the
    /// report says neither.
    fn utilisation(self) -> Option<f32> {
        let own = [self.application, self.cpu];
        let figure = own.into_iter().find(|f| *f > 0.0 && f.is_finite())?;
        #[expect(clippy::cast_possible_truncation, reason = "six digits do")]
        let figure = figure.min(1000.0) as f32;
        Some(figure)
    }
}

/// The load that an endpoint reports with its answer: 1 is as much as it can do.
#[must_use]
pub fn load(fields: &Fields) -> Option<f32> {
    match fields.named(TEXT) {
        Some(value) => told(value),
        None => binary(fields.named("endpoint-load-metrics-bin")?)?.utilisation(),
    }
}

/// The field of a report that says itself how it is written.
pub const TEXT: &str = "endpoint-load-metrics";

/// The load in a value of [`TEXT`].
#[must_use]
pub fn told(value: &[u8]) -> Option<f32> {
    read(value)?.utilisation()
}

fn read(value: &[u8]) -> Option<Report> {
    if value.len() > LONGEST {
        return None;
    }
    if let Some(rest) = value.strip_prefix(b"TEXT ") {
        return text(std::str::from_utf8(rest).ok()?);
    }
    if let Some(rest) = value.strip_prefix(b"JSON ") {
        return json(rest);
    }
    if let Some(rest) = value.strip_prefix(b"BIN ") {
        return binary(rest);
    }
    None
}

/// `cpu_utilization=0.3, application_utilization=0.5`
fn text(text: &str) -> Option<Report> {
    let mut report = Report::default();
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=')?;
        let value: f64 = value.trim().parse().ok()?;
        match name.trim() {
            "cpu_utilization" => report.cpu = value,
            "application_utilization" => report.application = value,
            _ => {}
        }
    }
    Some(report)
}

fn json(bytes: &[u8]) -> Option<Report> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let figure = |names: [&str; 2]| {
        let found = names.into_iter().find_map(|name| value.get(name));
        found.and_then(serde_json::Value::as_f64).unwrap_or(0.0)
    };
    value.is_object().then(|| Report {
        cpu: figure(["cpu_utilization", "cpuUtilization"]),
        application: figure(["application_utilization", "applicationUtilization"]),
    })
}

/// The message in base64. Fields 1 and 9 are the ones that count, both doubles.
fn binary(value: &[u8]) -> Option<Report> {
    if value.len() > LONGEST {
        return None;
    }
    let bytes = BASE64.decode(value.trim_ascii()).ok()?;
    let mut rest = &bytes[..];
    let mut report = Report::default();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => drop(varint(&mut rest)?),
            1 => {
                let (figure, after) = rest.split_first_chunk::<8>()?;
                rest = after;
                match tag >> 3 {
                    1 => report.cpu = f64::from_le_bytes(*figure),
                    9 => report.application = f64::from_le_bytes(*figure),
                    _ => {}
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(report)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &[u8], value: &[u8]) -> Option<f32> {
        let mut fields = Fields::new();
        fields.append(name, value);
        load(&fields)
    }

    #[test]
    fn every_form_is_read() {
        let field = b"Endpoint-Load-Metrics";
        let text = b"TEXT cpu_utilization=0.25, mem_utilization=0.9, named_metrics.x=3";
        assert_eq!(said(field, text), Some(0.25));
        let json = br#"JSON {"cpuUtilization": 0.25, "application_utilization": 0.5}"#;
        assert_eq!(
            said(field, json),
            Some(0.5),
            "the application's own comes first"
        );
        // cpu 0.25; a map entry {"a": 1.0}; application 0.75.
        let mut message = vec![0x09];
        message.extend(0.25f64.to_le_bytes());
        message.extend([0x22, 0x0c, 0x0a, 0x01, b'a', 0x11]);
        message.extend(1.0f64.to_le_bytes());
        message.push(0x49);
        message.extend(0.75f64.to_le_bytes());
        let padded = base64::prelude::BASE64_STANDARD.encode(&message);
        let bare = base64::prelude::BASE64_STANDARD_NO_PAD.encode(&message);
        assert_eq!(said(field, format!("BIN {padded}").as_bytes()), Some(0.75));
        assert_eq!(
            said(b"endpoint-load-metrics-bin", bare.as_bytes()),
            Some(0.75)
        );
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let field = b"endpoint-load-metrics";
        for value in [
            "",
            "0.5",
            "TEXT",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=much",
            "TEXT cpu_utilization=NaN",
            "TEXT cpu_utilization=-1",
            "TEXT cpu_utilization=0",
            "JSON [1]",
            "JSON {",
            "BIN !",
            "BIN CQ==",
            "BIN gICAgICAgICAgICAgA==",
            "XML <a/>",
        ] {
            assert_eq!(said(field, value.as_bytes()), None, "{value}");
        }
        let long = format!("TEXT cpu_utilization=0.5,{}", "a=1,".repeat(2000));
        assert_eq!(said(field, long.as_bytes()), None);
    }
}
