//! The page of a plot: its size, its colors in both themes, its title and its footer.

use std::io;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, FontTransform};

/// A plot that cannot be laid out.
#[derive(Debug, thiserror::Error)]
#[error("a plot cannot be drawn: {0}")]
pub struct Error(#[source] DrawingAreaErrorKind<io::Error>);

pub(crate) type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 760;
const HEADER: i32 = 58;
const FOOTER: i32 = 30;
const MARGIN: i32 = 16;

/// A color, in the light theme and in the dark one. The colors of the light theme differ from each other, because the
/// style of the dark one finds each of them by its value.
struct Themed {
    light: RGBColor,
    dark: &'static str,
}

const fn themed(light: RGBColor, dark: &'static str) -> Themed {
    Themed { light, dark }
}

const PAPER: Themed = themed(RGBColor(0xFF, 0xFF, 0xFF), "#0D1117");
const INK_COLORS: Themed = themed(RGBColor(0x1F, 0x23, 0x28), "#F0F6FC");
const FAINT_COLORS: Themed = themed(RGBColor(0x59, 0x63, 0x6E), "#9198A1");
const GRID_COLORS: Themed = themed(RGBColor(0xD1, 0xD9, 0xE0), "#3D444D");
const SERIES_COLORS: [Themed; 5] = [
    themed(RGBColor(0x09, 0x69, 0xDA), "#4493F8"),
    themed(RGBColor(0xD4, 0x6A, 0x1C), "#F0883E"),
    themed(RGBColor(0x82, 0x50, 0xDF), "#AB7DF8"),
    themed(RGBColor(0x1A, 0x7F, 0x37), "#3FB950"),
    themed(RGBColor(0xBF, 0x39, 0x89), "#DB61A2"),
];

/// The color of text.
pub(crate) const INK: RGBColor = INK_COLORS.light;
/// The color of lesser text, and of what is drawn for comparison only.
pub(crate) const FAINT: RGBColor = FAINT_COLORS.light;
/// The color of grids.
pub(crate) const GRID: RGBColor = GRID_COLORS.light;
/// Returns the color of the series with this number. Our own service is number 0.
pub(crate) fn series_color(number: usize) -> RGBColor {
    let mut colors = SERIES_COLORS.iter().cycle().skip(number);
    colors.next().map_or(INK, |color| color.light)
}

/// Returns the style of text of this size in pixels. The backend divides sizes by 1.24.
pub(crate) fn text(pixels: u32, color: RGBColor, anchor: HPos) -> TextStyle<'static> {
    let font = FontDesc::new(
        FontFamily::SansSerif,
        f64::from(pixels) * 1.24,
        FontStyle::Normal,
    );
    font.transform(FontTransform::None)
        .color(&color)
        .pos(Pos::new(anchor, VPos::Center))
}

/// What is written around a plot.
pub(crate) struct Words<'a> {
    /// Without markup, because it is also the title of the document.
    pub(crate) title: &'static str,
    pub(crate) explanation: &'a str,
    pub(crate) footer: &'a str,
}

/// Draws a plot of this height in pixels, and returns it as an SVG document.
///
/// # Errors
/// If the parts do not fit.
pub(crate) fn draw(
    words: &Words<'_>,
    height: u32,
    plot: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, Error> {
    let mut svg = String::new();
    draw_on(&mut svg, words, height, plot).map_err(Error)?;
    Ok(finish(&svg, words))
}

fn draw_on(
    svg: &mut String,
    words: &Words<'_>,
    height: u32,
    plot: impl FnOnce(&Area<'_>) -> Drawn,
) -> Drawn {
    let bottom = HEADER + FOOTER;
    let size = (WIDTH, height + bottom.unsigned_abs());
    let page = SVGBackend::with_string(svg, size).into_drawing_area();
    page.fill(&PAPER.light)?;
    let bold = text(16, INK, HPos::Left);
    let bold = TextStyle {
        font: bold.font.style(FontStyle::Bold),
        ..bold
    };
    page.draw(&Text::new(words.title, (MARGIN, 22), bold))?;
    let faint = |size| text(size, FAINT, HPos::Left);
    page.draw(&Text::new(words.explanation, (MARGIN, 44), faint(12)))?;
    let (header, rest) = page.split_vertically(HEADER);
    drop(header);
    let (middle, footer) = rest.split_vertically(height);
    plot(&middle.margin(0, 0, MARGIN, MARGIN))?;
    footer.draw(&Text::new(words.footer, (MARGIN, FOOTER / 2), faint(11)))?;
    page.present()
}

/// Adds to the document what the backend has no words for: its title, for readers who do not see it, and the dark
/// theme.
fn finish(svg: &str, words: &Words<'_>) -> String {
    let colors = [&PAPER, &INK_COLORS, &FAINT_COLORS, &GRID_COLORS];
    let mut rules = String::new();
    for Themed { light, dark } in colors.into_iter().chain(&SERIES_COLORS) {
        let RGBColor(red, green, blue) = light;
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        rules.push_str(&format!(
            "[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}\n"
        ));
    }
    let (start, rest) = svg.split_once('\n').unwrap_or((svg, ""));
    let title = words.title;
    let style = format!("@media (prefers-color-scheme: dark) {{\n{rules}}}");
    format!("{start}\n<title>{title}</title>\n<style>\n{style}\n</style>\n{rest}")
}

/// Formats a number with two or three digits, or all digits before the point.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
