//! The order of a model's layers in letters: `MMAM`, `M5A`, `(MF)6`.

use crate::mixers::MixerConfig;
use crate::setting::check;
use crate::{PatternFault, Result};

/// The mixers that a pattern names, one after another: of a letter's kind that of `settings`, or as it is by default.
///
/// # Errors
/// [`crate::Error::Pattern`]; [`crate::Error::Config`] for a pattern of more layers than `most`, or of none.
pub(super) fn read(
    pattern: &str,
    settings: &[MixerConfig],
    most: usize,
) -> Result<Vec<MixerConfig>> {
    let all = MixerConfig::all();
    let order = letters(pattern, most)?;
    for (i, one) in settings.iter().enumerate() {
        let (letter, kind) = one.kind();
        if settings[..i].iter().any(|other| other.kind() == one.kind()) {
            return Err(PatternFault::Twice(kind).of(pattern));
        }
        // Settings that a kind has anyway may be there without it: many a recipe names Mamba's.
        if !order.contains(&letter) && !all.contains(one) {
            return Err(PatternFault::Unused { letter, kind }.of(pattern));
        }
    }
    let named = |letter: &char| {
        let mut kinds = settings.iter().chain(&all);
        let found = kinds.find(|one| one.kind().0 == *letter);
        found.cloned().expect("each letter is one of a kind")
    };
    Ok(order.iter().map(named).collect())
}

/// The letters of a pattern, repeats written out: digits repeat the letter or the bracket before them.
fn letters(pattern: &str, most: usize) -> Result<Vec<char>> {
    // Before any are written out: a pattern of few letters may stand for more than a memory holds.
    let fits = |count: usize| {
        check(
            "layers (number of letters)",
            count as f64,
            1.0..=most as f64,
        )
    };
    let mut groups = vec![Vec::new()]; // the pattern, and the brackets that are open in it
    let mut rest = pattern.chars().peekable();
    while let Some(next) = rest.next() {
        let item = match next {
            '(' => {
                groups.push(Vec::new());
                continue;
            }
            ')' if groups.len() > 1 => groups.pop().unwrap_or_default(),
            ')' => return Err(PatternFault::Bracket.of(pattern)),
            letter if MixerConfig::all().iter().any(|one| one.kind().0 == letter) => vec![letter],
            other => return Err(PatternFault::Unknown(other).of(pattern)),
        };
        let digits: String = std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).collect();
        let times = match digits.is_empty() {
            true => 1,
            false => digits.parse().unwrap_or(usize::MAX), // more digits than any number has
        };
        let group = groups.last_mut().expect("the pattern itself is not closed");
        let longer = item.len().saturating_mul(times);
        fits(group.len().saturating_add(longer).max(1))?;
        group.extend(item.repeat(times));
    }
    let whole = groups.swap_remove(0);
    match groups.is_empty() {
        true => fits(whole.len()).map(|()| whole),
        false => Err(PatternFault::Bracket.of(pattern)),
    }
}
