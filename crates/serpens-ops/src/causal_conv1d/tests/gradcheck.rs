//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::{Result, Var};

use crate::Starts;
use crate::causal_conv1d::{ConvOptions, ConvOutput, causal_conv1d};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn causal_conv1d_has_the_gradients_of_its_definition() {
    let inputs = tensors([
        [2, 6, 3].into(),
        [3, 1, 4].into(),
        [3].into(),
        [2, 3, 3].into(),
    ]);
    // Forward the first row begins with a sequence and the second goes on; in reverse the other way round.
    let ids = [9, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 2, 2, 2, 3];
    let starts = Starts::from_sequence_ids(&ids, 2).unwrap();
    let starts = starts.chunk(1..7).unwrap();
    let cases = [
        (true, false, false),
        (false, true, false),
        (true, false, true),
        (true, true, true),
    ];
    for (silu, reverse, packed) in cases {
        let run = |v: &[Var]| -> Result<ConvOutput> {
            let options = ConvOptions {
                silu,
                reverse,
                starts: packed.then_some(&starts),
            };
            causal_conv1d(&v[0], &v[1], Some(&v[2]), Some(&v[3]), &options)
        };
        assert_gradients("causal_conv1d", |v| Ok(run(v)?.y), &inputs);
        assert_gradients("its final state", |v| Ok(run(v)?.final_state), &inputs);
    }
}
