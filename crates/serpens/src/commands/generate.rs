//! `serpens generate`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use serpens_core::Device;
use serpens_core::files::check_writable;
use serpens_data::{Content, Tokenizer};
use serpens_infer::{
    Batching, Drawn, End, Of, Request, SequenceState, TextStream, Told, encode_prompt, generate,
};
use serpens_ops::sampling::Broken;
use serpens_report::grouped;

use super::sound;
use crate::cli::{GenerateArgs, MOST_ON_A_TERMINAL};
use crate::output::{OutputMode, counted, harmless, say, tell, unless_gone};
use crate::progress::Meter;
use crate::refusal::{Refusal, WrongModel};
use crate::tasks::Reads;
use crate::{Error, Result};

/// Tokens that are written where nothing is said.
const TOKENS: usize = 400;

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let how = args.infer.resolve()?;
    args.sampling.options().check().map_err(|wrong| {
        let option = format!("--{}", wrong.name.replace(' ', "-"));
        Error::refused(option, wrong)
    })?;
    let prompts = match args.wav {
        Some(_) => Vec::new(), // a sound is no text
        None => args.prompts.read(args.state.is_some())?,
    };
    args.wav.as_deref().map(check_writable).transpose()?;
    if !is_single(args, &prompts) && args.save_state.is_some() {
        return Err(Error::refused("--save-state", Refusal::ManyStates));
    }
    args.save_state.as_deref().map(check_writable).transpose()?;
    let (opened, tokenizer) = args.model.load_with_tokenizer(how)?;
    if let Some(audio) = Reads::sound(opened.checkpoint.folder())? {
        return sound::run(args, &audio, &opened.model);
    }
    if args.wav.is_some() {
        return Err(Error::refused("--wav", Refusal::NoSound));
    }
    if args.prompts.is_left_out()
        && matches!(
            Reads::content_of(opened.checkpoint.folder())?,
            Content::Dna(_)
        )
    {
        return Err(Error::refused("--prompt", Refusal::NoBeginning));
    }
    let model = opened.model;
    let load = |path: &Path| SequenceState::load(path, &model, Some(&tokenizer));
    let state = args.state.as_deref().map(load).transpose()?;
    let requests = requests(args, &prompts, &tokenizer, state.as_ref())?;
    let read = requests.iter().map(|request| request.prompt.len()).sum();
    let mut writer = Writer::new(args, &tokenizer, &prompts, read);
    let meter = Meter::new(OutputMode::Terminal, "reading".into(), read);
    let (done, meter) = (Cell::new(0), RefCell::new(Some(meter)));
    let on_pass = |tokens| {
        done.set(done.get() + tokens);
        let mut meter = meter.borrow_mut();
        drop(meter.as_mut().map(|meter| meter.at(done.get())));
    };
    // A GPU steps all slots, taken or not, and many as fast as some: of a few sizes the one that has a place for each.
    let most = match how.device {
        Device::Cpu => Batching::default().slots,
        Device::Cuda(_) => 128,
    };
    let texts = prompts.len().saturating_mul(args.samples);
    let batching = Batching {
        slots: texts.min(most).next_power_of_two(),
        vocabulary: tokenizer.vocab_size(),
        states: args.states,
        on_pass: &on_pass,
    };
    let generated = generate(&model, requests, batching, |of, told| {
        if meter.take().is_some() && writer.single && !args.json {
            writer.show(shown_of(&prompts[0]))?; // below the bar of its reading
        }
        writer.hear(of, told)
    });
    generated.map_err(|error| match error {
        Error::Infer(serpens_infer::Error::Logits(Broken::Nan | Broken::NotFinite)) => {
            Error::wrong_model(opened.path, WrongModel::NotFinite)
        }
        other => other,
    })?;
    if !args.json {
        writer.tell_pace();
    }
    if let (Some(path), Some(state)) = (&args.save_state, writer.state) {
        state.save(path, &model, Some(&tokenizer))?;
    }
    match writer.is_full {
        true => Err(model.config().full().into()),
        false => Ok(()),
    }
}

