//! A stage of fewer and wider steps: y = up(shift(layers(down(x)))), where down makes one step of each group of `pool`
//! neighbouring ones, shift delays by a group and up gives as many steps as there were. What a group gives depends on
//! the groups before it only, so that every output is known before its own input; around it the residual stream is a
//! U-Net's skip. Source: K. Goel and others, "It's Raw! Audio Generation with State-Space Models", arXiv 2202.09729.

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::Starts;
use serpens_ops::elementwise::cast;
use serpens_ops::embedding::embedding;
use smart_default::SmartDefault;

use super::step::add_mixed;
use super::{MambaConfig, Mixer, MixerConfig, MixerSettings, MixerState, Stepper};
use crate::layers::{CausalConv1d, Linear, RmsNorm, Sequence};
use crate::models::{Backbone, LmState, layers_of};
use crate::setting::{SIZE, check, one_or_many};
use crate::ssm::SsmConfig;
use crate::{Error, Module, Recompute, Result, module};

/// Steps that become one at most, through all stages inside each other, of which there can be no more than 16 so.
const MOST_POOLED: usize = 1 << 16;

/// Configures a stage of a U-Net. What is trained on has a multiple of `pool` tokens, times those of the stages inside,
/// and packed sequences start at such; from a state any number is read, of sequences that are not packed. On a GPU steps
/// are queued one by one, as the processor looks who has completed a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct PooledConfig {
    /// Steps that become one.
    #[default = 4]
    pub pool: usize,
    /// Width of these over the model's.
    #[default = 2]
    pub expand: usize,
    /// Number of layers inside: a normalisation and a mixer each.
    #[default = 1]
    pub n_layer: usize,
    /// eps of their normalisations.
    #[default = 1e-5]
    pub norm_eps: f32,
    /// Their mixers, one after another and again from the first. One alone is written without a list; another stage
    /// may be among them.
    #[serde(rename = "block", with = "one_or_many")]
    #[default(vec![MambaConfig::default().into()])]
    pub mixers: Vec<MixerConfig>,
}

impl MixerSettings for PooledConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        let (pool, multiple, most) = (self.pool, self.multiple(), MOST_POOLED as f64);
        check("d_model", d_model as f64, SIZE)?;
        check("pool", pool as f64, 2.0..=most)?;
        check("pool (with those inside)", multiple as f64, 2.0..=most)?;
        check("expand", self.expand as f64, SIZE)?;
        // What exceeds the address space is told when memory is asked for.
        let [group, width] = [pool, self.expand].map(|times| d_model.saturating_mul(times));
        let mut pooled = Pooled {
            down: Linear::plan(group, width),
            inner: Backbone::plan(width, self.n_layer, self.norm_eps, &self.mixers)?,
            shift: CausalConv1d::shift(width),
            up: Linear::plan_with([width, group], false, output_divisor),
            pool,
            multiple,
        };
        pooled.visit_mut("", &mut |_, param| {
            param.every *= pool;
            Ok(())
        })?;
        Ok(Box::new(pooled))
    }

    fn ssms(&mut self) -> Vec<&mut SsmConfig> {
        self.mixers.iter_mut().flat_map(|one| one.ssms()).collect()
    }

    fn caches(&self) -> bool {
        self.mixers.iter().any(|one| one.caches())
    }

    fn reverses(&self) -> bool {
        false
    }

    fn on_gpu(&self) -> bool {
        self.mixers.iter().all(|one| one.on_gpu())
    }

    fn context(&self) -> Option<usize> {
        let groups = self.mixers.iter().filter_map(|one| one.context()).min();
        groups.map(|groups| tokens_in(groups, self.pool))
    }

    fn is_causal(&self) -> bool {
        self.mixers.iter().all(|one| one.is_causal())
    }

    fn layers(&self) -> f64 {
        1.0 + layers_of(self.mixers.iter(), self.n_layer)
    }

    fn multiple(&self) -> usize {
        // The least common one of those inside; all beyond the most are alike.
        let least = |all: usize, one: usize| {
            let common = (all..).step_by(all).find(|all| all.is_multiple_of(one));
            common.unwrap_or(one).min(MOST_POOLED + 1)
        };
        let inside = self.mixers.iter().map(|one| one.multiple()).fold(1, least);
        inside.saturating_mul(self.pool.max(1)).min(MOST_POOLED + 1)
    }
}

