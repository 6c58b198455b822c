//! The kernel of a diagonal time-invariant system, its gradients, and the recurrence.

use serpens_core::{DType, Device, Gradients, Tape, Tensor, Var};

use super::reference::{self, Complex};
use crate::lti_kernel::{LtiSystem, lti_kernel, lti_recurrence};
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, read, tensor, values};

/// A system and a length; lengths reach over several blocks of the kernel and segments of the gradients.
#[derive(Clone, Copy, Debug)]
struct Case {
    channels: usize,
    states: usize,
    complex: bool,
    length: usize,
}

fn problems() -> Vec<Case> {
    let sizes = [
        (1, 1, 1),
        (37, 3, 100),
        (33, 16, 700),
        (5, 64, 1100),
        (70, 5, 513),
    ];
    let both = sizes.into_iter().flat_map(|(channels, states, length)| {
        [false, true].map(|complex| Case {
            channels,
            states,
            complex,
            length,
        })
    });
    both.collect()
}

/// Δ, Re A, Im A, Re B, Im B, Re C, Im C, D: as operands, and as gradients.
type Operands<T> = [Vec<T>; 8];

const NAMES: [&str; 8] = ["Δ", "Re A", "Im A", "Re B", "Im B", "Re C", "Im C", "D"];

impl Case {
    /// Steps of a thousandth to a fifth, rates of at least a hundredth: what a trained layer has.
    fn operands(&self) -> Operands<f64> {
        let all = [self.channels, self.states];
        let of = |seed, scale| values(seed, all, scale, DType::F32);
        let imaginary = |seed, scale| match self.complex {
            true => of(seed, scale),
            false => vec![0.0; self.channels * self.states],
        };
        let to_f32 = |value: f64| f64::from(value as f32);
        let unit = values(1, [self.channels], 0.5, DType::F32);
        [
            unit.iter()
                .map(|x| to_f32(0.001 + 0.2 * (x + 0.5)))
                .collect(),
            of(2, 5.0).iter().map(|x| to_f32(-0.01 - x.abs())).collect(),
            imaginary(3, 5.0),
            of(4, 1.0),
            imaginary(5, 1.0),
            of(6, 1.0),
            imaginary(7, 1.0),
            values(8, [self.channels], 0.5, DType::F32),
        ]
    }

    fn reference<R: Real>(&self) -> reference::System<R> {
        let numbers = |values: &[f64]| values.iter().map(|&v| R::from(v as f32)).collect();
        let [dt, a, a_im, b, b_im, c, c_im, d] = self.operands().map(|v| numbers(&v));
        let pairs = |re: Vec<R>, im: Vec<R>| re.into_iter().zip(im).collect();
        reference::System {
            channels: self.channels,
            state: self.states,
            scale: R::from(if self.complex { 2.0 } else { 1.0 }),
            dt,
            a: pairs(a, a_im),
            b: pairs(b, b_im),
            c: pairs(c, c_im),
            d,
        }
    }

    /// The operands as leaves of a tape.
    fn leaves(&self, tape: &Tape, device: Device) -> [Var; 8] {
        let values = self.operands();
        std::array::from_fn(|i| {
            let tensor = match i {
                0 | 7 => tensor([self.channels], &values[i], DType::F32, device),
                _ => tensor([self.channels, self.states], &values[i], DType::F32, device),
            };
            tape.leaf(tensor)
        })
    }

    fn system<'a>(&self, leaves: &'a [Var; 8]) -> LtiSystem<&'a Var> {
        let [dt, a, a_im, b, b_im, c, c_im, d] = leaves;
        let complex = |var: &'a Var| self.complex.then_some(var);
        LtiSystem {
            dt,
            a,
            a_im: complex(a_im),
            b,
            b_im: complex(b_im),
            c,
            c_im: complex(c_im),
            d: Some(d),
        }
    }

    fn dk(&self) -> Vec<f64> {
        values(9, [self.length, self.channels], 1.0, DType::F32)
    }

    /// The kernel, and the gradients of the operands that there are.
    fn run(&self, device: Device) -> (Vec<f64>, Operands<f64>) {
        let tape = Tape::new();
        let leaves = self.leaves(&tape, device);
        let k = lti_kernel(&self.system(&leaves), self.length).unwrap();
        let dk = tensor([self.length, self.channels], &self.dk(), DType::F32, device);
        tape.backward_from(vec![(&k, dk)], &mut Gradients::new())
            .unwrap();
        let gradients = leaves.each_ref().map(|leaf| {
            let gradient = tape.gradient(leaf).unwrap();
            gradient.map_or(vec![], |gradient| read(&gradient))
        });
        (read(k.tensor().unwrap()), gradients)
    }

    fn gradients<R: Real>(&self) -> Operands<R> {
        let dk: Vec<R> = self.dk().iter().map(|&v| R::from(v as f32)).collect();
        let all = self.reference::<R>().gradients(self.length, &dk);
        let parts = |pairs: Vec<Complex<R>>| pairs.into_iter().unzip::<R, R, Vec<R>, Vec<R>>();
        let ((a, a_im), (b, b_im), (c, c_im)) = (parts(all.a), parts(all.b), parts(all.c));
        [all.dt, a, a_im, b, b_im, c, c_im, all.d]
    }
}

