//! Fewer faults that still show what went wrong.

use super::{ClusterConfig, ClusterReport, run};

/// Leaves out steps of the scenario as long as the run still does not hold, half of them at first,
/// and calls `tried` with how many are left after each try. Returns what is left, with its report.
///
/// # Errors
/// As of [`run`].
pub fn shrink(
    config: &ClusterConfig,
    mut tried: impl FnMut(usize),
) -> anyhow::Result<Option<(ClusterConfig, ClusterReport)>> {
    let mut failing = None;
    let mut config = config.clone();
    let mut chunk = config.scenario.steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut less = false;
        while at < config.scenario.steps.len() {
            let mut shorter = config.clone();
            let end = (at + chunk).min(shorter.scenario.steps.len());
            shorter.scenario.steps.drain(at..end);
            let report = run(&shorter)?;
            if report.holds() {
                at = end;
            } else {
                less = true;
                config = shorter;
                failing = Some((config.clone(), report));
            }
            tried(config.scenario.steps.len());
        }
        match chunk {
            1 if !less => return Ok(failing),
            1 => {}
            _ => chunk = chunk.div_ceil(2),
        }
    }
}
