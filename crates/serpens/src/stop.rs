//! Ctrl-C and its kin: the first asks a run to save and end, Ctrl-C after it ends the process; what makes a file is
//! ended by the first.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
use serpens_core::files::exit_without;
#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::iterator::Signals;

/// Set by the first signal.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

/// Listens from now on, but for signals that are ignored: whoever started this process, such as nohup, wants it to
/// survive them.
#[cfg(unix)]
pub(crate) fn listen() {
    let listener = hear(
        |signal| match (STOP.swap(true, Ordering::Relaxed), signal) {
            (false, _) => crate::tell(
                "stopping after the batch under way, with everything saved; press Ctrl-C again to leave at once",
            ),
            // A terminal that closes may send more than one of the others.
            (true, SIGINT) => std::process::exit(130),
            (true, _) => {}
        },
    );
    if listener.is_err() {
        crate::tell(
            "warning: Ctrl-C cannot be caught here; checkpoints are written as the recipe says",
        );
    }
}

/// From now on a signal that ends the process also removes what it has begun to write in place of `path`.
#[cfg(unix)]
pub(crate) fn leave_nothing(path: &Path) {
    let path = path.to_owned();
    // Where signals cannot be caught, they end the process all the same.
    let _ = hear(move |signal| exit_without(&path, 128 + signal));
}

/// Has a thread of its own hear the signals that end a process, but for those that are ignored.
#[cfg(unix)]
fn hear(mut on: impl FnMut(i32) + Send + 'static) -> std::io::Result<()> {
    let ignored = crate::machine::ignored_signals();
    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let heard = heard.filter(|signal| ignored & 1 << (signal - 1) == 0);
    let mut signals = Signals::new(heard)?;
    let thread = std::thread::Builder::new().name("signals".into());
    let listening = thread.spawn(move || signals.forever().for_each(&mut on));
    listening.map(drop)
}

/// Where there are no such signals, the system ends the process, and what was saved before is whole.
#[cfg(not(unix))]
pub(crate) fn listen() {}

/// What was begun stays there; its name says that it is temporary.
#[cfg(not(unix))]
pub(crate) fn leave_nothing(_path: &Path) {}
