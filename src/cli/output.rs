//! How results are printed.

use std::io::{self, BufWriter, Stdout, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For scripts
    Json,
}

/// Standard output.
#[derive(Debug)]
pub(super) struct Out {
    writer: BufWriter<Stdout>,
    pub(super) format: Format,
}

impl Out {
    pub(super) fn new(format: Format) -> Self {
        Self { writer: BufWriter::with_capacity(64 << 10, io::stdout()), format }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub(super) const fn writer(&mut self) -> &mut BufWriter<Stdout> {
        &mut self.writer
    }

    /// A line for people; nothing for scripts.
    pub(super) fn note(&mut self, text: &str) -> Result<(), Failure> {
        if !self.is_json() {
            writeln!(self.writer, "{text}")?;
            self.writer.flush()?;
        }
        Ok(())
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.writer, value)?;
        writeln!(self.writer)?;
        Ok(self.writer.flush()?)
    }

    /// `rows` as JSON, or as a table by `cells`.
    pub(super) fn rows<T: Serialize>(
        &mut self,
        rows: &[T],
        columns: &[&str],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), Failure> {
        if self.is_json() {
            return self.json(&rows);
        }
        let cells: Vec<_> = rows.iter().map(cells).collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns.iter().map(|column| column.to_uppercase()));
        let numeric = |text: &String| text == "-" || text.parse::<f64>().is_ok();
        for row in &cells {
            table.add_row(row);
        }
        for column in 0..columns.len() {
            if !cells.is_empty()
                && cells.iter().all(|row| row.get(column).is_some_and(numeric))
                && let Some(column) = table.column_mut(column)
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            writeln!(self.writer, "{}", line.trim_end())?;
        }
        Ok(self.writer.flush()?)
    }
}

/// A bar, or a spinner where the end is unknown, on standard error where that is a terminal.
pub(super) fn progress(total: Option<u64>, what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::with_draw_target(
        total,
        indicatif::ProgressDrawTarget::stderr_with_hz(5),
    );
    let template = if total.is_some() {
        "{msg} {wide_bar} {human_pos}/{human_len} {eta}"
    } else {
        "{spinner} {msg} {human_pos} {elapsed}"
    };
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// Numbers as people write lists.
pub(super) fn join(numbers: &[i32]) -> String {
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// A number, or a dash.
pub(super) fn or_dash(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}
