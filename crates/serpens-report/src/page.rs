//! The page: sections in reading order, one style sheet, nothing from elsewhere.

use std::fmt::Write;

use super::{LineChart, Report, SelectionMap, Table};
use crate::text::escape;
use crate::theme::{DARK, LIGHT, PAGE};

const STYLE: &str = include_str!("page.css");
/// Widths at which the figures are drawn; the page scales them down where it is narrower.
const CHART_WIDTH: f64 = 500.0;
const MAP_WIDTH: f64 = 1040.0;

pub(super) fn html(report: &Report) -> String {
    let mut body = String::new();
    let _ = write!(body, "<header>\n<h1>{}</h1>\n", escape(&report.title));
    if !report.date.is_empty() {
        let _ = writeln!(body, "<p class=\"date\">{}</p>", escape(&report.date));
    }
    if !report.summary.is_empty() {
        let _ = writeln!(body, "<p class=\"summary\">{}</p>", escape(&report.summary));
    }
    body.push_str("</header>\n");
    section(&mut body, "", "charts", report.figures.iter().map(chart));
    section(&mut body, "", "tables", report.tables.iter().map(table));
    section(
        &mut body,
        "What the layers select",
        "maps",
        report.maps.iter().map(map),
    );
    section(
        &mut body,
        "",
        "texts",
        report
            .texts
            .iter()
            .map(|(heading, text)| preformatted(heading, text)),
    );
    section(
        &mut body,
        "How to repeat this run",
        "repeat",
        repeat(report).into_iter(),
    );
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n\
         :root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(&report.title),
        LIGHT.declarations(),
        DARK.declarations(),
    )
}

/// A section with its parts; nothing at all if there are none.
fn section(body: &mut String, heading: &str, class: &str, parts: impl Iterator<Item = String>) {
    let parts: String = parts.collect();
    if parts.is_empty() {
        return;
    }
    let _ = writeln!(body, "<section class=\"{class}\">");
    if !heading.is_empty() {
        let _ = writeln!(body, "<h2>{}</h2>", escape(heading));
    }
    let _ = writeln!(body, "{parts}</section>");
}

fn chart(chart: &LineChart) -> String {
    figure(
        &chart.title,
        &chart.draw(CHART_WIDTH, &PAGE).inline(&chart.title),
        &chart.caption,
    )
}

fn map(map: &SelectionMap) -> String {
    figure(
        &map.title,
        &map.draw(MAP_WIDTH, &PAGE).inline(&map.title),
        &map.caption,
    )
}

fn figure(title: &str, content: &str, caption: &str) -> String {
    let mut out = String::from("<figure>\n");
    if !title.is_empty() {
        let _ = writeln!(out, "<h3>{}</h3>", escape(title));
    }
    out.push_str(content);
    if !caption.is_empty() {
        let _ = writeln!(out, "<figcaption>{}</figcaption>", escape(caption));
    }
    out.push_str("</figure>\n");
    out
}

fn table(table: &Table) -> String {
    let columns = table
        .rows
        .iter()
        .map(Vec::len)
        .chain([table.header.len()])
        .max()
        .unwrap_or(0);
    let numeric: Vec<bool> = (0..columns)
        .map(|column| is_numeric(table, column))
        .collect();
    let cell = |tag: &str, column: usize, text: &str| {
        let class = if numeric[column] {
            " class=\"number\""
        } else {
            ""
        };
        format!("<{tag}{class}>{}</{tag}>", escape(text))
    };
    let row = |tag: &str, cells: &[String]| {
        let cells = (0..columns).map(|i| cell(tag, i, cells.get(i).map_or("", String::as_str)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let mut out = String::from("<div class=\"wide\"><table>\n");
    if !table.header.is_empty() {
        let _ = writeln!(
            out,
            "<thead>{}</thead>",
            row("th", &table.header).trim_end()
        );
    }
    let rows: String = table.rows.iter().map(|cells| row("td", cells)).collect();
    let _ = write!(out, "<tbody>\n{rows}</tbody>\n</table></div>\n");
    figure(&table.title, &out, &table.caption)
}

/// Whether every cell of the column that says something starts like a number (a sign, digits), as in `12.5 ms`.
fn is_numeric(table: &Table, column: usize) -> bool {
    let mut cells = table
        .rows
        .iter()
        .filter_map(|row| row.get(column))
        .filter(|cell| !cell.is_empty())
        .peekable();
    let starts_like_number = |cell: &String| {
        cell.trim_start_matches(['-', '−', '+', '±', '<', '>', '≈', '~', ' ', '.'])
            .starts_with(|c: char| c.is_ascii_digit())
    };
    cells.peek().is_some()
        && cells.all(|cell| starts_like_number(cell) || matches!(cell.as_str(), "-" | "–" | "—"))
}

fn preformatted(heading: &str, text: &str) -> String {
    figure(heading, &format!("<pre>{}</pre>\n", escape(text)), "")
}

fn repeat(report: &Report) -> Vec<String> {
    let mut parts = Vec::new();
    if !report.command.is_empty() {
        parts.push(preformatted("Command", &report.command));
    }
    if !report.machine.is_empty() {
        let facts = report
            .machine
            .iter()
            .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
        parts.push(figure(
            "Machine",
            &format!("<dl>\n{}</dl>\n", facts.collect::<String>()),
            "",
        ));
    }
    if !report.config_toml.is_empty() {
        parts.push(preformatted("Configuration", &report.config_toml));
    }
    parts
}
