//! Credential helpers: programs `docker-credential-<name>` that are asked on their standard input
//! (docker/docker-credential-helpers, "Development").

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::{
        auth::secret::{RegistryAuth, Secret},
        options::Environment,
    },
};

const TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
const LONGEST_ANSWER: u64 = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper. Blocks for at most ten seconds. `Ok(None)`: it has no login for that server.
pub(super) fn ask(name: &str, server: &str, environment: &Environment) -> Result<Option<RegistryAuth>> {
    let failed = |reason: String| -> ImageError {
        ErrorKind::Unauthorized {
            registry: server.to_owned(),
            reason: format!("the credential helper docker-credential-{name} {reason}"),
        }
        .into()
    };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(failed("has a name that is no program's".to_owned()));
    }
    let program = find_program(&format!("docker-credential-{name}"), environment)
        .ok_or_else(|| failed("is not installed; install it or remove it from the Docker config".to_owned()))?;
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(format!("can't be started: {}", error.kind())))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(server.as_bytes());
    }
    let mut stdout = child.stdout.take().ok_or_else(|| failed("has no output".to_owned()))?;
    let (sender, answers) = std::sync::mpsc::channel();
    // Not joined: a grandchild may hold the pipe open for ever.
    std::thread::spawn(move || {
        let mut answer = Vec::new();
        let read = stdout.by_ref().take(LONGEST_ANSWER).read_to_end(&mut answer);
        let _ = sender.send(read.map(|_| answer));
    });
    let started = Instant::now();
    // The host program may own SIGCHLD, so the child is asked for, not waited for.
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < TIMEOUT => std::thread::sleep(POLL),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("gave no answer within {} s", TIMEOUT.as_secs())));
            }
        }
    };
    let left = TIMEOUT.saturating_sub(started.elapsed());
    let answer = answers.recv_timeout(left).ok().and_then(std::result::Result::ok).unwrap_or_default();
    if !status.success() {
        let not_found = String::from_utf8_lossy(&answer).contains("credentials not found");
        return if not_found { Ok(None) } else { Err(failed("failed".to_owned())) };
    }
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| failed("gave no JSON".to_owned()))?;
    let secret = Secret::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        "<token>" => RegistryAuth::Identity(secret),
        _ => RegistryAuth::Basic { username: answer.username, password: secret },
    }))
}

fn find_program(name: &str, environment: &Environment) -> Option<PathBuf> {
    let path = environment.get("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin");
    std::env::split_paths(path).filter(|directory| directory.is_absolute()).map(|directory| directory.join(name)).find(
        |program| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::metadata(program).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        },
    )
}
