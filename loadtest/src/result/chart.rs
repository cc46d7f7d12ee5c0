//! A chart: its axes, ticks, curves and tooltips in the coordinates of the SVG that `templates/chart.html`
//! draws. Colours come from the page's style sheet, which supports light and dark; there is no script.
//!
//! No chart crate draws it, for none of those examined offers all of this: `plotters` and `charts-rs` write
//! fixed colours into each element, so that a chart cannot follow light and dark; `poloto` has no logarithmic
//! axis; `charming` needs a script in the page or a JavaScript engine in the program; `kuva` draws lines
//! without gaps and tooltips.

/// The scale of an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Linear, from zero.
    Linear,
    /// Linear, from zero, with ticks at multiples of a power of two, for bytes.
    Binary,
    /// Logarithmic.
    Logarithmic,
}

/// The values of one curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: &'static str,
    /// From left to right; `None` interrupts the curve.
    pub points: Vec<(f64, Option<f64>)>,
}

/// The values of a chart.
pub struct Chart<'c> {
    /// Title.
    pub title: &'static str,
    /// One sentence on what the values are.
    pub caption: &'static str,
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
    /// The last x is a part of its interval: it has this label, and the curves are dashed before it.
    pub partial: Option<String>,
}

/// The size of a chart, and the rectangle in it that the axes span.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Width of the chart.
    pub width: f64,
    /// Height of the chart.
    pub height: f64,
    /// Left end of the x axis.
    pub left: f64,
    /// Right end of the x axis.
    pub right: f64,
    /// Upper end of the y axis.
    pub top: f64,
    /// Lower end of the y axis.
    pub bottom: f64,
}

const AREA: Area = Area { width: 720.0, height: 280.0, left: 78.0, right: 704.0, top: 12.0, bottom: 250.0 };

/// A chart in coordinates.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Title.
    pub title: &'static str,
    /// One sentence on what the values are.
    pub caption: &'static str,
    /// Its size.
    pub area: Area,
    /// Ticks of the x axis.
    pub x_ticks: Vec<Tick>,
    /// Ticks of the y axis.
    pub y_ticks: Vec<Tick>,
    /// The curves, in the order of the legend.
    pub curves: Vec<Curve>,
    /// The tooltips, from left to right.
    pub columns: Vec<Column>,
}

/// A tick of an axis.
#[derive(Clone, Debug)]
pub struct Tick {
    /// Its coordinate.
    pub at: f64,
    /// Its value with the unit.
    pub label: String,
}

/// One curve in coordinates.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its number, which selects its colour.
    pub index: usize,
    /// Name in the legend.
    pub name: &'static str,
    /// The parts between gaps: pairs of x and y.
    pub segments: Vec<Vec<(f64, f64)>>,
    /// The line to the last x if that is a part of its interval, else empty.
    pub partial: Vec<(f64, f64)>,
}

