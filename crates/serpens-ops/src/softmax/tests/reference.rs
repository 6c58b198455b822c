//! The definitions, plain loops over the rows of dense (rows, cols) matrices: in f64 the truth, in f32 the yardstick of
//! a kernel's error.

use crate::shared::tests::real::{Real, zero};
use crate::softmax::Form;

/// The row's values less their maximum, and the sum of their powers.
fn shifted<R: Real>(row: &[R]) -> (Vec<R>, R) {
    let max = row.iter().fold(row[0], |m, &x| if x > m { x } else { m });
    let above: Vec<R> = row.iter().map(|&x| x - max).collect();
    let mut sum = zero();
    for x in &above {
        sum += x.exp();
    }
    (above, sum)
}

/// The softmax of each row or its logarithm.
pub fn forward<R: Real>(form: Form, x: &[R], cols: usize) -> Vec<R> {
    let of_row = |row: &[R]| {
        let (above, sum) = shifted(row);
        let log = R::from_f64(sum.into().ln());
        let value = move |x: R| match form {
            Form::Softmax => x.exp() / sum,
            Form::LogSoftmax => x - log,
        };
        above.into_iter().map(value).collect::<Vec<R>>()
    };
    x.chunks_exact(cols).flat_map(of_row).collect()
}

/// The gradient of x.
pub fn backward<R: Real>(form: Form, x: &[R], dy: &[R], cols: usize) -> Vec<R> {
    let of_row = |(x, dy): (&[R], &[R])| {
        let p = forward(Form::Softmax, x, cols);
        let mut total = zero();
        for (&p, &dy) in p.iter().zip(dy) {
            total += if form == Form::Softmax { p * dy } else { dy };
        }
        let slope = |(&p, &dy): (&R, &R)| match form {
            Form::Softmax => p * (dy - total),
            Form::LogSoftmax => dy - p * total,
        };
        p.iter().zip(dy).map(slope).collect::<Vec<R>>()
    };
    let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols));
    rows.flat_map(of_row).collect()
}
