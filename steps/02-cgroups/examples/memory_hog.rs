//! The misbehaviour that step 02 stops: takes memory and uses it. `memory_hog [MIB]`, 256 if nothing is said, 1024 at most.
//!
//! Each page is written to: memory that is only asked for is not there yet, and no limit counts it.

fn main() {
    let wanted = std::env::args().nth(1).and_then(|mib| mib.parse().ok()).unwrap_or(256).min(1024);
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for _ in 0..wanted {
        taken.push(vec![1; 1 << 20]); // of zeros, it would only be asked for
        std::hint::black_box(&taken);
    }
    println!("{} MiB taken", taken.len());
}
