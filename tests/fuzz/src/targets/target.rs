//! Where a request points: paths, hosts, and the patterns that hosts are held against.

use bytes::Bytes;
use selvedge::message::target::EncodedSlash;
use selvedge::message::{Host, Target};
use selvedge_gateway::hostname::Pattern;

/// A path in normal form has one form only, and nothing in it that a server behind could climb by.
pub(crate) fn path(input: &[u8]) {
    // A request line holds nothing else (`parse::request_line`, `http2::request::target`).
    let mut text: Vec<u8> = input.iter().copied().filter(u8::is_ascii_graphic).collect();
    let _ = Target::parse(Bytes::from(text.clone()), EncodedSlash::Refuse);
    text.insert(0, b'/');
    let query = text
        .iter()
        .position(|b| *b == b'?')
        .map(|at| text[at + 1..].to_vec());
    for slash in [EncodedSlash::Refuse, EncodedSlash::Keep] {
        let Ok(target) = Target::parse(Bytes::from(text.clone()), slash) else {
            continue;
        };
        let path = target.path();
        assert_eq!(
            target.query().as_bytes(),
            query.as_deref().unwrap_or_default()
        );
        assert!(path.starts_with('/'), "{path}");
        assert!(
            !path.contains("//") && !path.contains(['\\', '#', '?']),
            "{path}"
        );
        for segment in path.split('/') {
            let name = segment.split(';').next().unwrap_or_default();
            assert!(!matches!(name, "." | ".."), "{path}");
        }
        for escape in path.split('%').skip(1) {
            let digits = escape.get(..2).expect("two digits");
            let capital = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
            assert!(digits.bytes().all(capital), "{path}");
            let byte = u8::from_str_radix(digits, 16).unwrap();
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            assert!(!plain && byte != 0, "{path}");
            let is_slash = matches!(byte, b'/' | b'\\');
            assert!(!is_slash || slash == EncodedSlash::Keep, "{path}");
        }
        let again = Target::parse(target.text().clone(), slash);
        assert_eq!(again.as_ref(), Ok(&target));
    }
}

/// A host that is accepted is a name or an address, with or without a port, in one form.
pub(crate) fn host(input: &[u8]) {
    let Ok(host) = Host::parse(Bytes::copy_from_slice(input)) else {
        return;
    };
    let text = host.as_str();
    assert_eq!(text.as_bytes(), input.to_ascii_lowercase());
    assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
    assert!(
        !text.contains(['@', '/', ',', '\\', '%', '?', '#', '"']),
        "{text}"
    );
    let name = host.name();
    assert!(text.starts_with(name));
    match host.port() {
        Some(port) => {
            let (_, digits) = text.rsplit_once(':').expect("a port");
            assert_eq!(digits.parse(), Ok(port));
        }
        None => assert!(text.len() - name.len() <= 1, "{text}"),
    }
    assert!(!name.contains(':') || name.starts_with('['));
    assert_eq!(
        Host::parse(Bytes::copy_from_slice(text.as_bytes())),
        Ok(host)
    );
}

/// Two patterns and hosts, in lines: what both fit, their intersection fits, and nothing else.
pub(crate) fn pattern(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut next = || lines.next()?.parse::<Pattern>().ok();
    let (Some(one), Some(other)) = (next(), next()) else {
        return;
    };
    let both = one.intersect(&other);
    assert_eq!(both, other.intersect(&one));
    let names = lines.map(str::to_ascii_lowercase);
    // The patterns themselves lie where they might fit.
    let near = [&one, &other].map(|p| p.to_string().replace('*', "x"));
    for host in names.chain(near) {
        let fits = both.as_ref().is_some_and(|both| both.fits(&host));
        assert_eq!(one.fits(&host) && other.fits(&host), fits, "{host}");
    }
    for pattern in [one, other] {
        assert_eq!(pattern.to_string().parse::<Pattern>(), Ok(pattern));
    }
}
