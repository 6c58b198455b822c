//! How probable given continuations are.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serpens_nn::{MambaLm, StateRow};
use serpens_ops::embedding::check_ids;
use serpens_ops::linear::cpu::FEW_ROWS;

use crate::pass::Reader;
use crate::sampler::argmax;
use crate::state::Next;
use crate::{Error, Result, SequenceState, log_sum_exp};

/// Items whose states are in memory at the same time.
const GROUP: usize = 64;

/// A continuation of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What stands before it.
    pub context: Vec<u32>,
    /// What is scored.
    pub continuation: Vec<u32>,
}

/// How probable a token is behind those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Its natural log-probability in the model's own distribution.
    pub log_prob: f64,
    /// Whether it has the largest, as the first of equals.
    pub greedy: bool,
}

/// How probable a continuation is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Token by token.
    pub tokens: Vec<TokenScore>,
}

impl Score {
    /// The log-probability of all tokens: the sum of theirs.
    pub fn log_prob(&self) -> f64 {
        self.tokens.iter().map(|token| token.log_prob).sum()
    }

    /// Whether it is what the model would write at a temperature of 0.
    pub fn is_greedy(&self) -> bool {
        self.tokens.iter().all(|token| token.greedy)
    }

    /// Goes on with tokens, given the logits (tokens, vocabulary) before each.
    fn push(&mut self, logits: &[f32], tokens: &[u32]) -> Result<()> {
        let vocabulary = logits.len() / tokens.len().max(1);
        check_ids(tokens, vocabulary)?;
        let rows = logits.par_chunks(vocabulary.max(1)).zip(tokens);
        self.tokens
            .par_extend(rows.map(|(logits, &token)| TokenScore {
                log_prob: f64::from(logits[token as usize]) - log_sum_exp(logits),
                greedy: argmax(logits) == Some(token as usize),
            }));
        Ok(())
    }
}

/// What [`score`] gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// One for each item.
    pub items: Vec<Score>,
    /// Tokens of all items, but the last of each, after which nothing is asked.
    pub asked: usize,
    /// Tokens that were read: fewer where items have contexts in common.
    pub read: usize,
}

/// Scores continuations. Contexts, and then what goes on from each, are read packed, without padding. A context that
/// several items have in common, of 64 one after another, is read once, and gone on from in clones of its state. All of
/// them may go on from a state, such as that behind examples that precede every question. `progress` hears how many
/// items are done.
///
/// # Errors
/// [`Error::EmptyPrompt`] for an item without context that goes on from nothing; tokens that the model does not know;
/// memory.
pub fn score(
    model: &MambaLm,
    from: Option<&SequenceState>,
    items: &[Item],
    progress: &mut dyn FnMut(usize),
) -> Result<Scores> {
    let fresh = SequenceState::new(model)?;
    let mut from = from.unwrap_or(&fresh).clone();
    // A token that was drawn last is read before all of them.
    if let Next::Token(_) = from.next {
        from = from.read(model, &[])?;
    }
    let (reader, mut scores) = (Reader::new(model), Scores::default());
    for items in items.chunks(GROUP) {
        score_group(reader, &from, items, &mut scores)?;
        progress(scores.items.len());
    }
    Ok(scores)
}

fn score_group(
    reader: Reader<'_>,
    from: &SequenceState,
    items: &[Item],
    scores: &mut Scores,
) -> Result<()> {
    // The contexts, each once, and the states behind them; nothing is read where one is empty.
    let contexts: BTreeSet<&[u32]> = items.iter().map(|item| &item.context[..]).collect();
    let ids: Vec<Vec<u32>> = contexts.iter().map(|ids| ids.to_vec()).collect();
    let mut states = vec![from.clone(); ids.len()];
    reader.read(&mut states, &ids)?;
    scores.read += ids.iter().map(Vec::len).sum::<usize>();
    let contexts: BTreeMap<&[u32], SequenceState> = contexts.into_iter().zip(states).collect();

    let first = scores.items.len();
    let mut rest = Vec::new();
    for item in items {
        let state = &contexts[&item.context[..]];
        let mut score = Score::default();
        if let [token, ..] = item.continuation[..] {
            score.push(state.logits().ok_or(Error::EmptyPrompt)?, &[token])?;
        }
        scores.items.push(score);
        rest.push(&item.continuation[..item.continuation.len().saturating_sub(1)]);
        scores.asked += (item.context.len() + item.continuation.len()).saturating_sub(1);
    }
    let lengths: Vec<usize> = rest.iter().map(|ids| ids.len()).collect();
    scores.read += lengths.iter().sum::<usize>();
    for pack in reader.packs(&lengths, false) {
        let ids: Vec<&[u32]> = pack.iter().map(|&i| rest[i]).collect();
        let state = |&i: &usize| contexts[&items[i].context[..]].row.clone();
        let mut rows: Vec<StateRow> = pack.iter().map(state).collect();
        reader.read_pack(&ids, &mut rows, &mut |i, at, hidden| {
            let length = hidden.shape().rows();
            let next = &items[pack[i]].continuation[at + 1..=at + length];
            for from in (0..length).step_by(FEW_ROWS) {
                let to = length.min(from + FEW_ROWS);
                let logits = reader.logits(hidden.narrow(from..to)?)?;
                scores.items[first + pack[i]].push(&logits, &next[from..to])?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
