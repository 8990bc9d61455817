//! The process's own log: lines on standard error, as text or JSON.
//!
//! Levels are given as directives, separated by commas: a level (`info`) for everything, and a
//! module with its level (`ottla::quorum=debug`) for that module.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, ParseError},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::{SubscriberInitExt as _, TryInitError},
};

use crate::config::LogFormat;

/// Changes the level of the process's log while it runs. Clones change the same.
#[derive(Debug, Clone)]
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why directives were refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidLevel {
    /// There are none.
    #[error("no level is given: use one of off, error, warn, info, debug or trace")]
    Empty,
    /// A word that is no level, and would be taken for a module.
    #[error(
        "{0:?} is no level: use off, error, warn, info, debug or trace, or MODULE=LEVEL for one \
         module"
    )]
    NotALevel(String),
    /// Malformed otherwise.
    #[error("the directives are malformed: {0}")]
    Malformed(#[from] ParseError),
}

/// Why the log was not set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The level is not usable.
    #[error(transparent)]
    Level(#[from] InvalidLevel),
    /// Something else in the process has set one up.
    #[error("the process has a log already")]
    Twice(#[from] TryInitError),
}

/// Why the level was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SetLevelError {
    /// The level is not usable.
    #[error(transparent)]
    Level(#[from] InvalidLevel),
    /// The log has ended.
    #[error("the log has ended")]
    Ended(#[from] reload::Error),
}

/// Sets up the log of the process. Once for each process.
///
/// # Errors
/// Where `level` is no level, or the process has a log already.
pub fn init(level: &str, format: LogFormat) -> Result<LogLevel, InitError> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(LogLevel { filter: handle })
}

impl LogLevel {
    /// The directives in force.
    #[must_use]
    pub fn current(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Puts `directives` in force in place of those that are.
    ///
    /// # Errors
    /// Where they are malformed; those in force stay.
    pub fn set(&self, directives: &str) -> Result<(), SetLevelError> {
        Ok(self.filter.reload(parse(directives)?)?)
    }

    #[cfg(test)]
    pub(super) fn detached(level: &str) -> (Self, reload::Layer<EnvFilter, Registry>) {
        let (filter, handle) = reload::Layer::new(parse(level).expect("a level"));
        (Self { filter: handle }, filter)
    }
}

fn parse(directives: &str) -> Result<EnvFilter, InvalidLevel> {
    let mut any = false;
    for directive in directives.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        any = true;
        // The filter would take a misspelt level for a module, and silence all others.
        let is_word = !directive.contains(['=', '[']);
        if is_word && directive.parse::<LevelFilter>().is_err() {
            return Err(InvalidLevel::NotALevel(directive.to_owned()));
        }
    }
    if !any {
        return Err(InvalidLevel::Empty);
    }
    let trimmed: Vec<_> = directives.split(',').map(str::trim).collect();
    Ok(EnvFilter::try_new(trimmed.join(","))?)
}
