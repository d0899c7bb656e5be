#!/usr/bin/env python3
"""Write tests/golden/processors.jsonl: what transformers' logits processors do to scores before a token is drawn.

    python make_processor_goldens.py

Each line has scores, the sequence so far, options under the names of `generate`, and the probabilities that remain, from
the list of processors that `generate` itself puts together.  Rows that hang on a hair are left out: those whose set of
possible tokens changes when scores move by 1e-5 of themselves.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "processors.jsonl"
EOS = [2, 5]
CHOICES = {
    "repetition_penalty": [0.7, 1.2, 1.5], "no_repeat_ngram_size": [1, 2, 3], "min_length": [9, 30], "min_new_tokens": [2, 9],
    "exponential_decay_length_penalty": [(1, 1.3), (2, 0.8), (9, 1.5)], "temperature": [0.5, 1.7], "top_k": [0, 1, 5, 100],
    "top_p": [0.3, 0.9], "bad_words_ids": [[[3]], [[4], [1, 6], [2]], [[0, 1], [7, 0, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]],
    "prefix": [[6], [1, 1, 7]], "min_p": [0.05, 0.4], "typical_p": [0.2, 0.9], "epsilon_cutoff": [0.01, 0.1], "eta_cutoff": [0.02, 0.3],
}


def processed(model, options: dict, prompt: int, sequence: list[int], scores: torch.Tensor) -> torch.Tensor:
    options = dict(options)
    prefix = options.pop("prefix", [])
    everything = list(range(scores.shape[-1]))

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        new = len(ids) - prompt
        return [prefix[new]] if new < len(prefix) else everything

    config = GenerationConfig(do_sample=True, eos_token_id=EOS, pad_token_id=0, max_length=99, **options)
    model._prepare_special_tokens(config, True, device="cpu")
    ids = torch.tensor([sequence])
    processors = model._get_logits_processor(config, prompt, ids, allowed if prefix else None, [], device="cpu")
    for rule in processors:
        if isinstance(rule, PrefixConstrainedLogitsProcessor):
            rule._num_beams = 1  # there is one row here, whatever the number of beams
    return processors(ids, scores[None].clone())[0]


def main() -> None:
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    dice, rng = random.Random(1), torch.Generator().manual_seed(1)
    rows = [{"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}]
    alone = [{name: value} for name, values in CHOICES.items() for value in values]
    while len(rows) < 260:
        options = alone[len(rows) - 1] if len(rows) <= len(alone) else {
            name: dice.choice(values) for name, values in CHOICES.items() if dice.random() < 0.35}
        if dice.random() < 0.3:
            options = options | {"num_beams": 3}
        scores = (torch.randn(32, generator=rng) * 2).mul(64).round().div(64)
        prompt = dice.randrange(1, 5)
        sequence = [dice.randrange(8) for _ in range(prompt + dice.randrange(0, 6))]
        want = processed(model, options, prompt, sequence, scores)
        rivals = [processed(model, options, prompt, sequence, scores * (1 + 1e-5 * torch.randn(32, generator=rng))) for _ in range(12)]
        if any(not torch.equal(r.isinf(), want.isinf()) for r in rivals) and "top_k" not in options:
            continue
        p = torch.softmax(want.double(), -1).tolist()
        rows.append({"options": options, "prompt": prompt, "sequence": sequence, "scores": scores.tolist(),
                     "probabilities": [float(f"{x:.9g}") if math.isfinite(x) else None for x in p]})
    OUT.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
