//! Trace contexts in lines `name: value`: what is taken can be passed on, in the same form.

use selvedge::message::{Fields, Known};
use selvedge::telemetry::trace::{Form, extract, inject};

pub(crate) fn trace(input: &[u8]) {
    let mut fields = Fields::new();
    for line in input.split(|b| *b == b'\n') {
        let at = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let value = line.get(at + 1..).unwrap_or_default().trim_ascii();
        fields.append(&line[..at], value);
    }
    let Some((context, form)) = extract(&fields) else {
        return;
    };
    assert!(context.trace != 0 && context.span != 0);
    inject(&mut fields, context, Some(context.span), form);
    let own = match form {
        Form::W3c => Known::Traceparent,
        Form::B3Single => Known::B3,
        Form::B3Multi => Known::XB3TraceId,
    };
    assert_eq!(fields.all(own).count(), 1);
    assert_eq!(extract(&fields), Some((context, form)));
}
