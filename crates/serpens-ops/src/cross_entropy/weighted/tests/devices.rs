//! Weights, smoothing and both: the loss, its totals and its gradient.

use serpens_core::{DType, Device, Error, Gradients, Result, Tape, Tensor, Var};

use super::reference::loss_and_gradient;
use crate::cross_entropy::{
    ClassOptions, CrossEntropy, IGNORE, Totals, cross_entropy, weighted_cross_entropy,
};
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};

/// (rows, classes): fewer rows than a block has at work, more, and so many that a warp has several.
const SIZES: [(usize, usize); 6] = [
    (5, 2),
    (211, 3),
    (40, 100),
    (37, 1001),
    (3, 4096),
    (9001, 2),
];

/// Loss, totals and gradient of `scale` · loss.
struct Outcome {
    loss: f64,
    totals: Totals,
    gradient: Vec<f64>,
}

/// One problem: logits (rows, classes), a target each, the classes' weights.
struct Case {
    logits: Vec<f64>,
    targets: Vec<u32>,
    weights: Option<Vec<f32>>,
    smoothing: f32,
}

impl Case {
    /// Each fifth row is ignored; every third class weighs nothing.
    fn new((rows, classes): (usize, usize), weighted: bool, smoothing: f32, dtype: DType) -> Self {
        let target = |r: usize| match r % 5 {
            1 => IGNORE,
            _ => (r * 7919 % classes) as u32,
        };
        let weight = |c: usize| (c % 3) as f32 * 0.75 + (c % 3 * c % 7) as f32;
        Self {
            logits: values(1, [rows, classes], 8.0, dtype),
            targets: (0..rows).map(target).collect(),
            weights: weighted.then(|| (0..classes).map(weight).collect()),
            smoothing,
        }
    }

    fn classes(&self) -> usize {
        self.logits.len() / self.targets.len()
    }

    /// The weights that it has or stands for.
    fn all_weights(&self) -> Vec<f32> {
        let ones = || vec![1.0; self.classes()];
        self.weights.clone().unwrap_or_else(ones)
    }

    /// The logits, and what there is of them once the gradient of `scale` · loss is there too.
    fn compute(
        &self,
        scale: f32,
        device: Device,
        dtype: DType,
    ) -> Result<(Tape, Var, CrossEntropy)> {
        let (rows, classes) = (self.targets.len(), self.classes());
        let tape = Tape::new();
        let x = tape.leaf(tensor([rows, classes], &self.logits, dtype, device));
        let targets = Tensor::from_slice([rows], &self.targets, device)?;
        let weights = self.weights.as_ref();
        let weights = weights.map(|w| Tensor::from_slice([w.len()], w, device).unwrap());
        let options = ClassOptions {
            weights: weights.as_ref(),
            smoothing: self.smoothing,
        };
        let result = weighted_cross_entropy(x.clone(), &targets, &options)?;
        tape.backward(&result.loss, scale, &mut Gradients::new())?;
        Ok((tape, x, result))
    }

    fn run(&self, scale: f32, device: Device, dtype: DType) -> Result<Outcome> {
        let (tape, x, result) = self.compute(scale, device, dtype)?;
        let unchanged = f32s(&read(x.tensor()?)).into_iter().map(f32::to_bits);
        let logits = f32s(&self.logits).into_iter().map(f32::to_bits);
        assert!(unchanged.eq(logits), "the logits were shared");
        Ok(Outcome {
            loss: read(result.loss.tensor()?)[0],
            totals: result.read()?,
            gradient: read(&tape.gradient(&x)?.unwrap()),
        })
    }
}

/// Every size with and without weights and smoothing.
fn problems(dtype: DType) -> impl Iterator<Item = (String, Case)> {
    let options = [(false, 0.0), (true, 0.0), (false, 0.1), (true, 0.3)];
    SIZES.into_iter().flat_map(move |size| {
        options.map(|(weighted, smoothing)| {
            let what = format!("{size:?}, weights: {weighted}, smoothing {smoothing}, {dtype}");
            (what, Case::new(size, weighted, smoothing, dtype))
        })
    })
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for (_, case) in problems(dtype) {
        case.compute(1.0, device, dtype).unwrap();
    }
}

