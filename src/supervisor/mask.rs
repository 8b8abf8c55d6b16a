//! Secrets are hidden from what a run writes and from what is told about it: each becomes [`MASK`].
//!
//! What is hidden of a secret: its value without line ends around it, each of its lines of [`MIN_PART_BYTES`] and more,
//! and the value as programs usually print it: as a JSON string, percent-encoded, in base64. A stretch of the output in
//! which such forms overlap or touch becomes one mask, so that no rest of either shows. That makes the result a
//! property of the whole output: it does not depend on how the output was cut into writes.
//!
//! The forms make an automaton (Aho and Corasick, 1975) that reads each byte once. Bytes that may still become a secret
//! are held back until the next ones decide it, so at most one byte less than the longest form.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

/// What stands in the place of a secret.
pub const MASK: &str = "****";
/// Shorter lines of a secret, and encoded forms of shorter secrets, are left alone: they would be found everywhere.
const MIN_PART_BYTES: usize = 4;
/// Encoded forms of longer secrets are not looked for, and none once all together are so long: each byte costs memory
/// (a [`State`]) for the whole of the run. Values and lines are looked for whatever their length.
const MAX_ENCODED_BYTES: usize = 4096;
const MAX_ENCODED_TOTAL_BYTES: usize = 256 << 10;
/// `base64` and MIME break lines there.
const BASE64_LINE_CHARS: usize = 76;
/// Of base64 inside other base64 (`user:password`) fewer characters than this are no reason to mask.
const MIN_BASE64_CHARS: usize = 6;

/// Knows the secrets of a run; cheap to clone.
#[derive(Clone, Default)]
pub struct Masker {
    /// `None` when there is nothing to hide.
    automaton: Option<Arc<Automaton>>,
}

impl Masker {
    /// A masker of these values; blank ones are passed over.
    #[must_use]
    pub fn new(secrets: &[String]) -> Self {
        let forms = forms_of(secrets);
        let automaton = (!forms.is_empty()).then(|| Arc::new(Automaton::new(&forms)));
        Self { automaton }
    }

    /// Whether there is nothing to hide.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.automaton.is_none()
    }

    /// A stream of bytes to mask, from its beginning.
    #[must_use]
    pub fn stream(&self) -> MaskedStream {
        MaskedStream {
            automaton: self.automaton.clone(),
            state: ROOT,
            held: Vec::new(),
            spans: Vec::new(),
            inside_mask: false,
        }
    }

    /// The text without the secrets.
    #[must_use]
    pub fn mask_text(&self, text: &str) -> String {
        if self.is_empty() {
            return text.to_owned();
        }
        let mut masked = Vec::with_capacity(text.len());
        let mut stream = self.stream();
        stream.push(text.as_bytes(), &mut masked);
        stream.finish(&mut masked);
        // Forms are whole characters, so what is between them is whole too.
        String::from_utf8(masked).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").field("is_empty", &self.is_empty()).finish_non_exhaustive()
    }
}

/// One stream on its way through a [`Masker`].
pub struct MaskedStream {
    automaton: Option<Arc<Automaton>>,
    state: u32,
    /// What was taken in and not given out.
    held: Vec<u8>,
    /// What of `held` is secret: ends and beginnings in order, none touching the next.
    spans: Vec<Span>,
    /// The last byte given out was part of a mask.
    inside_mask: bool,
}

