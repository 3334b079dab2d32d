//! Printing: to stdout what was asked for, to stderr what went wrong.

use std::io;
use std::io::IsTerminal;
use std::io::Write;

use comfy_table::ContentArrangement;
use comfy_table::Table;
use comfy_table::presets;
use serde_json::Value;
use serde_json::json;

use super::Failure;
use crate::base::ByteSize;
use crate::config::Finding;

/// The narrowest terminal that a table is fitted into.
const COLUMNS_MIN: u16 = 40;
/// Cells up to this length stay in one piece.
const SHORT: usize = 32;

/// Prints `text` and a newline. A reader that went away is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.trim_end_matches('\n').as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(err.into()),
        _ => Ok(()),
    }
}

pub(crate) fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// One paragraph: the error, then what caused it and what to do about it, each on a line.
pub(crate) fn print_failure(failure: &Failure) {
    let _ = writeln!(io::stderr().lock(), "{}", paragraph(failure));
}

/// One line beside the output that is no failure.
pub(crate) fn print_warning(text: &str) {
    let _ = writeln!(io::stderr().lock(), "warning: {text}");
}

fn paragraph(failure: &Failure) -> String {
    let mut text = format!("larder: {}", failure.error);
    for cause in failure.error.chain().skip(1) {
        text.push_str(&format!("\n  because: {cause}"));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}

/// A table: drawn on a terminal where it fits, plain columns elsewhere.
pub(crate) fn table(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let is_terminal = io::stdout().is_terminal();
    let columns = Table::new().width().filter(|_| is_terminal);
    laid_out(heads, &rows, columns)
}

/// For a terminal of so many columns, or for none. Short cells are not broken: a narrow terminal
/// has them without lines between. One that says it has no columns, as serial lines do, is none.
fn laid_out(heads: &[&str], rows: &[Vec<String>], columns: Option<u16>) -> String {
    let mut table = Table::new();
    table.set_header(heads.iter().copied());
    table.add_rows(rows);
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let width = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let is_short = rows.iter().flatten().all(|cell| cell.chars().count() <= SHORT);
    match columns.filter(|&columns| columns >= COLUMNS_MIN) {
        Some(columns) if width <= columns.into() => {}
        Some(columns) if !is_short => {
            table.set_width(columns);
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        _ => _ = table.load_style(presets::NOTHING),
    }
    table.trim_fmt()
}

/// Names and values below each other; a value without a name goes on from the one above.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs.iter().map(|(name, value)| format!("{name:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

pub(crate) fn size_or_none(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "none".to_owned(), size)
}

pub(crate) fn finding_json(finding: &Finding) -> Value {
    json!({
        "line": finding.place.map(|(line, _)| line),
        "column": finding.place.map(|(_, column)| column),
        "text": finding.text,
        "hint": finding.hint,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::cli::Exit;

    #[test]
    fn a_table_fits_the_terminal_or_goes_without_lines() {
        let row = |cell: &str| vec![vec!["cloud".to_owned(), cell.to_owned()]];
        let heads = ["backend", "result"];
        let (short, long) = (row("ten gibibytes"), row(&"a longer sentence ".repeat(5)));
        let plain = " backend  result\n cloud    ten gibibytes";
        assert_eq!(laid_out(&heads, &short, None), plain);
        assert_eq!(laid_out(&heads, &short, Some(0)), plain);
        assert!(laid_out(&heads, &short, Some(80)).contains('│'));
        let wide = vec!["twenty characters..."; 4];
        let rows = [wide.iter().map(|cell| (*cell).to_owned()).collect()];
        let text = laid_out(&wide, &rows, Some(80));
        assert!(!text.contains('│') && text.lines().count() == 2, "{text}");
        let text = laid_out(&heads, &long, Some(60));
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn a_failure_is_told_with_its_causes_each_once() {
        let cause = io::Error::other("the disk is gone");
        let error = Err::<(), _>(cause).context("cannot open the store").unwrap_err();
        let failure = Failure::new(Exit::Failed, error);
        let text = "larder: cannot open the store\n  because: the disk is gone";
        assert_eq!(paragraph(&failure), text);
        let message = "cannot open the store: the disk is gone";
        let json = serde_json::json!({ "error": { "code": "failed", "message": message } });
        assert_eq!(failure.json(), json);
        let (code, hint) = (Some("no_store".to_owned()), Some("find it".to_owned()));
        let failure = Failure { code, hint, ..failure };
        assert_eq!(paragraph(&failure), format!("{text}\n  hint: find it"));
        let told = failure.json();
        assert_eq!(
            (&told["error"]["code"], &told["error"]["hint"]),
            (&json!("no_store"), &json!("find it"))
        );
    }
}
