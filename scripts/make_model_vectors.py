"""Writes the reference vectors of models in crates/serpens-nn/tests/fixtures (hf-tiny, hf-variant are made alike).

Needs torch (CPU is enough), transformers, peft, safetensors, gguf, numpy:  python scripts/make_model_vectors.py [NAME ...]

falcon-tiny/   a tiny FalconMamba with random weights, and expected.safetensors: input_ids, logits, loss, gradients of
               every parameter, and a greedy continuation, as transformers computes them in float32.
peft-tiny/     an adapter of hf-tiny as the PEFT library saves it, and expected.safetensors: input_ids, logits.
adamw          ten losses of hf-tiny trained by PyTorch's AdamW, printed.
transformer    ten losses of a tiny Transformer++ (transformers' Llama: RoPE, grouped heads, SwiGLU, RMSNorm, no bias), whose
               weights follow from their places, trained by PyTorch's AdamW, printed.
gguf/          tiny files of the architecture `mamba`, and expected.safetensors: input_ids and NAME.logits, which the files'
               own (dequantised) weights give in float64: f32, f16, q8_0, q4_0 (width 32, 2 layers, tied), falcon (the
               same with norms on Δ, B and C), k (width 128, a layer, an own head: Q4_K and Q6_K where the columns allow).
"""

import os
import sys

import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../crates/serpens-nn/tests/fixtures")


def falcon():
    import torch
    from safetensors.torch import save_file
    from transformers import FalconMambaConfig, FalconMambaForCausalLM

    torch.manual_seed(2)
    config = FalconMambaConfig(vocab_size=48, hidden_size=24, num_hidden_layers=2, state_size=8, time_step_rank=3,
                               mixer_rms_eps=1e-4, pad_token_id=0, bos_token_id=0, eos_token_id=0)
    model = FalconMambaForCausalLM(config)
    with torch.no_grad():  # every parameter off its initial value, so that none goes unnoticed
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    ids = torch.randint(1, config.vocab_size, (2, 29))
    out = model(ids, labels=ids, use_cache=False)
    out.loss.backward()
    grads = {"grad." + k: v.grad.clone() for k, v in model.named_parameters()}
    model.eval()
    greedy = model.generate(ids[:1, :8], max_new_tokens=24, min_new_tokens=24, do_sample=False)
    folder = f"{OUT}/falcon-tiny"
    model.save_pretrained(folder)
    if os.path.exists(f"{folder}/generation_config.json"):
        os.remove(f"{folder}/generation_config.json")
    save_file({"input_ids": ids, "logits": out.logits.detach().contiguous(), "loss": out.loss.detach().reshape(1),
               "greedy": greedy, **grads}, f"{folder}/expected.safetensors")
    print("falcon-tiny loss", float(out.loss))


def peft():
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners import tuners_utils
    from safetensors.torch import save_file
    from transformers import MambaForCausalLM

    torch.manual_seed(3)
    base = MambaForCausalLM.from_pretrained(f"{OUT}/hf-tiny")
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["in_proj", "x_proj", "dt_proj", "out_proj"], task_type="CAUSAL_LM")
    # Refused as the fused kernels read the weights past the layers, as the plain forward does dt_proj's: it is merged
    # here.
    tuners_utils._check_lora_target_modules_mamba = lambda *_: None
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.3 * torch.randn_like(p))
    model.save_pretrained(f"{OUT}/peft-tiny")
    os.remove(f"{OUT}/peft-tiny/README.md")
    ids = torch.randint(1, 96, (2, 21))
    logits = model.merge_and_unload().eval()(ids, use_cache=False).logits
    save_file({"input_ids": ids, "logits": logits.detach().contiguous()}, f"{OUT}/peft-tiny/expected.safetensors")
    print("peft-tiny largest logit", float(logits.detach().abs().max()))


def adamw():
    from transformers import MambaForCausalLM

    ten_steps("adamw", MambaForCausalLM.from_pretrained(f"{OUT}/hf-tiny"))


