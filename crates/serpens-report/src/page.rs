//! The page: sections in reading order, one style sheet, nothing from elsewhere.

use crate::text::escape;
use crate::theme::{DARK, LIGHT, PAGE};
use crate::{Figure, Form, Report, Table};

const STYLE: &str = include_str!("page.css");
/// Width at which charts are drawn; the page scales them.
const CHART_WIDTH: f64 = 420.0;
/// Width in which maps are drawn if their tokens fit: the page's, without the fade at its end; the page scrolls them
/// where it is narrower.
const MAP_WIDTH: f64 = 1000.0;

impl Report {
    /// The figures as SVG files, each with a name made of its title.
    pub fn to_files(&self, form: Form) -> Vec<(String, String)> {
        let charts = self.figures.iter().map(|chart| {
            let (title, caption, drawing) = chart.draw(form.width(), &LIGHT);
            (title, drawing.into_file(form, title, caption))
        });
        let maps = self
            .maps
            .iter()
            .map(|map| (map.title.as_str(), map.to_svg(form)));
        let sign = |c: char| !c.is_alphanumeric();
        let files = charts.chain(maps);
        let files = files.map(|(title, svg)| (title.to_lowercase().replace(sign, "-"), svg));
        files.collect()
    }

    /// The page as HTML. Any text is escaped; numbers that are not finite are left out of the figures.
    pub fn to_html(&self) -> String {
        let title = escape(&self.title);
        let charts = self.figures.iter().map(|chart| {
            let broad = matches!(chart, Figure::Confusion(matrix) if matrix.is_broad());
            let width = if broad { MAP_WIDTH } else { CHART_WIDTH };
            let (title, caption, drawing) = chart.draw(width, &PAGE);
            let drawn = drawing.inline(title);
            let drawn = match chart {
                Figure::Sound(sound) => drawn + &sound.player(),
                _ if broad => format!("<div class=\"wide\">{drawn}</div>\n"),
                _ => drawn,
            };
            figure(title, &drawn, caption)
        });
        let maps = self.maps.iter().map(|map| {
            let drawn = map.draw(MAP_WIDTH, &PAGE, true).inline(&map.title);
            let drawn = format!("<div class=\"wide\">{drawn}</div>\n");
            figure(&map.title, &drawn, &map.caption)
        });
        let texts = self.texts.iter();
        let texts = texts.map(|(heading, text)| listing(heading, "pre", &escape(text)));
        let sections = [
            section("charts", "", charts.collect()),
            section("tables", "", self.tables.iter().map(table).collect()),
            section("maps", "What the layers select", maps.collect()),
            section("texts", "", texts.collect()),
            section("repeat", "How to repeat this run", repeat(self)),
        ];
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n\
             :root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n{STYLE}</style>\n</head>\n\
             <body>\n<main>\n<header>\n<h1>{title}</h1>\n{}{}</header>\n{}</main>\n</body>\n</html>\n",
            LIGHT.declarations(),
            DARK.declarations(),
            element("p class=\"date\"", &self.date),
            element("p class=\"summary\"", &self.summary),
            sections.concat(),
        )
    }
}

/// A text in an element; nothing where there is no text.
fn element(opening: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let tag = opening.split(' ').next().unwrap_or(opening);
    format!("<{opening}>{}</{tag}>\n", escape(text))
}

/// A section with its figures; nothing at all if there are none.
fn section(class: &str, heading: &str, figures: String) -> String {
    if figures.is_empty() {
        return figures;
    }
    let heading = element("h2", heading);
    format!("<section class=\"{class}\">\n{heading}{figures}</section>\n")
}

fn figure(title: &str, content: &str, caption: &str) -> String {
    let (title, caption) = (element("h3", title), element("figcaption", caption));
    format!("<figure>\n{title}{content}{caption}</figure>\n")
}

/// A figure of lines in an element; nothing where there are none.
fn listing(title: &str, tag: &str, lines: &str) -> String {
    match lines {
        "" => String::new(),
        lines => figure(title, &format!("<{tag}>{lines}</{tag}>\n"), ""),
    }
}

fn table(table: &Table) -> String {
    let columns = table.rows.iter().chain([&table.header]).map(Vec::len).max();
    let classes: Vec<&str> = (0..columns.unwrap_or(0))
        .map(|column| match is_numeric(table, column) {
            true => " class=\"number\"",
            false => "",
        })
        .collect();
    let row = |tag: &str, cells: &[String]| {
        let cells = classes.iter().enumerate().map(|(column, class)| {
            let text = escape(cells.get(column).map_or("", String::as_str));
            format!("<{tag}{class}>{text}</{tag}>")
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let head = match table.header.is_empty() {
        true => String::new(),
        false => format!("<thead>{}</thead>\n", row("th", &table.header)),
    };
    let rows = table.rows.iter().map(|cells| row("td", cells) + "\n");
    let rows: String = rows.collect();
    let content =
        format!("<div class=\"wide\"><table>\n{head}<tbody>\n{rows}</tbody>\n</table></div>\n");
    figure(&table.title, &content, &table.caption)
}

/// Whether every cell of the column that says something starts like a number (a sign, digits), as in `12.5 ms`.
fn is_numeric(table: &Table, column: usize) -> bool {
    let starts_like_number = |cell: &String| {
        cell.trim_start_matches(['-', '−', '+', '±', '<', '>', '≈', '~', ' ', '.'])
            .starts_with(|c: char| c.is_ascii_digit())
    };
    let cells = table.rows.iter().filter_map(|row| row.get(column));
    let mut cells = cells.filter(|cell| !cell.is_empty()).peekable();
    cells.peek().is_some()
        && cells.all(|cell| starts_like_number(cell) || matches!(cell.as_str(), "-" | "–" | "—"))
}

fn repeat(report: &Report) -> String {
    let facts = report.machine.iter().map(|(name, value)| {
        let (name, value) = (escape(name), escape(value));
        format!("<dt>{name}</dt><dd>{value}</dd>\n")
    });
    let mut facts: String = facts.collect();
    if !facts.is_empty() {
        facts.insert(0, '\n');
    }
    [
        listing("Command", "pre", &escape(&report.command)),
        listing("Machine", "dl", &facts),
        listing("Configuration", "pre", &escape(&report.config_toml)),
    ]
    .concat()
}
