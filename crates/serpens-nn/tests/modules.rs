//! What a program does with whole models: clone them, keep parts as they are, give them vectors instead of tokens.

use serpens_core::{DType, Device, Gradients, ParamId, Tape, Tensor, Var};
use serpens_nn::layers::{Linear, Sequence, Trace};
use serpens_nn::mixers::{Activation, MambaConfig, Mixer, MixerSettings, MlpConfig};
use serpens_nn::{
    Backbone, Error, MambaLm, MambaLmConfig, Module, Recompute, Result, Start, module,
};
use serpens_ops::cross_entropy::cross_entropy;

fn model() -> MambaLm {
    MambaLmConfig::new(8, 2, 11).init(Device::cpu(), 3).unwrap()
}

fn ids(shift: usize) -> Tensor {
    let ids: Vec<u32> = (0..14).map(|i| ((i + shift) * 7 % 11) as u32).collect();
    Tensor::from_slice([2, 7], &ids, Device::cpu()).unwrap()
}

fn random(shape: [usize; 3]) -> Tensor {
    let normal = Start::Normal { std: 1.0 };
    normal.draw(shape.into(), "x", 1, Device::cpu()).unwrap()
}

fn loss(model: &MambaLm, tape: &Tape, shift: usize, recompute: Recompute) -> Var {
    let sequence = Sequence {
        recompute,
        ..Sequence::default()
    };
    let logits = model.forward(&tape.constant(ids(shift)), &sequence, None);
    cross_entropy(logits.unwrap(), &ids(shift + 1))
        .unwrap()
        .loss
}

/// The gradients of a module's parameters, by name; `None` where there is none.
fn by_name(module: &dyn Module, gradients: &mut Gradients) -> Vec<(String, Option<Vec<f32>>)> {
    let mut all = Vec::new();
    let visited = module.visit("", &mut |name, param| {
        let gradient = gradients.get(param.id())?;
        let values = gradient
            .map(|gradient| gradient.to_vec::<f32>())
            .transpose()?;
        all.push((name.to_owned(), values));
        Ok(())
    });
    visited.unwrap();
    all
}

fn gradients(model: &MambaLm, shift: usize) -> Vec<(String, Option<Vec<f32>>)> {
    let (tape, mut gradients) = (Tape::new(), Gradients::new());
    let loss = loss(model, &tape, shift, Recompute::None);
    tape.backward(&loss, 1.0, &mut gradients).unwrap();
    by_name(model, &mut gradients)
}

fn identities(module: &dyn Module) -> Vec<ParamId> {
    let mut all = Vec::new();
    let visited = module.visit("", &mut |_, param| {
        all.push(param.id());
        Ok(())
    });
    visited.unwrap();
    all
}

fn values(module: &dyn Module) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    let visited = module.visit("", &mut |_, param| {
        all.push(param.value()?.to_vec::<f32>()?);
        Ok(())
    });
    visited.unwrap();
    all
}

#[test]
fn a_teacher_and_its_clone_on_one_tape_keep_their_gradients_apart() {
    let teacher = model();
    let student = teacher.clone();
    assert_eq!(values(&teacher), values(&student));
    let of_student = identities(&student);
    assert!(
        identities(&teacher)
            .iter()
            .all(|id| !of_student.contains(id))
    );
    // The embedding is the head's weight in both: one parameter, whose gradient is the sum of both uses.
    let (of_teacher, of_student) = (gradients(&teacher, 0), gradients(&student, 4));
    assert_ne!(of_teacher, of_student);
    for &recompute in Recompute::ALL {
        let (tape, mut together) = (Tape::new(), Gradients::new());
        let one = Tensor::full([1], 1.0_f32, Device::cpu()).unwrap();
        let losses = [
            loss(&teacher, &tape, 0, recompute),
            loss(&student, &tape, 4, recompute),
        ];
        let seeds = losses.iter().map(|loss| (loss, one.clone())).collect();
        tape.backward_from(seeds, &mut together).unwrap();
        assert_eq!(by_name(&teacher, &mut together), of_teacher, "{recompute}");
        assert_eq!(by_name(&student, &mut together), of_student, "{recompute}");
    }
}

