//! Where the time of an extraction goes: `cargo run --release --example stages -- LAYER DIRECTORY [WRITERS]`.
//!
//! LAYER is a file (tar, tar.gz, tar.zst); DIRECTORY must be there and empty. Prints a table of stages.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

use bytes::Bytes;
use microsandbox_image_core::{
    ErrorKind, Result,
    layer::{Source, Unpack, unpack},
};

struct Blob(File);

impl Source for Blob {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let mut piece = vec![0; 256 << 10];
        let count = self.0.read(&mut piece).map_err(failed)?;
        piece.truncate(count);
        Ok((count > 0).then(|| piece.into()))
    }
}

fn failed(error: io::Error) -> microsandbox_image_core::ImageError {
    ErrorKind::Extraction { entry: None, reason: "the layer can't be read".to_owned() }.caused_by(error)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (layer, directory) = match &arguments[..] {
        [layer, directory] | [layer, directory, _] => (layer, directory),
        _ => {
            eprintln!("usage: stages LAYER DIRECTORY [WRITERS]");
            return ExitCode::from(2);
        }
    };
    let writers = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(2);
    let how = Unpack { writers, ..Unpack::default() };
    let unpacked = File::open(layer).map_err(failed).and_then(|file| unpack(Blob(file), Path::new(directory), how));
    match unpacked {
        Ok(unpacked) => {
            let megabytes = unpacked.uncompressed_bytes as f64 / 1e6;
            println!("{} entries, {megabytes:.1} MB of archive, {writers} writers", unpacked.entries);
            print!("{}", unpacked.stages);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