def transformer():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=True, attention_bias=False,
                         rope_theta=10_000.0, attn_implementation="eager")
    model = LlamaForCausalLM(config)
    layers = model.model.layers
    # In the order and the layout of Serpens: q, k, v of one matrix; z and x of one.
    groups = [[model.model.embed_tokens]]
    for layer in layers:
        a, m = layer.self_attn, layer.mlp
        groups += [[layer.input_layernorm], [a.q_proj, a.k_proj, a.v_proj], [a.o_proj],
                   [layer.post_attention_layernorm], [m.gate_proj, m.up_proj], [m.down_proj]]
    groups.append([model.model.norm])
    with torch.no_grad():
        for number, group in enumerate(groups):
            rows = sum(one.weight.shape[0] for one in group)
            i = np.arange(rows * (group[0].weight.shape[1] if group[0].weight.ndim > 1 else 1), dtype=np.float64)
            values = 0.2 * np.sin(1 + 0.7 * number + 1.37 * i + 1e-3 * i * i)
            values = torch.tensor((values + (group[0].weight.ndim == 1)).astype(np.float32)).reshape(rows, -1)
            for one in group:
                part, values = values[: one.weight.shape[0]], values[one.weight.shape[0]:]
                one.weight.copy_(part.reshape(one.weight.shape))
    ten_steps("transformer", model)


def ten_steps(name, model):
    import torch

    decay = [p for k, p in model.named_parameters() if p.ndim > 1 and not k.endswith("A_log")]
    rest = [p for k, p in model.named_parameters() if p.ndim == 1 or k.endswith("A_log")]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(10):
        b, t = torch.meshgrid(torch.arange(2), torch.arange(33), indexing="ij")
        ids = (7 * step + 11 * b + 5 * t + t * t) % 96
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
    print(name, losses)


def rms(x, eps, w=1.0):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def silu(x):
    return x / (1 + np.exp(-x))


def forward(w, ids, layers, n, rank, eps, norms):
    """Logits (length, vocabulary) in float64."""
    w = {k: v.astype(np.float64) for k, v in w.items()}
    h = w["token_embd.weight"][ids]
    for i in range(layers):
        p = lambda s: w[f"blk.{i}.{s}"]
        x, z = np.split(rms(h, eps, p("attn_norm.weight")) @ p("ssm_in.weight").T, 2, axis=-1)
        k, e = p("ssm_conv1d.weight"), x.shape[-1]
        padded = np.concatenate([np.zeros((k.shape[1] - 1, e)), x])
        x = silu(sum(padded[j : j + len(ids)] * k[:, j] for j in range(k.shape[1])) + p("ssm_conv1d.bias"))
        dt, b, c = np.split(x @ p("ssm_x.weight").T, [rank, rank + n], axis=-1)
        if norms:
            dt, b, c = rms(dt, eps), rms(b, eps), rms(c, eps)
        dt = np.logaddexp(0, dt @ p("ssm_dt.weight").T + p("ssm_dt.bias"))
        s, y = np.zeros((e, n)), np.zeros_like(x)
        for t in range(len(ids)):
            s = np.exp(dt[t][:, None] * p("ssm_a")) * s + (dt[t] * x[t])[:, None] * b[t]
            y[t] = s @ c[t]
        h = h + ((y + p("ssm_d") * x) * silu(z)) @ p("ssm_out.weight").T
    return rms(h, eps, w["output_norm.weight"]) @ w.get("output.weight", w["token_embd.weight"]).T


