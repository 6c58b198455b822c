//! On every device that is present.

use serpens_core::cuda::{Properties, properties, rehearse};
use serpens_core::{DType, Device, Error, Tensor};

use super::reference::Layer;
use crate::linear::Norm;
use crate::mamba_layers::{Exchange, MambaLayer, step};
use crate::shared::tests::{cases, read, round, tell, tensor, values};

const EPS: f32 = 1e-5;
const TOKENS: u64 = 3;

/// Sizes of a model: (d_model, d_inner, R, N, W), whether the convolution has a bias, and layers.
type Case = ([usize; 5], bool, usize);

/// Few warps and stages; channels that are no whole packets, as of the 130M; rows and channels of more tiles than one;
/// many stages a tile, as of the 2.8B.
const CASES: [Case; 4] = [
    ([256, 512, 16, 16, 4], false, 1),
    ([768, 1536, 48, 16, 4], true, 3),
    ([1280, 2560, 80, 8, 3], true, 2),
    ([2560, 5120, 160, 16, 4], true, 1),
];

fn layer(([d_model, d_inner, rank, n, width], bias, _): Case, seed: u64) -> Layer {
    let make =
        |i: u64, count: usize, scale: f32, dtype| values(16 * seed + i, [count], scale, dtype);
    let matrix = |i, outputs: usize, inputs: usize| {
        let scale = 2.0 / (inputs as f32).sqrt();
        make(i, outputs * inputs, scale, DType::BF16)
    };
    let vector = |i, count, scale, offset: f64| -> Vec<f64> {
        let values = make(i, count, scale, DType::F32).into_iter();
        values
            .map(|value| round(value + offset, DType::F32))
            .collect()
    };
    Layer {
        norm: vector(0, d_model, 0.5, 1.0),
        in_proj: matrix(1, 2 * d_inner, d_model),
        conv: vector(2, d_inner * width, 0.7, 0.0),
        conv_bias: bias.then(|| vector(3, d_inner, 0.2, 0.0)),
        x_proj: matrix(4, rank + 2 * n, d_inner),
        dt_proj: matrix(5, d_inner, rank),
        dt_bias: vector(6, d_inner, 1.0, -3.0),
        a: vector(7, d_inner * n, 4.0, -5.0),
        d: vector(8, d_inner, 1.0, 0.0),
        out_proj: matrix(9, d_model, d_inner),
        past: vector(10, (width - 1) * d_inner, 1.0, 0.0),
        state: vector(11, d_inner * n, 1.0, 0.0),
    }
}

fn token(case: Case, seed: u64) -> Vec<f64> {
    values(1000 + seed, [case.0[0]], 1.0, DType::F32)
}

/// What the tokens make one after another: each h, then every layer's last inputs, and states.
type Results = [Vec<f64>; 3];

/// By a device; none where it has no kernel.
fn run(case: Case, device: Device) -> Option<Results> {
    let ([d_model, d_inner, rank, n, width], _, count) = case;
    let layers: Vec<Layer> = (0..count as u64).map(|seed| layer(case, seed)).collect();
    let float = |shape: [usize; 2], values: &[f64]| tensor(shape, values, DType::F32, device);
    let half = |shape: [usize; 2], values: &[f64]| tensor(shape, values, DType::BF16, device);
    let weights: Vec<[Tensor; 9]> = layers
        .iter()
        .map(|layer| {
            [
                float([1, d_model], &layer.norm),
                half([2 * d_inner, d_model], &layer.in_proj),
                float([d_inner, width], &layer.conv),
                half([rank + 2 * n, d_inner], &layer.x_proj),
                half([d_inner, rank], &layer.dt_proj),
                float([1, d_inner], &layer.dt_bias),
                float([d_inner, n], &layer.a),
                float([1, d_inner], &layer.d),
                half([d_model, d_inner], &layer.out_proj),
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
        let operands = weights.iter().zip(&biases).zip(&mut states);
        let operands = operands.map(|((w, bias), [past, state])| MambaLayer {
            norm: Norm {
                weight: w[0].view(),
                eps: EPS,
            },
            in_proj: w[1].view(),
            conv: w[2].view(),
            conv_bias: bias.as_ref().map(Tensor::view),
            x_proj: w[3].view(),
            dt_proj: w[4].view(),
            dt_bias: w[5].view(),
            a: w[6].view(),
            d: w[7].view(),
            out_proj: w[8].view(),
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

/// The same by the definition.
fn defined(case: Case, round: fn(f64) -> f64) -> Results {
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
            let exact = defined(case, |x| x);
            let rounded = defined(case, |x| round(x, DType::BF16));
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
    let case: Case = ([256, 512, 16, 16, 4], false, 1);
    assert_eq!(run(case, Device::Cpu), None);
    let narrow: Case = ([192, 384, 16, 16, 4], false, 1);
    let deep: Case = ([256, 512, 16, 16, 4], false, 65);
    for case in [narrow, deep] {
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
            assert_eq!(CASES.map(|case| has_one(&case)), [has; 4]);
            Ok::<_, Error>(())
        };
        let programs = rehearse(&card, all).unwrap();
        assert_eq!(programs.len(), if has { 4 } else { 0 });
    }
}
