//! Confusion matrices, sounds and forecasts.

use super::{fixtures, hostile_numbers, unbalanced};
use crate::*;

/// The value of an attribute wherever it follows `before`.
fn attributes<'a>(svg: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let rests = svg.split(before).skip(1);
    rests.map(|rest| rest.split('"').next().unwrap())
}

fn is_drawn(figure: &Figure) {
    for form in [Form::Page, Form::Paper(3.3), Form::Paper(0.0)] {
        let svg = figure.to_svg(form);
        unbalanced(&svg).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
    }
    let figures = vec![figure.clone()];
    let report = Report {
        figures,
        ..Report::default()
    };
    unbalanced(&report.to_html()).unwrap();
    let kept = serde_json::to_string(&report).unwrap();
    let again: Report = serde_json::from_str(&kept).unwrap();
    assert!(report.to_html() == again.to_html(), "{kept}");
}

#[test]
fn a_matrix_tells_counts_totals_and_names() {
    let svg = Figure::from(fixtures::matrix(3, 2000)).to_svg(Form::Page);
    for text in [
        "1,600",
        "400",
        "2,000",
        "digit 2",
        "true class",
        "answered",
        "total",
    ] {
        assert!(svg.contains(&format!(">{text}</text>")), "{text}");
    }
    assert!(
        !svg.contains(">0</text>\n<text"),
        "cells of nothing stay empty"
    );
    // A hundred classes have no room for their counts, but all of them have for some names.
    let svg = Figure::from(fixtures::matrix(100, 50)).to_svg(Form::Page);
    assert!(!svg.contains(">40</text>") && svg.contains(">digit 98</text>"));
    assert!(svg.len() < 60_000, "{}", svg.len());
}

#[test]
fn cells_are_shaded_by_their_share_of_the_row() {
    let matrix = |counts: [u64; 6]| ConfusionMatrix {
        classes: (0..6).map(|class| class.to_string()).collect(),
        counts: vec![counts.to_vec()],
        ..ConfusionMatrix::default()
    };
    let shades = |counts| {
        let svg = Figure::from(matrix(counts)).to_svg(Form::Page);
        let cells = svg.split("<path stroke=").skip(1).map(|path| {
            let opacity = attributes(path, "stroke-opacity=\"").next().unwrap();
            let column = attributes(path, " d=\"M").next().unwrap();
            (column[..1].parse().unwrap(), opacity.parse().unwrap())
        });
        cells.collect::<Vec<(usize, f64)>>()
    };
    let mut shades = shades([0, 1, 20, 100, 300, 579]);
    shades.sort_by_key(|cell| cell.0);
    let ink: Vec<f64> = shades.iter().map(|cell| cell.1).collect();
    assert_eq!(ink.len(), 6, "each cell has its shade: {shades:?}");
    // The first is the ground of all cells of nothing.
    assert!(ink[1..].is_sorted_by(|a, b| a < b), "{ink:?}");
    assert!(ink[1] > 0.1 && ink[5] < 0.55, "{ink:?}");
}

#[test]
fn any_matrix_is_drawn() {
    let names = |count: usize| vec!["a".to_owned(); count];
    for (classes, counts) in [
        (names(1), vec![vec![u64::MAX]]),
        (names(2), vec![vec![u64::MAX; 2]; 2]),
        (names(2), vec![]),
        (
            names(3),
            vec![vec![1], vec![], vec![1, 2, 3, 4], vec![9; 5]],
        ),
        (names(300), vec![vec![7; 300]; 300]),
        (names(100_000), vec![vec![1; 100_000]]),
        (vec![], vec![vec![1]]),
        (
            vec!["蛇".repeat(500), String::new()],
            vec![vec![3, 0], vec![0, 3]],
        ),
    ] {
        is_drawn(
            &ConfusionMatrix {
                classes,
                counts,
                ..ConfusionMatrix::default()
            }
            .into(),
        );
    }
}

#[test]
fn a_large_matrix_has_the_width_of_the_page() {
    let page = |classes| {
        let figures = vec![fixtures::matrix(classes, 50).into()];
        Report {
            figures,
            ..Report::default()
        }
        .to_html()
    };
    assert!(page(13).contains("<div class=\"wide\"><svg width=\"1000\""));
    assert!(page(12).contains("<figure>\n<h3>Which digit was heard</h3>\n<svg width=\"420\""));
}

#[test]
fn a_sound_stands_over_its_spectrum_and_is_played() {
    let report = Report {
        figures: vec![fixtures::sound().into()],
        ..Report::default()
    };
    let html = report.to_html();
    let parts = [
        "amplitude",
        "frequency, kHz",
        " dB<",
        "data:image/png;base64,iVBORw0KGgo",
    ];
    let places = parts.map(|part| html.find(part).unwrap());
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(html.matches("time, s").count(), 1, "one axis of time");
    assert!(
        html.contains("<audio controls aria-label=\"A tone\" src=\"data:audio/wav;base64,UklGR")
    );
}

#[test]
fn a_wave_keeps_every_spike_and_little_else() {
    let mut samples = vec![0.0; 3_000_000];
    (samples[1_234_567], samples[2_000_000]) = (0.75, -0.5);
    let waveform = Waveform::new(&samples, 48_000);
    let sound = Sound {
        waveform,
        ..Sound::default()
    };
    // 350,000 samples of two bytes, in base64.
    let kept = serde_json::to_string(&sound).unwrap().len();
    assert!((930_000..970_000).contains(&kept), "{kept}");
    let svg = Figure::from(sound).to_svg(Form::Page);
    let line = attributes(&svg, "<path d=\"")
        .max_by_key(|path| path.len())
        .unwrap();
    let heights: Vec<f64> = line
        .split(['M', 'L'])
        .skip(1)
        .map(|column| {
            let ends = column.split_once(' ').unwrap().1.split_once('V').unwrap();
            ends.1.parse::<f64>().unwrap() - ends.0.parse::<f64>().unwrap()
        })
        .collect();
    let mut spikes: Vec<f64> = heights.into_iter().filter(|height| *height > 0.0).collect();
    spikes.sort_by(f64::total_cmp);
    // On an axis from -1 to 1, 72 pixels high.
    assert_eq!(spikes.len(), 2);
    assert!(
        (spikes[0] - 18.0).abs() < 0.05 && (spikes[1] - 27.0).abs() < 0.05,
        "{spikes:?}"
    );
}

