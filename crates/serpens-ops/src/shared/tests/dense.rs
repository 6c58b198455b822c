//! Operands of the processor's kernels, and what their results are held against.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serpens_core::{Mat, MatMut};

/// `len` values uniform in [-2, 2), and the same in f64.
pub(crate) fn uniform(seed: u64, len: usize) -> (Vec<f32>, Vec<f64>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..len).map(|_| rng.random_range(-2.0..2.0)).collect();
    let exact = values.iter().map(|v| f64::from(*v)).collect();
    (values, exact)
}

/// The norm of the error of `a`.
pub(crate) fn distance(a: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(a.len(), exact.len());
    let squares = a
        .iter()
        .zip(exact)
        .map(|(a, e)| (f64::from(*a) - e).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Asserts that the norm of the error is at most twice that of the plain f32 evaluation of the same definition, or one
/// rounding where that happens to be exact; a norm of few values is left more room, since in them luck does not average
/// out.
pub(crate) fn assert_close(computed: &[f32], plain: &[f32], exact: &[f64]) {
    assert_close_sums(computed, plain, exact, exact);
}

/// As [`assert_close`], of sums whose terms have the magnitudes Σ|x|: one rounding is relative to these, since what a
/// sum that cancels has lost on the way does not shrink with its result.
pub(crate) fn assert_close_sums(
    computed: &[f32],
    plain: &[f32],
    exact: &[f64],
    magnitudes: &[f64],
) {
    assert_near_sums(computed, distance(plain, exact), exact, magnitudes);
}

/// As [`assert_close`], where the norm of the plain evaluation's error is known.
pub(crate) fn assert_near(computed: &[f32], plain_error: f64, exact: &[f64]) {
    assert_near_sums(computed, plain_error, exact, exact);
}

fn assert_near_sums(computed: &[f32], plain_error: f64, exact: &[f64], magnitudes: &[f64]) {
    let norm = magnitudes.iter().map(|m| m * m).sum::<f64>().sqrt();
    let luck = 1.0 + 8.0 / (exact.len().max(1) as f64).sqrt();
    let allowed = 2.0 * plain_error + luck * (1.0 + norm) * f64::from(f32::EPSILON);
    let error = distance(computed, exact);
    assert!(
        error <= allowed,
        "error {error:e}, allowed {allowed:e}, norm {norm:e}"
    );
}

/// The largest errors of the plain f32 evaluation over a case and a few that differ by tenths of a percent: `errors`
/// has those with the operands times a factor. Among few values a single evaluation may be exact by luck, where any
/// other order of its sums would not be.
pub(crate) fn largest_of_neighbours<const N: usize>(errors: impl Fn(f64) -> [f64; N]) -> [f64; N] {
    let mut largest = [0.0_f64; N];
    for step in 0..8 {
        for (largest, error) in largest
            .iter_mut()
            .zip(errors(1.0 + 0.001 * f64::from(step)))
        {
            *largest = largest.max(error);
        }
    }
    largest
}

/// Asserts that `gradient` is that of `f` at `at`, by central differences.
pub(crate) fn assert_gradient(gradient: &[f64], at: &[f64], f: impl Fn(&[f64]) -> f64) {
    let step = 1e-5;
    assert_eq!(gradient.len(), at.len());
    for i in 0..at.len() {
        let mut moved = at.to_vec();
        moved[i] = at[i] + step;
        let above = f(&moved);
        moved[i] = at[i] - step;
        let slope = (above - f(&moved)) / (2.0 * step);
        let error = (slope - gradient[i]).abs();
        assert!(
            error < 1e-7 * (1.0 + slope.abs()),
            "{i}: {} is not {slope}",
            gradient[i]
        );
    }
}

/// ⟨a, b⟩.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A matrix inside wider rows, whose margins must stay as they are.
pub(crate) struct Wide {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    margin: usize,
}

const UNTOUCHED: f32 = -77.0;

impl Wide {
    pub(crate) fn new(values: &[f32], rows: usize, cols: usize, margin: usize) -> Self {
        let mut wide = Self {
            data: vec![UNTOUCHED; rows * (cols + 2 * margin)],
            rows,
            cols,
            margin,
        };
        let mut mat = wide.mat_mut();
        (0..rows).for_each(|r| {
            mat.row(r)
                .copy_from_slice(&values[r * cols..(r + 1) * cols])
        });
        wide
    }

    /// Filled with what no kernel may leave behind.
    pub(crate) fn blank(rows: usize, cols: usize, margin: usize) -> Self {
        Self::new(&vec![f32::NAN; rows * cols], rows, cols, margin)
    }

    pub(crate) fn mat(&self) -> Mat<'_> {
        Mat::new(
            &self.data,
            self.rows,
            self.cols,
            self.cols + 2 * self.margin,
            self.margin,
        )
    }

    pub(crate) fn mat_mut(&mut self) -> MatMut<'_> {
        let stride = self.cols + 2 * self.margin;
        MatMut::new(&mut self.data, self.rows, self.cols, stride, self.margin)
    }

    /// The values without the margins.
    pub(crate) fn dense(&self) -> Vec<f32> {
        for row in self.data.chunks_exact((self.cols + 2 * self.margin).max(1)) {
            let (inside, right) = row.split_at(self.margin + self.cols);
            let margins = inside[..self.margin].iter().chain(right);
            assert!(
                margins.copied().all(|v| v == UNTOUCHED),
                "a kernel wrote beside its columns"
            );
        }
        (0..self.rows)
            .flat_map(|r| self.mat().row(r).to_vec())
            .collect()
    }
}

/// Asserts that one thread and three compute the same bits.
pub(crate) fn assert_same_bits_on_any_number_of_threads(f: impl Fn() -> Vec<f32> + Send + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(&f)
            .into_iter()
            .map(f32::to_bits)
            .collect::<Vec<_>>()
    };
    assert_eq!(on(1), on(3));
}
