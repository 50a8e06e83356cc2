//! Draws what `make bench` measured, as SVG files that GitHub shows in its light and in its dark theme.
//!
//! The functions here are pure: the same JSON gives the same bytes, on any machine, because no font is read. A plot of
//! which a run has no figures is left out, and so is a peer that was not measured.

mod bars;
mod canvas;
mod figures;
mod lines;
mod scenes;

pub use self::canvas::Error;
pub use self::figures::{Bench, Machine};

/// A drawn plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// The name of its file, such as `turn.svg`.
    pub name: &'static str,
    /// The SVG document, or `None` if the run has no figures for it.
    pub svg: Option<String>,
}

/// Returns all plots of a run.
///
/// # Errors
/// If a plot cannot be laid out.
pub fn plots(bench: &Bench) -> Result<Vec<Plot>, Error> {
    let plots = [
        ("turn.svg", scenes::turn(bench)?),
        ("resources.svg", scenes::resources(bench)?),
        ("endpoint.svg", scenes::endpoint(bench)?),
        ("memories.svg", scenes::memories(bench)?),
        ("streams.svg", scenes::streams(bench)?),
        ("cost.svg", Some(scenes::cost()?)),
    ];
    Ok(plots.map(|(name, svg)| Plot { name, svg }).into())
}
