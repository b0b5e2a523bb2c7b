//! Doors to stages that have none of their own, for fuzz targets and benchmarks. They are not there in a normal build.

use std::sync::Arc;

use crate::{
    error::Result,
    layer::{
        block::{BLOCK_SIZE, Pool, Slice},
        decode::{Decoder, Source},
        halt::Halt,
        index,
        limits::Limits,
        plan::{Planner, Step, Tree},
        spill::SpillHome,
        tar::{Member, Sink, Walker},
    },
};

/// Decompresses a blob, at most about `most` bytes of it.
pub fn decode(source: impl Source, most: usize) -> Result<Vec<u8>> {
    let mut decoder = Decoder::new(source)?;
    let mut all = Vec::new();
    let mut room = vec![0; 64 << 10];
    while all.len() < most {
        let filled = decoder.fill(&mut room)?;
        all.extend_from_slice(&room[..filled]);
        if filled < room.len() {
            decoder.drain_source()?;
            break;
        }
    }
    Ok(all)
}

/// The tree that an archive would make, with nothing written.
pub struct Planned(Tree);

/// Walks and plans an uncompressed archive.
pub fn plan(archive: &[u8]) -> Result<Planned> {
    let (pool, halt, mut walker) = (Pool::new(1), Halt::default(), Walker::new());
    let mut sink =
        Plan { planner: Planner::new(Limits::default(), &SpillHome::default(), halt.clone())?, steps: Vec::new() };
    for bytes in archive.chunks(BLOCK_SIZE) {
        let mut block = pool.take(&halt)?;
        block.room()[..bytes.len()].copy_from_slice(bytes);
        block.set_length(bytes.len());
        walker.feed(&Arc::new(block), &mut sink)?;
    }
    walker.finish()?;
    Ok(Planned(sink.planner.tree))
}

/// Builds the index of a planned tree, as after an extraction but for the inode numbers.
pub fn index(planned: &Planned) -> Option<Vec<u8>> {
    let index = index::build(&planned.0, &SpillHome::default(), &Halt::default()).ok().flatten();
    index.and_then(|index| index.to_vec().ok())
}

struct Plan {
    planner: Planner,
    steps: Vec<Step>,
}

impl Sink for Plan {
    fn entry(&mut self, member: &Member<'_>) -> Result<()> {
        self.steps.clear();
        self.planner.place(member, &mut self.steps).map(|_| ())
    }

    fn data(&mut self, _: u64, _: Slice) -> Result<()> {
        Ok(())
    }

    fn skipped(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
}
