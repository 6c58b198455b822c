//! The definition, one channel after the other: in f64 the truth, in f32 the yardstick.

use crate::lstm::LstmDims;
use crate::shared::tests::real::{Real, one, zero};

/// One recurrence on dense operands.
#[derive(Clone, Debug)]
pub struct Lstm<'a, R> {
    pub dims: LstmDims,
    /// (batch, length, 4 · width).
    pub gates: &'a [R],
    /// (4 · width, width).
    pub weight: &'a [R],
    /// (batch, width) before the first position.
    pub state: Option<[&'a [R]; 2]>,
    /// (batch, length).
    pub starts: Option<&'a [bool]>,
}

/// Of every position i, f, g, o, c and h, all (batch, length, width).
pub type Found<R> = [Vec<R>; 6];

fn sigmoid<R: Real>(x: R) -> R {
    one::<R>() / (one::<R>() + (-x).exp())
}

fn tanh<R: Real>(x: R) -> R {
    one::<R>() - R::from(2.0) / ((x + x).exp() + one())
}

impl<R: Real> Lstm<'_, R> {
    /// h (`which` 5) or c (4) before a position, of a channel.
    fn before(&self, found: &Found<R>, which: usize, b: usize, t: usize, c: usize) -> R {
        let LstmDims { length, width, .. } = self.dims;
        if self.starts.is_some_and(|starts| starts[b * length + t]) {
            return zero();
        }
        match (t, self.state) {
            (0, None) => zero(),
            (0, Some(state)) => state[5 - which][b * width + c],
            _ => found[which][(b * length + t - 1) * width + c],
        }
    }

    pub fn forward(&self) -> Found<R> {
        let LstmDims {
            batch,
            length,
            width,
        } = self.dims;
        let mut found = [(); 6].map(|()| vec![zero(); batch * length * width]);
        for b in 0..batch {
            for t in 0..length {
                let at = b * length + t;
                for channel in 0..width {
                    let sum = |gate: usize| {
                        let row = gate * width + channel;
                        let products = (0..width).map(|k| {
                            self.weight[row * width + k] * self.before(&found, 5, b, t, k)
                        });
                        self.gates[at * 4 * width + row] + products.sum::<R>()
                    };
                    let (i, f, g, o) = (
                        sigmoid(sum(0)),
                        sigmoid(sum(1)),
                        tanh(sum(2)),
                        sigmoid(sum(3)),
                    );
                    let c = f * self.before(&found, 4, b, t, channel) + i * g;
                    let values = [i, f, g, o, c, o * tanh(c)];
                    for (found, value) in found.iter_mut().zip(values) {
                        found[at * width + channel] = value;
                    }
                }
            }
        }
        found
    }

    /// The last h and c, (batch, width).
    pub fn last(&self, found: &Found<R>) -> [Vec<R>; 2] {
        let LstmDims {
            batch,
            length,
            width,
        } = self.dims;
        [5, 4].map(|which| {
            let at = |b: usize| ((b + 1) * length - 1) * width;
            let rows = (0..batch).map(|b| &found[which][at(b)..at(b) + width]);
            rows.flatten().copied().collect()
        })
    }

    /// The gradients of gates, weight, h and c from those of y, the last h and the last c.
    pub fn backward(&self, dy: &[R], dh: &[R], dc: &[R]) -> [Vec<R>; 4] {
        let LstmDims {
            batch,
            length,
            width,
        } = self.dims;
        let found = self.forward();
        let mut dgates = vec![zero(); self.gates.len()];
        let mut dweight = vec![zero(); self.weight.len()];
        let (mut to_h, mut to_c) = (dh.to_vec(), dc.to_vec());
        for b in 0..batch {
            let row = b * width..(b + 1) * width;
            for t in (0..length).rev() {
                let at = b * length + t;
                for channel in 0..width {
                    let here = at * width + channel;
                    let [i, f, g, o, c, _] = found.each_ref().map(|values| values[here]);
                    let (dh, th) = (to_h[row.start + channel] + dy[here], tanh(c));
                    let dc = to_c[row.start + channel] + dh * o * (one::<R>() - th * th);
                    let before = self.before(&found, 4, b, t, channel);
                    let slope = |x: R| x * (one::<R>() - x);
                    let of_gates = [
                        dc * g * slope(i),
                        dc * before * slope(f),
                        dc * i * (one::<R>() - g * g),
                        dh * th * slope(o),
                    ];
                    for (gate, gradient) in of_gates.into_iter().enumerate() {
                        dgates[at * 4 * width + gate * width + channel] = gradient;
                    }
                    to_c[row.start + channel] = dc * f;
                }
                let starts = self.starts.is_some_and(|starts| starts[at]);
                for k in 0..width {
                    let before = self.before(&found, 5, b, t, k);
                    let mut sum = zero();
                    for row in 0..4 * width {
                        let gradient = dgates[at * 4 * width + row];
                        dweight[row * width + k] += gradient * before;
                        sum += gradient * self.weight[row * width + k];
                    }
                    to_h[row.start + k] = if starts { zero() } else { sum };
                    if starts {
                        to_c[row.start + k] = zero();
                    }
                }
            }
        }
        [dgates, dweight, to_h, to_c]
    }
}
