//! A plain table: one token for each symbol, as of proteins or DNA.

use aho_corasick::{AhoCorasick, MatchKind};
use serde::Deserialize;
use serde_json::Value;

use super::{Kind, Loaded, Result, Token, TokenizerError};

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
    begin: Option<String>,
    end: Option<String>,
}

/// What a table makes of a text.
pub(super) struct Symbols {
    symbols: AhoCorasick,
    unknown: Option<u32>,
    skip: String,
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
        let longest = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&table.symbols);
        Ok(Loaded {
            tokens: table.symbols.iter().zip(0..).map(token).collect(),
            begin: ids(table.begin.as_slice())?,
            ends: ids(table.end.as_slice())?,
            cuts_lines: !table.symbols.iter().any(|symbol| symbol.contains('\n')),
            kind: Kind::Symbols(Self {
                symbols: longest.map_err(TokenizerError::broken)?,
                unknown: ids(table.unknown.as_slice())?.pop(),
                skip: table.skip,
            }),
            text,
            ..Loaded::default()
        })
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let (mut ids, mut done) = (Vec::with_capacity(text.len()), 0);
        let found = self.symbols.find_iter(text);
        let found = found.map(|symbol| (symbol.range(), Some(symbol.pattern().as_u32())));
        for (place, id) in found.chain([(text.len()..text.len(), None)]) {
            let between = text[done..place.start].chars();
            for other in between.filter(|&other| !self.skip.contains(other)) {
                ids.push(self.unknown.ok_or(TokenizerError::NoSymbol(other))?);
            }
            ids.extend(id);
            done = place.end;
        }
        Ok(ids)
    }
}
