"""Writes the reference files of serpens-formats' tests: halves as NumPy rounds them, GGUF files that the `gguf` package
writes, and files that PyTorch writes; and blocks as `gguf` makes and reads them, for serpens-ops (tests/fixtures).

Needs numpy, safetensors, gguf, torch, and a library with ggml:  python make_format_vectors.py OUT_DIR LIBRARY
"""

import argparse
import ctypes
import datetime
import functools
import pathlib
import sys
import warnings

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

out = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(7)
warnings.filterwarnings("ignore")


def rows_to_quantize():
    """Blocks of 32 values: ordinary ones of all magnitudes, and those where rounding is in doubt."""
    rows = [rng.normal(0, 1, 32) * 2.0**e for e in (-140, -130, -126, -120, -60, -30, -24, -20, -17, -14, -3, 0, 5, 10, 15)]
    rows += [rng.normal(0, 1, 32) for _ in range(16)]
    rows.append(np.zeros(32))
    rows.append(np.full(32, -0.0))
    rows.append(np.full(32, 3.25))
    rows.append(np.where(np.arange(32) == 7, 127, np.arange(32) - 15.5))  # ties of Q8_0, d = 1
    rows.append(np.where(np.arange(32) == 31, -127, 0.5 - np.arange(32)))
    rows.append(np.where(np.arange(32) == 0, -8, (np.arange(32) - 16) / 2))  # ties of Q4_0, d = 1
    rows.append(np.where(np.arange(32) == 9, 8, (np.arange(32) - 16) / 2))  # and d = -1
    rows.append(np.where(np.arange(32) % 2, 1.5, -1.5))  # the largest magnitude twice: the first counts
    rows.append(np.where(np.arange(32) % 2, -1.5, 1.5))
    rows += [np.eye(32)[3] * x for x in (1e-45, 1e-44, -3e-39, 2e-38, 1e-37, 6e-8 * 8, 3e-8 * 127, -1, 65504.0 * 8, -65519.0 * 8)]
    rows.append(0.49999997 * (rng.integers(0, 255, 32) - 127))
    return np.stack(rows).astype(np.float32)


def singles():
    """Values around those that half precision has: subnormals, ties, the largest."""
    halves = np.arange(0x7C00, dtype=np.uint16)[rng.integers(0, 0x7C00, 512)]
    halves = np.concatenate([halves, np.arange(8, dtype=np.uint16), np.array([0x3FF, 0x400, 0x401, 0x7BFF], np.uint16)])
    x = halves.view(np.float16).astype(np.float32)
    nxt = (np.minimum(halves, 0x7BFE) + 1).astype(np.uint16).view(np.float16).astype(np.float32)
    tie = (x + nxt) / 2
    values = np.concatenate([x, tie, np.nextafter(tie, np.float32(0)), np.nextafter(tie, np.float32(np.inf)), rng.normal(0, 1, 256)])
    values = np.concatenate([values, 2.0 ** rng.uniform(-30, 15, 256), [2.0**-25, 2.0**-26, 1e-45, 65504, 65519.996]])
    return np.concatenate([values, -values]).astype(np.float32)


