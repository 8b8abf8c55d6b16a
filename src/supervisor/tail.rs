//! Where the last lines of a log begin, found from its end, so that the length of what stands before does not count.
//!
//! A line of the workload is one `F` entry and the `P` entries of the same stream since the `F` before it. The two streams
//! mix: a piece of one line may stand between two lines of the other. Lines are taken in the order in which they end,
//! hence those of one stream are always its last ones, and one offset for each stream says which they are.

use std::io;

use jiff::Timestamp;

use super::log::Head;
use super::reader::LogFiles;

/// How much is read at a time, at first.
const BLOCK_BYTES: usize = 64 << 10;
/// How far before the lines that were found their first pieces are looked for. A longer line is shown from there on.
const LOOK_BACK_BYTES: u64 = 4 << 20;

/// Offsets of the first entry to show, of standard output and of standard error.
pub(super) type Starts = [u64; 2];

/// Finds the last `lines` lines among the entries that are not after `until`.
pub(super) fn starts(file: &LogFiles, lines: usize, until: Option<Timestamp>) -> io::Result<Starts> {
    let size = file.len();
    let mut entries = Backwards { file, buffer: Vec::new(), start: size, end: 0, floor: 0 };
    let mut starts = [entries.seek_end()?; 2];
    let mut found = 0;
    // Whether the piece that comes next, which stands before, belongs to a line that was found; nothing is known at first.
    let mut inside: [Option<bool>; 2] = [None; 2];
    while let Some((offset, line)) = entries.next()? {
        let Some(head) = Head::of(&line) else { continue };
        if until.is_some_and(|until| head.is_after(until)) {
            continue;
        }
        let stream = head.stream as usize;
        if head.whole || inside[stream].is_none() {
            inside[stream] = Some(found < lines);
            found += 1;
            if found == lines {
                entries.floor = offset.saturating_sub(LOOK_BACK_BYTES);
            }
        }
        if inside[stream] == Some(true) {
            starts[stream] = offset;
        }
        // One more than asked for has ended, and no piece of those that were asked for may come.
        if found > lines && inside.iter().all(|inside| *inside != Some(true)) {
            break;
        }
    }
    Ok(starts)
}

/// The entries of a log from its last to its first; one whose end has not been written is left out.
struct Backwards<'a> {
    file: &'a LogFiles,
    /// What stands at `start` in the file.
    buffer: Vec<u8>,
    start: u64,
    /// What of the buffer has not been given out.
    end: usize,
    /// Nothing before this is read.
    floor: u64,
}

