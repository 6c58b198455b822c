//! The command line.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use glob::Pattern;
use serpens_core::DType;
use serpens_data::Labels;
use serpens_formats::Encoding;
use serpens_infer::SampleOptions;
use serpens_nn::checkpoint::{Format, Verify};
use serpens_nn::{Recompute, ToInfer};
use serpens_report::grouped;

use crate::commands::bench::BenchArgs;
use crate::compute::{ComputeArgs, InferArgs, STATES, one_of};
use crate::evaluation;
use crate::hub::HubArgs;
use crate::output::one_line;
use crate::prompt::{PromptArgs, PromptsArgs};
use crate::recipe;
use crate::refusal::within;
use crate::runs::RUNS;
use crate::runs::models::{ModelArgs, ModelPlace, verify};

/// Selective state space models (Mamba): train, run and look into them.
#[derive(Debug, Parser)]
#[command(version = env!("SERPENS_VERSION"), about, max_term_width = 100)]
#[command(mut_args(with_negatives), mut_subcommands(|command| command.mut_args(with_negatives)))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads; otherwise RAYON_NUM_THREADS, or one for each core.
    #[arg(long, global = true, value_name = "N", value_parser = whole::<usize>(1..=MOST_THREADS))]
    pub threads: Option<usize>,
}

/// An option that takes negative numbers, if it takes a value: what is said of one is then what may be given instead.
fn with_negatives(option: Arg) -> Arg {
    let takes_values = option.get_action().takes_values();
    option.allow_negative_numbers(takes_values)
}

impl Cli {
    /// Reads the command line. Where it is none, says so and ends the process; what was given is shown as
    /// [`crate::tell`] shows it.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|mut error| {
            let shown = error.context().filter_map(|(kind, value)| match value {
                ContextValue::String(text) => Some((kind, ContextValue::String(one_line(text)))),
                _ => None,
            });
            for (kind, value) in shown.collect::<Vec<_>>() {
                error.insert(kind, value);
            }
            let usage = error.get(ContextKind::Usage).map(ToString::to_string);
            let train = usage.is_some_and(|usage| usage.contains(" train "));
            let similar = error.get(ContextKind::SuggestedArg).is_some();
            if train && !similar && error.kind() == ErrorKind::UnknownArgument {
                let tip = "a text is given by --data, a field of the recipe by --set, such as task.batch=8";
                let tips = ContextValue::StyledStrs(vec![tip.into()]);
                error.insert(ContextKind::Suggested, tips);
            }
            // What is suggested has colours, and what was given between them.
            let given = |word: OsString| word.to_string_lossy().into_owned();
            if std::env::args_os()
                .map(given)
                .any(|word| one_line(&word) != word)
            {
                error.remove(ContextKind::Suggested);
            }
            error.exit()
        })
    }
}

/// What the command does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model; without arguments, the induction-heads task against a time-invariant twin.
    Train(TrainArgs),
    /// Make a token file of texts, for train: text of any size, encoded once.
    Tokenize(TokenizeArgs),
    /// Look at data before anything is learnt from them.
    Data {
        /// What to do with them.
        #[command(subcommand)]
        action: DataAction,
    },
    /// Tell what a model answers to new files: classes with their probabilities, or the rows that come next.
    Predict(PredictArgs),
    /// Continue texts.
    Generate(GenerateArgs),
    /// Measure how well a model predicts a text, or answers the questions of tasks.
    Eval(EvalArgs),
    /// Write a model in another format: Hugging Face's, GGUF, or with the original program's names.
    Convert(ConvertArgs),
    /// Write a model as GGUF in fewer bits, and say what that changed.
    Quantize(QuantizeArgs),
    /// Draw what a model's layers do with each token: what they select, what they attend to.
    Inspect(InspectArgs),
    /// Measure the scan, training, prompt reading and decoding beside this machine's limits.
    Bench(BenchArgs),
    /// Say what this machine offers.
    Doctor {
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// List the built-in recipes, or show one.
    Recipes {
        /// What to do with them.
        #[command(subcommand)]
        action: Option<RecipesAction>,
    },
    /// Draw the figures of a run's report for a paper: letters of 8 points, no title.
    Report(ReportArgs),
    /// Print what a shell needs to complete the command.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual: a page for the command and for each of its commands.
    Man {
        /// The folder, such as ~/.local/share/man/man1.
        dir: PathBuf,
    },
}

