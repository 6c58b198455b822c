//! Models that answer: of sequences and of positions, alone and packed, on one strand and on both.

use serpens_core::{Device, GradCheckOptions, Tensor, Var, gradcheck};
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{AttentionConfig, BidirectionalConfig, MambaConfig};
use serpens_nn::{
    Answer, Error, HeadConfig, LmState, LoraConfig, MambaLmConfig, Module, Pooling, Predictor,
    PredictorConfig, Result, Start,
};
use serpens_ops::Starts;

const TOKENS: usize = 5;
/// Of A, C, G, T and what is none of them.
const COMPLEMENT: [u32; TOKENS] = [3, 2, 1, 0, 4];
const IDS: [u32; 12] = [0, 3, 1, 1, 4, 2, 0, 0, 1, 3, 2, 1];

fn head(pooling: Option<Pooling>) -> HeadConfig {
    HeadConfig {
        answer: Answer::Class,
        outputs: 3,
        pooling,
        complement: Vec::new(),
    }
}

fn config(pooling: Option<Pooling>) -> PredictorConfig {
    PredictorConfig {
        model: MambaLmConfig::new(8, 2, TOKENS),
        channels: 0,
        head: head(pooling),
    }
}

fn init(config: &PredictorConfig) -> Predictor {
    config.init(Device::cpu(), 3).unwrap()
}

fn ids(ids: &[u32]) -> Var {
    let ids = Tensor::from_slice([1, ids.len()], ids, Device::cpu());
    ids.unwrap().into()
}

fn values(outputs: Result<Var>) -> Vec<f32> {
    outputs.unwrap().into_tensor().unwrap().to_vec().unwrap()
}

fn whole(model: &Predictor, x: &[u32]) -> Vec<f32> {
    values(model.forward(&ids(x), &Sequence::default(), None))
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let pairs = got.iter().zip(expected);
    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 2e-6, "{largest}: {got:?}, {expected:?}");
}

const POOLINGS: [Option<Pooling>; 4] = [
    None,
    Some(Pooling::Last),
    Some(Pooling::Mean),
    Some(Pooling::Attention),
];

#[test]
fn packed_sequences_are_answered_as_each_by_itself() {
    let lengths = [5, 1, 6];
    let starts = Starts::from_lengths(&lengths);
    let packed = Sequence {
        starts: Some(&starts),
        ..Sequence::default()
    };
    for pooling in POOLINGS {
        let model = init(&config(pooling));
        let mut alone = Vec::new();
        let mut rest = &IDS[..];
        for length in lengths {
            let (own, others) = rest.split_at(length);
            alone.extend(whole(&model, own));
            rest = others;
        }
        let rows = if pooling.is_some() { 3 } else { IDS.len() };
        assert_eq!(alone.len(), 3 * rows, "{pooling:?}");
        assert_close(&values(model.forward(&ids(&IDS), &packed, None)), &alone);
    }
}

#[test]
fn what_is_answered_is_the_projection_of_what_is_pooled() {
    let rows = whole(&init(&config(None)), &IDS);
    let rows: Vec<&[f32]> = rows.chunks(3).collect();
    // Of one seed, with the same names of parameters: the projection of a mean is the mean of projections.
    assert_close(&whole(&init(&config(Some(Pooling::Last))), &IDS), rows[11]);
    let mean: Vec<f32> = (0..3)
        .map(|i| rows.iter().map(|row| row[i]).sum::<f32>() / 12.0)
        .collect();
    assert_close(&whole(&init(&config(Some(Pooling::Mean))), &IDS), &mean);
    // By attention it is a mean with other weights, which lies between the least and the largest.
    let attended = whole(&init(&config(Some(Pooling::Attention))), &IDS);
    for (i, value) in attended.iter().enumerate() {
        let column = rows.iter().map(|row| row[i]);
        let (least, most) = column.fold((f32::MAX, f32::MIN), |(a, b), x| (a.min(x), b.max(x)));
        assert!(*value > least && *value < most && (value - mean[i]).abs() > 1e-6);
    }
}

