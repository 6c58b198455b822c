//! The definition, in f64 the truth and in f32 the yardstick.

use crate::pooling::Pooling;
use crate::shared::tests::real::{Real, one, zero};

/// The share of each row in its sequence's, of sequences from each of `bounds` to the next.
pub fn shares<R: Real>(kind: Pooling, scores: &[R], bounds: &[usize]) -> Vec<R> {
    let of_sequence = |bounds: &[usize]| {
        let rows = bounds[0]..bounds[1];
        let n = rows.len();
        match kind {
            Pooling::Last => [vec![zero(); n - 1], vec![one()]].concat(),
            Pooling::Mean => vec![one::<R>() / R::from(n as f32); n],
            Pooling::Attention => {
                let scores = &scores[rows];
                let largest = |a: R, b: R| if b > a { b } else { a };
                let most = scores.iter().copied().fold(scores[0], largest);
                let powers: Vec<R> = scores.iter().map(|&score| (score - most).exp()).collect();
                let total: R = powers.iter().copied().sum();
                powers.into_iter().map(|power| power / total).collect()
            }
        }
    };
    bounds.windows(2).flat_map(of_sequence).collect()
}

/// y: (sequences, width).
pub fn forward<R: Real>(x: &[R], shares: &[R], bounds: &[usize], width: usize) -> Vec<R> {
    let of_sequence = |bounds: &[usize]| {
        let mut sum = vec![zero(); width];
        for row in bounds[0]..bounds[1] {
            for (c, sum) in sum.iter_mut().enumerate() {
                *sum += shares[row] * x[row * width + c];
            }
        }
        sum
    };
    bounds.windows(2).flat_map(of_sequence).collect()
}

/// The gradients of x and, where shares follow from them, of the scores.
pub fn backward<R: Real>(
    dy: &[R],
    x: &[R],
    shares: &[R],
    bounds: &[usize],
    width: usize,
) -> [Vec<R>; 2] {
    let y = forward(x, shares, bounds, width);
    let dot = |a: &[R], b: &[R]| a.iter().zip(b).map(|(&a, &b)| a * b).sum::<R>();
    let [mut dx, mut dscores] = [(); 2].map(|()| Vec::new());
    for (s, bounds) in bounds.windows(2).enumerate() {
        let [y, dy] = [&y, dy].map(|values| &values[s * width..(s + 1) * width]);
        for row in bounds[0]..bounds[1] {
            let (share, x) = (shares[row], &x[row * width..(row + 1) * width]);
            dx.extend(dy.iter().map(|&dy| share * dy));
            dscores.push(share * (dot(x, dy) - dot(y, dy)));
        }
    }
    [dx, dscores]
}
