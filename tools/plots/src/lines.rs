//! Lines over a number: of streams, or of turns.

use std::ops::Range;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::canvas::{Area, Drawn, Error, FAINT, GRID, INK, Words, draw, series_color, text};

const HEIGHT: u32 = 300;
const MARK: i32 = 24;
/// The height of a line of the legend.
const ENTRY: u32 = 19;

/// A line of the plot.
pub(crate) struct Line {
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
    /// The number of its color; `None` for what is drawn for comparison only.
    pub(crate) series: Option<usize>,
}

/// An axis.
#[derive(Clone, Copy)]
pub(crate) struct Axis {
    /// What it shows, with the unit.
    pub(crate) name: &'static str,
    pub(crate) format: fn(f64) -> String,
}

/// How both axes are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From 0 to the largest value.
    Linear,
    /// Over the values, which are above 0; the vertical one over whole powers of ten.
    Logarithmic,
}

/// Draws lines that together have at least two points.
///
/// # Errors
/// If the parts do not fit.
pub(crate) fn lines(
    words: &Words<'_>,
    [x, y]: [Axis; 2],
    scale: Scale,
    lines: &[Line],
) -> Result<String, Error> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let across = extent(points().map(|(x, _)| x));
    let up = extent(points().map(|(_, y)| y));
    let entries = u32::try_from(lines.len()).unwrap_or(u32::MAX);
    let legend = entries.saturating_mul(ENTRY);
    draw(words, HEIGHT.saturating_add(legend), |area| {
        let (above, area) = area.split_vertically(legend);
        draw_legend(&above, lines)?;
        match scale {
            Scale::Linear => draw_chart(&area, 0.0..across.end, 0.0..up.end, [x, y], lines),
            Scale::Logarithmic => {
                let power = |value: f64| 10_f64.powf(value);
                // A little lower, so that the lowest power is in the range and gets its label.
                let lowest = power(up.start.log10().floor()) * 0.999;
                let decades = lowest..power(up.end.log10().ceil());
                let (across, up) = (across.log_scale(), decades.log_scale());
                draw_chart(&area, across, up, [x, y], lines)
            }
        }
    })
}

/// Draws the names of the lines, which in the chart could hide a line.
fn draw_legend(area: &Area<'_>, lines: &[Line]) -> Drawn {
    let mut rest = area.clone();
    for line in lines {
        let (here, below) = rest.split_vertically(ENTRY);
        let y = 8;
        let mark = PathElement::new([(0, y), (MARK, y)], color(line).stroke_width(2));
        here.draw(&mark)?;
        let name = text(12, INK, HPos::Left);
        here.draw(&Text::new(line.name.as_str(), (MARK + 8, y), name))?;
        rest = below;
    }
    Ok(())
}

fn color(line: &Line) -> RGBColor {
    line.series.map_or(FAINT, series_color)
}

fn extent(values: impl Iterator<Item = f64>) -> Range<f64> {
    values.fold(f64::MAX..f64::MIN_POSITIVE, |range, value| {
        range.start.min(value)..range.end.max(value)
    })
}

fn draw_chart<X, Y>(area: &Area<'_>, across: X, up: Y, [x, y]: [Axis; 2], lines: &[Line]) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin_left(8)
        .margin_right(30)
        .margin_top(8)
        .x_label_area_size(48)
        .y_label_area_size(62)
        .build_cartesian_2d(across, up)?;
    chart
        .configure_mesh()
        .x_desc(x.name)
        .y_desc(y.name)
        .x_label_formatter(&|value| (x.format)(*value))
        .y_label_formatter(&|value| (y.format)(*value))
        .x_labels(7)
        .y_labels(7)
        .label_style(text(11, FAINT, HPos::Center))
        .axis_desc_style(text(12, FAINT, HPos::Center))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .draw()?;
    for line in lines {
        let color = color(line);
        let style = color.stroke_width(2);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        let circles = line
            .points
            .iter()
            .map(|at| Circle::new(*at, 3, color.filled()));
        chart.draw_series(circles)?;
    }
    Ok(())
}
