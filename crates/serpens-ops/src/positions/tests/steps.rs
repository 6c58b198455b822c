//! Steps on every device: they are the whole, each slot is at a position of its own, and a table that ends harms none.

use serpens_core::cuda::Graph;
use serpens_core::{DType, Device, Error, Tensor};

use super::{reference, tables};
use crate::positions::{PositionsOptions, positions, step};
use crate::shared::tests::{f32s, read, tensor, values};

/// Rows of the table.
const COUNT: usize = 9;
const WIDTHS: [usize; 4] = [1, 6, 260, 1028];

/// Slots that have read so many tokens each, and a table.
struct Slots {
    h: Tensor,
    table: Tensor,
    read: Tensor,
}

impl Slots {
    fn new(before: &[u32], width: usize, device: Device, dtype: DType) -> Self {
        let table = values(1, [COUNT, width], 1.0, dtype);
        Self {
            h: Tensor::zeros([before.len(), width], DType::F32, device).unwrap(),
            table: tensor([COUNT, width], &table, dtype, device),
            read: Tensor::from_slice([1, before.len()], before, device).unwrap(),
        }
    }

    fn queue(&mut self) -> Result<(), Error> {
        step(self.h.view_mut()?, self.table.view(), self.read.view_mut()?)
    }

    /// What becomes of these rows.
    fn step(&mut self, h: &[f64]) -> Vec<f64> {
        self.h = tensor(self.h.shape(), h, DType::F32, self.h.device());
        self.queue().unwrap();
        read(&self.h)
    }
}

/// Every width, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for width in WIDTHS {
        Slots::new(&[0, 3], width, device, dtype).queue().unwrap();
    }
}

#[test]
fn steps_are_the_whole_on_every_device() {
    for (device, dtype) in tables() {
        let (slots, width) = (3, 20);
        let mut steps = Slots::new(&[0; 3], width, device, dtype);
        let shape = [slots, COUNT, width];
        let x = values(2, shape, 1.0, DType::F32);
        let block = tensor(shape, &x, DType::F32, device).into();
        let options = PositionsOptions::default();
        let whole = positions(&block, &steps.table.clone().into(), &options).unwrap();
        let whole = read(whole.tensor().unwrap());
        let at = |block: &[f64], t: usize| {
            let rows = block.chunks_exact(width).skip(t).step_by(COUNT);
            rows.flatten().copied().collect::<Vec<_>>()
        };
        for t in 0..COUNT {
            assert_eq!(steps.step(&at(&x, t)), at(&whole, t), "{t} on {device}");
        }
    }
}

#[test]
fn slots_are_at_positions_of_their_own_or_beyond_the_table_on_every_device() {
    let before = [0, 4, 0, 8, 9, 1000, u32::MAX - 1];
    for (device, dtype) in tables() {
        for width in WIDTHS {
            let mut slots = Slots::new(&before, width, device, dtype);
            let table = f32s(&read(&slots.table));
            for t in 0..3 {
                let h = values(t.into(), [before.len(), width], 1.0, DType::F32);
                let rows = f32s(&h);
                let rows = rows.chunks_exact(width).zip(before);
                let expected =
                    rows.flat_map(|(row, before)| match before.saturating_add(t) as usize {
                        place if place < COUNT => reference::forward(row, &table, &[place], width),
                        _ => row.to_vec(),
                    });
                let expected: Vec<f64> = expected.map(f64::from).collect();
                assert_eq!(slots.step(&h), expected, "{width} on {device} in {dtype}");
                let counted = before.map(|before| before.saturating_add(t + 1));
                assert_eq!(slots.read.to_vec::<u32>().unwrap(), counted);
            }
        }
    }
}

#[test]
fn a_recorded_step_goes_on_by_itself() {
    for (device, dtype) in tables() {
        if device == Device::Cpu {
            continue; // records no graphs
        }
        let [mut queued, mut recorded] = [(); 2].map(|()| Slots::new(&[0, 5], 12, device, dtype));
        queued.queue().unwrap();
        let graph = Graph::capture(device, || recorded.queue()).unwrap();
        graph.replay().unwrap();
        for _ in 0..5 {
            queued.queue().unwrap();
            graph.replay().unwrap();
        }
        assert_eq!(read(&recorded.h), read(&queued.h));
        let counted = recorded.read.to_vec::<u32>().unwrap();
        assert_eq!(counted, [6, 11]);
    }
}

#[test]
fn a_step_of_operands_that_do_not_fit_is_refused() {
    let tensor = |shape, dtype| Tensor::zeros(shape, dtype, Device::Cpu).unwrap();
    let refused = |h: [usize; 2], table: ([usize; 2], DType), slots: usize, read: DType| {
        let (mut h, mut read) = (tensor(h, DType::F32), tensor([1, slots], read));
        let table = tensor(table.0, table.1);
        let (h, read) = (h.view_mut().unwrap(), read.view_mut().unwrap());
        step(h, table.view(), read).map_err(|error| error.to_string())
    };
    let table = ([9, 4], DType::F32);
    assert_eq!(refused([2, 4], table, 2, DType::U32), Ok(()));
    assert_eq!(refused([0, 4], table, 0, DType::U32), Ok(()));
    let none = ([0, 4], DType::BF16);
    assert_eq!(refused([2, 4], none, 2, DType::U32), Ok(()));
    for (h, table, slots, read, what) in [
        (
            [2, 5],
            table,
            2,
            DType::U32,
            "table has shape (9, 4), expected (9, 5)",
        ),
        (
            [2, 4],
            table,
            3,
            DType::U32,
            "read has shape (1, 3), expected (1, 2)",
        ),
        ([2, 4], table, 2, DType::F32, "read is f32, expected u32"),
        (
            [2, 4],
            ([9, 4], DType::U32),
            2,
            DType::U32,
            "table is u32, expected f32",
        ),
    ] {
        let error = refused(h, table, slots, read).unwrap_err();
        assert_eq!(error, format!("positions: {what}"));
    }
}
