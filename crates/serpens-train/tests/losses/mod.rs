//! What a training tells of its losses.

use serpens_train::{Event, Observer, Result};

/// The loss after each step.
#[derive(Default)]
pub struct Losses(pub Vec<f64>);

impl Observer for Losses {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Stepped(metrics) = event {
            self.0.push(metrics.loss);
        }
        Ok(())
    }
}
