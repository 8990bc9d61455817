//! Hands the Raft library's log lines to `tracing`.

use std::fmt::{self, Write as _};

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, o};

/// A logger for the Raft library. What it calls info is detail to us.
pub(super) fn tracing_logger() -> Logger {
    Logger::root(Tracing, o!())
}

struct Tracing;

impl Drain for Tracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        macro_rules! emit {
            ($level:ident) => {
                if tracing::enabled!(target: "ottla::quorum::raft", tracing::Level::$level) {
                    let text = line(record);
                    tracing::event!(target: "ottla::quorum::raft", tracing::Level::$level, "{text}");
                }
            };
        }
        match record.level() {
            Level::Critical | Level::Error => emit!(ERROR),
            Level::Warning => emit!(WARN),
            Level::Info | Level::Debug => emit!(DEBUG),
            Level::Trace => emit!(TRACE),
        }
        Ok(())
    }
}

fn line(record: &Record<'_>) -> String {
    let mut text = Pairs(record.msg().to_string());
    // Writing to a String cannot fail.
    let _ = record.kv().serialize(record, &mut text);
    text.0
}

struct Pairs(String);

impl slog::Serializer for Pairs {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::Fmt)
    }
}
