//! The definition, on (re, im) pairs: in f64 what results are held against, in f32 the yardstick for their errors.

use crate::shared::tests::real::{Real, one, zero};

/// A complex number as (re, im).
pub type Complex<R = f64> = (R, R);

fn mul<R: Real>(a: Complex<R>, b: Complex<R>) -> Complex<R> {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

fn scaled<R: Real>(a: Complex<R>, by: R) -> Complex<R> {
    (a.0 * by, a.1 * by)
}

fn over<R: Real>(a: Complex<R>, b: Complex<R>) -> Complex<R> {
    let square = b.0 * b.0 + b.1 * b.1;
    mul(a, (b.0 / square, -b.1 / square))
}

/// A system of one kind or the other: `scale` is 1 for real ones (with zero imaginary parts) and 2 for complex ones.
#[derive(Clone, Debug)]
pub struct System<R = f64> {
    /// Number of channels.
    pub channels: usize,
    /// N.
    pub state: usize,
    /// s.
    pub scale: R,
    /// Δ: (channels).
    pub dt: Vec<R>,
    /// A: (channels, N).
    pub a: Vec<Complex<R>>,
    /// B: (channels, N).
    pub b: Vec<Complex<R>>,
    /// C: (channels, N).
    pub c: Vec<Complex<R>>,
    /// D: (channels).
    pub d: Vec<R>,
}

/// The gradients of a system; those of complex operands are (d/d re, d/d im).
#[derive(Clone, Debug)]
pub struct Gradients<R = f64> {
    /// With respect to Δ.
    pub dt: Vec<R>,
    /// With respect to A.
    pub a: Vec<Complex<R>>,
    /// With respect to B.
    pub b: Vec<Complex<R>>,
    /// With respect to C.
    pub c: Vec<Complex<R>>,
    /// With respect to D.
    pub d: Vec<R>,
}

impl<R: Real> System<R> {
    /// (Ā, φ) of state n of channel e, where B̄ = φ B.
    fn discretise(&self, e: usize, n: usize) -> (Complex<R>, Complex<R>) {
        let i = e * self.state + n;
        let (dt, a) = (self.dt[e], self.a[i]);
        let (sin, cos) = (dt * a.1).sin_cos();
        let a_bar = scaled((cos, sin), (dt * a.0).exp());
        (a_bar, over((a_bar.0 - one(), a_bar.1), a))
    }

    /// K: (length, channels).
    pub fn kernel(&self, length: usize) -> Vec<R> {
        let mut k = vec![zero::<R>(); length * self.channels];
        for e in 0..self.channels {
            for n in 0..self.state {
                let i = e * self.state + n;
                let (a_bar, phi) = self.discretise(e, n);
                let mut power = mul(self.c[i], mul(phi, self.b[i]));
                for t in 0..length {
                    k[t * self.channels + e] += self.scale * power.0;
                    power = mul(power, a_bar);
                }
            }
            if length > 0 {
                k[e] += self.d[e];
            }
        }
        k
    }

    /// The gradients for that of the kernel, (length, channels): K is s Re(C φ B Ā^t), a product whose factors'
    /// derivatives are 1 (of B and C), dφ/dA = (Δ Ā - φ)/A, dφ/dΔ = Ā, dĀ^t/dA = t Δ Ā^t and dĀ^t/dΔ = t A Ā^t.
    pub fn gradients(&self, length: usize, dk: &[R]) -> Gradients<R> {
        let (e_count, n_count) = (self.channels, self.state);
        let mut all = Gradients {
            dt: vec![zero(); e_count],
            a: Vec::new(),
            b: Vec::new(),
            c: Vec::new(),
            d: (0..e_count)
                .map(|e| if length > 0 { dk[e] } else { zero() })
                .collect(),
        };
        for e in 0..e_count {
            for n in 0..n_count {
                let i = e * n_count + n;
                let (dt, a, b, c) = (self.dt[e], self.a[i], self.b[i], self.c[i]);
                let (a_bar, phi) = self.discretise(e, n);
                // Σ_t dK s Ā^t and Σ_t dK s t Ā^t.
                let (mut s0, mut s1) = ((zero::<R>(), zero::<R>()), (zero::<R>(), zero::<R>()));
                let mut power = (self.scale, zero());
                let mut time = zero::<R>();
                for t in 0..length {
                    let term = scaled(power, dk[t * e_count + e]);
                    s0 = (s0.0 + term.0, s0.1 + term.1);
                    s1 = (s1.0 + term.0 * time, s1.1 + term.1 * time);
                    power = mul(power, a_bar);
                    time += one();
                }
                let cb = mul(c, b);
                let (of_phi, of_power) = (mul(s0, cb), mul(s1, mul(cb, phi)));
                let by_a = over((dt * a_bar.0 - phi.0, dt * a_bar.1 - phi.1), a);
                let through_phi = mul(of_phi, by_a);
                let of_a = (
                    through_phi.0 + of_power.0 * dt,
                    through_phi.1 + of_power.1 * dt,
                );
                all.dt[e] += mul(of_phi, a_bar).0 + mul(of_power, a).0;
                // Re(γ dx) changes by Re γ with the real part of x and by -Im γ with its imaginary part.
                let parts = |gamma: Complex<R>| (gamma.0, -gamma.1);
                all.a.push(parts(of_a));
                all.b.push(parts(mul(s0, mul(c, phi))));
                all.c.push(parts(mul(s0, mul(b, phi))));
            }
        }
        all
    }

    /// y (batch, length, channels) from u and a state (batch, channels, N), which is replaced.
    pub fn run(&self, u: &[R], length: usize, state: &mut [Complex<R>]) -> Vec<R> {
        let (e_count, n_count) = (self.channels, self.state);
        let mut y = vec![zero::<R>(); u.len()];
        for row in 0..u.len() / e_count {
            let batch = row / length;
            for e in 0..e_count {
                let x = u[row * e_count + e];
                let mut sum = self.d[e] * x;
                for n in 0..n_count {
                    let i = e * n_count + n;
                    let (a_bar, phi) = self.discretise(e, n);
                    let b_bar = mul(phi, self.b[i]);
                    let h = &mut state[batch * e_count * n_count + i];
                    let kept = mul(a_bar, *h);
                    *h = (kept.0 + b_bar.0 * x, kept.1 + b_bar.1 * x);
                    sum += self.scale * mul(self.c[i], *h).0;
                }
                y[row * e_count + e] = sum;
            }
        }
        y
    }
}
