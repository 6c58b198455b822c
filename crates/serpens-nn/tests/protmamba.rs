//! A published protein language model in the layout of the original program: its loss must be that of `transformers`'
//! pure PyTorch Mamba with the same weights (`scripts/protmamba_loss.py`). Only where `SERPENS_PROTMAMBA` names its
//! folder.

use std::path::PathBuf;

use serpens_core::{Device, Tensor};
use serpens_nn::checkpoint::{Checkpoint, Options};
use serpens_nn::layers::Sequence;
use serpens_ops::cross_entropy::cross_entropy;

/// From 4 on, after <cls>, <pad>, <eos> and <unk>.
const SYMBOLS: &str = "LAGVSERTIDPKQNFYMHWCXBUZO";
const LOSS: f32 = 7.094_535_4;

#[test]
fn its_loss_on_the_first_sequences_of_the_alignment_is_that_of_transformers() {
    let Some(folder) = std::env::var_os("SERPENS_PROTMAMBA").map(PathBuf::from) else {
        return;
    };
    let opened = Checkpoint::open(&folder, &Options::default()).unwrap();
    assert_eq!(opened.plan().config().vocab_size, 40);
    let model = opened.load(Device::Cpu).unwrap();
    let text = std::fs::read_to_string(folder.join("example_msa.a3m")).unwrap();
    let sequences = text.lines().filter(|line| !line.starts_with('>')).take(4);
    let symbol = |c: char| 4 + SYMBOLS.find(c.to_ascii_uppercase()).unwrap() as u32;
    let ids = sequences.flat_map(|s| {
        let symbols = s.chars().filter(|&c| c != '-').map(symbol);
        std::iter::once(0).chain(symbols).collect::<Vec<_>>()
    });
    let ids: Vec<u32> = ids.collect();
    let row = |ids: &[u32]| Tensor::from_slice([1, ids.len()], ids, Device::Cpu).unwrap();
    let (inputs, targets) = (row(&ids[..ids.len() - 1]), row(&ids[1..]));
    let logits = model
        .forward(&inputs.into(), &Sequence::default(), None)
        .unwrap();
    let loss = cross_entropy(logits, &targets).unwrap().loss;
    let loss = loss.into_tensor().unwrap().to_vec::<f32>().unwrap()[0];
    println!("{} tokens, loss {loss}", ids.len());
    assert!((loss - LOSS).abs() <= 1e-4, "{loss} and {LOSS}");
}
