"""Decodes with other programs on the same shape as `serpens bench decode`, one stream, and prints tokens per second
beside ours.

Needs the command, and what is to be run beside it: gguf, numpy and xllamacpp (llama.cpp's code in a wheel), or torch
and transformers:
python scripts/bench_decode_peers.py target/release/serpens [--weights f32 bf16 q8_0 q4_0 q4_k] [--rounds 5]
    [--width 768] [--layers 24] [--vocab 50288] [--tokens 64] [--threads N]

All are measured in turn, round after round, as a machine is not as fast at one time as at another: rates and their
ratios, which are of one round each, are medians, with the least and the largest behind them. What is missing is left
out, and said so. All have random weights: a token takes as long whatever they are.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from statistics import median

parser = argparse.ArgumentParser()
parser.add_argument("serpens")
parser.add_argument("--weights", nargs="+", default=["f32", "bf16", "q8_0", "q4_0", "q4_k"])
for option, value in [("rounds", 5), ("width", 768), ("layers", 24), ("vocab", 50288), ("tokens", 64), ("threads", os.cpu_count())]:
    parser.add_argument(f"--{option}", type=int, default=value)
args = parser.parse_args()
INNER, STATES, KERNEL, RANK = 2 * args.width, 16, 4, -(-args.width // 16)


def ours(weights):
    """Tokens per second, and the share of the bandwidth."""
    shape = [f"--{name}={getattr(args, name)}" for name in ("width", "layers", "vocab")]
    alone = ["--device=cpu", "--batch=1", "--length=64", f"--weights={weights}"]
    command = [args.serpens, "bench", "decode", "--quick", *alone, *shape, "--json"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    ran = subprocess.run(command, check=True, capture_output=True, env=environment)
    rows = [row for table in json.loads(ran.stdout)["tables"] for row in table["rows"]]
    row = next(row for row in rows if "B 1," in row["work"])
    return row["value"], dict(row["notes"])["of bandwidth"]


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


def llama(weights, folder):
    """Makes a model, and gives what measures llama.cpp with it."""
    import gguf
    import xllamacpp

    path = f"{folder}/{weights}.gguf"
    write_gguf(path, gguf.GGMLQuantizationType[weights.upper()])

    def rate():
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = path, 4096, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
        server = xllamacpp.Server(params)
        asked = {"prompt": [1, 2, 3, 4], "n_predict": args.tokens, "max_tokens": args.tokens, "temperature": 0, "top_k": 1, "ignore_eos": True}
        return median(server.handle_completions(asked)["timings"]["predicted_per_second"] for _ in range(3))

    return rate


def transformers(weights, folder):
    """The same of transformers."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}.get(weights)
    if dtype is None:
        raise ImportError(f"it has no {weights}")
    torch.set_num_threads(args.threads)
    config = MambaConfig(vocab_size=args.vocab, hidden_size=args.width, num_hidden_layers=args.layers, state_size=STATES)
    model = MambaForCausalLM(config).eval().to(dtype)

    def rate():
        with torch.inference_mode():
            output = model(torch.tensor([[1, 2, 3, 4]]), use_cache=True)
            began = time.perf_counter()
            for i in range(args.tokens):
                token = output.logits[:, -1:].argmax(-1)
                output = model(token, cache_params=output.cache_params, use_cache=True, cache_position=torch.tensor([4 + i]))
            return args.tokens / (time.perf_counter() - began)

    return rate


def peers(weights, folder):
    """What measures each program that is there, by its name."""
    there = {}
    for name, prepare in [("llama.cpp", llama), ("transformers", transformers)]:
        try:
            there[name] = prepare(weights, folder)
        except (ImportError, NotImplementedError) as missing:
            print(f"{weights}: {name} skipped: {missing!r}")
    return there


def spread(values, digits):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


for weights in args.weights:
    with tempfile.TemporaryDirectory() as folder:
        others = peers(weights, folder)
        rounds = [(ours(weights), {name: rate() for name, rate in others.items()}) for _ in range(args.rounds)]
    own = [rate for (rate, _), _ in rounds]
    print(f"{weights}: serpens {spread(own, 1)} tokens/s, {spread([share for (_, share), _ in rounds], 2)} of the bandwidth")
    for name in others:
        rates = [beside[name] for _, beside in rounds]
        ratios = [rate / other for rate, other in zip(own, rates)]
        print(f"{weights}: {name} {spread(rates, 1)} tokens/s: serpens has {spread(ratios, 2)} times that", flush=True)
