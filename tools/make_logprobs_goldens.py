#!/usr/bin/env python3
"""Write tests/golden/logprobs.jsonl: the log-probability of each token of answers, and the five likeliest in its place.

    python make_logprobs_goldens.py

Each line is a call of transformers' `generate` with `output_logits`, over tiny checkpoints as they lie in the repository,
one of each family, loaded in float32: the new ids, `compute_transition_scores` of the logits, and the five largest of
their log-softmax.  Penalties, bans and beginnings change the ids alone.  Calls of which any id changes when every weight is
perturbed by 1e-4 of itself are left out.
"""

from __future__ import annotations

import json

import torch
import transformers
from safetensors import safe_open

from make_family_goldens import CLASSES, perturbed
from make_words_goldens import CHECKPOINTS, FOLDERS, ROOT, with_prefix

OUT = ROOT / "tests" / "golden" / "logprobs.jsonl"
CALLS = [
    {"max_new_tokens": 8},
    {"max_new_tokens": 8, "repetition_penalty": 1.5},
    {"max_new_tokens": 8, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 6, "prefix": [40, 41]},
    {"max_new_tokens": 10, "min_new_tokens": 6},
]


@torch.no_grad()
def answer(model, inputs: dict, options: dict, start: int) -> dict:
    options = with_prefix(model, options, start)
    out = model.generate(**inputs, do_sample=False, output_logits=True, return_dict_in_generate=True, **options)
    scores = model.compute_transition_scores(out.sequences, out.logits, normalize_logits=True)[0]
    largest = [torch.log_softmax(logits[0], -1).topk(5) for logits in out.logits]
    return {
        "ids": out.sequences[0, start:].tolist(),
        "logprobs": scores.tolist(),
        "top_ids": [top.indices.tolist() for top in largest],
        "top_logprobs": [top.values.tolist() for top in largest],
    }


def choice(found: dict) -> list:
    return [found["ids"], found["top_ids"]]


@torch.no_grad()
def main() -> None:
    lines = [{"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}]
    for name in FOLDERS:
        folder = CHECKPOINTS / name
        config = transformers.AutoConfig.from_pretrained(folder)
        model = CLASSES[config.model_type].from_pretrained(folder, dtype=torch.float32).eval()
        with safe_open(folder / "golden.safetensors", "pt") as golden:
            about = golden.metadata()
            wanted = ("pixel_values", "input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask")
            inputs = {key: golden.get_tensor(f"0.{key}") for key in wanted if f"0.{key}" in golden.keys()}
        inputs = {key: value if key == "pixel_values" else value.long() for key, value in inputs.items()}
        start = 1 if config.text_config.model_type == "t5" else inputs["input_ids"].shape[1]
        rivals = [perturbed(model, seed) for seed in range(2)]
        for options in CALLS:
            found = answer(model, inputs, options, start)
            if all(choice(answer(rival, inputs, options, start)) == choice(found) for rival in rivals):
                lines.append({"checkpoint": name, "image": about["0.image"], "prompt": about["0.prompt"], "options": options}
                             | found)
    OUT.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
