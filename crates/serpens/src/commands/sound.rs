//! Sound that a model writes: the part of `serpens generate` for models of sound.

use serpens_data::{AudioConfig, Content, Numbers, Records, Tokenizer, from_mu_law, write_wav};
use serpens_nn::MambaLm;
use serpens_train::go_on;

use crate::cli::GenerateArgs;
use crate::output::{counted, one_line, say, tell};
use crate::refusal::Refusal;
use crate::stop::{self, STOP};
use crate::tasks::written::written;
use crate::{Error, Result};

/// Seconds that are written where nothing is said.
const SECONDS: usize = 4;
/// The level of silence.
const SILENCE: u32 = 128;

/// Writes the prompt, a WAV or FLAC file if there is one, and what the model goes on with behind it.
pub(super) fn run(args: &GenerateArgs, audio: &AudioConfig, model: &MambaLm) -> Result<()> {
    let Some(out) = &args.wav else {
        return Err(Error::refused("--wav", Refusal::NoWav));
    };
    stop::listen();
    let prompt = match args.prompts.file() {
        None => vec![SILENCE],
        Some(path) => {
            let content = Content::Audio(audio.clone());
            let (path, bytes) = (path.to_string_lossy(), Tokenizer::bytes());
            let records = Records::open(&path, &content, &bytes, &mut |_, _| {
                Ok::<_, Error>(go_on(&STOP)?)
            })?;
            match records.read(records.all()[0].positions.clone())? {
                Numbers::Ids(ids) => ids,
                Numbers::Values(_) => unreachable!("models that write sound read levels"),
            }
        }
    };
    if model
        .config()
        .context()
        .is_some_and(|most| most <= prompt.len())
    {
        return Err(model.config().full().into());
    }
    let ids = written(
        model,
        &prompt,
        args.tokens.unwrap_or(SECONDS * audio.rate as usize),
        args.sampling.options(),
        args.seed,
        &Tokenizer::bytes(),
    )?;
    let all = prompt
        .iter()
        .chain(&ids)
        .map(|&level| from_mu_law(level as u8));
    let samples: Vec<f32> = all.collect();
    write_wav(out, &samples, audio.rate)?;
    let seconds = ids.len() as f64 / f64::from(audio.rate);
    let read = counted(prompt.len() as u64, "sample");
    tell(&format!("{read} read, {seconds:.2} s written"));
    say(&one_line(&out.display().to_string()))
}
