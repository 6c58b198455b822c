//! Theorem 1 of arXiv 2312.00752: under zero-order hold, S6 with one number as state, A = -1, Δ = softplus(linear of x)
//! and B = C = 1 is the gated recurrence h_t = (1 - g_t) h_(t-1) + g_t x_t with g = σ(linear of x).

use std::collections::HashMap;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serpens_core::{Device, Gradients, Shape, Tape, Tensor, Var};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{MinGruConfig, MixerSettings};
use serpens_nn::ssm::{DtRank, SelectiveSsmConfig, SsmSettings};
use serpens_nn::{Module, Result};

/// The numbers that the definition is evaluated in: in f64 the truth, in f32 the yardstick.
trait Real:
    Copy
    + Default
    + From<f32>
    + Into<f64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + Sum
{
    fn exp(self) -> Self;
}

impl Real for f32 {
    fn exp(self) -> Self {
        self.exp()
    }
}

impl Real for f64 {
    fn exp(self) -> Self {
        self.exp()
    }
}

/// A matrix, row by row.
#[derive(Clone)]
struct Rows<R> {
    values: Vec<R>,
    cols: usize,
}

impl<R: Real> Rows<R> {
    fn of(tensor: &Tensor) -> Self {
        Self {
            values: tensor
                .to_vec::<f32>()
                .unwrap()
                .into_iter()
                .map(R::from)
                .collect(),
            cols: tensor.shape().cols(),
        }
    }

    fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    fn at(&self, row: usize, col: usize) -> R {
        self.values[row * self.cols + col]
    }

    fn from_fn(rows: usize, cols: usize, value: impl Fn(usize, usize) -> R) -> Self {
        let values = (0..rows * cols).map(|i| value(i / cols, i % cols));
        Self {
            values: values.collect(),
            cols,
        }
    }

    fn transposed(&self) -> Self {
        Self::from_fn(self.cols, self.rows(), |r, c| self.at(c, r))
    }

    /// self · other.
    fn times(&self, other: &Self) -> Self {
        Self::from_fn(self.rows(), other.cols, |r, c| {
            (0..self.cols).map(|k| self.at(r, k) * other.at(k, c)).sum()
        })
    }

    /// The sum with a matrix of as many rows, or of one for all.
    fn plus(&self, other: &Self) -> Self {
        Self::from_fn(self.rows(), self.cols, |r, c| {
            self.at(r, c) + other.at(r % other.rows(), c)
        })
    }

    fn columns(&self, from: usize, to: usize) -> Self {
        Self::from_fn(self.rows(), to - from, |r, c| self.at(r, from + c))
    }

    fn beside(&self, other: &Self) -> Self {
        let value = |r, c| match c < self.cols {
            true => self.at(r, c),
            false => other.at(r, c - self.cols),
        };
        Self::from_fn(self.rows(), self.cols + other.cols, value)
    }

    fn sums(&self) -> Self {
        let sum = |c| (0..self.rows()).map(|r| self.at(r, c)).sum();
        Self::from_fn(1, self.cols, |_, c| sum(c))
    }
}

/// The recurrence as it is defined, over inputs and gates before the logistic function, (length, channels) both: h, and
/// from the gradient of that those of the two.
fn recurrence<R: Real>(
    x: Rows<R>,
    w: &Rows<R>,
) -> (Rows<R>, impl Fn(&Rows<R>) -> [Rows<R>; 2] + use<R>) {
    let (length, channels) = (x.rows(), x.cols);
    let one = R::from(1.0);
    let gate = Rows::from_fn(length, channels, |t, c| one / (one + (-w.at(t, c)).exp()));
    let mut h = Rows::from_fn(length, channels, |_, _| R::default());
    let before = |h: &Rows<R>, t: usize, c: usize| match t {
        0 => R::default(),
        _ => h.at(t - 1, c),
    };
    for t in 0..length {
        for c in 0..channels {
            let g = gate.at(t, c);
            h.values[t * channels + c] = (one - g) * before(&h, t, c) + g * x.at(t, c);
        }
    }
    let states = h.clone();
    let backward = move |dh: &Rows<R>| {
        let mut whole = dh.clone(); // with what comes back from later steps
        for t in (1..length).rev() {
            for c in 0..channels {
                let back = (one - gate.at(t, c)) * whole.at(t, c);
                whole.values[(t - 1) * channels + c] += back;
            }
        }
        let dx = Rows::from_fn(length, channels, |t, c| whole.at(t, c) * gate.at(t, c));
        let dw = Rows::from_fn(length, channels, |t, c| {
            let g = gate.at(t, c);
            whole.at(t, c) * (x.at(t, c) - before(&states, t, c)) * g * (one - g)
        });
        [dx, dw]
    };
    (h, backward)
}