/// Offsets; the end is not part of it.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl MaskedStream {
    /// Takes bytes in and appends to `out` what is decided.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(automaton) = self.automaton.clone() else {
            out.extend_from_slice(bytes);
            return;
        };
        if self.held.is_empty() {
            self.scan(&automaton, bytes, 0);
            let decided = bytes.len() - automaton.depth(self.state);
            self.give_out(bytes, decided, out);
            self.held.extend_from_slice(&bytes[decided..]);
        } else {
            let scanned = self.held.len();
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            self.scan(&automaton, &held, scanned);
            let decided = held.len() - automaton.depth(self.state);
            self.give_out(&held, decided, out);
            held.drain(..decided);
            self.held = held;
        }
    }

    /// Appends what was held back: no more bytes will come. The stream is then at its beginning again.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        self.give_out(&held, held.len(), out);
        self.state = ROOT;
        self.inside_mask = false;
    }

    /// Whether bytes are held back.
    #[must_use]
    pub const fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    fn scan(&mut self, automaton: &Automaton, bytes: &[u8], from: usize) {
        let mut at = from;
        while at < bytes.len() {
            if self.state == ROOT {
                let skipped = bytes[at..].iter().position(|byte| automaton.starts[usize::from(*byte)] != ROOT);
                let Some(skipped) = skipped else { return };
                at += skipped;
            }
            self.state = automaton.next(self.state, bytes[at]);
            at += 1;
            let found = automaton.longest(self.state);
            if found > 0 {
                self.mark(Span { start: at - found, end: at });
            }
        }
    }

    fn mark(&mut self, mut span: Span) {
        while let Some(last) = self.spans.last()
            && last.end >= span.start
        {
            span.start = span.start.min(last.start);
            self.spans.pop();
        }
        self.spans.push(span);
    }

    /// Appends `bytes[..decided]` to `out`, masked, and counts the spans from there on.
    fn give_out(&mut self, bytes: &[u8], decided: usize, out: &mut Vec<u8>) {
        let mut at = 0;
        for span in &self.spans {
            let (start, end) = (span.start.min(decided), span.end.min(decided));
            if start > at {
                out.extend_from_slice(&bytes[at..start]);
                self.inside_mask = false;
            }
            if end > start {
                if !self.inside_mask {
                    out.extend_from_slice(MASK.as_bytes());
                }
                self.inside_mask = true;
            }
            at = end.max(at);
        }
        if decided > at {
            out.extend_from_slice(&bytes[at..decided]);
            self.inside_mask = false;
        }
        self.spans.retain_mut(|span| {
            span.start = span.start.saturating_sub(decided);
            span.end = span.end.saturating_sub(decided);
            span.end > 0
        });
    }
}

impl fmt::Debug for MaskedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskedStream").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}

/// The state in which nothing has been read of any form. No edge leads there.
const ROOT: u32 = 0;

/// A trie of the forms, each state with the state of its longest proper suffix.
struct Automaton {
    /// Where the root goes with each byte; [`ROOT`] when no form begins with it.
    starts: Box<[u32; 256]>,
    states: Vec<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// The byte that led here.
    byte: u8,
    /// How many bytes led here.
    depth: u32,
    /// Length of the longest form that ends here, 0 when none does.
    longest: u32,
    /// The state of the longest proper suffix that a form begins with.
    suffix: u32,
    /// The first that goes on from here, [`ROOT`] when none does.
    child: u32,
    /// Another child of the same parent, or [`ROOT`].
    sibling: u32,
}

impl Automaton {
    fn new(forms: &[Vec<u8>]) -> Self {
        let mut automaton = Self { starts: Box::new([ROOT; 256]), states: vec![State::default()] };
        for form in forms {
            let mut state = ROOT;
            for byte in form {
                state = automaton.edge(state, *byte).unwrap_or_else(|| automaton.grow(state, *byte));
            }
            let end = &mut automaton.states[state as usize];
            end.longest = end.depth;
        }
        automaton.link();
        automaton
    }

    fn depth(&self, state: u32) -> usize {
        self.states[state as usize].depth as usize
    }

    fn longest(&self, state: u32) -> usize {
        self.states[state as usize].longest as usize
    }

