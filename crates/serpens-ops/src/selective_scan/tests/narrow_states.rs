//! States in bf16 over many positions: what rounding to nearest loses.

use serpens_core::bf16;

use super::*;
use crate::simd::Stored;

/// Positions that are made at a time, channels, and the numbers of each.
const ROUND: usize = 1000;
const CHANNELS: usize = 48;
const N: usize = 16;

/// What is read.
#[derive(Clone, Copy, Debug)]
enum Input {
    /// Something else at every position.
    Other,
    /// Something at every 64th, nothing between.
    Sparse,
    /// The same at every position.
    Same,
}

/// A and δ as Mamba begins with them: A = -1 … -N, δ from 1e-3 to 0.1 by channel, times what the position makes of it.
fn positions(input: Input, round: usize) -> Case {
    let bare = Parts {
        d: false,
        z: false,
        ..Parts::ALL
    };
    let mut case = Case::random(dims(1, ROUND, CHANNELS, N, 1), bare, 100 + round as u64);
    let x = &mut case.scan.operands;
    (x.a.iter_mut().enumerate()).for_each(|(i, a)| *a = -((i % N + 1) as f64));
    for (i, bias) in x.delta_bias.iter_mut().flatten().enumerate() {
        let delta = 1e-3 * 100_f64.powf(i as f64 / (CHANNELS - 1) as f64);
        *bias = f64::from(delta.exp_m1().ln() as f32);
    }
    match input {
        Input::Other => {}
        Input::Sparse => {
            let rows = x.u.chunks_mut(CHANNELS).enumerate();
            let between = rows.filter(|(t, _)| t % 64 > 0);
            between.for_each(|(_, row)| row.fill(0.0));
        }
        Input::Same => [&mut x.u, &mut x.b].into_iter().for_each(|x| x.fill(1.0)),
    }
    case
}

/// y at these positions by steps, which move the state on.
fn steps<H: Stored>(x: &ScanOperands<Vec<f32>>, state: &mut [H]) -> Vec<f32> {
    fn row(values: &[f32], t: usize, cols: usize) -> Mat<'_> {
        Mat::dense(&values[t * cols..][..cols], cols)
    }
    let mut y = vec![f32::NAN; ROUND * CHANNELS];
    for (t, y) in y.chunks_mut(CHANNELS).enumerate() {
        let operands = cpu::Step {
            u: row(&x.u, t, CHANNELS),
            delta: cpu::Delta::Given(row(&x.delta, t, CHANNELS)),
            a: Mat::dense(&x.a, N),
            b: row(&x.b, t, N),
            c: row(&x.c, t, N),
            d: None,
            z: None,
            delta_bias: x.delta_bias.as_deref(),
            zero_order_hold: false,
        };
        let state = MatMut::dense(state, CHANNELS * N);
        cpu::step(&operands, state, MatMut::dense(y, CHANNELS));
    }
    y
}

/// The error of y over some positions, and how large y is there.
#[derive(Clone, Copy, Default)]
struct Drift {
    squares: f64,
    largest: f64,
    of_y: f64,
    values: f64,
}

impl Drift {
    fn add(&mut self, y: &[f32], exact: &[f64]) {
        for (y, exact) in y.iter().zip(exact) {
            let error = f64::from(*y) - exact;
            self.squares += error * error;
            self.largest = self.largest.max(error.abs());
            self.of_y += exact * exact;
            self.values += 1.0;
        }
    }

    /// The error's root mean square over that of y.
    fn rms(&self) -> f64 {
        (self.squares / self.of_y).sqrt()
    }

    /// The largest error over the root mean square of y.
    fn largest(&self) -> f64 {
        self.largest / (self.of_y / self.values).sqrt()
    }
}

/// The errors of states in f32 and in bf16 against f64, and of these against those, for each tenth of the positions.
fn drifts(input: Input, count: usize) -> [[Drift; 10]; 3] {
    let mut drifts = [[Drift::default(); 10]; 3];
    let mut exact_state = vec![0.0; CHANNELS * N];
    let (mut wide, mut narrow) = (vec![0.0_f32; CHANNELS * N], vec![bf16::ZERO; CHANNELS * N]);
    for round in 0..count / ROUND {
        let mut case = positions(input, round);
        case.scan.operands.initial_state = Some(exact_state);
        let exact;
        (exact, exact_state) = reference::forward(&case.scan);
        let x = case.scan.operands.cast::<f32>();
        let (wide, narrow) = (steps(&x, &mut wide), steps(&x, &mut narrow));
        let tenth = round * ROUND * 10 / count;
        let as_truth: Vec<f64> = wide.iter().map(|v| f64::from(*v)).collect();
        drifts[0][tenth].add(&wide, &exact);
        drifts[1][tenth].add(&narrow, &exact);
        drifts[2][tenth].add(&narrow, &as_truth);
    }
    drifts
}

/// Holds the errors over so many positions to what each input allows, and tells them.
fn check_drift(count: usize) {
    for (input, allowed) in [
        (Input::Other, 0.01),
        (Input::Sparse, 0.03),
        (Input::Same, 0.2),
    ] {
        let [wide, narrow, apart] = drifts(input, count);
        for (what, drifts) in [("f32", wide), ("bf16", narrow), ("bf16 against f32", apart)] {
            let tenths = drifts.map(|drift| format!("{:.1e}", drift.rms())).join(" ");
            let largest = drifts.iter().map(Drift::largest).fold(0.0, f64::max);
            println!("{input:?}, {what}: rms {tenths}, largest {largest:.1e}");
        }
        for (tenth, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
            let at = format!("{input:?}, tenth {tenth}");
            assert!(wide.rms() < 2e-6, "{at}: {:e} in f32", wide.rms());
            assert!(narrow.rms() < allowed, "{at}: {:e} in bf16", narrow.rms());
        }
        // It does not add up: a state forgets its roundings as it forgets what it read.
        let (first, last) = narrow.split_at(5);
        let most = |half: &[Drift]| half.iter().map(Drift::rms).fold(0.0, f64::max);
        assert!(most(last) < 1.5 * most(first), "{input:?} grows");
    }
}

#[test]
fn states_in_bf16_over_ten_thousand_positions_lose_what_a_state_holds_of_its_roundings() {
    check_drift(10_000);
}

#[test]
#[ignore = "takes a minute"]
fn states_in_bf16_over_a_hundred_thousand_positions_lose_no_more() {
    check_drift(100_000);
}

/// Rounded to nearest, 1 less a part of it below half of the last place is 1 again.
#[test]
fn a_state_in_bf16_fades_where_a_position_takes_a_256th_of_it_and_stays_where_it_takes_a_512th() {
    let rates = [1.0 / 520.0, 1.0 / 250.0_f64];
    let mut x = positions(Input::Other, 0).scan.operands.cast::<f32>();
    for nothing in [&mut x.u, &mut x.b, &mut x.delta] {
        nothing.fill(0.0);
    }
    x.a.fill(-1.0);
    let bias = (0..CHANNELS).map(|channel| rates[channel % 2].exp_m1().ln() as f32);
    x.delta_bias = Some(bias.collect());
    let (mut wide, mut narrow) = (vec![1.0_f32; CHANNELS * N], vec![bf16::ONE; CHANNELS * N]);
    for _ in 0..5 {
        steps(&x, &mut wide);
        steps(&x, &mut narrow);
    }
    for (i, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
        let (slow, faded) = ((i / N).is_multiple_of(2), narrow.to_f32());
        assert!(*wide < 1e-4, "{wide:e}");
        assert!(if slow { faded == 1.0 } else { faded < 1e-4 }, "{faded:e}");
    }
}
