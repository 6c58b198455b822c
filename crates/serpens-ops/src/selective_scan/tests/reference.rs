//! The scan and its gradients by plain loops over dense tensors, in f64 as the reference that every kernel is held
//! against, and in f32 as the plain evaluation whose error says what a kernel may have.

use crate::selective_scan::{self, Dims, ScanOperands};
use crate::shared::tests::real::Real;

/// A scan of dense values; where packed sequences start, as time runs: (batch, length).
pub(super) type Scan<T> = selective_scan::Scan<Vec<T>, Vec<bool>>;

impl<T> ScanOperands<Vec<T>> {
    /// The same values in another precision.
    pub(super) fn cast<U: Real>(&self) -> ScanOperands<Vec<U>>
    where
        T: Real,
    {
        let cast = |x: &Vec<T>| x.iter().map(|x| U::from_f64((*x).into())).collect();
        self.as_ref().map(|_, x| cast(x))
    }
}

impl<T> Scan<T> {
    /// The same scan in another precision.
    pub(super) fn cast<U: Real>(&self) -> Scan<U>
    where
        T: Real,
    {
        Scan {
            dims: self.dims,
            operands: self.operands.cast(),
            starts: self.starts.clone(),
            softplus: self.softplus,
            zero_order_hold: self.zero_order_hold,
            reverse: self.reverse,
        }
    }
}

/// A complex number; real scans leave `im` zero.
#[derive(Clone, Copy, Default)]
struct Number<T> {
    re: T,
    im: T,
}

impl<T: Real> Number<T> {
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

fn sigmoid<T: Real>(x: T) -> T {
    let one = T::from_f64(1.0);
    one / (one + (-x).exp())
}

fn softplus<T: Real>(x: T) -> T {
    let zero = T::default();
    let (positive, magnitude) = if x > zero { (x, x) } else { (zero, -x) };
    positive + (-magnitude).exp().ln_1p()
}

/// A value of an operand that may be absent, which stands for zeros.
fn value<T: Real>(x: &Option<Vec<T>>, at: usize) -> T {
    x.as_ref().map_or_else(T::default, |x| x[at])
}

/// Where things lie: the scan of one channel of one sequence.
struct Channel<'a, T> {
    scan: &'a Scan<T>,
    dims: &'a Dims,
    x: &'a ScanOperands<Vec<T>>,
    batch: usize,
    channel: usize,
}

