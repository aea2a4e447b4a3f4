//! The misbehaviour that step 02 stops: keeps a processor busy. `cpu_spinner [MILLISECONDS]`, 1000 if nothing is said,
//! 10000 at most.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

fn main() {
    let ms = std::env::args().nth(1).and_then(|ms| ms.parse().ok()).unwrap_or(1000).min(10_000);
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(ms) {
        std::hint::spin_loop();
    }
    let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).expect("a clock");
    println!("used {} of {} ms", used.as_millis(), since.elapsed().as_millis());
}