#[test]
fn loss_totals_and_gradient_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for (what, case) in problems(dtype) {
            let (weights, smoothing) = (case.all_weights(), f64::from(case.smoothing));
            let exact: Vec<f64> = weights.iter().map(|&w| w.into()).collect();
            let truth = loss_and_gradient(&case.logits, &case.targets, &exact, smoothing);
            let narrow = f32s(&case.logits);
            let plain = loss_and_gradient(&narrow, &case.targets, &weights, case.smoothing);
            let got = case.run(1.0, device, dtype).unwrap();
            let what = format!("{what} on {device}");
            assert_near(
                &format!("loss of {what}"),
                &[got.loss],
                &[truth.0],
                &[plain.0],
                DType::F32,
            );
            assert_near(
                &format!("gradient of {what}"),
                &got.gradient,
                &truth.1,
                &plain.1,
                dtype,
            );
            // The totals count the same, and their mean is the loss.
            let x = tensor(
                [case.targets.len(), case.classes()],
                &case.logits,
                dtype,
                device,
            );
            let targets = Tensor::from_slice([case.targets.len()], &case.targets, device).unwrap();
            let totals = cross_entropy(x.into(), &targets).unwrap().read().unwrap();
            let counts = |totals: &Totals| (totals.count, totals.correct);
            assert_eq!(counts(&got.totals), counts(&totals), "{what}");
            let off = (got.totals.mean() - got.loss).abs();
            assert!(off <= 1e-7 * got.loss.abs(), "mean of {what}: {off}");
        }
    }
}

#[test]
fn the_gradient_is_scaled_and_two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for (what, case) in problems(dtype) {
            let run = |scale| case.run(scale, device, dtype).unwrap();
            let (whole, half) = (run(1.0), run(0.5));
            assert_eq!(
                (half.loss, half.totals),
                (whole.loss, whole.totals),
                "{what}"
            );
            let halves = |(a, b): (&f64, &f64)| *b == a / 2.0 || a.abs() < 1e-30;
            assert!(
                whole.gradient.iter().zip(&half.gradient).all(halves),
                "{what}"
            );
            assert_eq!(run(1.0).gradient, whole.gradient, "{what} on {device}");
        }
    }
}

/// Logits, targets and weights for what PyTorch says of them, and where weights and logits are to be broken.
fn small() -> Case {
    let logits = [
        0.5, -1.25, 2.0, 1.5, 0.25, -0.75, -2.0, 3.0, 1.0, 0.0, 0.125, -0.5,
    ];
    Case {
        logits: logits.to_vec(),
        targets: vec![2, 0, IGNORE, 1],
        weights: Some(vec![0.5, 2.0, 1.25]),
        smoothing: 0.2,
    }
}

#[test]
fn loss_and_gradient_are_those_of_pytorch_on_every_device() {
    // torch.nn.functional.cross_entropy of torch 2.15, of these in f64 with label_smoothing = 0.2.
    let loss = 0.808_725_375;
    #[rustfmt::skip]
    let gradient = [
        0.050_051_171_8, -0.025_313_308_8, -0.024_737_863_0, 0.008_974_103_6, 0.000_122_789_1, -0.009_096_892_7,
        0.0, 0.0, 0.0, 0.171_180_861_3, -0.258_176_463_4, 0.086_995_602_1,
    ];
    for (device, dtype) in cases() {
        let got = small().run(1.0, device, dtype).unwrap();
        assert!((got.loss - loss).abs() < 2e-7, "{} on {device}", got.loss);
        assert_near(
            "gradient",
            &got.gradient,
            &gradient,
            &f32s(&gradient),
            dtype,
        );
    }
}