#[test]
fn answers_of_positions_go_on_from_a_state() {
    let model = init(&config(None));
    let expected = whole(&model, &IDS);
    let mut state = model.initial_state(1).unwrap();
    let mut read = |from: usize, to: usize| {
        let outputs = model.forward(&ids(&IDS[from..to]), &Sequence::default(), Some(&mut state));
        values(outputs)
    };
    let parts = [read(0, 5), read(5, 6), read(6, 12)].concat();
    assert_close(&parts, &expected);
}

#[test]
fn gradients_of_values_that_are_read_are_as_differences_say() {
    for pooling in POOLINGS {
        let config = PredictorConfig {
            channels: 2,
            model: MambaLmConfig::new(6, 1, 0),
            ..config(pooling)
        };
        let model = init(&config);
        let x = Start::Normal { std: 1.0 }.draw([2, 5, 2].into(), "x", 5, Device::cpu());
        let forward = |x: &[Var]| Ok(model.forward(&x[0], &Sequence::default(), None)?);
        let check = gradcheck(forward, &[x.unwrap()], GradCheckOptions::default()).unwrap();
        assert!(check.ok, "{pooling:?}: {check:?}");
    }
}

#[test]
fn a_sequence_and_its_reverse_complement_have_the_same_answer() {
    let turned: Vec<u32> = IDS
        .iter()
        .rev()
        .map(|&id| COMPLEMENT[id as usize])
        .collect();
    let both = BidirectionalConfig::default();
    for model in [
        MambaLmConfig::new(8, 2, TOKENS),
        MambaLmConfig::new(8, 2, TOKENS).with_mixer(both),
    ] {
        for pooling in [None, Some(Pooling::Mean), Some(Pooling::Attention)] {
            let mut config = PredictorConfig {
                model: model.clone(),
                ..config(pooling)
            };
            let one_strand = whole(&init(&config), &IDS);
            config.head.complement = COMPLEMENT.to_vec();
            let paired = init(&config);
            let [here, there] = [&IDS[..], &turned].map(|ids| whole(&paired, ids));
            let mut there: Vec<&[f32]> = there.chunks(3).collect();
            there.reverse(); // each position's answer stands where its complement does
            assert_close(&here, &there.concat());
            assert!(
                here.iter()
                    .zip(&one_strand)
                    .any(|(a, b)| (a - b).abs() > 1e-4)
            );
        }
    }
}

#[test]
fn a_language_models_layers_are_gone_on_with_under_a_head() {
    let lm = MambaLmConfig::new(8, 2, TOKENS)
        .init(Device::cpu(), 9)
        .unwrap();
    let hidden = values(lm.hidden(&ids(&IDS), &Sequence::default(), None));
    let model = Predictor::of(lm, head(None), 4).unwrap();
    let mut head = Vec::new();
    let visited = model.visit("", &mut |name, param| {
        if name.starts_with("head") {
            head.push((name.to_owned(), param.value()?.to_vec::<f32>()?));
        }
        Ok(())
    });
    visited.unwrap();
    let [(weight, w), (bias, b)] = &head[..] else {
        panic!("{head:?}");
    };
    assert_eq!((&**weight, &**bias), ("head.weight", "head.bias"));
    let expected = hidden.chunks(8).flat_map(|h| {
        let of = |(row, b): (&[f32], &f32)| row.iter().zip(h).map(|(w, h)| w * h).sum::<f32>() + b;
        w.chunks(8).zip(b).map(of).collect::<Vec<f32>>()
    });
    assert_close(&whole(&model, &IDS), &expected.collect::<Vec<f32>>());
}

