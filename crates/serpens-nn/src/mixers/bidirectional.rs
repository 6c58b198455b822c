//! A mixer that reads whole sequences in both directions, and images in four: for classification and tagging, where
//! what follows a token is known.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::elementwise::{add, scale};
use serpens_ops::swap_axes::swap_axes;
use smart_default::SmartDefault;

use super::{MambaConfig, Mixer, MixerConfig, MixerSettings, MixerState};
use crate::layers::{Linear, Sequence};
use crate::setting::{SIZE, check};
use crate::ssm::SsmConfig;
use crate::{Error, Recompute, Result, module};

/// What becomes of the outputs of all directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Merge {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean.
    Mean,
    /// A projection of all side by side to the model's width.
    Concat,
}

/// Configures a bidirectional mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct BidirectionalConfig {
    /// The mixer of each direction.
    #[default(Box::new(MambaConfig::default().into()))]
    pub of: Box<MixerConfig>,
    /// Whether all directions have the same parameters.
    pub shared: bool,
    /// How their outputs become one.
    pub merge: Merge,
    /// Columns of an image whose rows stand one behind the other: it is read along its columns too, in both directions
    /// (the cross-scan of arXiv 2401.10166). Directions are flags of the scan; rows of its time stand a row apart, so that
    /// columns are read from one copy with the axes exchanged, and what comes of both is brought back as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<usize>,
}

impl MixerSettings for BidirectionalConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        if !self.of.is_causal() || !self.of.reverses() {
            let what = "of: a bidirectional layer is of mixers that are read in either direction: Mamba, H3 and plain ones around S6, minGRU, mlp";
            return Err(Error::Uneven(what.to_owned()));
        }
        if let Some(columns) = self.columns {
            check("columns", columns as f64, SIZE)?;
        }
        let directions = if self.columns.is_some() { 4 } else { 2 };
        let one = |_| {
            let mixer = self.of.plan(d_model, output_divisor);
            mixer.map_err(|error| error.within("of"))
        };
        let mixers = if self.shared { 1 } else { directions };
        let projection = |_| Linear::plan_with([d_model, d_model], false, output_divisor);
        let projections = (0..directions).map(projection).collect();
        Ok(Box::new(Bidirectional {
            mixers: (0..mixers).map(one).collect::<Result<_>>()?,
            projections: (self.merge == Merge::Concat).then_some(projections),
            factor: (self.merge == Merge::Mean).then_some(1.0 / directions as f32),
            columns: self.columns,
        }))
    }

    fn ssms(&mut self) -> Vec<&mut SsmConfig> {
        self.of.ssms()
    }

    fn is_causal(&self) -> bool {
        false
    }
}

#[derive(Clone, Debug)]
struct Bidirectional {
    /// Of each direction: forward, in reverse, down the columns, up; or one of all.
    mixers: Vec<Box<dyn Mixer>>,
    /// Of each direction, if any: the parts of one matrix, (d_model, d_model) each.
    projections: Option<Vec<Linear>>,
    /// What the sum is multiplied with, if by anything.
    factor: Option<f32>,
    columns: Option<usize>,
}

module!(Bidirectional { mixers => "directions", projections => "projections" });

impl Bidirectional {
    fn mixer(&self, direction: usize) -> &dyn Mixer {
        &*self.mixers[direction % self.mixers.len()]
    }

    /// The sum of two directions, the first of which is this one.
    fn both(&self, first: usize, x: &Var, sequence: &Sequence<'_>) -> Result<Var> {
        let along = |direction: usize, sequence: &Sequence<'_>| {
            let y = self.mixer(direction).forward(x, sequence, None)?;
            match &self.projections {
                Some(projections) => projections[direction].forward(&y),
                None => Ok(y),
            }
        };
        let turned = Sequence {
            reverse: !sequence.reverse,
            ..*sequence
        };
        Ok(add(&along(first, sequence)?, &along(first + 1, &turned)?)?)
    }

    /// The sum of both directions along the columns of an image.
    fn across(&self, columns: usize, x: &Var, sequence: &Sequence<'_>) -> Result<Var> {
        let length = x.shape()[1];
        if !length.is_multiple_of(columns) {
            let what = format!("columns = {columns} does not divide a sequence of {length}");
            return Err(Error::Uneven(what));
        }
        if sequence.starts.is_some() {
            let what = "an image that is read along its columns is a row of the batch by itself";
            return Err(Error::Unsupported(what));
        }
        let rows = length / columns;
        let y = self.both(2, &swap_axes(x, [rows, columns])?, sequence)?;
        Ok(swap_axes(&y, [columns, rows])?)
    }
}

impl Mixer for Bidirectional {
    /// None: there is nothing to go on from.
    fn initial_state(&self, _batch: usize, _device: Device) -> Result<MixerState> {
        Ok(MixerState::new())
    }

    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        if state.is_some() {
            let what = "a bidirectional layer reads whole sequences, which cannot be gone on with";
            return Err(Error::Unsupported(what));
        }
        let mut sum = self.both(0, x, sequence)?;
        if let Some(columns) = self.columns {
            sum = add(&sum, &self.across(columns, x, sequence)?)?;
        }
        match self.factor {
            Some(factor) => Ok(scale(&sum, factor)?),
            None => Ok(sum),
        }
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        let directions = if self.columns.is_some() { 4 } else { 2 };
        let kept = |direction| self.mixer(direction).kept_per_token(recompute);
        (0..directions).map(kept).sum()
    }
}
