//! The kernels on every instruction set of this machine, against the f64 reference.

mod fixtures;
mod parity;
mod reference;
mod shapes;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serpens_core::{Mat, MatMut};

use super::cpu::{self, A, AMut, Dims, Grads, Inputs};
use super::reference::{self as plain, Float, Options, Values};
use crate::simd::Isa;

/// A scan and the gradients of its results; all values are exact in f32.
#[derive(Clone, Debug)]
struct Case {
    dims: Dims,
    x: Values<f64>,
    options: Options,
    dout: Vec<f64>,
    /// Empty for none.
    dlast: Vec<f64>,
}

/// Results and gradients by name.
struct Outcome<T> {
    out: Vec<T>,
    last: Vec<T>,
    grads: Values<T>,
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
        groups,
    }
}

impl Case {
    fn random(dims: Dims, with: Parts, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut values = |wanted: bool, len: usize, low: f32, high: f32| -> Vec<f64> {
            let len = if wanted { len } else { 0 };
            (0..len)
                .map(|_| f64::from(rng.random_range(low..high)))
                .collect()
        };
        let parts = if with.complex { 2 } else { 1 };
        let (rows, wide, n) = (dims.batch * dims.length, dims.channels, dims.state);
        let delta = if with.softplus {
            (-2.0, 1.5)
        } else {
            (0.51, 1.0)
        };
        let x = Values {
            u: values(true, rows * wide, -1.5, 1.5),
            delta: values(true, rows * wide, delta.0, delta.1),
            a_re: values(true, wide * n, -2.0, -0.05),
            a_im: values(with.complex, wide * n, -6.0, 6.0),
            b: values(true, rows * dims.groups * parts * n, -1.5, 1.5),
            c: values(true, rows * dims.groups * parts * n, -1.5, 1.5),
            d: values(with.d, wide, -1.0, 1.0),
            z: values(with.z, rows * wide, -3.0, 3.0),
            delta_bias: values(with.bias, wide, -0.5, 0.25),
            initial_state: values(with.initial, dims.batch * wide * parts * n, -1.0, 1.0),
        };
        let dout = values(true, rows * wide, -1.0, 1.0);
        let dlast = values(with.dlast, dims.batch * wide * parts * n, -1.0, 1.0);
        let starts = (0..if with.packed { rows } else { 0 })
            .map(|_| rng.random_bool(0.15))
            .collect();
        let options = Options {
            starts,
            softplus: with.softplus,
            reverse: with.reverse,
        };
        Self {
            dims,
            x,
            options,
            dout,
            dlast,
        }
    }

    fn parts(&self) -> usize {
        if self.x.a_im.is_empty() { 1 } else { 2 }
    }

    /// The loops of the reference in the precision `T`.
    fn plain<T: Float>(&self) -> Outcome<T> {
        let (x, dout, dlast) = (self.x.cast::<T>(), narrow(&self.dout), narrow(&self.dlast));
        let (out, last) = plain::forward(&self.dims, &x, &self.options);
        let grads = plain::backward(&self.dims, &x, &self.options, &dout, &dlast);
        Outcome { out, last, grads }
    }

