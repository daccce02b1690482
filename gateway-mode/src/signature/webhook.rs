//! Signatures of webhooks: HMAC-SHA256 over a body, with a time and an ID or without.

use super::{Claim, Form, Refusal, SIGNATURES, base64, is_fresh};

/// Longest ID and longest header in bytes.
const TEXT: usize = 2048;

/// Reads what a webhook claims. `header` gives the value of a header that is there once.
///
/// # Errors
/// [`Refusal`].
pub fn read<'a>(
    form: Form,
    header: impl Fn(&str) -> Option<&'a [u8]>,
    now: u64,
    age: u64,
) -> Result<Claim, Refusal> {
    let text = |name: &str| {
        let value = header(name).ok_or(Refusal::Missing)?;
        let text = std::str::from_utf8(value).map_err(|_| Refusal::Malformed)?;
        match text.len() {
            0..=TEXT => Ok(text.trim()),
            _ => Err(Refusal::Malformed),
        }
    };
    let (before, signatures) = match form {
        Form::GitHub | Form::Message => {
            let value = text("x-hub-signature-256")?;
            let tag = value.strip_prefix("sha256=").and_then(hex);
            (String::new(), vec![tag.ok_or(Refusal::Malformed)?])
        }
        Form::Stripe => stripe(text("stripe-signature")?, now, age)?,
        Form::StandardWebhooks => {
            let (id, time) = (text("webhook-id")?, text("webhook-timestamp")?);
            fresh(time, now, age)?;
            // Otherwise what is one's end could be the other's beginning.
            if id.is_empty() || id.contains('.') {
                return Err(Refusal::Malformed);
            }
            let all = text("webhook-signature")?.split(' ');
            let ours = all.filter_map(|each| base64(each.strip_prefix("v1,")?));
            (format!("{id}.{time}."), ours.take(SIGNATURES).collect())
        }
    };
    if signatures.is_empty() {
        return Err(Refusal::Malformed);
    }
    Ok(Claim {
        key: None,
        before: before.into_bytes(),
        body: true,
        digests: Vec::new(),
        signatures,
        covered: Vec::new(),
    })
}

/// `t=1492774577,v1=5257a8…,v0=…`: what stands under `v1` counts.
fn stripe(value: &str, now: u64, age: u64) -> Result<(String, Vec<Vec<u8>>), Refusal> {
    let (mut time, mut signatures) = (None, Vec::new());
    for part in value.split(',') {
        match part.trim().split_once('=') {
            Some(("t", text)) if time.replace(text).is_some() => return Err(Refusal::Malformed),
            Some(("v1", tag)) => signatures.push(hex(tag).ok_or(Refusal::Malformed)?),
            Some(_) => {}
            None => return Err(Refusal::Malformed),
        }
    }
    signatures.truncate(SIGNATURES);
    let time = time.ok_or(Refusal::Malformed)?;
    fresh(time, now, age)?;
    Ok((format!("{time}."), signatures))
}

fn fresh(time: &str, now: u64, age: u64) -> Result<(), Refusal> {
    let digits = !time.is_empty() && time.bytes().all(|b| b.is_ascii_digit());
    let time: u64 = match digits {
        true => time.parse().map_err(|_| Refusal::Malformed)?,
        false => return Err(Refusal::Malformed),
    };
    match is_fresh(time, now, age) {
        true => Ok(()),
        false => Err(Refusal::Stale),
    }
}

/// The 32 bytes of an HMAC-SHA256.
fn hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    fn judge(
        form: Form,
        secret: &str,
        headers: &[(&str, &str)],
        body: &str,
        now: u64,
    ) -> Result<(), Refusal> {
        let header = |name: &str| {
            let found = headers.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.as_bytes())
        };
        let claim = read(form, header, now, 300)?;
        claim.holds(body.as_bytes(), [&Secret::read(form, secret).unwrap()])
    }

    // The example of GitHub's documentation.
    const GITHUB: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn github() {
        let secret = "It's a Secret to Everybody";
        let github = |value: &str, body: &str| {
            let headers = [("x-hub-signature-256", value)];
            judge(Form::GitHub, secret, &headers, body, 0)
        };
        assert_eq!(github(GITHUB, "Hello, World!"), Ok(()));
        assert_eq!(github(GITHUB, "Hello, World"), Err(Refusal::Wrong));
        for bad in [
            "",
            "sha256=",
            "sha1=00",
            &GITHUB[7..],
            &GITHUB[..70],
            "sha256=+1",
        ] {
            assert_eq!(
                github(bad, "Hello, World!"),
                Err(Refusal::Malformed),
                "{bad}"
            );
        }
        let none = judge(Form::GitHub, secret, &[], "", 0);
        assert_eq!(none, Err(Refusal::Missing));
    }

    // The example of the Standard Webhooks libraries.
    #[test]
    fn standard_webhooks() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let judge = |id: &str, time: &str, value: &str, now: u64| {
            let headers = [
                ("webhook-id", id),
                ("webhook-timestamp", time),
                ("webhook-signature", value),
            ];
            judge(
                Form::StandardWebhooks,
                secret,
                &headers,
                r#"{"test": 2432232314}"#,
                now,
            )
        };
        let time = "1614265330";
        let now = 1_614_265_330;
        assert_eq!(judge(id, time, good, now), Ok(()));
        assert_eq!(
            judge(id, time, &format!("v1a,AAAA v1,AAAA {good}"), now),
            Ok(())
        );
        assert_eq!(judge(id, time, good, now + 300), Ok(()));
        assert_eq!(judge(id, time, good, now + 301), Err(Refusal::Stale));
        assert_eq!(judge(id, time, good, now - 61), Err(Refusal::Stale));
        assert_eq!(judge("other", time, good, now), Err(Refusal::Wrong));
        assert_eq!(judge(id, "1614265331", good, now), Err(Refusal::Wrong));
        assert_eq!(judge("a.b", time, good, now), Err(Refusal::Malformed));
        for bad in ["", "v1", "v2,AAAA", "v1,!!"] {
            assert_eq!(judge(id, time, bad, now), Err(Refusal::Malformed), "{bad}");
        }
        for bad in ["", "+1614265330", "99999999999999999999", "x"] {
            assert_eq!(judge(id, bad, good, now), Err(Refusal::Malformed), "{bad}");
        }
    }

    #[test]
    fn stripe_signs_time_and_body() {
        use aws_lc_rs::hmac;
        let secret = "whsec_0123456789abcdef";
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tag = crate::apikey::hex(hmac::sign(&key, b"1000.{}").as_ref());
        let judge = |value: &str, now: u64| {
            judge(
                Form::Stripe,
                secret,
                &[("stripe-signature", value)],
                "{}",
                now,
            )
        };
        assert_eq!(judge(&format!("t=1000,v1={tag}"), 1100), Ok(()));
        let other = "0".repeat(64);
        let several = format!("t=1000,v1={other},v1={tag},v0={other}");
        assert_eq!(judge(&several, 1100), Ok(()));
        assert_eq!(
            judge(&format!("t=1001,v1={tag}"), 1100),
            Err(Refusal::Wrong)
        );
        assert_eq!(
            judge(&format!("t=1000,v0={tag}"), 1100),
            Err(Refusal::Malformed)
        );
        assert_eq!(
            judge(&format!("t=1000,v1={tag}"), 1301),
            Err(Refusal::Stale)
        );
        for bad in ["", "t=1000", "v1=", "t=1000,t=1000,v1=00", "t=1000,v1=00"] {
            assert_eq!(judge(bad, 1000), Err(Refusal::Malformed), "{bad}");
        }
    }
}
