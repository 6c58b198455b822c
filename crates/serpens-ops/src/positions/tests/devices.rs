//! Rows of every alignment, alone and packed, with tables that are learnt and such as are only read.

use serpens_core::cuda::Graph;
use serpens_core::{DType, Device, Error, Gradients, ParamId, Tape, Var};

use super::{reference, tables};
use crate::Starts;
use crate::positions::{PositionsOptions, positions};
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};

/// One problem; x lies at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    length: usize,
    width: usize,
    margin: usize,
    /// Rows of the table.
    count: usize,
    from: usize,
    /// Rows of a packed sequence; none are packed where it is 0.
    every: usize,
}

/// Blocks of threads that end anywhere, tables longer than what is read of them, sums that are cut into segments.
fn problems() -> Vec<Case> {
    let sizes = [
        (3, 70, 64, 4, 100, 0, 0),
        (2, 33, 7, 0, 60, 20, 0),
        (5, 1, 1025, 1, 9, 8, 0),
        (9, 12, 2052, 0, 12, 0, 0),
        (2, 90, 12, 2, 95, 0, 37),
        (7, 300, 20, 8, 64, 0, 13),
        (1, 50, 3, 0, 50, 0, 1),
    ];
    let case = |(batch, length, width, margin, count, from, every)| Case {
        batch,
        length,
        width,
        margin,
        count,
        from,
        every,
    };
    sizes.map(case).to_vec()
}

impl Case {
    fn shape(&self) -> [usize; 3] {
        [self.batch, self.length, self.width]
    }

    fn places(&self) -> Vec<usize> {
        let begins = |row: usize| self.every > 0 && row.is_multiple_of(self.every);
        reference::places([self.batch, self.length], self.from, begins)
    }

    /// x, and the gradients of two readings of the table.
    fn rows(&self) -> [Vec<f64>; 3] {
        [1, 2, 3].map(|seed| values(seed, self.shape(), 2.0, DType::F32))
    }

    fn table(&self, dtype: DType) -> Vec<f64> {
        values(4, [self.count, self.width], 1.0, dtype)
    }

    fn read(&self, x: &Var, table: &Var) -> Result<Var, Error> {
        let ids = (0..self.batch * self.length).map(|row| (row / self.every.max(1)) as u32);
        let starts = Starts::from_sequence_ids(&ids.collect::<Vec<_>>(), self.batch).unwrap();
        let options = PositionsOptions {
            from: self.from,
            starts: (self.every > 0).then_some(&starts),
        };
        positions(x, table, &options)
    }

    /// y, and the gradients of x and of the table, which is read twice.
    fn run(&self, device: Device) -> [Vec<f64>; 3] {
        let ([x, first, second], margin) = (self.rows(), self.margin);
        let beside = vec![100.0; margin];
        let rows = x.chunks_exact(self.width);
        let around = rows.flat_map(|row| [&beside, row, &beside].concat());
        let wide = [self.batch, self.length, self.width + 2 * margin];
        let tape = Tape::new();
        let around = tensor(wide, &around.collect::<Vec<_>>(), DType::F32, device);
        let around = tape.leaf(around);
        let x = around.columns(margin..margin + self.width).unwrap();
        let (id, table) = (ParamId::fresh(), self.table(DType::F32));
        let table = tensor([self.count, self.width], &table, DType::F32, device);
        let table = Var::param(id, table);
        let [y, other] = [(); 2].map(|()| self.read(&x, &table).unwrap());
        let mut gradients = Gradients::new();
        let seeds = [(&y, first), (&other, second)];
        let seeds = seeds.map(|(y, dy)| (y, tensor(self.shape(), &dy, DType::F32, device)));
        tape.backward_from(seeds.into(), &mut gradients).unwrap();
        let dx = read(&tape.gradient(&around).unwrap().unwrap());
        let inside = |row: &[f64]| row[margin..margin + self.width].to_vec();
        let dx = dx.chunks_exact(wide[2]).flat_map(inside).collect();
        let dtable = gradients.get(id).unwrap().unwrap();
        [read(y.tensor().unwrap()), dx, read(&dtable)]
    }

