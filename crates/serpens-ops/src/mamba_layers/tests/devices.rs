//! On every device that is present.

use serpens_core::cuda::{Properties, properties, rehearse};
use serpens_core::{DType, Device, Error, Tensor};

use super::reference::Layer;
use crate::linear::{Norm, Weight};
use crate::mamba_layers::{Exchange, MambaLayer, step};
use crate::quantized_linear::{Blocks, Packed};
use crate::shared::tests::{cases, read, round, tell, tensor, values};

const EPS: f32 = 1e-5;
const TOKENS: u64 = 3;

/// Sizes of a model: (d_model, d_inner, R, N, W), whether the convolution has a bias, layers, and the blocks that W_in
/// and W_out are in, else bf16.
type Case = ([usize; 5], bool, usize, Option<Blocks>);

/// Few warps and stages; channels that are no whole packets, as of the 130M; rows and channels of more panels than one;
/// many stages a panel, as of the 2.8B. Blocks: rows that begin inside a panel, at a half of it or elsewhere.
const CASES: [Case; 8] = [
    ([256, 512, 16, 16, 4], false, 1, None),
    ([768, 1536, 48, 16, 4], true, 3, None),
    ([1280, 2560, 80, 8, 3], true, 2, None),
    ([2560, 5120, 160, 16, 4], true, 1, None),
    ([768, 1536, 48, 16, 4], true, 3, Some(Blocks::Q8_0)),
    ([1280, 2560, 80, 8, 3], true, 2, Some(Blocks::Q4_0)),
    ([2048, 4096, 128, 16, 4], false, 1, Some(Blocks::Q4_0)),
    ([2560, 5120, 160, 16, 4], true, 2, Some(Blocks::Q8_0)),
];

fn layer(([d_model, d_inner, rank, n, width], bias, _, blocks): Case, seed: u64) -> Layer {
    let make =
        |i: u64, count: usize, scale: f32, dtype| values(16 * seed + i, [count], scale, dtype);
    let matrix = |i, outputs: usize, inputs: usize| {
        let scale = 2.0 / (inputs as f32).sqrt();
        make(i, outputs * inputs, scale, DType::BF16)
    };
    // Of blocks the values that they hold.
    let large = |i, outputs: usize, inputs: usize| match blocks {
        None => matrix(i, outputs, inputs),
        Some(blocks) => {
            let values = matrix(i, outputs, inputs);
            let values = tensor([outputs, inputs], &values, DType::F32, Device::Cpu);
            let packed = Packed::quantize(blocks, &values, Device::Cpu).unwrap();
            read(&packed.dequantize().unwrap())
        }
    };
    let vector = |i, count, scale, offset: f64| -> Vec<f64> {
        let values = make(i, count, scale, DType::F32).into_iter();
        values
            .map(|value| round(value + offset, DType::F32))
            .collect()
    };
    Layer {
        norm: vector(0, d_model, 0.5, 1.0),
        in_proj: large(1, 2 * d_inner, d_model),
        conv: vector(2, d_inner * width, 0.7, 0.0),
        conv_bias: bias.then(|| vector(3, d_inner, 0.2, 0.0)),
        x_proj: matrix(4, rank + 2 * n, d_inner),
        dt_proj: matrix(5, d_inner, rank),
        dt_bias: vector(6, d_inner, 1.0, -3.0),
        a: vector(7, d_inner * n, 4.0, -5.0),
        d: vector(8, d_inner, 1.0, 0.0),
        out_proj: large(9, d_model, d_inner),
        past: vector(10, (width - 1) * d_inner, 1.0, 0.0),
        state: vector(11, d_inner * n, 1.0, 0.0),
    }
}

fn token(case: Case, seed: u64) -> Vec<f64> {
    values(1000 + seed, [case.0[0]], 1.0, DType::F32)
}

/// W_in or W_out.
enum Large {
    Half(Tensor),
    Blocks(Packed),
}

