//! Theorem 1 of arXiv 2312.00752: with one state, A = -1, B = C = 1 and δ = softplus(x) the scan under zero-order hold
//! is the gated recurrence h = (1 - g) h + g u with g = sigmoid(x).

use super::*;

/// The recurrence and its gradients for given gradients of every h, and of the last: h, and those of u, x and the first
/// h.
struct Gated {
    h: Vec<f64>,
    du: Vec<f64>,
    dx: Vec<f64>,
    dinitial: Vec<f64>,
}

/// Of u and x (length, channels).
fn gated_rnn(u: &[f64], x: &[f64], initial: &[f64], dh: &[f64], dlast: &[f64]) -> Gated {
    let channels = initial.len();
    let gates: Vec<f64> = x.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    let mut h: Vec<f64> = initial.to_vec();
    for (i, (g, u)) in gates.iter().zip(u).enumerate() {
        h.push((1.0 - g) * h[i] + g * u);
    }
    let (mut du, mut dx) = (vec![0.0; u.len()], vec![0.0; u.len()]);
    let mut carry = dlast.to_vec();
    for i in (0..u.len()).rev() {
        let (g, lambda) = (gates[i], carry[i % channels] + dh[i]);
        du[i] = lambda * g;
        dx[i] = lambda * (u[i] - h[i]) * g * (1.0 - g);
        carry[i % channels] = lambda * (1.0 - g);
    }
    let dinitial = carry;
    let h = h.split_off(channels);
    Gated {
        h,
        du,
        dx,
        dinitial,
    }
}

/// The largest difference of the scan's outputs and gradients to the recurrence's, over so many cases.
fn largest_difference(cases: u64, held: bool) -> f64 {
    let mut largest = 0.0_f64;
    for seed in 0..cases {
        let length = 1 + seed as usize % 47;
        let with = Parts {
            d: false,
            z: false,
            bias: false,
            held,
            ..Parts::ALL
        };
        let mut case = Case::random(dims(1, length, 8, 1, 1), with, seed);
        let x = &mut case.scan.operands;
        x.a.fill(-1.0);
        x.b.fill(1.0);
        x.c.fill(1.0);
        // Gates from nearly shut to nearly open.
        x.delta.iter_mut().for_each(|x| *x *= 4.0);
        let (dlast, initial) = (
            case.dlast.as_ref().unwrap(),
            x.initial_state.as_ref().unwrap(),
        );
        let gated = gated_rnn(&x.u, &x.delta, initial, &case.dout, dlast);
        for isa in Isa::available() {
            let scan = case.kernels(isa);
            let last = &gated.h[gated.h.len() - 8..];
            let dinitial = scan.grads.initial_state.as_ref().unwrap();
            for (scan, gated) in [
                (&scan.out, &gated.h[..]),
                (&scan.last, last),
                (&scan.grads.u, &gated.du),
                (&scan.grads.delta, &gated.dx),
                (dinitial, &gated.dinitial),
            ] {
                largest = largest.max(largest_error(scan, gated));
            }
        }
    }
    largest
}

#[test]
fn one_state_under_zero_order_hold_is_a_gated_rnn_to_rounding() {
    let largest = largest_difference(1000, true);
    println!("largest difference of outputs and gradients: {largest:.1e}");
    assert!(largest < 3e-6, "{largest:e}");
}

#[test]
fn by_euler_s_rule_it_only_resembles_one() {
    let largest = largest_difference(10, false);
    assert!(largest > 0.5, "{largest:e}");
}
