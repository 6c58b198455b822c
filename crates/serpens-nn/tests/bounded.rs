//! Mixers that read whole sequences alone, or no longer ones than a cache holds.

use serpens_core::{Device, GradCheckOptions, Tensor, Var, gradcheck};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{
    AttentionConfig, BidirectionalConfig, Merge, MinGruConfig, Mixer, MixerSettings,
};
use serpens_nn::{Error, MambaLmConfig, Module, Start};
use serpens_ops::Starts;
use serpens_ops::elementwise::{add, scale, sub};

const WIDTH: usize = 6;
const SHAPE: [usize; 3] = [1, 9, WIDTH];

fn random() -> Var {
    let normal = Start::Normal { std: 1.0 };
    normal
        .draw(SHAPE.into(), "x", 5, Device::cpu())
        .unwrap()
        .into()
}

/// From the last position to the first.
fn reversed(x: &Var) -> Var {
    let rows = x.tensor().unwrap().to_vec::<f32>().unwrap();
    let turned: Vec<f32> = rows.chunks(WIDTH).rev().flatten().copied().collect();
    Tensor::from_slice(SHAPE, &turned, Device::cpu())
        .unwrap()
        .into()
}

fn assert_close(got: &Var, expected: &Var) {
    let difference = sub(got, expected).unwrap().into_tensor().unwrap();
    let difference = difference.to_vec::<f32>().unwrap();
    let largest = difference.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    assert!(largest < 1e-6, "{largest}");
}

#[test]
fn a_bidirectional_mixer_is_both_directions_together_of_whole_sequences_alone() {
    let of = MinGruConfig::default();
    let config = |shared, merge| BidirectionalConfig {
        of: Box::new(of.clone().into()),
        shared,
        merge,
        columns: None,
    };
    let plan = |config: &BidirectionalConfig| {
        let mixer = config.plan(WIDTH, 1.0).unwrap();
        mixer.init(Device::cpu(), 7).unwrap()
    };
    let x = random();
    let read =
        |mixer: Box<dyn Mixer>, x: &Var| mixer.forward(x, &Sequence::default(), None).unwrap();
    let shared = |merge| plan(&config(true, merge));
    let sum = read(shared(Merge::Sum), &x);
    // With the same parameters for both, the reversed sequence gives the reversed outputs.
    assert_close(&reversed(&read(shared(Merge::Sum), &reversed(&x))), &sum);
    assert_close(&scale(&read(shared(Merge::Mean), &x), 2.0).unwrap(), &sum);
    let count = |mixer: &dyn Mixer| mixer.count(|_| true).unwrap();
    let one = count(shared(Merge::Sum).as_ref());
    assert_eq!(count(plan(&config(false, Merge::Sum)).as_ref()), 2 * one);
    let concat = plan(&config(false, Merge::Concat));
    assert_eq!(count(concat.as_ref()), 2 * one + 2 * WIDTH * WIDTH);
    let forward = |v: &[Var]| Ok(concat.forward(&v[0], &Sequence::default(), None)?);
    let inputs = [x.tensor().unwrap().clone()];
    let check = gradcheck(forward, &inputs, GradCheckOptions::default()).unwrap();
    assert!(check.ok, "{check:?}");
    // Without sharing, each direction by parameters of its own.
    let own = plan(&config(false, Merge::Sum));
    let alone = [0, 1].map(|direction| {
        let mut mixer = of.plan(WIDTH, 1.0).unwrap();
        let filled = mixer.visit_mut("", &mut |wanted, param| {
            let wanted = format!("directions.{direction}.{wanted}");
            own.visit("", &mut |name, of_both| match name == wanted {
                true => param.set(of_both.value()?.clone()),
                false => Ok(()),
            })
        });
        filled.map(|()| mixer).unwrap()
    });
    let [forward, reverse] = alone;
    let back = reversed(&read(reverse, &reversed(&x)));
    assert_close(&read(own, &x), &add(&read(forward, &x), &back).unwrap());
    let mut state = concat.initial_state(1, Device::cpu()).unwrap();
    let refused = concat.forward(&x, &Sequence::default(), Some(&mut state));
    assert!(matches!(refused, Err(Error::Unsupported(_))));
    let model = MambaLmConfig::new(WIDTH, 2, 11).with_mixer(config(true, Merge::Sum));
    assert!(matches!(model.plan(), Err(Error::Uneven(_))));
}

