//! A walk over the tree in the order of the paths' bytes, with the memory of one directory at a time.

use crate::{
    error::Result,
    layer::{
        halt::Halt,
        plan::tree::{EntryId, ROOT, Tree},
        sort::sort_by,
    },
};

/// Entries after which it is asked whether the job was stopped.
const BETWEEN_CHECKS: usize = 1024;

/// Calls `visit` with every living entry and its path, in the order of the paths' bytes.
///
/// In this order a directory `d` comes before `d-x`, and that before `d/x`: its name and what is in it are two things to
/// visit, the second one in the place of `d/`.
pub(crate) fn visit_by_path(
    tree: &Tree,
    halt: &Halt,
    mut visit: impl FnMut(EntryId, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut path = Vec::new();
    visit(ROOT, &path)?;
    let mut levels = vec![(things_in(tree, ROOT, halt)?, 0)];
    let mut visited = 0usize;
    while let Some((things, before)) = levels.last_mut() {
        visited += 1;
        if visited.is_multiple_of(BETWEEN_CHECKS) {
            halt.check()?;
        }
        let Some((id, inside)) = things.pop() else {
            path.truncate(*before);
            levels.pop();
            continue;
        };
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(tree.name(id));
        if inside {
            levels.push((things_in(tree, id, halt)?, length));
        } else {
            visit(id, &path)?;
            path.truncate(length);
        }
    }
    Ok(())
}

/// The names in a directory and the insides of its directories, last first.
fn things_in(tree: &Tree, directory: EntryId, halt: &Halt) -> Result<Vec<(EntryId, bool)>> {
    let mut things = Vec::new();
    for id in tree.children(directory) {
        things.push((id, false));
        if tree.has_children(id) {
            things.push((id, true));
        }
        if things.len().is_multiple_of(BETWEEN_CHECKS) {
            halt.check()?;
        }
    }
    let slash = |inside: bool| inside.then_some(&b'/');
    sort_by(&mut things, halt, |&(a, a_inside), &(b, b_inside)| {
        let (a, b) = (tree.name(a), tree.name(b));
        let shared = a.len().min(b.len());
        b[..shared]
            .cmp(&a[..shared])
            .then_with(|| b[shared..].iter().chain(slash(b_inside)).cmp(a[shared..].iter().chain(slash(a_inside))))
    })?;
    Ok(things)
}
