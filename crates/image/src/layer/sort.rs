//! Sorting that can be stopped: a million names take longer than a caller waits for an abort.

use std::cmp::Ordering;

use crate::{error::Result, layer::halt::Halt};

/// Items sorted, or merged, between two looks at the switch.
const BETWEEN_CHECKS: usize = 8192;

/// Sorts stretches of items, then merges them, two and two. Equal items may change places.
pub(crate) fn sort_by<T: Copy>(items: &mut Vec<T>, halt: &Halt, compare: impl Fn(&T, &T) -> Ordering) -> Result<()> {
    for stretch in items.chunks_mut(BETWEEN_CHECKS) {
        halt.check()?;
        stretch.sort_unstable_by(&compare);
    }
    let mut length = BETWEEN_CHECKS;
    let mut merged = Vec::with_capacity(if items.len() > length { items.len() } else { 0 });
    while length < items.len() {
        for pair in items.chunks(2 * length) {
            let (mut left, mut right) = pair.split_at(length.min(pair.len()));
            while let (Some(&a), Some(&b)) = (left.first(), right.first()) {
                if merged.len().is_multiple_of(BETWEEN_CHECKS) {
                    halt.check()?;
                }
                if compare(&b, &a) == Ordering::Less {
                    merged.push(b);
                    right = &right[1..];
                } else {
                    merged.push(a);
                    left = &left[1..];
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        std::mem::swap(items, &mut merged);
        merged.clear();
        length *= 2;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_any_number_are_sorted() {
        for count in [0, 1, 2, BETWEEN_CHECKS, BETWEEN_CHECKS + 1, 3 * BETWEEN_CHECKS + 7, 100_000] {
            let mut items: Vec<u64> = (0..count as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            let mut expected = items.clone();
            expected.sort_unstable();
            sort_by(&mut items, &Halt::default(), |a, b| a.cmp(b)).unwrap();
            assert!(items == expected, "{count}");
        }
    }

    #[test]
    fn a_job_that_stops_stops_its_sorting() {
        let halt = Halt::default();
        let compared = std::cell::Cell::new(0);
        let mut items: Vec<u64> = (0..200_000).rev().collect();
        let outcome = sort_by(&mut items, &halt, |a, b| {
            compared.set(compared.get() + 1);
            halt.abort();
            a.cmp(b)
        });
        assert!(outcome.unwrap_err().is_aborted());
        assert!(compared.get() < 20 * BETWEEN_CHECKS);
    }
}
