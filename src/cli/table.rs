//! Tables for people: columns that line up, and that fit the terminal.

use unicode_width::UnicodeWidthStr;

use crate::words::printable;

/// Between two columns.
const GAP: &str = "   ";
/// Stands for what was cut off.
const CUT: char = '…';

/// Columns as wide as their widest value; values cannot drive the terminal. Where `terminal_width` is known no line is
/// longer: the widest columns are cut as far as they must be.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: Vec<[String; N]>,
    terminal_width: Option<usize>,
) -> String {
    table_of(&header, rows.into_iter().map(Vec::from).collect(), terminal_width)
}

/// The same with as many columns as the header has.
pub(super) fn table_of(header: &[&str], rows: Vec<Vec<String>>, terminal_width: Option<usize>) -> String {
    let mut lines: Vec<Vec<String>> = vec![header.iter().map(|name| printable(name)).collect()];
    lines.extend(rows.into_iter().map(|row| row.iter().map(|value| printable(value)).collect()));
    let mut widths = vec![0; header.len()];
    for line in &lines {
        for (width, value) in widths.iter_mut().zip(line) {
            *width = (*width).max(value.width());
        }
    }
    if let Some(terminal) = terminal_width {
        let gaps = GAP.len() * header.len().saturating_sub(1);
        let widest = level(&widths, terminal.saturating_sub(gaps));
        for width in &mut widths {
            *width = (*width).min(widest);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(value, width)| cell(value, *width)).collect();
        let whole = cells.join(GAP);
        text.push_str(cut(whole.trim_end(), terminal_width.unwrap_or(usize::MAX)).trim_end());
        text.push('\n');
    }
    text
}

/// The largest width of a column with which all of them together have `room`; at least 1.
fn level(widths: &[usize], room: usize) -> usize {
    let mut sorted = widths.to_vec();
    sorted.sort_unstable();
    let mut room = room;
    for (at, width) in sorted.iter().enumerate() {
        let share = room / (sorted.len() - at);
        if *width > share {
            return share.max(1);
        }
        room -= width;
    }
    usize::MAX
}

/// The value in exactly `width` columns.
fn cell(value: &str, width: usize) -> String {
    let mut cell = cut(value, width);
    let padding = width.saturating_sub(cell.width());
    cell.extend(std::iter::repeat_n(' ', padding));
    cell
}

/// The value in at most `width` columns.
fn cut(value: &str, width: usize) -> String {
    if value.width() <= width {
        return value.to_owned();
    }
    let mut kept = String::new();
    for character in value.chars() {
        kept.push(character);
        // Of the whole, as a character may change the width of the one before it.
        if kept.width() >= width {
            kept.pop();
            break;
        }
    }
    kept.push(CUT);
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows<const N: usize>(rows: &[[&str; N]]) -> Vec<[String; N]> {
        rows.iter().map(|row| row.map(str::to_owned)).collect()
    }

    #[test]
    fn tables_are_aligned_and_harmless() {
        let rows = rows(&[["a", "long value"], ["b\u{1b}[2J", "x"]]);
        assert_eq!(table(["ONE", "TWO"], rows, None), "ONE          TWO\na            long value\nb\\u{1b}[2J   x\n");
    }

    #[test]
    fn wide_characters_count_twice() {
        let rows = rows(&[["日本", "x"], ["e\u{301}", "y"]]);
        assert_eq!(table(["A", "B"], rows, None), "A      B\n日本   x\ne\u{301}      y\n");
    }

    #[test]
    fn the_widest_columns_are_cut() {
        let lines = rows(&[["short", "a path that is rather long", "done"], ["s", "日本語の長い名前です", "failed"]]);
        let header = ["RUN", "WORKFLOW", "STATUS"];
        let cut = table(header, lines.clone(), Some(30));
        assert_eq!(
            cut,
            "RUN     WORKFLOW        STATUS\nshort   a path that …   done\ns       日本語の長い…   failed\n"
        );
        // Wide enough, or not a terminal: all of it.
        assert_eq!(table(header, lines.clone(), Some(43)), table(header, lines, None));
    }

    #[test]
    fn even_the_narrowest_terminal_is_kept_to() {
        let lines = rows(&[["abc", "def", "ghi"]]);
        assert_eq!(table(["A", "B", "C"], lines.clone(), Some(9)), "A   B   C\n…   …   …\n");
        assert_eq!(table(["A", "B", "C"], lines, Some(4)), "A  …\n…  …\n");
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_the_terminal(
            lines in prop::collection::vec(prop::array::uniform4("\\PC{0,30}"), 0..5),
            width in 1_usize..120,
        ) {
            let full = table(["ONE", "TWO", "THREE", "FOUR"], lines.clone(), None);
            let fitted = table(["ONE", "TWO", "THREE", "FOUR"], lines, Some(width));
            prop_assert!(fitted.lines().all(|line| line.width() <= width), "{fitted}");
            if full.lines().all(|line| line.width() <= width && !line.contains('…')) {
                prop_assert!(!fitted.contains('…'), "{fitted}");
            }
        }
    }
}
