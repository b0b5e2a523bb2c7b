//! Text from outside, made fit for a message: what a terminal would obey, or what nobody would see, is written out.
//!
//! Manifests, configs, headers and the words of a registry are all hostile. Every error passes through here when it is
//! made; a program that prints labels or media types itself has to do the same.

use std::borrow::Cow;

/// Letters of a registry's words that an error shows.
pub(crate) const MAX_SHOWN: usize = 500;

/// Writes out control characters (escape sequences, line ends), what changes the direction of writing, and what takes no
/// place, as `\u{…}`. Doing it twice changes nothing.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_hidden(letter) { escaped.extend(letter.escape_unicode()) } else { escaped.push(letter) }
    }
    Cow::Owned(escaped)
}

/// The first letters of a text; the rest is only said to be there.
pub(crate) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// True for what a terminal obeys or a reader doesn't see: C0 and C1, marks of direction, joiners, variation selectors,
/// tags, separators of lines.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_nobody_sees_is_written_out() {
        for (text, expected) in [
            ("sha256:ab — naïve 漢字 \"x\"\\", "sha256:ab — naïve 漢字 \"x\"\\"),
            ("a\u{1b}[31mb", "a\\u{1b}[31mb"),
            ("a\r\nb\tc\u{7f}", "a\\u{d}\\u{a}b\\u{9}c\\u{7f}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
        ] {
            assert_eq!(escape(text), expected);
            assert_eq!(escape(&escape(text)), expected);
        }
    }

    #[test]
    fn a_cut_counts_letters() {
        assert_eq!((cut("äöü", 3), cut("äöü", 2)), ("äöü".into(), "äö…".into()));
    }
}
