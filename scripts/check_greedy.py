"""Holds the most probable text that Serpens continues a prompt with against that of other programs.

Needs transformers and torch (CPU is enough), xllamacpp (llama.cpp's code in a wheel), and the command:
python scripts/check_greedy.py target/release/serpens MODEL PROMPT [TOKENS]

The model, a run's or any that Serpens reads, with its tokenizer, is converted to Hugging Face's format in f32 and to GGUF in f32 and
Q8_0. What is missing is left out, and said so. In f32 all must write the same; Q8_0 is another model, whose text is shown.
"""

import json
import subprocess
import sys
import tempfile

serpens, model, prompt = sys.argv[1:4]
tokens = int(sys.argv[4]) if len(sys.argv) > 4 else 40


def ours(path):
    options = ["--device", "cpu", "--temperature", "0", "--tokens", str(tokens), "--json"]
    ran = subprocess.run([serpens, "generate", "--model", path, "--prompt", prompt, *options], check=True, capture_output=True)
    return json.loads(ran.stdout)["text"]


def of_transformers(path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    written = loaded.generate(input_ids=ids, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(written[0, ids.shape[1]:])


def of_llama(path):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = path, 4096, 1
    asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "top_k": 1, "repeat_penalty": 1.0}
    return xllamacpp.Server(params).handle_completions(asked)["choices"][0]["text"]


with tempfile.TemporaryDirectory() as to:
    hf, gguf, rounded = f"{to}/hf", f"{to}/f32.gguf", f"{to}/q8_0.gguf"
    for path, dtype in [(hf, "f32"), (gguf, "f32"), (rounded, "q8_0")]:
        subprocess.run([serpens, "convert", model, path, "--dtype", dtype], check=True)
    expected = ours(model)
    print(f"serpens: {expected!r}")
    programs = [("serpens, GGUF", ours, gguf, True), ("transformers", of_transformers, hf, True), ("llama.cpp", of_llama, gguf, True),
                ("llama.cpp, Q8_0", of_llama, rounded, False)]
    for name, program, path, same in programs:
        try:
            text = program(path)
        except ImportError as missing:
            print(f"{name}: skipped: {missing}")
            continue
        print(f"{name}: {text!r}")
        assert text == expected or not same, name
print("all wrote the same")
