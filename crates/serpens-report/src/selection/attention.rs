//! What a layer of attention gives to whom, summed up while it is read: all weights of a long sequence fit no memory.

use std::cmp::min;
use std::ops::Range;

use serde::Serialize;

use super::bands::MOST_COLUMNS;
use crate::groups::{group, groups};

/// Rows of a heat map of weights at most.
const MOST_ROWS: usize = 128;

/// The weights of one layer of attention, the mean of its heads: every token, as a query, shares 1 among itself and
/// those before it, as keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LayerAttention {
    /// Name of the layer.
    pub name: String,
    /// Number of heads.
    pub heads: usize,
    /// Tokens of a group of queries, and of one of keys.
    pub groups: [usize; 2],
    /// What each token gets as a key in all, from itself and later ones: 1 on average over the tokens, as each has 1 to
    /// give. A mean over those that see it would make the last tokens large, which have only near ones. // (length)
    pub received: Vec<f32>,
    /// What each group of queries, at most 128, gives to groups of keys, at most 256, up to the one that holds the last
    /// of these queries: the sum over the keys, the mean over the queries, so that each row sums to 1.
    pub weights: Vec<Vec<f32>>, // (groups of queries, groups of keys)
}

impl LayerAttention {
    /// A layer over so many tokens, of which no weights are known yet.
    pub fn new(name: String, heads: usize, tokens: usize) -> Self {
        let keys = group(tokens, MOST_COLUMNS);
        let row = |queries: Range<usize>| vec![0.0; queries.end.div_ceil(keys)];
        Self {
            name,
            heads,
            groups: [group(tokens, MOST_ROWS), keys],
            received: vec![0.0; tokens],
            weights: groups(tokens, MOST_ROWS).into_iter().map(row).collect(),
        }
    }

    /// Adds what a head gives: the weights of the token `query` over the tokens from `first` up to itself.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn add(&mut self, query: usize, first: usize, weights: &[f32]) {
        let (tokens, [queries, keys]) = (self.received.len(), self.groups);
        let row = &mut self.weights[query / queries];
        let rows = min(queries, tokens - query / queries * queries);
        let of_head = 1.0 / self.heads as f32;
        let of_row = of_head / rows as f32;
        let (mut key, mut rest) = (first, &weights[..weights.len().min(query + 1 - first)]);
        while !rest.is_empty() {
            let (group, behind) = rest.split_at(rest.len().min(keys - key % keys));
            for (received, weight) in self.received[key..].iter_mut().zip(group) {
                *received += weight * of_head;
            }
            row[key / keys] += group.iter().sum::<f32>() * of_row;
            (key, rest) = (key + group.len(), behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_one_among_the_keys_up_to_their_last_query() {
        for (tokens, [rows, columns]) in [
            (1, [1, 1]),
            (128, [128, 128]),
            (129, [65, 129]),
            (257, [86, 129]),
            (700, [117, 234]),
        ] {
            let mut layer = LayerAttention::new("layer 1".into(), 2, tokens);
            for (query, head) in (0..tokens).flat_map(|query| [(query, 0), (query, 1)]) {
                let weight = |key| ((key * 7 + head * 3) % 5 + 1) as f32;
                let sum: f32 = (0..=query).map(weight).sum();
                let weights: Vec<f32> = (0..=query).map(|key| weight(key) / sum).collect();
                layer.add(query, 0, &weights);
            }
            assert_eq!(layer.weights.len(), rows, "{tokens}");
            assert_eq!(layer.weights[rows - 1].len(), columns, "{tokens}");
            for row in &layer.weights {
                let sum: f32 = row.iter().sum();
                assert!((sum - 1.0).abs() < 1e-5 && row.iter().all(|weight| *weight > 0.0));
            }
            let mean = layer.received.iter().sum::<f32>() / tokens as f32;
            assert!((mean - 1.0).abs() < 1e-4, "{mean}");
        }
    }

    #[test]
    fn each_token_gets_the_mean_of_the_heads_from_all_that_see_it() {
        let mut layer = LayerAttention::new("layer 1".into(), 2, 3);
        for (query, weights) in [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.125, 0.25, 0.625]]
            .iter()
            .enumerate()
        {
            layer.add(query, 0, weights); // beyond the query there is nothing to take
            layer.add(query, query, &[1.0]);
        }
        assert_eq!(layer.received, [2.625 / 2.0, 1.75 / 2.0, 1.625 / 2.0]);
        assert_eq!(
            layer.weights,
            [vec![1.0], vec![0.25, 0.75], vec![0.0625, 0.125, 0.8125]]
        );
    }
}
