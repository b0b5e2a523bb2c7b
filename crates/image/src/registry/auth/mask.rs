//! What was sent in secret, taken out of what a server says: the one place that masks.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use crate::{error::ImageError, registry::auth::secret::Secret, text::escape};

/// Secrets that are remembered: those of the last requests, also when their login has been replaced.
const MAX_KEPT: usize = 256;
/// What is shorter is no secret, and would tear words apart.
const MIN_LENGTH: usize = 4;
/// What is shorter in base64 could be a word.
const MIN_BASE64: usize = 8;
const MASK: &str = "***";

/// Everything secret that a client has sent.
#[derive(Default)]
pub(in crate::registry) struct Sent(Mutex<VecDeque<Secret>>);

impl Sent {
    pub(in crate::registry) fn note(&self, secrets: impl IntoIterator<Item = Secret>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets {
            if !kept.contains(&secret) {
                kept.push_back(secret);
            }
        }
        while kept.len() > MAX_KEPT {
            kept.pop_front();
        }
    }

    pub(in crate::registry) fn mask(&self) -> Mask {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Mask::new(kept.iter().map(Secret::reveal))
    }
}

/// The forms a secret may be echoed in, in small letters: hosts are echoed so.
pub(in crate::registry) struct Mask(Vec<String>);

impl Mask {
    fn new<'a>(secrets: impl Iterator<Item = &'a str>) -> Self {
        let mut forms: Vec<String> = Vec::new();
        for secret in secrets {
            let bare = secret.strip_prefix("Bearer ").or(secret.strip_prefix("Basic ")).unwrap_or(secret);
            let other = [escape(bare).into_owned(), percent_encoded(bare), form_encoded(bare), html_encoded(bare)];
            let base64 = base64_forms(bare);
            let bare = [bare.to_owned(), bare.trim_end_matches('=').to_owned()];
            let base64 = base64.into_iter().filter(|form| form.len() >= MIN_BASE64);
            let all = bare.into_iter().chain(other).chain(base64).filter(|form| form.len() >= MIN_LENGTH);
            forms.extend(all.map(|form| form.to_ascii_lowercase()));
        }
        // The longest first, so that no part of one stays.
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        forms.dedup();
        Self(forms)
    }

    /// The text without secrets, however their letters are written. To be used before anything is cut.
    pub(in crate::registry) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for form in &self.0 {
            let (mut masked, mut from) = (String::new(), 0);
            for (at, _) in text.to_ascii_lowercase().match_indices(form.as_str()) {
                masked.push_str(&text[from..at]);
                masked.push_str(MASK);
                from = at + form.len();
            }
            masked.push_str(&text[from..]);
            text = masked;
        }
        text
    }

    /// The error with all its texts, and those of its causes, without secrets.
    pub(in crate::registry) fn error(&self, error: ImageError) -> ImageError {
        if self.0.is_empty() { error } else { error.with_texts(&|text| self.text(text)) }
    }
}

/// As the body of a request has it.
fn form_encoded(text: &str) -> String {
    percent_encoded(text).replace("%20", "+").replace('~', "%7E").replace("%2A", "*")
}

/// As a page has it.
fn html_encoded(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

/// As base64, in both alphabets; what it ends in depends on what follows, and is left out.
fn base64_forms(text: &str) -> [String; 2] {
    let whole = text.len() / 3 * 3;
    [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|alphabet| alphabet.encode(&text.as_bytes()[..whole]))
}

/// As a URL has it.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn mask(secrets: &[Secret]) -> Mask {
        let sent = Sent::default();
        sent.note(secrets.iter().cloned());
        sent.mask()
    }

    #[test]
    fn a_secret_is_masked_in_every_form_it_may_be_echoed_in() {
        let mask =
            mask(&[Secret::new("hunTer2/\u{1b}"), Secret::new("hunTer2/\u{1b}").as_basic("me"), Secret::new("Be")]);
        for (text, expected) in [
            ("you sent Basic bWU6aHVuVGVyMi8b and hunTer2/\u{1b}.", "you sent Basic *** and ***."),
            ("hunter2%2f%1B.example", "***.example"),
            ("x hunTer2/\\u{1b} hunTer2/\u{1b}", "x *** ***"),
            ("Beer", "Beer"),
            ("aHVuVGVyMi8b and ahvuvgvymi8b", "*** and ***"),
        ] {
            assert_eq!(mask.text(text), expected);
        }
    }

    #[test]
    fn a_token_is_masked_as_a_form_and_a_page_have_it() {
        let mask = mask(&[Secret::new("a~b *<c>&\"d'")]);
        let texts = [
            "a%7Eb+*%3Cc%3E%26%22d%27",
            "a~b%20%2A%3Cc%3E%26%22d%27",
            "a~b *&lt;c&gt;&amp;&quot;d&#39;",
            "YX5iICo8Yz4mImQn",
        ];
        assert_eq!(texts.map(|text| mask.text(text)), ["***"; 4]);
    }

    #[test]
    fn a_secret_that_would_be_cut_in_two_is_masked_before() {
        let secret = "s3cret".repeat(20);
        let message = format!("{}{secret}", "x".repeat(990));
        let error = ErrorKind::Registry { registry: "r".into(), status: 400, message }.into();
        let text = mask(&[Secret::new(secret)]).error(error).to_string();
        assert!(text.contains("x***") && !text.contains("s3"), "{text}");
    }
}