impl<T: Real> Channel<'_, T> {
    /// The position of a step.
    fn position(&self, step: usize) -> usize {
        if self.scan.reverse {
            self.dims.length - 1 - step
        } else {
            step
        }
    }

    /// Whether the state is zero before a step.
    fn resets(&self, step: usize) -> bool {
        let at = self.batch * self.dims.length + self.position(step);
        self.scan.starts.as_ref().is_some_and(|starts| starts[at])
    }

    /// Index into u, Δ, z, out.
    fn at(&self, step: usize) -> usize {
        (self.batch * self.dims.length + self.position(step)) * self.dims.channels + self.channel
    }

    /// Index of the real and the imaginary part of number n in B, C; equal for real scans.
    fn in_group(&self, step: usize, n: usize) -> (usize, usize) {
        let size = self.dims.width();
        let group = self.channel / self.dims.group_channels();
        let row = self.batch * self.dims.length + self.position(step);
        let re = (row * self.dims.groups + group) * size + n;
        (re, re + size - self.dims.state)
    }

    /// Index of the parts of number n in the initial and the last state.
    fn in_state(&self, n: usize) -> (usize, usize) {
        let size = self.dims.width();
        let re = (self.batch * self.dims.channels + self.channel) * size + n;
        (re, re + size - self.dims.state)
    }

    fn number(&self, from: &[T], (re, im): (usize, usize)) -> Number<T> {
        Number {
            re: from[re],
            im: if self.dims.complex {
                from[im]
            } else {
                T::default()
            },
        }
    }

    fn a(&self, n: usize) -> Number<T> {
        let at = self.channel * self.dims.state + n;
        Number {
            re: self.x.a[at],
            im: value(&self.x.a_im, at),
        }
    }

    fn pre_delta(&self, step: usize) -> T {
        self.x.delta[self.at(step)] + value(&self.x.delta_bias, self.channel)
    }

    fn delta(&self, step: usize) -> T {
        let x = self.pre_delta(step);
        if self.scan.softplus { softplus(x) } else { x }
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

    /// The factor of δ B u in the state, and the derivatives of δ times it by δ and A.
    fn factor(&self, step: usize, n: usize) -> [T; 3] {
        let (delta, one) = (self.delta(step), T::from_f64(1.0));
        if !self.scan.zero_order_hold {
            return [one, one, T::default()];
        }
        let a = self.a(n).re;
        let x = delta * a;
        if x.into().abs() >= 0.5 {
            let factor = x.exp_m1() / x;
            return [factor, x.exp(), delta * (x.exp() - factor) / a];
        }
        // Σ x^k / (k + 1)! and its derivative, Σ (k + 1) x^k / (k + 2)!.
        let (mut value, mut slope, mut term) = (T::default(), T::default(), one);
        for k in 1..20 {
            let k = f64::from(k);
            term = term / T::from_f64(k);
            value += term;
            slope += term * T::from_f64(k / (k + 1.0));
            term = term * x;
        }
        [value, x.exp(), delta * delta * slope]
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
        let d = value(&self.x.d, self.channel);
        sum * T::from_f64(self.dims.parts() as f64) + d * self.x.u[self.at(step)]
    }

    fn add_to(&self, to: &mut [T], (re, im): (usize, usize), value: Number<T>) {
        to[re] += value.re;
        if self.dims.complex {
            to[im] += value.im;
        }
    }

    /// The states before and after every step of number n; `before[t]` is already reset where a sequence starts.
    fn states(&self, n: usize) -> (Vec<Number<T>>, Vec<Number<T>>) {
        let initial = self.x.initial_state.as_ref();
        let mut h = initial.map_or_else(Number::default, |h| self.number(h, self.in_state(n)));
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for step in 0..self.dims.length {
            if self.resets(step) {
                h = Number::default();
            }
            before.push(h);
            let input = self.delta(step) * self.x.u[self.at(step)] * self.factor(step, n)[0];
            let b = self.number(&self.x.b, self.in_group(step, n));
            h = self.decay(step, n).times(h).plus(b.scaled(input));
            after.push(h);
        }
        (before, after)
    }

    /// The gradient of y before the gate from that of the output; sets that of z.
    fn gate_back(
        &self,
        step: usize,
        dout: T,
        after: &[Vec<Number<T>>],
        dz: &mut Option<Vec<T>>,
    ) -> T {
        let (Some(z), Some(dz)) = (&self.x.z, dz) else {
            return dout;
        };
        let (at, one) = (self.at(step), T::from_f64(1.0));
        let (z, sigma) = (z[at], sigmoid(z[at]));
        dz[at] = dout * self.y(step, after) * sigma * (one + z * (one - sigma));
        dout * z * sigma
    }

    /// A step back of number n with its states before and after the step: adds to the gradients of A, B and C, and
    /// returns <λ, B>, as u has it and as δ has it, and <A, the gradient of the exponent δA>.
    fn number_back(
        &self,
        step: usize,
        n: usize,
        g: T,
        (before, after): (Number<T>, Number<T>),
        carry: &mut Number<T>,
        grads: &mut ScanOperands<Vec<T>>,
    ) -> [T; 3] {
        let (at, in_group) = (self.channel * self.dims.state + n, self.in_group(step, n));
        let (delta, u) = (self.delta(step), self.x.u[self.at(step)]);
        let [factor, by_delta, by_a] = self.factor(step, n);
        let [b, c] = [&self.x.b, &self.x.c].map(|x| self.number(x, in_group));
        let lambda = carry.plus(c.conj().scaled(g));
        self.add_to(&mut grads.c, in_group, after.conj().scaled(g));
        self.add_to(&mut grads.b, in_group, lambda.scaled(delta * u * factor));
        let next = self.decay(step, n).conj().times(lambda);
        let dlog = next.times(before.conj());
        let lambda_b = lambda.re * b.re + lambda.im * b.im;
        grads.a[at] += delta * dlog.re + by_a * lambda_b * u;
        if let Some(da) = &mut grads.a_im {
            da[at] += delta * dlog.im;
        }
        *carry = if self.resets(step) {
            Number::default()
        } else {
            next
        };
        let a = self.a(n);
        [
            factor * lambda_b,
            by_delta * lambda_b,
            a.re * dlog.re + a.im * dlog.im,
        ]
    }
}

