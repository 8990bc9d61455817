//! The timeline: what was done to which node, who led, what did not hold, and how writes fared.

use std::fmt::{self, Write as _};

use super::{
    Report, SLICE_MS,
    html::{Text, count, seconds},
};
use crate::{check::Anomaly, history::Op};

/// The width of the plot and of the names beside it.
const WIDTH: f64 = 1_000.0;
const NAMES: f64 = 120.0;
/// The height of a lane, and of a chart.
const LANE: f64 = 20.0;
const CHART: f64 = 110.0;
/// Between the parts.
const GAP: f64 = 26.0;
/// Latencies are shown between these, on a logarithmic scale.
const SHORTEST_MS: f64 = 1.0;
const LONGEST_MS: f64 = 100_000.0;
/// How wide a letter is, about.
const LETTER: f64 = 6.2;
/// As many anomalies are marked.
const MARKED: usize = 200;

/// One colour for each node.
const NODES: [&str; 7] =
    ["#4f83cc", "#d98032", "#4ca464", "#9a76c2", "#d0636b", "#8a8a8a", "#33a3a3"];

/// Where a moment lies in the plot, and where the next part begins.
struct Plot<'a> {
    page: &'a mut String,
    end_ms: f64,
    top: f64,
}

pub(super) fn write(page: &mut String, report: &Report, ops: &[Op]) -> fmt::Result {
    let partitions = report.leaders.iter().map(|it| it.partitions.len()).max().unwrap_or(0);
    let marks = usize::from(!report.anomalies.is_empty());
    let lanes = report.nodes as usize + 1 + partitions + marks;
    let height = lanes as f64 * LANE + 2.0 * CHART + 4.0 * GAP + 12.0;
    write!(page, "<p class=key>")?;
    for node in 1..=report.nodes {
        write!(page, "<span style='background:{}'>node {node}</span>", colour(node))?;
    }
    for (class, name) in
        [("process", "process"), ("network", "network"), ("machine", "disk, clock, membership")]
    {
        write!(page, "<span class='{class}'>fault: {name}</span>")?;
    }
    write!(
        page,
        "</p><svg viewBox='0 0 {} {height}' role=img aria-label='timeline'>",
        NAMES + WIDTH + 20.0
    )?;
    let mut plot = Plot { page, end_ms: end_ms(report), top: 8.0 };
    plot.shade(report, height - GAP - 12.0)?;
    plot.faults(report)?;
    plot.top += 6.0;
    plot.leaders(report, partitions)?;
    if marks > 0 {
        plot.marks(&report.anomalies, ops)?;
    }
    plot.top += GAP;
    plot.throughput(report)?;
    plot.top += GAP;
    plot.latency(report)?;
    plot.axis(report)?;
    write!(page, "</svg>")
}

/// Where it ends: a moment after the last write and the last fault.
fn end_ms(report: &Report) -> f64 {
    let written_ms = report.slices.len() as u64 * SLICE_MS;
    let faults_ms = report.events.iter().filter_map(|event| event.to_ms).max().unwrap_or(0);
    (written_ms.max(faults_ms) + 1_000) as f64
}

