//! What a trace says of attention, against what attention itself makes of values that name their tokens.

use std::cell::RefCell;

use serpens_core::{Device, Tensor, Var};
use serpens_nn::layers::{Sequence, Trace};
use serpens_nn::mixers::{AttentionConfig, AttentionTrace, Mixer, MixerSettings};
use serpens_nn::{Error, MambaLmConfig, Module, Start};

const TOKENS: usize = 8;
const WIDTH: usize = 2 * TOKENS;

/// Grouped attention whose values are the first columns of what it reads and whose output is what its heads find: where
/// those columns are the identity, the weights of one head beside those of the other.
fn telling(config: &AttentionConfig) -> Box<dyn Mixer> {
    let mut mixer = config.init(WIDTH, Device::cpu(), 5).unwrap();
    let set = mixer.visit_mut("", &mut |name, param| {
        let mut values = param.value()?.to_vec::<f32>()?;
        let of_values = match name {
            "in_proj.weight" => &mut values[(WIDTH + TOKENS) * WIDTH..], // q, k and v over each other
            _ => &mut values[..],
        };
        for (row, values) in of_values.chunks_mut(WIDTH).enumerate() {
            values.fill(0.0);
            values[row] = 1.0;
        }
        param.set(Tensor::from_slice(param.shape(), &values, Device::cpu())?)
    });
    set.unwrap();
    mixer
}

/// A token's name and random columns.
fn tokens() -> Vec<f32> {
    let random = Start::Normal { std: 3.0 }.draw([TOKENS, WIDTH].into(), "x", 1, Device::cpu());
    let mut x = random.unwrap().to_vec::<f32>().unwrap();
    for (row, x) in x.chunks_mut(WIDTH).enumerate() {
        x[..TOKENS].fill(0.0);
        x[row] = 1.0;
    }
    x
}

/// What the mixer makes of the tokens in chunks of these lengths, and what it tells.
fn read(mixer: &dyn Mixer, chunks: &[usize]) -> (Vec<f32>, Vec<AttentionTrace>) {
    let (traces, mut y) = (RefCell::default(), Vec::new());
    let sequence = Sequence {
        trace: Some(&traces),
        ..Sequence::default()
    };
    let mut state = mixer.initial_state(1, Device::cpu()).unwrap();
    let (x, mut from) = (tokens(), 0);
    for length in chunks {
        let rows = &x[from * WIDTH..(from + length) * WIDTH];
        let x = Tensor::from_slice([1, *length, WIDTH], rows, Device::cpu()).unwrap();
        let read = mixer.forward(&x.into(), &sequence, Some(&mut state));
        y.extend(read.unwrap().tensor().unwrap().to_vec::<f32>().unwrap());
        from += length;
    }
    let attention = |(_, trace)| match trace {
        Trace::Attention(trace) => trace,
        Trace::Selection(_) => panic!("it attends"),
    };
    (y, traces.into_inner().into_iter().map(attention).collect())
}

/// Weights of each head and token over all tokens: (heads, tokens, tokens).
fn weights(traces: &[AttentionTrace], rows_at_once: usize) -> Vec<f32> {
    let mut all = vec![0.0; 2 * TOKENS * TOKENS];
    for trace in traces {
        assert_eq!(trace.heads(), 2);
        for (head, from) in [0, 1].into_iter().flat_map(|head| {
            let starts = (0..trace.queries()).step_by(rows_at_once);
            starts.map(move |from| (head, from))
        }) {
            let rows = from..trace.queries().min(from + rows_at_once);
            let weights = trace.weights(head, rows.clone()).unwrap();
            let keys = weights.shape().cols();
            assert_eq!(trace.first_key() + keys, trace.first + rows.end);
            for (row, weights) in rows.zip(weights.as_slice::<f32>().unwrap().chunks(keys)) {
                let at = (head * TOKENS + trace.first + row) * TOKENS + trace.first_key();
                all[at..at + keys].copy_from_slice(weights);
            }
        }
    }
    all
}

#[test]
fn weights_are_those_that_attention_gives_whole_and_in_chunks() {
    for (rope, window) in [
        (true, None),
        (false, None),
        (true, Some(3)),
        (true, Some(1)),
    ] {
        let mixer = telling(&AttentionConfig {
            heads: Some(2),
            kv_heads: Some(1),
            rope,
            window,
            ..AttentionConfig::default()
        });
        for (chunks, rows_at_once) in [(&[8][..], 8), (&[8], 3), (&[3, 1, 4], 2), (&[1; 8], 1)] {
            let (y, traces) = read(&*mixer, chunks);
            let found = weights(&traces, rows_at_once);
            for (head, query) in [0, 1]
                .into_iter()
                .flat_map(|head| (0..TOKENS).map(move |t| (head, t)))
            {
                let given = &y[query * WIDTH + head * TOKENS..][..TOKENS];
                let told = &found[(head * TOKENS + query) * TOKENS..][..TOKENS];
                let seen = window.map_or(0, |window| (query + 1).saturating_sub(window))..=query;
                for (key, (given, told)) in given.iter().zip(told).enumerate() {
                    assert!(
                        (given - told).abs() < 1e-6,
                        "{window:?}, {query}: {given}, {told}"
                    );
                    assert_eq!(
                        *told > 0.0,
                        seen.contains(&key),
                        "{window:?}, {query}, {key}"
                    );
                }
                assert!((told.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn layers_of_attention_tell_by_their_numbers_where_there_is_a_state() {
    let model = MambaLmConfig::new(16, 5, 11).with_layers("FAMUL");
    let model = model.init(Device::cpu(), 3).unwrap();
    let mut state = model.initial_state(1).unwrap();
    let traces = model.trace(&[1, 2, 3], &mut state).unwrap();
    let kinds = traces
        .iter()
        .map(|(layer, trace)| (*layer, matches!(trace, Trace::Attention(_))));
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [(1, true), (2, false), (3, true)]
    );

    let mixer = AttentionConfig::default()
        .init(WIDTH, Device::cpu(), 0)
        .unwrap();
    let x = Tensor::from_slice([1, TOKENS, WIDTH], &tokens(), Device::cpu()).unwrap();
    let traces = RefCell::default();
    let sequence = Sequence {
        trace: Some(&traces),
        ..Sequence::default()
    };
    let refused = mixer.forward(&Var::from(x), &sequence, None);
    assert!(matches!(refused, Err(Error::Unsupported(what)) if what.contains("from a state")));
}
