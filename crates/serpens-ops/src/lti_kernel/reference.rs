//! The definition in f64, on (re, im) pairs.

/// A complex number as (re, im).
pub type Complex = (f64, f64);

fn mul(a: Complex, b: Complex) -> Complex {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

/// A system of one kind or the other: `scale` is 1 for real ones (with zero imaginary parts) and 2 for complex ones.
#[derive(Clone, Debug)]
pub struct System {
    /// Number of channels.
    pub channels: usize,
    /// N.
    pub state: usize,
    /// s.
    pub scale: f64,
    /// Δ: (channels).
    pub dt: Vec<f64>,
    /// A: (channels, N).
    pub a: Vec<Complex>,
    /// B: (channels, N).
    pub b: Vec<Complex>,
    /// C: (channels, N).
    pub c: Vec<Complex>,
    /// D: (channels).
    pub d: Vec<f64>,
}

impl System {
    /// (Ā, B̄) of state n of channel e.
    fn discretise(&self, e: usize, n: usize) -> (Complex, Complex) {
        let i = e * self.state + n;
        let (dt, a) = (self.dt[e], self.a[i]);
        let magnitude = (dt * a.0).exp();
        let a_bar = (magnitude * (dt * a.1).cos(), magnitude * (dt * a.1).sin());
        let square = a.0 * a.0 + a.1 * a.1;
        let over_a = mul((a_bar.0 - 1.0, a_bar.1), (a.0 / square, -a.1 / square));
        (a_bar, mul(over_a, self.b[i]))
    }

    /// K: (length, channels).
    pub fn kernel(&self, length: usize) -> Vec<f64> {
        let mut k = vec![0.0; length * self.channels];
        for e in 0..self.channels {
            for n in 0..self.state {
                let (a_bar, b_bar) = self.discretise(e, n);
                let mut power = mul(self.c[e * self.state + n], b_bar);
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

    /// y (batch, length, channels) from u and a state (batch, channels, N), which is replaced.
    pub fn run(&self, u: &[f64], length: usize, state: &mut [Complex]) -> Vec<f64> {
        let (e_count, n_count) = (self.channels, self.state);
        let mut y = vec![0.0; u.len()];
        for row in 0..u.len() / e_count {
            let batch = row / length;
            for e in 0..e_count {
                let x = u[row * e_count + e];
                let mut sum = self.d[e] * x;
                for n in 0..n_count {
                    let (a_bar, b_bar) = self.discretise(e, n);
                    let h = &mut state[(batch * e_count + e) * n_count + n];
                    let kept = mul(a_bar, *h);
                    *h = (kept.0 + b_bar.0 * x, kept.1 + b_bar.1 * x);
                    sum += self.scale * mul(self.c[e * n_count + n], *h).0;
                }
                y[row * e_count + e] = sum;
            }
        }
        y
    }
}