def gguf_files():
    import gguf
    from gguf import GGMLQuantizationType as Q
    from gguf.quants import dequantize, quantize
    from safetensors.numpy import save_file

    rng = np.random.default_rng(5)
    folder = f"{OUT}/gguf"
    os.makedirs(folder, exist_ok=True)
    uniform = lambda *s, a: rng.uniform(-a, a, s).astype(np.float32)

    def weights(width, layers, n, rank, vocab, tied):
        e = 2 * width
        w = {"token_embd.weight": rng.normal(0, 0.3, (vocab, width)).astype(np.float32),
             "output_norm.weight": 1 + uniform(width, a=0.2)}
        if not tied:
            w["output.weight"] = rng.normal(0, 0.2, (vocab, width)).astype(np.float32)
        for i in range(layers):
            w |= {f"blk.{i}.{k}": v for k, v in {
                "attn_norm.weight": 1 + uniform(width, a=0.2), "ssm_in.weight": uniform(2 * e, width, a=width**-0.5),
                "ssm_conv1d.weight": uniform(e, 4, a=0.5), "ssm_conv1d.bias": uniform(e, a=0.5),
                "ssm_x.weight": uniform(rank + 2 * n, e, a=e**-0.5), "ssm_dt.weight": uniform(e, rank, a=rank**-0.5),
                "ssm_dt.bias": uniform(e, a=1.0) - 3, "ssm_d": 1 + uniform(e, a=0.3),
                "ssm_a": -np.exp(uniform(e, n, a=0.5) + np.log(np.arange(1, n + 1, dtype=np.float32))),
                "ssm_out.weight": uniform(width, e, a=e**-0.5)}.items()}
        return w

    def random_blocks(shape, kind):
        """Random bytes that are valid blocks of this k-quant, with small scales."""
        size = gguf.GGML_QUANT_SIZES[kind][1]
        blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, size), dtype=np.uint8)
        scale = lambda a: (rng.uniform(0.2, 1.0, blocks.shape[:2]) * a).astype(np.float16)[..., None].view(np.uint8)
        if kind == Q.Q4_K:
            blocks[..., 0:2], blocks[..., 2:4] = scale(3e-4), scale(2.2e-3)
        else:
            blocks[..., size - 2 :] = scale(4e-5)
        return blocks.reshape(shape[0], -1)

    def write(name, w, width, layers, n, rank, vocab, kind_of, norms=False, eps=1e-5):
        """Writes the file; returns the weights as the file holds them."""
        f = gguf.GGUFWriter(f"{folder}/{name}.gguf", "mamba")
        f.add_context_length(2**20); f.add_embedding_length(width); f.add_feed_forward_length(0); f.add_head_count(0)
        f.add_block_count(layers); f.add_ssm_conv_kernel(4); f.add_ssm_inner_size(2 * width); f.add_ssm_state_size(n)
        f.add_ssm_time_step_rank(rank); f.add_layer_norm_rms_eps(eps); f.add_ssm_dt_b_c_rms(norms); f.add_vocab_size(vocab)
        held = {}
        for key, value in w.items():
            kind = kind_of(key, value)
            data = random_blocks(value.shape, kind) if kind in (Q.Q4_K, Q.Q6_K) else quantize(value, kind)
            held[key] = dequantize(data, kind).astype(np.float32).reshape(value.shape)
            f.add_tensor(key, data, raw_dtype=kind)
        f.write_header_to_file(); f.write_kv_data_to_file(); f.write_tensors_to_file(); f.close()
        return held

    matrix = lambda k, v: v.ndim == 2 and not k.endswith(("ssm_a", "ssm_conv1d.weight")) and v.shape[1] % 32 == 0
    sizes = width, layers, n, rank, vocab = 32, 2, 16, 3, 48
    ids = rng.integers(0, vocab, 40)
    expected = {"input_ids": ids.astype(np.int64)}
    w = weights(*sizes, tied=True)
    kinds = {"f32": Q.F32, "f16": Q.F16, "q8_0": Q.Q8_0, "q4_0": Q.Q4_0, "falcon": Q.F32}
    for name, kind in kinds.items():
        norms = name == "falcon"
        held = write(name, w, *sizes, lambda k, v: kind if matrix(k, v) else Q.F32, norms)
        expected[f"{name}.logits"] = forward(held, ids, layers, n, rank, 1e-5, norms)
    sizes = width, layers, n, rank, vocab = 128, 1, 16, 8, 48
    w = weights(*sizes, tied=False)
    k_quants = {"ssm_out.weight": Q.Q4_K, "ssm_x.weight": Q.Q6_K}
    kind_of = lambda k, v: k_quants.get(k.split(".", 2)[-1], Q.Q8_0) if matrix(k, v) else Q.F32
    held = write("k", w, *sizes, kind_of)
    expected["k.logits"] = forward(held, ids, layers, n, rank, 1e-5, False)
    assert all(np.isfinite(v).all() for v in expected.values())
    save_file(expected, f"{folder}/expected.safetensors")
    print({k: float(np.abs(v).max()) for k, v in expected.items()})


if __name__ == "__main__":
    makers = {"falcon-tiny": falcon, "peft-tiny": peft, "adamw": adamw, "transformer": transformer, "gguf": gguf_files}
    for name in sys.argv[1:] or makers:
        makers[name]()
