//! The figures in the texts and the plots, held against the file that the bench has written.

mod plot;
#[allow(dead_code)] // the bench measures, and this only reads
mod report;

use std::fs::read_to_string;
use std::path::Path;

#[test]
fn the_figures_are_those_that_were_measured() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = benches.join("..");
    let json = read_to_string(benches.join("figures.json")).expect("figures.json");
    let figures: report::Figures = serde_json::from_str(&json).expect("figures");
    for name in ["TUTORIAL.md", "README.md"] {
        let text = read_to_string(project.join(name)).expect(name);
        assert!(text.contains("<!-- figures: "), "{name} shows no figures");
        assert!(figures.filled(&text) == text, "{name} shows other figures than figures.json has");
    }
    let plots = [
        ("phases.svg", plot::phases(&figures.phases)),
        ("calls.svg", plot::calls(&figures.calls)),
        ("growth.svg", plot::growth(&figures.growth)),
        ("roots.svg", plot::roots(&figures.roots)),
    ];
    for (name, plot) in plots {
        let kept = read_to_string(benches.join(name)).expect(name);
        assert!(kept == plot.expect("a plot"), "{name} shows other figures than figures.json has");
    }
}
