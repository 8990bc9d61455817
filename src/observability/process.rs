//! What the system says of the process, under the names that every exporter uses.
//!
//! Says nothing where the system keeps no `/proc`.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::render::Render;

/// The unit of times in `/proc`: Linux shows 100 a second to programs, whatever it counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the memory, file handles and processor time that the process has taken.
/// For [`Registry::on_render`](super::Registry::on_render).
pub fn process_metrics(render: &mut Render) {
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        memory(render, &status);
    }
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        times(render, &stat, fs::read_to_string("/proc/stat").ok().as_deref());
    }
    if let Ok(handles) = fs::read_dir("/proc/self/fd") {
        // One of them is that of the directory itself.
        let open = handles.count().saturating_sub(1);
        render.gauge("process_open_fds", "Open file handles.", &[], open as f64);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        render.gauge("process_max_fds", "The most file handles.", &[], most as f64);
    }
}

pub(super) fn memory(render: &mut Render, status: &str) {
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.split_whitespace().next()?.parse().ok()
    };
    let kib = |name| field(name).map(|kib| kib * 1_024.0);
    let figures = [
        ("process_resident_memory_bytes", "Memory that is in RAM.", kib("VmRSS")),
        ("process_resident_memory_max_bytes", "The most that was in RAM.", kib("VmHWM")),
        ("process_virtual_memory_bytes", "Memory that is mapped.", kib("VmSize")),
        ("process_threads", "Threads.", field("Threads")),
    ];
    for (name, help, value) in figures {
        if let Some(value) = value {
            render.gauge(name, help, &[], value);
        }
    }
}

/// `stat` is the process's own, `system` the whole machine's, which knows when it was started.
pub(super) fn times(render: &mut Render, stat: &str, system: Option<&str>) {
    // The second field is the program's name, which may hold anything, so that fields are counted
    // from its closing parenthesis. The first one there is the third.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let seconds = |field: usize| -> Option<f64> {
        Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND)
    };
    if let (Some(user), Some(kernel)) = (seconds(14), seconds(15)) {
        let help = "Processor time, in the program and in the kernel.";
        render.counter("process_cpu_seconds_total", help, &[], user + kernel);
    }
    let booted = system.and_then(|system| {
        system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()
    });
    if let (Some(booted), Some(after)) = (booted, seconds(22)) {
        let help = "When the process was started, in seconds since the Unix epoch.";
        render.gauge("process_start_time_seconds", help, &[], booted + after);
    }
}
