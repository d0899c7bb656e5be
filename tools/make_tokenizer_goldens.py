#!/usr/bin/env python3
"""Write tests/golden/tokenizers.jsonl: the ids that transformers' tokenizer classes make of awkward texts.

    python make_tokenizer_goldens.py

Each line is a tokenizer: a `tokenizer.json` of this repository, what is changed in it, the `tokenizer_config.json` beside
it (null: there is none), whether it is the language model's or the Q-Former's, the ids of every text, and the text of
those ids without special tokens.  It is loaded as `InstructBlipProcessor.from_pretrained` does, so which class reads it is transformers' decision: some classes build
normalizer, pre-tokenizer and decoder anew, whatever the file says.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import tokenizers
import transformers
from transformers import InstructBlipProcessor

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "tokenizers.jsonl"
DEMO = "models/shapes/tokenizer.json"
WORDS = "models/shapes/qformer_tokenizer/tokenizer.json"
VICUNA = "tests/golden/checkpoints/bf16-theta/tokenizer.json"
T5 = "tests/golden/checkpoints/b2-t5/tokenizer.json"
OPT = "tests/golden/checkpoints/b2-opt/tokenizer.json"

TEXTS = [
    "", " ", "a", "What is in the image?", " a red circle", "  two", "a  red   circle", "trailing ", "line\nbreak\n", "\n x",
    "tab\tx", "\u00a0x", "😀 smile", "漢字 in red", "café Ünï", "cafe\u0301", "ABOVE the Square", "don't stop. 12,5",
    "▁mark", "<0xE2>x", "</s>", "x</s>y", "a </s> b", "</s> a", "[SEP] x", "Is [MASK] it?", "<pad>",
]

SPECIAL = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
LLAMA = dict(tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
BERT = dict(tokenizer_class="BertTokenizer", bos_token="[DEC]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
            pad_token="[PAD]", unk_token="[UNK]", do_lower_case=True, strip_accents=None, tokenize_chinese_chars=True)
T5_CONFIG = dict(tokenizer_class="T5Tokenizer", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_ids=0)
GPT2 = dict(tokenizer_class="GPT2Tokenizer", bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>")
ANY = dict(eos_token="</s>", unk_token="<unk>")
METASPACE = dict(type="Metaspace", replacement="▁", prepend_scheme="always", split=True)


def byte_tokens() -> list[dict]:
    """The file's added tokens, and its byte pieces among them as if they were special."""
    file = json.loads((ROOT / DEMO).read_text())
    pieces = [(id, piece) for piece, id in file["model"]["vocab"].items() if piece.startswith("<0x")]
    return file["added_tokens"] + [dict(id=id, content=piece) | SPECIAL for id, piece in sorted(pieces)]