impl Large {
    fn weight(&self) -> Weight<'_> {
        match self {
            Large::Half(weight) => Weight::Plain(weight.view()),
            Large::Blocks(weight) => Weight::Packed(weight),
        }
    }
}

/// What the tokens make one after another: each h, then every layer's last inputs, and states.
type Results = [Vec<f64>; 3];

/// By a device; none where it has no kernel.
fn run(case: Case, device: Device) -> Option<Results> {
    let ([d_model, d_inner, rank, n, width], _, count, blocks) = case;
    let layers: Vec<Layer> = (0..count as u64).map(|seed| layer(case, seed)).collect();
    let float = |shape: [usize; 2], values: &[f64]| tensor(shape, values, DType::F32, device);
    let half = |shape: [usize; 2], values: &[f64]| tensor(shape, values, DType::BF16, device);
    let large = |shape: [usize; 2], values: &[f64]| match blocks {
        None => Large::Half(half(shape, values)),
        Some(blocks) => {
            let values = tensor(shape, values, DType::F32, Device::Cpu);
            Large::Blocks(Packed::quantize(blocks, &values, device).unwrap())
        }
    };
    let matrices: Vec<[Large; 2]> = layers
        .iter()
        .map(|layer| {
            [
                large([2 * d_inner, d_model], &layer.in_proj),
                large([d_model, d_inner], &layer.out_proj),
            ]
        })
        .collect();
    let weights: Vec<[Tensor; 7]> = layers
        .iter()
        .map(|layer| {
            [
                float([1, d_model], &layer.norm),
                float([d_inner, width], &layer.conv),
                half([rank + 2 * n, d_inner], &layer.x_proj),
                half([d_inner, rank], &layer.dt_proj),
                float([1, d_inner], &layer.dt_bias),
                float([d_inner, n], &layer.a),
                float([1, d_inner], &layer.d),
            ]
        })
        .collect();
    let bias = |layer: &Layer| Some(float([1, d_inner], layer.conv_bias.as_ref()?));
    let biases: Vec<Option<Tensor>> = layers.iter().map(bias).collect();
    let mut states: Vec<[Tensor; 2]> = layers
        .iter()
        .map(|layer| {
            [
                float([1, (width - 1) * d_inner], &layer.past),
                float([1, d_inner * n], &layer.state),
            ]
        })
        .collect();
    let mut exchange = None;
    let mut hs = Vec::new();
    for seed in 0..TOKENS {
        let mut h = float([1, d_model], &token(case, seed));
        let operands = weights.iter().zip(&matrices).zip(&biases).zip(&mut states);
        let operands = operands.map(|(((w, large), bias), [past, state])| MambaLayer {
            norm: Norm {
                weight: w[0].view(),
                eps: EPS,
            },
            in_proj: large[0].weight(),
            conv: w[1].view(),
            conv_bias: bias.as_ref().map(Tensor::view),
            x_proj: w[2].view(),
            dt_proj: w[3].view(),
            dt_bias: w[4].view(),
            a: w[5].view(),
            d: w[6].view(),
            out_proj: large[1].weight(),
            past: past.view_mut().unwrap(),
            state: state.view_mut().unwrap(),
        });
        let operands: Vec<_> = operands.collect();
        if exchange.is_none() {
            exchange = Exchange::new(&operands).unwrap();
        }
        step(&operands, h.view_mut().unwrap(), exchange.as_mut()?).unwrap();
        hs.extend(read(&h));
    }
    let [pasts, scans] = [0, 1].map(|i| states.iter().flat_map(|state| read(&state[i])).collect());
    Some([hs, pasts, scans])
}

fn to_bf16(x: &mut [f64]) {
    x.iter_mut().for_each(|x| *x = round(*x, DType::BF16));
}

/// To integers of 8 bits and a scale for every 32.
fn to_integers(x: &mut [f64]) {
    for block in x.chunks_exact_mut(32) {
        let largest = block.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        let scale = largest / 127.0;
        block
            .iter_mut()
            .for_each(|x| *x = (*x / scale).round_ties_even() * scale);
    }
}