/// More threads than this would only exhaust the system.
pub(crate) const MOST_THREADS: u64 = 1024;

/// The largest number that a recipe's TOML can hold.
const MOST: u64 = i64::MAX as u64;

/// Reads a whole number within these.
pub(crate) fn whole<T: TryFrom<u64>>(
    allowed: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| allowed.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("give a whole number, {}", within(&allowed)))
    }
}

fn number(text: &str) -> Result<f32, &'static str> {
    text.parse().map_err(|_| "give a number, such as 0.5")
}

/// Arguments of `serpens train`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("begun").args(["path", "resume"]),
    mut_arg("path", |init| init.long("init").value_name("MODEL").required(false).help("Go on from this model with its tokenizer: a run's folder or its name below runs, a model's folder or file: Hugging Face's, the original program's, GGUF; or a name on the Hugging Face hub. The recipe text then is text-finetune")),
    mut_arg("prefix", |prefix| prefix.requires("path")),
    mut_arg("adapter", |adapter| adapter.requires("path")),
    mut_arg("revision", |revision| revision.requires("path")),
    mut_arg("offline", |offline| offline.requires("path")),
)]
pub struct TrainArgs {
    /// A built-in recipe.
    #[arg(value_name = "RECIPE", default_value = "induction-heads", help = format!("The built-in recipe: {}", recipe::names()))]
    pub recipe_name: String,
    /// A recipe of your own instead.
    #[arg(long, value_name = "FILE", conflicts_with = "recipe_name")]
    pub recipe: Option<PathBuf>,
    /// The model to go on from; its sizes take the place of the recipe's.
    #[command(flatten)]
    pub init: Option<ModelPlace>,
    /// What to learn from: a file, a folder or a glob; or a token file.
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// The tokenizer of the text: its file or folder, or bytes; otherwise the recipe's, or that of the model of --init.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<String>,
    /// The order of the Markov model with back-off to compare with, for text, dna and audio; 0 for none.
    #[arg(long, value_name = "ORDER", value_parser = whole::<usize>(0..=32))]
    pub baseline: Option<usize>,
    /// Where classify finds labels: folder, file, a table TABLE.csv with the columns name and label, or a pattern of
    /// files' names such as {label}_{group}_*; otherwise folders where there are such, or files.
    #[arg(long, value_name = "LABELS")]
    pub labels: Option<Labels>,
    /// Change a field of the recipe, such as train.steps=500, or model.block.attention.heads=4 where there are several
    /// kinds of layers; may be repeated, in the order in which it is done: model=NAME first, then changes of it.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Another seed, another run.
    #[arg(long, value_parser = whole::<u64>(0..=MOST))]
    pub seed: Option<u64>,
    /// Steps of the optimiser; a run that goes on may take more.
    #[arg(long, value_parser = whole::<u64>(1..=MOST))]
    pub steps: Option<u64>,
    /// Peak of the learning rate; a run may go on with another.
    #[arg(long, value_name = "RATE", value_parser = number)]
    pub lr: Option<f32>,
    /// The run's name; its folder must not exist yet.
    #[arg(long)]
    pub name: Option<String>,
    /// The folder that runs go into.
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    pub out: PathBuf,
    /// Go on with an interrupted run: its folder, or its name below --out.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "recipe_name", "name", "set", "seed", "tokenizer", "labels", "baseline"])]
    pub resume: Option<PathBuf>,
    /// Take its files as they are, though their digests say that they are damaged.
    #[arg(long = "no-verify", action = ArgAction::SetTrue, value_parser = verify(), requires = "begun")]
    pub verify: Verify,
    /// The device and its types; a run may go on elsewhere than it began.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// What to compute again instead of keeping it: saves memory, costs time.
    #[arg(long, value_parser = one_of(Recompute::ALL), default_value = "none")]
    pub recompute: Recompute,
    /// A line of JSON for each event on standard output, instead of bars.
    #[arg(long)]
    pub json: bool,
    /// Only the result.
    #[arg(long, conflicts_with = "json")]
    pub quiet: bool,
}

/// What `serpens data` does.
#[derive(Debug, Subcommand)]
pub enum DataAction {
    /// Say what kind of data files hold, how much, of what lengths and classes, and show the first records.
    Look(LookArgs),
}