    fn next(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            if let Some(next) = self.edge(state, byte) {
                return next;
            }
            if state == ROOT {
                return ROOT;
            }
            state = self.states[state as usize].suffix;
        }
    }

    fn edge(&self, state: u32, byte: u8) -> Option<u32> {
        let mut child = if state == ROOT { self.starts[usize::from(byte)] } else { self.states[state as usize].child };
        while child != ROOT {
            let found = &self.states[child as usize];
            if found.byte == byte {
                return Some(child);
            }
            child = found.sibling;
        }
        None
    }

    fn grow(&mut self, parent: u32, byte: u8) -> u32 {
        let new = u32::try_from(self.states.len()).expect("less than 4 GiB of secrets");
        let State { depth, child, .. } = self.states[parent as usize];
        let sibling = if parent == ROOT { ROOT } else { child };
        self.states.push(State { byte, depth: depth + 1, sibling, ..State::default() });
        if parent == ROOT {
            self.starts[usize::from(byte)] = new;
        } else {
            self.states[parent as usize].child = new;
        }
        new
    }

    /// Sets the suffixes, the shallow states first, as each needs those of less depth.
    fn link(&mut self) {
        let mut by_depth: Vec<(u32, u32)> =
            self.starts.iter().filter(|start| **start != ROOT).map(|start| (*start, ROOT)).collect();
        let mut done = 0;
        while done < by_depth.len() {
            let (state, parent) = by_depth[done];
            done += 1;
            let State { byte, mut child, longest, .. } = self.states[state as usize];
            let suffix = if parent == ROOT { ROOT } else { self.next(self.states[parent as usize].suffix, byte) };
            let inherited = self.states[suffix as usize].longest;
            let linked = &mut self.states[state as usize];
            linked.suffix = suffix;
            linked.longest = longest.max(inherited);
            while child != ROOT {
                by_depth.push((child, state));
                child = self.states[child as usize].sibling;
            }
        }
    }
}

/// All that is looked for, in order and without repetitions.
fn forms_of(secrets: &[String]) -> Vec<Vec<u8>> {
    // A file with a secret often ends with a newline, a variable with it does not.
    let values: Vec<&str> = secrets
        .iter()
        .map(|secret| secret.trim_matches(['\r', '\n']))
        .filter(|value| !value.trim().is_empty())
        .collect();
    let mut forms: Vec<Vec<u8>> = values.iter().flat_map(|value| plain_forms(value)).collect();
    let mut encoded_bytes = 0;
    for value in values.iter().filter(|value| (MIN_PART_BYTES..=MAX_ENCODED_BYTES).contains(&value.len())) {
        let encoded = encoded_forms(value);
        encoded_bytes += encoded.iter().map(Vec::len).sum::<usize>();
        if encoded_bytes > MAX_ENCODED_TOTAL_BYTES {
            break;
        }
        forms.extend(encoded);
    }
    forms.sort_unstable();
    forms.dedup();
    forms
}

/// The value, and its lines that are long enough.
fn plain_forms(value: &str) -> Vec<Vec<u8>> {
    let lines = value.split('\n').map(|line| line.trim_end_matches('\r'));
    let lines = lines.filter(|line| line.len() >= MIN_PART_BYTES && !line.trim().is_empty());
    lines.chain([value]).map(Into::into).collect()
}

fn encoded_forms(value: &str) -> Vec<Vec<u8>> {
    let texts = json_forms(value).into_iter().chain(url_forms(value)).map(String::into_bytes);
    texts.chain(base64_forms(value.as_bytes())).collect()
}

/// Inside a JSON string: as it is usual, and with all but ASCII escaped.
fn json_forms(value: &str) -> [String; 2] {
    let quoted = serde_json::Value::from(value).to_string();
    let plain = quoted[1..quoted.len() - 1].to_owned();
    let mut ascii = String::new();
    for character in plain.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    [plain, ascii]
}

/// Percent-encoded: all that RFC 3986 does not call unreserved, the same but for `/`, and as forms do (`+` for a space).
fn url_forms(value: &str) -> [String; 3] {
    let all = percent_encode(value);
    [all.replace("%2F", "/"), all.replace("%20", "+"), all]
}

