//! `serpens bench`: what this machine can do, and how near to it the operations and models come.

mod block;
mod cases;
mod clock;
mod conv;
mod decode;
mod limits;
mod prompt;
mod published;
mod scan;
mod table;
mod train;

use clap::Args;
use serpens_core::Device;

use crate::compute::ComputeArgs;
use crate::output::say;
use crate::refusal::Refusal;
use crate::{Error, Result};
use cases::{Bench, Shapes};
use clock::Clock;
use limits::Limits;
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
    /// Decoding with the 130m shape: weights in several encodings, several sequences, behind prompts.
    Decode,
}

/// A table, and what it is of.
type Measurement = (Work, fn(&Bench<'_>) -> Result<Table>);

const ON_PROCESSOR: &[Measurement] = &[
    (Work::Scan, scan::throughput),
    (Work::Scan, scan::by_length),
    (Work::Train, train::on_processor),
    (Work::Prompt, prompt::on_processor),
    (Work::Decode, decode::by_batch),
    (Work::Decode, decode::by_length),
];

const ON_GPU: &[Measurement] = &[
    (Work::Scan, scan::on_gpu),
    (Work::Conv, conv::on_gpu),
    (Work::Block, block::on_gpu),
    (Work::Train, train::on_gpu),
    (Work::Prompt, prompt::on_gpu),
    (Work::Decode, decode::by_batch),
    (Work::Decode, decode::by_length),
];

/// Runs the benchmarks and prints their tables.
pub fn run(args: &BenchArgs) -> Result<()> {
    let compute = args.compute.resolve()?;
    let device = compute.device;
    let (measurements, runs) = match (device, args.quick) {
        (Device::Cpu, quick) => (ON_PROCESSOR, if quick { 3 } else { 9 }),
        (Device::Cuda(_), quick) => (ON_GPU, if quick { 5 } else { 25 }),
    };
    if device == Device::Cpu {
        refuse_what_needs_a_gpu(args)?;
    }
    let measured = |work: Work| args.what.is_empty() || args.what.contains(&work);
    let mut given = args.shapes.given();
    if let Some((option, _)) = given.find(|(_, works)| !works.iter().any(|work| measured(*work))) {
        let wrong = Refusal::NoUse("nothing that is measured takes it");
        return Err(Error::refused(option, wrong));
    }
    let clock = Clock { device, runs };
    let (limits, table) = Limits::measure(&clock)?;
    let bench = Bench {
        limits,
        clock,
        precision: compute.precision,
        quick: args.quick,
        shapes: &args.shapes,
        as_published: args.shapes.given().next().is_none() && args.compute.precision.is_none(),
    };
    let mut tables = Vec::new();
    let mut add = |table: Table| {
        if !args.json {
            let between = if tables.is_empty() { "" } else { "\n" };
            say(format!("{between}{table}").trim_end())?;
        }
        tables.push(table);
        device.release_unused();
        Ok::<_, Error>(())
    };
    add(table)?;
    for (work, measure) in measurements {
        if measured(*work) {
            add(measure(&bench)?)?;
        }
    }
    if args.json {
        say(&table::to_json(&tables, device))?;
    }
    Ok(())
}

fn refuse_what_needs_a_gpu(args: &BenchArgs) -> Result<()> {
    let works = [(Work::Conv, "conv"), (Work::Block, "block")];
    let mut named = works.iter().filter(|(work, _)| args.what.contains(work));
    let shape = args.shapes.given().map(|(option, _)| option).next();
    let shape = shape.filter(|_| args.what != [Work::Decode]);
    let option = shape.or_else(|| Some(named.next()?.1));
    match option {
        Some(option) => Err(Error::refused(option, Refusal::MeasuredOnGpu)),
        None => Ok(()),
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
