//! The other programs: umoci, and a containerd of its own for the test.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use crate::{
    archive::Archive,
    layout::{self, NAME},
    rows::{self, Rows},
};

pub fn are_here() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    ["umoci", "containerd", "ctr"].iter().all(|program| directories.iter().any(|at| at.join(program).is_file()))
}

pub fn umoci(made: &Archive) -> Result<Rows, String> {
    let temp = tempfile::tempdir().unwrap();
    let (image, bundle) = (temp.path().join("image"), temp.path().join("bundle"));
    layout::write(&image, made);
    run(Command::new("umoci").arg("unpack").arg("--image").arg(format!("{}:latest", image.display())).arg(&bundle))?;
    Ok(rows::of_host(&bundle.join("rootfs")))
}

/// Without root's rights, as user 65534.
pub fn umoci_rootless(made: &Archive) -> Result<Rows, String> {
    let temp = tempfile::tempdir().unwrap();
    let (image, bundle) = (temp.path().join("image"), temp.path().join("bundle"));
    layout::write(&image, made);
    let nobody = 65_534;
    std::os::unix::fs::chown(temp.path(), Some(nobody), Some(nobody)).unwrap();
    let mut command = Command::new("umoci");
    command.args(["unpack", "--rootless", "--image"]).arg(format!("{}:latest", image.display())).arg(&bundle);
    run(command.env("HOME", temp.path()).uid(nobody).gid(nobody))?;
    Ok(rows::of_rootless(&bundle.join("rootfs")))
}

/// One containerd at a time, each with a new store, so that no test sees another's snapshots.
pub fn containerd(made: &Archive) -> Result<Rows, String> {
    static ONE: OnceLock<Mutex<()>> = OnceLock::new();
    let _one = ONE.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let temp = tempfile::tempdir().unwrap();
    let (image, pack, at) = (temp.path().join("image"), temp.path().join("image.tar"), temp.path().join("at"));
    layout::write(&image, made);
    fs::create_dir(&at).unwrap();
    run(Command::new("tar").arg("-C").arg(&image).arg("-cf").arg(&pack).arg("."))?;
    let daemon = Daemon::start(temp.path())?;
    run(daemon.ctr().args(["images", "import", "--snapshotter", "native"]).arg(&pack))?;
    run(daemon.ctr().args(["images", "mount", "--snapshotter", "native", NAME]).arg(&at))?;
    let rows = rows::of_host(&at);
    run(Command::new("umount").arg(&at))?;
    Ok(rows)
}

struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(directory: &Path) -> Result<Self, String> {
        let socket = directory.join("socket");
        let config = directory.join("config.toml");
        let text =
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n";
        fs::write(&config, text).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(config)
            .arg("--root")
            .arg(directory.join("root"))
            .arg("--state")
            .arg(directory.join("state"))
            .arg("--address")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let daemon = Self { child, socket };
        let started = Instant::now();
        while run(daemon.ctr().arg("version")).is_err() {
            if started.elapsed() > Duration::from_secs(30) {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(format!("containerd does not answer: {log}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