#[test]
fn an_image_is_read_along_its_rows_and_its_columns_in_both_directions() {
    let (rows, columns) = (2, 4);
    let config = |shared, merge, columns| BidirectionalConfig {
        of: Box::new(MinGruConfig::default().into()),
        shared,
        merge,
        columns,
    };
    let plan = |config: BidirectionalConfig| {
        let mixer = config.plan(WIDTH, 1.0).unwrap();
        mixer.init(Device::cpu(), 7).unwrap()
    };
    let read = |mixer: &dyn Mixer, x: &Var| mixer.forward(x, &Sequence::default(), None).unwrap();
    let x = random().into_tensor().unwrap().to_vec::<f32>().unwrap();
    let image = |values: &[f32]| Tensor::from_slice([1, 8, WIDTH], values, Device::cpu()).unwrap();
    let turned = |x: &Var, [rows, columns]: [usize; 2]| {
        let x = x.tensor().unwrap().to_vec::<f32>().unwrap();
        let pixels = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
        let pixels = pixels.flat_map(|pixel| &x[pixel * WIDTH..][..WIDTH]);
        Var::from(image(&pixels.copied().collect::<Vec<_>>()))
    };
    let x = Var::from(image(&x[..8 * WIDTH]));
    // Of one seed, with one mixer for all directions: what it gives of the image, and of the image with its axes
    // exchanged, exchanged back.
    let two = plan(config(true, Merge::Sum, None));
    let four = plan(config(true, Merge::Sum, Some(columns)));
    let down = read(&*two, &turned(&x, [rows, columns]));
    let down = turned(&down, [columns, rows]);
    let expected = add(&read(&*two, &x), &down).unwrap();
    assert_close(&read(&*four, &x), &expected);
    let mean = plan(config(true, Merge::Mean, Some(columns)));
    assert_close(&scale(&read(&*mean, &x), 4.0).unwrap(), &expected);
    let own = plan(config(false, Merge::Concat, Some(columns)));
    let count = |mixer: &dyn Mixer| mixer.count(|_| true).unwrap();
    assert_eq!(count(&*own), 4 * (count(&*two) + WIDTH * WIDTH));
    let forward = |v: &[Var]| Ok(own.forward(&v[0], &Sequence::default(), None)?);
    let inputs = [x.tensor().unwrap().clone()];
    let check = gradcheck(forward, &inputs, GradCheckOptions::default()).unwrap();
    assert!(check.ok, "{check:?}");
    let uneven = own.forward(&random(), &Sequence::default(), None); // of 9
    assert!(matches!(uneven, Err(Error::Uneven(_))), "{uneven:?}");
    let starts = Starts::from_lengths(&[4, 4]);
    let packed = Sequence {
        starts: Some(&starts),
        ..Sequence::default()
    };
    let packed = own.forward(&x, &packed, None);
    assert!(matches!(packed, Err(Error::Unsupported(_))), "{packed:?}");
}

#[test]
fn a_cache_that_is_full_and_settings_that_do_not_fit_are_said() {
    let config = AttentionConfig {
        context: 4,
        ..AttentionConfig::default()
    };
    let model = MambaLmConfig::new(WIDTH, 1, 11).with_mixer(config.clone());
    let model = model.init(Device::cpu(), 3).unwrap();
    let ids = |count: usize| Tensor::full([1, count], 1_u32, Device::cpu()).unwrap();
    let mut state = model.initial_state(1).unwrap();
    model.read(&ids(3), &mut state).unwrap();
    assert!(matches!(
        model.read(&ids(2), &mut state),
        Err(Error::Full {
            tokens: 4,
            learnt: false
        })
    ));
    model.read(&ids(1), &mut state).unwrap();
    let stepper = model.stepper().unwrap();
    let row = state.scatter().unwrap().remove(0);
    assert_eq!(stepper.left(&row).unwrap(), Some(0));
    let refused = |config: AttentionConfig, width| config.plan(width, 1.0).unwrap_err().to_string();
    let heads = |heads, kv_heads| AttentionConfig {
        heads: Some(heads),
        kv_heads,
        ..config.clone()
    };
    let told = refused(heads(4, None), 6);
    assert_eq!(told, "heads = 4 does not divide d_model = 6");
    assert_eq!(
        refused(heads(6, Some(4)), 12),
        "kv_heads = 4 does not divide heads = 6"
    );
    let odd = refused(heads(2, None), 6);
    assert_eq!(odd, "rope = true turns pairs of columns, and a head has 3");
    let starts = Starts::from_lengths(&[1, 2]);
    let packed = Sequence {
        starts: Some(&starts),
        ..Sequence::default()
    };
    let mut state = model.initial_state(1).unwrap();
    let refused = model.forward(&ids(3).into(), &packed, Some(&mut state));
    assert!(matches!(refused, Err(Error::Unsupported(_))));
}
