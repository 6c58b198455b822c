//! The backward rule against finite differences, through the tape as a user meets it.

use crate::long_conv::long_conv;
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn long_conv_has_the_gradients_of_its_definition() {
    for length in [4, 40] {
        let inputs = tensors([[2, length, 3].into(), [length, 3].into()]);
        assert_gradients("long_conv", |v| long_conv(&v[0], &v[1]), &inputs);
    }
}