#[test]
fn a_model_that_answers_is_saved_and_is_no_language_model() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(Some(Pooling::Attention));
    config.head.complement = COMPLEMENT.to_vec();
    let model = init(&config);
    checkpoint::save_predictor(&model, dir.path()).unwrap();
    let load = |dir| checkpoint::load_predictor(dir, Device::cpu(), Verify::Digests);
    let loaded = load(dir.path()).unwrap();
    assert_eq!(loaded.config(), &config);
    assert_eq!(whole(&loaded, &IDS), whole(&model, &IDS));
    let as_lm = checkpoint::load(dir.path(), Device::cpu(), Verify::Digests);
    assert!(matches!(as_lm, Err(Error::Answers(_))), "{as_lm:?}");
    let lm = MambaLmConfig::new(8, 1, TOKENS)
        .init(Device::cpu(), 0)
        .unwrap();
    checkpoint::save(&lm, dir.path()).unwrap();
    assert!(matches!(load(dir.path()), Err(Error::Writes(_))));
}

#[test]
fn an_adapter_leaves_the_head_to_be_trained() {
    let mut config = config(Some(Pooling::Mean));
    config.model.lora = Some(LoraConfig::default());
    let trained = |wanted: bool| {
        let mut names = Vec::new();
        let visited = config.plan().unwrap().visit("", &mut |name, param| {
            if param.frozen != wanted {
                names.push(name.to_owned());
            }
            Ok(())
        });
        visited.map(|()| names).unwrap()
    };
    let is_new = |name: &String| name.starts_with("head.") || name.contains(".lora_");
    assert!(trained(true).iter().all(is_new));
    assert!(!trained(false).iter().any(is_new));
}

#[test]
fn what_cannot_be_answered_is_said() {
    let message = |change: fn(&mut PredictorConfig)| {
        let mut config = config(Some(Pooling::Mean));
        change(&mut config);
        config.plan().unwrap_err().to_string()
    };
    for (change, words) in [
        (
            (|c| c.head.outputs = 0) as fn(&mut PredictorConfig),
            "head.outputs = 0",
        ),
        (|c| c.model.vocab_size = 0, "model.vocab_size = 0"),
        (|c| c.head.complement = vec![1, 0, 3], "for each token"),
        (
            |c| c.head.complement = vec![1, 2, 0, 3, 4],
            "for each token",
        ),
        (
            |c| c.head.complement = vec![9, 1, 2, 3, 4],
            "for each token",
        ),
        (
            |c| {
                c.head.complement = COMPLEMENT.to_vec();
                c.head.pooling = Some(Pooling::Last);
            },
            "last position",
        ),
        (
            |c| {
                c.head.complement = COMPLEMENT.to_vec();
                c.model = c.model.clone().with_mixer(AttentionConfig::default());
            },
            "either direction",
        ),
        (
            |c| {
                c.head.complement = COMPLEMENT.to_vec();
                c.model.positions = 64;
            },
            "positions",
        ),
        (
            |c| (c.head.complement, c.channels) = (COMPLEMENT.to_vec(), 2),
            "of tokens",
        ),
    ] {
        let text = message(change);
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
    }
    let model = init(&config(Some(Pooling::Mean)));
    let mut state: LmState = model.initial_state(1).unwrap();
    let read =
        |sequence: &Sequence<'_>, state| model.forward(&ids(&IDS), sequence, state).map(drop);
    let backwards = Sequence {
        reverse: true,
        ..Sequence::default()
    };
    for refused in [
        read(&Sequence::default(), Some(&mut state)),
        read(&backwards, None),
    ] {
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
    }
    // Layers of both directions write nothing, but answer.
    let both = BidirectionalConfig {
        of: Box::new(MambaConfig::default().into()),
        ..BidirectionalConfig::default()
    };
    let mut config = config(None);
    config.model = config.model.with_mixer(both);
    assert!(config.model.plan().is_err());
    assert_eq!(whole(&init(&config), &IDS).len(), 3 * IDS.len());
}