    /// The kernels, with u and z, B and C, and their gradients inside wider rows.
    fn kernels(&self, isa: Isa) -> Outcome<f32> {
        let (dims, x) = (&self.dims, self.x.cast::<f32>());
        let (rows, wide, bc) = (
            dims.batch * dims.length,
            dims.channels,
            dims.groups * self.parts() * dims.state,
        );
        let uz = beside(&x.u, &x.z, rows, wide);
        let dbc = beside(&x.b, &x.c, rows, bc);
        let inputs = self.inputs(&x, Some((&uz, &dbc)));
        let mut out = vec![f32::NAN; rows * wide];
        let mut last = vec![f32::NAN; dims.batch * wide * self.parts() * dims.state];
        let mut saved = vec![f32::NAN; cpu::checkpoint_len(dims, self.parts())];
        cpu::forward_on(
            isa,
            dims,
            &inputs,
            MatMut::dense(&mut out, wide),
            Some(&mut last),
            Some(&mut saved),
        );
        let (mut grads, mut duz, mut dbc) = (x.clone(), uz.clone(), dbc.clone());
        for (name, _) in x.named() {
            grads
                .get_mut(name)
                .expect("a name of its own")
                .fill(f32::NAN);
        }
        let dout = narrow::<f32>(&self.dout);
        let dlast = narrow::<f32>(&self.dlast);
        let (uz_row, bc_row) = (row_len(wide), row_len(bc));
        let (du, dz) = halves(&mut duz, rows, wide, uz_row);
        let (db, dc) = halves(&mut dbc, rows, bc, bc_row);
        let Values {
            a_re,
            a_im,
            d,
            delta_bias,
            initial_state,
            delta,
            ..
        } = &mut grads;
        cpu::backward_on(
            isa,
            dims,
            &inputs,
            &saved,
            Mat::dense(&dout, wide),
            some(&dlast),
            Grads {
                u: du,
                delta: MatMut::dense(delta, wide),
                z: (!x.z.is_empty()).then_some(dz),
                a: if a_im.is_empty() {
                    AMut::Real(a_re)
                } else {
                    AMut::Complex { re: a_re, im: a_im }
                },
                b: db,
                c: dc,
                d: (!d.is_empty()).then_some(d),
                delta_bias: (!delta_bias.is_empty()).then_some(delta_bias),
                initial_state: (!initial_state.is_empty()).then_some(initial_state),
            },
        );
        grads.u = columns(&duz, wide, uz_row, 1);
        grads.z = if x.z.is_empty() {
            Vec::new()
        } else {
            columns(&duz, wide, uz_row, wide + 2)
        };
        grads.b = columns(&dbc, bc, bc_row, 1);
        grads.c = columns(&dbc, bc, bc_row, bc + 2);
        Outcome { out, last, grads }
    }

    /// The inputs as the kernels take them, dense or from the wider rows that [`beside`] makes of (u, z) and (B, C).
    fn inputs<'a>(
        &'a self,
        x: &'a Values<f32>,
        wider: Option<(&'a [f32], &'a [f32])>,
    ) -> Inputs<'a> {
        let (rows, wide) = (self.dims.batch * self.dims.length, self.dims.channels);
        let bc = self.dims.groups * self.parts() * self.dims.state;
        let of = |dense: &'a [f32], wider: Option<&'a [f32]>, cols, offset| match wider {
            Some(wider) => Mat::new(wider, rows, cols, row_len(cols), offset),
            None => Mat::dense(dense, cols),
        };
        let (uz, wide_bc) = (wider.map(|w| w.0), wider.map(|w| w.1));
        Inputs {
            u: of(&x.u, uz, wide, 1),
            delta: Mat::dense(&x.delta, wide),
            a: if x.a_im.is_empty() {
                A::Real(&x.a_re)
            } else {
                A::Complex {
                    re: &x.a_re,
                    im: &x.a_im,
                }
            },
            b: of(&x.b, wide_bc, bc, 1),
            c: of(&x.c, wide_bc, bc, bc + 2),
            d: some(&x.d),
            z: (!x.z.is_empty()).then(|| of(&x.z, uz, wide, wide + 2)),
            delta_bias: some(&x.delta_bias),
            initial_state: some(&x.initial_state),
            starts: (!self.options.starts.is_empty()).then_some(&self.options.starts),
            softplus: self.options.softplus,
            reverse: self.options.reverse,
        }
    }

    /// Holds the kernels of every instruction set to twice the error of the plain f32 evaluation (three
    /// times for complex scans), tensor by tensor, and two units
    /// in the last place of the tensor's largest value.
    fn check(&self) {
        self.check_against(std::slice::from_ref(self));
    }

    /// As [`Case::check`], where the plain error is the largest over this case and a few that differ by tenths of a percent:
    /// among few values a single evaluation may be exact by luck.
    fn check_among_neighbours(&self) {
        let neighbour = |step: u32| {
            let mut case = self.clone();
            let scale = 1.0 + 0.001 * f64::from(step);
            for (name, _) in self.x.named() {
                for value in case.x.get_mut(name).expect("a name of its own") {
                    *value = f64::from((*value * scale) as f32);
                }
            }
            case
        };
        self.check_against(&[0, 1, 2, 3, 4, 5, 6, 7].map(neighbour));
    }

    fn check_against(&self, plain: &[Case]) {
        let mut plain_errors = [0.0f64; 12];
        for case in plain {
            let (exact, plain) = (case.plain::<f64>(), case.plain::<f32>());
            for (i, ((_, exact), (_, plain))) in
                exact.tensors().into_iter().zip(plain.tensors()).enumerate()
            {
                plain_errors[i] = plain_errors[i].max(largest_error(plain, exact));
            }
        }
        let exact = self.plain::<f64>();
        for isa in Isa::available() {
            let computed = self.kernels(isa);
            for (i, ((name, exact), (_, computed))) in exact
                .tensors()
                .into_iter()
                .zip(computed.tensors())
                .enumerate()
            {
                let size = exact.iter().fold(0.0f64, |max, x| max.max(x.abs()));
                // The vector sine and cosine are less exact than those of the plain evaluation.
                let factor = if self.parts() == 2 { 3.0 } else { 2.0 };
                let allowed = factor * plain_errors[i] + 2.4e-7 * size;
                let error = largest_error(computed, exact);
                assert!(
                    error <= allowed,
                    "{name} on {}: error {error:e}, allowed {allowed:e}, largest value {size:e}, {:?} {:?}",
                    isa.name(),
                    self.dims,
                    self.options
                );
            }
        }
    }
}