/// What becomes of the vectors that W_in and W_out multiply.
fn rounding(blocks: Option<Blocks>) -> [fn(&mut [f64]); 2] {
    match blocks {
        None => [to_bf16, to_bf16],
        Some(_) => [to_integers, |y| {
            to_bf16(y);
            to_integers(y);
        }],
    }
}

/// The same by the definition.
fn defined(case: Case, round: [fn(&mut [f64]); 2]) -> Results {
    let mut layers: Vec<Layer> = (0..case.2 as u64).map(|seed| layer(case, seed)).collect();
    let mut hs = Vec::new();
    for seed in 0..TOKENS {
        let mut h = token(case, seed);
        for layer in &mut layers {
            h = layer.step(&h, f64::from(EPS), round);
        }
        hs.extend(h);
    }
    let pasts = layers.iter().flat_map(|layer| layer.past.clone());
    let states = layers.iter().flat_map(|layer| layer.state.clone());
    [hs, pasts.collect(), states.collect()]
}

fn largest_distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let distances = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // NaN is the largest of all.
    distances.fold(0.0, |most, d| if d <= most { most } else { d })
}

pub(crate) fn run_all(device: Device, dtype: DType) {
    if dtype == DType::BF16 {
        CASES.iter().for_each(|&case| drop(run(case, device)));
    }
}

#[test]
fn layers_agree_with_the_definition_as_far_as_rounding_goes() {
    for (device, dtype) in cases() {
        if dtype != DType::BF16 {
            continue; // matrices are bf16
        }
        let card = properties(device).unwrap();
        if card.capability.0 < 9 || card.multiprocessors < 128 {
            tell(&format!(
                "layers by one kernel were skipped: {device} has none"
            ));
            continue;
        }
        for case in CASES {
            let got = run(case, device).expect("a kernel");
            assert_eq!(
                Some(&got),
                run(case, device).as_ref(),
                "the same bits again"
            );
            let exact = defined(case, [|_| (), |_| ()]);
            let rounded = defined(case, rounding(case.3));
            for (i, what) in ["h", "last inputs", "states"].into_iter().enumerate() {
                let allowed = 2.0 * largest_distance(&rounded[i], &exact[i]);
                let error = largest_distance(&got[i], &exact[i]);
                assert!(
                    error <= allowed,
                    "{case:?}, {what}: {error:e} of {allowed:e}"
                );
            }
        }
    }
}

#[test]
fn what_no_kernel_takes_is_left_as_it_is() {
    let case: Case = ([256, 512, 16, 16, 4], false, 1, None);
    assert_eq!(run(case, Device::Cpu), None);
    let narrow: Case = ([192, 384, 16, 16, 4], false, 1, None);
    let deep: Case = ([256, 512, 16, 16, 4], false, 65, None);
    let one_row: Case = ([128, 512, 8, 16, 4], false, 1, Some(Blocks::Q8_0));
    for case in [narrow, deep, one_row] {
        let [_, hopper, _] = Properties::generations();
        let none = |device| {
            assert_eq!(run(case, device), None);
            Ok::<_, Error>(())
        };
        assert!(rehearse(&hopper, none).unwrap().is_empty());
    }
}

#[test]
fn a_card_of_hopper_has_a_kernel_for_every_case_and_one_of_ampere_none() {
    let [ampere, hopper, _] = Properties::generations();
    for (card, has) in [(ampere, false), (hopper, true)] {
        let all = |device| {
            let has_one = |case: &Case| run(*case, device).is_some();
            assert_eq!(CASES.map(|case| has_one(&case)), [has; 8]);
            Ok::<_, Error>(())
        };
        let programs = rehearse(&card, all).unwrap();
        assert_eq!(programs.len(), if has { 8 } else { 0 });
    }
}
