//! The kernels on every instruction set of this machine, against the f64 reference.

mod definition;
pub(crate) mod devices;
mod fixtures;
mod gated_rnn;
mod gradcheck;
mod held;
mod leaf;
mod narrow_states;
mod parity;
mod reference;
mod replays;
mod shapes;
mod steps;
mod steps_on_devices;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serpens_core::{Mat, MatMut};

use super::{Dims, ScanOperands, cpu};
use crate::Layout;
use crate::shared::tests::dense::largest_of_neighbours;
use crate::shared::tests::real::Real;
use crate::simd::Isa;
use reference::Scan;

/// A scan and the gradients of its results; all values are exact in f32.
#[derive(Clone, Debug)]
struct Case {
    scan: Scan<f64>,
    dout: Vec<f64>,
    dlast: Option<Vec<f64>>,
}

/// Results and gradients.
struct Outcome<T> {
    out: Vec<T>,
    last: Vec<T>,
    grads: ScanOperands<Vec<T>>,
}

/// Which optional parts a random case has.
#[derive(Clone, Copy, Debug)]
struct Parts {
    complex: bool,
    d: bool,
    z: bool,
    bias: bool,
    initial: bool,
    softplus: bool,
    /// Of real scans.
    held: bool,
    reverse: bool,
    packed: bool,
    dlast: bool,
}

impl Parts {
    const ALL: Self = Self {
        complex: false,
        d: true,
        z: true,
        bias: true,
        initial: true,
        softplus: true,
        held: false,
        reverse: false,
        packed: false,
        dlast: true,
    };
}

fn dims(batch: usize, length: usize, channels: usize, state: usize, groups: usize) -> Dims {
    Dims {
        batch,
        length,
        channels,
        state,
        complex: false,
        groups,
    }
}

impl Case {
    fn random(dims: Dims, with: Parts, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let dims = Dims {
            complex: with.complex,
            ..dims
        };
        let mut values = |len: usize, low: f32, high: f32| -> Vec<f64> {
            let value = |_| f64::from(rng.random_range(low..high));
            (0..len).map(value).collect()
        };
        let delta = if with.softplus {
            (-2.0, 1.5)
        } else {
            (0.51, 1.0)
        };
        let ranges = ScanOperands {
            u: (-1.5, 1.5),
            delta,
            a: (-2.0, -0.05),
            a_im: with.complex.then_some((-6.0, 6.0)),
            b: (-1.5, 1.5),
            c: (-1.5, 1.5),
            d: with.d.then_some((-1.0, 1.0)),
            z: with.z.then_some((-3.0, 3.0)),
            delta_bias: with.bias.then_some((-0.5, 0.25)),
            initial_state: with.initial.then_some((-1.0, 1.0)),
        };
        let operands =
            ranges.map(|role, (low, high)| values((role.shape)(&dims).count(), low, high));
        let dout = values(dims.rows() * dims.channels, -1.0, 1.0);
        let states = dims.batch * dims.channels * dims.width();
        let dlast = with.dlast.then(|| values(states, -1.0, 1.0));
        let starts = || (0..dims.rows()).map(|_| rng.random_bool(0.15)).collect();
        Self {
            scan: Scan {
                dims,
                operands,
                starts: with.packed.then(starts),
                softplus: with.softplus,
                zero_order_hold: with.held && !with.complex,
                reverse: with.reverse,
            },
            dout,
            dlast,
        }
    }

    /// With sequences that start at these of the rows alone.
    fn starts_at(&mut self, rows: &[usize]) {
        let starts = (0..self.scan.dims.rows()).map(|row| rows.contains(&row));
        self.scan.starts = Some(starts.collect());
    }

    /// The loops of the reference in the precision `T`.
    fn plain<T: Real>(&self) -> Outcome<T> {
        let (scan, dout) = (self.scan.cast::<T>(), narrow(&self.dout));
        let dlast = self.dlast.as_ref().map(|dlast| narrow(dlast));
        let (out, last) = reference::forward(&scan);
        let grads = reference::backward(&scan, &dout, dlast.as_deref());
        Outcome { out, last, grads }
    }

