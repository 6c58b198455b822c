//! The machine that pickles of protocols 0 to 5 run on. An operation takes no more memory, and no more time, than in
//! proportion to the bytes that ask for it and to what it takes off the stack.

use std::collections::HashMap;

use super::Fault;
use super::value::{Global, Id, Value};

/// The place of [`Value::Plain`], of which one is enough.
const PLAIN: Id = 0;
/// The latest protocol.
const PROTOCOL: u8 = 5;

/// A pickle being run. What gives `None` cannot be done: the operation is not known, the pickle ends within it, or the
/// stack is not as it must be.
#[derive(Default)]
pub(super) struct Machine<'a> {
    /// What is left of the pickle.
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    pub(super) stack: Vec<Id>,
    /// The heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// Runs a pickle. Gives all values that were made, and the place of the result.
    pub(super) fn run(pickle: &'a [u8]) -> Result<(Vec<Value<'a>>, Id), Fault> {
        let mut machine = Self {
            rest: pickle,
            values: vec![Value::Plain],
            ..Self::default()
        };
        loop {
            let at = pickle.len() - machine.rest.len();
            if let Some(result) = machine.step().ok_or(Fault::Pickle { at })? {
                return Ok((machine.values, result));
            }
        }
    }

    /// Does an operation; the last one gives the result.
    fn step(&mut self) -> Option<Option<Id>> {
        let code = self.take(1)?[0];
        let bytes = self.argument(code)?;
        if let Some(value) = literal(code, bytes) {
            self.push(value);
            return Some(None);
        }
        match code {
            b'.' => return self.pop().map(Some),
            0x80 if bytes[0] <= PROTOCOL => {}
            0x95 => {} // the length of a frame, for those who do not have it all at hand
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.top().is_none() => drop(self.marks.pop()?),
            // Elements of lists and sets, and what objects are told of themselves, are dropped.
            b'0' | b'a' => drop(self.pop()?),
            b'1' | b'e' | 0x90 => drop(self.pop_mark()?),
            b'b' => drop(self.pop().and(self.top())?),
            b'2' => self.stack.push(self.top()?),
            b'p' | b'q' | b'r' | 0x94 => {
                let (key, top) = (self.key(code, bytes)?, self.top()?);
                self.memo.insert(key, top);
            }
            b'g' | b'h' | b'j' => self.stack.push(*self.memo.get(&self.key(code, bytes)?)?),
            b'l' | 0x91 => {
                self.pop_mark()?;
                self.push(Value::Plain);
            }
            b't' | 0x85..=0x87 => {
                let items = match code {
                    b't' => self.pop_mark()?,
                    _ => self.pop_some(usize::from(code - 0x84))?,
                };
                self.push_tuple(items);
            }
            b'd' | b's' | b'u' => {
                let items = match code {
                    b's' => self.pop_some(2)?,
                    _ => self.pop_mark()?,
                };
                if code == b'd' {
                    self.push(Value::Dict(Vec::new()));
                }
                self.set(&items)?;
            }
            _ => self.ask(code, bytes)?,
        }
        Some(None)
    }

    /// What asks for something outside: names of Python's, calls, and storages.
    fn ask(&mut self, code: u8, bytes: &'a [u8]) -> Option<()> {
        match code {
            b'c' => {
                let [module, name] = [bytes, self.line()?].map(|line| str::from_utf8(line).ok());
                self.push_global(module?, name?);
            }
            0x93 => {
                let names = self.pop_some(2)?;
                match [names[0], names[1]].map(|name| self.value(name)) {
                    [&Value::Text(module), &Value::Text(name)] => self.push_global(module, name),
                    _ => return None,
                }
            }
            b'R' | 0x81 | 0x92 => {
                if code == 0x92 {
                    self.pop()?; // arguments by name
                }
                let asked = self.pop_some(2)?;
                self.call(asked[0], asked[1])?;
            }
            b'Q' => {
                let name = self.pop()?;
                self.push(self.storage(name).unwrap_or(Value::Plain));
            }
            _ => return None,
        }
        Some(())
    }

    /// What stands behind an operation's code, but for a second line.
    fn argument(&mut self, code: u8) -> Option<&'a [u8]> {
        match code {
            b'K' | b'q' | b'h' | 0x80 => self.take(1),
            b'M' => self.take(2),
            b'J' | b'r' | b'j' => self.take(4),
            b'G' | 0x95 => self.take(8),
            b'U' | b'C' | 0x8a | 0x8c => self.counted(1),
            b'T' | b'X' | b'B' | 0x8b => self.counted(4),
            0x8d | 0x8e | 0x96 => self.counted(8),
            b'F' | b'I' | b'L' | b'P' | b'S' | b'V' | b'c' | b'g' | b'p' => self.line(),
            _ => Some(&[]),
        }
    }

    /// The key of the memo that an operation names.
    fn key(&self, code: u8, bytes: &[u8]) -> Option<u64> {
        match code {
            0x94 => Some(self.memo.len() as u64),
            b'g' | b'p' => str::from_utf8(bytes).ok()?.parse().ok(),
            _ => Some(number(bytes)),
        }
    }

    /// Tells a dictionary keys and values in turn; anything else does not hear it.
    fn set(&mut self, items: &[Id]) -> Option<()> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return None;
        };
        let top = self.top()? as usize;
        if let Value::Dict(held) = &mut self.values[top] {
            held.extend(pairs);
        }
        Some(())
    }

    pub(super) fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    pub(super) fn push(&mut self, value: Value<'a>) {
        if matches!(value, Value::Plain) {
            return self.stack.push(PLAIN);
        }
        // There are no more values than a pickle has bytes, and it has 64 MiB at most.
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
    }

    fn push_tuple(&mut self, items: Vec<Id>) {
        let of_storage = items.iter().find_map(|&item| self.of_storage(item));
        self.push(Value::Tuple(items.into(), of_storage));
    }

    fn push_global(&mut self, module: &'a str, name: &'a str) {
        self.push(Value::Global(Box::new(Global { module, name })));
    }

    /// The value on top, above the last mark.
    fn top(&self) -> Option<Id> {
        let above = self.stack.len() > self.marks.last().copied().unwrap_or(0);
        self.stack.last().copied().filter(|_| above)
    }

    fn pop(&mut self) -> Option<Id> {
        self.top()?;
        self.stack.pop()
    }

    /// So many from the top, above the last mark.
    fn pop_some(&mut self, count: usize) -> Option<Vec<Id>> {
        let height = self.stack.len().checked_sub(count)?;
        let above = height >= self.marks.last().copied().unwrap_or(0);
        above.then(|| self.stack.drain(height..).collect())
    }

    /// All above the last mark, and the mark.
    fn pop_mark(&mut self) -> Option<Vec<Id>> {
        let height = self.marks.pop()?;
        Some(self.stack.drain(height..).collect())
    }

    /// The next bytes.
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count.try_into().ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    /// Bytes, which their number of so many bytes precedes.
    fn counted(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let count = number(self.take(bytes)?);
        self.take(count)
    }

    /// A line without its end.
    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&byte| byte == b'\n')?;
        self.take(end as u64 + 1)?
            .split_last()
            .map(|(_, line)| line)
    }
}

