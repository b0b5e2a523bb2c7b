//! Names that nobody else has and nobody can guess.

use crate::error::{ImageError, Result};

/// Letters of a random name.
pub(crate) const RANDOM_LENGTH: usize = 32;

/// 128 random bits of the operating system, in hexadecimal.
pub(crate) fn random_name() -> Result<String> {
    let mut bytes = [0; RANDOM_LENGTH / 2];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(hex::encode(bytes)),
        Err(error) => Err(ImageError::internal(format!("the system has no random numbers: {error}"))),
    }
}

/// True if a text could be a name of [`random_name`].
pub(crate) fn is_random_name(text: &str) -> bool {
    text.len() == RANDOM_LENGTH && text.bytes().all(|letter| matches!(letter, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_are_alike() {
        let names: std::collections::BTreeSet<String> = (0..1000).map(|_| random_name().unwrap()).collect();
        assert!(names.len() == 1000 && names.iter().all(|name| is_random_name(name)));
        assert!(!is_random_name("part") && !is_random_name(&"A".repeat(RANDOM_LENGTH)));
    }
}
