//! What a model is to beat: simple models of tokens, of features and of series.

mod features;
mod logistic;
mod markov;
mod season;

pub use features::{band_features, kmer_counts, spectrum_features, value_features};
pub use logistic::Logistic;
pub use markov::{Markov, Step};
pub use season::season;
