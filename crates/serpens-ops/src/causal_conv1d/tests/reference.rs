//! The definition on dense arrays, in f64 the truth and in f32 the yardstick.

use crate::elementwise::tests::reference::{silu, silu_slope};
use crate::shared::tests::real::{Real, one, zero};

/// The problem: sizes, parameters and boundaries, as the module describes them.
#[derive(Clone, Debug)]
pub struct Conv<'a, R> {
    /// Number of rows of `length` positions.
    pub batch: usize,
    /// Positions of a row.
    pub length: usize,
    /// Channels.
    pub channels: usize,
    /// Width W of the filter.
    pub width: usize,
    /// (channels, width).
    pub weight: &'a [R],
    /// (channels).
    pub bias: Option<&'a [R]>,
    /// (batch, width − 1, channels).
    pub initial_state: Option<&'a [R]>,
    /// (batch, length): where sequences start, as time runs.
    pub starts: Option<&'a [bool]>,
    /// Whether a position sees those behind it instead of those before it.
    pub reverse: bool,
    /// Whether silu follows the sum.
    pub silu: bool,
}

/// The gradients of a sum over the outputs and the final state.
#[derive(Clone, Debug)]
pub struct Gradients<R> {
    /// (batch, length, channels).
    pub dx: Vec<R>,
    /// (channels, width).
    pub dweight: Vec<R>,
    /// (channels).
    pub dbias: Vec<R>,
    /// (batch, width − 1, channels).
    pub dinitial_state: Vec<R>,
}

/// Where an input lies.
#[derive(Clone, Copy)]
enum InputPlace {
    X(usize),
    State(usize),
}

impl<R: Real> Conv<'_, R> {
    /// The input of channel `e` at `step`, counted in the direction of the convolution; before 0 lies the initial
    /// state.
    fn place(&self, b: usize, step: isize, e: usize) -> InputPlace {
        let history = self.width as isize - 1;
        if step < 0 {
            let row = b as isize * history + history + step;
            return InputPlace::State(row as usize * self.channels + e);
        }
        let step = step as usize;
        let t = if self.reverse {
            self.length - 1 - step
        } else {
            step
        };
        InputPlace::X((b * self.length + t) * self.channels + e)
    }

    /// Whether a sequence ends between the steps `step − 1` and `step`.
    fn boundary(&self, b: usize, step: usize) -> bool {
        if step == self.length {
            return false;
        }
        let t = if self.reverse {
            self.length - 1 - step
        } else {
            step
        };
        self.starts
            .is_some_and(|starts| starts[b * self.length + t])
    }

    /// Whether `from` sees the earlier step `to`: no boundary lies between.
    fn sees(&self, b: usize, from: usize, to: isize) -> bool {
        (0..=from).all(|step| (step as isize) <= to || !self.boundary(b, step))
    }

    fn input(&self, x: &[R], place: InputPlace) -> R {
        match place {
            InputPlace::X(i) => x[i],
            InputPlace::State(i) => self.initial_state.map_or(zero(), |state| state[i]),
        }
    }

    /// The taps (k, place) that the output at `step` sums.
    fn taps(&self, b: usize, step: usize, e: usize) -> Vec<(usize, InputPlace)> {
        (0..self.width)
            .map(|k| (k, (step + k) as isize + 1 - self.width as isize))
            .filter(|&(_, at)| self.sees(b, step, at))
            .map(|(k, at)| (k, self.place(b, at, e)))
            .collect()
    }

    fn sum(&self, x: &[R], b: usize, step: usize, e: usize) -> R {
        let taps = self.taps(b, step, e).into_iter();
        self.bias.map_or(zero(), |bias| bias[e])
            + taps
                .map(|(k, place)| self.weight[e * self.width + k] * self.input(x, place))
                .sum::<R>()
    }

    /// Every (batch, step, channel).
    fn positions(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let (batch, length, channels) = (self.batch, self.length, self.channels);
        (0..batch * length * channels)
            .map(move |i| (i / channels / length, i / channels % length, i % channels))
    }

    /// Every (index in the final state, place of the input it holds), hidden inputs left out.
    fn carried(&self) -> Vec<(usize, InputPlace)> {
        let history = self.width - 1;
        let mut carried = Vec::new();
        for (b, j) in (0..self.batch * history).map(|i| (i / history, i % history)) {
            let step = (self.length + j) as isize - history as isize;
            if self.sees(b, self.length, step) {
                carried.extend((0..self.channels).map(|e| {
                    (
                        (b * history + j) * self.channels + e,
                        self.place(b, step, e),
                    )
                }));
            }
        }
        carried
    }
}

/// (y, final state).
pub fn forward<R: Real>(conv: &Conv<R>, x: &[R]) -> (Vec<R>, Vec<R>) {
    let mut y = vec![zero(); x.len()];
    for (b, step, e) in conv.positions() {
        let sum = conv.sum(x, b, step, e);
        if let InputPlace::X(i) = conv.place(b, step as isize, e) {
            y[i] = if conv.silu { silu(sum) } else { sum };
        }
    }
    let mut state = vec![zero(); conv.batch * (conv.width - 1) * conv.channels];
    for (i, place) in conv.carried() {
        state[i] = conv.input(x, place);
    }
    (y, state)
}

/// The gradients from those of y and of the final state.
pub fn backward<R: Real>(conv: &Conv<R>, x: &[R], dy: &[R], d_final_state: &[R]) -> Gradients<R> {
    let mut grads = Gradients {
        dx: vec![zero(); x.len()],
        dweight: vec![zero(); conv.weight.len()],
        dbias: vec![zero(); conv.channels],
        dinitial_state: vec![zero(); d_final_state.len()],
    };
    let add = |grads: &mut Gradients<R>, place, value| match place {
        InputPlace::X(i) => grads.dx[i] += value,
        InputPlace::State(i) => grads.dinitial_state[i] += value,
    };
    for (b, step, e) in conv.positions() {
        let InputPlace::X(i) = conv.place(b, step as isize, e) else {
            continue;
        };
        let slope = match conv.silu {
            true => silu_slope(conv.sum(x, b, step, e)),
            false => one(),
        };
        let g = dy[i] * slope;
        grads.dbias[e] += g;
        for (k, place) in conv.taps(b, step, e) {
            grads.dweight[e * conv.width + k] += g * conv.input(x, place);
            add(&mut grads, place, g * conv.weight[e * conv.width + k]);
        }
    }
    for (i, place) in conv.carried() {
        add(&mut grads, place, d_final_state[i]);
    }
    grads
}
