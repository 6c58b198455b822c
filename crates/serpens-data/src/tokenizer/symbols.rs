//! A plain table: one token for each symbol, as of proteins or DNA.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::{Kind, Loaded, Token, TokenizerError};

/// The file `symbols.json`, which [`Tokenizer::open`](super::Tokenizer::open) describes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Symbols {
    symbols: Vec<String>,
    #[serde(default)]
    special: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    #[serde(default)]
    skip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    begin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    /// Of each first byte, the ids of the symbols that begin with it, the longest first.
    #[serde(skip)]
    by_first: Vec<Vec<u32>>,
}

impl Symbols {
    /// Reads the file's text.
    pub(super) fn read(text: &str) -> Result<Loaded, TokenizerError> {
        let mut table: Self = serde_json::from_str(text).map_err(TokenizerError::broken)?;
        let id = |name: &String| {
            let at = table.symbols.iter().position(|symbol| symbol == name);
            at.map(|at| at as u32)
                .ok_or_else(|| TokenizerError::broken(format!("{name:?} is not among its symbols")))
        };
        let ids = |names: &[String]| names.iter().map(id).collect::<Result<Vec<u32>, _>>();
        let special = ids(&table.special)?;
        let begin = ids(table.begin.as_slice())?;
        let ends = ids(table.end.as_slice())?;
        ids(table.unknown.as_slice())?;
        let mut by_first = vec![Vec::new(); 256];
        for (id, symbol) in table.symbols.iter().enumerate() {
            let Some(first) = symbol.bytes().next() else {
                return Err(TokenizerError::broken(format!("its symbol {id} is empty")));
            };
            by_first[usize::from(first)].push(id as u32);
        }
        for ids in &mut by_first {
            ids.sort_by_key(|&id| Reverse(table.symbols[id as usize].len()));
        }
        let token = |(id, symbol): (usize, &String)| Token {
            bytes: symbol.as_bytes().into(),
            special: special.contains(&(id as u32)),
        };
        let tokens = table.symbols.iter().enumerate().map(token).collect();
        table.by_first = by_first;
        let kind = Kind::Symbols(table);
        Ok(Loaded {
            kind,
            tokens,
            begin,
            ends,
        })
    }

    /// The file's text.
    pub(super) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a table of texts")
    }

    /// Whether a text may be cut before an end of line: no symbol reaches across one.
    pub(super) fn cuts_lines(&self) -> bool {
        !self.symbols.iter().any(|symbol| symbol.contains('\n'))
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let unknown = self.unknown.as_ref();
        let unknown = unknown
            .and_then(|name| self.longest(name))
            .map(|(id, _)| id);
        let (mut ids, mut rest) = (Vec::with_capacity(text.len()), text);
        while let Some(next) = rest.chars().next() {
            let (id, length) = match self.longest(rest) {
                Some((id, length)) => (Some(id), length),
                None if self.skip.contains(next) => (None, next.len_utf8()),
                None if unknown.is_some() => (unknown, next.len_utf8()),
                None => return Err(TokenizerError::NoSymbol(next)),
            };
            ids.extend(id);
            rest = &rest[length..];
        }
        Ok(ids)
    }

    /// The longest symbol that the text begins with, and its bytes.
    fn longest(&self, text: &str) -> Option<(u32, usize)> {
        let first = usize::from(*text.as_bytes().first()?);
        let mut ids = self.by_first[first].iter();
        let id = *ids.find(|&&id| text.starts_with(&self.symbols[id as usize]))?;
        Some((id, self.symbols[id as usize].len()))
    }
}
