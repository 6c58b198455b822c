//! μ-law: samples as 256 levels, finer near silence.

/// μ of ITU-T G.711.
const MU: f32 = 255.0;

/// The level of a sample x in -1..=1: ⌊(f(x) + 1)/2 · 255 + 1/2⌋ with f(x) = sign(x) ln(1 + μ|x|) / ln(1 + μ), μ = 255.
///
/// It is the companding law of ITU-T G.711 in its continuous form, in even steps of f, as WaveNet has it (section 2.2
/// of arXiv 1609.03499). What lies beyond -1..=1 is clipped; NaN is level 0.
pub fn mu_law(x: f32) -> u8 {
    let x = x.clamp(-1.0, 1.0);
    let f = ((MU * x.abs()).ln_1p() / MU.ln_1p()).copysign(x);
    ((f + 1.0) / 2.0 * MU + 0.5) as u8
}

/// The sample in the middle of a level: f⁻¹(y) = sign(y) ((1 + μ)^|y| - 1) / μ, y = 2 level/255 - 1; see [`mu_law`].
pub fn from_mu_law(level: u8) -> f32 {
    let y = 2.0 * f32::from(level) / MU - 1.0;
    ((y.abs() * MU.ln_1p()).exp_m1() / MU).copysign(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_the_nearest_ones_of_the_companded_sample() {
        let companded = |x: f64| (255.0 * x.abs()).ln_1p().copysign(x) / 256_f64.ln();
        let half = 1.0 / 255.0;
        for step in -20_000..=20_000 {
            let x = f64::from(step) / 20_000.0;
            let again = f64::from(from_mu_law(mu_law(x as f32)));
            let off = (companded(again) - companded(x)).abs();
            assert!(off <= half + 1e-6, "{x} became {again}");
        }
    }

    #[test]
    fn every_level_comes_back() {
        for level in 0..=255 {
            assert_eq!(mu_law(from_mu_law(level)), level);
        }
        assert_eq!([-1.0, 0.0, 1.0].map(mu_law), [0, 128, 255]);
        assert_eq!([-7.0, 7.0, f32::NAN].map(mu_law), [0, 255, 0]);
    }
}
