//! The plots: what a run is made of, and what one more container costs. On white, for dark pages too.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Beside, CallFigures, Growth, Phase};

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
    let last = growth.beside.last().map_or(1, |it| it.running) as f64;
    let highest = growth.beside.iter().flat_map(|it| [it.run, it.bare, it.ps]).fold(1.0, f64::max) * 1.15;
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
            .x_desc("containers that run already")
            .y_desc("milliseconds")
            .x_label_formatter(&|count| format!("{count:.0}"))
            .y_label_formatter(&|milliseconds| format!("{milliseconds:.0}"))
            .label_style(text.clone())
            .axis_desc_style(text.clone())
            .light_line_style(WHITE)
            .draw()?;
        for (name, color, of) in [
            ("step04 run --rm true", BLUE, (|it| it.run) as fn(&Beside) -> f64),
            ("bare", RGBColor(0, 120, 0), |it| it.bare),
            ("step04 ps", RED, |it| it.ps),
        ] {
            let points: Vec<_> = growth.beside.iter().map(|it| (it.running as f64, of(it))).collect();
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
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