/// Arguments of `serpens data look`.
#[derive(Debug, Args)]
pub struct LookArgs {
    /// A file, a folder or a glob: text, DNA (FASTA, FASTQ), sound (WAV, FLAC), images (PNG, JPEG, IDX) or tables (CSV).
    #[arg(value_name = "PATH")]
    pub data: String,
    /// Where the labels are; see train.
    #[arg(
        long,
        value_name = "LABELS",
        default_value = "",
        hide_default_value = true
    )]
    pub labels: Labels,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `serpens predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// The run of train classify or train forecast: its folder, or its name below runs.
    #[arg(long, value_name = "RUN")]
    pub model: PathBuf,
    /// The files: one, a folder or a glob.
    #[arg(long, value_name = "PATH")]
    pub data: String,
    /// The file to write, in place of standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The device and its types.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// A line of JSON for each answer in place of CSV.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `serpens tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// Texts: files, folders or globs. A file is a document, or each line where its name ends in .jsonl: {"text": …} or
    /// {"prompt": …, "completion": …}.
    #[arg(value_name = "FILES", required = true)]
    pub files: Vec<String>,
    /// The tokenizer: its file or folder, a name on the hub, or the word bytes.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: PathBuf,
    /// Where it comes from by its name.
    #[command(flatten)]
    pub hub: HubArgs,
    /// The token file.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// One JSON object when it is done.
    #[arg(long)]
    pub json: bool,
}

/// Bytes of a prompt that are shown on a terminal at most.
pub(crate) const MOST_ON_A_TERMINAL: usize = 2000;

/// Arguments of `serpens generate`.
#[derive(Debug, Args)]
#[command(
    mut_arg("prompt", |prompt| prompt.help("The beginning of the text; a line break where it is left out")),
    mut_arg("prompt_file", |file| file.help(format!("The same in a file, or on standard input where it is -; a terminal shows the last {} bytes of it", grouped(MOST_ON_A_TERMINAL)))),
)]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The beginning of the text; an end of line where it is left out.
    #[command(flatten)]
    pub prompts: PromptsArgs,
    /// Go on from the state in this file, which --save-state wrote; the prompt may be left out.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Write the state at the end to this file, to go on from it later; with --tokens 0 that behind the prompt.
    #[arg(long, value_name = "FILE")]
    pub save_state: Option<PathBuf>,
    /// Of a model of sound, the WAV file to write: the prompt, a WAV or FLAC file if --prompt-file names one, and what
    /// follows.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompts", "samples", "state", "save_state", "stop", "json"])]
    pub wav: Option<PathBuf>,
    /// Texts for each prompt, each with the seed after the one before it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<usize>(1..=65_536))]
    pub samples: usize,
    /// Tokens to write at most; 400 where it is left out, of sound 4 seconds.
    #[arg(long, value_parser = whole::<usize>(0..=MOST))]
    pub tokens: Option<usize>,
    /// End before this text; may be repeated.
    #[arg(long, value_name = "TEXT", value_parser = stop)]
    pub stop: Vec<String>,
    /// How tokens are drawn.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Another seed, another text.
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>(0..=u64::MAX))]
    pub seed: u64,
    /// The device, its types and the weights'.
    #[command(flatten)]
    pub infer: InferArgs,
    /// What the states of Mamba's layers are held in while tokens are written; bf16 halves their bytes and writes
    /// nearly the same, but goes wrong where one token is repeated for long.
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = one_of(STATES))]
    pub states: DType,
    /// One JSON object instead of the text; of several texts a line each.
    #[arg(long)]
    pub json: bool,
    /// In JSON, also the log-probabilities of the tokens, in the model's own distribution, and of the N most probable
    /// ones.
    #[arg(long, value_name = "N", requires = "json", value_parser = whole::<usize>(0..=MOST))]
    pub logprobs: Option<usize>,
}

fn stop(text: &str) -> Result<String, &'static str> {
    let text = Some(text).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or("give one character at least")
}

/// How tokens are drawn.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// 0 takes the most probable token; higher is bolder.
    #[arg(long, default_value_t = 0.8, value_parser = number)]
    temperature: f32,
    /// Draw from the K most probable tokens; 0 from all.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = whole::<usize>(0..=MOST))]
    top_k: usize,
    /// Draw from the most probable tokens that make up this probability.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number)]
    top_p: f32,
    /// Leave out tokens below this share of the most probable one's probability.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = number)]
    min_p: f32,
    /// Above 1, make tokens among the last 64 less probable.
    #[arg(long, value_name = "PENALTY", default_value_t = 1.0, value_parser = number)]
    repetition_penalty: f32,
    /// Above 0, make tokens that were written less probable.
    #[arg(long, value_name = "PENALTY", default_value_t = 0.0, value_parser = number)]
    presence_penalty: f32,
    /// Above 0, make tokens less probable the more often they were written.
    #[arg(long, value_name = "PENALTY", default_value_t = 0.0, value_parser = number)]
    frequency_penalty: f32,
    /// Add this to the logit of the token of this number, -inf for none of it; may be repeated.
    #[arg(long, value_name = "TOKEN=BIAS", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
}

