mod boundaries;
pub(crate) mod devices;
mod distribution;
mod emulation;
mod properties;
mod reference;

use proptest::prelude::*;
use reference::Before;

use super::{History, SampleOptions};

/// The same tokens before, as the operation takes them.
fn history(before: &Before) -> History {
    let mut history = History::default();
    history.read(&before.prompt);
    before.drawn.iter().for_each(|token| history.draw(*token));
    history
}

/// Options of every kind and combination, on tokens below `tokens`.
fn options(tokens: u32) -> impl Strategy<Value = SampleOptions> {
    let temperature = prop_oneof![
        Just(0.0_f32),
        Just(1.0),
        0.05_f32..3.0,
        Just(1e-42),
        Just(1e38)
    ];
    let top_k = prop_oneof![Just(0_usize), Just(1), 2..40_usize, 40..3000_usize];
    let top_p = prop_oneof![Just(1.0_f32), 0.01_f32..1.0, Just(1e-7), Just(1e-14)];
    let min_p = prop_oneof![Just(0.0_f32), 0.0001_f32..0.9, Just(1e-9)];
    let penalty = prop_oneof![Just(1.0_f32), 0.5_f32..2.0];
    let presence = prop_oneof![Just(0.0_f32), -1.0_f32..1.0];
    let frequency = prop_oneof![Just(0.0_f32), -1.0_f32..1.0];
    let bias = prop_oneof![Just(f32::NEG_INFINITY), -3.0_f32..3.0];
    let biases = prop::collection::vec((0..tokens, bias), 0..5);
    (
        temperature,
        (top_k, top_p, min_p),
        (penalty, presence, frequency),
        prop_oneof![Just(Vec::new()), biases],
    )
        .prop_map(|(temperature, kept, penalties, logit_bias)| SampleOptions {
            temperature,
            top_k: kept.0,
            top_p: kept.1,
            min_p: kept.2,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: penalties.2,
            logit_bias,
        })
}

/// Logits: of a language model's spread, flat, with many equals, with some forbidden.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let sizes = prop_oneof![1..70_usize, 100..1100_usize, Just(5000)];
    (sizes, 0..4).prop_flat_map(|(size, kind)| {
        let one = match kind {
            0 => (-30.0_f32..10.0).boxed(),
            1 => (-0.01_f32..0.01).boxed(),
            2 => (-4_i8..4).prop_map(f32::from).boxed(),
            _ => {
                let (forbidden, zeros) = (Just(f32::NEG_INFINITY), [Just(0.0), Just(-0.0)]);
                prop_oneof![forbidden, zeros[0], zeros[1], -2.0_f32..2.0].boxed()
            }
        };
        prop::collection::vec(one, size)
    })
}

/// Tokens that were read and drawn before.
fn before(tokens: u32) -> impl Strategy<Value = Before> {
    let some = move |most| prop::collection::vec(0..tokens, 0..most);
    (some(90), some(20)).prop_map(|(prompt, drawn)| Before { prompt, drawn })
}