ROWS = [
    # The layout of the published Vicuna files, which the class replaces.
    ("lm", VICUNA, {}, LLAMA | dict(bos_token="</s>")),
    ("lm", VICUNA, {}, LLAMA | dict(bos_token="</s>", legacy=True)),
    ("lm", VICUNA, {}, LLAMA | dict(bos_token="</s>", legacy=False, add_prefix_space=False)),
    ("lm", VICUNA, {}, LLAMA | dict(tokenizer_class="LlamaTokenizerFast", add_bos_token=False, add_eos_token=True)),
    ("lm", VICUNA, {}, ANY | dict(tokenizer_class="PreTrainedTokenizerFast", add_prefix_space=False)),
    ("lm", VICUNA, {}, ANY | dict(tokenizer_class="TokenizersBackend", legacy=True)),
    ("lm", VICUNA, {}, ANY | dict(tokenizer_class="NoSuchTokenizer")),
    ("lm", DEMO, {}, LLAMA),
    ("lm", DEMO, {"post_processor": None}, LLAMA | dict(add_bos_token=True)),
    ("lm", DEMO, {"added_tokens": byte_tokens()}, LLAMA),
    ("lm", DEMO, {"added_tokens": byte_tokens()}, ANY | dict(tokenizer_class="PreTrainedTokenizerFast")),
    ("lm", DEMO, {"model/type": None}, LLAMA),
    ("lm", OPT, {}, LLAMA | dict(pad_token="<pad>")),  # byte-level: the class leaves it alone
    ("lm", OPT, {}, GPT2),
    ("lm", OPT, {}, GPT2 | dict(add_prefix_space=True, add_bos_token=True)),
    ("lm", OPT, {"pre_tokenizer/add_prefix_space": True}, GPT2 | dict(tokenizer_class="GPT2TokenizerFast")),
    ("lm", OPT, {"pre_tokenizer/add_prefix_space": True}, ANY | dict(tokenizer_class="TokenizersBackend")),
    ("lm", OPT, {"normalizer": dict(type="Lowercase"), "post_processor": dict(type="ByteLevel", add_prefix_space=False,
     trim_offsets=False, use_regex=True)}, GPT2 | dict(add_bos_token=True)),
    ("lm", T5, {}, T5_CONFIG),
    ("lm", T5, {}, T5_CONFIG | dict(tokenizer_class="T5TokenizerFast")),
    ("lm", T5, {}, T5_CONFIG | dict(tokenizer_class="MT5Tokenizer")),
    ("lm", T5, {}, ANY | dict(tokenizer_class="TokenizersBackend")),
    ("lm", T5, {"normalizer": dict(type="Lowercase"), "post_processor": None}, T5_CONFIG),
    ("lm", T5, {"pre_tokenizer": dict(type="Sequence", pretokenizers=[dict(type="WhitespaceSplit"), METASPACE])},
     ANY | dict(tokenizer_class="TokenizersBackend")),
    ("qformer", WORDS, {}, BERT),
    ("qformer", WORDS, {}, BERT | dict(do_lower_case=False)),
    ("qformer", WORDS, {}, BERT | dict(do_lower_case=False, strip_accents=True)),
    ("qformer", WORDS, {}, BERT | dict(strip_accents=False, tokenizer_class="BertTokenizerFast")),
    ("qformer", WORDS, {}, BERT | dict(tokenize_chinese_chars=False)),
    ("qformer", WORDS, {}, BERT | dict(cls_token="[MASK]")),
    ("qformer", WORDS, {}, BERT | dict(tokenizer_class="TokenizersBackend", do_lower_case=False)),
    ("qformer", WORDS, {"normalizer/lowercase": False, "post_processor": None}, BERT),
    ("qformer", WORDS, {"normalizer/lowercase": False}, {k: v for k, v in BERT.items() if k != "tokenizer_class"}),
    ("qformer", WORDS, {"normalizer/lowercase": False}, None),
]


def patched(name: str, patch: dict) -> dict:
    """A tokenizer of this repository with values changed; null under a nested name takes the value out."""
    file = json.loads((ROOT / name).read_text())
    for pointer, value in patch.items():
        *parents, last = pointer.split("/")
        place = file
        for parent in parents:
            place = place[parent]
        if value is None and parents:
            place.pop(last)
        else:
            place[last] = value
    return file


def made(role: str, name: str, patch: dict, config: dict | None) -> dict[str, list]:
    """What the processor makes of the texts, and of what it made."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        demo = ROOT / "models" / "shapes"
        for file in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(demo / file, folder)
        shutil.copytree(demo / "qformer_tokenizer", folder / "qformer_tokenizer")
        place = folder if role == "lm" else folder / "qformer_tokenizer"
        (place / "tokenizer.json").write_text(json.dumps(patched(name, patch), ensure_ascii=False))
        (place / "tokenizer_config.json").unlink()
        if config is not None:
            (place / "tokenizer_config.json").write_text(json.dumps(config))
        processor = InstructBlipProcessor.from_pretrained(folder)
        tokenizer = processor.tokenizer if role == "lm" else processor.qformer_tokenizer
        print(role, name, type(tokenizer).__name__, flush=True)
        ids = [tokenizer(text).input_ids for text in TEXTS]
        return dict(ids=ids, decoded=[tokenizer.decode(row, skip_special_tokens=True) for row in ids])


def main() -> None:
    about = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "texts": TEXTS}
    rows = [dict(role=role, file=file, patch=patch, config=config) | made(role, file, patch, config)
            for role, file, patch, config in ROWS]
    OUT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [about, *rows]))


if __name__ == "__main__":
    main()