impl SamplingArgs {
    pub(crate) fn options(&self) -> SampleOptions {
        SampleOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
        }
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parts = text.split_once('=');
    let pair = parts.and_then(|(token, bias)| Some((token.parse().ok()?, bias.parse().ok()?)));
    pair.ok_or_else(|| "give the number of a token and a number, such as 50=-2.5".to_owned())
}

/// Arguments of `serpens convert`.
#[derive(Debug, Args)]
#[command(mut_arg("path", |model| model.long(Resettable::Reset).index(1).value_name("FROM")))]
pub struct ConvertArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder to make, or the file where it is GGUF.
    #[arg(index = 2, value_name = "TO")]
    pub to: PathBuf,
    /// The format; where it is left out, gguf for a name with that ending, otherwise hf.
    #[arg(long, value_parser = one_of(&[Format::Hf, Format::Gguf, Format::OriginalNames]))]
    pub format: Option<Format>,
    /// How values are stored; with q4_k the table and the head are in q6_k. In GGUF norms, biases, convolutions, A and
    /// D stay in f32, and rows that are no whole blocks are in smaller ones or in bf16.
    #[arg(long, default_value = "f32", value_parser = one_of(&STORED))]
    pub dtype: Encoding,
}

/// How a file is made to store values.
const STORED: [Encoding; 7] = {
    let [f32, bf16, rest @ ..] = ToInfer::WEIGHTS;
    let [a, b, c, d] = rest;
    [f32, bf16, Encoding::F16, a, b, c, d]
};

/// Arguments of `serpens quantize`.
#[derive(Debug, Args)]
#[command(mut_arg("path", |model| model.long(Resettable::Reset).index(1).value_name("MODEL")))]
pub struct QuantizeArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The file to make.
    #[arg(index = 2, value_name = "OUT.gguf")]
    pub to: PathBuf,
    /// How matrices are stored; with q4_k the table and the head are in q6_k.
    #[arg(long = "to", value_name = "TYPE", value_parser = one_of(&STORED))]
    pub encoding: Encoding,
    /// Store the tensors whose names in the file match otherwise, such as 'blk.0.*=q8_0', where * stands for any
    /// letters and ? for one; may be repeated, the first that matches counts.
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = kept)]
    pub keep: Vec<(Pattern, Encoding)>,
    /// A text to measure the perplexity on, before and after: a file, a folder, a glob or a token file.
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// One JSON object instead of the tables.
    #[arg(long)]
    pub json: bool,
}

/// Reads what is stored otherwise.
fn kept(text: &str) -> Result<(Pattern, Encoding), String> {
    let names = STORED.map(|it| it.to_string().to_lowercase());
    let stored = |name| names.iter().position(|it| it == name);
    let parts = text.rsplit_once('=');
    let parts = parts.and_then(|(pattern, name)| Some((pattern, stored(name)?)));
    let (pattern, stored) = parts.ok_or_else(|| {
        let names = names.join(", ");
        format!("give a pattern of names and one of {names}, such as 'blk.0.*=q8_0'")
    })?;
    let wrong = |wrong| format!("{pattern:?} is no pattern of names: {wrong}");
    Ok((Pattern::new(pattern).map_err(wrong)?, STORED[stored]))
}

