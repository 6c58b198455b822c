//! Rows of a table by id, and the sums of their gradients.

use serpens_core::{DType, Device, Error, Gradients, ParamId, Tape, Tensor, Var};

use super::reference;
use crate::embedding::{cuda, embedding, packed_embedding};
use crate::quantized_linear::{Blocks, Packed};
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};

/// (positions, vocabulary, width): runs of one id that end in one segment, in the next, and many later.
const SIZES: [(usize, usize, usize); 7] = [
    (1, 3, 129),
    (37, 3, 7),
    (700, 300, 12),
    (5000, 1, 8),
    (3000, 70_000, 20),
    (2500, 50, 65),
    (40_000, 257, 4),
];

/// Ids of which small ones are frequent.
fn ids(seed: u64, positions: usize, vocabulary: usize) -> Vec<u32> {
    let uniform = values(seed, [positions], 1.0, DType::F32).into_iter();
    let power = |u: f64| (vocabulary as f64).powf(u.abs());
    uniform
        .map(|u| (power(u) as u32 - 1).min(vocabulary as u32 - 1))
        .collect()
}

/// y, and the gradient of the table from two readings of it.
fn run(sizes: (usize, usize, usize), device: Device) -> [Vec<f64>; 2] {
    let (positions, vocabulary, width) = sizes;
    let table = values(1, [vocabulary, width], 1.0, DType::F32);
    let id = ParamId::fresh();
    let table = Var::param(id, tensor([vocabulary, width], &table, DType::F32, device));
    let tape = Tape::new();
    let read_rows = |seed| {
        let ids = Tensor::from_slice([positions], &ids(seed, positions, vocabulary), device);
        embedding(&tape.constant(ids.unwrap()), &table).unwrap()
    };
    let (y, other) = (read_rows(5), read_rows(6));
    let gradient = |seed| {
        let dy = values(seed, [positions, width], 1.0, DType::F32);
        tensor([positions, width], &dy, DType::F32, device)
    };
    let mut gradients = Gradients::new();
    let seeds = vec![(&y, gradient(2)), (&other, gradient(3))];
    tape.backward_from(seeds, &mut gradients).unwrap();
    let dtable = gradients.get(id).unwrap().unwrap();
    [read(y.tensor().unwrap()), read(&dtable)]
}

/// Every size, with tables that are only read and gradients of `dtype`, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    super::steps::run_all(device, dtype);
    for (positions, vocabulary, width) in SIZES {
        run((positions, vocabulary, width), device);
        let ids = Tensor::zeros([positions], DType::U32, device).unwrap();
        let table = Tensor::zeros([vocabulary, width], dtype, device).unwrap();
        embedding(&ids.clone().into(), &table.into()).unwrap();
        let dy = Tensor::zeros([positions, width], dtype, device).unwrap();
        let mut dtable = Tensor::zeros([vocabulary, width], DType::F32, device).unwrap();
        cuda::backward(ids.view(), dy.view(), dtable.view_mut().unwrap(), false).unwrap();
    }
}

#[test]
fn rows_and_their_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        if dtype != DType::F32 {
            continue; // tables are f32
        }
        for sizes in SIZES {
            let (positions, vocabulary, width) = sizes;
            let [y, dtable] = run(sizes, device);
            let what = format!("{sizes:?} on {device}");
            let table = values(1, [vocabulary, width], 1.0, DType::F32);
            let (first, second) = (ids(5, positions, vocabulary), ids(6, positions, vocabulary));
            assert_eq!(y, reference::forward(&first, &table, width), "{what}");
            // The backward pass meets the second reading first.
            let both: Vec<u32> = second.iter().chain(&first).copied().collect();
            let dy: Vec<f64> = [3, 2]
                .into_iter()
                .flat_map(|seed| values(seed, [positions, width], 1.0, DType::F32))
                .collect();
            let truth = reference::backward(&both, &dy, vocabulary, width);
            let plain = reference::backward(&both, &f32s(&dy), vocabulary, width);
            assert_near(&what, &dtable, &truth, &plain, DType::F32);
        }
    }
}