impl Backwards<'_> {
    /// Where the last whole entry ends.
    fn seek_end(&mut self) -> io::Result<u64> {
        while self.end == 0 && self.start > 0 {
            self.read_more()?;
        }
        Ok(self.start + self.end as u64)
    }

    fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            // The newline at the end is the entry's own.
            let before = &self.buffer[..self.end.saturating_sub(1)];
            if let Some(newline) = before.iter().rposition(|byte| *byte == b'\n') {
                return Ok(Some(self.take_from(newline + 1)));
            }
            if self.start <= self.floor {
                // At the beginning of the file what is left is an entry; at any other floor it may be half of one.
                return Ok((self.start == 0 && self.end > 0).then(|| self.take_from(0)));
            }
            self.read_more()?;
        }
    }

    fn take_from(&mut self, begin: usize) -> (u64, Vec<u8>) {
        let line = self.buffer[begin..self.end].to_vec();
        self.end = begin;
        (self.start + begin as u64, line)
    }

    /// Reads as much again as is there, so that a very long line is not searched over and over.
    fn read_more(&mut self) -> io::Result<()> {
        let wanted = self.end.max(BLOCK_BYTES) as u64;
        let more = wanted.min(self.start - self.floor);
        let mut buffer = vec![0; usize::try_from(more).unwrap_or(BLOCK_BYTES)];
        self.file.read_exact_at(&mut buffer, self.start - more)?;
        buffer.extend_from_slice(&self.buffer[..self.end]);
        self.start -= more;
        // With nothing left over the block ends with an entry, or with half of the log's last one, which does not count.
        self.end = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        self.buffer = buffer;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::reader::LogReader;
    use super::*;

    /// A log with these entries, each `o` or `e`, `F` or `P`, and a text.
    fn log(entries: &[(char, char, String)]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for (second, (stream, tag, text)) in entries.iter().enumerate() {
            let stream = if *stream == 'o' { "stdout" } else { "stderr" };
            writeln!(file, "2026-01-02T03:{:02}:{:02}Z {stream} {tag} {text}", second / 60, second % 60).unwrap();
        }
        file
    }

    fn shown(file: &tempfile::NamedTempFile, lines: usize, until: Option<&str>) -> String {
        let until = until.map(|until| until.parse().unwrap());
        let mut reader = LogReader::open_tail(file.path(), lines, until).unwrap();
        let mut shown = String::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            shown.push_str(&String::from_utf8(entry.bytes).unwrap());
        }
        shown
    }

    fn entries(text: &str) -> Vec<(char, char, String)> {
        let one = |word: &str| {
            let mut chars = word.chars();
            (chars.next().unwrap(), chars.next().unwrap(), chars.collect())
        };
        text.split(' ').filter(|word| !word.is_empty()).map(one).collect()
    }

    #[test]
    fn the_last_lines_with_all_their_pieces() {
        for (text, lines, expected) in [
            ("", 3, ""),
            ("oFa oFb", 0, ""),
            ("oFa oFb", 1, "b\n"),
            ("oFa oFb", 2, "a\nb\n"),
            ("oFa oFb", 9, "a\nb\n"),
            ("oFa oPb oPc oFd", 1, "bcd\n"),
            ("oFa oPb oPc", 1, "bc"),
            ("oFa oPb oPc", 2, "a\nbc"),
            // A piece of one stream before a whole line of the other.
            ("oFa oPb eFx oFc", 1, "bc\n"),
            ("oFa oPb eFx oFc", 2, "bx\nc\n"),
            ("ePx oFa oFb ePy oFc eFz", 1, "xyz\n"),
            ("ePx oFa oFb ePy oFc eFz", 2, "xyc\nz\n"),
            ("eFw ePx oFa oFb ePy oFc", 2, "xyc\n"),
        ] {
            assert_eq!(shown(&log(&entries(text)), lines, None), expected, "{lines} of {text}");
        }
    }

    #[test]
    fn lines_after_the_end_asked_for_do_not_count() {
        let file = log(&entries("oFa oFb oFc oFd"));
        // The reader shows what comes later too; that is for its user to leave out.
        assert_eq!(shown(&file, 1, Some("2026-01-02T03:00:01Z")), "b\nc\nd\n");
    }

    #[test]
    fn an_entry_half_written_and_lines_that_are_none() {
        let mut file = log(&entries("oFa oFb"));
        write!(file, "nonsense\n\n2026-01-02T03:05:05Z stdout F hal").unwrap();
        assert_eq!(shown(&file, 1, None), "b\n");
        let mut reader = LogReader::open_tail(file.path(), 1, None).unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().bytes, b"b\n");
        assert_eq!(reader.next_entry().unwrap(), None);
        writeln!(file, "f").unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().bytes, b"half\n");
        write!(file, "2026-01-02T03:05:06Z stderr F {}", "x".repeat(2 * BLOCK_BYTES)).unwrap();
        let mut reader = LogReader::open_tail(file.path(), 0, None).unwrap();
        assert_eq!(reader.next_entry().unwrap(), None);
        writeln!(file, "y").unwrap();
        assert!(reader.next_entry().unwrap().unwrap().bytes.ends_with(b"xy\n"));
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(shown(&empty, 1, None), "");
    }

    /// The hole has no newline: whoever reads it all holds 200 MB.
    #[test]
    fn what_stands_before_is_not_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(200 << 20).unwrap();
        std::io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
        for number in 0..100 {
            let stream = if number == 95 { "stderr" } else { "stdout" };
            write!(file, "\n2026-01-02T03:04:05Z {stream} F {number}").unwrap();
        }
        writeln!(file).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(shown(&file, 10, None), "90\n91\n92\n93\n94\n95\n96\n97\n98\n99\n");
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "took {:?}", began.elapsed());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn as_counted_from_the_beginning(
            entries in prop::collection::vec((
                prop::sample::select(vec!['o', 'e']),
                prop::sample::select(vec!['F', 'P']),
                prop_oneof![9 => "[a-z]{0,3}", 1 => Just("x".repeat(BLOCK_BYTES - 30))],
            ), 0..20),
            lines in 0_usize..8,
        ) {
            let file = log(&entries);
            // The line that each entry belongs to, and the order in which lines end.
            let (mut line_of, mut ends, mut open, mut next) = (Vec::new(), Vec::new(), [None; 2], 0);
            for (at, (stream, tag, _)) in entries.iter().enumerate() {
                let stream = usize::from(*stream == 'e');
                let line = *open[stream].get_or_insert_with(|| { next += 1; next });
                line_of.push(line);
                ends.retain(|(_, ended)| *ended != line);
                ends.push((at, line));
                if *tag == 'F' {
                    open[stream] = None;
                }
            }
            ends.sort_unstable();
            let wanted: Vec<usize> = ends.iter().rev().take(lines).map(|(_, line)| *line).collect();
            let mut expected = String::new();
            for ((_, tag, text), _) in entries.iter().zip(&line_of).filter(|(_, line)| wanted.contains(line)) {
                expected.push_str(text);
                expected.push_str(if *tag == 'F' { "\n" } else { "" });
            }
            prop_assert_eq!(shown(&file, lines, None), expected);
        }
    }
}