/// Tokens up to the last that completes no group beyond these.
fn tokens_in(groups: usize, pool: usize) -> usize {
    groups.saturating_mul(pool).saturating_add(pool - 1)
}

#[derive(Clone, Debug)]
struct Pooled {
    down: Linear, // (expand · d_model, pool · d_model)
    inner: Backbone,
    shift: CausalConv1d,
    up: Linear, // (pool · d_model, expand · d_model)
    pool: usize,
    /// What whole sequences have a multiple of.
    multiple: usize,
}

module!(Pooled { down => "down", inner => "inner", shift => "shift", up => "up" });

impl Mixer for Pooled {
    /// How many inputs of each sequence await their group, u32 (batch); these, and the outputs of that group, each
    /// (batch, pool, d_model) of f32, zero where there are none; then the states of the layers.
    fn initial_state(&self, batch: usize, device: Device) -> Result<MixerState> {
        let width = self.down.weight.shape().cols() / self.pool;
        let rows = || Tensor::zeros([batch, self.pool, width], DType::F32, device);
        let phases = Tensor::zeros([batch], DType::U32, device)?;
        let mut state = vec![phases.into(), rows()?.into(), rows()?.into()];
        for mixer in self.inner.mixers() {
            state.extend(mixer.initial_state(batch, device)?);
        }
        Ok(state)
    }

    /// Without a state, what has gradients is read in whole groups; what has none and ends amid one as from a state.
    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        let (shape, pool, multiple) = (x.shape(), self.pool, self.multiple);
        let [batch, length, width] = shape.axes("pooled", "x", "(batch, length, d_model)")?;
        if sequence.reverse || (sequence.lengths.is_some() && state.is_none()) {
            let what =
                "a pooled layer is read forward, and several sequences with a state for each";
            return Err(Error::Unsupported(what));
        }
        let uneven = !length.is_multiple_of(multiple);
        let from_none = state.is_none() && uneven && x.tape().is_none();
        let mut none = from_none
            .then(|| self.initial_state(batch, x.device()))
            .transpose()?;
        if let Some(state) = state.or(none.as_mut()) {
            return self.go_on(x, sequence, state);
        }
        if uneven {
            return Err(Error::Uneven(format!(
                "pool (with those inside) = {multiple} does not divide length = {length} of what is trained on"
            )));
        }
        let pooled = |starts: &Starts| {
            starts.pooled(multiple)?; // as the stages inside want it
            starts.pooled(pool)
        };
        let starts = sequence.starts.map(pooled).transpose()?;
        let groups = Sequence {
            starts: starts.as_ref(),
            trace: None, // whose steps are tokens
            ..*sequence
        };
        let x = x.reshape([batch, length / pool, width * pool])?;
        let h = self.inner.forward(self.lowered(&x)?, &groups, None)?;
        let y = self.up.forward(&self.shift.forward(&h, &groups, None)?)?;
        Ok(y.reshape(shape)?)
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        let around = 2.0 * self.up.weight.shape().cols() as f64; // what the layers are given, and what they give
        match recompute {
            Recompute::Layer => 0,
            _ => ((self.inner.kept_per_token(recompute) + around) / self.pool as f64) as usize,
        }
    }

    fn attention_flops(&self, length: usize) -> f64 {
        self.inner.attention_flops(length / self.pool) / self.pool as f64
    }

    fn fused(&self) -> Result<Option<Box<dyn Stepper>>> {
        Ok(Some(Box::new(self.clone())))
    }
}

