#!/usr/bin/env python3
"""Makes crates/serpens-data/tests/tokenizers: three small tokenizers, trained on the project's own licence and
documents, and vectors.json, which says what the `tokenizers` package makes of odd texts with each of them.

Needs: pip install tokenizers
"""

import json
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "crates/serpens-data/tests/tokenizers"
TEXTS = [(ROOT / name).read_text() for name in ("LICENSE-APACHE", "CONTRIBUTING.md")]
SIZE = 500


def byte_level():
    """As that of GPT-NeoX: NFC, letters for bytes, runs of spaces added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    specials = ["<|endoftext|>", "<|padding|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (8, 4, 2)])
    return tokenizer


def byte_fallback():
    """As that of Llama: byte pairs over ▁ for spaces, bytes for what is unknown, <s> before a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=specials, max_token_length=8, show_progress=False)
    words = (word for text in TEXTS for word in text.split(" "))
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    # Bytes stand in the vocabulary behind the special tokens, as sentencepiece has them.
    content = json.loads(tokenizer.to_str())
    names = specials + [f"<0x{byte:02X}>" for byte in range(256)]
    names += [name for name in content["model"]["vocab"] if name not in specials]
    content["model"]["vocab"] = {name: id for id, name in enumerate(names)}
    return Tokenizer.from_str(json.dumps(content))


def unigram():
    """As sentencepiece's other kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


ODD = [
    "",
    "a",
    "Out of the cradle endlessly rocking,",
    "  two spaces,    four,        eight, and\ta tab \t \n\n\n  lines\r\n end  ",
    "I'll can't WE'VE it's 'tis don''t",
    "1234567 3.14159e-10 0x1F ½ ²",
    "naïve café — e\u0301 a\u030a ﬁ",
    "日本語の文章。中文字符，한국어 문장",
    "👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽",
    "عربي עברית हिन्दी ไทย",
    "\u0000\u0001\u001f\u007f\u0085\u00a0\u1680\u180e\u2003\u200b\u2028\u3000\ufeff",
    "def f(x):\n        return {x: [x**2 for x in range(10)]}\n",
    "an end<|endoftext|>a start <|padding|></s><s> <unk>",
    "<0x0A> ▁ Ġ Ċ",
    "\U0010ffff\ufffd\ue000",
]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    vectors = []
    for name, make in (("byte-level", byte_level), ("byte-fallback", byte_fallback), ("unigram", unigram)):
        tokenizer = make()
        (OUT / f"{name}.json").write_text(tokenizer.to_str() + "\n")
        cases = []
        for text in ODD:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            whole = tokenizer.encode(text, add_special_tokens=True).ids
            cases.append({"text": text, "ids": ids, "begin": whole[: len(whole) - len(ids)], "decoded": tokenizer.decode(ids)})
        vectors.append({"tokenizer": name, "cases": cases})
    (OUT / "vectors.json").write_text(json.dumps(vectors, ensure_ascii=True) + "\n")


main()
