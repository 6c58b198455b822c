//! The backward rules against finite differences, through the tape as a user meets them.

use crate::shared::tests::gradcheck::{assert_gradients, tensors};
use crate::softmax::{log_softmax, softmax};

#[test]
fn probabilities_and_their_logarithms_have_the_gradients_of_their_definitions() {
    let inputs = tensors([[2, 3, 5].into()]);
    assert_gradients("softmax", |v| softmax(&v[0]), &inputs);
    assert_gradients("log_softmax", |v| log_softmax(&v[0]), &inputs);
    let columns = |v: &[serpens_core::Var]| softmax(&v[0].columns(1..4)?);
    assert_gradients("columns", columns, &inputs);
}
