pub(crate) mod devices;
mod properties;
mod reference;

use super::{AdamW, Lion, Rule, Sgd};
use reference::Definition;

const BETAS: [f32; 2] = [0.9, 0.95];
const EPS: f32 = 1e-8;

/// Every rule, with its definition.
fn rules() -> [(Box<dyn Rule>, Definition); 3] {
    let [beta1, beta2] = BETAS;
    let (eps, betas) = (EPS, BETAS.map(f64::from));
    let wide = f64::from;
    [
        (
            Box::new(AdamW { beta1, beta2, eps }),
            Definition::AdamW {
                betas,
                eps: wide(eps),
            },
        ),
        (
            Box::new(Sgd { momentum: beta1 }),
            Definition::Sgd { momentum: betas[0] },
        ),
        (Box::new(Lion { beta1, beta2 }), Definition::Lion { betas }),
    ]
}

fn adamw() -> Box<dyn Rule> {
    let [(rule, _), ..] = rules();
    rule
}
