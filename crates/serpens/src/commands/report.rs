//! `serpens report`.

use std::path::Path;

use clap::ValueEnum;
use serpens_core::files::{make_folders, write_bytes};
use serpens_report::Form;

use crate::cli::{FigureFormat, ReportArgs};
use crate::output::say;
use crate::refusal::Refusal;
use crate::runs::{RUNS, RunFolder};
use crate::{Error, Result};

pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let run = RunFolder::find("RUN", &args.run, Path::new(RUNS))?;
    let mut files = Vec::new();
    for (name, svg) in run.report()?.to_files(Form::Paper(args.width)) {
        for &format in &args.format {
            let ending = format.to_possible_value();
            let ending = ending.as_ref().map_or("", |value| value.get_name());
            files.push((format!("{name}.{ending}"), converted(&svg, format)?));
        }
    }
    let dir = args.out.clone().unwrap_or_else(|| run.path.join("paper"));
    make_folders(&dir)?;
    for (name, bytes) in files {
        let path = dir.join(name);
        write_bytes(&path, bytes)?;
        say(&path.display().to_string())?;
    }
    Ok(())
}

fn converted(svg: &str, format: FigureFormat) -> Result<Vec<u8>> {
    #[cfg(feature = "paper")]
    use serpens_report::paper::{to_pdf, to_png};

    let made: Result<_, Refusal> = match format {
        FigureFormat::Svg => Ok(svg.into()),
        #[cfg(feature = "paper")]
        FigureFormat::Png => to_png(svg).map_err(|error| Box::new(error).into()),
        #[cfg(feature = "paper")]
        FigureFormat::Pdf => to_pdf(svg).map_err(|error| Box::new(error).into()),
        #[cfg(not(feature = "paper"))]
        _ => Err(Refusal::NoPaper),
    };
    made.map_err(|wrong| Error::refused("--format", wrong))
}
