//! Which manifest of an index fits a platform.

use crate::model::Platform;

/// How well an offered platform fits: 0 is the best, `None` does not fit. Variants fit only downwards: a processor of
/// `arm/v7` runs `v6`, not the other way round.
pub(super) fn fit(wanted: &Platform, offered: &Platform) -> Option<u32> {
    let (wanted, offered) = (&wanted.normalised(), &offered.normalised());
    if offered.os != wanted.os || offered.architecture != wanted.architecture {
        return None;
    }
    let level = |platform: &Platform| level(&platform.architecture, platform.variant.as_deref());
    match (&wanted.variant, &offered.variant) {
        (None, None) => Some(0),
        (Some(wanted), Some(offered)) if wanted == offered => Some(0),
        _ => {
            let (wanted, offered) = (level(wanted)?, level(offered)?);
            // After the exact spelling, the nearest level below.
            wanted.checked_sub(offered).map(|distance| distance + 1)
        }
    }
}

/// Levels within an architecture; one that is not named is what the architecture's name alone stands for.
fn level(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let number = |variant: &str| variant.strip_prefix('v').and_then(|digits| digits.parse().ok());
    match (architecture, variant) {
        ("arm", None) => Some(7),
        ("arm64", None) => Some(8),
        ("amd64", None) => Some(1),
        ("arm" | "arm64" | "amd64", Some(variant)) => number(variant),
        (_, None) => Some(0),
        (_, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_fit_downwards_best_first() {
        for (wanted, offered, expected) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v1", Some(1)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64/v3", Some(0)),
            ("linux/amd64/v3", "linux/amd64/v2", Some(2)),
            ("linux/amd64/v3", "linux/amd64", Some(3)),
            ("linux/arm/v7", "linux/arm/v6", Some(2)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v7", "linux/arm", Some(1)),
            ("linux/arm64", "linux/arm64/v8", Some(1)),
            ("linux/arm64/v8", "linux/arm64", Some(1)),
            ("linux/arm64", "linux/arm64/v9", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "linux/arm64", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
            ("linux/mips64le", "linux/mips64le/hardfloat", None),
        ] {
            let (wanted, offered) = (Platform::parse(wanted).unwrap(), Platform::parse(offered).unwrap());
            assert_eq!(fit(&wanted, &offered), expected, "{wanted} from {offered}");
        }
    }

    #[test]
    fn what_an_index_calls_by_another_name_fits_too() {
        let offered =
            Platform { os: "Linux".to_owned(), architecture: "aarch64".to_owned(), variant: Some("8".to_owned()) };
        assert_eq!(fit(&Platform::parse("linux/arm64/v8").unwrap(), &offered), Some(0));
    }
}