/// By the operations of the forward pass, of the sequences whose groups are complete.
impl Stepper for Pooled {
    fn room(&self) -> usize {
        0
    }

    fn left(&self, state: &[Tensor]) -> Result<Option<usize>> {
        let phases = state.first().map_or(Ok(vec![]), Tensor::to_vec::<u32>)?;
        let mut inner = state.iter().skip(3).cloned();
        let (mixers, mut least) = (self.inner.mixers(), None::<usize>);
        for (mixer, count) in mixers.zip(self.counts()?) {
            let own: Vec<Tensor> = inner.by_ref().take(count).collect();
            least = least.into_iter().chain(mixer.stepper()?.left(&own)?).min();
        }
        let read = phases.into_iter().max().unwrap_or(0) as usize;
        Ok(least.map(|groups| tokens_in(groups, self.pool).saturating_sub(read)))
    }

    /// It looks where in its group each sequence is.
    fn is_recordable(&self) -> bool {
        false
    }

    fn step(
        &self,
        norm: &RmsNorm,
        slots: usize,
        h: &mut Tensor,
        state: &mut [Tensor],
        _: &mut Tensor,
    ) -> Result<()> {
        let mut lengths = vec![1; slots];
        lengths.resize(h.shape()[0], 0);
        add_mixed(norm, slots, h, |x| self.read(x, &lengths, false, state))
    }
}

impl Pooled {
    /// (…, pool · d_model) → (…, expand · d_model) of f32: a residual stream of its own.
    fn lowered(&self, x: &Var) -> Result<Var> {
        Ok(cast(&self.down.forward(x)?, DType::F32)?)
    }

    /// Numbers of tensors in the states of the layers.
    fn counts(&self) -> Result<Vec<usize>> {
        let mixers = self.inner.mixers();
        let counts = mixers.map(|mixer| Ok(mixer.initial_state(0, Device::Cpu)?.len()));
        counts.collect()
    }

    /// Reads on from a state, any number of steps.
    fn go_on(&self, x: &Var, sequence: &Sequence<'_>, state: &mut MixerState) -> Result<Var> {
        if sequence.starts.is_some() || x.tape().is_some() {
            let what =
                "a pooled layer that goes on reads no packed sequences, and has no gradients";
            return Err(Error::Unsupported(what));
        }
        let own = state.iter().map(|var| Ok(var.tensor()?.clone()));
        let mut own: Vec<Tensor> = own.collect::<Result<_>>()?;
        let (shape, sequences) = (x.shape(), own.first().map_or(0, Tensor::len));
        let lengths = sequence.lengths_of([shape[0], shape[1]], sequences)?;
        let x = x.reshape([shape.rows(), shape.cols()])?;
        let y = self.read(&x, &lengths, sequence.lengths.is_some(), &mut own)?;
        *state = own.into_iter().map(Var::from).collect();
        Ok(y.reshape(shape)?)
    }

