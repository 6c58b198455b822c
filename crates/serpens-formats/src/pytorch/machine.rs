//! The machine that pickles of protocols 0 to 5 run on. An operation takes no more memory, and no more time, than in
//! proportion to the bytes that ask for it and to what it takes off the stack.

use std::collections::HashMap;

use bumpalo::Bump;

use super::values::{Name, Value};
use crate::Fault;

/// The latest protocol.
const PROTOCOL: u8 = 5;

/// A pickle being run. What gives `None` cannot be done: the operation is not known, the pickle ends within it, or the
/// stack is not as it must be.
pub(super) struct Machine<'a> {
    pub(super) arena: &'a Bump,
    pub(super) pickle: &'a [u8],
    /// Where it is read next.
    at: usize,
    stack: Vec<Value<'a>>,
    /// The heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    /// Keys and values of dictionaries.
    pub(super) dicts: Vec<Vec<[Value<'a>; 2]>>,
    /// The first that was asked for and is not known.
    pub(super) unknown: Option<&'a Name<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs a pickle, whose result is on top then.
    pub(super) fn run(arena: &'a Bump, pickle: &'a [u8]) -> Result<Self, Fault> {
        let mut machine = Self {
            arena,
            pickle,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            dicts: Vec::new(),
            unknown: None,
        };
        loop {
            let at = machine.at;
            if machine.step().ok_or(Fault::Pickle(at))? {
                return Ok(machine);
            }
        }
    }

    /// Does an operation. Gives whether it was the last.
    fn step(&mut self) -> Option<bool> {
        let code = self.take(1)?[0];
        let items = self.operands(code)?;
        let made = match (code, &*items) {
            (b'.', _) => return self.top().map(|_| true),
            (0x80, _) if self.take(1)?[0] <= PROTOCOL => None,
            // The length of a frame is for those who do not have it all at hand.
            (0x95, _) => self.take(8).map(|_| None)?,
            // Elements of lists and sets, and what objects are told of themselves, are dropped.
            (b'0' | b'1' | b'a' | b'e' | 0x90, _) => None,
            (b'b', _) => self.top().map(|_| None)?,
            (b'(', _) => {
                self.marks.push(self.stack.len());
                None
            }
            (b'p' | b'q' | b'r' | 0x94, _) => {
                let key = self.key(code)?;
                self.memo.insert(key, self.top()?);
                None
            }
            (b'g' | b'h' | b'j', _) => Some(*self.key(code).and_then(|key| self.memo.get(&key))?),
            (b'2', _) => Some(self.top()?),
            (b'l' | 0x91, _) => Some(Value::Plain),
            (b't' | 0x85..=0x87, items) => Some(self.tuple(items)),
            (b'}', _) => Some(self.dict()),
            // Keys and values in turn, which only dictionaries hear.
            (b'd' | b's' | b'u', items) => {
                let made = (code == b'd').then(|| self.dict());
                let (pairs, []) = items.as_chunks() else {
                    return None;
                };
                if let Value::Dict(dict) = made.or_else(|| self.top())? {
                    self.dicts[dict].extend(pairs);
                }
                made
            }
            (b'c', _) => {
                let [module, name] = [self.line()?, self.line()?].map(str::from_utf8);
                Some(self.global(module.ok()?, name.ok()?))
            }
            (0x93, &[Value::Text(module), Value::Text(name)]) => Some(self.global(module, name)),
            (b'R' | 0x81, &[maker, arguments]) => Some(self.call(maker, arguments)?),
            (0x92, &[maker, arguments, _]) => Some(self.call(maker, arguments)?),
            (b'Q', &[name]) => Some(self.storage(name)),
            _ => Some(self.literal(code)?),
        };
        self.stack.extend(made);
        Some(false)
    }

    /// The value that an operation only has to push, if it is such a one. Bytes are taken for texts.
    fn literal(&mut self, code: u8) -> Option<Value<'a>> {
        Some(match code {
            b'N' | b']' | 0x88 | 0x89 | 0x8f => Value::Plain,
            b')' => Value::Tuple(&[], None),
            b'G' => self.take(8).map(|_| Value::Plain)?,
            b'F' | b'P' => self.line().map(|_| Value::Plain)?,
            b'K' => integer(self.take(1)?, false),
            b'M' => integer(self.take(2)?, false),
            b'J' => integer(self.take(4)?, true),
            0x8a => integer(self.counted(1)?, true),
            0x8b => integer(self.counted(4)?, true),
            b'I' | b'L' => {
                let digits = str::from_utf8(self.line()?).unwrap_or_default();
                let size = digits.trim_end_matches('L').parse();
                size.map_or(Value::Plain, Value::Int)
            }
            b'S' | b'V' => match text(self.line()?) {
                // What has escapes is the name of no tensor.
                Value::Text(line) if line.contains('\\') => Value::Plain,
                Value::Text(line) if code == b'S' => Value::Text(line.trim_matches(['\'', '"'])),
                other => other,
            },
            b'C' | b'U' | 0x8c => text(self.counted(1)?),
            b'B' | b'T' | b'X' => text(self.counted(4)?),
            0x8d | 0x8e | 0x96 => text(self.counted(8)?),
            _ => return None,
        })
    }

    /// What an operation takes off the stack: so many from the top, or all above the last mark, and the mark.
    fn operands(&mut self, code: u8) -> Option<Vec<Value<'a>>> {
        let count = match code {
            b'0' if self.top().is_none() => None,
            b'1' | b'd' | b'e' | b'l' | b't' | b'u' | 0x90 | 0x91 => None,
            b'0' | b'a' | b'b' | b'Q' | 0x85 => Some(1),
            b's' | b'R' | 0x81 | 0x86 | 0x93 => Some(2),
            0x87 | 0x92 => Some(3),
            _ => Some(0),
        };
        let lowest = self.marks.last().copied().unwrap_or(0);
        let height = match count {
            Some(count) => self.stack.len().checked_sub(count)?,
            None => self.marks.pop()?,
        };
        (height >= lowest).then(|| self.stack.drain(height..).collect())
    }

    /// The key of the memo that an operation names.
    fn key(&mut self, code: u8) -> Option<u64> {
        match code {
            0x94 => Some(self.memo.len() as u64),
            b'g' | b'p' => str::from_utf8(self.line()?).ok()?.parse().ok(),
            b'h' | b'q' => self.take(1).map(number),
            _ => self.take(4).map(number),
        }
    }

    /// The value on top, above the last mark.
    pub(super) fn top(&self) -> Option<Value<'a>> {
        let above = self.stack.len() > self.marks.last().copied().unwrap_or(0);
        self.stack.last().copied().filter(|_| above)
    }

    /// The next bytes.
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let taken = self.pickle[self.at..].get(..count.try_into().ok()?)?;
        self.at += taken.len();
        Some(taken)
    }

    /// Bytes, which their number of so many bytes precedes.
    fn counted(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let count = number(self.take(bytes)?);
        self.take(count)
    }

    /// A line without its end.
    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.pickle[self.at..]
            .iter()
            .position(|&byte| byte == b'\n')?;
        let line = self.take(end as u64);
        self.take(1).and(line)
    }
}

/// A little-endian number.
fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// A little-endian number with or without a sign, which no tensor has where it is below zero or beyond eight bytes.
fn integer(bytes: &[u8], has_sign: bool) -> Value<'_> {
    let is_negative = has_sign && bytes.last().is_some_and(|&highest| highest >= 0x80);
    let size = usize::try_from(number(bytes)).ok();
    let size = size.filter(|_| bytes.len() <= 8 && !is_negative);
    size.map_or(Value::Plain, Value::Int)
}

/// What is no UTF-8 (Python writes lone surrogates) is the name of no tensor.
fn text(bytes: &[u8]) -> Value<'_> {
    str::from_utf8(bytes).map_or(Value::Plain, Value::Text)
}
