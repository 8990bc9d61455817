//! The page: a verdict, what proves it, a timeline, and the figures. One file, without scripts, and
//! nothing from elsewhere; light or dark as its reader's screen is.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::{Report, timeline};
use crate::{
    check::Anomaly,
    history::{Op, Outcome, What},
};

/// As many anomalies are shown; the file for machines has all.
const SHOWN: usize = 50;
/// As many records of a poll are shown.
const RECORDS: usize = 8;

const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--soft:#59636e;--line:#d8dee4;\
--panel:#f6f8fa;--shade:#8c959f22;--bar:#4f83cc;--over:#1f4e96;--p50:#1a7f37;--p99:#cf222e;\
--range:#8c959f44;--process:#c93c45;--network:#b7791f;--machine:#7a5cb8}\
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#30363d;\
--panel:#161b22;--shade:#9198a11f;--over:#a5c8ff;--p50:#3fb950;--p99:#ff7b72;--range:#9198a14d}}\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;max-width:1180px;\
background:var(--paper);color:var(--ink)}h1{font-size:1.5rem;margin-bottom:.2rem}\
h2{font-size:1.15rem;margin-top:2rem}.about{color:var(--soft);margin-top:0}\
table{border-collapse:collapse}td,th{padding:.15rem 1.2rem .15rem 0;text-align:left;\
vertical-align:top}th,td:first-child{color:var(--soft);font-weight:400}\
.holds,.broken{padding:.7rem 1rem;border-radius:6px;color:#fff;font-weight:600}\
.holds{background:#1a7f37}.broken{background:#b8323c}\
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:.6rem}\
.figures div{background:var(--panel);border-radius:6px;padding:.5rem .8rem;color:var(--soft);\
font-size:13px}.figures b{display:block;font-size:18px;color:var(--ink)}\
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}\
svg .on{fill:#fff;font-size:11px}svg .title{fill:var(--ink)}.grid{stroke:var(--line)}\
.over{stroke:var(--ink);stroke-dasharray:4 3}.shade{fill:var(--shade)}.bar{fill:var(--bar)}\
rect.over{fill:var(--over);stroke:none}.p50{fill:var(--p50)}.p99{fill:var(--p99)}\
.range{fill:var(--range)}.mark{fill:var(--p99)}svg .process{fill:var(--process)}\
svg .network{fill:var(--network)}svg .machine{fill:var(--machine)}\
.key span{display:inline-block;padding:0 .6rem;margin:0 .4rem .3rem 0;color:#fff;border-radius:3px;\
font-size:13px}.key .process{background:var(--process)}.key .network{background:var(--network)}\
.key .machine{background:var(--machine)}\
pre{background:var(--panel);padding:.6rem .8rem;border-radius:6px;overflow-x:auto;font-size:12.5px}\
.anomaly{border-left:3px solid var(--p99);padding-left:.8rem;margin:1rem 0}.anomaly p{margin:0}";

pub(super) fn page(report: &Report, ops: &[Op]) -> String {
    let mut page = String::new();
    write_page(&mut page, report, ops).expect("a string takes everything");
    page
}

fn write_page(page: &mut String, report: &Report, ops: &[Op]) -> fmt::Result {
    let name = Text(&report.scenario.name);
    write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport \
         content='width=device-width'><title>Ottla chaos: {name}</title><style>{STYLE}</style>\
         <h1>Ottla chaos: {name}, seed {}</h1><p class=about>{}</p>",
        report.seed,
        Text(&report.scenario.description)
    )?;
    verdict(page, report)?;
    figures(page, report)?;
    anomalies(page, report, ops)?;
    write!(page, "<h2>Timeline</h2>")?;
    timeline::write(page, report, ops)?;
    write!(page, "<h2>What was done</h2><table><tr><th>from<th>to<th>what<th>nodes")?;
    for event in &report.events {
        let to = event.to_ms.map_or_else(String::new, |ms| seconds(ms) + " s");
        let from = seconds(event.from_ms);
        let nodes = list(&event.nodes);
        write!(page, "<tr><td>{from} s<td>{to}<td>{}<td>{nodes}", Text(&event.what))?;
    }
    write!(page, "</table>")?;
    for left_out in &report.left_out {
        write!(page, "<p>Left out: {}", Text(left_out))?;
    }
    let repeat = Text(&report.repeat);
    writeln!(page, "<h2>Again</h2><p>The same faults, by the same lot:<pre>{repeat}</pre></html>")
}

fn verdict(page: &mut String, report: &Report) -> fmt::Result {
    if report.holds() {
        return write!(page, "<p class=holds>Every promise held.</p>");
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for anomaly in &report.anomalies {
        *kinds.entry(anomaly.kind.to_string()).or_default() += 1;
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, times)| format!("{times} × {kind}")).collect();
    let (all, kinds) = (report.anomalies.len(), kinds.join(", "));
    write!(page, "<p class=broken>{} anomalies: {}</p>", count(all as u64), Text(&kinds))
}

fn figures(page: &mut String, report: &Report) -> fmt::Result {
    let Report { summary, nodes, replication_factor, flush, .. } = report;
    let after = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| seconds(ms) + " s");
    let flushed = if *flush { "flushed before acknowledged" } else { "not flushed" };
    let rows = [
        (format!("{nodes} nodes"), format!("{replication_factor} replicas, {flushed}")),
        (count(summary.sent as u64), "records sent".to_owned()),
        (count(summary.acknowledged as u64), "of them acknowledged".to_owned()),
        (count(summary.consumed as u64), "read meanwhile, by all consumers".to_owned()),
        (count(summary.read as u64), "read in the end".to_owned()),
        (
            seconds(report.longest_gap_ms) + " s",
            "longest without a write to some partition".to_owned(),
        ),
        (after(report.written_after_ms), "after the last fault: all partitions written".to_owned()),
        (after(report.in_sync_after_ms), "after the last fault: all replicas in sync".to_owned()),
        (count(report.packets_passed), "packets passed".to_owned()),
        (count(report.packets_lost), "packets lost on purpose".to_owned()),
    ];
    write!(page, "<div class=figures>")?;
    for (figure, what) in rows {
        write!(page, "<div><b>{}</b>{}</div>", Text(&figure), Text(&what))?;
    }
    write!(page, "</div>")
}

