//! Hostile HTTP/2, row H2-01 of the battery: messages, by section 8 of RFC 9113, and header blocks, by RFC 7541.

use selvedge_tests::conformance::{Case, Want, case, only, post, run, with};
use selvedge_tests::hostile::both;
use selvedge_tests::http2::{
    COMPRESSION_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, block, data, field, headers, request,
};

use Want::{Connection, Malformed, Served, Stream};

const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
const COMPRESSION: Want = Connection(&[COMPRESSION_ERROR]);

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const HOST: (&str, &str) = (":authority", "a");
const PATH: (&str, &str) = (":path", "/hostile");

/// Trailers.
fn trailers(fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    headers(1, &block(fields), end)
}

/// The head of a POST that says how long its body is.
fn long(length: &str) -> Vec<u8> {
    let length = [("content-length", length)];
    headers(1, &request("POST", "/hostile", &length), false)
}

#[test]
fn h2_01_section_8_1_messages() {
    let length = |n: &str| [("content-length", n.to_owned())];
    let whole = |n: &str| {
        let length = length(n);
        let fields = [(length[0].0, &*length[0].1)];
        headers(1, &request("POST", "/hostile", &fields), true)
    };
    let cases: Vec<Case> = vec![
        case(
            "8.1 trailers",
            &[post(), data(1, "x", false), trailers(&[("x", "y")], true)],
            Served,
        ),
        case(
            "8.1 trailers and no DATA",
            &[post(), trailers(&[("x", "y")], true)],
            Served,
        ),
        case(
            "8.1 trailers that do not end",
            &[post(), trailers(&[("x", "y")], false)],
            Stream(PROTOCOL),
        ),
        case(
            "8.1 DATA behind trailers",
            &[post(), trailers(&[("x", "y")], true), data(1, "x", true)],
            Stream(&[STREAM_CLOSED]),
        ),
        case(
            "8.1 a pseudo-field in trailers",
            &[post(), trailers(&[(":path", "/x")], true)],
            Stream(PROTOCOL),
        ),
        case(
            "8.1 upper case in trailers",
            &[post(), trailers(&[("X", "y")], true)],
            Stream(PROTOCOL),
        ),
        case("8.1.1 a length of nothing", &[whole("0")], Served),
        case(
            "8.1.1 as long as it says",
            &[long("4"), data(1, "ab", false), data(1, "cd", true)],
            Served,
        ),
        case(
            "8.1.1 as long as it says, with trailers",
            &[
                long("2"),
                data(1, "ab", false),
                trailers(&[("x", "y")], true),
            ],
            Served,
        ),
        case(
            "8.1.1 nothing though it says something",
            &[whole("1")],
            Malformed,
        ),
        case(
            "8.1.1 less than it says",
            &[long("4"), data(1, "ab", true)],
            Malformed,
        ),
        case(
            "8.1.1 less in two parts",
            &[long("4"), data(1, "a", false), data(1, "b", true)],
            Malformed,
        ),
        case(
            "8.1.1 less, with trailers",
            &[
                long("4"),
                data(1, "ab", false),
                trailers(&[("x", "y")], true),
            ],
            Malformed,
        ),
        case(
            "8.1.1 more than it says",
            &[long("1"), data(1, "ab", true)],
            Malformed,
        ),
        case(
            "8.1.1 more than nothing",
            &[long("0"), data(1, "a", true)],
            Stream(PROTOCOL),
        ),
        case(
            "8.1.1 two lengths",
            &[
                headers(
                    1,
                    &request(
                        "POST",
                        "/hostile",
                        &[("content-length", "1"), ("content-length", "2")],
                    ),
                    false,
                ),
                data(1, "a", true),
            ],
            Malformed,
        ),
        case("8.1.1 no number", &[whole("1x")], Malformed),
        case("8.1.1 a sign", &[whole("+0")], Malformed),
    ];
    both(|stage| run(stage, &cases));
}

