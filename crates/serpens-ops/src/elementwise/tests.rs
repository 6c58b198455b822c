//! The kernels against the definitions, and what the tests of the row-wise operations share.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serpens_core::{Mat, MatMut, bf16};

use super::{cpu, reference};

/// `len` values uniform in [-2, 2), and the same in f64.
pub(crate) fn values(seed: u64, len: usize) -> (Vec<f32>, Vec<f64>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..len).map(|_| rng.random_range(-2.0..2.0)).collect();
    let exact = values.iter().map(|v| f64::from(*v)).collect();
    (values, exact)
}

fn distance(a: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(a.len(), exact.len());
    let squares = a
        .iter()
        .zip(exact)
        .map(|(a, e)| (f64::from(*a) - e).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Asserts that the norm of the error is at most twice that of the plain f32 evaluation of the same definition, or one rounding
/// where that happens to be exact; a norm of few values is left more room, since in them luck does not average out.
pub(crate) fn assert_close(computed: &[f32], plain: &[f32], exact: &[f64]) {
    let norm = exact.iter().map(|e| e * e).sum::<f64>().sqrt();
    let luck = 1.0 + 8.0 / (exact.len().max(1) as f64).sqrt();
    let allowed = 2.0 * distance(plain, exact) + luck * (1.0 + norm) * f64::from(f32::EPSILON);
    let error = distance(computed, exact);
    assert!(
        error <= allowed,
        "error {error:e}, allowed {allowed:e}, norm {norm:e}"
    );
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

/// The output of a kernel of one input on a matrix with margins.
fn unary(
    x: &[f32],
    (rows, cols, margin): (usize, usize, usize),
    f: impl Fn(Mat, MatMut),
) -> Vec<f32> {
    let mut y = Wide::blank(rows, cols, margin);
    f(Wide::new(x, rows, cols, margin).mat(), y.mat_mut());
    y.dense()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn maps_of_one_matrix_agree_with_their_definitions(rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, seed: u64) {
        let (x, exact) = values(seed, rows * cols);
        let shape = (rows, cols, margin);
        let check = |kernel: fn(Mat, MatMut), plain: fn(f32) -> f32, truth: fn(f64) -> f64| {
            let plain: Vec<f32> = x.iter().copied().map(plain).collect();
            let truth: Vec<f64> = exact.iter().copied().map(truth).collect();
            assert_close(&unary(&x, shape, kernel), &plain, &truth);
        };
        check(cpu::silu, reference::silu, reference::silu);
        check(cpu::exp, f32::exp, f64::exp);
        check(cpu::neg_exp, |x| -x.exp(), |x| -x.exp());
        check(|x, y| cpu::scale(x, 0.3, y), |x| x * 0.3, |x| x * f64::from(0.3_f32));
    }

    #[test]
    fn maps_of_two_matrices_agree_with_their_definitions(rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, seed: u64) {
        let len = rows * cols;
        let ((a, exact_a), (b, exact_b)) = (values(seed, len), values(seed ^ 1, len));
        let (wide_a, wide_b) = (Wide::new(&a, rows, cols, margin), Wide::new(&b, rows, cols, 1));
        let check = |kernel: fn(Mat, Mat, MatMut), plain: fn(f32, f32) -> f32, truth: fn(f64, f64) -> f64| {
            let mut y = Wide::blank(rows, cols, margin);
            kernel(wide_a.mat(), wide_b.mat(), y.mat_mut());
            let plain: Vec<f32> = (0..len).map(|i| plain(a[i], b[i])).collect();
            let truth: Vec<f64> = (0..len).map(|i| truth(exact_a[i], exact_b[i])).collect();
            assert_close(&y.dense(), &plain, &truth);
        };
        check(cpu::add, |a, b| a + b, |a, b| a + b);
        check(cpu::mul, |a, b| a * b, |a, b| a * b);
        check(cpu::silu_mul, |a, z| a * reference::silu(z), |a, z| a * reference::silu(z));
        check(cpu::silu_backward, |dy, x| dy * reference::silu_slope(x), |dy, x| dy * reference::silu_slope(x));

        let mut y = Wide::new(&b, rows, cols, margin);
        cpu::add_scaled(wide_a.mat(), 0.5, y.mat_mut());
        let plain: Vec<f32> = (0..len).map(|i| b[i] + 0.5 * a[i]).collect();
        let truth: Vec<f64> = (0..len).map(|i| exact_b[i] + 0.5 * exact_a[i]).collect();
        assert_close(&y.dense(), &plain, &truth);
    }

    #[test]
    fn gradients_of_products_agree_with_their_definitions(rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, seed: u64) {
        let len = rows * cols;
        let (dy, exact_dy) = values(seed, len);
        let ((a, exact_a), (z, exact_z)) = (values(seed ^ 1, len), values(seed ^ 2, len));
        let wide = [&dy, &a, &z].map(|m| Wide::new(m, rows, cols, margin));
        let (mut da, mut dz) = (Wide::blank(rows, cols, margin), Wide::blank(rows, cols, 2));

        cpu::silu_mul_backward(wide[0].mat(), wide[1].mat(), wide[2].mat(), da.mat_mut(), dz.mat_mut());
        let plain = reference::silu_mul_backward(&dy, &a, &z);
        let truth = reference::silu_mul_backward(&exact_dy, &exact_a, &exact_z);
        assert_close(&da.dense(), &plain.0, &truth.0);
        assert_close(&dz.dense(), &plain.1, &truth.1);

        cpu::mul_backward(wide[0].mat(), wide[1].mat(), wide[2].mat(), da.mat_mut(), dz.mat_mut());
        for i in 0..len {
            prop_assert_eq!((da.dense()[i], dz.dense()[i]), (dy[i] * z[i], dy[i] * a[i]));
        }
    }

    #[test]
    fn sums_over_rows_agree_with_the_definition(rows in 0usize..200, cols in 1usize..40, margin in 0usize..3, seed: u64) {
        let (x, exact) = values(seed, rows * cols);
        let mut out = vec![3.0; cols];
        cpu::sum_rows(Wide::new(&x, rows, cols, margin).mat(), &mut out, false);
        let (plain, truth) = (reference::sum_rows(&x, cols), reference::sum_rows(&exact, cols));
        assert_close(&out, &plain, &truth);
        let mut twice = out.clone();
        cpu::sum_rows(Wide::new(&x, rows, cols, margin).mat(), &mut twice, true);
        let doubled: Vec<f64> = truth.iter().map(|t| 2.0 * t).collect();
        let plain: Vec<f32> = plain.iter().map(|p| 2.0 * p).collect();
        assert_close(&twice, &plain, &doubled);
    }
}

#[test]
fn conversions_round_to_the_nearest_of_two_the_even_one() {
    let (x, exact) = values(4, 60);
    let mut narrow = vec![bf16::ZERO; 60];
    cpu::to_bf16(Wide::new(&x, 5, 12, 2).mat(), &mut narrow);
    let mut back = vec![0.0; 60];
    cpu::to_f32(&narrow, &mut back);
    for (back, exact) in back.iter().zip(&exact) {
        // 8 bits of significand: half a unit of the last is 2^-9 of the power of two below the value.
        let half_unit = 2.0_f64.powi(exact.abs().log2().floor() as i32 - 8);
        assert!((f64::from(*back) - exact).abs() <= half_unit, "{exact}");
    }
    let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
    let mut rounded = [bf16::ZERO; 2];
    cpu::to_bf16(Mat::dense(&ties, 2), &mut rounded);
    assert_eq!(rounded.map(|v| v.to_f64()), [1.0, 1.0 + 4.0 / 256.0]);
}

#[test]
fn slopes_are_those_of_finite_differences() {
    let ((_, a), (_, z), (_, dy)) = (values(1, 12), values(2, 12), values(3, 12));
    let (da, dz) = reference::silu_mul_backward(&dy, &a, &z);
    assert_gradient(&da, &a, |a| dot(&dy, &reference::silu_mul(a, &z)));
    assert_gradient(&dz, &z, |z| dot(&dy, &reference::silu_mul(&a, z)));
    let slopes: Vec<f64> = z.iter().map(|z| reference::silu_slope(*z)).collect();
    assert_gradient(&slopes, &z, |z| z.iter().map(|z| reference::silu(*z)).sum());
}

#[test]
fn large_matrices_have_the_same_bits_on_any_number_of_threads() {
    let (rows, cols) = (1000, 67);
    let ((a, _), (z, _)) = (values(1, rows * cols), values(2, rows * cols));
    assert_same_bits_on_any_number_of_threads(|| {
        let mut out = vec![0.0; cols];
        cpu::sum_rows(Mat::dense(&a, cols), &mut out, false);
        for margin in [0, 5] {
            let mut y = Wide::blank(rows, cols, margin);
            let (a, z) = (
                Wide::new(&a, rows, cols, margin),
                Wide::new(&z, rows, cols, margin),
            );
            cpu::silu_mul(a.mat(), z.mat(), y.mat_mut());
            out.extend(y.dense());
        }
        out
    });
}
