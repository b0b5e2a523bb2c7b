//! Places where a test may end the process: before each step with which a pull changes the disk.
//!
//! Without the feature `fail-points`, that is in every build but those of the tests, [`step`] is empty and costs nothing.
//! With it, each step has a name made of what is done and to which of the cache's files, `rename layers/<d>.tar.gz`; the
//! steps are counted, one of them can be set to be the process's last, by the signal that no process can catch, and something
//! can be done before one of them.

#[cfg(not(feature = "fail-points"))]
mod off {
    /// Says that the next thing done is `_action`, to `_path`.
    #[inline(always)]
    pub(crate) fn step(_action: &'static str, _path: impl AsRef<std::path::Path>) {}
}

#[cfg(not(feature = "fail-points"))]
pub(crate) use off::step;

#[cfg(feature = "fail-points")]
pub(crate) use on::step;

#[cfg(feature = "fail-points")]
pub use on::{Step, at, at_none, at_passing, end_at, record};

#[cfg(feature = "fail-points")]
mod on {
    use std::{
        panic::Location,
        path::Path,
        sync::{Mutex, PoisonError},
    };

    use crate::fs::{is_random_name, random::RANDOM_LENGTH};

    /// A step that was passed.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Step {
        /// What is done to which file.
        pub name: String,
        /// How often it was passed.
        pub count: usize,
        /// File and line of the last place it was passed at.
        pub place: String,
    }

    struct State {
        /// `None` while nobody wants to know.
        passed: Option<Vec<Step>>,
        last: Option<(String, usize)>,
        /// What is done at which passing of a step; counted down.
        hook: Option<(String, usize, Hook)>,
    }

    type Hook = Box<dyn FnOnce() + Send>;

    static STATE: Mutex<State> = Mutex::new(State { passed: None, last: None, hook: None });

    /// The steps passed since the last call, in the order of their first passing; from now on they are counted.
    pub fn record() -> Vec<Step> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).passed.replace(Vec::new()).unwrap_or_default()
    }

    /// Ends this process at the `count`th passing of a step from now on, before it is done.
    pub fn end_at(name: &str, count: usize) {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).last = Some((name.to_owned(), count));
    }

    /// Does something, once, before a step is done for the first time from now on.
    pub fn at(name: &str, act: impl FnOnce() + Send + 'static) {
        at_passing(name, 1, act);
    }

    /// Does something, once, before the `count`th passing of a step from now on.
    pub fn at_passing(name: &str, count: usize, act: impl FnOnce() + Send + 'static) {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).hook = Some((name.to_owned(), count, Box::new(act)));
    }

    /// Takes back what was to be done; true if it was not done yet.
    pub fn at_none() -> bool {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).hook.take().is_some()
    }

    #[track_caller]
    pub(crate) fn step(action: &'static str, path: impl AsRef<Path>) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        if state.passed.is_none() && state.last.is_none() && state.hook.is_none() {
            return;
        }
        let name = format!("{action} {}", kind(path.as_ref()));
        let here = Location::caller();
        if let Some(passed) = &mut state.passed {
            match passed.iter_mut().find(|step| step.name == name && step.place == place(here)) {
                Some(step) => step.count += 1,
                None => passed.push(Step { name: name.clone(), count: 1, place: place(here) }),
            }
        }
        if let Some((last, left)) = &mut state.last
            && *last == name
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                // The lock is held until the signal has come, so that no other step is passed.
                loop {
                    std::thread::park();
                }
            }
        }
        if let Some((_, left, _)) = state.hook.as_mut().filter(|(at, ..)| *at == name) {
            *left = left.saturating_sub(1);
        }
        let due = state.hook.take_if(|(at, left, _)| *at == name && *left == 0);
        // It may pass steps itself.
        drop(state);
        if let Some((.., act)) = due {
            act();
        }
    }

    fn place(here: &Location<'_>) -> String {
        format!("{}:{}", here.file(), here.line())
    }

    /// The path with `<d>` for a digest, `<key>` for an image's key, `<inherited>` for the key of a tree that depends on
    /// lower layers, `*` for what differs from run to run.
    fn kind(path: &Path) -> String {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let hex = |text: &str| text.bytes().take_while(u8::is_ascii_hexdigit).count();
        let name = match name.split_once('_') {
            Some(("sha256", rest)) if hex(rest) == 64 => format!("<d>{}", without_random(&rest[64..])),
            _ if hex(&name) == 64 => format!("<key>{}", without_random(&name[64..])),
            _ => match [".trash-", ".probe-"].iter().find(|prefix| name.starts_with(*prefix)) {
                Some(prefix) => format!("{prefix}*"),
                None if parent == "leases" && hex(&name) == RANDOM_LENGTH => format!("*{}", &name[RANDOM_LENGTH..]),
                None => name.into_owned(),
            },
        };

        match &*parent {
            "layers" | "images" | "leases" | "tree" => format!("{parent}/{name}"),
            parent if parent.ends_with(".extracting") => format!("layers/<d>.extracting/{name}"),
            _ => name,
        }
    }

    /// What follows a digest or key in a name, without its random parts. What stands at once behind a digest is the key of
    /// a tree, or the random name of one that is being made.
    fn without_random(suffix: &str) -> String {
        let parts = suffix.split('.').enumerate().map(|(at, part)| match at {
            _ if !is_random_name(part) => part,
            1 => "<inherited>",
            _ => "*",
        });
        parts.collect::<Vec<_>>().join(".").replace(".<inherited>.extracting", ".extracting")
    }
}
