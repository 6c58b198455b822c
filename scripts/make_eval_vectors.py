#!/usr/bin/env python3
"""Makes crates/serpens/tests/eval: a tiny model with random weights, questions of every kind, a text, and harness.json,
which says what lm-evaluation-harness itself makes of them: the log-probability of all that is asked, its metrics and
standard errors.

Needs: pip install lm_eval torch transformers tokenizers
"""

import itertools
import json
import pathlib
import random
import shutil
import tempfile

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "crates/serpens/tests/eval"
TOKENIZER = ROOT / "crates/serpens-data/tests/tokenizers/byte-level.json"
END = "<|endoftext|>"
WINDOW = 16
NOUNS = ["snake", "river", "naïve reader", "matrix", "cup of tea", "law", "licence", "state of the sequence", "Käfer", "copy"]
VERBS = ["reads", "remembers", "forgets", "carries on", "grants", "multiplies", "is cut into", "stands beside"]


def model(tokenizer):
    torch.manual_seed(7)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=8, state_size=4, num_hidden_layers=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    model = MambaForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("embeddings.weight", "proj.weight")):
                value.normal_(0, 0.4)
        # So that it writes words.
        words = [i for i in range(len(tokenizer)) if (word := tokenizer.decode([i]))[:1] == " " and word[1:].isalpha()]
        model.backbone.embeddings.weight[words] *= 3
    return model


def greedy_words(lm, contexts):
    """Contexts with the word that the model writes next: one token, whose letters become that token again."""
    for context in contexts:
        ids = lm.tok_encode(context)
        token = lm.model(torch.tensor([ids])).logits[0, -1].argmax().item()
        word = lm.tok_decode([token])
        if word[:1] == " " and word[1:].isalpha() and lm.tok_encode(context + word) == ids + [token]:
            yield context + word


def questions(lm):
    draw = random.Random(3)

    def phrase():
        return f"{draw.choice(['the', 'a', 'every', 'no'])} {draw.choice(NOUNS)} {draw.choice(VERBS)} {draw.choice(NOUNS)}"

    def choices(n):
        return [phrase() + draw.choice(["", ".", ", and so on", " "]) for _ in range(n)]

    texts = [f"{phrase()}, {phrase()}, {phrase()}" for _ in range(400)]
    greedy = list(itertools.islice(greedy_words(lm, texts), 6))
    assert len(greedy) == 6, "the model writes too few words"
    return {
        "lambada": [{"text": text} for text in texts[:14] + greedy],
        "arc-easy": [{"query": "Question: " + phrase() + "?", "choices": choices(4), "gold": draw.randrange(4)} for _ in range(24)],
        "piqa": [{"goal": phrase(), "sol1": phrase(), "sol2": phrase()} for _ in range(20)],
        "winogrande": [
            {"context_options": [(start := phrase()) + " as " + noun for noun in draw.sample(NOUNS, 2)], "continuation": phrase(), "gold": draw.randrange(2)}
            for _ in range(20)
        ],
        # White space at a context's end, and no context at all.
        "edges": [{"before": before, "endings": choices(3), "answer": draw.choice("ABC")} for before in ["", "so ", "so\n\n", "", "then  "]],
    }, [draw.randrange(2) for _ in range(20)]


def configs(folder):
    """The harness's own forms of the tasks, reading the files that were just written."""

    def config(name, text, target, choice=None, metrics=("acc", "acc_norm"), **more):
        kinds = {"loglikelihood": choice is None, "multiple_choice": choice is not None}
        return {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
            "test_split": "test",
            "output_type": next(kind for kind, is_it in kinds.items() if is_it),
            "doc_to_text": text,
            "doc_to_target": target,
            **({"doc_to_choice": choice} if choice else {}),
            "metric_list": [{"metric": metric} for metric in metrics],
            **more,
        }

    return [
        config("lambada", "{{text.split(' ')[:-1]|join(' ')}}", "{{' '+text.split(' ')[-1]}}", metrics=("perplexity", "acc")),
        config("arc-easy", "{{query}}\nAnswer:", "{{gold}}", "choices"),
        config("piqa", "Question: {{goal}}\nAnswer:", "{{label}}", "{{[sol1, sol2]}}"),
        config("winogrande", lambda doc: doc["gold"], lambda doc: doc["continuation"], lambda doc: doc["context_options"], ("acc",)),
        config("edges", "{{before}}", "{{'ABC'.index(answer)}}", "{{endings}}", ("acc", "acc_norm", "acc_bytes"), target_delimiter=""),
    ]


def of_text(lm, text):
    """Sums over the tokens behind the first, each from all before it, and each from those of its window."""
    ids = lm.tok_encode(text)
    first, rest = ids[0], ids[1:] + [0]
    rest = rest[: len(rest) // WINDOW * WINDOW]  # of whole windows; the test cuts its text likewise
    windows = [make_disjoint_window(pair) for pair in get_rolling_token_windows(rest, first, WINDOW, 1)]
    sums = [sum(pair[0] for pair in lm._loglikelihood_tokens([(("", ""), *pair) for pair in pairs])) for pairs in ([([first], rest)], windows)]
    return {"tokens": len(rest), "window": WINDOW, "whole": sums[0], "windows": sums[1]}


def main():
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), eos_token=END)
    shutil.rmtree(OUT, ignore_errors=True)
    tiny = model(tokenizer)
    tiny.save_pretrained(OUT)
    shutil.copy(TOKENIZER, OUT / "tokenizer.json")
    lm = HFLM(pretrained=tiny, tokenizer=tokenizer, batch_size=1, device="cpu", max_length=2048)
    files, labels = questions(lm)
    text = " ".join(files["lambada"][i]["text"] + "." for i in range(14))
    while (len(lm.tok_encode(text)) % WINDOW) != 0:
        text += " x"
    (OUT / "text.txt").write_text(text)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, lines in files.items():
            write = lambda path, lines: path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            write(OUT / f"{name}.jsonl", lines)
            labelled = [line | {"label": label} for line, label in zip(lines, labels)] if name == "piqa" else lines
            write(folder / f"{name}.jsonl", labelled)
        (OUT / "valid-labels.lst").write_text("".join(f"{label}\n" for label in labels))
        done = simple_evaluate(model=lm, tasks=configs(folder), bootstrap_iters=1000)
    tasks = {}
    for name, results in done["results"].items():
        metrics = {key.removesuffix(",none"): value for key, value in results.items() if key.endswith(",none")}
        samples = sorted(done["samples"][name], key=lambda sample: sample["doc_id"])
        log_probs = [[float(response[0][0]) for response in sample["resps"]] for sample in samples]
        greedy = [[bool(response[0][1]) for response in sample["resps"]] for sample in samples]
        tasks[name] = {"metrics": metrics, "log_probs": log_probs, "greedy": greedy}
    expected = {"tasks": tasks, "text": of_text(lm, text)}
    (OUT / "harness.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
