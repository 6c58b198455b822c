//! The draws of a GPU against those of the processor: the same tokens, whatever is asked.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serpens_core::cuda::Graph;
use serpens_core::{DType, Device, Error, Tensor, bf16};

use crate::sampling::cpu::Sampler;
use crate::sampling::{Broken, DeviceSampler, History, MOST_TOKENS, SampleOptions, token};
use crate::shared::tests::cases;

/// Sizes of vocabularies: below a warp's, odd, a language model's, the largest; with as many slots as have eight blocks
/// each, four, two and one.
const SIZES: [(usize, usize); 9] = [
    (1, 2 * KINDS),
    (31, 2 * KINDS),
    (129, KINDS),
    (1000, 4 * KINDS),
    (1000, 12 * KINDS),
    (5003, KINDS),
    (5003, 10 * KINDS),
    (50_280, 2 * KINDS),
    (MOST_TOKENS, KINDS),
];
/// What slots draw by, each in its own way.
const KINDS: usize = 16;

/// The options of a slot.
fn options(kind: usize, vocabulary: usize) -> SampleOptions {
    let last = vocabulary as u32 - 1;
    let mut o = SampleOptions::default();
    match kind % KINDS {
        0 => o.temperature = 0.0,
        1 => (),
        2 => o.temperature = 0.3,
        3 => o.top_k = 1,
        4 => o.top_k = 40,
        5 => o.top_k = 1200,
        6 => o.top_p = 0.9,
        7 => (o.temperature, o.top_p) = (0.2, 0.5),
        8 => o.min_p = 0.05,
        9 => (o.top_k, o.top_p, o.min_p) = (50, 0.95, 0.01),
        10 => o.repetition_penalty = 1.3,
        11 => (o.presence_penalty, o.frequency_penalty) = (0.4, 0.3),
        12 => o.logit_bias = vec![(0, 3.0), (last, f32::NEG_INFINITY), (last / 2, 2.5)],
        13 => (o.temperature, o.repetition_penalty) = (0.0, 2.0),
        14 => (o.top_p, o.temperature) = (0.999, 40.0),
        _ => {
            (o.temperature, o.top_k, o.top_p) = (1.2, 300, 0.97);
            (o.repetition_penalty, o.frequency_penalty) = (0.8, -0.2);
            o.logit_bias = vec![(last / 3, 1.0), (last / 3, 0.5)];
        }
    }
    o
}

/// Logits of a row: spread as a language model's, nearly flat, with many equals, or with few that are not forbidden.
fn logits(rng: &mut ChaCha8Rng, row: usize, vocabulary: usize) -> Vec<f32> {
    let mut uniform = || rng.next_u32() as f32 / 2.0_f32.powi(32);
    let mut value = || match row / 2 % 4 {
        0 => (uniform() + uniform() + uniform() - 1.5) * 12.0,
        1 => uniform() * 0.01,
        2 => (uniform() * 9.0).floor() - 4.0,
        _ if uniform() < 0.9 => f32::NEG_INFINITY,
        _ => uniform(),
    };
    let mut values: Vec<f32> = (0..vocabulary).map(|_| value()).collect();
    values[vocabulary / 2] = 0.25; // one at least is finite
    values
}

fn tensor(rows: &[Vec<f32>], dtype: DType, device: Device) -> Tensor {
    let shape = [rows.len(), rows[0].len()];
    let values = rows.concat();
    if dtype == DType::F32 {
        return Tensor::from_slice(shape, &values, device).unwrap();
    }
    let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
    Tensor::from_slice(shape, &values, device).unwrap()
}

/// A sequence on the processor.
struct Sequence {
    sampler: Sampler,
    history: History,
    rng: ChaCha8Rng,
}

impl Sequence {
    fn new(slot: usize, vocabulary: usize) -> Self {
        let mut history = History::default();
        let prompt: Vec<u32> = (0..40 + slot as u32 * 5).collect();
        let inside = |token: &u32| token * 7 % vocabulary as u32;
        history.read(&prompt.iter().map(inside).collect::<Vec<_>>());
        history.draw(1 % vocabulary as u32);
        let mut rng = ChaCha8Rng::seed_from_u64(slot as u64);
        rng.set_word_pos(2 * Self::drawn(slot) as u128);
        Self {
            sampler: Sampler::new(options(slot, vocabulary)).unwrap(),
            history,
            rng,
        }
    }

    /// Numbers that were taken before.
    fn drawn(slot: usize) -> u64 {
        slot as u64 * 1000
    }

