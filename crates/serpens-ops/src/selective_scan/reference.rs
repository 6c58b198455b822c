//! The scan and its gradients by plain loops over dense tensors, in f64 as the reference that every kernel is held against, and in
//! f32 as the plain evaluation whose error says what a kernel may have.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use super::cpu::Dims;

/// The arithmetic that the reference needs: f32 or f64.
#[expect(missing_docs, reason = "the names are those of f32 and f64")]
pub trait Float:
    Copy
    + Default
    + PartialOrd
    + AddAssign
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln_1p(self) -> Self;
    fn sin_cos(self) -> (Self, Self);
}

macro_rules! float {
    ($t:ty) => {
        impl Float for $t {
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln_1p(self) -> Self {
                self.ln_1p()
            }
            fn sin_cos(self) -> (Self, Self) {
                self.sin_cos()
            }
        }
    };
}
float!(f32);
float!(f64);

/// The tensors of one scan, dense; an empty vector stands for one that is absent. Also the gradients, in the same shapes.
#[derive(Clone, Debug, Default)]
pub struct Values<T> {
    /// u: (batch, length, channels).
    pub u: Vec<T>,
    /// Δ: (batch, length, channels).
    pub delta: Vec<T>,
    /// The real part of A: (channels, N).
    pub a_re: Vec<T>,
    /// The imaginary part of A: (channels, N), empty for a real A.
    pub a_im: Vec<T>,
    /// B: (batch, length, groups, parts·N).
    pub b: Vec<T>,
    /// C: (batch, length, groups, parts·N).
    pub c: Vec<T>,
    /// D: (channels).
    pub d: Vec<T>,
    /// z: (batch, length, channels).
    pub z: Vec<T>,
    /// The bias of Δ: (channels).
    pub delta_bias: Vec<T>,
    /// The state before the first step: (batch, channels, parts·N).
    pub initial_state: Vec<T>,
}

/// What is not differentiated.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where packed sequences start: (batch, length), or empty.
    pub starts: Vec<bool>,
    /// Whether δ = softplus(Δ + bias).
    pub softplus: bool,
    /// Whether time runs from the last position to the first.
    pub reverse: bool,
}

impl<T: Float> Values<T> {
    /// The same values in another precision.
    pub fn cast<U: Float>(&self) -> Values<U> {
        let cast = |x: &[T]| x.iter().map(|x| U::from_f64(x.to_f64())).collect();
        Values {
            u: cast(&self.u),
            delta: cast(&self.delta),
            a_re: cast(&self.a_re),
            a_im: cast(&self.a_im),
            b: cast(&self.b),
            c: cast(&self.c),
            d: cast(&self.d),
            z: cast(&self.z),
            delta_bias: cast(&self.delta_bias),
            initial_state: cast(&self.initial_state),
        }
    }

    /// All tensors by name.
    pub fn named(&self) -> [(&'static str, &Vec<T>); 10] {
        [
            ("u", &self.u),
            ("delta", &self.delta),
            ("a_re", &self.a_re),
            ("a_im", &self.a_im),
            ("b", &self.b),
            ("c", &self.c),
            ("d", &self.d),
            ("z", &self.z),
            ("delta_bias", &self.delta_bias),
            ("initial_state", &self.initial_state),
        ]
    }

    /// The tensor of a name that [`Values::named`] gives.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Vec<T>> {
        Some(match name {
            "u" => &mut self.u,
            "delta" => &mut self.delta,
            "a_re" => &mut self.a_re,
            "a_im" => &mut self.a_im,
            "b" => &mut self.b,
            "c" => &mut self.c,
            "d" => &mut self.d,
            "z" => &mut self.z,
            "delta_bias" => &mut self.delta_bias,
            "initial_state" => &mut self.initial_state,
            _ => return None,
        })
    }

    fn zeros_like(&self) -> Self {
        let mut zeros = self.clone();
        for (name, _) in self.named() {
            if let Some(values) = zeros.get_mut(name) {
                values.fill(T::default());
            }
        }
        zeros
    }
}

/// A complex number; real scans leave `im` zero.
#[derive(Clone, Copy, Default)]
struct Number<T> {
    re: T,
    im: T,
}

impl<T: Float> Number<T> {
    fn times(self, other: Self) -> Self {
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            re: self.re + other.re,
            im: self.im + other.im,
        }
    }

    fn scaled(self, by: T) -> Self {
        Self {
            re: self.re * by,
            im: self.im * by,
        }
    }

    fn conj(self) -> Self {
        Self {
            re: self.re,
            im: -self.im,
        }
    }
}

fn sigmoid<T: Float>(x: T) -> T {
    let one = T::from_f64(1.0);
    one / (one + (-x).exp())
}

