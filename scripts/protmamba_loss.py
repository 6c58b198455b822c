"""Prints the loss of a published protein model on an alignment, as transformers' pure PyTorch Mamba computes it.

Needs torch (CPU is enough), transformers:  python scripts/protmamba_loss.py FOLDER
FOLDER has config.json and pytorch_model.bin of the original program, and example_msa.a3m (Bitbol-Lab/ProtMamba-ssm,
data/example_pretrained_model). Sequences are read without marks of gaps and insertions, `<cls>` before each; the loss is
the mean over the next token at every place of the first four, joined, in float32. crates/serpens-nn/tests/protmamba.rs
has the figure.
"""

import json
import sys

import torch
from transformers import MambaConfig, MambaForCausalLM

SYMBOLS = "LAGVSERTIDPKQNFYMHWCXBUZO"  # from 4 on, after <cls> <pad> <eos> <unk>

folder = sys.argv[1]
original = json.load(open(f"{folder}/config.json"))
state = torch.load(f"{folder}/pytorch_model.bin", map_location="cpu", weights_only=True)
state = {k.replace("backbone.embedding.", "backbone.embeddings."): v.float() for k, v in state.items()}
config = MambaConfig(vocab_size=state["lm_head.weight"].shape[0], hidden_size=original["d_model"],
                     num_hidden_layers=original["n_layer"], tie_word_embeddings=True)
model = MambaForCausalLM(config).eval()
missing, surplus = model.load_state_dict(state, strict=False)
assert not missing and not surplus, (missing, surplus)
sequences = [line.strip() for line in open(f"{folder}/example_msa.a3m") if not line.startswith(">")]
ids = [id for s in sequences[:4] for id in [0, *(4 + SYMBOLS.index(c) for c in s.replace("-", "").upper())]]
with torch.no_grad():
    ids = torch.tensor([ids])
    logits = model(ids, use_cache=False).logits[0, :-1]
    print(ids.shape[1], "tokens, loss", torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