#[test]
fn what_is_done_to_a_clone_is_not_done_to_its_original() {
    let teacher = model();
    let (before, mut student) = (values(&teacher), teacher.clone());
    let moved = student.visit_mut("", &mut |_, param| {
        let (value, _) = param.tensors_mut()?;
        value
            .make_mut::<f32>()?
            .iter_mut()
            .for_each(|value| *value += 1.0);
        Ok(())
    });
    moved.unwrap();
    assert_eq!(values(&teacher), before);
    assert_ne!(values(&student), before);
    student.set_frozen("*", true).unwrap();
    assert!(
        gradients(&teacher, 0)
            .iter()
            .all(|(_, gradient)| gradient.is_some())
    );
    let handle = teacher.handle().unwrap();
    assert_eq!(identities(&handle), identities(&teacher));
}

#[test]
fn frozen_parameters_have_no_gradient_and_the_others_the_same() {
    let mut model = model();
    let whole = gradients(&model, 0);
    let count = model.count(|param| param.trained).unwrap();
    for (names, frozen) in [
        ("backbone.embeddings", &["backbone.embeddings.weight"][..]),
        ("backbone.layers.1.norm", &["backbone.layers.1.norm.weight"]),
        (
            "backbone.layers.*.mixer.A_log",
            &[
                "backbone.layers.0.mixer.A_log",
                "backbone.layers.1.mixer.A_log",
            ],
        ),
    ] {
        model.set_frozen(names, true).unwrap();
        for ((name, all), (_, rest)) in whole.iter().zip(gradients(&model, 0)) {
            match frozen.contains(&name.as_str()) {
                true => assert_eq!(rest, None, "{name}"),
                false => assert_eq!(&rest, all, "{name}"),
            }
        }
        assert_eq!(model.count(|param| param.trained).unwrap(), count);
        model.set_frozen(names, false).unwrap();
        assert_eq!(gradients(&model, 0), whole);
    }
    for none in [
        "",
        "backbone.layer",
        "embeddings",
        "backbone.embeddings.weight.x",
    ] {
        let error = model.set_frozen(none, true);
        assert!(
            matches!(&error, Err(Error::NoParameter(names)) if names == none),
            "{error:?}"
        );
    }
}

#[test]
fn a_backbone_takes_vectors_from_anywhere() {
    let model = model();
    let whole = model
        .hidden(&ids(0).into(), &Sequence::default(), None)
        .unwrap();
    let x = model.embeddings().forward(&ids(0).into()).unwrap();
    let hidden = model
        .backbone()
        .forward(x.clone(), &Sequence::default(), None)
        .unwrap();
    let values = |var: &Var| var.tensor().unwrap().to_vec::<f32>().unwrap();
    assert_eq!(values(&hidden), values(&whole));

    // Gradients reach the vectors, which is what a projection of one's own is trained by.
    let (tape, mut gradients) = (Tape::new(), Gradients::new());
    let leaf = tape.leaf(x.into_tensor().unwrap());
    let hidden = model
        .backbone()
        .forward(leaf.clone(), &Sequence::default(), None);
    let logits = model.logits(&hidden.unwrap()).unwrap();
    let loss = cross_entropy(logits, &ids(1)).unwrap().loss;
    tape.backward(&loss, 1.0, &mut gradients).unwrap();
    let gradient = tape
        .gradient(&leaf)
        .unwrap()
        .expect("the loss depends on it");
    assert!(
        gradient
            .as_slice::<f32>()
            .unwrap()
            .iter()
            .all(|&value| value != 0.0)
    );

    let narrow = model
        .backbone()
        .forward(random([2, 7, 6]).into(), &Sequence::default(), None);
    assert!(matches!(narrow, Err(Error::Core(_))));
}

/// A model of measurements, as a program may have it.
#[derive(Clone, Debug)]
struct Forecast {
    embed: Linear,
    backbone: Backbone,
    head: Linear,
}

