//! Bars beside each other, with the spread of what was measured.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::canvas::{
    Area, Drawn, Error, FAINT, GRID, INK, Words, draw, number, series_color, text,
};
use crate::figures::Spread;

const BAR: u32 = 26;
const HEADING: u32 = 26;
const AXIS: u32 = 44;
const VALUES: u32 = 80;
/// Half the height of a bar, of which each has the height 1 in the chart's own units.
const HALF: f64 = 0.33;

/// One quantity, of each that was measured.
pub(crate) struct Panel {
    pub(crate) heading: String,
    pub(crate) unit: &'static str,
    pub(crate) bars: Vec<Bar>,
}

/// The value of one that was measured.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: Spread,
    /// The number of its color; `None` for what is drawn for comparison only.
    pub(crate) series: Option<usize>,
}

/// Draws panels below each other. Returns `None` if there are none.
///
/// # Errors
/// If the parts do not fit.
pub(crate) fn bars(words: &Words<'_>, panels: &[Panel]) -> Result<Option<String>, Error> {
    if panels.is_empty() {
        return Ok(None);
    }
    let names = panels.iter().flat_map(|panel| &panel.bars);
    let longest = names.map(|bar| bar.name.chars().count()).max();
    let names = names_width(longest.unwrap_or_default());
    let heights = || panels.iter().map(height);
    let svg = draw(words, heights().sum(), |area| {
        let mut rest = area.clone();
        for (panel, height) in panels.iter().zip(heights()) {
            let (here, below) = rest.split_vertically(height);
            draw_panel(&here, panel, names)?;
            rest = below;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

fn height(panel: &Panel) -> u32 {
    let bars = u32::try_from(panel.bars.len()).unwrap_or(u32::MAX);
    bars.saturating_mul(BAR) + HEADING + AXIS
}

/// Returns the width in pixels that names have, of which the longest has this many characters. Without a font this is
/// an estimate, for letters of 12 pixels.
fn names_width(longest: usize) -> u32 {
    let letters = u32::try_from(longest.min(45)).unwrap_or(45);
    20 + 7 * letters
}

fn draw_panel(area: &Area<'_>, panel: &Panel, names: u32) -> Drawn {
    let heading = format!("{}, {}", panel.heading, panel.unit);
    area.draw(&Text::new(heading, (0, 12), text(13, INK, HPos::Left)))?;
    let highest = panel
        .bars
        .iter()
        .map(|bar| bar.value.high.max(bar.value.median));
    // A range of nothing cannot be drawn.
    let end = highest.fold(f64::MIN_POSITIVE, f64::max) * 1.02;
    let count = panel.bars.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_top(HEADING)
        .margin_left(names)
        .margin_right(VALUES)
        .x_label_area_size(AXIS)
        .build_cartesian_2d(0.0..end, 0.0..count)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(6)
        .x_max_light_lines(1)
        .x_label_formatter(&|value| tick(*value))
        .x_label_style(text(11, FAINT, HPos::Center))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .draw()?;
    for (number, bar) in panel.bars.iter().enumerate() {
        // The first bar is the uppermost.
        let y = count - number as f64 - 0.5;
        draw_bar(&mut chart, bar, panel.unit, y)?;
    }
    Ok(())
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_bar(chart: &mut Chart<'_, '_>, bar: &Bar, unit: &str, y: f64) -> Drawn {
    let Spread { low, median, high } = bar.value;
    let color = bar.series.map_or(FAINT, series_color);
    chart.draw_series([Rectangle::new(
        [(0.0, y - HALF), (median, y + HALF)],
        color.filled(),
    )])?;
    if low < high {
        let end = HALF / 2.0;
        let lines = [
            [(low, y), (high, y)],
            [(low, y - end), (low, y + end)],
            [(high, y - end), (high, y + end)],
        ];
        chart.draw_series(lines.map(|line| PathElement::new(line, INK)))?;
    }
    let beside = |x: f64, right: i32, words: String, style| {
        EmptyElement::at((x, y)) + Text::new(words, (right, 0), style)
    };
    let value = format!("{} {unit}", number(median));
    chart.draw_series([
        beside(0.0, -8, bar.name.clone(), text(12, INK, HPos::Right)),
        beside(high.max(median), 8, value, text(12, INK, HPos::Left)),
    ])?;
    Ok(())
}

/// Formats a number of the axis, which is a round one.
fn tick(value: f64) -> String {
    let rounded = format!("{value:.3}");
    rounded
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}
