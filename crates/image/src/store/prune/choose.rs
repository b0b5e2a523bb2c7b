//! Which images go: a pure decision on what is known of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use crate::{model::Digest, store::removal::Reason};

/// An image as far as the decision needs it.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) last_used: SystemTime,
    pub(super) layers: BTreeSet<Digest>,
    /// Never goes: named, or in use.
    pub(super) stays: bool,
}

/// By what it is decided.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    /// How many of those used last stay.
    pub(super) keep: Option<usize>,
    /// How long ago an image may have been used last.
    pub(super) older_than: Option<Duration>,
    /// How many bytes the cache may have.
    pub(super) max_bytes: Option<u64>,
}

/// Those that go, with the reason, the one least recently used first.
///
/// `total` is what the cache has without that which goes anyway; `sizes` is what each layer has.
pub(super) fn choose(
    images: &[Candidate],
    bounds: Bounds,
    now: SystemTime,
    mut total: u64,
    sizes: &BTreeMap<Digest, u64>,
) -> Vec<(usize, Reason)> {
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by_key(|&at| (images[at].last_used, at));
    let mut users: BTreeMap<&Digest, usize> = BTreeMap::new();
    for digest in images.iter().flat_map(|image| &image.layers) {
        *users.entry(digest).or_default() += 1;
    }
    let kept_from = order.len().saturating_sub(bounds.keep.unwrap_or(usize::MAX));
    let mut going = Vec::new();
    let mut go = |at: usize, reason: Reason, total: &mut u64| {
        for digest in &images[at].layers {
            let users = users.get_mut(digest).expect("every layer was counted");
            *users -= 1;
            if *users == 0 {
                *total = total.saturating_sub(sizes.get(digest).copied().unwrap_or(0));
            }
        }
        going.push((at, reason));
    };
    let mut rest = Vec::new();
    for (rank, &at) in order.iter().enumerate() {
        let image = &images[at];
        let unused = bounds.older_than.is_some_and(|age| now.duration_since(image.last_used).is_ok_and(|is| is > age));
        match (image.stays, unused, rank < kept_from) {
            (true, ..) => {}
            (false, true, _) => go(at, Reason::Unused, &mut total),
            (false, false, true) => go(at, Reason::BeyondKeep, &mut total),
            (false, false, false) => rest.push(at),
        }
    }
    for at in rest {
        if bounds.max_bytes.is_some_and(|most| total > most) {
            go(at, Reason::OverBudget, &mut total);
        }
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(letter: char) -> Digest {
        Digest::parse(&format!("sha256:{}", letter.to_string().repeat(64))).unwrap()
    }

    fn images(now: SystemTime) -> Vec<Candidate> {
        let image = |hours: u64, layers: &str| Candidate {
            last_used: now - Duration::from_secs(hours * 3600),
            layers: layers.chars().map(digest).collect(),
            stays: false,
        };
        vec![image(1, "ab"), image(30, "ac"), image(10, "d")]
    }

    fn chosen(images: &[Candidate], bounds: Bounds, now: SystemTime) -> Vec<(usize, Reason)> {
        let sizes: BTreeMap<Digest, u64> = "abcd".chars().map(|letter| (digest(letter), 100)).collect();
        choose(images, bounds, now, 400, &sizes)
    }

    #[test]
    fn nothing_goes_unless_a_bound_says_so() {
        let now = SystemTime::now();
        assert_eq!(chosen(&images(now), Bounds::default(), now), []);
    }

    #[test]
    fn what_was_not_used_for_long_goes_unless_it_stays() {
        let now = SystemTime::now();
        let mut images = images(now);
        let bounds = Bounds { older_than: Some(Duration::from_secs(5 * 3600)), ..Bounds::default() };
        assert_eq!(chosen(&images, bounds, now), [(1, Reason::Unused), (2, Reason::Unused)]);
        images[1].stays = true;
        assert_eq!(chosen(&images, bounds, now), [(2, Reason::Unused)]);
    }

    #[test]
    fn the_least_recently_used_go_until_it_fits_and_shared_layers_count_once() {
        let now = SystemTime::now();
        let bounds = |max_bytes| Bounds { max_bytes: Some(max_bytes), ..Bounds::default() };
        assert_eq!(chosen(&images(now), bounds(400), now), []);
        // Image 1 frees only `c`, since `a` is image 0's as well.
        assert_eq!(chosen(&images(now), bounds(300), now), [(1, Reason::OverBudget)]);
        assert_eq!(chosen(&images(now), bounds(299), now), [(1, Reason::OverBudget), (2, Reason::OverBudget)]);
    }

    #[test]
    fn only_the_images_used_last_are_kept() {
        let now = SystemTime::now();
        let bounds = |keep| Bounds { keep: Some(keep), ..Bounds::default() };
        assert_eq!(chosen(&images(now), bounds(2), now), [(1, Reason::BeyondKeep)]);
        assert_eq!(chosen(&images(now), bounds(0), now).len(), 3);
        assert_eq!(chosen(&images(now), bounds(9), now), []);
    }
}