/// A tooltip over the whole height: the values of all curves at one x.
#[derive(Clone, Debug)]
pub struct Column {
    /// Left edge.
    pub left: f64,
    /// Width.
    pub width: f64,
    /// The value of x with the unit.
    pub label: String,
    /// Names of the curves that have a value here, and these values with their units.
    pub values: Vec<(&'static str, String)>,
}

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
            Scale::Linear | Scale::Binary => {
                (from, to) = (from.min(0.0), if to > 0.0 { to } else { 1.0 });
                let step = scale.step(to - from);
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
            Scale::Linear | Scale::Binary => (value - self.from) / (self.to - self.from),
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
            Scale::Linear | Scale::Binary => {
                let step = self.scale.step(self.to - self.from);
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

impl Scale {
    /// The distance of about five ticks in `range`: 1, 2 or 5 times a power of ten, or a power of two, which
    /// is round in KiB, MiB and GiB.
    fn step(self, range: f64) -> f64 {
        let rough = (range / 5.0).max(f64::MIN_POSITIVE);
        if self == Self::Binary {
            return 2_f64.powf(rough.log2().ceil());
        }
        let power = 10_f64.powf(rough.log10().floor());
        [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|&step| step >= rough)
            .unwrap_or(power)
    }
}

impl Chart<'_> {
    /// The chart in coordinates; `None` if there are fewer than two values.
    pub fn figure(&self) -> Option<Figure> {
        let values = || self.series.iter().flat_map(|series| series.points.iter());
        if values().filter(|(_, y)| y.is_some()).count() < 2 {
            return None;
        }
        let x = Axis::new(self.x_scale, values().map(|&(x, _)| x), AREA.left, AREA.right);
        let x = Axis { to: values().map(|&(x, _)| x).fold(f64::MIN, f64::max).max(x.from + 1e-9), ..x };
        let y = Axis::new(self.y_scale, values().filter_map(|&(_, y)| y), AREA.bottom, AREA.top);
        let tick = |axis: &Axis, value, label: &dyn Fn(f64) -> String| Tick {
            at: axis.at(value),
            label: label(value),
        };
        let x_values = x.ticks().into_iter().filter(|&value| value <= x.to * 1.0001);
        Some(Figure {
            title: self.title,
            caption: self.caption,
            area: AREA,
            x_ticks: x_values.map(|value| tick(&x, value, self.x_label)).collect(),
            y_ticks: y.ticks().into_iter().map(|value| tick(&y, value, self.y_label)).collect(),
            curves: self
                .series
                .iter()
                .enumerate()
                .map(|(index, series)| self.curve(index, series, &x, &y))
                .collect(),
            columns: self.columns(&x),
        })
    }

    fn curve(&self, index: usize, series: &Series, x: &Axis, y: &Axis) -> Curve {
        let at = |&(at, value): &(f64, Option<f64>)| Some((x.at(at), y.at(value?)));
        let points = &series.points[..];
        let (whole, partial) = match (&self.partial, points) {
            (Some(_), [whole @ .., last]) => {
                let before = whole.last().and_then(at);
                let line = before.zip(at(last)).map(|(before, last)| vec![before, last]);
                (whole, line.unwrap_or_default())
            }
            _ => (points, Vec::new()),
        };
        let parts = whole.split(|(_, value)| value.is_none()).filter(|part| !part.is_empty());
        let segments = parts.map(|part| part.iter().filter_map(at).collect()).collect();
        Curve { index, name: series.name, segments, partial }
    }

    fn columns(&self, x: &Axis) -> Vec<Column> {
        let Some(first) = self.series.first() else { return Vec::new() };
        let column = |(index, &(at, _)): (usize, &(f64, Option<f64>))| {
            let before = index.checked_sub(1).map_or(at, |index| first.points[index].0);
            let after = first.points.get(index + 1).map_or(at, |point| point.0);
            let (left, right) = (x.at(at).midpoint(x.at(before)), x.at(at).midpoint(x.at(after)));
            let value = |series: &Series| {
                let &(_, value) = series.points.get(index)?;
                Some((series.name, (self.y_label)(value?)))
            };
            Column {
                left,
                width: (right - left).max(1.0),
                label: match &self.partial {
                    Some(label) if index + 1 == first.points.len() => label.clone(),
                    _ => (self.x_label)(at),
                },
                values: self.series.iter().filter_map(value).collect(),
            }
        };
        first.points.iter().enumerate().map(column).collect()
    }
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
        let label = |value: f64| format!("{value} s");
        let chart = Chart {
            title: "t",
            caption: "c",
            x_scale: Scale::Linear,
            x_label: &label,
            y_scale: Scale::Linear,
            y_label: &label,
            series: vec![Series { name: "n", points }],
            partial: None,
        };
        let figure = chart.figure().unwrap();
        let lengths = |curve: &Curve| curve.segments.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(figure.curves.iter().map(lengths).collect::<Vec<_>>(), [[2, 2]]);
        assert_eq!(figure.curves[0].segments[0][0], (AREA.left, 131.0));
        let values = |column: &Column| column.values.clone();
        let columns: Vec<_> = figure.columns.iter().map(values).collect();
        assert_eq!(columns[1], [("n", "2 s".to_owned())]);
        assert_eq!((columns.len(), columns[2].len()), (5, 0));
        assert_eq!(figure.x_ticks.last().unwrap().label, "4 s");
        let partial = Chart { partial: Some("4 s, of which 0.5 s".to_owned()), ..chart }.figure().unwrap();
        assert_eq!(lengths(&partial.curves[0]), [2, 1], "the last line is drawn apart");
        assert_eq!(partial.curves[0].partial[1].0, AREA.right);
        assert_eq!(partial.columns[4].label, "4 s, of which 0.5 s");
    }

    #[test]
    fn ticks_of_bytes_are_round_in_their_units() {
        let ticks = |to| Axis::new(Scale::Binary, [0.0, to].into_iter(), 0.0, 100.0).ticks();
        let labels = |to| {
            ticks(to).into_iter().map(|bytes| crate::unit::Unit::Bytes.format(bytes)).collect::<Vec<_>>()
        };
        assert_eq!(labels(3.5 * 1_048_576.0), ["0 B", "1.0 MiB", "2.0 MiB", "3.0 MiB", "4.0 MiB"]);
        assert_eq!(
            labels(70.0 * 1_048_576.0),
            ["0 B", "16.0 MiB", "32.0 MiB", "48.0 MiB", "64.0 MiB", "80.0 MiB"]
        );
    }
}