/// Arguments of `serpens eval`.
#[derive(Debug, Args)]
#[command(
    mut_arg("path", |model| model.long(Resettable::Reset).index(1).value_name("MODEL")),
    after_long_help = include_str!("../evaluation/help.txt"),
)]
pub struct EvalArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What is evaluated.
    #[arg(index = 2, value_name = "TASK", required_unless_present = "task_file", help = evaluation::names())]
    pub tasks: Vec<String>,
    /// A task of your own; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub task_file: Vec<PathBuf>,
    /// The text: a file, a folder, a glob or a token file. Of tasks the file of questions, a JSON object a line, or a
    /// folder with those of all.
    #[arg(long, value_name = "PATH")]
    pub data: String,
    /// Also the perplexity in windows of so many tokens, each read without those before it, as it is often reported.
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MOST))]
    pub window: Option<usize>,
    /// Only the first N questions of each task.
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MOST))]
    pub limit: Option<usize>,
    /// Write to this file how each question was answered, a JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub items: Option<PathBuf>,
    /// The device, its types and the weights'.
    #[command(flatten)]
    pub infer: InferArgs,
    /// One JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `serpens inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What is looked at; a sample of the task where it is left out.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Draw to this file: .svg for the figure alone, .html for a page.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// One JSON object instead of the figure in letters.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `serpens report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run's folder, or its name below runs.
    pub run: PathBuf,
    /// What is drawn, with commas between; png and pdf need a build with --features paper, and fonts.
    #[arg(long, value_enum, default_value = "svg", value_delimiter = ',')]
    pub format: Vec<FigureFormat>,
    /// The width, from 1.5 to 20.
    #[arg(long, value_name = "INCHES", value_parser = inches, default_value = "3.3")]
    pub width: f64,
    /// The folder for the files; otherwise paper in the run's folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

fn inches(text: &str) -> Result<f64, String> {
    let width = text.parse().ok();
    let width = width.filter(|width| (1.5..=20.0).contains(width));
    width.ok_or_else(|| "expected inches, from 1.5 to 20".to_owned())
}

/// Files of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FigureFormat {
    /// Lines and letters, which a program for drawing can change.
    Svg,
    /// Pixels, 300 to an inch.
    Png,
    /// Lines and letters for LaTeX, fonts embedded.
    Pdf,
}

/// What `serpens recipes` does.
#[derive(Debug, Subcommand)]
pub enum RecipesAction {
    /// Print a recipe, to be changed in a file for --recipe, or what a built-in model sets of its model.
    Show {
        /// Its name; without it they are listed.
        #[arg(value_parser = PossibleValuesParser::new(recipe::shown().map(|(name, _)| name)))]
        name: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn refused(args: &[&str]) -> String {
        let error = Cli::try_parse_from(args).expect_err("it is no command");
        error.to_string()
    }

    #[test]
    fn numbers_out_of_range_are_answered_with_those_that_may_be() {
        for (option, value, words) in [
            ("--steps", "-5", "1 or more"),
            ("--steps", "0", "1 or more"),
            ("--seed", "-3", "0 or more"),
            (
                "--seed",
                "9223372036854775808",
                "0 or more, up to 9223372036854775807",
            ),
            ("--threads", "x", "1 to 1024"),
            ("--threads", "-1", "1 to 1024"),
        ] {
            let told = refused(&["serpens", "train", option, value]);
            let words = format!("give a whole number, {words}");
            assert!(told.contains(&words) && told.contains(value), "{told}");
        }
        let told = refused(&["serpens", "--threads", "-1", "train"]);
        assert!(told.contains("1 to 1024"), "{told}");
        let told = refused(&["serpens", "generate", "--model", "a", "--stop", ""]);
        assert!(told.contains("one character at least"), "{told}");
        let told = refused(&["serpens", "generate", "--model", "a", "--top-k", "-1"]);
        assert!(told.contains("0 or more"), "{told}");
        let told = refused(&["serpens", "generate", "--model", "a", "--logit-bias", "x=1"]);
        assert!(told.contains("50=-2.5"), "{told}");
        let told = refused(&["serpens", "bench", "--batch", "0"]);
        assert!(told.contains("1 to 4294967295"), "{told}");
        for option in [
            "--temperature",
            "--top-p",
            "--min-p",
            "--repetition-penalty",
            "--presence-penalty",
            "--frequency-penalty",
        ] {
            let args = ["serpens", "generate", "--model", "a", option, "-1"];
            Cli::try_parse_from(args).expect("sampling says what it may be");
        }
    }

    #[test]
    fn help_says_what_the_command_takes() {
        let help = |name: &str| {
            let mut command = Cli::command();
            let command = command.find_subcommand_mut(name).unwrap();
            command.render_long_help().to_string().replace('\n', " ")
        };
        for (name, _) in recipe::BUILT_IN {
            assert!(help("train").contains(name), "{name}");
        }
        assert!(!help("generate").contains("token ids") && help("generate").contains("line break"));
        assert!(help("inspect").contains("token ids"));
        assert!(help("generate").contains("the last 2,000 bytes"));
    }
}
