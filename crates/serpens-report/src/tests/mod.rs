//! Tests of the page and of the maps as a whole.

mod figures;
mod fixtures;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::text::display_width;

/// The names of the elements still open at the end, or the first closing tag that does not match.
fn unbalanced(markup: &str) -> Result<(), String> {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    for element in markup.split('<').skip(1) {
        let Some((tag, _)) = element.split_once('>') else {
            return Err(format!("<{element} is never closed"));
        };
        let name = tag.split([' ', '/']).next().unwrap_or("");
        if let Some(closing) = tag.strip_prefix('/') {
            if open.pop() != Some(closing) {
                return Err(format!("</{closing}> closes nothing"));
            }
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(format!("left open: {open:?}"))
    }
}

fn strip_colour(text: &str) -> String {
    let stretches = text.split('\x1b').enumerate();
    stretches
        .map(|(i, stretch)| {
            if i == 0 {
                stretch
            } else {
                stretch.split_once('m').map_or("", |p| p.1)
            }
        })
        .collect()
}

fn hostile_numbers() -> Vec<f32> {
    vec![
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -1.0,
        f32::MAX,
        f32::MIN_POSITIVE,
        0.5,
    ]
}

#[test]
fn a_full_report_is_balanced_and_needs_nothing_from_elsewhere() {
    let html = fixtures::report().to_html();
    unbalanced(&html).unwrap();
    for forbidden in [
        "<script", "http://", "https://", "url(", "@import", "NaN", "inf\"",
    ] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    for expected in [
        "65,536",
        "chance, 1/15",
        "Layer 12",
        "--steps 20000",
        "learning_rate",
        "prefers-color-scheme",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
}

#[test]
fn an_empty_report_is_balanced() {
    unbalanced(&Report::default().to_html()).unwrap();
    let hollow = Report {
        figures: vec![
            LineChart::default().into(),
            LineChart {
                series: vec![Series::default(); 9],
                ..LineChart::default()
            }
            .into(),
            ConfusionMatrix::default().into(),
            Sound::default().into(),
        ],
        tables: vec![Table::default()],
        maps: vec![
            TokenFigure::default(),
            TokenMap {
                layers: vec![
                    LayerMap::Selection(LayerSelection::default()),
                    LayerMap::Attention(LayerAttention::default()),
                ],
                ..fixtures::prompt()
            }
            .figure(),
        ],
        ..Report::default()
    };
    let html = hollow.to_html();
    unbalanced(&html).unwrap();
    assert!(!html.contains("NaN"));
}

#[test]
fn text_from_outside_never_becomes_markup() {
    let evil = "<img src=x onerror=\"alert('1')\">&".to_string();
    let mut report = fixtures::report();
    for text in [
        &mut report.title,
        &mut report.summary,
        &mut report.date,
        &mut report.command,
        &mut report.config_toml,
    ] {
        *text = evil.clone();
    }
    let mut charts = fixtures::charts();
    for chart in &mut charts {
        (chart.title, chart.x_label, chart.y_label, chart.caption) =
            (evil.clone(), evil.clone(), evil.clone(), evil.clone());
        chart.series[0].name = evil.clone();
        chart.reference_lines[0].0 = evil.clone();
        chart.marks = vec![(evil.clone(), 100.0)];
    }
    report.figures = charts.into_iter().map(Figure::from).collect();
    let (mut matrix, mut sound) = (fixtures::matrix(10, 50), fixtures::sound());
    (matrix.title, matrix.caption, matrix.classes[0]) = (evil.clone(), evil.clone(), evil.clone());
    (sound.title, sound.caption) = (evil.clone(), evil.clone());
    report.figures.extend([matrix.into(), sound.into()]);
    let table = &mut report.tables[0];
    (
        table.title,
        table.caption,
        table.header[0],
        table.rows[0][0],
    ) = (evil.clone(), evil.clone(), evil.clone(), evil.clone());
    let mut map = fixtures::prompt();
    (map.title, map.caption, map.tokens[0]) = (evil.clone(), evil.clone(), evil.clone());
    fixtures::steps(&mut map.layers[0]).name = evil.clone();
    let attention = LayerAttention::new(evil.clone(), 1, map.tokens.len());
    map.layers.push(LayerMap::Attention(attention));
    report.maps = vec![map.figure()];
    report.texts = vec![(evil.clone(), evil.clone())];
    report.machine = vec![(evil.clone(), evil)];
    let html = report.to_html();
    unbalanced(&html).unwrap();
    assert!(
        !html.contains("<img")
            && html.contains("&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;")
    );
}

#[test]
fn numbers_that_are_not_finite_leave_no_trace_in_the_figures() {
    let hostile: Vec<f64> = hostile_numbers()
        .into_iter()
        .map(f64::from)
        .chain([f64::MAX, f64::MIN])
        .collect();
    let points: Vec<_> = hostile
        .iter()
        .flat_map(|x| hostile.iter().map(|y| (*x, *y)))
        .collect();
    for (x_scale, y_scale) in [(Scale::Linear, Scale::Linear), (Scale::Log2, Scale::Log10)] {
        for y_range in [
            None,
            Some((f64::NAN, 1.0)),
            Some((1.0, 1.0)),
            Some((2.0, f64::INFINITY)),
            Some((0.5, 0.1)),
        ] {
            let series = vec![
                Series {
                    name: "a".into(),
                    intervals: points.clone(),
                    points: points.clone(),
                },
                Series::default(),
            ];
            let reference_lines: Vec<_> =
                hostile.iter().map(|y| ("level".to_string(), *y)).collect();
            let chart = LineChart {
                x_scale,
                y_scale,
                y_range,
                series,
                marks: reference_lines.clone(),
                reference_lines,
                ..LineChart::default()
            };
            let svg = chart.to_svg(Form::Page);
            unbalanced(&svg).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}

#[test]
fn a_map_of_hostile_numbers_draws_and_prints() {
    let mut map = fixtures::prompt();
    let hostile = || hostile_numbers().into_iter().cycle();
    let layer = fixtures::steps(&mut map.layers[0]);
    layer.delta = hostile().take(36 * 768).collect();
    layer.retention.truncate(1000);
    fixtures::steps(&mut map.layers[1]).delta = vec![f32::NAN; 36 * 768];
    for weights in [hostile().take(36).collect(), vec![f32::NAN; 36]] {
        let mut layer = LayerAttention::new("attention".into(), 1, 36);
        (0..36).for_each(|query| layer.add(query, 0, &weights));
        map.layers.push(LayerMap::Attention(layer));
    }
    let svg = map.figure().to_svg(Form::Page);
    unbalanced(&svg).unwrap();
    assert!(!svg.contains("NaN") && !svg.contains("inf\""));
    let text = map.to_text(80, false);
    assert_eq!(text.matches("no values").count(), 2, "{text}");
    assert!(!text.contains("NaN"), "{text}");
}

#[test]
fn the_largest_map_stays_under_300_kilobytes_a_layer() {
    let map = fixtures::induction_heads(256, 1536);
    let bytes = map.figure().to_svg(Form::Page).len();
    assert!(bytes < 300_000 * map.layers.len(), "{bytes}");
    let long = fixtures::induction_heads(4000, 64)
        .figure()
        .to_svg(Form::Page)
        .len();
    assert!(long < 300_000 * 2, "{long}");
    for length in [255, 256, 4000] {
        let mut map = fixtures::hybrid(length);
        map.layers.drain(..1);
        map.layers.truncate(1);
        let bytes = map.figure().to_svg(Form::Page).len();
        assert!(bytes < 300_000, "{bytes}");
    }
}

#[test]
fn a_map_says_where_its_selective_tokens_are() {
    let map = fixtures::induction_heads(64, 128);
    let text = map.to_text(100, false);
    // Tokens 21 and 22 are the special one and the one after it: the only high blocks before the end.
    let row = text
        .lines()
        .find(|line| line.starts_with("Layer 1 ▁"))
        .unwrap();
    let blocks: Vec<char> = row.trim_start_matches("Layer 1 ").chars().collect();
    let high: Vec<usize> = (0..64)
        .filter(|&t| matches!(blocks[t], '▅' | '▆' | '▇' | '█'))
        .collect();
    assert_eq!(high, [21, 22, 63]);
}

#[test]
fn attention_is_drawn_between_the_layers_that_select() {
    let map = fixtures::hybrid(40);
    let svg = map.figure().to_svg(Form::Page);
    let places =
        ["Layer 1<", "Layer 2, attention<", "Layer 2<"].map(|name| svg.find(name).unwrap());
    assert!(places.is_sorted() && places[0] < places[1]);
    let panel = &svg[places[1]..places[2]];
    for words in [
        "2 heads",
        "← later queries",
        "weight in all from the tokens",
    ] {
        assert!(
            panel.contains(words) && !svg[..places[1]].contains(words),
            "{words}"
        );
    }
    // Each query's row, from the left up to itself.
    let cells = |path: &str| -> Vec<[f64; 3]> {
        let runs = path.split('M').skip(1);
        let run = |run: &str| {
            let numbers: Vec<f64> = run
                .split([' ', 'h'])
                .map(|number| number.parse().unwrap())
                .collect();
            numbers.try_into().unwrap()
        };
        runs.map(run).collect()
    };
    let mut ends = vec![0.0_f64; 40];
    let paths = panel.split("<path stroke=").skip(1);
    for path in paths.map(|path| {
        path.split("d=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
    }) {
        for [column, row, length] in cells(path) {
            ends[row as usize] = ends[row as usize].max(column + length.floor());
        }
    }
    assert!(
        ends.iter()
            .zip(1..)
            .all(|(end, token)| *end == f64::from(token)),
        "{ends:?}"
    );
    let text = map.to_text(100, false);
    let legends: Vec<&str> = text
        .lines()
        .skip(1)
        .take(3)
        .map(|line| line.split(" from ").next().unwrap())
        .collect();
    assert_eq!(legends[1], "Layer 2, attention weight in all");
    assert!(legends[0].starts_with("Layer 1 ") && legends[0].ends_with("mean Δ"));
}

#[test]
fn a_printed_map_keeps_to_its_width_whatever_its_tokens() {
    const LETTERS: [&str; 9] = [
        "a",
        "key",
        " ",
        "\n",
        "\t",
        "蛇",
        "🐍",
        "e\u{301}",
        "\u{1b}[31m",
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for _ in 0..200 {
        let mut word = |most: usize| -> String {
            let count = rng.random_range(0..=most);
            (0..count)
                .map(|_| LETTERS[rng.random_range(0..LETTERS.len())])
                .collect()
        };
        let (title, name) = (word(12), word(12));
        let length = word(9).len();
        let tokens: Vec<String> = (0..length).map(|_| word(6)).collect();
        let width = rng.random_range(0..120);
        let layer = LayerMap::Selection(LayerSelection {
            name,
            delta: (0..length * 2).map(|i| 0.01 + (i % 5) as f32).collect(),
            channels: 2,
            ..LayerSelection::default()
        });
        let map = TokenMap {
            title,
            tokens,
            layers: vec![layer],
            ..TokenMap::default()
        };
        let plain = map.to_text(width, false);
        assert!(
            plain
                .lines()
                .all(|line| display_width(line) <= width.max(24)),
            "{width}: {plain}"
        );
        assert!(!plain.contains('\x1b'), "{plain:?}");
        assert_eq!(strip_colour(&map.to_text(width, true)), plain);
    }
}

#[test]
fn a_report_that_was_kept_is_drawn_the_same() {
    let mut report = fixtures::report();
    let mut chart = fixtures::charts().remove(0);
    chart.series[0].points[3].1 = f64::NAN;
    report.figures[0] = chart.into();
    let kept = serde_json::to_string(&report).unwrap();
    let again: Report = serde_json::from_str(&kept).unwrap();
    assert!(report.to_html() == again.to_html());
    assert!(kept.len() < 600_000, "{}", kept.len());
}

/// A file may say what no run would.
#[test]
fn a_hostile_report_is_drawn() {
    let mut kept = serde_json::to_value(fixtures::report()).unwrap();
    let hostile = serde_json::json!([[null, 1e300, -1.0, 3e38], [], [0.0], [1.0, 1e-45]]);
    for layer in kept["maps"][0]["layers"].as_array_mut().unwrap() {
        layer["delta"] = hostile.clone();
        layer["retention"] = serde_json::json!([[1e300], vec![0.5; 1000]]);
        layer["means"] = serde_json::json!(vec![1e300; 500]);
        layer["channels"] = serde_json::json!(u64::MAX);
    }
    let figures = &mut kept["figures"];
    figures[2]["counts"] = serde_json::json!([[u64::MAX, 0], [], vec![u64::MAX; 500]]);
    let sound = &mut figures[3];
    sound["waveform"]["seconds"] = serde_json::json!(-1e300);
    sound["waveform"]["wav"] = serde_json::json!("\"><script>");
    sound["spectrogram"] = serde_json::json!(
        {"seconds": 1e308, "top": -1e300, "decibels": [1e300, -1e300], "png": "\"/><script>"}
    );
    let attention = &mut kept["maps"][2]["layers"][1];
    attention["weights"] = hostile;
    attention["heads"] = serde_json::json!(u64::MAX);
    kept["maps"][1]["layers"][0]["means"] = serde_json::json!([]);
    kept["maps"][1]["tokens"] = serde_json::json!(vec!["\u{202e}<x>"; 3000]);
    kept["maps"][1]["highlight"] = serde_json::json!(vec![true; 5000]);
    let report: Report = serde_json::from_value(kept).unwrap();
    let files = [Form::Page, Form::Paper(0.0)].map(|form| report.to_files(form));
    let drawn = files.concat().into_iter().map(|(_, svg)| svg);
    for svg in drawn.chain([report.to_html()]) {
        unbalanced(&svg).unwrap();
        for forbidden in ["NaN", "inf\"", ">inf", "<script"] {
            assert!(!svg.contains(forbidden), "{forbidden}: {svg}");
        }
    }
}

#[test]
fn a_file_follows_a_dark_page_and_a_paper_stays_white() {
    let report = fixtures::report();
    let (page, paper) = (
        report.to_files(Form::Page),
        report.to_files(Form::Paper(3.3)),
    );
    for ((_, page), (_, paper)) in page.iter().zip(&paper) {
        let dark = r##"@media (prefers-color-scheme:dark){[fill="#ffffff"]{fill:#14171b}"##;
        assert!(page.contains(dark) && !paper.contains("<style"));
        // Every colour of the drawing that is no value's is turned.
        for ink in ["#1b1f24", "#5d6670"] {
            assert!(page.contains(&format!("[fill=\"{ink}\"]")), "{ink}");
        }
        assert!(!paper.contains(&fixtures::charts()[0].caption) && !paper.contains("#ffffff"));
    }
}

#[test]
fn a_page_scrolls_a_long_map_and_explains_its_tokens() {
    let report = Report {
        maps: vec![fixtures::induction_heads(256, 16).figure()],
        ..Report::default()
    };
    let width = |html: &str| -> f64 {
        let svg = &html[html.find("<div class=\"wide\"><svg").unwrap()..];
        let width = svg.split("width=\"").nth(1).unwrap().split('"').next();
        width.unwrap().parse().unwrap()
    };
    let html = report.to_html();
    assert!(width(&html) > 256.0 * 11.0);
    // A fade says that it goes on. Beside a map that fits, it has room: the page does not scroll for it.
    for rule in [
        "max-width: 1104px",
        "padding: 40px 32px 64px",
        "width: 40px",
    ] {
        assert!(html.contains(rule), "{rule}");
    }
    let short = Report {
        maps: vec![fixtures::induction_heads(16, 16).figure()],
        ..Report::default()
    };
    assert_eq!(width(&short.to_html()), 1104.0 - 2.0 * 32.0 - 40.0);
    // Both layers explain each token; the largest bar is named.
    assert_eq!(html.matches("</title></path>").count(), 2 * 256);
    assert!(html.contains("“#” at position 85: mean Δ"));
    assert!(html.contains("mean Δ over the channels, at most "));
}

#[test]
fn levels_to_compare_with_are_named_away_from_the_points() {
    let svg = fixtures::report().figures[1].to_svg(Form::Page);
    let plot = svg.find("<svg x=").unwrap();
    let name = svg.find("chance, 1/15").unwrap();
    let first_tick = svg.find(">20</text>").unwrap();
    assert!(
        name < first_tick && first_tick < plot,
        "the name stands in the legend"
    );
}
