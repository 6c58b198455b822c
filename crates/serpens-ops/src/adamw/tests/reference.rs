//! The definition in f64.

/// The numbers of one step: learning rate, β1, β2, eps, weight decay, and t.
pub type Settings = (f64, f64, f64, f64, f64, i32);

/// Updates the parameter and its moments in place.
pub fn update(settings: Settings, p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64]) {
    let (lr, beta1, beta2, eps, weight_decay, t) = settings;
    for i in 0..p.len() {
        p[i] -= lr * weight_decay * p[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        let first = m[i] / (1.0 - beta1.powi(t));
        let second = v[i] / (1.0 - beta2.powi(t));
        p[i] -= lr * first / (second.sqrt() + eps);
    }
}
