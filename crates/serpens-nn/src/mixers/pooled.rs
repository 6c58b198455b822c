//! A stage of fewer and wider steps: y = up(shift(layers(down(x)))), where down makes one step of each group of `pool`
//! neighbouring ones, shift delays by a group and up gives as many steps as there were. What a group gives depends on
//! the groups before it only, so that every output is known before its own input; around it the residual stream is a
//! U-Net's skip. Source: K. Goel and others, "It's Raw! Audio Generation with State-Space Models", arXiv 2202.09729.

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Shape, Tensor, Var};
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

/// Configures a stage of a U-Net. What is trained on has a multiple of `pool` tokens, times those of the stages inside;
/// packed sequences, and what is read from a state, may be of any length. On a GPU steps are queued one by one, as the
/// processor looks who has completed a group, and all states are of f32.
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
        let inner = Backbone::plan(width, self.n_layer, self.norm_eps, &self.mixers)?;
        let counts = inner.mixers();
        let counts = counts.map(|mixer| Ok(mixer.initial_state(0, Device::Cpu)?.len()));
        let mut pooled = Pooled {
            counts: counts.collect::<Result<_>>()?,
            down: Linear::plan(group, width),
            inner,
            shift: CausalConv1d::shift(width),
            up: Linear::plan_with([width, group], false, output_divisor),
            pool,
            multiple,
        };
        pooled.visit_mut("", &mut |_, param| {
            param.every = param.every.saturating_mul(pool);
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
        let inside = least_multiple(&self.mixers);
        inside.saturating_mul(self.pool.max(1)).min(MOST_POOLED + 1)
    }
}

/// The least common one of [`MixerSettings::multiple`]; all beyond the most are alike.
pub(crate) fn least_multiple(mixers: &[MixerConfig]) -> usize {
    let least = |all: usize, one: usize| {
        let common = (all..).step_by(all).find(|all| all.is_multiple_of(one));
        common.unwrap_or(one).min(MOST_POOLED + 1)
    };
    mixers.iter().map(|one| one.multiple()).fold(1, least)
}