#[test]
fn any_sound_is_drawn() {
    let hostile = hostile_numbers();
    let long = vec![0.1; 20_000];
    let samples = [&[][..], &[0.5], &[f32::NAN; 3], &hostile, &long];
    let spectra = [
        vec![],
        vec![vec![]],
        vec![vec![-20.0]],
        vec![hostile.clone(); 3],
        vec![vec![f32::NEG_INFINITY; 5]; 5],
        vec![vec![1.0, 2.0], vec![], vec![3.0; 9]],
        vec![long.clone(), long.clone()],
        vec![vec![-3.0; 3]; 5000],
    ];
    for (rate, hop) in [(0, 0), (16_000, 160), (u32::MAX, usize::MAX)] {
        for (samples, columns) in samples.iter().cycle().zip(&spectra) {
            let sound = Sound {
                waveform: Waveform::new(samples, rate),
                spectrogram: Spectrogram::new(columns, rate, hop),
                ..Sound::default()
            };
            is_drawn(&sound.into());
        }
    }
}

#[test]
fn a_spectrum_is_kept_small() {
    let columns = vec![vec![-30.0; 1025]; 5000];
    let spectrogram = Spectrogram::new(&columns, 44_100, 441);
    let kept = serde_json::to_string(&spectrogram).unwrap().len();
    assert!((70_000..110_000).contains(&kept), "{kept}");
}

#[test]
#[cfg(feature = "paper")]
fn a_spectrum_is_drawn_for_a_paper_with_the_high_pitches_on_top() {
    let column = [vec![-80.0; 64], vec![0.0; 64]].concat();
    let sound = Sound {
        spectrogram: Spectrogram::new(&vec![column; 100], 8000, 80),
        ..Sound::default()
    };
    let png = paper::to_png(&Figure::from(sound).to_svg(Form::Paper(3.3))).unwrap();
    let drawn = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
    let at = |share: f32| {
        let pixel = drawn.pixel(500, (share * drawn.height() as f32) as u32);
        let pixel = pixel.unwrap();
        u32::from(pixel.red()) + u32::from(pixel.green()) + u32::from(pixel.blue())
    };
    // From cream to near black.
    assert!(at(0.3) > 600 && at(0.6) < 150, "{} {}", at(0.3), at(0.6));
}

#[test]
fn a_forecast_has_a_band_and_the_place_where_it_begins() {
    let points: Vec<_> = (0..90).map(|x| (f64::from(x), 5.0)).collect();
    let forecast = Series {
        name: "forecast".into(),
        intervals: points.iter().map(|(x, y)| (y - x, y + x)).collect(),
        points,
    };
    let chart = LineChart {
        series: vec![Series::default(), forecast],
        marks: vec![("forecast begins".into(), 30.0)],
        ..LineChart::default()
    };
    let svg = chart.to_svg(Form::Page);
    assert_eq!(svg.matches("fill-opacity=\"0.2\"").count(), 1);
    assert!(svg.contains(">forecast begins</text>"));
    // The axis holds the band, down from 5 + 89.
    assert!(
        svg.contains(">100</text>") && svg.contains(">−100</text>"),
        "{svg}"
    );
    // Besides the ticks, which are short, one line is upright: at a third of the axis.
    let upright = attributes(&svg, "<path d=\"").filter_map(|path| {
        let (from, to) = path.strip_prefix('M')?.split_once('L')?;
        let numbers = |at: &str| at.split(' ').map(|n| n.parse::<f64>().ok()).collect();
        let [from, to]: [Option<Vec<f64>>; 2] = [from, to].map(numbers);
        let (from, to) = (from?, to?);
        (from[0] == to[0] && to[1] - from[1] > 100.0).then_some(from[0])
    });
    let upright: Vec<f64> = upright.collect();
    assert!(
        upright.len() == 1 && (300.0..360.0).contains(&upright[0]),
        "{upright:?}"
    );
    let hollow = Series {
        intervals: vec![(f64::NAN, 1.0); 90],
        ..chart.series[1].clone()
    };
    is_drawn(
        &LineChart {
            series: vec![hollow],
            ..LineChart::default()
        }
        .into(),
    );
}

/// As it was written before there were other figures than charts.
#[test]
fn an_old_report_opens() {
    let old = r#"{"title":"A run","summary":"","date":"","figures":[{"title":"Loss","x_label":"step",
        "y_label":"nats","x_scale":"linear","y_scale":"log10","y_range":null,"series":[{"name":"training",
        "points":[[0.0,2.5],[1.0,null]],"intervals":[]}],"reference_lines":[["uniform guess",2.7]],
        "caption":"Every step."}],"tables":[],"maps":[],"texts":[],"command":"","machine":[],"config_toml":""}"#;
    let report: Report = serde_json::from_str(old).unwrap();
    let [Figure::Lines(chart)] = &report.figures[..] else {
        panic!("{:?}", report.figures);
    };
    assert_eq!(chart.series[0].points[0], (0.0, 2.5));
    assert!(chart.series[0].points[1].1.is_nan() && chart.marks.is_empty());
    assert!(report.to_html().contains("uniform guess"));
}
