//! Nucleotides: FASTA and FASTQ.

mod lines;
mod record;
mod regions;

use std::path::Path;

use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Take;
use crate::Tokenizer;
use crate::corpus::Asked;
use crate::error::{Error, Result};
use crate::files::Found;
use lines::Lines;
use record::Record;

/// What becomes of lower case, by which repeats are masked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LowerCase {
    /// It is upper case.
    #[default]
    Fold,
    /// Its letters are symbols of their own.
    Keep,
}

/// What becomes of letters that stand for several nucleotides, such as N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ambiguity {
    /// They are left out, and what stands between them is a record each.
    #[default]
    Split,
    /// Each is an N, a symbol of its own.
    Unknown,
}

/// How nucleotides are read.
///
/// What files are is seen by their first character, whatever they are called: FASTA begins with `>`, FASTQ with `@`.
/// The first word behind it is a record's name; several records may have the same. Letters are A, C, G and T, with U
/// read as T, in both cases; white space between them and records without letters are passed over. Memory does not
/// depend on how long records are. Of FASTQ a record is four lines, and the quality is not read but for its length.
///
/// A part of a record, between letters that split it or in a region, is a document called `name:FROM-TO`, counted from
/// 1 on, both included.
///
/// What is anything else is refused, with the file, the record and the line: other letters, as proteins and gaps have,
/// text before the first record, quality that is missing or of another length than the letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct DnaConfig {
    /// Nucleotides of a token.
    #[default = 1]
    pub kmer: usize,
    /// What becomes of lower case.
    pub lower_case: LowerCase,
    /// What becomes of letters that stand for several nucleotides.
    pub ambiguity: Ambiguity,
    /// A BED file: only its regions are read, those that overlap as one. Each line has a record's name, where the
    /// region begins, counted from 0 on, and where it ends, which is the first place behind it; what follows is passed
    /// over. Regions of records that are not there, or beyond their end, are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<String>,
}

impl DnaConfig {
    /// The records that regions are of.
    pub(super) fn asked(&self) -> Result<Asked> {
        let regions = self.regions.as_deref().map(regions::read).transpose()?;
        Ok(Asked::new(regions.unwrap_or_default().into_keys()))
    }

    /// Refuses regions of records that were not seen.
    pub(super) fn check(&self, asked: &Asked) -> Result<()> {
        asked.check(Path::new(self.regions.as_deref().unwrap_or_default()))
    }
}

/// Hands on the records of a file.
pub(super) fn read<E: From<Error>>(
    config: &DnaConfig,
    file: &Found,
    tokenizer: &Tokenizer,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let regions = config.regions.as_deref().map(regions::read).transpose()?;
    let mut lines = Lines::open(file)?;
    while lines.next()? {
        if lines.is_blank() {
            continue;
        }
        let record = Record::new(config, regions.as_ref(), file, tokenizer, take);
        return match lines.piece[0] {
            b'>' => fasta(lines, record),
            b'@' => fastq(lines, record),
            other => {
                let other = other.escape_ascii();
                let wrong = format!(
                    "it begins with `{other}`, but FASTA begins with `>` and FASTQ with `@`: give such a file"
                );
                Err(Error::of_content(&file.path, lines.place(), wrong).into())
            }
        };
    }
    Ok(())
}

/// Reads on from the first header.
fn fasta<E: From<Error>>(mut lines: Lines<'_>, mut record: Record<'_, '_, E>) -> Result<(), E> {
    let mut in_header = false;
    loop {
        if lines.begins {
            in_header = lines.piece[0] == b'>';
            if in_header {
                record.end()?;
            }
        }
        match in_header {
            true => record.header(&lines),
            false => record.letters(&lines)?,
        }
        if !lines.next()? {
            return record.end();
        }
    }
}

