"""Holds models that were written for other programs against those programs.

Needs numpy, safetensors, gguf and the command, and for Hugging Face's format torch (CPU is enough) and transformers:
python scripts/check_exports.py target/release/serpens

hf-tiny and falcon-tiny go to Hugging Face's format in f32, f16 and bf16, from which transformers must load every tensor
bit for bit and, in f32, give the logits that it gave for the model itself; and to GGUF in f32, f16, q8_0 and q4_0,
whose values must be those of the gguf package's quantiser, and whose logits in f32 again the same. What is missing is
left out, and said so. (llama.cpp is asked by check_greedy.py.)
"""

import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file as load_numpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_model_vectors import OUT, forward

NAMES = {"norm.weight": "attn_norm.weight", "mixer.in_proj.weight": "ssm_in.weight", "mixer.x_proj.weight": "ssm_x.weight",
         "mixer.conv1d.weight": "ssm_conv1d.weight", "mixer.conv1d.bias": "ssm_conv1d.bias", "mixer.D": "ssm_d",
         "mixer.dt_proj.weight": "ssm_dt.weight", "mixer.dt_proj.bias": "ssm_dt.bias", "mixer.A_log": "ssm_a",
         "mixer.out_proj.weight": "ssm_out.weight"}


def convert(name, path, form, dtype):
    subprocess.run([sys.argv[1], "convert", f"{OUT}/{name}", path, "--format", form, "--dtype", dtype], check=True)


def near(what, got, expected, allowed):
    worst, largest = np.abs(got - expected).max(), np.abs(expected).max()
    print(f"{what}: off by {worst / largest:.1e} of the largest")
    assert worst <= allowed * largest, what


def check_hf(name, to):
    try:
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM
    except ImportError as missing:
        return print(f"{name}, hf: skipped: {missing}")
    expected, dtypes = load_file(f"{OUT}/{name}/expected.safetensors"), {"f16": torch.float16, "bf16": torch.bfloat16}
    for encoding in ("f32", "f16", "bf16"):
        convert(name, f"{to}/{encoding}", "hf", encoding)
        dtype = dtypes.get(encoding, torch.float32)
        model = AutoModelForCausalLM.from_pretrained(f"{to}/{encoding}", dtype=dtype).eval()
        values = load_file(f"{OUT}/{name}/model.safetensors")
        found = model.state_dict()
        for key, value in values.items():
            assert torch.equal(found[key], value.to(dtype)), (encoding, key)
        if dtype == torch.float32:
            with torch.no_grad():
                logits = model(expected["input_ids"], use_cache=False).logits
            near(f"{name}, hf", logits.numpy(), expected["logits"].numpy(), 1e-5)


def check_gguf(name, to):
    norms = name == "falcon-tiny"
    values, expected = load_numpy(f"{OUT}/{name}/model.safetensors"), load_numpy(f"{OUT}/{name}/expected.safetensors")
    for encoding in ("f32", "f16", "q8_0", "q4_0"):
        path, kind = f"{to}/{encoding}.gguf", gguf.GGMLQuantizationType[encoding.upper()]
        convert(name, path, "gguf", encoding)
        reader = gguf.GGUFReader(path)
        field = lambda key: reader.fields[key].contents()
        assert field("general.architecture") == "mamba" and field("mamba.ssm.dt_b_c_rms") == norms
        held = {t.name: dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in reader.tensors}
        kinds = {t.name: t.tensor_type for t in reader.tensors}
        for key, value in values.items():
            layer, _, rest = key.removeprefix("backbone.layers.").partition(".")
            theirs = f"blk.{layer}.{NAMES[rest]}" if rest in NAMES else {
                "backbone.embeddings.weight": "token_embd.weight", "backbone.norm_f.weight": "output_norm.weight"}[key]
            if theirs.endswith("ssm_a"):
                np.testing.assert_allclose(held[theirs], -np.exp(value), rtol=1e-6)
                continue
            value = value.squeeze(1) if "conv1d.weight" in key else value
            whole = value.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
            matrix = value.ndim == 2 and "conv1d" not in key
            stored = (kind if whole else gguf.GGMLQuantizationType.BF16) if matrix else gguf.GGMLQuantizationType.F32
            assert kinds[theirs] == stored, (theirs, kinds[theirs])
            assert np.array_equal(held[theirs], dequantize(quantize(value, stored), stored).reshape(value.shape)), theirs
        sizes = [field(f"mamba.{key}") for key in ("block_count", "ssm.state_size", "ssm.time_step_rank")]
        ids, eps = expected["input_ids"][0], field("mamba.attention.layer_norm_rms_epsilon")
        if encoding == "f32" and not norms:  # of falcon-tiny two eps become one
            near(f"{name}, gguf", forward(held, ids, *sizes, eps, norms), expected["logits"][0], 1e-5)


with tempfile.TemporaryDirectory() as to:
    for name in ("hf-tiny", "falcon-tiny"):
        os.mkdir(f"{to}/{name}")
        check_hf(name, f"{to}/{name}")
        check_gguf(name, f"{to}/{name}")