fn softplus<T: Float>(x: T) -> T {
    let zero = T::default();
    let (positive, magnitude) = if x > zero { (x, x) } else { (zero, -x) };
    positive + (-magnitude).exp().ln_1p()
}

/// Where things lie: the scan of one channel of one sequence.
struct Channel<'a, T> {
    dims: &'a Dims,
    x: &'a Values<T>,
    options: &'a Options,
    batch: usize,
    channel: usize,
}

impl<T: Float> Channel<'_, T> {
    fn parts(&self) -> usize {
        if self.x.a_im.is_empty() { 1 } else { 2 }
    }

    /// The position of a step.
    fn position(&self, step: usize) -> usize {
        if self.options.reverse {
            self.dims.length - 1 - step
        } else {
            step
        }
    }

    /// Whether the state is zero before a step.
    fn resets(&self, step: usize) -> bool {
        let (starts, at) = (
            &self.options.starts,
            self.batch * self.dims.length + self.position(step),
        );
        match (starts.is_empty(), self.options.reverse) {
            (true, _) => false,
            (false, false) => starts[at],
            (false, true) => step > 0 && starts[at + 1],
        }
    }

    /// Index into u, Δ, z, out.
    fn at(&self, step: usize) -> usize {
        (self.batch * self.dims.length + self.position(step)) * self.dims.channels + self.channel
    }

    /// Index of the real and the imaginary part of number n in B, C; equal for real scans.
    fn in_group(&self, step: usize, n: usize) -> (usize, usize) {
        let size = self.parts() * self.dims.state;
        let group = self.channel / (self.dims.channels / self.dims.groups);
        let row = self.batch * self.dims.length + self.position(step);
        let re = (row * self.dims.groups + group) * size + n;
        (re, re + (self.parts() - 1) * self.dims.state)
    }

    /// Index of the parts of number n in the initial and the last state.
    fn in_state(&self, n: usize) -> (usize, usize) {
        let size = self.parts() * self.dims.state;
        let re = (self.batch * self.dims.channels + self.channel) * size + n;
        (re, re + (self.parts() - 1) * self.dims.state)
    }

    fn number(&self, from: &[T], (re, im): (usize, usize)) -> Number<T> {
        Number {
            re: from[re],
            im: if self.parts() == 2 {
                from[im]
            } else {
                T::default()
            },
        }
    }

    fn a(&self, n: usize) -> Number<T> {
        let at = self.channel * self.dims.state + n;
        Number {
            re: self.x.a_re[at],
            im: self.x.a_im.get(at).copied().unwrap_or_default(),
        }
    }

    fn pre_delta(&self, step: usize) -> T {
        let bias = self
            .x
            .delta_bias
            .get(self.channel)
            .copied()
            .unwrap_or_default();
        self.x.delta[self.at(step)] + bias
    }

    fn delta(&self, step: usize) -> T {
        let x = self.pre_delta(step);
        if self.options.softplus {
            softplus(x)
        } else {
            x
        }
    }

    fn decay(&self, step: usize, n: usize) -> Number<T> {
        let exponent = self.a(n).scaled(self.delta(step));
        let (sine, cosine) = exponent.im.sin_cos();
        Number {
            re: cosine,
            im: sine,
        }
        .scaled(exponent.re.exp())
    }

    /// <C, h> + D u, before the gate; `after` holds the states of every number after every step.
    fn y(&self, step: usize, after: &[Vec<Number<T>>]) -> T {
        let mut sum = T::default();
        for (n, states) in after.iter().enumerate() {
            sum += self
                .number(&self.x.c, self.in_group(step, n))
                .times(states[step])
                .re;
        }
        let d = self.x.d.get(self.channel).copied().unwrap_or_default();
        sum * T::from_f64(self.parts() as f64) + d * self.x.u[self.at(step)]
    }

    fn add_to(&self, to: &mut [T], (re, im): (usize, usize), value: Number<T>) {
        to[re] += value.re;
        if self.parts() == 2 {
            to[im] += value.im;
        }
    }

    /// The states before and after every step of number n; `before[t]` is already reset where a sequence starts.
    fn states(&self, n: usize) -> (Vec<Number<T>>, Vec<Number<T>>) {
        let mut h = if self.x.initial_state.is_empty() {
            Number::default()
        } else {
            self.number(&self.x.initial_state, self.in_state(n))
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for step in 0..self.dims.length {
            if self.resets(step) {
                h = Number::default();
            }
            before.push(h);
            let input = self.delta(step) * self.x.u[self.at(step)];
            let b = self.number(&self.x.b, self.in_group(step, n));
            h = self.decay(step, n).times(h).plus(b.scaled(input));
            after.push(h);
        }
        (before, after)
    }
}

