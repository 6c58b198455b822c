//! The backward rules against finite differences, through the tape as a user meets them.

use serpens_core::Var;

use crate::elementwise::mul;
use crate::reduce::{mean, mean_last, mean_squared_error, sum, sum_last};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn reductions_have_the_gradients_of_their_definitions() {
    let inputs = tensors([[2, 3, 5].into(), [2, 3, 5].into()]);
    let squares = |v: &[Var]| mul(&v[0], &v[0]);
    assert_gradients("sum", |v| sum(&squares(v)?), &inputs[..1]);
    assert_gradients("mean", |v| mean(&squares(v)?), &inputs[..1]);
    assert_gradients("sum_last", |v| sum_last(&squares(v)?), &inputs[..1]);
    assert_gradients("mean_last", |v| mean_last(&squares(v)?), &inputs[..1]);
    let columns = |v: &[Var]| sum_last(&squares(v)?.columns(1..3)?);
    assert_gradients("columns", columns, &inputs[..1]);
    let error = |v: &[Var]| mean_squared_error(&v[0], &v[1]);
    assert_gradients("mean_squared_error", error, &inputs);
}