/// Whether one text is written, while it is drawn.
fn is_single(args: &GenerateArgs, prompts: &[Vec<u8>]) -> bool {
    prompts.len() == 1 && args.samples == 1
}

fn requests(
    args: &GenerateArgs,
    prompts: &[Vec<u8>],
    tokenizer: &Tokenizer,
    state: Option<&SequenceState>,
) -> Result<Vec<Request>> {
    let request = |prompt: &Vec<u8>| {
        Ok(Request {
            prompt: encode_prompt(tokenizer, prompt, state.is_some())?,
            state: state.cloned(),
            samples: args.samples,
            sampling: args.sampling.options(),
            seed: args.seed,
            tokens: args.tokens.unwrap_or(TOKENS),
            ends: tokenizer.end_of_text().to_vec(),
            log_probs: args.logprobs,
        })
    };
    prompts.iter().map(request).collect()
}

/// What was written of a sample.
struct Text {
    stream: TextStream,
    text: String,
    drawn: Vec<Drawn>,
}

/// Writes samples: a single one while it is drawn, of several each once it and all before it are whole.
struct Writer<'a> {
    args: &'a GenerateArgs,
    tokenizer: &'a Tokenizer,
    prompts: &'a [Vec<u8>],
    /// Tokens of all prompts.
    read: usize,
    single: bool,
    begun: Instant,
    /// How long the first token took.
    first: Option<Duration>,
    written: usize,
    /// Whether somebody still reads.
    goes_on: bool,
    /// Whether one ended as the model reads no more.
    is_full: bool,
    /// Those that have not ended.
    texts: HashMap<Of, Text>,
    /// Those that have ended before one that is to be written first.
    ended: BTreeMap<Of, (Text, End)>,
    /// The one that is written next.
    next: Of,
    /// That of the sample that ended last.
    state: Option<SequenceState>,
}

impl<'a> Writer<'a> {
    /// Before the first token; `read` tokens stand before those that are drawn.
    fn new(
        args: &'a GenerateArgs,
        tokenizer: &'a Tokenizer,
        prompts: &'a [Vec<u8>],
        read: usize,
    ) -> Self {
        Self {
            args,
            tokenizer,
            prompts,
            read,
            single: is_single(args, prompts),
            begun: Instant::now(),
            first: None,
            written: 0,
            goes_on: true,
            is_full: false,
            texts: HashMap::new(),
            ended: BTreeMap::new(),
            next: Of {
                request: 0,
                sample: 0,
            },
            state: None,
        }
    }

