//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::Var;

use crate::Starts;
use crate::elementwise::{add, mul};
use crate::lstm::lstm;
use crate::reduce::sum;
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn lstm_has_the_gradients_of_its_definition() {
    let inputs = tensors([
        [2, 5, 12].into(),
        [12, 3].into(),
        [2, 3].into(),
        [2, 3].into(),
    ]);
    let squares = |x: &Var| sum(&mul(x, x)?);
    let all = |v: &[Var]| {
        let output = lstm(&v[0], &v[1], [Some(&v[2]), Some(&v[3])], None)?;
        let last = add(&squares(&output.h)?, &squares(&output.c)?)?;
        add(&squares(&output.y)?, &last)
    };
    assert_gradients("lstm", all, &inputs);
    let starts = Starts::from_sequence_ids(&[0, 0, 1, 2, 2, 0, 1, 1, 1, 1], 2).unwrap();
    let packed = |v: &[Var]| squares(&lstm(&v[0], &v[1], [None; 2], Some(&starts))?.y);
    assert_gradients("packed lstm", packed, &inputs[..2]);
    // The first row goes on from the state, the second begins.
    let ids = [0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 2];
    let chunk = Starts::from_sequence_ids(&ids, 2)
        .unwrap()
        .chunk(1..6)
        .unwrap();
    let state = |v: &[Var]| {
        let output = lstm(&v[0], &v[1], [Some(&v[2]), Some(&v[3])], Some(&chunk))?;
        add(&squares(&output.y)?, &squares(&output.c)?)
    };
    assert_gradients("a chunk of packed lstm", state, &inputs);
    let last = |v: &[Var]| squares(&lstm(&v[0], &v[1], [None, Some(&v[2])], None)?.c);
    let [gates, weight, _, c] = &inputs;
    let inputs = [gates, weight, c].map(Clone::clone);
    assert_gradients("the last c of an lstm", last, &inputs);
}