    fn enter(&self, sampler: &mut DeviceSampler, slot: usize, vocabulary: usize) {
        let (options, key) = (options(slot, vocabulary), self.rng.get_seed());
        let drawn = Self::drawn(slot);
        let entered = sampler.enter(slot, &options, &self.history, key, drawn);
        entered.unwrap();
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, Broken> {
        let number = self.rng.next_u64();
        let token = self.sampler.sample(logits, &self.history, number)?;
        self.history.draw(token);
        Ok(token)
    }
}

/// Every kind, with as many slots as share a block and as many blocks as share a slot, for the programs that it asks
/// for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for (vocabulary, slots) in [(1000, 3), (1000, KINDS), (300, 20), (129, 60), (129, 150)] {
        let mut sampler = DeviceSampler::new(slots, vocabulary, device).unwrap();
        for slot in 0..slots {
            Sequence::new(slot, vocabulary).enter(&mut sampler, slot, vocabulary);
        }
        sampler.leave(2).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let row = |row| logits(&mut rng, row, vocabulary);
        let rows: Vec<Vec<f32>> = (0..slots).map(row).collect();
        let logits = tensor(&rows, dtype, device);
        let mut tokens = Tensor::zeros([slots], DType::U32, device).unwrap();
        for _ in 0..2 {
            let drawn = sampler.sample(logits.view(), tokens.view_mut().unwrap());
            drawn.unwrap();
        }
    }
}

fn gpus() -> impl Iterator<Item = (Device, DType)> {
    cases()
        .into_iter()
        .filter(|(device, _)| *device != Device::Cpu)
}

#[test]
fn a_gpu_draws_the_tokens_of_the_processor_and_keeps_their_history() {
    for (device, dtype) in gpus() {
        for (vocabulary, slots) in SIZES {
            let mut sampler = DeviceSampler::new(slots, vocabulary, device).unwrap();
            let mut sequences: Vec<_> = (0..slots)
                .map(|slot| Sequence::new(slot, vocabulary))
                .collect();
            for (slot, sequence) in sequences.iter().enumerate() {
                sequence.enter(&mut sampler, slot, vocabulary);
            }
            let mut tokens = Tensor::zeros([slots], DType::U32, device).unwrap();
            let mut rng = ChaCha8Rng::seed_from_u64(vocabulary as u64);
            for step in 0..6 {
                let row = |row| logits(&mut rng, row + step, vocabulary);
                let rows: Vec<Vec<f32>> = (0..slots).map(row).collect();
                let values = tensor(&rows, dtype, device);
                let place = tokens.view_mut().unwrap();
                sampler.sample(values.view(), place).unwrap();
                let drawn = tokens.to_vec::<u32>().unwrap();
                let values = crate::shared::tests::read(&values);
                for (slot, sequence) in sequences.iter_mut().enumerate() {
                    let row = &values[slot * vocabulary..][..vocabulary];
                    let narrow: Vec<f32> = row.iter().map(|x| *x as f32).collect();
                    let what =
                        format!("slot {slot}, step {step}, {vocabulary} {dtype} on {device}");
                    // A kernel does not say whether the options are to blame.
                    let expected = sequence.draw(&narrow).map_err(|broken| match broken {
                        Broken::Adjusted => Broken::NotFinite,
                        broken => broken,
                    });
                    assert_eq!(token(drawn[slot]), expected, "{what}");
                }
            }
        }
    }
}

