//! Line charts: curves over steps or lengths.

use serde::{Deserialize, Deserializer, Serialize};

use crate::axis::{Axis, Scale};
use crate::plot::Plot;
use crate::svg::{Drawing, Face, Form, ROUND, segment, short, text_width};
use crate::text::truncate;
use crate::theme::{Inks, LIGHT};

/// Points that a curve is drawn with at most.
const MOST_POINTS: usize = 400;
/// Curves with more points than this are drawn without markers.
const MOST_MARKERS: usize = 40;

/// One or more curves over a common axis. Points that are not finite, or not positive on a logarithmic axis,
/// are left out and break their curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LineChart {
    /// Heading.
    pub title: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// What y is, with its unit. If it holds `%`, y is a fraction and its ticks are percents: 0.5 reads 50.
    pub y_label: String,
    /// How x becomes a place: on powers of two for lengths.
    pub x_scale: Scale,
    /// How y does.
    pub y_scale: Scale,
    /// Ends of the y axis; from the data if absent, not finite or empty.
    pub y_range: Option<(f64, f64)>,
    /// The curves, in the order of the legend.
    pub series: Vec<Series>,
    /// Levels to compare with, e.g. what guessing gives: (name, y).
    pub reference_lines: Vec<(String, f64)>,
    /// Places where something changes, e.g. where a forecast begins: (name, x).
    #[serde(default)]
    pub marks: Vec<(String, f64)>,
    /// What the reader should see in it.
    pub caption: String,
}

/// A curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// (x, y) in the order of x.
    #[serde(deserialize_with = "or_nan")]
    pub points: Vec<(f64, f64)>,
    /// The ends of each point's interval on the y axis, as [`crate::Share::interval`] gives; may be empty. Bars
    /// where points have markers (up to 40 points), else a band.
    #[serde(deserialize_with = "or_nan")]
    pub intervals: Vec<(f64, f64)>,
}

/// JSON has no numbers that are not finite: they are `null` there.
fn or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(f64, f64)>, D::Error> {
    let pairs = Vec::<(Option<f64>, Option<f64>)>::deserialize(from)?.into_iter();
    let known = |value: Option<f64>| value.unwrap_or(f64::NAN);
    Ok(pairs.map(|(x, y)| (known(x), known(y))).collect())
}

impl Series {
    fn has_markers(&self) -> bool {
        self.points.len() <= MOST_MARKERS
    }

    /// A bar with caps at each point, from end to end of its interval.
    fn interval_bars(&self, plot: &Plot) -> String {
        let bar = |(&(x, _), &(low, high)): (&(f64, f64), &(f64, f64))| {
            let (at, from) = plot.locate((x, low))?;
            let (_, to) = plot.locate((x, high))?;
            let [x, from, to] = [at - 3.0, from, to].map(short);
            Some(format!("M{x} {from}h6m-3 0V{to}m-3 0h6"))
        };
        let bars = self.points.iter().zip(&self.intervals);
        bars.filter_map(bar).collect()
    }

    /// The outline of all intervals: their high ends, and back along the low ones.
    fn interval_band(&self, plot: &Plot) -> String {
        let pairs = || self.points.iter().zip(&self.intervals);
        let known = || pairs().filter(|(_, (low, high))| low.is_finite() && high.is_finite());
        let low: Vec<_> = known().map(|(point, ends)| (point.0, ends.0)).collect();
        let high: Vec<_> = known().map(|(point, ends)| (point.0, ends.1)).collect();
        let [low, high] = [low, high].map(|ends| thin(&ends, MOST_POINTS));
        let outline = high.into_iter().chain(low.into_iter().rev());
        let places: Vec<_> = outline.map(|point| plot.locate(point)).collect();
        polyline(&places)
    }
}

impl LineChart {
    /// The chart as an SVG file of its own.
    pub fn to_svg(&self, form: Form) -> String {
        let drawing = self.draw(form.width(), &LIGHT);
        drawing.into_file(form, &self.title, &self.caption)
    }

    pub(super) fn draw(&self, width: f64, inks: &Inks) -> Drawing {
        let mut drawing = Drawing::new(width);
        let legend = self.legend(&mut drawing, inks);
        let plot = self.lay_out(width, legend);
        plot.frame(&mut drawing, inks, [&self.x_label, &self.y_label]);
        self.references(&mut drawing, &plot, inks);
        self.curves(&mut drawing, &plot, inks);
        drawing.height = plot.bottom() + 40.0;
        drawing
    }

    fn lay_out(&self, width: f64, legend: f64) -> Plot {
        let y = self.y_axis();
        let corner = (Plot::left_of(y.label_width()), legend + 24.0);
        let marks = || self.marks.iter().map(|mark| mark.1);
        let xs = || self.points().map(|point| point.0).chain(marks());
        let x = |most| Axis::over(self.x_scale, xs(), most, false, 1.0);
        Plot::new(width, corner, (width * 0.46).clamp(190.0, 420.0), x, y)
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(|s| s.points.iter().copied())
    }

