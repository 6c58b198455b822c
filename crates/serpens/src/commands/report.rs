//! `serpens report`.

use std::path::Path;

use clap::ValueEnum;
use serpens_core::files::make_folders;
use serpens_report::Form;

use crate::cli::{FigureFormat, ReportArgs};
use crate::output::{save, say};
use crate::refusal::Refusal;
use crate::runs::{RUNS, RunFolder};
use crate::{Error, Result};

pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let run = RunFolder::find("RUN", &args.run, Path::new(RUNS))?;
    let figures = run.report()?.to_files(Form::Paper(args.width)).into_iter();
    let files = figures.map(|(name, svg)| Ok((name, converted(svg, args.format)?)));
    let files: Vec<_> = files.collect::<Result<_>>()?;
    let dir = args.out.clone().unwrap_or_else(|| run.path.join("paper"));
    make_folders(&dir)?;
    let ending = args.format.to_possible_value();
    for (name, bytes) in files {
        let ending = ending.as_ref().map_or("", |value| value.get_name());
        let path = dir.join(format!("{name}.{ending}"));
        save(&path, bytes)?;
        say(&path.display().to_string())?;
    }
    Ok(())
}

fn converted(svg: String, format: FigureFormat) -> Result<Vec<u8>> {
    #[cfg(feature = "paper")]
    use serpens_report::paper::{to_pdf, to_png};

    let made: Result<_, Refusal> = match format {
        FigureFormat::Svg => Ok(svg.into_bytes()),
        #[cfg(feature = "paper")]
        FigureFormat::Png => to_png(&svg).map_err(|error| Box::new(error).into()),
        #[cfg(feature = "paper")]
        FigureFormat::Pdf => to_pdf(&svg).map_err(|error| Box::new(error).into()),
        #[cfg(not(feature = "paper"))]
        _ => Err(Refusal::NoPaper),
    };
    made.map_err(|wrong| Error::refused("--format", wrong))
}
