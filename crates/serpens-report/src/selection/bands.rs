//! From (length, channels) to the cells of a heat map: channels in order of selectivity, pooled into bands.

use std::ops::Range;

use super::layer::LayerFigure;
use super::{LayerMap, LayerSelection};
use crate::groups::{groups, mean};

/// Rows of a heat map at most.
const MOST_BANDS: usize = 48;
/// Columns of a heat map at most.
pub(super) const MOST_COLUMNS: usize = 256;

/// The value at (token, channel); not a number if it is missing.
pub(super) fn value(values: &[f32], channels: usize, token: usize, channel: usize) -> f64 {
    let index = token.saturating_mul(channels).saturating_add(channel);
    values.get(index).map_or(f64::NAN, |v| f64::from(*v))
}

/// The tokens in the columns of a heat map.
pub(super) fn columns(tokens: usize) -> Vec<Range<usize>> {
    groups(tokens, MOST_COLUMNS)
}

/// The cells of a heat map; a cell without a value is none. // (bands, columns)
pub(super) type Grid = Vec<Vec<Option<f32>>>;

/// What is drawn of a layer.
pub(super) fn pooled(layer: &LayerMap, tokens: usize) -> LayerFigure {
    let bars = layer.bars(tokens);
    let columns = columns(tokens).into_iter();
    let bar = |column: Range<usize>| mean(bars[column].iter().flatten().copied());
    let figure = LayerFigure {
        name: layer.name().to_owned(),
        means: columns.map(|column| Some(bar(column)? as f32)).collect(),
        ..LayerFigure::default()
    };
    match layer {
        LayerMap::Selection(layer) => {
            let order = by_selectivity(layer, tokens);
            LayerFigure {
                channels: layer.channels,
                delta: pool(&layer.delta, layer.channels, &order, tokens),
                retention: pool(&layer.retention, layer.channels, &order, tokens),
                ..figure
            }
        }
        LayerMap::Attention(layer) => {
            // Of what lies beyond the window nothing is given.
            let given = |weight: &f32| Some(*weight).filter(|weight| *weight > 0.0);
            let row = |row: &Vec<f32>| row.iter().map(given).collect();
            LayerFigure {
                heads: layer.heads,
                weights: layer.weights.iter().map(row).collect(),
                ..figure
            }
        }
    }
}

/// Means over bands of channels, taken in `order`, and over groups of tokens; nothing where there are no values.
fn pool(values: &[f32], channels: usize, order: &[usize], tokens: usize) -> Grid {
    if values.is_empty() {
        return Grid::new();
    }
    let columns = columns(tokens);
    let cell = |band: &[usize], column: Range<usize>| {
        let channels = |t| band.iter().map(move |&c| value(values, channels, t, c));
        mean(column.flat_map(channels)).map(|mean| mean as f32)
    };
    let row = |band: Range<usize>| {
        let cells = columns.iter().cloned();
        cells
            .map(|column| cell(&order[band.clone()], column))
            .collect()
    };
    let bands = groups(order.len(), MOST_BANDS).into_iter();
    bands.map(row).collect()
}

/// The channels, those first whose ln Δ varies most over the tokens.
fn by_selectivity(layer: &LayerSelection, tokens: usize) -> Vec<usize> {
    let spread = |channel: usize| {
        let logs = || {
            let steps = (0..tokens).map(|t| value(&layer.delta, layer.channels, t, channel));
            steps.filter(|step| *step > 0.0).map(f64::ln)
        };
        let centre = mean(logs()).unwrap_or(0.0);
        mean(logs().map(|log| (log - centre).powi(2))).unwrap_or(0.0)
    };
    let spreads: Vec<f64> = (0..layer.known_channels(tokens)).map(spread).collect();
    let mut order: Vec<usize> = (0..spreads.len()).collect();
    order.sort_by(|&a, &b| spreads[b].total_cmp(&spreads[a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_that_vary_stand_first() {
        // Channel 1 is constant, channel 2 varies by a factor of 100, channel 0 by 2.
        let delta = vec![0.1, 0.5, 0.01, 0.2, 0.5, 1.0, 0.1, 0.5, 0.01];
        let layer = LayerSelection {
            delta,
            channels: 3,
            ..LayerSelection::default()
        };
        assert_eq!(by_selectivity(&layer, 3), [2, 0, 1]);
    }

    #[test]
    fn pooling_takes_means_of_equal_bands_and_skips_what_is_not_finite() {
        let channels = 96; // two in each of 48 bands
        let mut values: Vec<f32> = (0..2 * channels).map(|i| i as f32).collect();
        values[0] = f32::NAN;
        (values[2], values[3]) = (f32::INFINITY, f32::NAN);
        let order: Vec<usize> = (0..channels).collect();
        let grid = pool(&values, channels, &order, 2);
        assert_eq!((grid.len(), grid[47].len()), (48, 2));
        assert_eq!(grid[0], [Some(1.0), Some(96.5)]);
        assert_eq!(grid[1], [None, Some(98.5)]);
    }

    #[test]
    fn no_more_cells_are_drawn_than_the_page_can_show() {
        for (channels, tokens) in [(1, 1), (48, 256), (49, 257), (1536, 5000)] {
            let (rows, columns) = (groups(channels, MOST_BANDS), columns(tokens));
            assert!(rows.len() <= 48 && columns.len() <= 256);
            assert_eq!(rows.iter().map(Range::len).sum::<usize>(), channels);
            assert_eq!(columns.iter().map(Range::len).sum::<usize>(), tokens);
        }
    }
}