#[test]
fn classes_that_weigh_nothing_may_be_impossible_on_every_device() {
    let none = f64::NEG_INFINITY;
    for (device, dtype) in cases() {
        // The first class is impossible in the first row, and the target of the second.
        let mut case = small();
        case.weights = Some(vec![0.0, 2.0, 1.25]);
        (case.logits[0], case.logits[3]) = (none, none);
        let got = case.run(1.0, device, dtype).unwrap();
        assert!(got.loss.is_finite() && got.totals.sum.is_finite());
        assert!(
            got.gradient.iter().all(|g| g.is_finite()),
            "{:?}",
            got.gradient
        );
        assert_eq!([got.gradient[0], got.gradient[3]], [0.0; 2]);
        // Without smoothing the second row has nothing to say at all.
        case.smoothing = 0.0;
        let got = case.run(1.0, device, dtype).unwrap();
        assert!(got.loss.is_finite(), "{device}");
        assert_eq!(got.gradient[3..9], [0.0; 6]);
        // A target that weighs something and cannot be.
        case.weights = None;
        assert_eq!(case.run(1.0, device, dtype).unwrap().loss, f64::INFINITY);
        // NaN is seen, but not in a row that is ignored.
        let mut case = small();
        case.logits[7] = f64::NAN;
        assert!(case.run(1.0, device, dtype).unwrap().loss.is_finite());
        case.logits[10] = f64::NAN;
        assert!(case.run(1.0, device, dtype).unwrap().loss.is_nan());
    }
}

#[test]
fn targets_that_weigh_nothing_together_are_a_loss_of_zero_on_every_device() {
    for (device, dtype) in cases() {
        let mut case = small();
        let zero = |case: &Case| {
            let got = case.run(1.0, device, dtype).unwrap();
            assert_eq!((got.loss, got.gradient), (0.0, vec![0.0; 12]), "{device}");
            got.totals.count
        };
        case.weights = Some(vec![0.0; 3]);
        assert_eq!(zero(&case), 3);
        case.weights = Some(vec![0.0, 1.0, 0.0]);
        case.targets = vec![0, 2, IGNORE, 0];
        assert_eq!(zero(&case), 3);
        (case.weights, case.targets) = (None, vec![IGNORE; 4]);
        assert_eq!(zero(&case), 0);
    }
}

#[test]
fn what_does_not_fit_is_said_on_every_device() {
    for (device, dtype) in cases() {
        let refused = |change: &dyn Fn(&mut Case)| {
            let mut case = small();
            change(&mut case);
            case.run(1.0, device, dtype).err()
        };
        for smoothing in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
            let error = refused(&|case| case.smoothing = smoothing);
            assert!(matches!(error, Some(Error::Value { .. })), "{error:?}");
        }
        for weights in [vec![1.0; 2], vec![1.0; 4], vec![]] {
            let error = refused(&|case| case.weights = Some(weights.clone()));
            assert!(matches!(error, Some(Error::Shape { .. })), "{error:?}");
        }
        for weight in [-1.0, f32::NAN, f32::INFINITY] {
            let error = refused(&|case| case.weights = Some(vec![1.0, weight, 1.0]));
            let expected = device == Device::Cpu;
            assert_eq!(
                matches!(error, Some(Error::Value { .. })),
                expected,
                "{error:?}"
            );
        }
        let error = refused(&|case| case.targets = vec![2, 7, IGNORE, 5]);
        let target = if device == Device::Cpu { 7 } else { 5 };
        let named = matches!(&error, Some(Error::Range { expected, got, .. }) if *expected == (0..3) && *got == target);
        assert!(named, "{error:?} on {device}");
        let logits: Var = tensor([4, 4], &[0.0; 16], dtype, device).into();
        let targets = Tensor::zeros([4], DType::U32, device).unwrap();
        let of = |logits: Var, targets: &Tensor| {
            weighted_cross_entropy(logits, targets, &ClassOptions::default()).err()
        };
        let columns = of(logits.columns(1..3).unwrap(), &targets);
        assert!(
            matches!(columns, Some(Error::Columns { .. })),
            "{columns:?}"
        );
        let fewer = of(logits, &targets.narrow(0..3).unwrap());
        assert!(matches!(fewer, Some(Error::Shape { .. })), "{fewer:?}");
    }
}
