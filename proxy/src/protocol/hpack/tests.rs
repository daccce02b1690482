//! HPACK as a whole: the examples of RFC 7541 appendix C, and noise.

use bytes::BytesMut;

use super::huffman::tests::encode as huffman;
use super::{Decoder, Error, Header, Name, encode};
use crate::message::Known;

type Text = (String, String);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Text>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, 4096, |field| {
        assert_eq!(field.kind, Name::classify(field.name));
        assert!(!field.too_long);
        fields.push((text(field.name), text(field.value)));
    })?;
    Ok(fields)
}

fn table(decoder: &Decoder) -> Vec<Text> {
    (0..)
        .map_while(|at| decoder.table_entry(at))
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// One block of appendix C: what it says, the dynamic table after it, and the size of that.
struct Example {
    block: &'static str,
    fields: &'static [(&'static str, &'static str)],
    table: &'static [(&'static str, &'static str)],
    size: usize,
}

fn check(decoder: &mut Decoder, examples: &[Example]) {
    let owned = |list: &[(&str, &str)]| -> Vec<Text> {
        let pairs = list.iter();
        pairs.map(|(n, v)| ((*n).into(), (*v).into())).collect()
    };
    for example in examples {
        let got = fields(decoder, &bytes(example.block)).unwrap();
        assert_eq!(got, owned(example.fields));
        assert_eq!(table(decoder), owned(example.table));
        assert_eq!(decoder.table_size(), example.size);
    }
}

#[test]
fn c_2_header_field_representations() {
    for (block, field, indexed, size) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            ("custom-key", "custom-header"),
            true,
            55,
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            (":path", "/sample/path"),
            false,
            0,
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            ("password", "secret"),
            false,
            0,
        ),
        ("82", (":method", "GET"), false, 0),
    ] {
        let mut decoder = Decoder::new(4096);
        let field = [(field.0.to_owned(), field.1.to_owned())];
        let got = fields(&mut decoder, &bytes(block)).unwrap();
        assert_eq!(got, field);
        assert_eq!(table(&decoder), &field[..usize::from(indexed)]);
        assert_eq!(decoder.table_size(), size);
    }
}

/// Appendix C.3 and C.4 say the same, without and with Huffman codes.
fn requests(blocks: [&'static str; 3]) {
    let [first, second, third] = blocks;
    let examples = [
        Example {
            block: first,
            fields: &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "www.example.com"),
            ],
            table: &[(":authority", "www.example.com")],
            size: 57,
        },
        Example {
            block: second,
            fields: &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "www.example.com"),
                ("cache-control", "no-cache"),
            ],
            table: &[
                ("cache-control", "no-cache"),
                (":authority", "www.example.com"),
            ],
            size: 110,
        },
        Example {
            block: third,
            fields: &[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                (":authority", "www.example.com"),
                ("custom-key", "custom-value"),
            ],
            table: &[
                ("custom-key", "custom-value"),
                ("cache-control", "no-cache"),
                (":authority", "www.example.com"),
            ],
            size: 164,
        },
    ];
    check(&mut Decoder::new(4096), &examples);
}

#[test]
fn c_3_requests_without_huffman() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c_4_requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

/// Appendix C.5 and C.6 say the same, without and with Huffman codes, in a table of 256 bytes.
fn responses(blocks: [&'static str; 3]) {
    const FIRST_DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    const SECOND_DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
    const LOCATION: (&str, &str) = ("location", "https://www.example.com");
    const PRIVATE: (&str, &str) = ("cache-control", "private");
    const COOKIE: (&str, &str) = (
        "set-cookie",
        "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    );
    const GZIP: (&str, &str) = ("content-encoding", "gzip");
    let [first, second, third] = blocks;
    let examples = [
        Example {
            block: first,
            fields: &[(":status", "302"), PRIVATE, FIRST_DATE, LOCATION],
            table: &[LOCATION, FIRST_DATE, PRIVATE, (":status", "302")],
            size: 222,
        },
        Example {
            block: second,
            fields: &[(":status", "307"), PRIVATE, FIRST_DATE, LOCATION],
            table: &[(":status", "307"), LOCATION, FIRST_DATE, PRIVATE],
            size: 222,
        },
        Example {
            block: third,
            fields: &[
                (":status", "200"),
                PRIVATE,
                SECOND_DATE,
                LOCATION,
                GZIP,
                COOKIE,
            ],
            table: &[COOKIE, GZIP, SECOND_DATE],
            size: 215,
        },
    ];
    let mut decoder = Decoder::new(4096);
    assert_eq!(fields(&mut decoder, &bytes("3fe1 01")), Ok(Vec::new()));
    check(&mut decoder, &examples);
}

#[test]
fn c_5_responses_without_huffman() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
         6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
         54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
         5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
         3d31",
    ]);
}

#[test]
fn c_6_responses_with_huffman() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

/// Marsaglia's xorshift: the noise is the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> usize {
        (self.next() % end) as usize
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

const FIELD_NAMES: [&str; 8] = [
    "Host",
    "X-Request-Id",
    "cookie",
    "Set-Cookie",
    "Authorization",
    "Accept",
    "te",
    "X-Something-Else",
];