    /// y with a table of this type that is not learnt, beside an x that may be.
    fn run_read_only(&self, device: Device, dtype: DType) -> Vec<f64> {
        let [x, ..] = self.rows();
        let x = Tape::new().leaf(tensor(self.shape(), &x, DType::F32, device));
        let size = [self.count, self.width];
        let table = tensor(size, &self.table(dtype), dtype, device);
        let y = self.read(&x, &table.clone().into()).unwrap();
        let learnt = self.read(&x, &Var::param(ParamId::fresh(), table));
        match learnt {
            Err(error) => assert!(matches!(error, Error::NoGradient { .. }), "{error}"),
            Ok(_) => assert_eq!(dtype, DType::F32),
        }
        read(y.tensor().unwrap())
    }
}

/// Every case, with tables that are only read in `dtype`, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    super::steps::run_all(device, dtype);
    for case in problems() {
        case.run(device);
        case.run_read_only(device, dtype);
    }
}

#[test]
fn values_and_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in tables() {
        for case in problems() {
            let what = format!("{case:?} on {device} in {dtype}");
            let ([x, first, second], places) = (case.rows(), case.places());
            let (count, width) = (case.count, case.width);
            let sum = |table: Vec<f64>| {
                let plain = reference::forward(&f32s(&x), &f32s(&table), &places, width);
                plain.into_iter().map(f64::from).collect::<Vec<_>>()
            };
            let read_only = case.run_read_only(device, dtype);
            assert_eq!(read_only, sum(case.table(dtype)), "{what}");
            if dtype != DType::F32 {
                continue; // tables that are learnt are f32
            }
            let [y, dx, dtable] = case.run(device);
            assert_eq!(y, sum(case.table(DType::F32)), "{what}");
            let of_both = |(first, second): (&f64, &f64)| f64::from((first + second) as f32);
            let both: Vec<f64> = first.iter().zip(&second).map(of_both).collect();
            assert_eq!(dx, both, "{what}");
            // The backward pass meets the second reading first.
            let (dy, places) = ([second, first].concat(), [&places[..], &places].concat());
            let truth = reference::backward(&dy, &places, count, width);
            let plain = reference::backward(&f32s(&dy), &places, count, width);
            assert_near(&what, &dtable, &truth, &plain, DType::F32);
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        if dtype != DType::F32 {
            continue; // once for each device
        }
        for case in problems() {
            assert_eq!(case.run(device), case.run(device), "{case:?} on {device}");
        }
    }
}

#[test]
fn a_graph_records_sequences_that_are_not_packed_with_their_gradients() {
    for (device, dtype) in cases() {
        if device == Device::Cpu || dtype != DType::F32 {
            continue; // records no graphs; once for each device
        }
        let case = problems()[0];
        let [y, _, dtable] = case.run(device);
        let [x, first, second] = case
            .rows()
            .map(|rows| tensor(case.shape(), &rows, dtype, device));
        let (id, size) = (ParamId::fresh(), [case.count, case.width]);
        let table = tensor(size, &case.table(dtype), dtype, device);
        let table = Var::param(id, table);
        let (mut gradients, mut recorded) = (Gradients::new(), None);
        let graph = Graph::capture(device, || {
            let tape = Tape::new();
            let x = tape.constant(x.clone());
            let [y, other] = [case.read(&x, &table)?, case.read(&x, &table)?];
            let seeds = vec![(&y, first.clone()), (&other, second.clone())];
            tape.backward_from(seeds, &mut gradients)?;
            recorded = Some((y.into_tensor()?, gradients.get(id)?.unwrap()));
            Ok::<_, Error>(())
        });
        let graph = graph.unwrap();
        graph.replay().unwrap();
        let (of_graph, gradient) = recorded.unwrap();
        assert_eq!([read(&of_graph), read(&gradient)], [y, dtable]);
    }
}