/// Matrices by their names: the output as `y`, and gradients by what they are of.
type Named<R> = Vec<(&'static str, Rows<R>)>;

/// The values of a layer's parameters.
struct Weights(HashMap<String, Tensor>);

impl Weights {
    fn of(layer: &dyn Module) -> Self {
        let mut found = HashMap::new();
        let seen = layer.visit("", &mut |name, param| {
            found.insert(name.to_owned(), param.value()?.clone());
            Ok(())
        });
        seen.unwrap();
        Self(found)
    }

    fn get<R: Real>(&self, name: &str) -> Rows<R> {
        Rows::of(&self.0[name])
    }
}

/// What a layer makes of x, and from dy the gradients of x and of its parameters.
fn run(
    layer: &dyn Module,
    forward: &dyn Fn(&Var) -> Result<Var>,
    [x, dy]: [&Tensor; 2],
) -> HashMap<String, Rows<f64>> {
    let (tape, mut gradients) = (Tape::new(), Gradients::new());
    let leaf = tape.leaf(x.clone());
    let y = forward(&leaf).unwrap();
    tape.backward_from(vec![(&y, dy.clone())], &mut gradients)
        .unwrap();
    let dx = tape.gradient(&leaf).unwrap().unwrap();
    let mut found = HashMap::from([
        ("y".to_owned(), Rows::of(y.tensor().unwrap())),
        ("x".to_owned(), Rows::of(&dx)),
    ]);
    let seen = layer.visit("", &mut |name, param| {
        if let Some(gradient) = gradients.get(param.id())? {
            found.insert(name.to_owned(), Rows::of(&gradient));
        }
        Ok(())
    });
    seen.unwrap();
    found
}

/// The largest differences from the truth, of the output and of all gradients, relative to the largest value of each: a
/// single sum that cancels is no scale for itself.
fn differences<R: Real>(truth: &Named<f64>, got: impl Fn(&str) -> Vec<R>) -> [f64; 2] {
    let (mut largest, mut scale) = ([0.0_f64; 2], [0.0_f64; 2]);
    for (name, truth) in truth {
        let (got, kind) = (got(name), usize::from(*name != "y"));
        assert_eq!(got.len(), truth.values.len(), "{name}");
        for (got, truth) in got.into_iter().zip(&truth.values) {
            largest[kind] = largest[kind].max((got.into() - truth).abs());
            scale[kind] = scale[kind].max(truth.abs());
        }
    }
    [largest[0] / scale[0], largest[1] / scale[1]]
}

/// The largest differences so far of the layer, and of the definition in f32.
#[derive(Debug, Default)]
struct Worst {
    layer: [f64; 2],
    plain: [f64; 2],
}

impl Worst {
    fn take(&mut self, got: &HashMap<String, Rows<f64>>, plain: &Named<f32>, truth: &Named<f64>) {
        let of_plain = |name: &str| {
            let found = plain.iter().find(|(known, _)| *known == name);
            found.unwrap().1.values.clone()
        };
        let layer = differences(truth, |name| got[name].values.clone());
        let plain = differences(truth, of_plain);
        for i in 0..2 {
            self.layer[i] = self.layer[i].max(layer[i]);
            self.plain[i] = self.plain[i].max(plain[i]);
        }
    }

    fn check(&self) {
        println!("largest of 1,000 cases, of output and gradients: {self:?}");
        for i in 0..2 {
            assert!(self.layer[i] <= 2.0 * self.plain[i], "{self:?}");
        }
    }
}

/// Random values, uniform up to this on both sides of zero.
fn random(rng: &mut SmallRng, shape: &[usize], most: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-most..most)).collect();
    let shape = Shape::try_from(shape).unwrap();
    Tensor::from_slice(shape, &values, Device::cpu()).unwrap()
}

/// The channels of a random case, x and dy.
fn case(rng: &mut SmallRng) -> (usize, [Tensor; 2]) {
    let (length, channels) = (rng.random_range(1..80), rng.random_range(1..24));
    let shape = [1, length, channels];
    (channels, [1.0, 1.0].map(|most| random(rng, &shape, most)))
}