#[test]
fn h2_01_section_8_2_fields() {
    let mut cases: Vec<Case> = vec![
        case(
            "8.2.2 te: trailers",
            &[with(&field("te", "trailers"))],
            Served,
        ),
        case("8.2.2 te: gzip", &[with(&field("te", "gzip"))], Malformed),
        case(
            "8.2.2 te: trailers, gzip",
            &[with(&field("te", "trailers, gzip"))],
            Malformed,
        ),
        case(
            "8.2.3 cookies in parts",
            &[with(&block(&[("cookie", "a=1"), ("cookie", "b=2")]))],
            Served,
        ),
        case("8.2 obs-text", &[with(&field("x", b"\xe9"))], Served),
        case("8.2 an empty value", &[with(&field("x", ""))], Served),
    ];
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        let id = format!("8.2.2 {name}");
        cases.push(case(&id, &[with(&field(name, "x"))], Malformed));
    }
    for name in [
        "X", "xY", "", "x y", "x:", "x\0", "x\r", "x\n", "x\x7f", "x\u{e9}", "x\t", "x\r\ny", "(x)",
    ] {
        let id = format!("8.2.1 name {name:?}");
        cases.push(case(&id, &[with(&field(name, "y"))], Malformed));
    }
    for value in [
        "\0",
        "a\0",
        "a\rb",
        "a\nb",
        "a\r\nb: c",
        " a",
        "a ",
        "\ta",
        "a\t",
    ] {
        let id = format!("8.2.1 value {value:?}");
        cases.push(case(&id, &[with(&field("x", value))], Malformed));
    }
    both(|stage| run(stage, &cases));
}

#[test]
fn h2_01_section_8_3_control_data() {
    let field = ("x", "y");
    let mut cases = Vec::new();
    for (name, fields, want) in [
        ("in any order", vec![PATH, HOST, METHOD, SCHEME], Served),
        (
            "host instead of :authority",
            vec![METHOD, SCHEME, PATH, ("host", "a")],
            Served,
        ),
        (
            "host beside :authority",
            vec![METHOD, SCHEME, HOST, PATH, ("host", "a")],
            Served,
        ),
        (
            "host unlike :authority",
            vec![METHOD, SCHEME, HOST, PATH, ("host", "b")],
            Malformed,
        ),
        (
            "unknown",
            vec![METHOD, SCHEME, HOST, PATH, (":x", "y")],
            Malformed,
        ),
        (
            ":status",
            vec![METHOD, SCHEME, HOST, PATH, (":status", "200")],
            Malformed,
        ),
        (
            ":path behind a field",
            vec![METHOD, SCHEME, HOST, field, PATH],
            Malformed,
        ),
        (
            ":method behind a field",
            vec![SCHEME, HOST, PATH, field, METHOD],
            Malformed,
        ),
        (
            "two :method",
            vec![METHOD, METHOD, SCHEME, HOST, PATH],
            Malformed,
        ),
        (
            "two :scheme",
            vec![METHOD, SCHEME, SCHEME, HOST, PATH],
            Malformed,
        ),
        (
            "two :authority",
            vec![METHOD, SCHEME, HOST, HOST, PATH],
            Malformed,
        ),
        (
            "two :path",
            vec![METHOD, SCHEME, HOST, PATH, PATH],
            Malformed,
        ),
        ("no :method", vec![SCHEME, HOST, PATH], Malformed),
        ("no :scheme", vec![METHOD, HOST, PATH], Malformed),
        ("no :path", vec![METHOD, SCHEME, HOST], Malformed),
        (
            "no :authority and no host",
            vec![METHOD, SCHEME, PATH],
            Malformed,
        ),
        (
            "an empty :path",
            vec![METHOD, SCHEME, HOST, (":path", "")],
            Malformed,
        ),
        (
            "an empty :method",
            vec![(":method", ""), SCHEME, HOST, PATH],
            Malformed,
        ),
        (
            "an empty :authority",
            vec![METHOD, SCHEME, (":authority", ""), PATH],
            Malformed,
        ),
        (
            "a user in :authority",
            vec![METHOD, SCHEME, (":authority", "u@a"), PATH],
            Malformed,
        ),
        (
            "a :path that is none",
            vec![METHOD, SCHEME, HOST, (":path", "hostile")],
            Malformed,
        ),
        (
            "a fragment",
            vec![METHOD, SCHEME, HOST, (":path", "/hostile#x")],
            Malformed,
        ),
        (
            "a space in :path",
            vec![METHOD, SCHEME, HOST, (":path", "/hostile x")],
            Malformed,
        ),
        (
            "a line in :path",
            vec![METHOD, SCHEME, HOST, (":path", "/hostile\r\nx: y")],
            Malformed,
        ),
        (
            "a space in :method",
            vec![(":method", "GET /hostile"), SCHEME, HOST, PATH],
            Malformed,
        ),
        (
            "upper case",
            vec![(":Method", "GET"), SCHEME, HOST, PATH],
            Malformed,
        ),
    ] {
        cases.push(case(&format!("8.3 {name}"), &[only(&fields)], want));
    }
    both(|stage| run(stage, &cases));
}

