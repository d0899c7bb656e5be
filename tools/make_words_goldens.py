#!/usr/bin/env python3
"""Write tests/golden/words.jsonl: answers that begin as they are told, and that may not have some words.

    python make_words_goldens.py

Each line is a call of transformers' `generate` with `bad_words_ids`, a prefix by `prefix_allowed_tokens_fn`, or both, over
tiny checkpoints as they lie in the repository, one of each family, loaded in float32.  Calls
whose answer changes when every weight is perturbed by 1e-4 of itself are left out.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
import transformers
from safetensors import safe_open

from make_family_goldens import CLASSES, perturbed

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "tests" / "golden" / "checkpoints"
OUT = ROOT / "tests" / "golden" / "words.jsonl"
FOLDERS = ["ib-llama", "ib-t5-tanh", "b2-opt"]


def calls(plain: list[int]) -> list[dict]:
    """Options for a prompt whose plain answer has these ids."""
    inside = plain[1:4] if len(plain) > 4 else plain[:1]
    words = [[[plain[0]]], [plain[:2], inside], [[plain[0]], [plain[2 % len(plain)]], [7, 8, 9]]]
    prefixes = [[inside[-1]], [40, 41, plain[0]]]
    how = [{"max_new_tokens": 10}, {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2}]
    rows = [{"bad_words_ids": word} for word in words] + [{"prefix": prefix} for prefix in prefixes]
    rows.append({"bad_words_ids": words[0], "prefix": prefixes[1], "repetition_penalty": 1.3})
    return [row | more for row, more in itertools.product(rows, how)]


def with_prefix(model, options: dict, start: int) -> dict:
    """Options of `generate` for those of a call, whose `prefix` is the ids that an answer begins with."""
    options = dict(options)
    prefix = options.pop("prefix", [])
    everything = list(range(model.config.text_config.vocab_size))

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        new = len(ids) - start
        return [prefix[new]] if new < len(prefix) else everything

    if prefix:
        options["prefix_allowed_tokens_fn"] = allowed
    return options


@torch.no_grad()
def answer(model, inputs: dict, options: dict, start: int) -> list[list[int]]:
    options = with_prefix(model, options, start)
    out = model.generate(**inputs, do_sample=False, **options)
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    sequences = []
    for row in out.tolist():
        new = row[start:]
        end = next((i + 1 for i, token in enumerate(new) if token in stops), len(new))
        sequences.append(new[:end])
    return sequences


@torch.no_grad()
def main() -> None:
    lines = [{"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}]
    for name in FOLDERS:
        folder = CHECKPOINTS / name
        config = transformers.AutoConfig.from_pretrained(folder)
        model = CLASSES[config.model_type].from_pretrained(folder, dtype=torch.float32).eval()
        with safe_open(folder / "golden.safetensors", "pt") as golden:
            about = golden.metadata()
            inputs = {key[2:]: golden.get_tensor(key) for key in golden.keys() if key in (
                "0.pixel_values", "0.input_ids", "0.attention_mask", "0.qformer_input_ids", "0.qformer_attention_mask")}
        inputs = {key: value if key == "pixel_values" else value.long() for key, value in inputs.items()}
        start = 1 if config.text_config.model_type == "t5" else inputs["input_ids"].shape[1]
        plain = answer(model, inputs, {"max_new_tokens": 10}, start)[0]
        for options in calls(plain):
            found = answer(model, inputs, options, start)
            rivals = [answer(perturbed(model, seed), inputs, options, start) for seed in range(2)]
            if all(rival == found for rival in rivals):
                lines.append({"checkpoint": name, "image": about["0.image"], "prompt": about["0.prompt"], "options": options,
                              "sequences": found})
    OUT.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
