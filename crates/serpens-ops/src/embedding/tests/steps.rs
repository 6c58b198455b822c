//! Rows of tables of every kind, on every device.

use serpens_core::{DType, Device, Tensor};

use crate::embedding::step;
use crate::linear::Weight;
use crate::quantized_linear::{Blocks, Packed};
use crate::shared::tests::{cases, read, tensor, values};

const SHAPE: [usize; 2] = [11, 288];
const IDS: [u32; 5] = [3, 0, 10, 3, 7];

/// The rows of a table and what they should be.
fn run(ids: &[u32], blocks: Option<Blocks>, device: Device, dtype: DType) -> [Vec<f64>; 2] {
    let plain = values(1, SHAPE, 1.0, dtype);
    let packed = blocks.map(|blocks| {
        let plain = tensor(SHAPE, &plain, DType::F32, Device::Cpu);
        Packed::quantize(blocks, &plain, device).unwrap()
    });
    let stored = tensor(SHAPE, &plain, dtype, device);
    let held = match &packed {
        Some(packed) => read(&packed.dequantize().unwrap()),
        None => plain,
    };
    let table = match &packed {
        Some(packed) => Weight::Packed(packed),
        None => Weight::Plain(stored.view()),
    };
    let on_device = Tensor::from_slice([ids.len()], ids, device).unwrap();
    let mut y = Tensor::full([ids.len(), SHAPE[1]], 9.0_f32, device).unwrap();
    step(on_device.view(), table, y.view_mut().unwrap()).unwrap();
    let row = |id: &u32| held[*id as usize % SHAPE[0] * SHAPE[1]..][..SHAPE[1]].to_vec();
    [read(&y), ids.iter().flat_map(row).collect()]
}

const KINDS: [Option<Blocks>; 3] = [None, Some(Blocks::Q8_0), Some(Blocks::Q4_0)];

/// Every kind of table, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for blocks in KINDS {
        run(&IDS, blocks, device, dtype);
    }
}

#[test]
fn rows_are_those_of_the_table_to_the_bit_on_every_device() {
    for (device, dtype) in cases() {
        for blocks in KINDS {
            let [got, expected] = run(&IDS, blocks, device, dtype);
            assert_eq!(got, expected, "{blocks:?} on {device} in {dtype}");
        }
    }
}

#[test]
fn an_id_outside_the_table_gives_nan_on_a_gpu() {
    for (device, dtype) in cases()
        .into_iter()
        .filter(|(device, _)| *device != Device::Cpu)
    {
        let [got, expected] = run(&[1, 11, u32::MAX, 2], None, device, dtype);
        let width = SHAPE[1];
        assert_eq!(got[..width], expected[..width]);
        assert!(got[width..3 * width].iter().all(|v| v.is_nan()));
        assert_eq!(got[3 * width..], expected[3 * width..]);
    }
}
