//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::Var;

use super::{KINDS, packed};
use crate::elementwise::mul;
use crate::pooling::{Pooling, PoolingOptions, pooling};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn pooling_has_the_gradients_of_its_definition() {
    let (starts, bounds) = packed([2, 5], |row| [2, 6, 7].contains(&row));
    for (sequences, starts) in [(2, None), (bounds.len() - 1, Some(&starts))] {
        for kind in KINDS {
            let shapes = [[2, 5, 3].into(), [2, 5, 1].into(), [sequences, 3].into()];
            let [x, scores, weight] = tensors(shapes);
            let (weight, options) = (weight.into(), PoolingOptions { kind, starts });
            let weighted = |v: &[Var]| mul(&pooling(&v[0], v.get(1), &options)?, &weight);
            let inputs = [x, scores];
            let given = if kind == Pooling::Attention { 2 } else { 1 };
            assert_gradients(&format!("{kind:?}"), weighted, &inputs[..given]);
        }
    }
}
