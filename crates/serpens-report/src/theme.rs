//! Colours: the inks of light and dark mode, and two palettes of even steps in lightness.

/// Declares the inks: name, light colour, dark colour.
macro_rules! inks {
    ($($(#[$doc:meta])* $name:ident $light:literal $dark:literal,)*) => {
        /// The colours of a figure, each a CSS colour.
        pub(super) struct Inks {
            $($(#[$doc])* pub $name: &'static str,)*
        }

        /// Dark ink on white: for paper and most pages.
        pub(super) const LIGHT: Inks = Inks { $($name: $light,)* };

        /// Light ink on near black.
        pub(super) const DARK: Inks = Inks { $($name: $dark,)* };

        /// The inks of a figure inside the page: variables that the page's style sheet sets for either mode.
        pub(super) const PAGE: Inks = Inks { $($name: concat!("var(--", stringify!($name), ")"),)* };

        impl Inks {
            /// CSS that shows a figure drawn with these colours in the others.
            pub(super) fn turned(&self, others: &Inks) -> String {
                let rule = |from, to| format!("[fill=\"{from}\"]{{fill:{to}}}[stroke=\"{from}\"]{{stroke:{to}}}");
                [$(rule(self.$name, others.$name)),*].concat()
            }

            /// CSS declarations that give the variables of [`PAGE`] these colours.
            pub(super) fn declarations(&self) -> String {
                [$(format!("--{}:{};", stringify!($name), self.$name)),*].concat()
            }
        }
    };
}

inks! {
    paper "#ffffff" "#14171b",
    ink "#1b1f24" "#e9ecef",
    muted "#5d6670" "#9aa4ae",
    grid "#e4e7ea" "#2a3037",
    /// Where a heat map has no value.
    empty "#eceef0" "#23282e",
    /// Tokens that carry data.
    accent "#c8500a" "#ffa057",
    /// Tokens that do not.
    quiet "#8aa3b8" "#5c7489",
    s0 "#0a6cb0" "#5ab6f0",
    s1 "#cf5400" "#ff9c52",
    s2 "#00875f" "#35cfa3",
    s3 "#b0478f" "#e594c8",
    s4 "#96730a" "#e8d34a",
    s5 "#4a4f57" "#b9c0c8",
}

impl Inks {
    /// Curves: told apart with any colour vision, at least 3:1 against the paper.
    pub(super) fn curves(&self) -> [&'static str; 6] {
        [self.s0, self.s1, self.s2, self.s3, self.s4, self.s5]
    }
}

/// A sequential palette: a path through OKLCh on which lightness grows evenly, so that equal steps of a value look
/// equal and the order survives in grey print and in any colour vision.
pub(super) struct Palette {
    lightness: (f64, f64),
    chroma: (f64, f64),
    hue: (f64, f64),
}

/// Violet, teal, yellow: the step size.
pub(super) const STEP: Palette = Palette {
    lightness: (0.24, 0.93),
    chroma: (0.115, 0.165),
    hue: (305.0, 103.0),
};

/// Near black, plum, orange, cream: retention.
pub(super) const MEMORY: Palette = Palette {
    lightness: (0.19, 0.95),
    chroma: (0.09, 0.10),
    hue: (285.0, 440.0),
};

impl Palette {
    /// The colour at `t` in 0..=1, in sRGB.
    pub(super) fn rgb(&self, t: f64) -> [u8; 3] {
        let t = t.clamp(0.0, 1.0);
        let mix = |(from, to): (f64, f64)| from + (to - from) * t;
        // A bulge in the middle of the way, where the displays' gamut has room for it.
        let chroma = mix(self.chroma) + 0.16 * t * (1.0 - t);
        let hue = mix(self.hue).to_radians();
        let mut fit = chroma;
        loop {
            let rgb = oklab_to_linear(mix(self.lightness), fit * hue.cos(), fit * hue.sin());
            if fit < 0.005 || rgb.iter().all(|v| (-0.0005..=1.0005).contains(v)) {
                return rgb.map(|v| (gamma(v.clamp(0.0, 1.0)) * 255.0).round() as u8);
            }
            fit *= 0.98;
        }
    }

    /// The colour at `t` in 0..=1, as `#rrggbb`.
    pub(super) fn hex(&self, t: f64) -> String {
        let [r, g, b] = self.rgb(t);
        format!("#{r:02x}{g:02x}{b:02x}")
    }
}

/// OKLab to linear sRGB (B. Ottosson, "A perceptual color space for image processing", 2020).
fn oklab_to_linear(lightness: f64, a: f64, b: f64) -> [f64; 3] {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ]
}

/// The transfer curve of sRGB.
fn gamma(v: f64) -> f64 {
    if v <= 0.003_130_8 {
        12.92 * v
    } else {
        1.055 * v.powf(1.0 / 2.4) - 0.055
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confusion::MOST_INK;

    fn luminance([r, g, b]: [u8; 3]) -> f64 {
        let linear = |v: u8| {
            let v = f64::from(v) / 255.0;
            if v <= 0.04045 {
                v / 12.92
            } else {
                ((v + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
    }

    fn parse(hex: &str) -> [u8; 3] {
        [1, 3, 5].map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
    }

    #[test]
    fn palettes_grow_lighter_at_every_step() {
        for palette in [STEP, MEMORY] {
            let steps: Vec<f64> = (0..64)
                .map(|i| luminance(palette.rgb(f64::from(i) / 63.0)))
                .collect();
            assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
        }
    }

    #[test]
    fn curves_and_text_stand_out_from_the_paper() {
        let contrast = |a: &str, b: &str| {
            let (a, b) = (luminance(parse(a)), luminance(parse(b)));
            (a.max(b) + 0.05) / (a.min(b) + 0.05)
        };
        for inks in [LIGHT, DARK] {
            assert!(
                inks.curves()
                    .iter()
                    .all(|colour| contrast(colour, inks.paper) > 3.0)
            );
            assert!(
                [inks.ink, inks.muted, inks.accent]
                    .iter()
                    .all(|colour| contrast(colour, inks.paper) > 4.0)
            );
            // The darkest cell of a confusion matrix, with its count.
            let (paper, cell) = (parse(inks.paper), parse(inks.s0));
            let mixed: [u8; 3] = std::array::from_fn(|i| {
                let [paper, cell] = [paper, cell].map(|colour| f64::from(colour[i]));
                (paper + MOST_INK * (cell - paper)).round() as u8
            });
            let [r, g, b] = mixed;
            let mixed = format!("#{r:02x}{g:02x}{b:02x}");
            assert!(contrast(inks.ink, &mixed) > 4.5, "{mixed}");
        }
    }
}
