//! `serpens bench`: what this machine can do, and how near to it the operations and models come.

mod gpu;
mod machine;
mod models;
mod scan;
mod table;

use std::convert::Infallible;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serpens_core::Device;

use crate::compute::ComputeArgs;
use crate::output::say;
use crate::refusal::Refusal;
use crate::{Error, Result};
use gpu::Shapes;
use table::{Row, Table};

/// Arguments of `serpens bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure; everything where none is named. The machine itself is always measured.
    #[arg(value_enum)]
    what: Vec<Work>,
    /// Fewer and shorter runs.
    #[arg(long)]
    quick: bool,
    /// One JSON object on standard output instead of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    shapes: Shapes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// The selective scan.
    Scan,
    /// The causal convolution, on a GPU.
    Conv,
    /// One Mamba block, on a GPU.
    Block,
    /// Training steps of language models.
    Train,
    /// Reading a prompt through the 130m shape.
    Prompt,
}

/// Runs the benchmarks and prints their tables.
pub fn run(args: &BenchArgs) -> Result<()> {
    let device = args.compute.resolve()?.device;
    let mut report = Report {
        json: args.json,
        tables: Vec::new(),
    };
    match device {
        Device::Cpu => on_cpu(args, &mut report)?,
        Device::Cuda(_) => on_gpu(args, device, &mut report)?,
    }
    if args.json {
        say(&table::to_json(&report.tables, device))?;
    }
    Ok(())
}

fn on_cpu(args: &BenchArgs, report: &mut Report) -> Result<()> {
    let only_on_gpu = |option| Error::refused(option, Refusal::MeasuredOnGpu);
    if let Some(option) = args.shapes.given() {
        return Err(only_on_gpu(option));
    }
    for (work, name) in [(Work::Conv, "conv"), (Work::Block, "block")] {
        if args.what.contains(&work) {
            return Err(only_on_gpu(name));
        }
    }
    let wanted = |work| args.what.is_empty() || args.what.contains(&work);
    let timer = Timer {
        runs: if args.quick { 3 } else { 9 },
    };
    let machine = machine::measure(timer);
    report.add(machine.table())?;
    if wanted(Work::Scan) {
        report.add(scan::throughput(timer, &machine))?;
        report.add(scan::by_length(timer))?;
    }
    if wanted(Work::Train) {
        report.add(models::train(timer, &machine)?)?;
    }
    if wanted(Work::Prompt) {
        report.add(models::prompt(timer, &machine)?)?;
    }
    Ok(())
}

fn on_gpu(args: &BenchArgs, device: Device, report: &mut Report) -> Result<()> {
    let bench = gpu::Bench::new(device, args.quick, &args.shapes, args.compute.precision)?;
    report.add(bench.limits()?)?;
    for work in Work::value_variants() {
        if args.what.is_empty() || args.what.contains(work) {
            report.add(bench.table(*work)?)?;
        }
    }
    Ok(())
}

/// The tables so far; they are shown as they come, unless all are wanted as one object of JSON.
struct Report {
    json: bool,
    tables: Vec<Table>,
}

impl Report {
    fn add(&mut self, table: Table) -> Result<()> {
        if !self.json {
            let between = if self.tables.is_empty() { "" } else { "\n" };
            say(format!("{between}{table}").trim_end())?;
        }
        self.tables.push(table);
        Ok(())
    }
}

/// Takes the time of repeated work.
#[derive(Clone, Copy)]
struct Timer {
    runs: usize,
}

impl Timer {
    /// The median time of one call in seconds, after a call that is not counted.
    fn seconds(self, mut work: impl FnMut()) -> f64 {
        let Ok(seconds) = self.try_seconds(|| {
            work();
            Ok::<_, Infallible>(())
        });
        seconds
    }

    /// As [`Timer::seconds`], of work that may fail.
    fn try_seconds<E>(self, mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
        work()?;
        let measure = |_| {
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64())
        };
        let times: Result<_, E> = (0..self.runs).map(measure).collect();
        times.map(median)
    }
}

/// The median of times or rates, of which there is at least one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs `work` with this many threads.
fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    match pool {
        Ok(pool) => pool.install(work),
        // Without threads of its own the work runs on those there are.
        Err(_) => work(),
    }
}
