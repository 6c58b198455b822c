//! The reference's gradients against finite differences of its values, in f64.

use super::*;
use crate::shared::tests::dense::dot;

fn loss(case: &Case) -> f64 {
    let (out, last) = reference::forward(&case.scan);
    let dlast = case.dlast.as_ref();
    dot(&out, &case.dout) + dlast.map_or(0.0, |dlast| dot(&last, dlast))
}

fn check_gradients(case: &Case) {
    let grads = case.plain::<f64>().grads;
    for (at, grads) in grads.into_array().into_iter().enumerate() {
        for (i, &grad) in grads.iter().flatten().enumerate() {
            let moved = |by: f64| {
                let mut case = case.clone();
                let x = &mut case.scan.operands.as_mut().into_array()[at];
                x.as_mut().unwrap()[i] += by;
                loss(&case)
            };
            let step = 1e-5;
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            assert!(
                (difference - grad).abs() < 1e-7 * grad.abs().max(1.0),
                "{}[{i}]: {grad} but {difference} by differences, {:?}",
                ScanOperands::<f64>::roles()[at].name,
                case.scan.dims
            );
        }
    }
}

#[test]
fn gradients_are_the_limits_of_finite_differences() {
    check_gradients(&Case::random(dims(2, 5, 4, 3, 2), Parts::ALL, 1));
    for (complex, held) in [(false, false), (false, true), (true, false)] {
        for reverse in [false, true] {
            let with = Parts {
                complex,
                held,
                reverse,
                packed: true,
                ..Parts::ALL
            };
            check_gradients(&Case::random(dims(1, 8, 2, 2, 1), with, 2));
        }
    }
    let bare = Parts {
        d: false,
        z: false,
        bias: false,
        initial: false,
        softplus: false,
        dlast: false,
        ..Parts::ALL
    };
    check_gradients(&Case::random(dims(1, 6, 2, 3, 1), bare, 3));
}