    /// The kernels, where what may lie in wider rows does: a column into rows with one unused value before and two
    /// behind.
    fn kernels(&self, isa: Isa) -> Outcome<f32> {
        let (dims, x) = (&self.scan.dims, self.scan.operands.cast::<f32>());
        let wider = x.map(|role, x| match role.layout {
            Layout::Dense => x,
            Layout::Rows => widened(&x, (role.shape)(dims).cols()),
        });
        let scan = cpu::Scan {
            dims: *dims,
            operands: wider.as_ref().map(|role, x| {
                let cols = (role.shape)(dims).cols();
                match role.layout {
                    Layout::Dense => Mat::dense(x, cols),
                    Layout::Rows => Mat::new(x, dims.rows(), cols, cols + MARGIN, 1),
                }
            }),
            starts: self.scan.starts.as_deref(),
            softplus: self.scan.softplus,
            zero_order_hold: self.scan.zero_order_hold,
            reverse: self.scan.reverse,
        };
        let mut out = vec![f32::NAN; dims.rows() * dims.channels];
        let mut last = vec![f32::NAN; dims.batch * dims.channels * dims.width()];
        let mut saved = vec![f32::NAN; dims.checkpoint_len()];
        cpu::forward_on(
            isa,
            &scan,
            MatMut::dense(&mut out, dims.channels),
            Some(&mut last),
            Some(&mut saved),
        );
        let mut grads = wider.as_ref().map(|_, x| vec![f32::NAN; x.len()]);
        let dout = narrow::<f32>(&self.dout);
        let dlast = self.dlast.as_ref().map(|dlast| narrow::<f32>(dlast));
        cpu::backward_on(
            isa,
            &scan,
            &saved,
            Mat::dense(&dout, dims.channels),
            dlast.as_deref(),
            grads.as_mut().map(|role, x| {
                let cols = (role.shape)(dims).cols();
                match role.layout {
                    Layout::Dense => MatMut::dense(x, cols),
                    Layout::Rows => MatMut::new(x, dims.rows(), cols, cols + MARGIN, 1),
                }
            }),
        );
        let grads = grads.map(|role, x| match role.layout {
            Layout::Dense => x,
            Layout::Rows => narrowed(&x, (role.shape)(dims).cols()),
        });
        Outcome { out, last, grads }
    }

    /// Holds the kernels of every instruction set to twice the error of the plain f32 evaluation, tensor by tensor
    /// (three times for complex scans: the vector sine and cosine are less exact than those of the plain evaluation),
    /// where that is the largest of its neighbours'.
    fn check(&self) {
        let plain_errors: [f64; 12] = largest_of_neighbours(|scale| {
            let case = self.scaled(scale);
            let (exact, plain) = (case.plain::<f64>(), case.plain::<f32>());
            let mut errors = [0.0; 12];
            let tensors = exact.tensors().into_iter().zip(plain.tensors());
            for (error, ((_, exact), (_, plain))) in errors.iter_mut().zip(tensors) {
                *error = largest_error(plain, exact);
            }
            errors
        });
        let exact = self.plain::<f64>();
        let factor = if self.scan.dims.complex { 3.0 } else { 2.0 };
        for isa in Isa::available() {
            let computed = self.kernels(isa);
            for (i, ((name, exact), (_, computed))) in exact
                .tensors()
                .into_iter()
                .zip(computed.tensors())
                .enumerate()
            {
                let allowed = factor * plain_errors[i];
                let error = largest_error(computed, exact);
                assert!(
                    error <= allowed,
                    "{name} on {}: error {error:e}, allowed {allowed:e}, {:?}, held {}",
                    isa.name(),
                    self.scan.dims,
                    self.scan.zero_order_hold
                );
            }
        }
    }

    /// This case with all operands times `scale`.
    fn scaled(&self, scale: f64) -> Self {
        let mut case = self.clone();
        let operands = case.scan.operands.as_mut().into_array();
        for value in operands.into_iter().flatten().flatten() {
            *value = f64::from((*value * scale) as f32);
        }
        case
    }
}

impl<T> Outcome<T> {
    fn tensors(&self) -> Vec<(&'static str, &[T])>
    where
        T: Real,
    {
        let mut all = vec![("out", &self.out[..]), ("last", &self.last)];
        all.extend(
            self.grads
                .iter()
                .map(|(role, values)| (role.name, &values[..])),
        );
        all
    }
}

fn largest_error<T: Real>(x: &[T], exact: &[f64]) -> f64 {
    assert_eq!(x.len(), exact.len());
    let error = |(x, exact): (&T, &f64)| ((*x).into() - exact).abs();
    x.iter()
        .zip(exact)
        .map(error)
        .fold(0.0, |max, e| if e > max || e.is_nan() { e } else { max })
}

fn assert_close(x: &[f32], y: &[f32], tolerance: f64) {
    let exact: Vec<f64> = y.iter().map(|&y| f64::from(y)).collect();
    let size = exact.iter().fold(1.0f64, |max, y| max.max(y.abs()));
    let error = largest_error(x, &exact);
    assert!(
        error <= tolerance * size,
        "differs by {error:e} of {size:e}"
    );
}

fn narrow<T: Real>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::from_f64(x)).collect()
}

/// Unused values of the rows that [`widened`] makes: one before and two behind.
const MARGIN: usize = 3;

/// Rows of `cols` values inside wider ones.
fn widened(x: &[f32], cols: usize) -> Vec<f32> {
    let mut wider = vec![f32::NAN; x.len() / cols * (cols + MARGIN)];
    let rows = wider.chunks_exact_mut(cols + MARGIN);
    for (row, x) in rows.zip(x.chunks_exact(cols)) {
        row[1..=cols].copy_from_slice(x);
    }
    wider
}

/// The values of such rows, around which nothing may have been written.
fn narrowed(wider: &[f32], cols: usize) -> Vec<f32> {
    let rows = wider.chunks_exact(cols + MARGIN);
    rows.flat_map(|row| {
        assert!(row[0].is_nan() && row[cols + 1..].iter().all(|x| x.is_nan()));
        &row[1..=cols]
    })
    .copied()
    .collect()
}