module!(Forecast { embed => "embed", backbone => "backbone", head => "head" });

impl Forecast {
    fn plan() -> Result<Self> {
        Ok(Self {
            embed: Linear::plan(3, 8),
            backbone: Backbone::plan(8, 2, 1e-5, &[MambaConfig::default().into()])?,
            head: Linear::plan(8, 3),
        })
    }

    /// (batch, length, 3) → the same
    fn forward(&self, x: &Var) -> Result<Var> {
        let x = self.embed.forward(x)?;
        let hidden = self.backbone.forward(x, &Sequence::default(), None)?;
        self.head.forward(&hidden)
    }
}

#[test]
fn a_backbone_between_layers_of_a_programs_own_is_one_module_with_them() {
    let model = Forecast::plan().unwrap().init(Device::cpu(), 1).unwrap();
    let y = model.forward(&random([2, 7, 3]).into()).unwrap();
    assert_eq!(y.shape().to_string(), "(2, 7, 3)");
    let tape = Tape::new();
    let y = model.forward(&tape.constant(random([2, 7, 3]))).unwrap();
    let (ones, mut gradients) = (
        Tensor::full(y.shape(), 1.0_f32, Device::cpu()),
        Gradients::new(),
    );
    tape.backward_from(vec![(&y, ones.unwrap())], &mut gradients)
        .unwrap();
    for (name, gradient) in by_name(&model, &mut gradients) {
        assert!(gradient.is_some(), "{name}");
    }
    // The state goes on where it was left.
    let x = random([2, 8, 8]);
    let whole = model
        .backbone
        .forward(x.clone().into(), &Sequence::default(), None)
        .unwrap();
    let mut state = model.backbone.initial_state(2).unwrap();
    for (rows, from) in [(5, 0), (3, 5)] {
        let taken: Vec<f32> = (0..2 * rows)
            .flat_map(|i| (0..8).map(move |c| (i / rows, from + i % rows, c)))
            .map(|(b, t, c)| x.as_slice::<f32>().unwrap()[(b * 8 + t) * 8 + c])
            .collect();
        let chunk = Tensor::from_slice([2, rows, 8], &taken, Device::cpu()).unwrap();
        let y = model
            .backbone
            .forward(chunk.into(), &Sequence::default(), Some(&mut state));
        let y = y.unwrap().into_tensor().unwrap();
        for (i, got) in y.as_slice::<f32>().unwrap().chunks(8).enumerate() {
            let whole = whole.mat().unwrap();
            let expected = whole.row(i / rows * 8 + from + i % rows);
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-5, "{got} and {expected}");
            }
        }
    }
}

#[test]
fn one_mixer_by_itself_is_made_in_a_line() {
    let mixer: Box<dyn Mixer> = MambaConfig::default().init(8, Device::cpu(), 0).unwrap();
    let y = mixer.forward(&random([2, 7, 8]).into(), &Sequence::default(), None);
    assert_eq!(y.unwrap().shape().to_string(), "(2, 7, 8)");
    let in_steps = MambaConfig::default().plan(8, 1.0).unwrap();
    let in_steps = in_steps.init(Device::cpu(), 0).unwrap();
    assert_eq!(values(&mixer), values(&in_steps));
}

#[test]
fn a_trace_in_chunks_is_that_of_one_reading() {
    let model = MambaLmConfig::new(32, 2, 11)
        .init(Device::cpu(), 3)
        .unwrap();
    let ids: Vec<u32> = (0..5000).map(|i| i * 7 % 11).collect();
    let mut state = model.initial_state(1).unwrap();
    let whole = model.trace(&ids, &mut state).unwrap();
    let mut state = model.initial_state(1).unwrap();
    let chunks = ids.chunks(512).map(|ids| model.trace(ids, &mut state));
    let chunks: Vec<_> = chunks.collect::<Result<_, _>>().unwrap();
    assert_eq!(whole.len(), 2);
    for (layer, (number, whole)) in whole.iter().enumerate() {
        let selection = |trace: &Trace| match trace.clone() {
            Trace::Selection(selection) => selection,
            Trace::Attention(_) => panic!("no layer attends"),
        };
        let whole = selection(whole);
        let chunks = chunks.iter().map(|chunk| selection(&chunk[layer].1));
        let chunks: Vec<_> = chunks.collect();
        let deltas = chunks.iter().flat_map(|chunk| &chunk.delta);
        assert!(whole.delta.iter().eq(deltas) && whole.a == chunks[0].a);
        assert_eq!(*number, layer);
        assert_eq!(whole.delta.len(), 5000 * whole.channels);
    }
}

