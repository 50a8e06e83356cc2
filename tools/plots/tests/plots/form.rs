//! What every plot is like, and which figures can be drawn.

use plots::Bench;
use roxmltree::Document;

use super::drawn;
use super::run::{figures, measured};

#[test]
fn the_same_run_gives_the_same_bytes() {
    assert_eq!(drawn(&figures()), drawn(&figures()));
}

#[test]
fn every_color_changes_in_the_dark_theme() {
    for plot in drawn(&figures()) {
        let svg = plot.svg.expect("drawn");
        let document = Document::parse(&svg).expect("well-formed");
        let style = document
            .descendants()
            .find(|node| node.has_tag_name("style"));
        let style = style.and_then(|node| node.text()).expect("a style");
        assert!(style.contains("prefers-color-scheme: dark"));
        for name in ["fill", "stroke"] {
            let colors = document
                .descendants()
                .filter_map(|node| node.attribute(name));
            for color in colors.filter(|color| *color != "none") {
                assert!(
                    style.contains(&format!("[{name}=\"{color}\"]{{{name}:#")),
                    "{}: {color}",
                    plot.name
                );
            }
        }
    }
}

#[test]
fn plots_are_small_and_load_nothing() {
    for plot in drawn(&figures()) {
        let svg = plot.svg.expect("drawn");
        assert!(svg.len() < 16_000, "{}: {} bytes", plot.name, svg.len());
        for word in ["href", "url(", "@font-face", "@import", "<script"] {
            assert!(!svg.contains(word), "{}: {word}", plot.name);
        }
        let document = Document::parse(&svg).expect("well-formed");
        let title = document
            .root_element()
            .first_element_child()
            .expect("a child");
        assert_eq!(
            title.tag_name().name(),
            "title",
            "for readers who do not see it"
        );
    }
}

#[test]
fn figures_of_nothing_and_extreme_ones_are_drawn() {
    for value in [0.0, -5.0, 1e-300, 1e300] {
        let mut figures = Vec::new();
        for streams in [1, 1000] {
            figures.push(measured(
                "streams",
                &format!("{streams}: a delta, from the upstream to the platform"),
                value,
            ));
        }
        figures.push(measured("turn", "first text, 50 messages stored", value));
        drawn(&figures);
    }
}

#[test]
fn another_file_is_refused() {
    for json in ["", "[]", "{}", r#"{"machine":{},"figures":[]}"#] {
        assert!(Bench::from_json(json).is_err(), "{json}");
    }
}