    /// The same of sequences of these lengths one behind the other, in place; with `apart` to the bits that each has by
    /// itself.
    ///
    /// # Shapes
    /// (rows, d_model) → the same
    fn read(&self, x: &Var, lengths: &[usize], apart: bool, state: &mut [Tensor]) -> Result<Var> {
        let found = state.len();
        let [phases, inputs, outputs, inner @ ..] = state else {
            return Err(Error::state("tensors before those of its layers", 3, found));
        };
        let (shape, pool, width) = (inputs.shape(), self.pool, x.shape().cols());
        let mut of_phases = phases.to_vec::<u32>()?;
        // Rows of what awaited its group, what comes and zeros: those of complete groups and those that wait then. Of
        // the outputs of groups in the making and what complete ones give: those that are put out and those that wait.
        let [mut grouped, mut waiting, mut put_out, mut next] = [const { Vec::new() }; 4];
        let (mut groups, held) = (Vec::new(), pool * lengths.len());
        let (mut at, mut given) = (held, held);
        let zeros = held + lengths.iter().sum::<usize>();
        for (i, (phase, length)) in of_phases.iter_mut().zip(lengths).enumerate() {
            let first = *phase as usize % pool; // a file may say anything
            let (end, own) = (first + length, i * pool);
            let whole = end / pool * pool;
            let input = |j| match j {
                _ if j < first => own + j,
                _ if j < end => at + j - first,
                _ => zeros,
            };
            let output = |j| match j < pool {
                true => own + j,
                false => given + j - pool,
            };
            grouped.extend((0..whole).map(input));
            waiting.extend((whole..whole + pool).map(input));
            put_out.extend((first..end).map(output));
            next.extend((whole..whole + pool).map(output));
            groups.push(whole / pool);
            (*phase, at, given) = ((end - whole) as u32, at + length, given + whole);
        }
        let flat = |rows: &Tensor| rows.reshape([rows.len() / width, width]);
        let values = |x: &Var| flat(cast(x, DType::F32)?.tensor()?);
        let zeros = Tensor::zeros([1, width], DType::F32, x.device())?;
        let of_inputs = Tensor::concat(&[flat(inputs)?, values(x)?, zeros])?.into();
        let mut of_outputs = vec![flat(outputs)?];
        if !grouped.is_empty() {
            let x = cast(&rows_at(&of_inputs, &grouped)?.into(), x.dtype())?;
            of_outputs.push(values(&self.through(&x, &groups, apart, inner)?)?);
        }
        let of_outputs = Tensor::concat(&of_outputs)?.into();
        *inputs = rows_at(&of_inputs, &waiting)?.reshape(shape)?;
        *outputs = rows_at(&of_outputs, &next)?.reshape(shape)?;
        *phases = Tensor::from_slice([of_phases.len()], &of_phases, x.device())?;
        Ok(cast(&rows_at(&of_outputs, &put_out)?.into(), x.dtype())?)
    }

    /// What complete groups give those behind them, where so many of each sequence are: (steps, d_model) → (…, pool ·
    /// d_model). The layers go on in the states of these sequences alone.
    fn through(&self, x: &Var, groups: &[usize], apart: bool, inner: &mut [Tensor]) -> Result<Var> {
        let due: Vec<usize> = (0..groups.len()).filter(|i| groups[*i] > 0).collect();
        let groups: Vec<usize> = due.iter().map(|i| groups[*i]).collect();
        let of_due = |all: &Tensor| {
            let each = due.iter().map(|&i| all.narrow(i..i + 1));
            Ok(Tensor::concat(&each.collect::<Result<Vec<_>, _>>()?)?.into())
        };
        let (mut own, counts) = (inner.iter().map(of_due), self.counts()?.into_iter());
        let layers = counts.map(|count| own.by_ref().take(count).collect());
        let layers = layers.collect::<Result<_>>()?;
        let mut states = LmState { layers };
        let alike = !apart && groups.iter().all(|count| *count == groups[0]);
        let sizes = match alike {
            true => [due.len(), groups[0]],
            false => [1, groups.iter().sum()],
        };
        let sequence = Sequence {
            lengths: (!alike).then_some(&groups),
            ..Sequence::default()
        };
        let x = x.reshape([sizes[0], sizes[1], x.shape().cols() * self.pool])?;
        let x = self.lowered(&x)?;
        let h = self.inner.forward(x, &sequence, Some(&mut states))?;
        for (all, own) in inner.iter_mut().zip(states.layers.iter().flatten()) {
            for (place, i) in due.iter().enumerate() {
                all.put(*i, &own.tensor()?.narrow(place..place + 1)?)?;
            }
        }
        self.up.forward(&h)
    }
}

/// These rows of a table.
fn rows_at(table: &Var, rows: &[usize]) -> Result<Tensor> {
    let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
    let rows = Tensor::from_slice([rows.len()], &rows, table.device())?;
    Ok(embedding(&rows.into(), table)?.into_tensor()?)
}
