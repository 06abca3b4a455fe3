//! A part of a report: a table and what is to be said of it. It is put together once and written in two ways, for a
//! terminal, where it is Markdown at the same time, and for a page.

use std::fmt::{self, Write};

use super::plot::escape;

/// One part.
#[derive(Clone, Debug)]
pub struct Section {
    title: String,
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    remarks: Vec<Cell>,
}

/// A text, and whether it says that something went wrong.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    is_bad: bool,
}

impl Cell {
    /// One that says so if `is_bad`.
    pub fn new(text: impl Into<String>, is_bad: bool) -> Cell {
        Cell { text: text.into(), is_bad }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::new(text, false)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::new(text, false)
    }
}

impl Section {
    /// Of a table without rows; the title may be empty.
    pub fn new(title: &str, head: &[&'static str]) -> Section {
        Section { title: title.to_owned(), head: head.to_vec(), rows: Vec::new(), remarks: Vec::new() }
    }

    /// Adds a row, with a cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.head.len(), "a row has as many cells as there are columns");
        self.rows.push(cells);
    }

    /// Adds what is said below the table.
    pub fn remark(&mut self, remark: impl Into<Cell>) {
        self.remarks.push(remark.into());
    }

    /// For a page.
    pub fn html(&self) -> String {
        let class = |cell: &Cell| if cell.is_bad { " class=\"bad\"" } else { "" };
        let mut html = String::from("<section>");
        if !self.title.is_empty() {
            let _ = write!(html, "<h2>{}</h2>", escape(&self.title));
        }
        html += "<div class=\"wide\"><table><thead><tr>";
        self.head.iter().for_each(|name| html += &format!("<th>{}</th>", escape(name)));
        html += "</tr></thead><tbody>";
        for row in &self.rows {
            html += "<tr>";
            row.iter().for_each(|it| html += &format!("<td{}>{}</td>", class(it), escape(&it.text)));
            html += "</tr>";
        }
        html += "</tbody></table></div>";
        self.remarks.iter().for_each(|it| html += &format!("<p{}>{}</p>", class(it), escape(&it.text)));
        html + "</section>\n"
    }
}

impl fmt::Display for Section {
    /// For a terminal: every line ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.title.is_empty() {
            writeln!(f, "{}\n", self.title)?;
        }
        let names = self.head.iter().map(|it| it.chars().count());
        let mut widths: Vec<usize> = names.collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        write_row(f, &widths, self.head.iter().copied())?;
        // What a row is about is on the left, its figures are on the right.
        let rules = widths.iter().enumerate().map(|(column, width)| match column {
            0 => "-".repeat(*width),
            _ => "-".repeat(width.saturating_sub(1)) + ":",
        });
        writeln!(f, "| {} |", rules.collect::<Vec<_>>().join(" | "))?;
        self.rows
            .iter()
            .try_for_each(|row| write_row(f, &widths, row.iter().map(|cell| cell.text.as_str())))?;
        if !self.remarks.is_empty() {
            writeln!(f)?;
        }
        self.remarks.iter().try_for_each(|it| writeln!(f, "  {}", it.text))
    }
}

fn write_row<'a>(
    f: &mut fmt::Formatter<'_>,
    widths: &[usize],
    cells: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    let padded = cells.zip(widths).enumerate().map(|(column, (cell, width))| match column {
        0 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    writeln!(f, "| {} |", padded.collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        let mut section = Section::new("Who & what", &["who", "µs"]);
        section.row(vec!["one".into(), "7".into()]);
        section.row(vec!["a <second>".into(), Cell::new("12", true)]);
        section.remark("fine");
        section.remark(Cell::new("not > fine", true));
        section
    }

    #[test]
    fn a_terminal_has_columns_that_are_markdown() {
        let expected = "Who & what\n\n\
                        | who        | µs |\n\
                        | ---------- | -: |\n\
                        | one        |  7 |\n\
                        | a <second> | 12 |\n\n  \
                        fine\n  \
                        not > fine\n";
        assert_eq!(section().to_string(), expected);
    }

    #[test]
    fn a_page_marks_what_is_bad_and_takes_no_text_for_its_own() {
        let expected = "<section><h2>Who &amp; what</h2><div class=\"wide\"><table><thead><tr><th>who</th>\
                        <th>µs</th></tr></thead><tbody><tr><td>one</td><td>7</td></tr><tr>\
                        <td>a &lt;second&gt;</td><td class=\"bad\">12</td></tr></tbody></table></div>\
                        <p>fine</p><p class=\"bad\">not &gt; fine</p></section>\n";
        assert_eq!(section().html(), expected);
    }

    #[test]
    fn nothing_is_said_that_was_not_put_in() {
        let section = Section::new("", &["who"]);
        assert_eq!(section.to_string(), "| who |\n| --- |\n");
        assert!(!section.html().contains("<h2>") && !section.html().contains("<p>"));
    }
}
