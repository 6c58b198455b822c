//! Tables whose symbols are single bytes, and all k-mers of nucleotides before them: found by index.

use super::super::dna::{MOST, NUCLEOTIDES, kmer};

/// No id, and no nucleotide.
const NONE: u32 = u32::MAX;

/// Single letters that are looked up together.
const AT_ONCE: usize = 64;

/// What each byte is.
pub(super) struct Letters {
    ids: [u32; 256],
    /// The place among the four nucleotides where k-mers are symbols, otherwise and of other bytes [`NONE`].
    places: [u32; 256],
    /// Nucleotides of the first 4^k symbols; 1 where there are no k-mers.
    k: usize,
}

impl Letters {
    /// Of a table that is of this kind, where `fold` says that lower case is upper case.
    pub(super) fn of(symbols: &[String], fold: bool) -> Option<Self> {
        let k = symbols.first()?.len().min(MOST);
        let kmers = if k > 1 { 1 << (2 * k) } else { 0 };
        let (longer, single) = symbols.split_at_checked(kmers)?;
        let are_kmers = longer
            .iter()
            .zip(0..)
            .all(|(symbol, index)| *symbol == kmer(index, k));
        if !are_kmers || single.iter().any(|symbol| symbol.len() > 1) {
            return None;
        }
        let [mut ids, mut places] = [[NONE; 256]; 2];
        let set = |table: &mut [u32; 256], letter: u8, value: u32| {
            let upper = letter.to_ascii_uppercase();
            let both = [letter, upper, letter.to_ascii_lowercase()];
            for &letter in if fold { &both[..] } else { &both[..1] } {
                let entry = &mut table[usize::from(letter)];
                *entry = value.min(*entry); // the first of them
            }
        };
        for (symbol, id) in single.iter().zip(kmers as u32..) {
            set(&mut ids, symbol.as_bytes()[0], id);
        }
        if k > 1 {
            (NUCLEOTIDES.iter().zip(0..)).for_each(|(&letter, at)| set(&mut places, letter, at));
        }
        Some(Self { ids, places, k })
    }

    /// Appends the ids of `text` from `done` on, up to its end or to a byte that is no symbol: then true.
    pub(super) fn encode(&self, text: &[u8], done: &mut usize, ids: &mut Vec<u32>) -> bool {
        while let Some(&byte) = text.get(*done) {
            if self.k == 1
                && let Some(letters) = text.get(*done..*done + AT_ONCE)
            {
                // Without a branch for each letter: hardly any is none.
                let begin = ids.len();
                ids.extend(letters.iter().map(|&letter| self.ids[usize::from(letter)]));
                if ids[begin..]
                    .iter()
                    .fold(true, |all, &id| all & (id != NONE))
                {
                    *done += AT_ONCE;
                    continue;
                }
                ids.truncate(begin);
            }
            if self.k > 1
                && let Some(letters) = text.get(*done..*done + self.k)
            {
                let (mut index, mut all) = (0, 0);
                for &letter in letters {
                    let place = self.places[usize::from(letter)];
                    (index, all) = (index << 2 | place, all | place);
                }
                if all != NONE {
                    ids.push(index);
                    *done += self.k;
                    continue;
                }
            }
            let id = self.ids[usize::from(byte)];
            if id == NONE {
                return true;
            }
            ids.push(id);
            *done += 1;
        }
        false
    }

    /// The last place, but the end, where a text may be cut: between two characters, and not within a k-mer.
    pub(super) fn last_cut(&self, text: &[u8]) -> Option<usize> {
        let is_nucleotide = |byte: &&u8| self.places[usize::from(**byte)] != NONE;
        let run = text.iter().rev().take_while(is_nucleotide).count();
        let whole = run.saturating_sub(1) / self.k * self.k;
        let whole = text.len() - run + whole;
        // No character ends before a byte that goes on with one.
        (1..=whole.min(text.len().saturating_sub(1)))
            .rev()
            .find(|&at| text[at] & 0xc0 != 0x80)
    }
}
