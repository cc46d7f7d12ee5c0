//! A chart as inline SVG. Colours come from the page's style sheet, which supports light and dark; there is no script.

use std::fmt::Write;

/// The scale of an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Linear, from zero.
    Linear,
    /// Logarithmic.
    Logarithmic,
}

/// One curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: &'static str,
    /// From left to right; `None` interrupts the curve.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A chart.
pub struct Chart<'c> {
    /// Title.
    pub title: &'c str,
    /// One sentence on what the values are.
    pub caption: &'c str,
    /// Scale of x.
    pub x_scale: Scale,
    /// Tick label of an x value.
    pub x_label: &'c dyn Fn(f64) -> String,
    /// Scale of y.
    pub y_scale: Scale,
    /// Tick label of a y value.
    pub y_label: &'c dyn Fn(f64) -> String,
    /// The curves. The first is drawn on top.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;

/// An axis: its range of values and of coordinates.
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, begin: f64, end: f64) -> Self {
        let (mut from, mut to) = values.fold((f64::MAX, f64::MIN), |(from, to), v| (from.min(v), to.max(v)));
        match scale {
            Scale::Linear => {
                (from, to) = (from.min(0.0), if to > 0.0 { to } else { 1.0 });
                let step = step(to - from);
                to = (to / step).ceil() * step;
            }
            Scale::Logarithmic => {
                (from, to) = (from.max(1e-9), to.max(1e-9));
                (from, to) = (10_f64.powf(from.log10().floor()), 10_f64.powf(to.log10().ceil()));
                if to <= from {
                    to = from * 10.0;
                }
            }
        }
        Self { scale, from, to, begin, end }
    }

    /// The coordinate of a value.
    fn at(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => {
                (value.max(self.from).log10() - self.from.log10()) / (self.to.log10() - self.from.log10())
            }
        };
        self.begin + share.clamp(0.0, 1.0) * (self.end - self.begin)
    }

    fn ticks(&self) -> Vec<f64> {
        let count = |ticks: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few")]
            let count = ticks.round() as u32;
            count
        };
        match self.scale {
            Scale::Linear => {
                let step = step(self.to - self.from);
                (0..=count((self.to - self.from) / step))
                    .map(|tick| self.from + step * f64::from(tick))
                    .collect()
            }
            Scale::Logarithmic => {
                let decades = count((self.to / self.from).log10());
                (0..=decades).map(|tick| self.from * 10_f64.powi(i32::try_from(tick).unwrap_or(0))).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, for about five ticks in `range`.
fn step(range: f64) -> f64 {
    let rough = (range / 5.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= rough)
        .unwrap_or(power)
}

impl Chart<'_> {
    /// The chart with title and legend; empty if there are no values.
    pub fn figure(&self) -> String {
        let values = || self.series.iter().flat_map(|series| series.points.iter());
        if values().filter(|(_, y)| y.is_some()).count() < 2 {
            return String::new();
        }
        let x = Axis::new(self.x_scale, values().map(|&(x, _)| x), LEFT, WIDTH - RIGHT);
        let x = Axis { to: values().map(|&(x, _)| x).fold(f64::MIN, f64::max).max(x.from + 1e-9), ..x };
        let y = Axis::new(self.y_scale, values().filter_map(|&(_, y)| y), HEIGHT - BOTTOM, TOP);
        let mut svg = format!(
            "<figure>\n<figcaption><b>{}</b> {}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">\n",
            escaped(self.title),
            escaped(self.caption),
            escaped(self.title),
        );
        self.grid(&x, &y, &mut svg);
        for (index, series) in self.series.iter().enumerate().rev() {
            curve(series, index, &x, &y, &mut svg);
        }
        self.tips(&x, &mut svg);
        svg.push_str("</svg>\n<ul class=\"legend\">");
        for (index, series) in self.series.iter().enumerate() {
            let _ = write!(svg, "<li class=\"s{index}\">{}</li>", escaped(series.name));
        }
        svg.push_str("</ul>\n</figure>\n");
        svg
    }

    fn grid(&self, x: &Axis, y: &Axis, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in y.ticks() {
            let at = y.at(tick);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{:.0}\" y=\"{:.1}\" class=\"y\">{}</text>",
                LEFT - 8.0,
                at + 4.0,
                escaped(&(self.y_label)(tick)),
            );
        }
        for tick in x.ticks().into_iter().filter(|&tick| tick <= x.to * 1.0001) {
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{:.1} {TOP}V{bottom}\"/><text x=\"{:.1}\" y=\"{:.0}\" class=\"x\">{}</text>",
                x.at(tick),
                x.at(tick),
                bottom + 18.0,
                escaped(&(self.x_label)(tick)),
            );
        }
    }

    /// Tooltips: the values of all curves at one x.
    fn tips(&self, x: &Axis, svg: &mut String) {
        let Some(first) = self.series.first() else { return };
        for (index, &(at, _)) in first.points.iter().enumerate() {
            let before = index.checked_sub(1).map_or(at, |index| first.points[index].0);
            let after = first.points.get(index + 1).map_or(at, |point| point.0);
            let (left, right) = (x.at(at).midpoint(x.at(before)), x.at(at).midpoint(x.at(after)));
            let mut text = (self.x_label)(at);
            for series in &self.series {
                if let Some(&(_, Some(value))) = series.points.get(index) {
                    let _ = write!(text, "\n{} {}", series.name, (self.y_label)(value));
                }
            }
            let _ = writeln!(
                svg,
                "<rect class=\"tip\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\"><title>{}</title></rect>",
                (right - left).max(1.0),
                HEIGHT - TOP - BOTTOM,
                escaped(&text),
            );
        }
    }
}

fn curve(series: &Series, index: usize, x: &Axis, y: &Axis, svg: &mut String) {
    let mut path = String::new();
    let mut pen = 'M';
    for &(at, value) in &series.points {
        let Some(value) = value else {
            pen = 'M';
            continue;
        };
        let _ = write!(path, "{pen}{:.1} {:.1}", x.at(at), y.at(value));
        pen = 'L';
    }
    let _ = writeln!(svg, "<path class=\"curve s{index}\" d=\"{path}\"/>");
}

/// Escapes text for HTML.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_all() {
        let linear = Axis::new(Scale::Linear, [3.0, 870.0].into_iter(), 0.0, 100.0);
        assert_eq!(linear.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!((linear.at(0.0), linear.at(1000.0)), (0.0, 100.0));
        let logarithmic = Axis::new(Scale::Logarithmic, [0.003, 0.5].into_iter(), 0.0, 90.0);
        let ticks = logarithmic.ticks();
        assert_eq!(ticks.len(), 4);
        assert!((logarithmic.at(0.01) - 30.0).abs() < 1e-9 && (logarithmic.at(1.0) - 90.0).abs() < 1e-9);
    }

    #[test]
    fn a_gap_interrupts_the_curve() {
        let points =
            vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(1.0)), (4.0, Some(1.0))];
        let label = |value: f64| format!("<{value}>");
        let chart = Chart {
            title: "t",
            caption: "c",
            x_scale: Scale::Linear,
            x_label: &label,
            y_scale: Scale::Linear,
            y_label: &label,
            series: vec![Series { name: "n", points }],
        };
        let figure = chart.figure();
        assert_eq!(figure.matches("curve s0").count(), 1);
        let path = figure.split("curve s0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 2));
        assert!(!figure.contains("<0>") && figure.contains("&lt;0&gt;"));
    }
}