#[test]
fn what_the_encoder_writes_is_what_the_decoder_reads() {
    let mut noise = Noise(0x5e1_7ed6e);
    let mut decoder = Decoder::new(4096);
    for _ in 0..5_000 {
        let mut out = BytesMut::new();
        let mut want: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut wrote = |name: &[u8], value: &[u8]| {
            want.push((name.to_ascii_lowercase(), value.to_vec()));
        };
        let status = 100 + noise.below(900);
        encode::put_status(&mut out, status as u16);
        wrote(b":status", status.to_string().as_bytes());
        let pseudo = noise.bytes(300);
        encode::put_method(&mut out, &pseudo);
        wrote(b":method", &pseudo);
        encode::put_path(&mut out, &pseudo);
        wrote(b":path", &pseudo);
        encode::put_authority(&mut out, &pseudo);
        wrote(b":authority", &pseudo);
        encode::put_protocol(&mut out, &pseudo);
        wrote(b":protocol", &pseudo);
        for _ in 0..noise.below(20) {
            let name = FIELD_NAMES[noise.below(8)].as_bytes();
            let value = noise.bytes(200);
            encode::put_field(&mut out, Known::classify(name), name, &value);
            wrote(name, &value);
        }
        let mut got = Vec::new();
        let each = |field: Header<'_>| got.push((field.name.to_vec(), field.value.to_vec()));
        decoder.decode(&out, 1 << 16, each).unwrap();
        assert_eq!(got, want);
        assert_eq!(decoder.table_size(), 0);
    }
}

/// Writes a literal with or without Huffman codes, as a hostile but correct peer would.
fn put_string(block: &mut Vec<u8>, text: &[u8], coded: bool) {
    let bytes = if coded { huffman(text) } else { text.to_vec() };
    let mark = if coded { 0x80 } else { 0 };
    if bytes.len() < 127 {
        block.push(mark | bytes.len() as u8);
    } else {
        let rest = bytes.len() - 127;
        block.extend([mark | 127, (rest % 128) as u8 | 128, (rest / 128) as u8]);
    }
    block.extend(bytes);
}

#[test]
fn the_table_is_that_of_a_plain_model() {
    let mut noise = Noise(0xde_c0de);
    let mut decoder = Decoder::new(4096);
    let mut model: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut max_size = 4096;
    for _ in 0..20_000 {
        let mut block = Vec::new();
        let mut want = Vec::new();
        if noise.below(50) == 0 {
            max_size = noise.below(2) * 4000 + 60;
            let rest = max_size - 31;
            block.extend([0x3f, (rest % 128) as u8 | 128, (rest / 128) as u8]);
        }
        let fit = |model: &mut Vec<(Vec<u8>, Vec<u8>)>, max_size| {
            let mut size = 0;
            let sizes = model.iter().map(|(n, v)| n.len() + v.len() + 32);
            let keep = sizes.take_while(|s| {
                size += s;
                size <= max_size
            });
            let keep = keep.count();
            model.truncate(keep);
        };
        fit(&mut model, max_size);
        for _ in 0..noise.below(4) {
            let at = noise.below(80);
            let value = noise.bytes(300);
            let coded = noise.below(2) == 0;
            match (noise.below(3), model.get(at).cloned()) {
                (0, Some(entry)) if at < 60 => {
                    block.push(0x80 | (62 + at) as u8);
                    want.push(entry);
                }
                (1, Some((name, _))) => {
                    if at == 0 {
                        block.push(0x40 | 62);
                    } else {
                        block.extend([0x7f, (at - 1) as u8]);
                    }
                    put_string(&mut block, &value, coded);
                    model.insert(0, (name.clone(), value.clone()));
                    want.push((name, value));
                }
                _ => {
                    let name = noise.bytes(20);
                    block.push(0x40);
                    put_string(&mut block, &name, !coded);
                    put_string(&mut block, &value, coded);
                    model.insert(0, (name.clone(), value.clone()));
                    want.push((name, value));
                }
            }
            fit(&mut model, max_size);
        }
        let mut got = Vec::new();
        let each = |field: Header<'_>| got.push((field.name.to_vec(), field.value.to_vec()));
        decoder.decode(&block, 4096, each).unwrap();
        assert_eq!(got, want);
        let entries = (0..).map_while(|at| decoder.table_entry(at));
        let entries: Vec<_> = entries.map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        assert_eq!(entries, model);
    }
}

#[test]
fn noise_never_panics_and_never_outgrows_the_table() {
    let mut noise = Noise(0x0ddba11);
    let mut decoder = Decoder::new(4096);
    let mut read = 0;
    for round in 0..200_000 {
        let mut block = noise.bytes(60);
        // Noise alone hardly ever gets past its first string.
        if round % 2 == 0 {
            block.splice(0..0, *b"\x82\x41\x82\xf1\xe3\x40\x02ab\x03cde\xbe");
        }
        let each = |field: Header<'_>| {
            let longest = field.name.len().max(field.value.len());
            assert_eq!(field.too_long, longest > 32);
        };
        match decoder.decode(&block, 32, each) {
            Ok(()) => read += 1,
            // What a real connection does, in some rounds: the table must hold even if not.
            Err(_) if round % 16 == 0 => decoder = Decoder::new(4096),
            Err(_) => {}
        }
        assert!(decoder.table_size() <= 4096);
    }
    assert!(read > 1_000, "{read}");
}
