//! A history as a file: one operation a line, as JSON.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use super::Op;

/// Why a history cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryFileError {
    /// The file.
    #[error("cannot write or read {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line.
    #[error("line {line} of {} is no operation", path.display())]
    Line {
        /// Of which file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// Writes operations into a new file.
///
/// # Errors
/// See [`HistoryFileError`].
pub fn write_ops(path: &Path, ops: &[Op]) -> Result<(), HistoryFileError> {
    let failed = |source| HistoryFileError::Io { path: path.to_owned(), source };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for op in ops {
        serde_json::to_writer(&mut file, op).map_err(|error| failed(error.into()))?;
        file.write_all(b"\n").map_err(failed)?;
    }
    file.flush().map_err(failed)
}

/// Reads what [`write_ops`] wrote.
///
/// # Errors
/// See [`HistoryFileError`].
pub fn read_ops(path: &Path) -> Result<Vec<Op>, HistoryFileError> {
    let failed = |source| HistoryFileError::Io { path: path.to_owned(), source };
    let lines = BufReader::new(File::open(path).map_err(failed)?).lines();
    let ops = lines.enumerate().map(|(index, line)| {
        serde_json::from_str(&line.map_err(failed)?).map_err(|source| HistoryFileError::Line {
            path: path.to_owned(),
            line: index + 1,
            source,
        })
    });
    ops.collect()
}
