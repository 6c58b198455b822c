//! The backward rule against finite differences, through the tape as a user meets it.

use crate::Starts;
use crate::attention::{AttentionOptions, attention};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn attention_has_the_gradients_of_its_definition() {
    let starts = Starts::from_sequence_ids(&[0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2], 2).unwrap();
    for (heads, window, starts) in [
        (2, None, None),
        (4, Some(3), None),
        (2, None, Some(&starts)),
    ] {
        let inputs = tensors([[2, 6, heads * 3].into(), [2, 6, 6].into(), [2, 6, 6].into()]);
        let options = AttentionOptions {
            head: 3,
            scale: None,
            window,
            starts,
        };
        assert_gradients(
            "attention",
            |v| attention(&v[0], &v[1], &v[2], &options),
            &inputs,
        );
    }
}