#[test]
fn rows_of_narrow_tables_are_widened_and_have_no_gradient_on_every_device() {
    for (device, dtype) in cases() {
        if dtype != DType::F32 {
            continue; // once for each device
        }
        for (positions, vocabulary, width) in SIZES {
            let ids = ids(5, positions, vocabulary);
            let table = values(1, [vocabulary, width], 1.0, DType::BF16);
            let truth = reference::forward(&ids, &table, width);
            let table = tensor([vocabulary, width], &table, DType::BF16, device);
            let ids = Tensor::from_slice([positions], &ids, device).unwrap();
            let y = embedding(&ids.clone().into(), &table.clone().into()).unwrap();
            assert_eq!(
                read(y.tensor().unwrap()),
                truth,
                "{vocabulary} x {width} on {device}"
            );
            let learnt = Var::param(ParamId::fresh(), table);
            let refused = embedding(&Tape::new().constant(ids), &learnt).unwrap_err();
            assert!(matches!(refused, Error::NoGradient { .. }), "{refused}");
        }
    }
}

#[test]
fn rows_of_packed_tables_are_those_of_the_widened_table() {
    let (positions, vocabulary, width) = (40, 37, 512);
    let ids = ids(5, positions, vocabulary);
    let table = values(1, [vocabulary, width], 1.0, DType::F32);
    let table = tensor([vocabulary, width], &table, DType::F32, Device::Cpu);
    for kind in Blocks::ALL {
        let packed = Packed::quantize(kind, &table, Device::Cpu).unwrap();
        let wide = read(&packed.dequantize().unwrap());
        let places = Tensor::from_slice([4, 10], &ids, Device::Cpu).unwrap();
        let y = packed_embedding(&places.into(), &packed).unwrap();
        assert_eq!(y.shape().to_string(), "(4, 10, 512)");
        let truth = reference::forward(&ids, &wide, width);
        assert_eq!(read(y.tensor().unwrap()), truth, "{kind}");
        let beyond = Tensor::from_slice([1], &[vocabulary as u32], Device::Cpu).unwrap();
        assert!(packed_embedding(&beyond.into(), &packed).is_err());
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, _) in cases() {
        for sizes in SIZES {
            assert_eq!(run(sizes, device), run(sizes, device), "{sizes:?}");
        }
    }
}

#[test]
fn a_gpu_sums_gradients_of_either_type_and_leaves_ids_outside_the_table_out() {
    for (device, dtype) in cases() {
        if device == Device::Cpu {
            continue; // refuses such ids
        }
        let (positions, vocabulary, width) = (2100, 300, 36);
        let mut ids = ids(7, positions, vocabulary);
        for (i, id) in ids.iter_mut().enumerate() {
            if i % 100 == 3 {
                *id = u32::MAX - i as u32;
            }
        }
        let dy = values(8, [positions, width], 1.0, dtype);
        let kept = |i: &usize| (ids[*i] as usize) < vocabulary;
        let kept_ids: Vec<u32> = (0..positions).filter(kept).map(|i| ids[i]).collect();
        let kept_dy: Vec<f64> = (0..positions)
            .filter(kept)
            .flat_map(|i| dy[i * width..(i + 1) * width].to_vec())
            .collect();
        let truth = reference::backward(&kept_ids, &kept_dy, vocabulary, width);
        let plain = reference::backward(&kept_ids, &f32s(&kept_dy), vocabulary, width);
        let on_device = Tensor::from_slice([positions], &ids, device).unwrap();
        let dy = tensor([positions, width], &dy, dtype, device);
        let mut dtable = Tensor::full([vocabulary, width], f32::NAN, device).unwrap();
        let place = dtable.view_mut().unwrap();
        cuda::backward(on_device.view(), dy.view(), place, false).unwrap();
        assert_near("dtable", &read(&dtable), &truth, &plain, DType::F32);

        let table = values(1, [vocabulary, width], 1.0, DType::F32);
        let table = tensor([vocabulary, width], &table, DType::F32, device);
        let y = embedding(&on_device.into(), &table.into()).unwrap();
        let y = read(y.tensor().unwrap());
        for (i, row) in y.chunks(width).enumerate() {
            assert!(row.iter().all(|y| y.is_nan() != kept(&i)), "row {i}");
        }
    }
}