    fn y_axis(&self) -> Axis {
        let scale = self.y_scale;
        let percents = self.y_label.contains('%');
        let factor = if percents { 100.0 } else { 1.0 };
        let usable = |(low, high): &(f64, f64)| {
            scale.apply(*low).is_some() && scale.apply(*low) < scale.apply(*high)
        };
        match self.y_range.filter(usable) {
            Some((low, high)) => Axis::over(scale, [low, high].into_iter(), 6, false, factor),
            None => {
                let levels = self.reference_lines.iter().map(|(_, y)| *y);
                let intervals = self.series.iter().flat_map(|it| &it.intervals);
                let ends = intervals.flat_map(|(low, high)| [*low, *high]);
                let ys = self.points().map(|p| p.1).chain(levels).chain(ends);
                Axis::over(scale, ys, 7, true, factor)
            }
        }
    }

    /// Names the curves, and the lines to compare with, in rows on top; returns the height that this took. A lone
    /// curve is named by the y axis.
    fn legend(&self, drawing: &mut Drawing, inks: &Inks) -> f64 {
        let is_lone = self.series.len() == 1;
        let named = self.series.iter().enumerate().filter(|_| !is_lone);
        let curves = named.map(|(i, it)| (&it.name, Style::of(i, inks), it.has_markers(), "h24"));
        let levels = self.reference_lines.iter().map(|(name, _)| (name, "h24"));
        let marks = self.marks.iter().map(|(name, _)| (name, "m12 5v-14"));
        let lines = levels.chain(marks).enumerate();
        let lines = lines.map(|(i, (name, sample))| (name, Style::of_line(i, inks), false, sample));
        let (mut x, mut y) = (2.0, 14.0);
        for (name, style, has_markers, sample) in curves.chain(lines) {
            let name = truncate(name, 36);
            let width = 31.0 + text_width(&name) + 14.0;
            if x > 2.0 && x + width > drawing.width {
                (x, y) = (2.0, y + 18.0);
            }
            let sample = format!("M{} {}{sample}", short(x), short(y - 4.0));
            drawing.stroke(&sample, style.colour, style.width, &[ROUND, style.dash]);
            if has_markers {
                drawing.fill(&style.marker((x + 12.0, y - 4.0)), style.colour);
            }
            drawing.text(x + 31.0, y, &Face::new(inks.ink), &name);
            x += width;
        }
        if x > 2.0 { y + 10.0 } else { 0.0 }
    }

    fn references(&self, drawing: &mut Drawing, plot: &Plot, inks: &Inks) {
        let levels = self.reference_lines.iter().map(|(_, level)| {
            let y = plot.y_at(plot.y.place_on(*level)?);
            Some(segment((plot.left, y), (plot.right(), y)))
        });
        let marks = self.marks.iter().map(|(_, mark)| {
            let x = plot.x_at(plot.x.place_on(*mark)?);
            Some(segment((x, plot.top), (x, plot.bottom())))
        });
        for (index, line) in levels.chain(marks).enumerate() {
            let style = Style::of_line(index, inks);
            let line = line.unwrap_or_default();
            drawing.stroke(&line, style.colour, style.width, &[style.dash]);
        }
    }