impl<T> Outcome<T> {
    fn tensors(&self) -> Vec<(&'static str, &[T])>
    where
        T: Float,
    {
        let mut all = vec![("out", &self.out[..]), ("last", &self.last)];
        all.extend(self.grads.named().map(|(name, values)| (name, &values[..])));
        all
    }
}

fn largest_error<T: Float>(x: &[T], exact: &[f64]) -> f64 {
    assert_eq!(x.len(), exact.len());
    let error = |(x, exact): (&T, &f64)| (x.to_f64() - exact).abs();
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

fn narrow<T: Float>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::from_f64(x)).collect()
}

fn some(x: &[f32]) -> Option<&[f32]> {
    (!x.is_empty()).then_some(x)
}

/// Values in a row that holds two tensors of `cols` columns, with one unused value around each.
fn row_len(cols: usize) -> usize {
    2 * cols + 3
}

fn beside(x: &[f32], y: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut wider = vec![f32::NAN; rows * row_len(cols)];
    for (i, row) in wider.chunks_exact_mut(row_len(cols)).enumerate() {
        row[1..=cols].copy_from_slice(&x[i * cols..(i + 1) * cols]);
        if !y.is_empty() {
            row[cols + 2..2 * cols + 2].copy_from_slice(&y[i * cols..(i + 1) * cols]);
        }
    }
    wider
}

/// The two tensors of the rows that [`beside`] makes, to write.
fn halves(wider: &mut [f32], rows: usize, cols: usize, stride: usize) -> (MatMut<'_>, MatMut<'_>) {
    let data = wider.as_mut_ptr();
    // SAFETY: both lie inside `wider`, which is borrowed for as long, and their columns are disjoint.
    unsafe {
        (
            MatMut::from_raw(data.add(1), rows, cols, stride),
            MatMut::from_raw(data.add(cols + 2), rows, cols, stride),
        )
    }
}

fn columns(wider: &[f32], cols: usize, stride: usize, offset: usize) -> Vec<f32> {
    wider
        .chunks_exact(stride)
        .flat_map(|row| row[offset..offset + cols].to_vec())
        .collect()
}
