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
    pub(super) stays: Stays,
}

/// Whether an image can go at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// It can.
    No,
    /// It was named, so it is not looked at.
    Named,
    /// It should go like any other, and can't for now: nothing is freed by it.
    InUse,
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

/// Those that go, with the reason, the one least recently used first. Those in use that should go are among them, so that
/// whoever removes can tell of them.
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
        let freed = images[at].layers.iter().filter(|_| images[at].stays == Stays::No);
        for digest in freed {
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
            (Stays::Named, ..) => {}
            (_, true, _) => go(at, Reason::Unused, &mut total),
            (_, false, true) => go(at, Reason::BeyondKeep, &mut total),
            (_, false, false) => rest.push(at),
        }
    }
    // One in use only had to go if all the others were not enough.
    rest.sort_by_key(|&at| images[at].stays == Stays::InUse);
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
            stays: Stays::No,
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
        images[1].stays = Stays::Named;
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
    fn one_in_use_that_should_go_is_told_and_frees_nothing() {
        let now = SystemTime::now();
        let mut images = images(now);
        images[1].stays = Stays::InUse;
        let bounds = |max_bytes| Bounds { max_bytes: Some(max_bytes), ..Bounds::default() };
        // Image 2 goes before image 1, which was used longer ago, and image 0 goes since image 1 could not.
        assert_eq!(chosen(&images, bounds(300), now), [(2, Reason::OverBudget)]);
        let all = [(2, Reason::OverBudget), (0, Reason::OverBudget), (1, Reason::OverBudget)];
        assert_eq!(chosen(&images, bounds(100), now), all);
        let old = Bounds { older_than: Some(Duration::from_secs(20 * 3600)), ..Bounds::default() };
        assert_eq!(chosen(&images, old, now), [(1, Reason::Unused)]);
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
