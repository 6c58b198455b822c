//! `serpens bench`: what this machine can do, and how near to it the operations and models come.

mod machine;
mod models;
mod scan;
mod table;

use std::time::Instant;

use clap::Args;

use crate::Result;
use crate::output::say;
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// The selective scan: state updates per second, scaling with threads, cost against length.
    Scan,
    /// Training steps of small language models.
    Train,
    /// Reading a prompt through the 130m shape.
    Prompt,
}

/// Runs the benchmarks and prints their tables.
pub fn run(args: &BenchArgs) -> Result<()> {
    let wanted = |work| args.what.is_empty() || args.what.contains(&work);
    let timer = Timer {
        runs: if args.quick { 3 } else { 9 },
    };
    let machine = machine::measure(timer);
    let mut tables = vec![machine.table()];
    if !args.json {
        say(tables[0].to_string().trim_end())?;
    }
    let mut add = |table: Table| -> Result<()> {
        if !args.json {
            say(format!("\n{table}").trim_end())?;
        }
        tables.push(table);
        Ok(())
    };
    if wanted(Work::Scan) {
        add(scan::throughput(timer, &machine))?;
        add(scan::by_length(timer))?;
    }
    if wanted(Work::Train) {
        add(models::train(timer, &machine)?)?;
    }
    if wanted(Work::Prompt) {
        add(models::prompt(timer, &machine)?)?;
    }
    if args.json {
        say(&table::to_json(&tables).to_string())?;
    }
    Ok(())
}

/// Takes the time of repeated work.
#[derive(Clone, Copy)]
struct Timer {
    runs: usize,
}

impl Timer {
    /// The median time of one call in seconds, after a call that is not counted.
    fn seconds(self, mut work: impl FnMut()) -> f64 {
        work();
        let mut times: Vec<f64> = (0..self.runs)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
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