#[test]
fn a_step_refuses_slots_of_another_model_and_more_than_there_are() {
    let [shallow, deep] = [1, 3].map(|layers| {
        let config = MambaLmConfig::new(16, layers, 10);
        config.init(Device::cpu(), 0).unwrap()
    });
    let stepper = deep.stepper().unwrap();
    let tokens = Tensor::from_slice([2], &[1_u32, 2], Device::cpu()).unwrap();
    let mut foreign = shallow
        .stepper()
        .unwrap()
        .slots(&shallow, 2, DType::F32)
        .unwrap();
    let refused = stepper.step(&tokens, 2, &mut foreign);
    assert!(matches!(refused, Err(Error::State { what: "layers", .. })));
    let mut own = stepper.slots(&deep, 1, DType::F32).unwrap();
    assert!(stepper.step(&tokens, 2, &mut own).is_err());
    stepper.step(&tokens, 1, &mut own).unwrap();
}

#[test]
fn a_feed_forward_layer_is_as_it_is_defined() {
    const WIDTH: usize = 5;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for (activation, expand, inner) in [
        (Activation::Swiglu, None, 64),
        (Activation::Swiglu, Some(20.0), 128),
        (Activation::Gelu, None, 64),
    ] {
        let config = MlpConfig {
            activation,
            expand,
            bias: true,
        };
        let mut mixer = config.init(WIDTH, Device::cpu(), 3).unwrap();
        let mut weights = Vec::new();
        let seen = mixer.visit_mut("", &mut |name, param| {
            let normal = Start::Normal { std: 0.5 };
            param.set(normal.draw(param.shape(), name, 4, Device::cpu())?)?;
            let values = param.value()?.to_vec::<f32>()?;
            weights.push(values.into_iter().map(f64::from).collect::<Vec<f64>>());
            Ok(())
        });
        seen.unwrap();
        let [w_in, b_in, w_out, b_out] = &weights[..] else {
            panic!("two products with a bias each");
        };
        let x = [0.3_f32, -1.2, 0.0, 2.0, 0.7];
        let product = |w: &[f64], b: &[f64], x: &[f64]| -> Vec<f64> {
            let rows = w.chunks(x.len()).zip(b);
            let row =
                |(row, b): (&[f64], &f64)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            rows.map(row).collect()
        };
        let first = product(w_in, b_in, &x.map(f64::from));
        let hidden: Vec<f64> = match activation {
            Activation::Swiglu => {
                let (z, x) = first.split_at(inner);
                z.iter().zip(x).map(|(z, x)| z * sigmoid(*z) * x).collect()
            }
            Activation::Gelu => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let gelu = |x: &f64| 0.5 * x * (1.0 + (root * (x + 0.044_715 * x.powi(3))).tanh());
                first.iter().map(gelu).collect()
            }
        };
        assert_eq!(hidden.len(), inner);
        let expected = product(w_out, b_out, &hidden);
        let x = Tensor::from_slice([1, 1, WIDTH], &x, Device::cpu()).unwrap();
        let y = mixer
            .forward(&x.into(), &Sequence::default(), None)
            .unwrap();
        let y = y.into_tensor().unwrap().to_vec::<f32>().unwrap();
        for (y, expected) in y.iter().zip(expected) {
            assert!(
                (f64::from(*y) - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{y} {expected}"
            );
        }
    }
}
