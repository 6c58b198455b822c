//! Weighted cross-entropy on the processor: lanes over the classes, threads over rows.

use crate::cross_entropy::cpu::{self, IGNORE, Totals, assert_shapes, split};
use crate::simd::{Simd, WithSimd, dispatch, exp, load, store};

/// How classes count.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    weights: &'a [f32],
    /// Σ_c w_c.
    sum: f64,
    /// 1 − ε, and ε/C.
    own: f64,
    spread: f64,
}

impl<'a> Classes<'a> {
    /// Those with these weights, of which `smoothing` of every target goes to all alike.
    pub fn new(weights: &'a [f32], smoothing: f32) -> Self {
        let smoothing = f64::from(smoothing);
        Self {
            weights,
            sum: weights.iter().map(|&weight| f64::from(weight)).sum(),
            own: 1.0 - smoothing,
            spread: smoothing / weights.len() as f64,
        }
    }
}

/// What a forward pass says about its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// What it says without weights and smoothing.
    pub totals: Totals,
    /// Σ_r Σ_c q_rc (lse_r − x_rc), in nats.
    pub loss: f64,
    /// Σ_r w_t(r).
    pub weight: f64,
}

impl Sums {
    /// The loss of all rows; 0 where they weigh nothing.
    pub fn mean(&self) -> f64 {
        if self.weight == 0.0 {
            0.0
        } else {
            self.loss / self.weight
        }
    }
}

/// The sums over the rows of `logits` `(rows, classes)` against `targets` `(rows)`, and `norms` `(rows)` as those of
/// [`cross_entropy`](cpu::forward).
///
/// # Panics
/// As that one.
pub fn forward(logits: &[f32], targets: &[u32], classes: Classes, norms: &mut [[f32; 2]]) -> Sums {
    let columns = classes.weights.len();
    let Some(half) = split(targets.len(), columns) else {
        let totals = cpu::forward(logits, targets, columns, norms);
        return weigh(logits, targets, classes, norms, totals);
    };
    let (logits, other_logits) = logits.split_at(half * columns);
    let (targets, other_targets) = targets.split_at(half);
    let (norms, other_norms) = norms.split_at_mut(half);
    let (a, b) = rayon::join(
        || forward(logits, targets, classes, norms),
        || forward(other_logits, other_targets, classes, other_norms),
    );
    Sums {
        totals: a.totals.merge(b.totals),
        loss: a.loss + b.loss,
        weight: a.weight + b.weight,
    }
}

/// The sums over one block of rows, whose norms and totals are known.
fn weigh(
    logits: &[f32],
    targets: &[u32],
    classes: Classes,
    norms: &[[f32; 2]],
    totals: Totals,
) -> Sums {
    let weights = classes.weights;
    let [mut loss, mut of_all] = [0.0; 2];
    for (r, (&target, norm)) in targets.iter().zip(norms).enumerate() {
        if target == IGNORE {
            continue;
        }
        let row = &logits[r * weights.len()..][..weights.len()];
        let [max, sum] = norm.map(f64::from);
        let rest = sum.ln();
        // What weighs nothing is left out: it may be as far below the others as −∞.
        let term = |x: f32, weight: f32| match weight {
            0.0 => 0.0,
            _ => f64::from(weight) * (max - f64::from(x) + rest),
        };
        let target = target as usize;
        of_all += f64::from(weights[target]);
        loss += classes.own * term(row[target], weights[target]);
        if classes.spread > 0.0 {
            let terms = row.iter().zip(weights).map(|(&x, &weight)| term(x, weight));
            loss += classes.spread * terms.sum::<f64>();
        }
    }
    Sums {
        totals,
        loss,
        weight: of_all,
    }
}

/// Turns `logits` `(rows, classes)` into `scale` · ∂(Σ_r Σ_c q_rc (lse_r − x_rc))/∂logits in place, given the `norms`
/// `(rows)` of [`forward`]. With `scale` = upstream / W this is the gradient of the loss.
///
/// # Panics
/// Like [`forward`].
pub fn backward(
    logits: &mut [f32],
    targets: &[u32],
    classes: Classes,
    norms: &[[f32; 2]],
    scale: f32,
) {
    let columns = classes.weights.len();
    let Some(half) = split(targets.len(), columns) else {
        assert_shapes(logits.len(), targets, columns, norms.len());
        return dispatch(Backward {
            logits,
            targets,
            classes,
            norms,
            scale,
        });
    };
    let (logits, other_logits) = logits.split_at_mut(half * columns);
    let (targets, other_targets) = targets.split_at(half);
    let (norms, other_norms) = norms.split_at(half);
    rayon::join(
        || backward(logits, targets, classes, norms, scale),
        || backward(other_logits, other_targets, classes, other_norms, scale),
    );
}

/// [`backward`] on one block of rows.
pub(super) struct Backward<'a> {
    pub logits: &'a mut [f32],
    pub targets: &'a [u32],
    pub classes: Classes<'a>,
    pub norms: &'a [[f32; 2]],
    pub scale: f32,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (weights, scale) = (self.classes.weights, f64::from(self.scale));
        let (own, spread) = (scale * self.classes.own, scale * self.classes.spread);
        let lanes = S::F32_LANES;
        for (r, (&target, &[max, powers])) in self.targets.iter().zip(self.norms).enumerate() {
            let row = &mut self.logits[r * weights.len()..][..weights.len()];
            let own = match target {
                IGNORE => 0.0,
                _ => own * f64::from(weights[target as usize]),
            };
            let all = own + spread * self.classes.sum;
            if target == IGNORE || all == 0.0 {
                row.fill(0.0);
                continue;
            }
            let (max, spread) = (s.splat_f32s(max), s.splat_f32s(spread as f32));
            let factor = s.splat_f32s((all / f64::from(powers)) as f32);
            for (x, weight) in row.chunks_mut(lanes).zip(weights.chunks(lanes)) {
                let power = exp(s, s.sub_f32s(load(s, x), max));
                let spread = s.mul_f32s(spread, load(s, weight));
                store(s, x, s.sub_f32s(s.mul_f32s(power, factor), spread));
            }
            row[target as usize] -= own as f32;
        }
    }
}