    fn hear(&mut self, of: Of, told: Told<'_>) -> Result<ControlFlow<()>> {
        let begin = || Text {
            stream: TextStream::new(self.tokenizer, &self.args.stop),
            text: String::new(),
            drawn: Vec::new(),
        };
        let mut text = self.texts.remove(&of).unwrap_or_else(begin);
        let streams = self.single && !self.args.json;
        match told {
            Told::Token(drawn) => {
                self.first.get_or_insert_with(|| self.begun.elapsed());
                self.written += 1;
                let new = text.stream.push(drawn.token);
                if streams {
                    self.show(new.as_bytes())?;
                }
                text.text += &new;
                text.drawn.push(drawn.clone());
                let ends = text.stream.has_stopped() || !self.goes_on;
                self.texts.insert(of, text);
                return Ok(match ends {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                });
            }
            Told::End(end, state) => {
                self.state = Some(state);
                self.is_full |= end == End::Full;
                let rest = text.stream.finish();
                text.text += &rest;
                if streams {
                    self.show(format!("{rest}\n").as_bytes())?;
                } else {
                    self.ended.insert(of, (text, end));
                    self.write_ended()?;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes what has ended, as far as nothing before it is still drawn.
    fn write_ended(&mut self) -> Result<()> {
        while let Some((text, end)) = self.ended.remove(&self.next) {
            let of = self.next;
            let (request, sample) = (of.request + 1, of.sample + 1);
            if self.args.json {
                say(&self.json(of, &text, end).to_string())?;
            } else {
                let head = format!("=== prompt {request}, sample {sample}\n");
                let prompt = &self.prompts[of.request];
                self.show(&[head.as_bytes(), prompt, text.text.as_bytes(), b"\n"].concat())?;
            }
            self.next = match sample < self.args.samples {
                true => Of { sample, ..of },
                false => Of { request, sample: 0 },
            };
        }
        Ok(())
    }

    /// Writes to standard output while somebody reads there.
    fn show(&mut self, text: &[u8]) -> Result<()> {
        if self.goes_on && !text.is_empty() {
            let mut out = io::stdout().lock();
            // A model may write what a terminal would obey; a file gets what it wrote.
            let written = match out.is_terminal() {
                true => out.write_all(harmless(&String::from_utf8_lossy(text)).as_bytes()),
                false => out.write_all(text),
            };
            self.goes_on = unless_gone(written.and_then(|()| out.flush()))?;
        }
        Ok(())
    }

    fn json(&self, of: Of, text: &Text, end: End) -> Value {
        let mut value = json!({
            "prompt": String::from_utf8_lossy(&self.prompts[of.request]),
            "text": text.text,
            "tokens": text.drawn.len(),
            "end": match end {
                End::Token => "end of text",
                End::Length => "length",
                End::Broken => "stop",
                End::Full => "full",
            },
        });
        if self.single {
            let [first, read, written] = self.pace();
            value["seconds_to_first_token"] = first.into();
            value["prompt_tokens_per_second"] = read.into();
            value["tokens_per_second"] = written.into();
        } else {
            value["request"] = of.request.into();
            value["sample"] = of.sample.into();
        }
        if self.args.logprobs.is_some() {
            let token = |token: u32, log_prob: f64| {
                let text = self.tokenizer.token_text(token);
                json!({ "token": token, "text": text, "log_prob": log_prob })
            };
            let told = text.drawn.iter().filter_map(|drawn| {
                let told = drawn.log_probs.as_ref()?;
                let top = told.top.iter().map(|&(id, log_prob)| token(id, log_prob));
                let mut value = token(drawn.token, told.drawn);
                value["top"] = top.collect();
                Some(value)
            });
            value["log_probs"] = told.collect();
        }
        value
    }

    /// Seconds to the first token, and tokens a second before and behind it.
    fn pace(&self) -> [f64; 3] {
        let whole = self.begun.elapsed();
        let first = self.first.unwrap_or(whole);
        let [first, rest] = [first, whole - first].map(|time| time.as_secs_f64().max(1e-9));
        let behind = self.written.saturating_sub(1) as f64;
        [first, self.read as f64 / first, behind / rest]
    }

    fn tell_pace(&self) {
        let [first, _, written] = self.pace();
        let read = counted(self.read as u64, "token");
        if self.written == 0 {
            return tell(&format!("read {read} in {first:.3} s"));
        }
        let more = grouped(self.written - 1);
        tell(&format!(
            "read {read}, the first token came after {first:.3} s, {more} more at {written:.0} a second"
        ));
    }
}

/// What is shown of a prompt: its end on a terminal, where there is much of it, from a whole character on.
fn shown_of(prompt: &[u8]) -> &[u8] {
    let cut = prompt.len().saturating_sub(MOST_ON_A_TERMINAL);
    if cut == 0 || !io::stdout().is_terminal() {
        return prompt;
    }
    let within = |byte: &&u8| (0x80..0xc0).contains(*byte);
    let hidden = cut + prompt[cut..].iter().take(3).take_while(within).count();
    let bytes = counted(hidden as u64, "byte");
    tell(&format!("… after {bytes} of the prompt:"));
    &prompt[hidden..]
}
