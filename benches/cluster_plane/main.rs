//! What the cluster plane costs: copies the same bytes as replication does, frames from memory that
//! are acknowledged one by one, over our QUIC transport with its settings, over plain TCP, and over
//! TCP with TLS 1.3, between two threads over loopback. Prints throughput and the CPU seconds per
//! GiB of either side.
//!
//!   cargo bench --bench cluster_plane -- [--mib N] [--frame-kib N] [--streams N] [--rounds N]
//!
//! Each side is one thread, whose CPU time the system counts. The transports take turns, and the
//! medians of the rounds are printed, as a machine's speed changes under the measurement.

#![expect(clippy::print_stdout, reason = "a benchmark that prints its figures")]

mod copies;
mod quic;
mod tcp;

use std::env;

use anyhow::{Context as _, Result, bail};

use self::copies::{Copied, Load};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Copy = fn(Load) -> Result<Copied>;

const TRANSPORTS: [(&str, Copy); 3] =
    [("QUIC", quic::copy), ("TCP", tcp::plain), ("TCP with TLS 1.3", tcp::tls)];

fn main() -> Result<()> {
    let mut load = Load { bytes: 1 << 30, frame_bytes: 256 << 10, streams: 4 };
    let mut rounds = 5;
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        // Given by cargo.
        if name == "--bench" {
            continue;
        }
        let value = arguments.next().with_context(|| format!("{name} needs a number"))?;
        let value: usize = value.parse().with_context(|| format!("{name} {value}"))?;
        match name.as_str() {
            "--mib" => load.bytes = value << 20,
            "--frame-kib" => load.frame_bytes = value << 10,
            "--streams" => load.streams = value,
            "--rounds" => rounds = value,
            _ => bail!("no such option: {name}"),
        }
    }
    if load.frame_bytes == 0 || load.streams == 0 || rounds == 0 || load.frames() == 0 {
        bail!("nothing to copy");
    }
    let mut measured: [Vec<Copied>; TRANSPORTS.len()] = Default::default();
    for _ in 0..rounds {
        for ((name, copy), copies) in TRANSPORTS.iter().zip(&mut measured) {
            copies.push(copy(load).with_context(|| (*name).to_owned())?);
        }
    }
    println!(
        "{} MiB in frames of {} KiB on {} streams over loopback, median of {rounds} rounds",
        load.bytes >> 20,
        load.frame_bytes >> 10,
        load.streams,
    );
    println!("{:18}{:>8}{:>30}", "", "", "CPU seconds per GiB");
    println!("{:18}{:>8}{:>10}{:>10}{:>10}", "", "MiB/s", "sender", "receiver", "both");
    for ((name, _), copies) in TRANSPORTS.iter().zip(&measured) {
        let median = |figure: fn(&Copied) -> f64| copies::median(copies.iter().map(figure));
        println!(
            "{name:18}{:>8.0}{:>10.2}{:>10.2}{:>10.2}",
            median(Copied::mib_per_second),
            median(Copied::sender_per_gib),
            median(Copied::receiver_per_gib),
            median(|copied| copied.sender_per_gib() + copied.receiver_per_gib()),
        );
    }
    Ok(())
}