/// The value that an operation only has to push, if it is such a one.
fn literal(code: u8, bytes: &[u8]) -> Option<Value<'_>> {
    let text = |bytes| str::from_utf8(bytes).ok();
    let is_plain = |line: &&str| !line.contains('\\');
    // What is no UTF-8 (Python writes lone surrogates), and lines that have escapes, are names of no tensor.
    let value = match code {
        b'N' | b'F' | b'G' | b'B' | b'C' | b'P' | b']' => None,
        0x88 | 0x89 | 0x8e | 0x8f | 0x96 => None,
        b')' => Some(Value::Tuple(Box::default(), None)),
        b'}' => Some(Value::Dict(Vec::new())),
        b'K' | b'M' => Some(Value::Int(number(bytes) as i64)),
        b'J' | 0x8a | 0x8b => integer(bytes).map(Value::Int),
        b'I' | b'L' => {
            let digits = text(bytes).map(|line| line.trim_end_matches('L').parse());
            digits.and_then(Result::ok).map(Value::Int)
        }
        b'T' | b'U' | b'X' | 0x8c | 0x8d => text(bytes).map(Value::Text),
        b'V' => text(bytes).filter(is_plain).map(Value::Text),
        b'S' => text(bytes)
            .filter(is_plain)
            .map(|line| Value::Text(line.trim_matches(['\'', '"']))),
        _ => return None,
    };
    Some(value.unwrap_or(Value::Plain))
}

/// A little-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// A little-endian number with a sign, unless it is larger than a tensor's are.
fn integer(bytes: &[u8]) -> Option<i64> {
    let unused = 64_u32.checked_sub(8 * u32::try_from(bytes.len()).ok()?)?;
    let shifted = number(bytes).checked_shl(unused).unwrap_or(0) as i64;
    Some(shifted.checked_shr(unused).unwrap_or(0))
}
