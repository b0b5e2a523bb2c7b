//! What the stages of an extraction cost for themselves, without a disk: `cargo bench -p microsandbox-image-core`.
//!
//! One layer of 20,000 files in 400 directories; throughput is in bytes of archive for decompression and in entries else.

use std::{hint::black_box, io::Write};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use microsandbox_image_core::{
    Result,
    layer::{Source, doors},
};

const DIRECTORIES: u64 = 400;
const FILES: u64 = 50;

/// A blob in pieces of 64 KiB, as a socket gives them.
struct Pieces(Bytes);

impl Source for Pieces {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let count = self.0.len().min(64 << 10);
        Ok((count > 0).then(|| self.0.split_to(count)))
    }
}

/// Text that compresses about four to one, the same every time.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut state = 1_u64;
    for directory in 0..DIRECTORIES {
        for file in 0..FILES {
            let mut content = Vec::new();
            for _ in 0..60 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                writeln!(content, "export const value{} = require('module-{}');", state >> 56, (state >> 40) & 1023)
                    .expect("memory takes it");
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            let path = format!("node_modules/package-{directory}/lib/file-{file}.js");
            builder.append_data(&mut header, path, &*content).expect("memory takes it");
        }
    }
    builder.into_inner().expect("memory takes it")
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it").into()
}

fn stages(criterion: &mut Criterion) {
    let archive = archive();
    let blobs = [
        ("decode/gzip", gzip(&archive)),
        ("decode/zstd", zstd::encode_all(&*archive, 3).expect("memory takes it").into()),
        ("decode/plain", archive.clone().into()),
    ];
    let mut group = criterion.benchmark_group("layer");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(archive.len() as u64));
    for (name, blob) in blobs {
        group.bench_function(name, |bencher| {
            bencher.iter(|| doors::decode(Pieces(blob.clone()), usize::MAX).expect("it is a good blob").len());
        });
    }
    group.throughput(Throughput::Elements(DIRECTORIES * FILES));
    group.bench_function("plan", |bencher| bencher.iter(|| doors::plan(black_box(&archive)).is_ok()));
    let planned = doors::plan(&archive).expect("it is a good archive");
    group.bench_function("index", |bencher| bencher.iter(|| doors::index(black_box(&planned)).map(|file| file.len())));
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