/// `out` (batch, length, channels) and the last state (batch, channels, parts·N).
pub fn forward<T: Float>(dims: &Dims, x: &Values<T>, options: &Options) -> (Vec<T>, Vec<T>) {
    let parts = if x.a_im.is_empty() { 1 } else { 2 };
    let mut out = vec![T::default(); dims.batch * dims.length * dims.channels];
    let mut last = vec![T::default(); dims.batch * dims.channels * parts * dims.state];
    for_channels(dims, x, options, |scan| {
        let states: Vec<_> = (0..dims.state).map(|n| scan.states(n).1).collect();
        for step in 0..dims.length {
            let y = scan.y(step, &states);
            out[scan.at(step)] = if x.z.is_empty() {
                y
            } else {
                let z = x.z[scan.at(step)];
                y * z * sigmoid(z)
            };
        }
        for (n, states) in states.iter().enumerate() {
            scan.add_to(&mut last, scan.in_state(n), states[dims.length - 1]);
        }
    });
    (out, last)
}

/// The gradients of Σ out dout + Σ last dlast, by the equations of the chain rule. An empty `dlast` is zero.
pub fn backward<T: Float>(
    dims: &Dims,
    x: &Values<T>,
    options: &Options,
    dout: &[T],
    dlast: &[T],
) -> Values<T> {
    let one = T::from_f64(1.0);
    let mut grads = x.zeros_like();
    for_channels(dims, x, options, |scan| {
        let parts = T::from_f64(scan.parts() as f64);
        let c = scan.channel;
        let states: Vec<_> = (0..dims.state).map(|n| scan.states(n)).collect();
        let after: Vec<_> = states.iter().map(|(_, after)| after.clone()).collect();
        let mut carry: Vec<_> = (0..dims.state)
            .map(|n| {
                if dlast.is_empty() {
                    Number::default()
                } else {
                    scan.number(dlast, scan.in_state(n))
                }
            })
            .collect();
        for step in (0..dims.length).rev() {
            let at = scan.at(step);
            let (u, delta) = (x.u[at], scan.delta(step));
            let mut g = dout[at];
            if !x.z.is_empty() {
                let (z, sigma) = (x.z[at], sigmoid(x.z[at]));
                grads.z[at] = dout[at] * scan.y(step, &after) * sigma * (one + z * (one - sigma));
                g = g * z * sigma;
            }
            let (mut lambda_b, mut ddelta) = (T::default(), T::default());
            for n in 0..dims.state {
                let (b, cc) = (
                    scan.number(&x.b, scan.in_group(step, n)),
                    scan.number(&x.c, scan.in_group(step, n)),
                );
                let lambda = carry[n].plus(cc.conj().scaled(parts * g));
                let h = states[n].1[step];
                scan.add_to(
                    &mut grads.c,
                    scan.in_group(step, n),
                    h.conj().scaled(parts * g),
                );
                scan.add_to(
                    &mut grads.b,
                    scan.in_group(step, n),
                    lambda.scaled(delta * u),
                );
                lambda_b += lambda.re * b.re + lambda.im * b.im;
                let next = scan.decay(step, n).conj().times(lambda);
                // The gradient of the exponent δA.
                let dlog = next.times(states[n].0[step].conj());
                let a = scan.a(n);
                ddelta += a.re * dlog.re + a.im * dlog.im;
                grads.a_re[c * dims.state + n] += delta * dlog.re;
                if let Some(da) = grads.a_im.get_mut(c * dims.state + n) {
                    *da += delta * dlog.im;
                }
                carry[n] = if scan.resets(step) {
                    Number::default()
                } else {
                    next
                };
            }
            grads.u[at] = delta * lambda_b;
            if !x.d.is_empty() {
                grads.u[at] += x.d[c] * g;
                grads.d[c] += g * u;
            }
            ddelta += u * lambda_b;
            if options.softplus {
                ddelta = ddelta * sigmoid(scan.pre_delta(step));
            }
            grads.delta[at] = ddelta;
            if let Some(dbias) = grads.delta_bias.get_mut(c) {
                *dbias += ddelta;
            }
        }
        if !x.initial_state.is_empty() {
            for (n, &carry) in carry.iter().enumerate() {
                scan.add_to(&mut grads.initial_state, scan.in_state(n), carry);
            }
        }
    });
    grads
}

fn for_channels<T: Float>(
    dims: &Dims,
    x: &Values<T>,
    options: &Options,
    mut f: impl FnMut(Channel<T>),
) {
    for batch in 0..dims.batch {
        for channel in 0..dims.channels {
            f(Channel {
                dims,
                x,
                options,
                batch,
                channel,
            });
        }
    }
}