fn anomalies(page: &mut String, report: &Report, ops: &[Op]) -> fmt::Result {
    if report.anomalies.is_empty() {
        return Ok(());
    }
    write!(page, "<h2>Anomalies, and the operations that prove them</h2>")?;
    for (index, anomaly) in report.anomalies.iter().enumerate().take(SHOWN) {
        let Anomaly { kind, partition, says, proof } = anomaly;
        let place = partition.map_or_else(String::new, |it| format!(", partition {it}"));
        let says = Text(says);
        write!(page, "<div class=anomaly id=a{index}><p><b>{kind}</b>{place}: {says}</p>")?;
        let shown = proof.iter().filter_map(|id| Some(in_words(*id, ops.get(*id)?)));
        let shown: Vec<_> = shown.collect();
        if !shown.is_empty() {
            write!(page, "<pre>{}</pre>", Text(&shown.join("\n")))?;
        }
        write!(page, "</div>")?;
    }
    let more = report.anomalies.len().saturating_sub(SHOWN);
    if more > 0 {
        write!(page, "<p>And {} more, in the file for machines.", count(more as u64))?;
    }
    Ok(())
}

/// An operation in a line; what it read may be long.
fn in_words(id: usize, op: &Op) -> String {
    let what = match &op.what {
        What::Send { partition, number, by, outcome, .. } => {
            let by = by.map_or_else(String::new, |by| format!(" by broker {by}"));
            let outcome = match outcome {
                Outcome::Unknown => "nothing heard".to_owned(),
                Outcome::Acknowledged(offset) if *offset < 0 => "acknowledged".to_owned(),
                Outcome::Acknowledged(offset) => format!("acknowledged at offset {offset}{by}"),
                Outcome::GivenUp(why) => format!("given up: {why}"),
            };
            format!("sends record {number} to partition {partition}: {outcome}")
        }
        What::Poll { partition, records, .. } => {
            let shown = records.iter().take(RECORDS);
            let shown: Vec<_> = shown.map(|(offset, it)| format!("{offset}: {it}")).collect();
            let more = records.len().saturating_sub(RECORDS);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("reads partition {partition}: {}{more}", shown.join(", "))
        }
        other => serde_json::to_string(other).unwrap_or_default(),
    };
    let (from_ms, to_ms) = (op.began_us / 1_000, op.ended_us.map(|us| us / 1_000));
    let to = to_ms.map_or_else(|| "…".to_owned(), seconds);
    format!("#{id:<7} {:>7} – {to:>7} s  process {:<3} {what}", seconds(from_ms), op.process)
}

pub(super) fn seconds(ms: u64) -> String {
    format!("{:.2}", ms as f64 / 1_000.0)
}

/// With a comma before each three digits.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn list(nodes: &[u32]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Text in a page.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '\'' => f.write_str("&#39;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::Kind,
        history::{Outcome, Summary, What},
        report::{Event, Leaders, Slice},
        scenario::{Mix, Scenario},
    };

    #[test]
    fn a_page_tells_the_verdict_the_faults_and_what_proves_an_anomaly() {
        let mix = Mix { seconds: 10.0, per_minute: 30.0, faults: Vec::new(), seed: 7 };
        let outcome = Outcome::Acknowledged(3);
        let what = What::Send { partition: 0, number: 41, due_us: 5, by: None, outcome };
        let ops = [Op { process: 1, began_us: 5, ended_us: Some(9), what }];
        let mut report = Report {
            scenario: Scenario::random(&mix),
            seed: 7,
            nodes: 3,
            replication_factor: 3,
            flush: true,
            repeat: "cargo run -p chaos -- run --random --seed 7".to_owned(),
            seconds: 12.0,
            events: vec![Event {
                step: 0,
                what: "kill".to_owned(),
                nodes: vec![2],
                from_ms: 1_000,
                to_ms: Some(2_500),
            }],
            left_out: vec!["cut: <root> is needed".to_owned()],
            leaders: vec![Leaders { at_ms: 0, controller: Some(1), partitions: vec![2, 3] }],
            slices: vec![Slice { acknowledged: 10, p50_ms: 1.0, p99_ms: 2.0 }],
            summary: Summary::default(),
            longest_gap_ms: 700,
            written_after_ms: Some(20),
            in_sync_after_ms: None,
            packets_passed: 0,
            packets_lost: 0,
            anomalies: Vec::new(),
        };
        let page = report.to_html(&ops);
        assert!(page.contains("Every promise held") && page.contains("kill of node 2"));
        assert!(page.contains("&lt;root&gt;") && page.contains("--random --seed 7"));

        let lost = Anomaly {
            kind: Kind::LostWrite,
            partition: Some(0),
            says: "record 41 is gone".to_owned(),
            proof: vec![0],
        };
        report.anomalies.push(lost);
        let page = report.to_html(&ops);
        assert!(page.contains("1 × lost-write") && page.contains("<path class=mark"));
        assert!(page.contains("sends record 41 to partition 0: acknowledged at offset 3"));
    }

    #[test]
    fn a_large_number_is_grouped() {
        assert_eq!([7, 1_000, 123_456_789].map(count), ["7", "1,000", "123,456,789"]);
    }
}
