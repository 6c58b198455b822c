//! Rows of x as integers of eight bits, in the order that the products of a panel read them.
//!
//! 32 columns of R rows together, each number for all R rows beside each other: the scale d in f32, two numbers that a
//! kind of blocks asks for, and the 32 integers, four to a word.

/// Columns with a scale of their own.
pub(super) const COLUMNS: usize = 32;

/// Words for that many columns of one row.
pub(super) const WORDS: usize = 3 + COLUMNS / 4;

/// What a kind of blocks asks for besides, of the scale and the sums of the integers of either half.
pub(super) type Correction = fn(f32, [i32; 2]) -> [u32; 2];

/// R rows of whole columns as they are read; `to`: [`WORDS`] for each [`COLUMNS`] of each row.
#[inline(always)]
pub(super) fn quantize<const R: usize>(x: [&[f32]; R], to: &mut [u32], correction: Correction) {
    let all = to.chunks_exact_mut(WORDS * R).enumerate();
    for (i, to) in all {
        for r in 0..R {
            let x: &[f32; COLUMNS] = x[r].as_chunks().0[i..].first().expect("whole columns");
            let (d, q) = integers(x);
            let mut sums = [0; 2];
            for (i, q) in q.iter().enumerate() {
                sums[i / (COLUMNS / 2)] += i32::from(*q);
            }
            to[r] = d.to_bits();
            [to[R + r], to[2 * R + r]] = correction(d, sums);
            for (i, &[a, b, c, d]) in q.as_chunks().0.iter().enumerate() {
                to[(3 + i) * R + r] = u32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]);
            }
        }
    }
}

/// d = max|x| / 127 and the integers nearest to x / d, halves to even. NaN and zeros where a value is not finite, zeros
/// where all are too small to divide by.
#[inline(always)]
fn integers(x: &[f32; COLUMNS]) -> (f32, [i8; COLUMNS]) {
    // Added to a small number, it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    // Magnitudes are ordered as the integers with their bits.
    let bits = x.iter().map(|x| x.to_bits() & 0x7fff_ffff);
    let largest = f32::from_bits(bits.fold(0, u32::max));
    let inverse = 127.0 / largest;
    match (largest.is_finite(), inverse.is_finite()) {
        (false, _) => (f32::NAN, [0; COLUMNS]),
        (_, false) => (0.0, [0; COLUMNS]),
        _ => {
            let mut q = [0; COLUMNS];
            for (q, x) in q.iter_mut().zip(x) {
                *q = (x * inverse + ROUND).to_bits() as i8;
            }
            (largest / 127.0, q)
        }
    }
}

/// R rows as [`quantize`] has left them.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, const R: usize>(&'a [[u32; R]]);

impl<'a, const R: usize> Rows<'a, R> {
    #[inline(always)]
    pub(super) fn new(words: &'a [u32]) -> Self {
        Self(words.as_chunks().0)
    }

    /// The `i`-th of columns with a scale of their own.
    #[inline(always)]
    pub(super) fn columns(self, i: usize) -> Columns<'a, R> {
        let numbers = &self.0[i * WORDS..(i + 1) * WORDS];
        Columns(numbers.try_into().expect("as many"))
    }
}

/// [`COLUMNS`] of R rows.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a, const R: usize>(&'a [[u32; R]; WORDS]);

impl<const R: usize> Columns<'_, R> {
    /// The scale of row `r`.
    #[inline(always)]
    pub(super) fn d(self, r: usize) -> f32 {
        f32::from_bits(self.0[0][r])
    }

    /// The `i`-th of what the kind of blocks asked for of row `r`.
    #[inline(always)]
    pub(super) fn correction(self, i: usize, r: usize) -> u32 {
        self.0[1 + i][r]
    }

    /// The integers of the columns 4 `i`.. of row `r`.
    #[inline(always)]
    pub(super) fn four(self, i: usize, r: usize) -> u32 {
        self.0[3 + i][r]
    }
}
