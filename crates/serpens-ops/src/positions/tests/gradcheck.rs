//! The backward rule against finite differences, through the tape as a user meets it.

use crate::Starts;
use crate::elementwise::mul;
use crate::positions::{PositionsOptions, positions};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn positions_have_the_gradients_of_their_definition() {
    let starts = Starts::from_sequence_ids(&[0, 0, 1, 1, 1, 0, 1, 1, 2, 2], 2).unwrap();
    for (from, starts) in [(0, None), (2, None), (0, Some(&starts))] {
        let options = PositionsOptions { from, starts };
        let [x, weight, table] = tensors([[2, 5, 3].into(), [2, 5, 3].into(), [8, 3].into()]);
        let weight = weight.into();
        let weighted = |v: &[_]| mul(&positions(&v[0], &v[1], &options)?, &weight);
        assert_gradients("positions", weighted, &[x, table]);
    }
}