def stored_blocks(kind, count):
    """Random blocks of this kind, whose scales are numbers of any size, subnormals and zeros among them."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    scales = {Q.Q8_0: [0], Q.Q4_0: [0], Q.Q4_K: [0, 2], Q.Q6_K: [size - 2]}[kind]
    for at in scales:
        d = (rng.normal(0, 1, count) * 2.0 ** rng.integers(-24, 4, count)).astype(np.float16)
        d[:2] = [0, -0.0]
        blocks[:, at : at + 2] = d[:, None].view(np.uint8)
    return blocks


def blocks():
    rows, values = rows_to_quantize(), singles()
    halves = {"values": values, "values.f16": values.astype(np.float16), "values.bf16": quantize(values[None], Q.BF16).ravel()}
    save_file(halves, out / "halves.safetensors")
    held = {"rows": rows, "rows.q8_0": quantize(rows, Q.Q8_0), "rows.q4_0": quantize(rows, Q.Q4_0)}
    for kind, count in ((Q.Q8_0, 24), (Q.Q4_0, 24), (Q.Q4_K, 6), (Q.Q6_K, 6)):
        stored = stored_blocks(kind, count)
        held[f"{kind.name}.blocks"], held[f"{kind.name}.values"] = stored, dequantize(stored, kind)
    draws = (rng.normal, rng.laplace, rng.logistic, rng.uniform)
    values = np.stack([draw(0, 2.0**e, 256) for e in (-8, -5, -2, 3) for draw in draws for _ in range(3)]).astype(np.float32)
    held["searched"] = values
    held["searched.q4_k"], held["searched.q6_k"] = searched(Q.Q4_K, values), searched(Q.Q6_K, values)
    save_file({name: np.ascontiguousarray(value) for name, value in held.items()}, out / "blocks.safetensors")


def searched(kind, values):
    """Blocks as llama.cpp makes them."""
    number, (of, size) = kind.value, gguf.GGML_QUANT_SIZES[kind]
    library = ctypes.CDLL(sys.argv[2])  # one that has ggml, such as xllamacpp's
    out, pointer = np.zeros(values.size // of * size, np.uint8), ctypes.c_void_p
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, pointer]
    library.ggml_quantize_chunk(number, values.ctypes.data, out.ctypes.data, 0, values.size // of, of, None)
    return out


def gguf_files():
    """A file with metadata of every type and tensors in every encoding; the same as version 2, aligned otherwise."""
    for name, alignment in (("v3", None), ("v2", 64)):
        f = gguf.GGUFWriter(out / f"{name}.gguf", "test")
        if alignment:
            f.add_custom_alignment(alignment)
        T = gguf.GGUFValueType
        for value, kind in ((200, T.UINT8), (-100, T.INT8), (60000, T.UINT16), (-30000, T.INT16), (4000000000, T.UINT32), (-2000000000, T.INT32),
                            (0.1, T.FLOAT32), (True, T.BOOL), ("Δ \n", T.STRING), (2**63, T.UINT64), (-(2**62), T.INT64), (0.1, T.FLOAT64)):
            f.add_key_value(f"one.{kind.name.lower()}", value, kind)
            f.add_key_value(f"many.{kind.name.lower()}", [value, value], T.ARRAY, kind)
        f.add_array("tokens", ["a", "", "Ġb"])
        base = np.linspace(-1, 1, 2 * 3 * 32, dtype=np.float32).reshape(2, 3, 32)
        for kind in (Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0):
            f.add_tensor(kind.name, quantize(base, kind), raw_dtype=kind)
        for kind in (Q.Q4_K, Q.Q6_K):
            f.add_tensor(kind.name, stored_blocks(kind, 2), raw_dtype=kind)
        f.add_tensor("F64", base.astype(np.float64))
        f.add_tensor("ids", np.arange(3, dtype=np.int32))
        f.add_tensor("Q5_0", quantize(base, Q.Q5_0), raw_dtype=Q.Q5_0)
        f.add_tensor("one", np.array([1.5], dtype=np.float32))
        f.write_header_to_file(), f.write_kv_data_to_file(), f.write_tensors_to_file(), f.close()
    path = out / "v2.gguf"
    data = bytearray(path.read_bytes())
    data[4] = 2  # the two versions have the same layout
    path.write_bytes(data)


class Own:
    """Something that is not known elsewhere, with a state and a way of its own to be made again."""

    def __init__(self, held=None):
        self.held = held

    def __reduce__(self):
        return print, ("this ran", self.held)


class Plain:
    def __init__(self):
        self.inside = {"weight": torch.ones(2)}


def state():
    w = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    marked = torch.nn.Parameter(w.clone())
    marked._no_weight_decay = True
    return {
        "rows": w, "tied": w, "turned": w.t(), "inner": w[1:3, 2:5], "steps": w[::2, ::3], "column": w[:, 4], "axes": w.reshape(2, 2, 6).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(w * 2), "marked": marked, "scalar": torch.tensor(7.5), "none": torch.empty(0, 3),
        "half": w.half(), "bfloat16": w.bfloat16(), "double": w.double(), "long": w.long(), "bool": w > 3,
        "uint32": w.long().to(torch.uint32), "uint16": w.long().to(torch.uint16),
        "nested": {"deep": {"weight": w + 1}, "step": 3}, "settings": [1, 2.5, None, "x"],
    }


def torch_files():
    for protocol in range(1, 6):
        torch.save(state(), out / f"protocol{protocol}.pt", pickle_protocol=protocol)
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6).reshape(2, 3)), model.bias.fill_(-1)
    ordered = torch.nn.ModuleDict({"model": model}).state_dict()
    torch.save(ordered, out / "ordered.pt")
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward(), optimizer.step()
    model.weight.data.copy_(torch.arange(6).reshape(2, 3)), model.bias.data.fill_(-1)
    lightning = {
        "epoch": 3, "global_step": 10**12, "pytorch-lightning_version": "2.5", "state_dict": ordered,
        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.5), "own": Own()}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [], "hparams_name": "kwargs",
        "hyper_parameters": {"own": Own(), "args": argparse.Namespace(lr=1e-3), "when": datetime.datetime(2025, 1, 2), "path": pathlib.PurePosixPath("/x"),
                             "array": np.arange(3), "number": np.float64(1.5), "dtype": torch.float16, "device": torch.device("cpu"), "big": 10**40,
                             "set": {1, 2}, "frozen": frozenset([3]), "bytes": b"ab", "complex": 1j, "slice": slice(1, 2), "call": functools.partial(int, base=2)},
    }
    torch.save(lightning, out / "lightning.ckpt")
    torch.save(model, out / "module.pt")
    torch.save({"weight": Own(torch.ones(2))}, out / "own.pt")
    torch.save({"sparse": torch.eye(3).to_sparse(), "rows": torch.ones(2)}, out / "sparse.pt")
    torch.save({"negative": torch.tensor([1 + 2j]).conj().imag}, out / "negative.pt")
    torch.save({"weight": torch.ones(2)}, out / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"weight": torch.ones(2).expand(3, 2)}, out / "expanded.pt")


blocks()
gguf_files()
torch_files()