#[test]
fn slots_are_entered_and_left_between_the_replays_of_one_graph() {
    for (device, dtype) in gpus() {
        let (slots, vocabulary) = (4, 5003);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let rows: Vec<Vec<f32>> = (0..slots)
            .map(|_| logits(&mut rng, 4, vocabulary))
            .collect();
        let values = tensor(&rows, dtype, device);
        let wide = crate::shared::tests::read(&values);
        let row = |slot: usize| -> Vec<f32> {
            let row = &wide[slot * vocabulary..][..vocabulary];
            row.iter().map(|x| *x as f32).collect()
        };
        let mut sampler = DeviceSampler::new(slots, vocabulary, device).unwrap();
        let mut tokens = Tensor::zeros([slots], DType::U32, device).unwrap();
        let draw = |sampler: &mut DeviceSampler, tokens: &mut Tensor| {
            let place = tokens.view_mut()?;
            sampler.sample(values.view(), place)
        };
        draw(&mut sampler, &mut tokens).unwrap(); // compiles
        let graph = Graph::capture(device, || draw(&mut sampler, &mut tokens)).unwrap();
        let replay = |tokens: &Tensor| {
            graph.replay().unwrap();
            tokens.to_vec::<u32>().unwrap()
        };
        assert_eq!(replay(&tokens), [0; 4], "all are empty");
        let mut one = Sequence::new(11, vocabulary); // with counts
        let entered = |sampler: &mut DeviceSampler, slot: usize, one: &Sequence| {
            let (options, key) = (options(11, vocabulary), one.rng.get_seed());
            sampler
                .enter(slot, &options, &one.history, key, Sequence::drawn(11))
                .unwrap();
        };
        entered(&mut sampler, 2, &one);
        for _ in 0..20 {
            let drawn = replay(&tokens);
            assert_eq!([drawn[0], drawn[1], drawn[3]], [0; 3]);
            assert_eq!(Ok(drawn[2]), one.draw(&row(2)));
        }
        // Another comes, and meets nothing of the first; that one goes on in another slot.
        let mut other = Sequence::new(11, vocabulary);
        entered(&mut sampler, 2, &other);
        sampler
            .enter(
                0,
                &options(11, vocabulary),
                &one.history,
                one.rng.get_seed(),
                11_020,
            )
            .unwrap();
        for _ in 0..20 {
            let drawn = replay(&tokens);
            assert_eq!(Ok(drawn[2]), other.draw(&row(2)));
            assert_eq!(Ok(drawn[0]), one.draw(&row(0)));
        }
        sampler.leave(2).unwrap();
        assert_eq!(replay(&tokens)[2], 0);
    }
}

#[test]
fn broken_logits_are_told_of_their_slot_alone() {
    for (device, dtype) in gpus() {
        let vocabulary = 1000;
        let kinds = [0, 1, 4, 6, 15];
        let mut rows = Vec::new();
        for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = vec![0.5_f32; vocabulary];
            match broken {
                f32::NEG_INFINITY => row.fill(broken),
                _ => row[777] = broken,
            }
            rows.push(row);
            rows.push(vec![0.5; vocabulary]);
        }
        let values = tensor(&rows, dtype, device);
        for kind in kinds {
            let slots = rows.len();
            let mut sampler = DeviceSampler::new(slots, vocabulary, device).unwrap();
            let mut sequence = Sequence::new(kind, vocabulary);
            for slot in 0..slots {
                let (options, key) = (options(kind, vocabulary), sequence.rng.get_seed());
                let drawn = Sequence::drawn(kind);
                sampler
                    .enter(slot, &options, &sequence.history, key, drawn)
                    .unwrap();
            }
            let mut tokens = Tensor::zeros([slots], DType::U32, device).unwrap();
            sampler
                .sample(values.view(), tokens.view_mut().unwrap())
                .unwrap();
            let drawn = tokens.to_vec::<u32>().unwrap().into_iter().map(token);
            let (nan, infinite) = (Err(Broken::Nan), Err(Broken::NotFinite));
            let whole = sequence.draw(&rows[1]);
            let expected = [nan, whole, nan, whole, infinite, whole, infinite, whole];
            assert_eq!(
                drawn.collect::<Vec<_>>(),
                expected,
                "kind {kind} on {device} in {dtype}"
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(DeviceSampler::new(1, 100, Device::Cpu).is_err());
    for (device, dtype) in gpus() {
        assert!(DeviceSampler::new(1, MOST_TOKENS + 1, device).is_err());
        let mut sampler = DeviceSampler::new(2, 100, device).unwrap();
        let bad = SampleOptions {
            top_p: 0.0,
            ..SampleOptions::default()
        };
        let mut enter = |slot, options: &SampleOptions| {
            sampler.enter(slot, options, &History::default(), [0; 32], 0)
        };
        assert!(matches!(enter(0, &bad), Err(Error::Inside { .. })));
        assert!(matches!(
            enter(2, &SampleOptions::default()),
            Err(Error::Range { .. })
        ));
        let sizes = [([3, 100], 3), ([2, 99], 2), ([2, 100], 1)];
        for (shape, places) in sizes {
            let logits = Tensor::zeros(shape, dtype, device).unwrap();
            let mut tokens = Tensor::zeros([places], DType::U32, device).unwrap();
            let place = tokens.view_mut().unwrap();
            assert!(sampler.sample(logits.view(), place).is_err(), "{shape:?}");
        }
    }
}
