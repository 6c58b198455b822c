//! How a run shows itself: a bar on a terminal, plain lines elsewhere, JSON for programs.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serpens_core::Device;
use serpens_train::{Event, Observer, StepMetrics};

use crate::output::{OutputMode, duration, print_line, tell, text_of};
use crate::tasks::Task;

/// Seconds between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the events of one model's training.
pub(crate) struct Progress<'a> {
    mode: OutputMode,
    name: String,
    /// Says how good its steps are.
    task: &'a dyn Task,
    device: Device,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(mode: OutputMode, name: &str, task: &'a dyn Task, device: Device) -> Self {
        Self {
            mode,
            name: name.to_owned(),
            task,
            device,
            bar: None,
            last_line: None,
        }
    }

    fn start(&mut self, step: u64, steps: u64, parameters: usize) {
        if self.mode != OutputMode::Terminal {
            return;
        }
        tell(&format!(
            "{}: {parameters} parameters, {steps} steps",
            self.name
        ));
        if !std::io::stderr().is_terminal() {
            return;
        }
        let template = "{prefix} {bar:24} {pos}/{len}  {msg}";
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(self.name.clone());
        bar.set_position(step);
        self.bar = Some(bar);
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let text = self.describe(metrics);
        if let Some(bar) = &self.bar {
            bar.set_position(metrics.step);
            bar.set_message(text);
            return;
        }
        let due = self
            .last_line
            .is_none_or(|at| at.elapsed() >= PLAIN_INTERVAL);
        if due || metrics.step == metrics.steps {
            self.last_line = Some(Instant::now());
            tell(&format!(
                "{}: step {}/{}  {text}",
                self.name, metrics.step, metrics.steps
            ));
        }
    }

    fn describe(&self, metrics: &StepMetrics) -> String {
        let quality = self.task.quality(metrics);
        let time = match metrics.step == metrics.steps {
            true => duration(metrics.seconds),
            false => format!("{} left", duration(metrics.seconds_left)),
        };
        let pace = format!("{:.1}k tokens/s", metrics.tokens_per_second / 1e3);
        let parts = [
            Some(quality),
            Some(pace),
            self.use_of_gpu(metrics),
            Some(time),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join("  ")
    }

    /// How much of a GPU the training uses; nothing on the processor.
    fn use_of_gpu(&self, metrics: &StepMetrics) -> Option<String> {
        if self.device == Device::Cpu {
            return None;
        }
        let memory = format!("{:.1} GB", metrics.memory as f64 / 1e9);
        Some(match metrics.mfu {
            Some(mfu) => format!("MFU {:.1} %  {memory}", 100.0 * mfu),
            None => memory,
        })
    }

    /// Leaves the bar as it is.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    /// A line that stays, above the bar where there is one.
    pub(crate) fn line(&self, text: &str) {
        match (&self.bar, self.mode) {
            (Some(bar), _) => bar.println(text),
            (None, OutputMode::Terminal) => tell(text),
            (None, OutputMode::Json | OutputMode::Quiet) => {}
        }
    }
}

impl Observer for Progress<'_> {
    fn event(&mut self, event: &Event<'_>) -> serpens_train::Result<()> {
        if self.mode == OutputMode::Json {
            return print_json(&self.name, event);
        }
        match event {
            Event::Started {
                step,
                steps,
                parameters,
            } => self.start(*step, *steps, *parameters),
            Event::Stepped(metrics) if self.mode == OutputMode::Terminal => self.step(metrics),
            Event::Evaluated { step, evaluation } => {
                let values = evaluation.values.iter();
                let texts: Vec<String> = values.map(|(n, v)| format!("{n} {v:.4}")).collect();
                self.line(&format!("{}: step {step}: {}", self.name, texts.join("  ")));
            }
            Event::Stepped(_) | Event::Checkpointed { .. } => {}
        }
        Ok(())
    }
}

fn print_json(name: &str, event: &Event<'_>) -> serpens_train::Result<()> {
    let value = match event {
        Event::Started {
            step,
            steps,
            parameters,
        } => serde_json::json!({
            "event": "started", "model": name, "step": step, "steps": steps, "parameters": parameters,
        }),
        Event::Stepped(metrics) => {
            serde_json::json!({ "event": "stepped", "model": name, "metrics": metrics })
        }
        Event::Evaluated { step, evaluation } => serde_json::json!({
            "event": "evaluated", "model": name, "step": step, "values": evaluation.values,
        }),
        Event::Checkpointed { step, path } => serde_json::json!({
            "event": "checkpointed", "model": name, "step": step, "path": text_of(path),
        }),
    };
    print_line(&value.to_string())
}
