//! The plots: what a run is made of, and what one more container costs. On white, for dark pages too.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Beside, Call, Growth};

const SERIF: &str = "sans-serif";

/// A bar for each.
pub fn bars(calls: &[Call]) -> Result<String> {
    let (left, right, row) = (360, 80, 24);
    let size = (900, calls.len() as u32 * row as u32 + 20);
    let longest = calls.iter().map(|it| it.microseconds).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let label = |anchor| (SERIF, 15).into_font().color(&BLACK).pos(Pos::new(anchor, VPos::Center));
        for (place, Call { name, count, microseconds, .. }) in calls.iter().enumerate() {
            let top = 10 + place as i32 * row;
            let width = ((900 - left - right) as f64 * microseconds / longest) as i32;
            let name = if *count > 1 { format!("{name} ({count}×)") } else { name.clone() };
            area.draw(&Text::new(name, (left - 10, top + row / 2), label(HPos::Right)))?;
            area.draw(&Rectangle::new(
                [(left, top + 3), (left + width.max(1), top + row - 3)],
                BLUE.mix(0.6).filled(),
            ))?;
            let told = format!("{microseconds:.0} µs");
            area.draw(&Text::new(told, (left + width + 8, top + row / 2), label(HPos::Left)))?;
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
