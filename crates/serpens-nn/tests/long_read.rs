//! A long prompt is read in passes: the logits are those of one reading, and the memory does not depend on its length.
//! The only test of this file, as the pool's counters are those of the whole process.

use serpens_core::{Device, Tensor};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, MambaLmConfig};

const WIDTH: usize = 64;
const TOKENS: usize = 64;
/// What is read at once of one sequence.
const PASS: usize = 4096;

fn ids(batch: usize, length: usize) -> Tensor {
    let ids = (0..batch * length).map(|i| (i * 7 % 61) as u32);
    let ids: Vec<u32> = ids.collect();
    Tensor::from_slice([batch, length], &ids, Device::cpu()).unwrap()
}

/// The logits after the last token, and the most that was in tensors meanwhile, but for the tokens.
fn read(model: &MambaLm, ids: &Tensor) -> (Vec<f32>, usize) {
    let device = Device::cpu();
    let mut state = model.initial_state(ids.shape()[0]).unwrap();
    device.reset_high_water();
    let before = device.memory().in_use;
    let logits = model.read(ids, &mut state).unwrap();
    let peak = device.memory().high_water - before;
    (logits.to_vec::<f32>().unwrap(), peak)
}

#[test]
fn a_long_prompt_is_read_in_passes_to_the_same_bits_in_the_memory_of_one() {
    let model = MambaLmConfig::new(WIDTH, 2, TOKENS);
    let model = model.init(Device::cpu(), 3).unwrap();
    let (_, of_one_pass) = read(&model, &ids(1, PASS));
    for (batch, length) in [(1, PASS + 1), (1, 5 * PASS + 700), (3, PASS / 2)] {
        let ids = ids(batch, length);
        let (in_passes, peak) = read(&model, &ids);
        let mut state = model.initial_state(batch).unwrap();
        let hidden = model.hidden(&ids.into(), &Sequence::default(), Some(&mut state));
        let rows = hidden.unwrap().reshape([batch, length * WIDTH]).unwrap();
        let last = rows.columns((length - 1) * WIDTH..length * WIDTH).unwrap();
        let at_once = model.logits(&last).unwrap().into_tensor().unwrap();
        assert!(
            in_passes == at_once.to_vec::<f32>().unwrap(),
            "{batch} × {length}"
        );
        assert!(
            peak <= of_one_pass + of_one_pass / 8,
            "{peak}, {of_one_pass}"
        );
    }
    // An unknown token is told before anything is read.
    let mut state = model.initial_state(1).unwrap();
    let mut wrong = vec![0; 2 * PASS];
    wrong[2 * PASS - 1] = TOKENS as u32;
    let wrong = Tensor::from_slice([1, 2 * PASS], &wrong, Device::cpu()).unwrap();
    assert!(model.read(&wrong, &mut state).is_err());
    let fresh = model.initial_state(1).unwrap();
    let next = ids(1, 5);
    let after = model
        .read(&next, &mut state)
        .unwrap()
        .to_vec::<f32>()
        .unwrap();
    let mut fresh = fresh;
    let expected = model
        .read(&next, &mut fresh)
        .unwrap()
        .to_vec::<f32>()
        .unwrap();
    assert_eq!(after, expected);
}