/// `out` (batch, length, channels) and the last state (batch, channels, parts·N).
pub(super) fn forward<T: Real>(scan: &Scan<T>) -> (Vec<T>, Vec<T>) {
    let (dims, x) = (&scan.dims, &scan.operands);
    let mut out = vec![T::default(); dims.rows() * dims.channels];
    let mut last = vec![T::default(); dims.batch * dims.channels * dims.width()];
    for_channels(scan, |scan| {
        let states: Vec<_> = (0..dims.state).map(|n| scan.states(n).1).collect();
        for step in 0..dims.length {
            let y = scan.y(step, &states);
            let z = x.z.as_ref().map(|z| z[scan.at(step)]);
            out[scan.at(step)] = z.map_or(y, |z| y * z * sigmoid(z));
        }
        for (n, states) in states.iter().enumerate() {
            scan.add_to(&mut last, scan.in_state(n), states[dims.length - 1]);
        }
    });
    (out, last)
}

/// Δ of rank R from what each row says of it, (rows, R), and a weight (channels, R): (rows, channels).
pub(super) fn low_rank<T: Real>(low: &[T], weight: &[T], rank: usize) -> Vec<T> {
    let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| *a * *b).sum();
    let of_row = |low: &[T]| -> Vec<T> { weight.chunks(rank).map(|w| dot(low, w)).collect() };
    low.chunks(rank).flat_map(of_row).collect()
}

/// The gradients of Σ out dout + Σ last dlast, by the equations of the chain rule. An absent `dlast` is zero.
pub(super) fn backward<T: Real>(
    scan: &Scan<T>,
    dout: &[T],
    dlast: Option<&[T]>,
) -> ScanOperands<Vec<T>> {
    let (dims, x, softplus) = (&scan.dims, &scan.operands, scan.softplus);
    let mut grads = x.as_ref().map(|_, x| vec![T::default(); x.len()]);
    for_channels(scan, |scan| {
        let parts = T::from_f64(dims.parts() as f64);
        let c = scan.channel;
        let (before, after): (Vec<_>, Vec<_>) = (0..dims.state).map(|n| scan.states(n)).unzip();
        let mut carry: Vec<_> = (0..dims.state)
            .map(|n| dlast.map_or_else(Number::default, |d| scan.number(d, scan.in_state(n))))
            .collect();
        for step in (0..dims.length).rev() {
            let at = scan.at(step);
            let (u, delta) = (x.u[at], scan.delta(step));
            let g = scan.gate_back(step, dout[at], &after, &mut grads.z);
            let mut sums = [T::default(); 3];
            for (n, carry) in carry.iter_mut().enumerate() {
                let states = (before[n][step], after[n][step]);
                let of_n = scan.number_back(step, n, parts * g, states, carry, &mut grads);
                for (sum, of_n) in sums.iter_mut().zip(of_n) {
                    *sum += of_n;
                }
            }
            let [of_u, of_delta, of_a] = sums;
            grads.u[at] = delta * of_u;
            if let (Some(d), Some(dd)) = (&x.d, &mut grads.d) {
                grads.u[at] += d[c] * g;
                dd[c] += g * u;
            }
            let mut ddelta = of_a + u * of_delta;
            if softplus {
                ddelta = ddelta * sigmoid(scan.pre_delta(step));
            }
            grads.delta[at] = ddelta;
            if let Some(dbias) = &mut grads.delta_bias {
                dbias[c] += ddelta;
            }
        }
        if let Some(dinitial) = &mut grads.initial_state {
            for (n, &carry) in carry.iter().enumerate() {
                scan.add_to(dinitial, scan.in_state(n), carry);
            }
        }
    });
    grads
}

fn for_channels<T: Real>(scan: &Scan<T>, mut f: impl FnMut(Channel<T>)) {
    let dims = &scan.dims;
    for batch in 0..dims.batch {
        for channel in 0..dims.channels {
            f(Channel {
                scan,
                dims,
                x: &scan.operands,
                batch,
                channel,
            });
        }
    }
}
