//! The plots: what a run is made of, what one more container costs, and what a root of its own does. On white, for dark pages too.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Beside, CallFigures, Growth, OwnRoot, Phase};

const SERIF: &str = "sans-serif";

/// A bar for each kind of call.
pub fn calls(calls: &[CallFigures]) -> Result<String> {
    let name = |it: &CallFigures| if it.count > 1 { format!("{} ({}×)", it.name, it.count) } else { it.name.clone() };
    bars(calls.iter().map(|it| (name(it), it.microseconds, it.microseconds)).collect())
}

/// A bar for each phase, dark as far as the same calls take in `bare`.
pub fn phases(phases: &[Phase]) -> Result<String> {
    let dark = |it: &Phase| it.bare.unwrap_or(0.0).min(it.microseconds);
    bars(phases.iter().map(|it| (it.name.clone(), it.microseconds, dark(it))).collect())
}

/// Name, microseconds, and how many of these are dark.
fn bars(bars: Vec<(String, f64, f64)>) -> Result<String> {
    let (left, right, row) = (360, 80, 24);
    let size = (900, bars.len() as u32 * row as u32 + 20);
    let longest = bars.iter().map(|(_, it, _)| *it).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let label = |anchor| (SERIF, 15).into_font().color(&BLACK).pos(Pos::new(anchor, VPos::Center));
        for (place, (name, microseconds, dark)) in bars.into_iter().enumerate() {
            let top = 10 + place as i32 * row;
            let width = |it: f64| ((900 - left - right) as f64 * it / longest) as i32;
            area.draw(&Text::new(name, (left - 10, top + row / 2), label(HPos::Right)))?;
            for (length, color) in [(width(microseconds).max(1), BLUE.mix(0.3)), (width(dark), BLUE.mix(0.6))] {
                area.draw(&Rectangle::new([(left, top + 3), (left + length, top + row - 3)], color.filled()))?;
            }
            let time = format!("{microseconds:.0} µs");
            area.draw(&Text::new(time, (left + width(microseconds) + 8, top + row / 2), label(HPos::Left)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// Milliseconds of one start, over the number of containers that run already.
pub fn growth(growth: &Growth) -> Result<String> {
    let line = |name: &str, color, of: fn(&Beside) -> f64| Line {
        name: name.to_owned(),
        color,
        points: growth.beside.iter().map(|it| (it.running as f64, of(it))).collect(),
    };
    lines(
        "containers that run already",
        &[
            line("step04 run --rm true", BLUE, |it| it.run),
            line("bare", GREEN, |it| it.bare),
            line("step04 ps", RED, |it| it.ps),
        ],
    )
}

/// Milliseconds of one life on a root of its own, over the size of that root.
pub fn roots(roots: &[OwnRoot]) -> Result<String> {
    let mut sizes: Vec<_> = roots.iter().map(|it| it.file_kib).collect();
    sizes.dedup();
    let mut all = Vec::new();
    for (size, colors) in sizes.into_iter().zip([(RED, BLUE), (ORANGE, GREEN)]) {
        let line = |name: &str, color, of: fn(&OwnRoot) -> f64| Line {
            name: format!("{name}, files of {size} KiB"),
            color,
            points: roots.iter().filter(|it| it.file_kib == size).map(|it| (it.mib as f64, of(it))).collect(),
        };
        all.extend([line("a copy", colors.0, |it| it.copy), line("an upper layer", colors.1, |it| it.overlay)]);
    }
    lines("MiB of files in the root, beside busybox", &all)
}

const GREEN: RGBColor = RGBColor(0, 120, 0);
const ORANGE: RGBColor = RGBColor(200, 120, 0);

struct Line {
    name: String,
    color: RGBColor,
    /// What it is over, and milliseconds.
    points: Vec<(f64, f64)>,
}

/// Milliseconds, over something else.
fn lines(over: &str, lines: &[Line]) -> Result<String> {
    let points = || lines.iter().flat_map(|it| &it.points);
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let highest = points().map(|point| point.1).fold(1.0, f64::max) * 1.15;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (900, 400)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(20)
            .x_label_area_size(45)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..last, 0.0..highest)?;
        let text = (SERIF, 15).into_font();
        chart
            .configure_mesh()
            .x_desc(over)
            .y_desc("milliseconds")
            .x_label_formatter(&|count| format!("{count:.0}"))
            .y_label_formatter(&|milliseconds| format!("{milliseconds:.0}"))
            .label_style(text.clone())
            .axis_desc_style(text.clone())
            .light_line_style(WHITE)
            .draw()?;
        for Line { name, color, points } in lines {
            let color = *color;
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
            chart
                .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK)
            .label_font(text)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