#[test]
fn h2_01_hpack() {
    let table = |bytes: &[&[u8]]| with(&bytes.concat());
    // First in a block, where a change of the table's size belongs.
    let first =
        |bytes: &[u8]| headers(1, &[bytes, &request("GET", "/hostile", &[])].concat(), true);
    let indexed = b"\x40\x01x\x01y";
    let cases: Vec<Case> = vec![
        case(
            "2.3.3 an index of the static table",
            &[table(&[&[0x80 | 16]])],
            Served,
        ),
        case(
            "2.3.3 an index of the dynamic table",
            &[table(&[indexed, &[0x80 | 62]])],
            Served,
        ),
        case(
            "2.3.3 one beyond the dynamic table",
            &[table(&[indexed, &[0x80 | 63]])],
            COMPRESSION,
        ),
        case(
            "2.3.3 beyond the static table",
            &[table(&[&[0x80 | 62]])],
            COMPRESSION,
        ),
        case(
            "2.3.3 a name beyond the table",
            &[table(&[&[0x40 | 62, 1, b'y']])],
            COMPRESSION,
        ),
        case(
            "4.2 to nothing and back",
            &[first(&[0x20, 0x3f, 0xe1, 0x1f])],
            Served,
        ),
        case(
            "4.2 nothing is left of a table without room",
            &[headers(
                1,
                &[
                    &[0x20],
                    &request("GET", "/hostile", &[])[..],
                    indexed,
                    &[0x80 | 62],
                ]
                .concat(),
                true,
            )],
            COMPRESSION,
        ),
        case("4.2 behind a field", &[table(&[&[0x20]])], COMPRESSION),
        case(
            "4.2 between fields",
            &[table(&[&[0x20], indexed])],
            COMPRESSION,
        ),
        case(
            "5.1 an integer without end",
            &[table(&[&[0xff; 12]])],
            COMPRESSION,
        ),
        case(
            "5.1 an integer too large",
            &[table(&[&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]])],
            COMPRESSION,
        ),
        case("5.1 half an integer", &[table(&[&[0xff]])], COMPRESSION),
        case("5.2 Huffman", &[table(&[b"\x00\x01x\x81\x1f"])], Served),
        case(
            "5.2 Huffman in a name",
            &[table(&[b"\x00\x81\x1f\x01y"])],
            Served,
        ),
        case(
            "5.2 padding that is no EOS",
            &[table(&[b"\x00\x01x\x81\x18"])],
            COMPRESSION,
        ),
        case(
            "5.2 padding of eleven bits",
            &[table(&[b"\x00\x01x\x82\x1f\xff"])],
            COMPRESSION,
        ),
        case(
            "5.2 padding of a whole byte",
            &[table(&[b"\x00\x01x\x81\xff"])],
            COMPRESSION,
        ),
        case(
            "5.2 EOS",
            &[table(&[b"\x00\x01x\x84\xff\xff\xff\xff"])],
            COMPRESSION,
        ),
        case(
            "5.2 a string longer than the block",
            &[table(&[b"\x00\x01x\x05y"])],
            COMPRESSION,
        ),
        case(
            "5.2 a name longer than the block",
            &[table(&[b"\x00\x7fx"])],
            COMPRESSION,
        ),
        case(
            "5.2 half a string of Huffman",
            &[table(&[b"\x00\x01x\x85\x1f"])],
            COMPRESSION,
        ),
        case("6.1 index 0", &[table(&[&[0x80]])], COMPRESSION),
        case("6.2.1 with indexing", &[table(&[indexed])], Served),
        case(
            "6.2.2 without indexing",
            &[table(&[b"\x00\x01x\x01y"])],
            Served,
        ),
        case(
            "6.2.3 never indexed",
            &[table(&[b"\x10\x01x\x01y"])],
            Served,
        ),
        case("6.2 no value", &[table(&[b"\x00\x01x"])], COMPRESSION),
        case(
            "6.3 the largest table",
            &[first(&[0x3f, 0xe1, 0x1f])],
            Served,
        ),
        case(
            "6.3 one byte more",
            &[first(&[0x3f, 0xe2, 0x1f])],
            COMPRESSION,
        ),
        case(
            "6.3 far more",
            &[first(&[0x3f, 0xff, 0xff, 0xff, 0x07])],
            COMPRESSION,
        ),
    ];
    both(|stage| run(stage, &cases));
}
