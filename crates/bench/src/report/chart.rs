//! Charts as SVG, drawn by plotters: lines over quantiles on a logarithmic scale, over rounds, or
//! over time.

use anyhow::Context as _;
use plotters::prelude::{
    ChartBuilder, Color, DrawingAreaErrorKind, DrawingBackend, IntoDrawingArea, LineSeries,
    PathElement, RGBColor, SVGBackend, Text, WHITE,
};

/// Width and height of a chart without its legend, in pixels.
const SIZE: (u32, u32) = (860, 340);
/// Height of a line of the legend, in pixels. The legend is above the chart: inside, it would cover
/// one curve or another.
const LEGEND_LINE: i32 = 16;
/// The left edge of the legend, in pixels: where the curves start.
const LEGEND_LEFT: i32 = 82;

/// Line colours that remain distinguishable to colour-blind readers.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 130, 100),
    RGBColor(150, 90, 0),
    RGBColor(120, 70, 160),
    RGBColor(70, 170, 220),
    RGBColor(230, 160, 0),
    RGBColor(110, 110, 110),
];

/// A line of a chart.
pub struct ChartLine {
    /// The name in the legend.
    pub label: String,
    /// The points from left to right. The line has a gap where `y` is NaN.
    pub points: Vec<(f64, f64)>,
}

/// The meaning of the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XAxis {
    /// The decimal logarithm of 1 / (1 - quantile), labelled as percentages.
    Quantiles,
    /// Plain numbers of the quantity named.
    Plain(&'static str),
}

impl XAxis {
    fn description(self) -> &'static str {
        match self {
            Self::Quantiles => "percentile",
            Self::Plain(description) => description,
        }
    }

    fn label(self, value: f64) -> String {
        match self {
            Self::Plain(_) => format!("{value:.0}"),
            Self::Quantiles => {
                let percent = 100.0 * (1.0 - 10_f64.powf(-value));
                let digits = crate::figure::whole((value - 2.0).max(0.0));
                format!("{percent:.*}", usize::try_from(digits).unwrap_or(0))
            }
        }
    }
}

/// Draws `lines` into an SVG element. Returns an empty string if they have no points.
///
/// # Errors
/// Returns an error if the chart can't be drawn.
pub fn draw(lines: &[ChartLine], x_axis: XAxis, y_label: &str) -> anyhow::Result<String> {
    let mut svg = String::new();
    if lines.iter().all(|line| line.points.is_empty()) {
        return Ok(svg);
    }
    let legend = legend_height(lines);
    let (width, height) = (SIZE.0, SIZE.1 + legend.unsigned_abs());
    draw_on(
        SVGBackend::with_string(&mut svg, (width, height)),
        lines,
        x_axis,
        y_label,
    )
    .context("can't draw a chart")?;
    Ok(svg)
}

fn legend_height(lines: &[ChartLine]) -> i32 {
    i32::try_from(lines.len()).map_or(0, |lines| lines * LEGEND_LINE)
}

fn draw_on<B: DrawingBackend>(
    backend: B,
    lines: &[ChartLine],
    x_axis: XAxis,
    y_label: &str,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (right, top) = (most(|point| point.0), most(|point| point.1) * 1.05);
    let left = points().map(|point| point.0).fold(right, f64::min);
    let bottom = points().map(|point| point.1).fold(0.0, f64::min) * 1.05;
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let (legend, plot) = area.split_vertically(legend_height(lines));
    let middles = (0..).map(|number| LEGEND_LINE * number + LEGEND_LINE / 2);
    for ((line, colour), y) in lines.iter().zip(COLOURS.iter().cycle()).zip(middles) {
        let stroke = [(LEGEND_LEFT, y), (LEGEND_LEFT + 16, y)];
        legend.draw(&PathElement::new(stroke, colour.stroke_width(2)))?;
        let at = (LEGEND_LEFT + 24, y - 5);
        legend.draw(&Text::new(line.label.as_str(), at, ("sans-serif", 12)))?;
    }
    let mut chart = ChartBuilder::on(&plot)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(left..right.max(left + 1e-9), bottom..top)?;
    chart
        .configure_mesh()
        .x_desc(x_axis.description())
        .y_desc(y_label)
        .x_label_formatter(&|value| x_axis.label(*value))
        .y_label_formatter(&|value| super::table::value(Some(*value)))
        .light_line_style(WHITE)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        for piece in line.points.split(|point| point.1.is_nan()) {
            let piece = piece.iter().copied();
            chart.draw_series(LineSeries::new(piece, colour.stroke_width(2)))?;
        }
    }
    area.present()
}