    fn curves(&self, drawing: &mut Drawing, plot: &Plot, inks: &Inks) {
        // The frame clips the curves, with room for the half of a line or marker that stands on an edge.
        let [x, y] = [plot.left - 6.0, plot.top - 6.0].map(short);
        let [width, height] = [plot.width + 12.0, plot.height + 12.0].map(short);
        drawing.shapes += &format!(
            "<svg x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" viewBox=\"{x} {y} {width} {height}\">\n"
        );
        for (index, series) in self.series.iter().enumerate() {
            let style = Style::of(index, inks);
            let points = thin(&series.points, MOST_POINTS).into_iter();
            let places: Vec<_> = points.map(|point| plot.locate(point)).collect();
            if !series.has_markers() && !series.intervals.is_empty() {
                let (band, colour) = (series.interval_band(plot), style.colour);
                drawing.shapes +=
                    &format!("<path d=\"{band}\" fill=\"{colour}\" fill-opacity=\"0.2\"/>\n");
            }
            let (path, dash) = (polyline(&places), [ROUND, style.dash]);
            drawing.stroke(&path, style.colour, 1.5, &dash);
            if series.has_markers() {
                let bars = series.interval_bars(plot);
                drawing.stroke(&bars, style.colour, 1.2, &[r#" stroke-opacity="0.6""#]);
                let markers = places.iter().flatten().map(|&at| style.marker(at));
                drawing.fill(&markers.collect::<String>(), style.colour);
            }
        }
        drawing.shapes += "</svg>\n";
    }
}

/// A path through the places, broken where there is none.
fn polyline(places: &[Option<(f64, f64)>]) -> String {
    let mut path = String::new();
    let mut pen = 'M';
    for place in places {
        pen = match place {
            Some((x, y)) => {
                path += &format!("{pen}{} {}", short(*x), short(*y));
                'L'
            }
            None => 'M',
        };
    }
    path
}

/// How a curve is told from the others: by colour, by marker, and by dashes once the colours are used up.
struct Style {
    colour: &'static str,
    width: f64,
    dash: &'static str,
    shape: usize,
}

/// Patterns of dashes, the first of none.
const DASHES: [&str; 3] = [
    "",
    r#" stroke-dasharray="7 4""#,
    r#" stroke-dasharray="2 4""#,
];

impl Style {
    fn of(index: usize, inks: &Inks) -> Self {
        let colours = inks.curves();
        let round = index / colours.len();
        Style {
            colour: colours[index % colours.len()],
            width: 2.0,
            dash: DASHES[round % 3],
            shape: (index + round) % 4,
        }
    }

    /// A line to compare with: thin and dashed.
    fn of_line(index: usize, inks: &Inks) -> Self {
        Style {
            colour: inks.muted,
            width: 1.2,
            dash: DASHES[1 + index % 2],
            shape: 0,
        }
    }

    /// A dot, square, triangle or diamond, all about equally heavy.
    fn marker(&self, (x, y): (f64, f64)) -> String {
        let at = |dx: f64, dy: f64| format!("M{} {}", short(x + dx), short(y + dy));
        match self.shape {
            0 => at(-3.5, 0.0) + "a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
            1 => at(-3.1, -3.1) + "h6.2v6.2h-6.2z",
            2 => at(0.0, -4.2) + "l4.2 7.2h-8.4z",
            _ => at(0.0, -4.4) + "l4.4 4.4l-4.4 4.4l-4.4 -4.4z",
        }
    }
}

/// At most `most` of the points (`most` ≥ 4): the first, the last, and of each stretch between them the lowest and
/// the highest, so that no spike is lost. Points that are not finite count only if a stretch has no others.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let last = points.len() - 1;
    let stretches = most / 2 - 1;
    let mut kept = vec![points[0]];
    for stretch in 0..stretches {
        let start = |stretch| 1 + stretch * (last - 1) / stretches;
        let indices = start(stretch)..start(stretch + 1);
        let finite = || indices.clone().filter(|&i| points[i].1.is_finite());
        let low = finite().min_by(|&a, &b| points[a].1.total_cmp(&points[b].1));
        let high = finite().max_by(|&a, &b| points[a].1.total_cmp(&points[b].1));
        match (low, high) {
            (Some(low), Some(high)) if low != high => {
                kept.extend([points[low.min(high)], points[low.max(high)]])
            }
            (Some(only), _) => kept.push(points[only]),
            _ => kept.push(points[indices.start]),
        }
    }
    kept.push(points[last]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_ends_and_every_spike() {
        let mut points: Vec<_> = (0..10_000)
            .map(|i| (f64::from(i), f64::from(i % 7)))
            .collect();
        points[4321].1 = 99.0;
        points[8765].1 = -99.0;
        points[17].1 = f64::NAN;
        let thinned = thin(&points, 400);
        assert!(thinned.len() <= 400);
        assert_eq!(
            (thinned[0], thinned[thinned.len() - 1]),
            (points[0], points[9999])
        );
        assert!(thinned.contains(&points[4321]) && thinned.contains(&points[8765]));
        assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn an_interval_is_a_bar_from_its_low_end_to_its_high_end() {
        let series = Series {
            points: vec![(1.0, 0.5), (2.0, 1.0), (3.0, f64::NAN)],
            intervals: vec![(0.25, 0.75), (0.9, 1.0)],
            ..Series::default()
        };
        let plot = Plot {
            left: 0.0,
            top: 0.0,
            width: 100.0,
            height: 100.0,
            x: Axis::over(Scale::Linear, [1.0, 3.0].into_iter(), 2, false, 1.0),
            y: Axis::over(Scale::Linear, [0.0, 1.0].into_iter(), 2, false, 1.0),
        };
        assert_eq!(
            series.interval_bars(&plot),
            "M-3 75h6m-3 0V25m-3 0h6M47 10h6m-3 0V0m-3 0h6"
        );
    }

    #[test]
    fn a_value_that_is_not_finite_breaks_its_curve() {
        let points = vec![(1.0, 1.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, 3.0)];
        let chart = LineChart {
            series: vec![Series {
                name: "a".into(),
                points,
                ..Series::default()
            }],
            ..LineChart::default()
        };
        let svg = chart.to_svg(Form::Page);
        let curve = svg
            .lines()
            .find(|line| line.contains("stroke-linejoin"))
            .unwrap();
        assert_eq!(
            (curve.matches('M').count(), curve.matches('L').count()),
            (2, 1)
        );
    }
}