impl Plot<'_> {
    fn at(&self, ms: u64) -> f64 {
        NAMES + (ms as f64 * WIDTH / self.end_ms).min(WIDTH)
    }

    fn width(&self, from_ms: u64, to_ms: u64) -> f64 {
        (self.at(to_ms) - self.at(from_ms)).max(1.5)
    }

    /// While anything was wrong, behind all else.
    fn shade(&mut self, report: &Report, bottom: f64) -> fmt::Result {
        let mut spans: Vec<(u64, u64)> = report
            .events
            .iter()
            .map(|event| (event.from_ms, event.to_ms.unwrap_or(self.end_ms as u64)))
            .collect();
        spans.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (from_ms, to_ms) in spans {
            match joined.last_mut().filter(|(_, end_ms)| from_ms <= *end_ms) {
                Some((_, end_ms)) => *end_ms = to_ms.max(*end_ms),
                None => joined.push((from_ms, to_ms)),
            }
        }
        for (from_ms, to_ms) in joined {
            let (x, width) = (self.at(from_ms), self.width(from_ms, to_ms));
            write!(
                self.page,
                "<rect class=shade x='{x:.1}' y='0' width='{width:.1}' height='{bottom:.1}'/>"
            )?;
        }
        Ok(())
    }

    fn lane(&mut self, name: &str) -> fmt::Result {
        let (middle, bottom) = (self.top + LANE - 6.0, self.top + LANE);
        write!(
            self.page,
            "<text x='{}' y='{middle}' text-anchor=end>{}</text><line class=grid x1='{NAMES}' \
             x2='{}' y1='{bottom}' y2='{bottom}'/>",
            NAMES - 10.0,
            Text(name),
            NAMES + WIDTH
        )
    }

    fn faults(&mut self, report: &Report) -> fmt::Result {
        for node in 1..=report.nodes {
            self.lane(&format!("faults, node {node}"))?;
            for event in report.events.iter().filter(|event| event.nodes.contains(&node)) {
                let to_ms = event.to_ms.unwrap_or(self.end_ms as u64);
                let (x, width) = (self.at(event.from_ms), self.width(event.from_ms, to_ms));
                let what = Text(&event.what);
                write!(
                    self.page,
                    "<rect class='{}' x='{x:.1}' y='{:.1}' width='{width:.1}' height='{}' rx=2>\
                     <title>{what} of node {node}, {} s to {} s</title></rect>",
                    class(&event.what),
                    self.top + 2.0,
                    LANE - 4.0,
                    seconds(event.from_ms),
                    seconds(to_ms),
                )?;
                let room = ((width - 6.0) / LETTER).max(0.0) as usize;
                let name = event.what.split(' ').next().unwrap_or_default();
                let shown = if event.what.len() <= room { &event.what } else { name };
                if shown.len() <= room {
                    let (x, y) = (x + 4.0, self.top + LANE - 6.0);
                    let shown = Text(shown);
                    write!(self.page, "<text class=on x='{x:.1}' y='{y:.1}'>{shown}</text>")?;
                }
            }
            self.top += LANE;
        }
        Ok(())
    }

    fn leaders(&mut self, report: &Report, partitions: usize) -> fmt::Result {
        for index in 0..=partitions {
            match index {
                0 => self.lane("quorum's leader")?,
                _ => self.lane(&format!("leader of {}", index - 1))?,
            }
            for (leader, from_ms, to_ms) in spans(report, index, self.end_ms as u64) {
                write!(
                    self.page,
                    "<rect x='{:.1}' y='{:.1}' width='{:.1}' height='{}' fill='{}'><title>node \
                     {leader}, {} s to {} s</title></rect>",
                    self.at(from_ms),
                    self.top + 5.0,
                    self.width(from_ms, to_ms),
                    LANE - 9.0,
                    colour(leader),
                    seconds(from_ms),
                    seconds(to_ms),
                )?;
            }
            self.top += LANE;
        }
        Ok(())
    }

    /// Each where the last operation ended that shows it; all others at the end.
    fn marks(&mut self, anomalies: &[Anomaly], ops: &[Op]) -> fmt::Result {
        self.lane("anomalies")?;
        for (index, anomaly) in anomalies.iter().enumerate().take(MARKED) {
            let shown = anomaly.proof.iter().filter_map(|id| ops.get(*id));
            let last_us = shown.map(|op| op.ended_us.unwrap_or(op.began_us)).max();
            let x = self.at(last_us.map_or(self.end_ms as u64, |us| us / 1_000));
            let (top, bottom) = (self.top + 4.0, self.top + LANE - 4.0);
            write!(
                self.page,
                "<a href='#a{index}'><path class=mark d='M{x:.1},{top:.1}l5,{h:.1}h-10z'><title>\
                 {}</title></path></a>",
                Text(&anomaly.to_string()),
                h = bottom - top,
            )?;
        }
        self.top += LANE;
        Ok(())
    }

    fn throughput(&mut self, report: &Report) -> fmt::Result {
        // What is caught up with at once after an outage would flatten all else.
        let mut sorted: Vec<u32> = report.slices.iter().map(|slice| slice.acknowledged).collect();
        sorted.sort_unstable();
        let usual = sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(0);
        let most = nice(f64::from(usual.max(1)) * 1.1 * 1_000.0 / SLICE_MS as f64);
        self.title("writes acknowledged, per second")?;
        for part in [0.0, 0.5, 1.0] {
            self.rule(CHART * (1.0 - part), &count((most * part) as u64))?;
        }
        for (index, slice) in report.slices.iter().enumerate() {
            let from_ms = index as u64 * SLICE_MS;
            let per_second = f64::from(slice.acknowledged) * 1_000.0 / SLICE_MS as f64;
            let height = CHART * (per_second / most).min(1.0);
            let class = if per_second > most { "bar over" } else { "bar" };
            write!(
                self.page,
                "<rect class='{class}' x='{:.1}' y='{:.1}' width='{:.1}' height='{height:.1}'>\
                 <title>{} s: {}/s</title></rect>",
                self.at(from_ms),
                self.top + CHART - height,
                (self.width(from_ms, from_ms + SLICE_MS) - 0.4).max(0.8),
                seconds(from_ms),
                count(per_second as u64),
            )?;
        }
        self.top += CHART;
        Ok(())
    }

    fn latency(&mut self, report: &Report) -> fmt::Result {
        self.title("latency from when a record was due: median, and 99 of 100")?;
        let height = |ms: f64| {
            let ms = ms.clamp(SHORTEST_MS, LONGEST_MS);
            CHART * (ms / SHORTEST_MS).ln() / (LONGEST_MS / SHORTEST_MS).ln()
        };
        for (ms, name) in [
            (1.0, "1 ms"),
            (10.0, "10 ms"),
            (100.0, "100 ms"),
            (1_000.0, "1 s"),
            (10_000.0, "10 s"),
            (100_000.0, "100 s"),
        ] {
            self.rule(CHART - height(ms), name)?;
        }
        for (index, slice) in report.slices.iter().enumerate().filter(|(_, it)| it.acknowledged > 0)
        {
            let from_ms = index as u64 * SLICE_MS;
            let (x, width) = (self.at(from_ms), self.width(from_ms, from_ms + SLICE_MS));
            let (p50, p99) = (height(slice.p50_ms), height(slice.p99_ms));
            let bottom = self.top + CHART;
            write!(
                self.page,
                "<rect class=range x='{x:.1}' y='{:.1}' width='{width:.1}' height='{:.1}'>\
                 <title>{} s: median {:.0} ms, 99 of 100 within {:.0} ms</title></rect>\
                 <rect class=p50 x='{x:.1}' y='{:.1}' width='{width:.1}' height='2.5'/>\
                 <rect class=p99 x='{x:.1}' y='{:.1}' width='{width:.1}' height='2.5'/>",
                bottom - p99,
                (p99 - p50).max(0.0),
                seconds(from_ms),
                slice.p50_ms,
                slice.p99_ms,
                bottom - p50 - 1.0,
                bottom - p99 - 1.0,
            )?;
        }
        self.top += CHART;
        Ok(())
    }

    fn title(&mut self, title: &str) -> fmt::Result {
        let y = self.top - 8.0;
        write!(self.page, "<text class=title x='{NAMES}' y='{y:.1}'>{title}</text>")
    }

    /// A line across a chart, so far below its top.
    fn rule(&mut self, below: f64, name: &str) -> fmt::Result {
        let y = self.top + below;
        write!(
            self.page,
            "<line class=grid x1='{NAMES}' x2='{}' y1='{y:.1}' y2='{y:.1}'/><text x='{}' \
             y='{:.1}' text-anchor=end>{name}</text>",
            NAMES + WIDTH,
            NAMES - 10.0,
            y + 4.0
        )
    }

    fn axis(&mut self, report: &Report) -> fmt::Result {
        let step_ms = (nice(self.end_ms / 1_000.0 / 12.0).max(1.0) * 1_000.0) as u64;
        let mut ms = 0;
        while ms as f64 <= self.end_ms {
            let x = self.at(ms);
            write!(
                self.page,
                "<line class=grid x1='{x:.1}' x2='{x:.1}' y1='8' y2='{:.1}'/><text x='{x:.1}' \
                 y='{:.1}' text-anchor=middle>{} s</text>",
                self.top,
                self.top + 16.0,
                ms / 1_000
            )?;
            ms += step_ms;
        }
        let Some(over_ms) = report.events.iter().filter_map(|event| event.to_ms).max() else {
            return Ok(());
        };
        let x = self.at(over_ms);
        write!(
            self.page,
            "<line class=over x1='{x:.1}' x2='{x:.1}' y1='8' y2='{:.1}'/><text class=title \
             x='{:.1}' y='{:.1}'>faults are over</text>",
            self.top,
            x + 4.0,
            self.top - 2.0 * CHART - GAP - 8.0
        )
    }
}

