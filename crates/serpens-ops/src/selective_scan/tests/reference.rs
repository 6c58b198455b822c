//! The reference's gradients against finite differences of its values, in f64.

use super::*;

fn loss(case: &Case, x: &Values<f64>) -> f64 {
    let (out, last) = plain::forward(&case.dims, x, &case.options);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(&out, &case.dout) + dot(&last, &case.dlast)
}

fn check_gradients(case: &Case) {
    let grads = case.plain::<f64>().grads;
    for (name, grads) in grads.named() {
        for (i, &grad) in grads.iter().enumerate() {
            let moved = |by: f64| {
                let mut x = case.x.clone();
                x.get_mut(name).unwrap()[i] += by;
                loss(case, &x)
            };
            let step = 1e-5;
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            assert!(
                (difference - grad).abs() < 1e-7 * grad.abs().max(1.0),
                "{name}[{i}]: {grad} but {difference} by differences, {:?}",
                case.options
            );
        }
    }
}

#[test]
fn gradients_are_the_limits_of_finite_differences() {
    check_gradients(&Case::random(dims(2, 5, 4, 3, 2), Parts::ALL, 1));
    for complex in [false, true] {
        for reverse in [false, true] {
            let with = Parts {
                complex,
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
