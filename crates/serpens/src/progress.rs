//! How a run shows itself: a bar on a terminal, plain lines elsewhere, JSON for programs.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use serpens_core::Device;
use serpens_train::{Event, Observer, StepMetrics, go_on};

use crate::output::{BARS, OutputMode, counted, duration, figure, fitting, tell};
use crate::stop::STOP;

/// Seconds between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// What is done within this time shows no bar.
const MOMENT: Duration = Duration::from_millis(500);

/// A bar below those there are.
fn bar(name: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:12} {pos}/{len}  {msg}")
        .expect("the template is well formed");
    let bar = ProgressBar::new(length)
        .with_style(style.progress_chars("━╸─"))
        .with_prefix(name.to_owned());
    BARS.add(bar)
}

/// Shows how far a work is that may take a while, and ends it once an end was asked for.
pub(crate) struct Meter {
    mode: OutputMode,
    name: String,
    length: usize,
    begun: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Meter {
    /// Of a work of this length.
    pub(crate) fn new(mode: OutputMode, name: String, length: usize) -> Self {
        Self {
            mode,
            name,
            length,
            begun: Instant::now(),
            last_line: Instant::now(),
            bar: None,
        }
    }

    /// So much is done.
    ///
    /// # Errors
    /// [`serpens_train::Error::Stopped`] once an end was asked for.
    pub(crate) fn at(&mut self, done: usize) -> serpens_train::Result<()> {
        go_on(&STOP)?;
        if self.mode != OutputMode::Terminal || self.begun.elapsed() < MOMENT {
            return Ok(());
        }
        let (name, length) = (&self.name, self.length as u64);
        let bar = self.bar.get_or_insert_with(|| bar(name, length));
        bar.set_position(done as u64);
        if bar.is_hidden() && self.last_line.elapsed() >= PLAIN_INTERVAL {
            self.last_line = Instant::now();
            tell(&format!("{name}: {done}/{length}"));
        }
        Ok(())
    }
}

/// Shows how much of how much is done of a work that tells both.
pub(crate) fn watched(name: String) -> impl FnMut(usize, usize) -> crate::Result<()> {
    let mut meter = None;
    move |done, all| {
        let new = || Meter::new(OutputMode::Terminal, name.clone(), all);
        Ok(meter.get_or_insert_with(new).at(done)?)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// Does a work that cannot say how far it is, and tells for how long it goes on.
pub(crate) fn waiting<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let (ended, ends) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let begun = Instant::now();
            while ends.recv_timeout(PLAIN_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let seconds = begun.elapsed().as_secs_f64();
                tell(&format!("{name}: {}", duration(seconds)));
            }
        });
        let _ended = ended; // when the work has
        work()
    })
}

/// Shows the events of one model's training.
pub(crate) struct Progress<'a> {
    mode: OutputMode,
    name: &'a str,
    /// Says how good steps are.
    quality: &'a dyn Fn(&StepMetrics) -> String,
    device: Device,
    /// Hidden until the training has started, and where standard error is no terminal.
    bar: ProgressBar,
    last_line: Option<Instant>,
    /// How the last steps were.
    told: String,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(
        mode: OutputMode,
        name: &'a str,
        quality: &'a dyn Fn(&StepMetrics) -> String,
        device: Device,
    ) -> Self {
        Self {
            mode,
            name,
            quality,
            device,
            bar: ProgressBar::hidden(),
            last_line: None,
            told: String::new(),
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let (name, text) = (self.name, self.describe(metrics));
        let StepMetrics { step, steps, .. } = *metrics;
        let due = |at: Instant| at.elapsed() >= PLAIN_INTERVAL;
        if !self.bar.is_hidden() {
            let (_, columns) = Term::stderr().size();
            let before = format!("{name} {:12} {step}/{steps}  ", "");
            let room = usize::from(columns).saturating_sub(before.chars().count());
            self.bar.set_position(step);
            self.bar.set_message(fitting(&text, room).to_owned());
            self.told = text;
        } else if step == steps || self.last_line.is_none_or(due) {
            self.last_line = Some(Instant::now());
            tell(&format!("{name}: step {step}/{steps}  {text}"));
        }
    }

    fn describe(&self, metrics: &StepMetrics) -> String {
        let time = match metrics.step == metrics.steps {
            true => duration(metrics.seconds),
            false => format!("{} left", duration(metrics.seconds_left)),
        };
        let pace = format!("{:.1}k tokens/s", metrics.tokens_per_second / 1e3);
        // A narrow terminal has room for the first of them.
        let mut figures = vec![(self.quality)(metrics), time, pace];
        if self.device != Device::Cpu {
            let mfu = metrics.mfu.map(|mfu| format!("MFU {:.1} %", 100.0 * mfu));
            figures.extend(mfu);
            figures.push(format!("{:.1} GB", metrics.memory as f64 / 1e9));
        }
        figures.join("  ")
    }

    /// Leaves a line in the bar's place, which the next bar would wipe away: after this step.
    pub(crate) fn finish(&self, step: u64) {
        if !self.bar.is_hidden() {
            let steps = self.bar.length().unwrap_or_default();
            self.bar.finish_and_clear();
            let line = format!("{}: step {step}/{steps}  {}", self.name, self.told);
            tell(line.trim_end());
        }
    }
}

impl Observer for Progress<'_> {
    fn event(&mut self, event: &Event<'_>) -> serpens_train::Result<()> {
        match self.mode {
            OutputMode::Json => {
                tell_programs(self.mode, self.name, event);
                return Ok(());
            }
            OutputMode::Quiet if !matches!(event, Event::Warned(_)) => return Ok(()),
            OutputMode::Quiet | OutputMode::Terminal => {}
        }
        match event {
            Event::Started {
                step,
                steps,
                parameters,
            } => {
                let name = self.name;
                let parameters = counted(*parameters as u64, "parameter");
                tell(&format!(
                    "{name}: {parameters}, {}",
                    counted(*steps, "step")
                ));
                self.bar = bar(name, *steps);
                self.bar.set_position(*step);
            }
            Event::Stepped(metrics) => self.step(metrics),
            Event::Evaluated { step, evaluation } => {
                let values = evaluation.values.iter();
                let texts: Vec<String> = values.map(|(n, v)| figure(n, *v)).collect();
                let texts = texts.join("  ");
                tell(&format!("{}: step {step}: held out {texts}", self.name));
            }
            Event::Checkpointing | Event::Checkpointed { .. } => {}
            Event::Warned(error) => tell(&format!("warning: {error}")),
        }
        Ok(())
    }
}

fn tell_programs(mode: OutputMode, name: &str, event: &Event<'_>) {
    let mut value = match event {
        Event::Started {
            step,
            steps,
            parameters,
        } => json!({ "event": "started", "step": step, "steps": steps, "parameters": parameters }),
        Event::Stepped(metrics) => json!({ "event": "stepped", "metrics": metrics }),
        Event::Evaluated { step, evaluation } => {
            json!({ "event": "evaluated", "step": step, "values": evaluation.values })
        }
        Event::Checkpointed { step, path } => {
            json!({ "event": "checkpointed", "step": step, "path": path.to_string_lossy() })
        }
        Event::Checkpointing => return,
        Event::Warned(error) => json!({ "event": "warned", "warning": error.to_string() }),
    };
    value["model"] = name.into();
    mode.event(&value);
}
