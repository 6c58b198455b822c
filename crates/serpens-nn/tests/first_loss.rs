//! A model that has learnt nothing guesses: its loss is ln V, whatever its sizes and how its embedding starts.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serpens_core::{Device, Tensor};
use serpens_nn::MambaLmConfig;
use serpens_nn::layers::Sequence;
use serpens_ops::cross_entropy::cross_entropy;

#[test]
fn a_fresh_model_s_loss_is_that_of_guessing() {
    let mut rng = SmallRng::seed_from_u64(1);
    for (d_model, std, vocab) in [
        (64, 1.0, 16),
        (64, 0.02, 16),
        (128, 0.02, 256),
        (32, 2.0, 50),
    ] {
        for tied in [true, false] {
            let config = MambaLmConfig {
                tie_embeddings: tied,
                embedding_std: std,
                ..MambaLmConfig::new(d_model, 2, vocab)
            };
            let model = config.init(Device::Cpu, 3).unwrap();
            let mut ids = || {
                let ids: Vec<u32> = (0..4 * 64)
                    .map(|_| rng.random_range(0..vocab as u32))
                    .collect();
                Tensor::from_slice([4, 64], &ids, Device::Cpu).unwrap()
            };
            let (inputs, targets) = (ids(), ids());
            let logits = model.forward(&inputs.into(), &Sequence::default(), None);
            let loss = cross_entropy(logits.unwrap(), &targets).unwrap();
            let (loss, guess) = (loss.read().unwrap().mean(), (vocab as f64).ln());
            assert!(
                (loss - guess).abs() < 0.3,
                "width {d_model}, std {std}, {vocab} tokens, tied {tied}: {loss} instead of {guess}"
            );
        }
    }
}
