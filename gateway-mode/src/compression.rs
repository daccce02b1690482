//! Compression of responses: which coding a client and a response agree on (RFC 9110 section 12.5.3).

/// A content coding that this gateway can apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Zstandard (RFC 8878).
    Zstd,
    /// Brotli (RFC 7932).
    Brotli,
    /// gzip (RFC 1952).
    Gzip,
}

impl Coding {
    /// Its name in `Content-Encoding`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    fn is(self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.name())
            || self == Self::Gzip && name.eq_ignore_ascii_case("x-gzip")
    }
}

/// A weight in thousandths (RFC 9110 section 12.4.2); what is not well formed is 0.
fn weight(text: &str) -> u16 {
    let text = text.trim();
    let Some(rest) = text.strip_prefix("0.").or_else(|| text.strip_prefix("1.")) else {
        return match text {
            "1" => 1000,
            _ => 0,
        };
    };
    if rest.len() > 3 || !rest.bytes().all(|b| b.is_ascii_digit()) {
        return 0;
    }
    if text.starts_with('1') {
        return 1000;
    }
    format!("{rest:0<3}").parse().unwrap_or(0)
}

/// The coding with the greatest weight in `Accept-Encoding`; of equal ones, the first that `offered`
/// names. None if the client takes none of them, or likes the plain form better.
#[must_use]
pub fn negotiate(accepted: &str, offered: &[Coding]) -> Option<Coding> {
    let mut any = None;
    let mut plain = None;
    let mut own: Vec<(usize, u16)> = Vec::with_capacity(offered.len());
    for item in accepted.split(',').take(32) {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let name = name.trim();
        let weight = match parameters.trim().split_once('=') {
            None if parameters.trim().is_empty() => 1000,
            Some((q, value)) if q.trim().eq_ignore_ascii_case("q") => weight(value),
            _ => 0,
        };
        match name {
            "*" => any = Some(weight),
            _ if name.eq_ignore_ascii_case("identity") => plain = Some(weight),
            _ => own.extend(
                offered
                    .iter()
                    .position(|coding| coding.is(name))
                    .map(|at| (at, weight)),
            ),
        }
    }
    let mut best: Option<(u16, Coding)> = None;
    for (at, coding) in offered.iter().enumerate() {
        let said = own.iter().find(|(of, _)| *of == at).map(|(_, w)| *w);
        let weight = said.or(any).unwrap_or(0);
        if weight > best.map_or(0, |(best, _)| best) {
            best = Some((weight, *coding));
        }
    }
    best.filter(|(weight, _)| plain.is_none_or(|plain| plain <= *weight))
        .map(|(_, coding)| coding)
}

/// Whether a media type is one of these: exact, `text/*`, or `*+json` for a suffix. Parameters and
/// case do not count. gRPC never is: its messages have a compression of their own.
#[must_use]
pub fn is_type(content_type: &str, types: &[String]) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if essence.starts_with("application/grpc") {
        return false;
    }
    types.iter().any(|wanted| match wanted.strip_suffix("/*") {
        Some(major) => essence.split_once('/').is_some_and(|(m, _)| m == major),
        None => match wanted.strip_prefix('*') {
            Some(suffix) => essence.ends_with(suffix),
            None => essence == *wanted,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_s_weights_come_first_then_our_order() {
        let all = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
        for (accepted, want) in [
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip;q=1.0, br;q=0.9", Some(Coding::Gzip)),
            ("GZIP", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.5, zstd;q=0", Some(Coding::Brotli)),
            ("gzip;q=0", None),
            ("gzip;q=0.000", None),
            ("gzip;q=0.001", Some(Coding::Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some(Coding::Gzip)),
            ("deflate", None),
            ("", None),
            ("gzip;q=2", None),
            ("gzip;q=0.1234", None),
            ("gzip; q = 0.5", Some(Coding::Gzip)),
            ("gzip;level=9", None),
        ] {
            assert_eq!(negotiate(accepted, &all), want, "{accepted}");
        }
        assert_eq!(negotiate("zstd, gzip", &[Coding::Gzip]), Some(Coding::Gzip));
    }

    #[test]
    fn types() {
        let types = ["text/*", "application/json", "*+json"].map(str::to_owned);
        for (text, want) in [
            ("text/html; charset=utf-8", true),
            ("Application/JSON", true),
            ("application/problem+json", true),
            ("textual/html", false),
            ("image/png", false),
            ("application/grpc+json", false),
            ("", false),
        ] {
            assert_eq!(is_type(text, &types), want, "{text}");
        }
    }
}
