//! Values and gradients over shapes and options.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn kernels_are_as_exact_as_a_plain_f32_evaluation(
        (batch, length) in (1usize..=3, 1usize..=70),
        (per_group, groups) in (1usize..=20, 1usize..=3),
        state in prop::sample::select(vec![1usize, 2, 3, 16, 17, 64, 256]),
        flags in prop::array::uniform9(any::<bool>()),
        seed in any::<u64>(),
    ) {
        let [complex, d, z, bias, initial, softplus, reverse, packed, dlast] = flags;
        // Few channels for the largest states, to keep the reference quick.
        let per_group = per_group.min(1 + 64 / state);
        for held in [false, true] {
            let with = Parts { complex, d, z, bias, initial, softplus, held, reverse, packed, dlast };
            Case::random(dims(batch, length, per_group * groups, state, groups), with, seed).check();
        }
    }
}

#[test]
fn short_slices_are_refused_before_any_work() {
    let with = Parts {
        complex: true,
        packed: true,
        ..Parts::ALL
    };
    let case = Case::random(dims(2, 9, 6, 3, 2), with, 11);
    let dims = &case.scan.dims;
    let values = case.scan.operands.cast::<f32>();
    // The forward scan with the first of these one row or value short.
    let run = |short: &str, out: &mut [f32]| {
        let less = |name: &str| usize::from(name == short);
        let operands = values.as_ref().map(|role, x| {
            let cols = (role.shape)(dims).cols();
            Mat::new(x, x.len() / cols - less(role.name), cols, cols, 0)
        });
        let starts = case.scan.starts.as_deref();
        let scan = cpu::Scan {
            dims: *dims,
            operands,
            starts: starts.map(|starts| &starts[less("starts")..]),
            softplus: true,
            zero_order_hold: false,
            reverse: false,
        };
        let mut last =
            vec![0.0; dims.batch * dims.channels * dims.width() - less("the last state")];
        let mut saved = vec![0.0; dims.checkpoint_len() - less("checkpoints")];
        let out = MatMut::new(
            out,
            dims.rows() - less("out"),
            dims.channels,
            dims.channels,
            0,
        );
        cpu::forward_on(
            Isa::current(),
            &scan,
            out,
            Some(&mut last),
            Some(&mut saved),
        );
    };
    let roles = ScanOperands::<f32>::roles().iter().map(|role| role.name);
    for short in roles.chain(["starts", "the last state", "checkpoints", "out"]) {
        let mut out = vec![-7.0; dims.rows() * dims.channels];
        let refusal =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(short, &mut out)));
        let refusal = refusal.expect_err(short);
        let message = refusal.downcast_ref::<String>().map(String::as_str);
        let message = message.or(refusal.downcast_ref::<&str>().copied());
        assert!(message.unwrap().contains(short), "{short}: {message:?}");
        assert!(out.iter().all(|&x| x == -7.0), "{short}");
    }
    run("none", &mut vec![0.0; dims.rows() * dims.channels]);
}

#[test]
fn large_exponents_beside_small_ones_are_exact() {
    check_large_exponents(Parts::ALL);
    check_large_exponents(Parts {
        held: true,
        ..Parts::ALL
    });
}

fn check_large_exponents(with: Parts) {
    let mut case = Case::random(dims(1, 100, 40, 5, 1), with, 12);
    for step in [3, 40, 99] {
        // exp(δ A) is 0 for some of the numbers of these steps, and leaves its usual path for all.
        case.scan.operands.delta[step * 40 + 17] = 200.0;
    }
    case.check();
    for step in [3, 40, 99] {
        case.scan.operands.delta[step * 40 + 18] = f64::from(1e30_f32);
    }
    case.scan.operands.a[3] = f64::from(f32::NEG_INFINITY);
    let exact = case.plain::<f64>();
    for isa in Isa::available() {
        let out = case.kernels(isa).out;
        for (i, (out, exact)) in out.iter().zip(&exact.out).enumerate() {
            let right = match i % 40 {
                18 => out.is_finite(), // what is left of 1e30 is rounded too
                _ => (f64::from(*out) - exact).abs() <= 1e-4 * exact.abs().max(1.0),
            };
            assert!(right, "{} at {i}: {out}, {exact}", isa.name());
        }
    }
}

#[test]
fn many_tiles_and_rounds_are_exact() {
    for (packed, held) in [(false, false), (true, false), (true, true)] {
        let with = Parts {
            packed,
            held,
            reverse: packed,
            ..Parts::ALL
        };
        Case::random(dims(1, 1100, 70, 4, 2), with, 5).check();
    }
    Case::random(dims(3, 40, 700, 3, 1), Parts::ALL, 6).check();
}

#[test]
fn segments_of_time_are_exact() {
    for (complex, held, reverse, packed) in [
        (false, false, false, false),
        (false, false, true, false),
        (false, true, true, true),
        (true, false, false, false),
        (true, false, true, true),
    ] {
        let with = Parts {
            complex,
            held,
            reverse,
            packed,
            ..Parts::ALL
        };
        Case::random(dims(1, 4099, 2, 3, 1), with, 7).check();
    }
}

#[test]
fn a_reset_in_one_of_many_segments_cuts_the_state_there() {
    let mut case = Case::random(
        dims(1, 7000, 1, 2, 1),
        Parts {
            packed: true,
            ..Parts::ALL
        },
        8,
    );
    case.starts_at(&[4096, 5000]);
    case.check();
}

#[test]
fn a_nan_in_u_shows_in_the_output() {
    let mut case = Case::random(dims(1, 50, 20, 4, 1), Parts::ALL, 9);
    let at = 30 * 20 + 7;
    case.scan.operands.u[at] = f64::NAN;
    for isa in Isa::available() {
        let out = case.kernels(isa).out;
        for (i, value) in out.iter().enumerate() {
            // The same channel, from that position on.
            assert_eq!(
                value.is_nan(),
                i >= at && i % 20 == 7,
                "{} at {i}",
                isa.name()
            );
        }
    }
}

#[test]
fn a_nan_stays_inside_its_packed_sequence() {
    let mut case = Case::random(
        dims(1, 60, 3, 2, 1),
        Parts {
            packed: true,
            ..Parts::ALL
        },
        10,
    );
    case.starts_at(&[20, 40]);
    case.scan.operands.u[30 * 3] = f64::NAN;
    for isa in Isa::available() {
        let outcome = case.kernels(isa);
        let apart = |x: &[f32]| {
            x[..20 * 3]
                .iter()
                .chain(&x[40 * 3..])
                .all(|x| x.is_finite())
        };
        assert!(apart(&outcome.out) && apart(&outcome.grads.u) && apart(&outcome.grads.delta));
        assert!(outcome.out[30 * 3].is_nan());
    }
}