/// Tokens up to the last that completes no group beyond these.
fn tokens_in(groups: usize, pool: usize) -> usize {
    groups
        .saturating_mul(pool)
        .saturating_add(pool.saturating_sub(1))
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
    /// Numbers of tensors in the states of the layers.
    counts: Vec<usize>,
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
        let uneven = !length.is_multiple_of(multiple) && sequence.starts.is_none();
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
        if let Some(starts) = sequence.starts {
            return self.packed(x, starts, sequence);
        }
        let x = x.reshape([batch, length / pool, width * pool])?;
        Ok(self.whole(&x, sequence)?.reshape(shape)?)
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
        for (mixer, count) in mixers.zip(&self.counts) {
            let own: Vec<Tensor> = inner.by_ref().take(*count).collect();
            least = least.into_iter().chain(mixer.stepper()?.left(&own)?).min();
        }
        let read = phases.into_iter().max().unwrap_or(0) as usize % self.pool;
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

    /// What whole groups give those behind them.
    ///
    /// # Shapes
    /// (batch, groups, pool · d_model) → the same
    fn whole(&self, x: &Var, sequence: &Sequence<'_>) -> Result<Var> {
        let sequence = Sequence {
            trace: None, // whose steps are tokens
            ..*sequence
        };
        let h = self.inner.forward(self.lowered(x)?, &sequence, None)?;
        self.up.forward(&self.shift.forward(&h, &sequence, None)?)
    }

    /// Whole packed sequences, each filled up to whole groups, of all rows in one. What fills stands behind all that is
    /// put out.
    fn packed(&self, x: &Var, starts: &Starts, sequence: &Sequence<'_>) -> Result<Var> {
        let (shape, pool, width) = (x.shape(), self.pool, x.shape().cols());
        let [mut filled, mut back, mut groups] = [const { Vec::new() }; 3];
        let mut at = 0;
        let flags = starts.flags("pooled", shape[0], shape[1], false)?;
        for length in lengths_between(&flags, shape[1]).concat() {
            back.extend((filled.len()..).take(length));
            let rows = (at..).take(length.next_multiple_of(pool));
            filled.extend(rows.map(|row| row.min(at + length - 1)));
            groups.push(length.div_ceil(pool));
            at += length;
        }
        let rows_of = |x: Var, rows: &[usize]| {
            let table = cast(&x.reshape([x.shape().rows(), width])?, DType::F32)?;
            let rows = embedding(&ids(rows, x.device())?, &table)?;
            Ok::<_, Error>(cast(&rows, x.dtype())?)
        };
        let x = rows_of(x.clone(), &filled)?;
        let starts = Starts::from_lengths(&groups);
        let sequence = Sequence {
            starts: Some(&starts),
            ..*sequence
        };
        let y = self.whole(
            &x.reshape([1, filled.len() / pool, width * pool])?,
            &sequence,
        )?;
        let y = rows_of(y.reshape([filled.len(), width])?, &back)?;
        Ok(y.reshape(shape)?)
    }

    /// Reads on from a state, any number of steps, of packed sequences too.
    fn go_on(&self, x: &Var, sequence: &Sequence<'_>, state: &mut MixerState) -> Result<Var> {
        if x.tape().is_some() {
            let what = "a pooled layer that goes on from a state has no gradients";
            return Err(Error::Unsupported(what));
        }
        if let Some(starts) = sequence.starts.filter(|_| x.shape().count() > 0) {
            return self.go_on_packed(x, starts, state);
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

    /// The same where rows are cut at starts, behind which there is nothing to go on from: the last sequence of each row
    /// leaves its state.
    fn go_on_packed(&self, x: &Var, starts: &Starts, state: &mut MixerState) -> Result<Var> {
        let [batch, length] = [x.shape()[0], x.shape()[1]];
        let flags = starts.flags("pooled", batch, length, false)?;
        let rows = lengths_between(&flags, length);
        let goes_on = |row: usize, i: usize| i == 0 && !flags[row * length];
        let none = self.initial_state(1, x.device())?;
        let mut own = MixerState::new();
        for (all, none) in state.iter().zip(&none) {
            let mut each = Vec::new();
            for (row, lengths) in rows.iter().enumerate() {
                for i in 0..lengths.len() {
                    each.push(match goes_on(row, i) {
                        true => all.tensor()?.narrow(row..row + 1)?,
                        false => cast(none, all.dtype())?.into_tensor()?,
                    });
                }
            }
            own.push(Tensor::concat(&each)?.into());
        }
        let sequence = Sequence {
            lengths: Some(&rows.concat()),
            ..Sequence::default()
        };
        let y = self.go_on(
            &x.reshape([1, batch * length, x.shape().cols()])?,
            &sequence,
            &mut own,
        )?;
        let ends = rows.iter().scan(0, |end, lengths| {
            *end += lengths.len();
            Some(*end)
        });
        for (all, own) in state.iter_mut().zip(&own) {
            let last = ends.clone().map(|end| own.tensor()?.narrow(end - 1..end));
            *all = Tensor::concat(&last.collect::<Result<Vec<_>, _>>()?)?.into();
        }
        Ok(y.reshape(x.shape())?)
    }

    /// What is read of sequences of these lengths one behind the other, in place; with `apart` to the bits that each has
    /// by itself.
    ///
    /// # Shapes
    /// (rows, d_model) → the same
    fn read(&self, x: &Var, lengths: &[usize], apart: bool, state: &mut [Tensor]) -> Result<Var> {
        let (expected, found) = (3 + self.counts.iter().sum::<usize>(), state.len());
        let [phases, inputs, outputs, inner @ ..] = state else {
            return Err(Error::state("tensors", expected, found));
        };
        if expected != found {
            return Err(Error::state("tensors", expected, found));
        }
        let (shape, pool, width) = (inputs.shape(), self.pool, x.shape().cols());
        let held = [lengths.len(), pool, width];
        if [inputs.shape(), outputs.shape()] != [held, held].map(|shape| Shape::new(&shape)) {
            return Err(Error::state(
                "steps of a group",
                pool,
                shape.rows() / lengths.len().max(1),
            ));
        }
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
        let mut own = inner.iter().map(of_due);
        let layers = self.counts.iter();
        let layers = layers.map(|count| own.by_ref().take(*count).collect());
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
    Ok(embedding(&ids(rows, table.device())?, table)?.into_tensor()?)
}

fn ids(rows: &[usize], device: Device) -> Result<Var> {
    let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
    Ok(Tensor::from_slice([rows.len()], &rows, device)?.into())
}

/// Lengths of the sequences in each row of so many flags of starts, which begins with one or goes on with it.
fn lengths_between(flags: &[bool], length: usize) -> Vec<Vec<usize>> {
    let rows = flags.chunks(length.max(1)).map(|row| {
        let begins = (0..length).filter(|&t| t == 0 || row[t]);
        let ends = begins.clone().skip(1).chain([length]);
        begins.zip(ends).map(|(begin, end)| end - begin).collect()
    });
    rows.collect()
}
