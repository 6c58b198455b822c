//! Ctrl-C and its kin: the first asks a run to save and end, Ctrl-C after it ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first signal.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

/// Listens from now on, but for signals that are ignored: whoever started this process, such as nohup, wants it to
/// survive them.
#[cfg(unix)]
pub(crate) fn listen() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let ignored = crate::machine::ignored_signals();
    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let heard = heard.filter(|signal| ignored & 1 << (signal - 1) == 0);
    let listener = Signals::new(heard).and_then(|mut signals| {
        let listen = move || {
            for signal in signals.forever() {
                match (STOP.swap(true, Ordering::Relaxed), signal) {
                    (false, _) => crate::tell(
                        "stopping after the batch under way, with everything saved; press Ctrl-C again to leave at once",
                    ),
                    // A terminal that closes may send more than one of the others.
                    (true, SIGINT) => std::process::exit(130),
                    (true, _) => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(listen)
    });
    if listener.is_err() {
        crate::tell(
            "warning: Ctrl-C cannot be caught here; checkpoints are written as the recipe says",
        );
    }
}

/// Where there are no such signals, the system ends the process, and what was saved before is whole.
#[cfg(not(unix))]
pub(crate) fn listen() {}