/// S6 around the recurrence: w = W_Δ W_δ x + b, y = h.
fn s6<R: Real>(weights: &Weights, [x, dy]: [&Tensor; 2]) -> Named<R> {
    let (x, dy) = (Rows::of(x), Rows::of(dy));
    let (low, dt) = (weights.get("x_proj.weight"), weights.get("dt_proj.weight"));
    let reduced = x.times(&low.transposed());
    let w = reduced.times(&dt.transposed());
    let (h, backward) = recurrence(x.clone(), &w.plus(&weights.get("dt_proj.bias")));
    let [dx, dw] = backward(&dy);
    let dreduced: Rows<R> = dw.times(&dt);
    vec![
        ("y", h),
        ("x", dx.plus(&dreduced.times(&low))),
        ("x_proj.weight", dreduced.transposed().times(&x)),
        ("dt_proj.weight", dw.transposed().times(&reduced)),
        ("dt_proj.bias", dw.sums()),
    ]
}

/// The mixer around it: (x', w) = W_in x + (0, b), y = W_out h.
fn min_gru<R: Real>(weights: &Weights, [x, dy]: [&Tensor; 2]) -> Named<R> {
    let (x, dy) = (Rows::of(x), Rows::of(dy));
    let (proj, out) = (
        weights.get("in_proj.weight"),
        weights.get("out_proj.weight"),
    );
    let inputs = x.times(&Rows::transposed(&proj));
    let inner = inputs.cols / 2;
    let w = inputs.columns(inner, 2 * inner);
    let (h, backward) = recurrence(inputs.columns(0, inner), &w.plus(&weights.get("gate.bias")));
    let [dx, dw] = backward(&dy.times(&out));
    let both: Rows<R> = dx.beside(&dw);
    vec![
        ("y", h.times(&out.transposed())),
        ("x", both.times(&proj)),
        ("in_proj.weight", both.transposed().times(&x)),
        ("gate.bias", dw.sums()),
        ("out_proj.weight", dy.transposed().times(&h)),
    ]
}

#[test]
fn s6_with_one_number_as_state_is_a_gated_recurrence_under_zero_order_hold_alone() {
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut worst, mut nearest) = (Worst::default(), f64::INFINITY);
    for seed in 0..1000 {
        let (channels, [x, dy]) = case(&mut rng);
        let bias = random(&mut rng, &[channels], 3.0);
        let read = |zero_order_hold| {
            let config = SelectiveSsmConfig {
                d_state: 1,
                dt_rank: DtRank::Fixed(channels),
                selective_b: false,
                selective_c: false,
                zero_order_hold,
                ..SelectiveSsmConfig::default()
            };
            let mut layer = config.plan(channels, channels).unwrap();
            layer.fill(Device::cpu(), seed).unwrap();
            let full = |count, value: f32| Tensor::full([count], value, Device::cpu());
            let set = layer.visit_mut("", &mut |name, param| match name {
                "B" | "C" => param.set(full(1, 1.0)?),
                "D" => param.set(full(channels, 0.0)?),
                "dt_proj.bias" => param.set(bias.clone()),
                _ => Ok(()),
            });
            set.unwrap();
            let forward = |x: &Var| layer.forward(x, None, &Sequence::default(), None);
            (Weights::of(&*layer), run(&*layer, &forward, [&x, &dy]))
        };
        let (weights, held) = read(true);
        let a_log = weights.get::<f64>("A_log");
        assert!(a_log.values.iter().all(|log| *log == 0.0), "A = -1");
        let truth = s6(&weights, [&x, &dy]);
        worst.take(&held, &s6(&weights, [&x, &dy]), &truth);
        let (_, euler) = read(false);
        let [output, _] = differences(&truth, |name| euler[name].values.clone());
        nearest = nearest.min(output);
    }
    worst.check();
    println!("the output by Euler's rule is off by {nearest:e} at least");
    assert!(nearest > 0.01, "{nearest:e}");
}

#[test]
fn a_minimal_gated_recurrence_is_as_it_is_defined() {
    let mut rng = SmallRng::seed_from_u64(2);
    let mut worst = Worst::default();
    for seed in 0..1000 {
        let (width, [x, dy]) = case(&mut rng);
        let mixer = MinGruConfig::default().init(width, Device::cpu(), seed);
        let mixer = mixer.unwrap();
        let weights = Weights::of(&*mixer);
        let forward = |x: &Var| mixer.forward(x, &Sequence::default(), None);
        let got = run(&*mixer, &forward, [&x, &dy]);
        let truth = min_gru(&weights, [&x, &dy]);
        worst.take(&got, &min_gru(&weights, [&x, &dy]), &truth);
    }
    worst.check();
}
