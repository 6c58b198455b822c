//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::{Device, Tensor, Var};

use crate::embedding::embedding;
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn embedding_has_the_gradients_of_its_definition() {
    let ids = Tensor::from_slice([2, 3], &[0_u32, 2, 2, 1, 0, 2], Device::cpu());
    let ids: Var = ids.unwrap().into();
    let inputs = tensors([[4, 3].into()]);
    assert_gradients("embedding", |v| embedding(&ids, &v[0]), &inputs);
}
