//! The figures in the texts and the plots, held against the file that the bench has written.

use std::fs::read_to_string;

use crate::project;

#[path = "../../benches/figures/plot.rs"]
mod plot;
#[path = "../../benches/figures/report.rs"]
mod report;

pub fn are_those_that_were_measured() {
    let benches = project().join("steps/04-engine/benches");
    let json = read_to_string(benches.join("figures.json")).expect("figures.json");
    let figures: report::Figures = serde_json::from_str(&json).expect("figures");
    for name in ["TUTORIAL.md", "README.md"] {
        let text = read_to_string(project().join(name)).expect(name);
        assert!(text.contains("<!-- figures: "), "{name} shows no figures");
        assert!(figures.filled(&text) == text, "{name} shows other figures than figures.json has");
    }
    let plots = [
        ("phases.svg", plot::phases(&figures.phases)),
        ("calls.svg", plot::calls(&figures.calls)),
        ("growth.svg", plot::growth(&figures.growth)),
    ];
    for (name, plot) in plots {
        let kept = read_to_string(benches.join(name)).expect(name);
        assert!(kept == plot.expect("a plot"), "{name} shows other figures than figures.json has");
    }
}