/// Who led from when to when: the quorum, or a partition. What does not change is one span.
fn spans(report: &Report, index: usize, end_ms: u64) -> Vec<(u32, u64, u64)> {
    let mut spans: Vec<(u32, u64, u64)> = Vec::new();
    for (at, seen) in report.leaders.iter().enumerate() {
        let leader = match index {
            0 => seen.controller,
            _ => seen.partitions.get(index - 1).and_then(|it| u32::try_from(*it).ok()),
        };
        let Some(leader) = leader.filter(|leader| *leader > 0) else { continue };
        let to_ms = report.leaders.get(at + 1).map_or(end_ms, |next| next.at_ms).min(end_ms);
        if seen.at_ms >= end_ms {
            break;
        }
        match spans.last_mut().filter(|(last, _, until)| *last == leader && *until == seen.at_ms) {
            Some((_, _, until)) => *until = to_ms,
            None => spans.push((leader, seen.at_ms, to_ms)),
        }
    }
    spans
}

/// The least of 1, 2, 5, 10, 20… that is as much.
fn nice(least: f64) -> f64 {
    let decade = 10f64.powf(least.max(1e-3).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * decade)
}

/// What a fault is of, by its name.
fn class(what: &str) -> &'static str {
    match what.split(' ').next().unwrap_or_default() {
        "kill" | "stop" | "pause" | "power-cut" | "change-version" => "process",
        "cut" | "cut-in" | "cut-out" | "cut-from-nodes" | "slow" | "lose" | "duplicate"
        | "reorder" => "network",
        _ => "machine",
    }
}

fn colour(node: u32) -> &'static str {
    NODES[(node.max(1) as usize - 1) % NODES.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_at_a_round_number() {
        let rounded = [0.7, 1.0, 3.0, 21.0, 501.0].map(nice);
        assert_eq!(rounded, [1.0, 1.0, 5.0, 50.0, 1_000.0]);
    }
}
