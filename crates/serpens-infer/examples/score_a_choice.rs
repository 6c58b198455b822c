//! Which of several answers a model finds most probable. The question, which they have in common, is read once.
//!
//! `cargo run --release -p serpens-infer --example score_a_choice`

use serpens_core::Device;
use serpens_infer::{Item, Result, score};
use serpens_nn::MambaLmConfig;

fn main() -> Result<()> {
    let model = MambaLmConfig::new(32, 2, 256).init(Device::cpu(), 0)?; // d_model, layers, tokens
    let ids = |text: &str| -> Vec<u32> { text.bytes().map(u32::from).collect() };
    let question = "What has a state of fixed size? ";
    let answers = ["A Mamba.", "A transformer.", "Neither."];
    let items = answers.map(|answer| Item {
        context: ids(question),
        continuation: ids(answer),
    });
    let scores = score(&model, None, &items, &mut |_| ())?;
    println!("read {} of {} tokens", scores.read, scores.asked);
    assert!(scores.read < scores.asked);
    for (answer, score) in answers.iter().zip(&scores.items) {
        // As answers differ in length, the sum alone prefers short ones.
        let each = score.log_prob() / answer.len() as f64;
        println!(
            "{answer:16} ln p {:8.3}, {each:.3} a byte",
            score.log_prob()
        );
    }
    let best = scores.items.iter().map(|score| score.log_prob());
    let best = best.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    println!(
        "the model's choice: {}",
        answers[best.map_or(0, |best| best.0)]
    );
    Ok(())
}
