//! Nucleotides as tokens.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use super::Tokenizer;
use super::symbols::Symbols;
use crate::content::{Ambiguity, DnaConfig, LowerCase};
use crate::error::{Result, check_size};

/// Nucleotides in the order of their symbols.
pub(super) const NUCLEOTIDES: &[u8; 4] = b"ACGT";
/// Nucleotides of a token at most: 65,536 k-mers.
pub(super) const MOST: usize = 8;

/// The k-mer of this place among all.
pub(super) fn kmer(index: usize, k: usize) -> String {
    let letter = |at| NUCLEOTIDES[index >> (2 * at) & 3];
    (0..k).rev().map(letter).map(char::from).collect()
}

/// What stands opposite to a nucleotide.
fn opposite(letter: &u8) -> Option<u8> {
    const PAIRS: [&[u8; 10]; 2] = [b"ACGTNacgtn", b"TGCANtgcan"];
    let at = PAIRS[0].iter().position(|of| of == letter)?;
    Some(PAIRS[1][at])
}

impl Tokenizer {
    /// A table of symbols for nucleotides as `config` reads them: of k nucleotides all 4^k k-mers, in the order AA, AC,
    /// AG and so on, then the single letters A, C, G and T for what is left over where no whole k-mer stands; N where it
    /// is a symbol; a, c, g, t (and n) where lower case is kept. Otherwise lower case is read as upper case.
    ///
    /// # Errors
    /// [`Error::Size`](crate::Error::Size) for k-mers of none or of more than 8 nucleotides, and of more than one where
    /// lower case is kept.
    pub fn dna(config: &DnaConfig) -> Result<Self> {
        let (k, fold) = (config.kmer, config.lower_case == LowerCase::Fold);
        let (name, most) = match fold {
            true => ("kmer", MOST),
            false => ("kmer with lower case kept", 1),
        };
        check_size("dna", name, k, 1..=most)?;
        let kmers = if k > 1 { 1 << (2 * k) } else { 0 };
        let unknown = config.ambiguity == Ambiguity::Unknown;
        let upper = if unknown { "ACGTN" } else { "ACGT" };
        let lower = if fold {
            ""
        } else {
            &upper.to_ascii_lowercase()
        };
        let single = upper.chars().chain(lower.chars()).map(String::from);
        let symbols: Vec<String> = (0..kmers)
            .map(|index| kmer(index, k))
            .chain(single)
            .collect();
        let table = json!({ "symbols": symbols, "fold": fold });
        Ok(Self(Arc::new(Symbols::read(table)?)))
    }

    /// Of each token the one of its reverse complement, which is what the other strand reads in its place; `None` where
    /// one has none, as tokens have that are anything but nucleotides (A, C, G, T, N, in either case).
    pub fn complement(&self) -> Option<Vec<u32>> {
        let tokens = &self.0.tokens;
        let ids: HashMap<&[u8], u32> = tokens.iter().map(|token| &*token.bytes).zip(0..).collect();
        let other = |token: &super::Token| {
            let letters = token.bytes.iter().rev().map(opposite);
            ids.get(&*letters.collect::<Option<Vec<u8>>>()?).copied()
        };
        tokens.iter().map(other).collect()
    }
}
