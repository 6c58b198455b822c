"""Decodes with other programs on the same shape as `serpens bench decode`, one stream, and prints tokens per second
beside ours.

Needs the command, and what is to be run beside it: gguf, numpy and xllamacpp (llama.cpp's code in a wheel), or torch
and transformers:
python scripts/bench_decode_peers.py target/release/serpens [--width 768] [--layers 24] [--vocab 50288]
    [--tokens 64] [--threads N]

What is missing is left out, and said so. All have random weights: a token takes as long whatever they are.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("serpens")
for option, value in [("width", 768), ("layers", 24), ("vocab", 50288), ("tokens", 64), ("threads", os.cpu_count())]:
    parser.add_argument(f"--{option}", type=int, default=value)
args = parser.parse_args()
INNER, STATES, KERNEL, RANK = 2 * args.width, 16, 4, -(-args.width // 16)


def ours():
    """Tokens per second by weights, and the share of the bandwidth."""
    shape = [f"--{name}={getattr(args, name)}" for name in ("width", "layers", "vocab")]
    command = [args.serpens, "bench", "decode", "--quick", "--device", "cpu", "--batch", "1", *shape, "--json"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    ran = subprocess.run(command, check=True, capture_output=True, env=environment)
    tables = json.loads(ran.stdout)["tables"]
    rows = [row for table in tables for row in table["rows"] if "B 1," in row["work"] and "behind" not in row["work"]]
    return {row["work"].split(",")[0].lower(): (row["value"], dict(row["notes"])["of bandwidth"]) for row in rows}


def write_gguf(path, kind):
    """A model of the shape in GGUF, with a vocabulary of words without meaning."""
    import gguf
    import numpy as np

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(args.width)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATES)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(args.vocab)])
    writer.add_token_types([1] * args.vocab)
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)

    def add(name, shape, matrix=False, value=None):
        x = random.normal(0, 0.02, shape).astype(np.float32) if value is None else np.broadcast_to(np.float32(value), shape).copy()
        # Rows that are no whole blocks stay f32, as llama.cpp's own conversion leaves them.
        whole = matrix and shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        if whole and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, x)

    add("token_embd.weight", (args.vocab, args.width), matrix=True)
    add("output_norm.weight", (args.width,), value=1)
    for i in range(args.layers):
        add(f"blk.{i}.attn_norm.weight", (args.width,), value=1)
        add(f"blk.{i}.ssm_in.weight", (2 * INNER, args.width), matrix=True)
        add(f"blk.{i}.ssm_conv1d.weight", (INNER, KERNEL))
        add(f"blk.{i}.ssm_conv1d.bias", (INNER,))
        add(f"blk.{i}.ssm_x.weight", (RANK + 2 * STATES, INNER), matrix=True)
        add(f"blk.{i}.ssm_dt.weight", (INNER, RANK))
        add(f"blk.{i}.ssm_dt.bias", (INNER,), value=-4)
        add(f"blk.{i}.ssm_a", (INNER, STATES), value=-1)
        add(f"blk.{i}.ssm_d", (INNER,), value=1)
        add(f"blk.{i}.ssm_out.weight", (args.width, INNER), matrix=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_llama(weights):
    import gguf
    import xllamacpp

    kind = gguf.GGMLQuantizationType[weights.upper()]
    with tempfile.TemporaryDirectory() as to:
        path = f"{to}/model.gguf"
        write_gguf(path, kind)
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = path, 4096, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
        server = xllamacpp.Server(params)
        asked = {"prompt": [1, 2, 3, 4], "n_predict": args.tokens, "max_tokens": args.tokens, "temperature": 0, "top_k": 1, "ignore_eos": True}
        best = 0.0
        for _ in range(3):
            best = max(best, server.handle_completions(asked)["timings"]["predicted_per_second"])
        return best


def of_transformers(weights):
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}.get(weights)
    if dtype is None:
        raise ImportError(f"it has no {weights}")
    torch.set_num_threads(args.threads)
    config = MambaConfig(vocab_size=args.vocab, hidden_size=args.width, num_hidden_layers=args.layers, state_size=STATES)
    model = MambaForCausalLM(config).eval().to(dtype)
    best = 0.0
    with torch.inference_mode():
        output = model(torch.tensor([[1, 2, 3, 4]]), use_cache=True)
        for run in range(3):
            began = time.perf_counter()
            for i in range(args.tokens):
                position = torch.tensor([4 + run * args.tokens + i])
                token = output.logits[:, -1:].argmax(-1)
                output = model(token, cache_params=output.cache_params, use_cache=True, cache_position=position)
            best = max(best, args.tokens / (time.perf_counter() - began))
    return best


for weights, (rate, share) in ours().items():
    print(f"{weights}: serpens {rate:.1f} tokens/s, {share:.2f} of the bandwidth")
    for name, program in [("llama.cpp", of_llama), ("transformers", of_transformers)]:
        try:
            other = program(weights)
        except (ImportError, NotImplementedError) as missing:
            print(f"{weights}: {name} skipped: {missing}")
            continue
        print(f"{weights}: {name} {other:.1f} tokens/s: serpens has {rate / other:.2f} times that")