/// Reads on from the first header.
fn fastq<E: From<Error>>(mut lines: Lines<'_>, mut record: Record<'_, '_, E>) -> Result<(), E> {
    const HEADER: usize = 0;
    const LETTERS: usize = 1;
    const PLUS: usize = 2;
    const QUALITY: usize = 3;
    let (mut row, mut quality) = (QUALITY, 0);
    loop {
        let is_between = row == QUALITY && lines.begins && lines.is_blank();
        if lines.begins && !is_between {
            row = (row + 1) % 4;
            let sign = [b'@', 0, b'+', 0][row];
            if sign != 0 && lines.piece[0] != sign {
                let sign = char::from(sign);
                let wrong = format!(
                    "this line begins with no `{sign}`, but in FASTQ a record is four lines, with `@`, letters, `+` and quality: correct it"
                );
                return Err(record.wrong(&lines, wrong).into());
            }
        }
        match row {
            HEADER => record.header(&lines),
            LETTERS => record.letters(&lines)?,
            PLUS => quality = 0,
            _ if !is_between => {
                quality += lines.piece.trim_ascii_end().len() as u64;
                if lines.ends {
                    record.check_quality(&lines, quality)?;
                    record.end()?;
                }
            }
            _ => {}
        }
        if !lines.next()? {
            break;
        }
    }
    match row {
        QUALITY => Ok(()),
        _ => Err(record
            .wrong(&lines, "the file ends within this record: get it anew")
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::files::find;

    /// The name and the tokens of every stretch; blocks and pieces are short here.
    fn stretches(config: &DnaConfig, text: &str, tokenizer: &Tokenizer) -> Vec<(String, Vec<u32>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.fa");
        std::fs::write(&path, text).unwrap();
        let (mut all, mut blocks) = (Vec::new(), 0);
        let file = &find(path.to_str().unwrap()).unwrap()[0];
        read::<Error>(config, file, tokenizer, &mut |block| {
            assert_eq!(block.begins, blocks == 0);
            assert!(block.text().len() < 200);
            blocks = if block.ends { 0 } else { blocks + 1 };
            if block.begins {
                all.push((String::new(), Vec::new()));
            }
            let (name, ids) = all.last_mut().unwrap();
            *name = block.name.clone();
            ids.extend(tokenizer.encode(block.text())?);
            Ok(())
        })
        .unwrap();
        assert_eq!(blocks, 0);
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn stretches_have_the_tokens_of_their_letters_however_they_are_cut(
            letters in "([ACGT]{0,70}[ACGTNacgt]){1,9}", kmer in 1usize..6, line in 1usize..90, unknown in any::<bool>(),
        ) {
            let ambiguity = if unknown { Ambiguity::Unknown } else { Ambiguity::Split };
            let config = DnaConfig { kmer, ambiguity, ..DnaConfig::default() };
            let lines: Vec<&str> = letters.as_bytes().chunks(line).map(|line| str::from_utf8(line).unwrap()).collect();
            let text = format!(">a name\n{}\n>b\nAC", lines.join("\r\n"));
            let table = Tokenizer::dna(&config).unwrap();
            // The same symbols with a name that is no letter are found in another way.
            let folder = tempfile::tempdir().unwrap();
            let names: Vec<String> = (0..table.vocab_size() as u32).map(|id| table.token_text(id)).collect();
            let symbols = [names, vec!["<end>".to_owned()]].concat();
            let file = serde_json::json!({ "symbols": symbols, "fold": true });
            let path = folder.path().join("symbols.json");
            std::fs::write(&path, file.to_string()).unwrap();
            for tokenizer in [table, Tokenizer::open(&path).unwrap()] {
                let mut found = stretches(&config, &text, &tokenizer);
                prop_assert_eq!(found.pop().unwrap().0, "b");
                let upper = letters.to_uppercase();
                let parts = upper.split(|letter| letter == 'N' && !unknown).filter(|part| !part.is_empty());
                let expected: Vec<Vec<u32>> = parts.map(|part| tokenizer.encode(part.as_bytes()).unwrap()).collect();
                for (name, ids) in &found {
                    let Some(stretch) = name.strip_prefix("a:") else {
                        prop_assert!(name == "a" && found.len() == 1);
                        continue;
                    };
                    let [from, to] = [0, 1].map(|at| stretch.split('-').nth(at).unwrap().parse::<usize>().unwrap());
                    prop_assert_eq!(ids, &tokenizer.encode(&upper.as_bytes()[from - 1..to]).unwrap());
                }
                prop_assert_eq!(found.into_iter().map(|(_, ids)| ids).collect::<Vec<_>>(), expected);
            }
        }
    }
}