fn percent_encode(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// In base64 of either alphabet: alone, broken into lines, and somewhere inside of something longer. Three bytes make four
/// characters, so in something longer there are three ways it can lie, each with characters that depend on it alone.
fn base64_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for alphabet in [STANDARD, URL_SAFE] {
        let alone = base64(value, alphabet);
        forms.extend(alone.chunks(BASE64_LINE_CHARS).filter(|line| line.len() >= MIN_PART_BYTES).map(<[u8]>::to_vec));
        for before in 0..3 {
            let mut shifted = vec![0; before];
            shifted.extend_from_slice(value);
            let (first, last) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
            let own = &base64(&shifted, alphabet)[first..last];
            if own.len() >= MIN_BASE64_CHARS {
                forms.push(own.to_vec());
            }
        }
        forms.push(alone);
    }
    forms
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 without padding (RFC 4648).
fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digits = (0..=group.len()).map(|place| alphabet[(bits >> (18 - 6 * place) & 0x3f) as usize]);
        encoded.extend(digits);
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn masker(secrets: &[&str]) -> Masker {
        Masker::new(&secrets.iter().map(|secret| (*secret).to_owned()).collect::<Vec<_>>())
    }

    /// The output for a text that comes in these pieces.
    fn mask_pieces<'a>(masker: &Masker, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut stream, mut out) = (masker.stream(), Vec::new());
        for piece in pieces {
            stream.push(piece, &mut out);
        }
        stream.finish(&mut out);
        out
    }

    #[test]
    fn secrets_are_masked() {
        for (secrets, text, expected) in [
            (&["hunter2"][..], "the password is hunter2.\n", "the password is ****.\n"),
            (&["hunter2"], "hunter2hunter2 hunter hunter2", "**** hunter ****"),
            (&["hunter2"], "hunterhunter2", "hunter****"),
            (&["aab"], "aaab", "a****"),
            // Of forms that overlap or hold each other nothing is left.
            (&["abc", "abcdef"], "abcde abcdef", "****de ****"),
            (&["abcd", "cdef"], "abcdef cdefabcd", "**** ****"),
            (&["xabcd", "abcde"], "xabcde", "****"),
            (&["aa"], "aaaaa", "****"),
            // A prefix that fails must not swallow another secret inside it.
            (&["abcabd", "cab"], "abcabx abcabd", "ab****x ****"),
            (&["1"], "a1b", "a****b"),
            (&["", " ", "\r\n"], "a b\r\n", "a b\r\n"),
            // With newlines: the whole, and each line that is long enough.
            (&["one1\r\ntwo2\nxy\n"], "one1\r\ntwo2\nxy!", "****!"),
            (&["one1\r\ntwo2\nxy\n"], "a one1, two2, xy", "a ****, ****, xy"),
            (&["abc\n"], "abc\nabc", "****\n****"),
            // As programs print it.
            (&["pä\"ss w/d"], r#"{"a": "pä\"ss w/d", "b": "p\u00e4\"ss w/d"}"#, r#"{"a": "****", "b": "****"}"#),
            (&["pass w/d&"], "?p=pass%20w%2Fd%26&q=pass+w%2Fd%26 pass%20w/d%26", "?p=****&q=**** ****"),
            // Alone, after `u:`, after `us:`, before a newline.
            (
                &["hunter2"],
                "aHVudGVyMg== dTpodW50ZXIy dXM6aHVudGVyMg== aHVudGVyMgo=",
                "****== dTp**** dXM6****== ****o=",
            ),
            (&["\u{3ff}>>???"], "z78+Pj8/Pw== z78-Pj8_Pw", "****== ****"),
        ] {
            assert_eq!(masker(secrets).mask_text(text), expected, "{secrets:?}");
        }
    }

    #[test]
    fn a_long_secret_is_masked_in_base64_lines() {
        let secret = "0123456789abcdef".repeat(8);
        let encoded = base64(secret.as_bytes(), STANDARD);
        let lines: Vec<&[u8]> = encoded.chunks(BASE64_LINE_CHARS).collect();
        assert_eq!(mask_pieces(&masker(&[&secret]), [&lines.join(&b'\n')[..]]), b"****\n****\n****");
    }

    #[test]
    fn a_great_many_secrets_are_all_masked_and_cost_little() {
        let secrets: Vec<String> =
            (0..2000).map(|number| format!("secret-{number:04}-{}", "x".repeat(1 << 10))).collect();
        let masker = Masker::new(&secrets);
        let states = masker.automaton.as_ref().unwrap().states.len();
        let plain: usize = secrets.iter().map(String::len).sum();
        assert!(states <= plain + MAX_ENCODED_TOTAL_BYTES, "{states} states");
        let text = format!("{} and {}", secrets[0], secrets[1999]);
        assert_eq!(masker.mask_text(&text), "**** and ****");
    }

    #[test]
    fn only_what_may_become_a_secret_is_held_back() {
        let (mut stream, mut out) = (masker(&["secret"]).stream(), Vec::new());
        stream.push(b"is it sec", &mut out);
        assert_eq!(out, b"is it ");
        assert!(stream.is_holding());
        stream.push(b"t", &mut out);
        assert_eq!(out, b"is it sect");
        assert!(!stream.is_holding());
        stream.push(b"secre", &mut out);
        stream.push(b"t", &mut out);
        stream.push(b"!", &mut out);
        assert_eq!(out, b"is it sect****!");
        stream.push(b"se", &mut out);
        stream.finish(&mut out);
        stream.push(b"cret", &mut out);
        assert_eq!(out, b"is it sect****!secret");
    }

    #[test]
    fn nothing_to_hide_passes_through() {
        let masker = masker(&[""]);
        assert!(masker.is_empty());
        let (mut stream, mut out) = (masker.stream(), Vec::new());
        stream.push(b"abc", &mut out);
        assert_eq!(out, b"abc");
    }

    #[test]
    fn debug_shows_no_secret() {
        let masker = masker(&["hunter2"]);
        let mut stream = masker.stream();
        stream.push(b"hunter", &mut Vec::new());
        let shown = format!("{masker:?} {stream:?}");
        assert!(!shown.contains("hunt") && !shown.contains("104"), "{shown}");
    }

    /// A bound that even a debug build on a busy machine keeps; a release build does hundreds of MB/s.
    #[test]
    fn masking_is_fast_even_when_it_almost_matches() {
        let text = "aaaaaaab".repeat(1 << 17);
        let secrets = [format!("{}c", "a".repeat(2000)), format!("{}d", "aaab".repeat(500))];
        let began = Instant::now();
        let masker = Masker::new(&secrets);
        let shown = mask_pieces(&masker, text.as_bytes().chunks(4096));
        assert_eq!(shown.len(), text.len());
        assert!(began.elapsed() < Duration::from_secs(5), "1 MiB took {:?}", began.elapsed());
    }

    /// The rule of the module's head, byte by byte.
    fn mask_slowly(forms: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
        let mut hidden = vec![false; text.len()];
        for form in forms {
            for start in 0..text.len() {
                if text[start..].starts_with(form) {
                    hidden[start..start + form.len()].fill(true);
                }
            }
        }
        let mut out = Vec::new();
        for (at, byte) in text.iter().enumerate() {
            if !hidden[at] {
                out.push(*byte);
            } else if at == 0 || !hidden[at - 1] {
                out.extend_from_slice(MASK.as_bytes());
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_cut_gives_what_the_whole_gives(
            secrets in prop::collection::vec("[ab\n]{1,6}|[a-c]{3,9}|\\PC{1,5}", 0..5),
            text in prop::collection::vec("[ab]{1,8}|[a-c\n]{1,12}|\\PC{0,6}", 0..12),
            inserted in prop::collection::vec(0_usize..5, 0..6),
            cuts in prop::collection::vec(0_usize..200, 0..20),
        ) {
            let mut text = text.concat();
            for which in inserted {
                text.push_str(secrets.get(which).map_or("", |secret| secret));
            }
            let text = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let masker = Masker::new(&secrets);
            let shown = mask_pieces(&masker, cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]));
            let forms = forms_of(&secrets);
            prop_assert_eq!(&shown, &mask_slowly(&forms, text));
            prop_assert_eq!(&shown, &mask_pieces(&masker, text.iter().map(std::slice::from_ref)));
            for form in forms.iter().filter(|form| !form.contains(&b'*')) {
                prop_assert!(!shown.windows(form.len()).any(|window| window == form), "{form:?} in {shown:?}");
            }
        }
    }
}
