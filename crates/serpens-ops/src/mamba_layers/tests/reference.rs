//! The definition of a layer's step in f64.

/// Operands of a layer row by row, and the state that it moves on.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) norm: Vec<f64>,
    pub(super) in_proj: Vec<f64>,
    pub(super) conv: Vec<f64>,
    pub(super) conv_bias: Option<Vec<f64>>,
    pub(super) x_proj: Vec<f64>,
    pub(super) dt_proj: Vec<f64>,
    pub(super) dt_bias: Vec<f64>,
    pub(super) a: Vec<f64>,
    pub(super) d: Vec<f64>,
    pub(super) out_proj: Vec<f64>,
    pub(super) past: Vec<f64>,
    pub(super) state: Vec<f64>,
}

fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    let row = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
    w.chunks_exact(x.len()).map(row).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

impl Layer {
    /// h after the layer; `round` is what becomes of the vectors that W_in and W_out multiply.
    pub(super) fn step(&mut self, h: &[f64], eps: f64, round: [fn(&mut [f64]); 2]) -> Vec<f64> {
        let (d_model, d_inner) = (h.len(), self.d.len());
        let (states, width) = (self.a.len() / d_inner, self.conv.len() / d_inner);
        let rank = self.dt_proj.len() / d_inner;
        let mean = h.iter().map(|h| h * h).sum::<f64>() / d_model as f64;
        let rstd = 1.0 / (mean + eps).sqrt();
        let mut normalised: Vec<f64> = h.iter().zip(&self.norm).map(|(h, w)| h * w).collect();
        round[0](&mut normalised);
        let inputs = product(&self.in_proj, &normalised);
        let inputs: Vec<f64> = inputs.iter().map(|value| value * rstd).collect();
        let (x, z) = inputs.split_at(d_inner);
        self.past.extend(x);
        let convolved = |channel: usize| {
            let taps = &self.conv[channel * width..][..width];
            let taps = taps.iter().enumerate();
            let sum: f64 = taps
                .map(|(k, w)| w * self.past[k * d_inner + channel])
                .sum();
            silu(sum + self.conv_bias.as_ref().map_or(0.0, |bias| bias[channel]))
        };
        let u: Vec<f64> = (0..d_inner).map(convolved).collect();
        self.past.drain(..d_inner);
        let projected = product(&self.x_proj, &u);
        let (low, rest) = projected.split_at(rank);
        let (b, c) = rest.split_at(states);
        let delta = product(&self.dt_proj, low);
        let mut y = Vec::new();
        for channel in 0..d_inner {
            let delta = (1.0 + (delta[channel] + self.dt_bias[channel]).exp()).ln();
            let mut sum = self.d[channel] * u[channel];
            for n in 0..states {
                let state = &mut self.state[channel * states + n];
                let decay = (delta * self.a[channel * states + n]).exp();
                *state = decay * *state + delta * b[n] * u[channel];
                sum += c[n] * *state;
            }
            y.push(sum * silu(z[channel]));
        }
        round[1](&mut y);
        let out = product(&self.out_proj, &y);
        h.iter().zip(out).map(|(h, out)| h + out).collect()
    }
}
