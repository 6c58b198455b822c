//! A plain table: one token for each symbol, as of proteins or DNA.

mod letters;

use aho_corasick::{AhoCorasick, Match, MatchKind};
use serde::Deserialize;
use serde_json::Value;

use super::{Kind, Loaded, Result, Token, TokenizerError};
use letters::Letters;

/// The file `symbols.json`, which [`Tokenizer::open`](super::Tokenizer::open) describes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    symbols: Vec<String>,
    #[serde(default)]
    special: Vec<String>,
    unknown: Option<String>,
    #[serde(default)]
    skip: String,
    #[serde(default)]
    fold: bool,
    begin: Option<String>,
    end: Option<String>,
}

/// What a table makes of a text.
pub(super) struct Symbols {
    find: Find,
    unknown: Option<u32>,
    skip: String,
}

/// How symbols are found.
enum Find {
    Letters(Box<Letters>),
    /// By their names, the longest of which has so many bytes.
    Longest(AhoCorasick, usize),
}

impl Symbols {
    /// Reads the file's content.
    pub(super) fn read(file: Value) -> Result<Loaded> {
        let text = format!("{file:#}");
        let table: Table = serde_json::from_value(file).map_err(TokenizerError::broken)?;
        let id = |name: &String| {
            let at = table.symbols.iter().position(|symbol| symbol == name);
            at.map(|at| at as u32)
                .ok_or_else(|| TokenizerError::broken(format!("{name:?} is not among its symbols")))
        };
        let ids = |names: &[String]| names.iter().map(id).collect::<Result<Vec<u32>>>();
        if let Some(id) = table.symbols.iter().position(String::is_empty) {
            return Err(TokenizerError::broken(format!("its symbol {id} is empty")));
        }
        let special = ids(&table.special)?;
        let token = |(symbol, id): (&String, u32)| Token {
            bytes: symbol.as_bytes().into(),
            special: special.contains(&id),
        };
        let find = match Letters::of(&table.symbols, table.fold) {
            Some(letters) => Find::Letters(letters.into()),
            None => {
                let longest = AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .ascii_case_insensitive(table.fold)
                    .build(&table.symbols);
                let bytes = table.symbols.iter().map(String::len).max();
                Find::Longest(longest.map_err(TokenizerError::broken)?, bytes.unwrap_or(0))
            }
        };
        Ok(Loaded {
            tokens: table.symbols.iter().zip(0..).map(token).collect(),
            begin: ids(table.begin.as_slice())?,
            ends: ids(table.end.as_slice())?,
            cuts_lines: !table.symbols.iter().any(|symbol| symbol.contains('\n')),
            kind: Kind::Symbols(Self {
                find,
                unknown: ids(table.unknown.as_slice())?.pop(),
                skip: table.skip,
            }),
            text,
            ..Loaded::default()
        })
    }

    /// Whether a text is encoded sooner than it is cut.
    pub(super) fn are_quick(&self) -> bool {
        matches!(self.find, Find::Letters(_))
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let (mut ids, mut done) = (Vec::with_capacity(text.len()), 0);
        let longest = match &self.find {
            Find::Letters(letters) => {
                while letters.encode(text.as_bytes(), &mut done, &mut ids) {
                    let other = text[done..].chars().next().expect("there is one");
                    ids.extend(self.other(other)?);
                    done += other.len_utf8();
                }
                return Ok(ids);
            }
            Find::Longest(longest, _) => longest,
        };
        let found = longest.find_iter(text);
        let found = found.map(|symbol| (symbol.range(), Some(symbol.pattern().as_u32())));
        for (place, id) in found.chain([(text.len()..text.len(), None)]) {
            for other in text[done..place.start].chars() {
                ids.extend(self.other(other)?);
            }
            ids.extend(id);
            done = place.end;
        }
        Ok(ids)
    }

    /// What becomes of a character that begins no symbol.
    fn other(&self, other: char) -> Result<Option<u32>> {
        match self.skip.contains(other) {
            true => Ok(None),
            false => Ok(Some(self.unknown.ok_or(TokenizerError::NoSymbol(other))?)),
        }
    }

    /// A late place, but not the end, where a text that goes on may be cut with the same tokens.
    pub(super) fn last_cut(&self, text: &[u8]) -> Option<usize> {
        match &self.find {
            Find::Letters(letters) => letters.last_cut(text),
            Find::Longest(longest, bytes) => {
                // Of these symbols it is certain that they are not longer.
                let certain = |symbol: &Match| symbol.start() + bytes < text.len();
                let symbols = longest.find_iter(text).take_while(certain);
                symbols.last().map(|symbol| symbol.end())
            }
        }
    }
}
