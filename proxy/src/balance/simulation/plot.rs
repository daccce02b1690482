//! Draws `docs/balancing.svg` from the simulation: `cargo test -p selvedge --lib draws -- --ignored`.

use std::fmt::Write;

use super::*;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/balancing.svg");

/// Text of the drawing, at a place.
fn text(svg: &mut String, x: f64, y: f64, text: &str) {
    writeln!(svg, r#"<text x="{x:.0}" y="{y:.0}">{text}</text>"#).unwrap();
}

/// Bars: the time that 99 of 100 requests stay below, with one slow endpoint in ten.
fn bars(svg: &mut String) {
    text(
        svg,
        20.0,
        24.0,
        "p99 with one of ten endpoints ten times slower (8 ms, 80 ms)",
    );
    let strategies = [
        ("random", Strategy::Random),
        ("roundRobin", Strategy::RoundRobin),
        ("ringHash", Strategy::Ring { bound: 125 }),
        ("leastConnections", Strategy::LeastConnections),
        ("leastRequest", LEAST_REQUEST),
        ("leastRequest, full", Strategy::LeastRequest { full: true }),
        ("responseTime", Strategy::ResponseTime),
    ];
    for (nth, (name, strategy)) in strategies.into_iter().enumerate() {
        let (y, time) = (40.0 + nth as f64 * 22.0, one_slow(strategy));
        let width = time.as_secs_f64() * 500.0;
        text(svg, 20.0, y + 13.0, name);
        writeln!(
            svg,
            r##"<rect x="160" y="{y:.0}" width="{width:.0}" height="16" fill="#3b6ea5"/>"##
        )
        .unwrap();
        let value = format!("{} ms", time.as_millis());
        text(svg, 166.0 + width, y + 13.0, &value);
    }
}

/// Lines: what a new endpoint gets of its share while it starts slowly.
fn ramps(svg: &mut String) {
    let place = |second: u64, share: f64| {
        let second = second.min(31) as f64;
        format!("{:.0},{:.0}", 160.0 + second * 14.0, 420.0 - share * 160.0)
    };
    text(
        svg,
        20.0,
        236.0,
        "Share of a new endpoint in its slow start (seconds; grey: 10 % to 100 % in 30 s)",
    );
    let lines = [
        ("leastRequest", LEAST_REQUEST, "#3b6ea5"),
        ("roundRobin", Strategy::RoundRobin, "#2e8b57"),
        ("maglev", UNBOUND_MAGLEV, "#b5651d"),
    ];
    for share in [0.1, 0.5, 1.0] {
        let y = 420.0 - share * 160.0;
        text(svg, 110.0, y + 4.0, &format!("{:.0} %", share * 100.0));
    }
    for second in [0u64, 10, 20, 30] {
        text(
            svg,
            156.0 + second as f64 * 14.0,
            440.0,
            &second.to_string(),
        );
    }
    let mut line = |points: &[String], colour: &str, width: u32| {
        let points = points.join(" ");
        writeln!(
            svg,
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#
        )
        .unwrap();
    };
    line(&[place(0, 0.1), place(30, 1.0)], "#bbbbbb", 6);
    for (_, strategy, colour) in lines {
        let points = ramp(strategy).into_iter().take(8);
        let points: Vec<_> = points
            .map(|(second, share, _)| place(second, share))
            .collect();
        line(&points, colour, 2);
    }
    for (nth, (name, _, colour)) in lines.into_iter().enumerate() {
        let y = 270 + nth * 20;
        writeln!(
            svg,
            r#"<rect x="180" y="{}" width="20" height="3" fill="{colour}"/>"#,
            y - 5
        )
        .unwrap();
        text(svg, 206.0, y as f64, name);
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "writes a file of the documentation"]
async fn draws_the_plot() {
    let mut svg = String::from(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 460" font-family="sans-serif" font-size="12">
<rect width="700" height="460" fill="white"/>
"#,
    );
    bars(&mut svg);
    ramps(&mut svg);
    svg.push_str("</svg>\n");
    std::fs::write(FILE, svg).unwrap();
}