/// Every case and its recurrence with u of `dtype`, for the programs that they ask for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for case in problems() {
        case.run(device);
        let tape = Tape::new();
        let leaves = case.leaves(&tape, device);
        let leaves = leaves.each_ref().map(Var::detach);
        let planes = if case.complex { 2 } else { 1 };
        let zeros = |shape, dtype| Var::from(Tensor::zeros(shape, dtype, device).unwrap());
        let state = zeros([1, case.channels, planes * case.states], DType::F32);
        let u = zeros([1, 3, case.channels], dtype);
        lti_recurrence(&u, &case.system(&leaves), &state).unwrap();
    }
}

#[test]
fn the_kernel_and_its_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        if dtype != DType::F32 {
            continue; // the operation knows no other
        }
        for case in problems() {
            let (k, gradients) = case.run(device);
            let truth = case.reference::<f64>().kernel(case.length);
            let plain = case.reference::<f32>().kernel(case.length);
            let what = |name: &str| format!("{name} of {case:?} on {device}");
            assert_near(&what("K"), &k, &truth, &plain, dtype);
            let (truth, plain) = (case.gradients::<f64>(), case.gradients::<f32>());
            for (i, name) in NAMES.iter().enumerate() {
                if case.complex || !matches!(i, 2 | 4 | 6) {
                    assert_near(&what(name), &gradients[i], &truth[i], &plain[i], dtype);
                }
            }
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, _) in cases() {
        for case in problems() {
            assert_eq!(case.run(device), case.run(device), "{case:?} on {device}");
        }
    }
}

#[test]
fn a_long_kernel_keeps_its_accuracy_on_every_device() {
    let case = Case {
        channels: 3,
        states: 8,
        complex: true,
        length: 100_000,
    };
    let truth = case.reference::<f64>().kernel(case.length);
    for (device, _) in cases() {
        let (k, _) = case.run(device);
        let largest = truth.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        for (t, (got, want)) in k.iter().zip(&truth).enumerate() {
            let error = (got - want).abs();
            assert!(error <= 1e-6 * largest, "K[{t}] on {device}: {got}, {want}");
        }
    }
}

#[test]
fn the_recurrence_agrees_with_the_definition_on_every_device_whole_and_in_chunks() {
    const BATCH: usize = 3;
    for (device, dtype) in cases() {
        for case in problems() {
            let (channels, states, steps) = (case.channels, case.states, case.length.min(90));
            let u = values(10, [BATCH, steps, channels], 1.0, dtype);
            let planes = if case.complex { 2 } else { 1 };
            let state = values(11, [BATCH, channels, planes * states], 1.0, DType::F32);
            let tape = Tape::new();
            let leaves = case.leaves(&tape, device);
            let leaves = leaves.each_ref().map(Var::detach);
            let run =
                |u: Var, state: &Var| lti_recurrence(&u, &case.system(&leaves), state).unwrap();
            let of_state = [BATCH, channels, planes * states];
            let start: Var = tensor(of_state, &state, DType::F32, device).into();
            let of_u = |steps| [BATCH, steps, channels];
            let whole = run(tensor(of_u(steps), &u, dtype, device).into(), &start);
            let (y, last) = (
                read(whole.y.tensor().unwrap()),
                read(whole.last_state.tensor().unwrap()),
            );
            let definition = (
                recurrence::<f64>(&case, &u, steps, &state),
                recurrence::<f32>(&case, &u, steps, &state),
            );
            let what = |name: &str| format!("{name} of {case:?} on {device} in {dtype}");
            let ((truth, plain), (truth_h, plain_h)) = (
                (&definition.0.0, &definition.1.0),
                (&definition.0.1, &definition.1.1),
            );
            assert_near(&what("y"), &y, truth, plain, dtype);
            assert_near(&what("h"), &last, truth_h, plain_h, DType::F32);
            // The same in two chunks.
            let cut = steps / 2;
            let mut state = start;
            for (from, to) in [(0, cut), (cut, steps)] {
                let rows = u.chunks(steps * channels);
                let inputs: Vec<f64> = rows
                    .flat_map(|row| row[from * channels..to * channels].to_vec())
                    .collect();
                let inputs = tensor(of_u(to - from), &inputs, dtype, device);
                state = run(inputs.into(), &state).last_state;
            }
            assert_eq!(read(state.tensor().unwrap()), last, "{}", what("h"));
        }
    }
}

/// y and the last state, in the state's layout.
fn recurrence<R: Real>(case: &Case, u: &[f64], steps: usize, state: &[f64]) -> (Vec<R>, Vec<R>) {
    let number = |v: f64| R::from(v as f32);
    let n_count = case.states;
    let planes = if case.complex { 2 } else { 1 };
    let mut h: Vec<Complex<R>> = state
        .chunks(planes * n_count)
        .flat_map(|row| {
            (0..n_count).map(|n| {
                let im = if case.complex { row[n_count + n] } else { 0.0 };
                (number(row[n]), number(im))
            })
        })
        .collect();
    let u: Vec<R> = u.iter().map(|&v| number(v)).collect();
    let y = case.reference::<R>().run(&u, steps, &mut h);
    let last = h.chunks(n_count).flat_map(|row| {
        let im = row.iter().map(|h| h.1).filter(|_| case.complex);
        row.iter().map(|h| h.0).chain(im).collect::<Vec<R>>()
    });
    (y, last.collect())
}
