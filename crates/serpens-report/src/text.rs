//! Text for people: escaping, what a token looks like in print, widths, wrapping, numbers.

use std::fmt::Display;
use std::ops::Range;

use unicode_width::UnicodeWidthChar;

/// Escapes text for HTML and SVG, in content and in quoted attributes. Characters that XML forbids become `�`.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A token as one visible word: a space is `␣`, a line's end `⏎`, other controls their Unicode pictures.
pub(super) fn printable(token: &str) -> String {
    let visible = |c: char| match c {
        ' ' => '␣',
        '\n' => '⏎',
        '\t' => '⇥',
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\x7f' => '␡',
        // Marks that turn the direction of the text around would garble the whole line.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    token.chars().map(visible).collect()
}

/// Columns that a character takes in a monospaced font: 0 for combining marks, 2 for East Asian and emoji, else 1.
fn char_width(c: char) -> usize {
    c.width().unwrap_or(1)
}

/// Columns that a text takes in a monospaced font.
pub(super) fn display_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// The text, cut to at most `columns` with `…` as the last one where something was cut.
pub(super) fn truncate(text: &str, columns: usize) -> String {
    if display_width(text) <= columns {
        return text.to_string();
    }
    let mut used = 0;
    let kept = text.chars().take_while(|&c| {
        used += char_width(c);
        used < columns
    });
    kept.chain((columns > 0).then_some('…')).collect()
}

/// Breaks a paragraph between words into lines of at most `columns` (a longer word stands alone).
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let lines = fill_lines(&words, 1, columns).into_iter();
    lines.map(|line| words[line].join(" ")).collect()
}

/// Which of the texts go into each line: as many as fit into `columns`, with a gap between two, but at least one.
pub(super) fn fill_lines(
    texts: &[impl AsRef<str>],
    gap: usize,
    columns: usize,
) -> Vec<Range<usize>> {
    let mut lines: Vec<Range<usize>> = Vec::new();
    let mut used = 0;
    for (i, text) in texts.iter().enumerate() {
        let width = display_width(text.as_ref());
        match lines.last_mut() {
            Some(line) if used + gap + width <= columns => {
                line.end += 1;
                used += gap + width;
            }
            _ => {
                lines.push(i..i + 1);
                used = width;
            }
        }
    }
    lines
}

/// Whether a value is so far from 1 that it needs a power of ten.
pub(super) fn is_far(value: f64) -> bool {
    value != 0.0 && !(0.999e-4..0.999e9).contains(&value.abs())
}

/// `value` in so many significant digits, without zeros at its end; as `2·10⁻⁷` if it is `far`.
pub(super) fn short_number(value: f64, digits: usize, far: bool) -> String {
    let power = value.abs().log10().floor().max(-400.0) as i32;
    if value == 0.0 {
        return "0".to_string();
    } else if !far {
        let decimals = (digits as i32 - 1 - power).clamp(0, 12);
        return trimmed(&number(value, decimals as usize)).to_owned();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let ten = "10".to_owned() + &superscript(power);
    match trimmed(&mantissa.replace('-', "−")) {
        "1" => ten,
        mantissa => format!("{mantissa}·{ten}"),
    }
}

/// Without zeros after a decimal point that say nothing.
pub(super) fn trimmed(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

/// `value` in two significant digits.
pub(super) fn rounded(value: f64) -> String {
    short_number(value, 2, is_far(value))
}

/// Digits and signs, small and raised.
pub(super) fn superscript(number: &str) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let raised = |c: char| c.to_digit(10).map_or('⁻', |digit| RAISED[digit as usize]);
    number.chars().map(raised).collect()
}

/// `value` with `decimals` digits and thousands set apart by commas.
pub(super) fn number(value: f64, decimals: usize) -> String {
    let plain = format!("{:.*}", decimals, value.abs());
    let (whole, fraction) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let negative = value < 0.0 && plain.contains(|c| matches!(c, '1'..='9'));
    let sign = if negative { "−" } else { "" };
    format!("{sign}{}{fraction}", grouped(whole))
}

/// A whole number with commas between thousands.
pub fn grouped(whole: impl Display) -> String {
    let mut digits = whole.to_string();
    let count = digits.len();
    for following in (3..count).step_by(3) {
        digits.insert(count - following, ',');
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_leaves_no_markup_and_no_forbidden_character() {
        assert_eq!(
            escape("<a href=\"x\">&'\u{1}\n"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd}\n"
        );
    }

    #[test]
    fn white_space_and_controls_become_visible() {
        assert_eq!(printable(" a\n\t\u{1b}\u{202e}"), "␣a⏎⇥␛\u{fffd}");
    }

    #[test]
    fn truncation_never_exceeds_its_columns() {
        assert_eq!(truncate("serpens", 7), "serpens");
        assert_eq!(truncate("serpens", 4), "ser…");
        assert_eq!(truncate("蛇蛇蛇", 4), "蛇…");
        assert_eq!(truncate("abc", 0), "");
    }

    #[test]
    fn wrapping_keeps_every_word() {
        let lines = wrap("a state is what is kept of the past", 10);
        assert!(lines.iter().all(|line| line.len() <= 10));
        assert_eq!(lines.join(" "), "a state is what is kept of the past");
    }

    #[test]
    fn numbers_have_commas_a_true_minus_and_no_negative_zero() {
        assert_eq!(number(65536.0, 0), "65,536");
        assert_eq!(number(-1234.5, 1), "−1,234.5");
        assert_eq!(number(-0.001, 1), "0.0");
    }

    #[test]
    fn significant_digits_are_kept_and_no_zeros_after_them() {
        let cases = [(0.0214, "0.021"), (19.7, "20"), (0.5, "0.5"), (1.0, "1")];
        let far = [(2.04e-7, "2·10⁻⁷"), (1.25e12, "1.2·10¹²"), (0.0, "0")];
        for (value, text) in cases.into_iter().chain(far) {
            assert_eq!(rounded(value), text);
        }
        assert_eq!(superscript("-12"), "⁻¹²");
    }
}
