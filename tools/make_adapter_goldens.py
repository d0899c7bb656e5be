#!/usr/bin/env python3
"""Write tiny checkpoints with LoRA adapters, and what transformers and peft compute with them.

    python make_adapter_goldens.py      # writes tests/golden/adapters; needs peft beside the packages of tools/README.md

Every checkpoint is written by `save_pretrained` of transformers and every adapter by that of peft; `golden.safetensors`
of an adapter has what is computed after both were loaded again, in float32: the last row's logits and the greedy ids.

Weights lie on a grid of 2^-9 and the adapters' factors on coarser ones, so that float16 holds every merged weight: what
is compared is the merging, not a rounding.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from make_family_goldens import CLASSES, Member, ask, build, write_tokenizers
from make_goldens import GOLDEN, write_safetensors
from make_ragged_goldens import RAGGED

STEP = 2.0**-9
MEMBERS = {member.name: member for member in RAGGED}


@dataclass
class Adapter:
    """One adapter: a folder's name and the arguments of its LoraConfig."""

    name: str
    config: dict
    grid: float = 2.0**-3  # of A; B's is a quarter of it


@dataclass
class Base:
    """One checkpoint and its adapters."""

    name: str
    member: Member
    adapters: list[Adapter] = field(default_factory=list)


BASES = [
    Base("llama", MEMBERS["ragged-llama"], [
        Adapter("plain", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
        # Ranks and scales by layer, all three parts, a convolution, an embedding, biases and a layer trained whole.
        Adapter("every-kind", dict(
            r=4, lora_alpha=4, use_rslora=True, bias="lora_only", rank_pattern={"fc1": 1, r"self_attn\.qkv": 16},
            alpha_pattern={"gate_proj": 8, r"layers\.1\.self_attn\.o_proj": 2}, modules_to_save=["language_projection"],
            target_modules=["qkv", "fc1", "patch_embedding", "query", "dense", "word_embeddings", "o_proj", "gate_proj",
                            "down_proj"])),
        Adapter("head", dict(r=4, lora_alpha=4, target_modules=["lm_head", "embed_tokens", "up_proj"])),
    ]),
    Base("opt", MEMBERS["ragged-opt"], [
        Adapter("all-biases", dict(r=4, lora_alpha=8, bias="all", target_modules="all-linear")),
        Adapter("lora-bias", dict(r=4, lora_alpha=4, lora_bias=True, target_modules=["fc2", "qkv", "language_projection"])),
        # The head stops being the embedding, for the adapter trained it whole.
        Adapter("untied", dict(r=4, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    ]),
    Base("video", MEMBERS["ragged-video"], [
        Adapter("plain", dict(r=2, lora_alpha=8, target_modules=["q_proj", "k_proj", "fc1"])),
    ]),
    Base("t5", MEMBERS["ragged-t5"], [
        Adapter("encoder-decoder", dict(r=8, lora_alpha=8, target_modules=["q", "v", "wi_0", "wo"])),
    ]),
]


def on_grid(values: torch.Tensor, step: float, most: float) -> torch.Tensor:
    return torch.clamp(torch.round(values / step) * step, -most, most)


@torch.no_grad()
def randomise(model, seed: int) -> None:
    """Random weights under which every part matters, on the grid."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=rng)
        if name.endswith("bias"):
            p.copy_(on_grid(0.1 * noise, STEP, 3))
        elif p.ndim == 1:
            p.copy_(on_grid(1 + 0.1 * noise, STEP, 3))
        elif "embed" in name and "patch" not in name or name in ("query_tokens", "language_model.shared.weight"):
            # Where the head is the embedding, larger ones would say a token again and again.
            tied = p is model.language_model.get_output_embeddings().weight
            p.copy_(on_grid((0.1 if tied else 0.6) * noise, STEP, 3))
        else:
            p.copy_(on_grid(noise / p[0].numel() ** 0.5, STEP, 1.5))


@torch.no_grad()
def randomise_adapter(folder: Path, adapter: Adapter, seed: int) -> None:
    """Random factors, on grids, in place of what peft began with; tensors that were trained whole move a little."""
    rng = torch.Generator().manual_seed(seed)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for name, tensor in sorted(tensors.items()):
        noise = torch.randn(tensor.shape, generator=rng)
        if "lora_A" in name or "lora_embedding_A" in name:
            tensors[name] = on_grid(0.15 * noise, adapter.grid, 0.5)
        elif name.endswith("lora_B.bias"):
            tensors[name] = on_grid(0.1 * noise, STEP * 4, 0.5)
        elif "lora_B" in name or "lora_embedding_B" in name:
            tensors[name] = on_grid(0.06 * noise, adapter.grid / 4, 0.25)
        elif ".base_layer.weight" not in name:
            tensors[name] = on_grid(tensor.float() + 0.05 * noise, STEP, 3)
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, file)


def load(base: Base, folder: Path):
    return CLASSES[base.member.kind].from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def record(model, base: Base, inputs: dict) -> dict[str, torch.Tensor]:
    """The last row's logits, and the greedy answer."""
    prompt = inputs["input_ids"].shape[1]
    t5 = base.member.text["model_type"] == "t5"
    more = {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)} if t5 else {}
    logits = model(**inputs, **more).logits[0, -1]
    out = model.generate(**inputs, do_sample=False, max_new_tokens=6, output_scores=True, return_dict_in_generate=True)
    gaps = [(lambda top: (top[0] - top[1]) / (s.max() - s[s.isfinite()].min()))(s[0].topk(2).values) for s in out.scores]
    ids = out.sequences[0, (1 if t5 else prompt):]
    return {"logits": logits, "greedy_ids": ids.to(torch.int32), "gap": torch.stack(gaps).min().reshape(1)}


def inputs_of(base: Base, folder: Path, place: int) -> dict:
    from tokenizers import Tokenizer
    text = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = folder / "qformer_tokenizer" / "tokenizer.json"
    return ask(base.member, *base.member.cases[0], text, Tokenizer.from_file(str(words)) if words.exists() else None, place)


def make(base: Base) -> None:
    root = GOLDEN / "adapters" / base.name
    shutil.rmtree(root, ignore_errors=True)
    folder = root / "base"
    folder.mkdir(parents=True)
    tokenizer, _, place = write_tokenizers(base.member, folder)
    model = build(base.member, folder, tokenizer.get_vocab_size(), place)
    versions = {"transformers": transformers.__version__, "peft": peft.__version__, "torch": torch.__version__}
    for seed in range(100):
        randomise(model, seed)
        model.half().save_pretrained(folder)
        model.float()
        inputs = inputs_of(base, folder, place)
        recorded = {"": record(load(base, folder), base, inputs)}
        if recorded[""]["gap"].item() > 0.01 and len(recorded[""]["greedy_ids"].unique()) > 2:
            break
    else:
        raise SystemExit(f"{base.name}: every seed decides by hairs, or says one token over and over")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for adapter in base.adapters:
        target = root / adapter.name
        get_peft_model(load(base, folder), LoraConfig(**adapter.config)).save_pretrained(target)
        (target / "README.md").unlink()
        settings = json.loads((target / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = "../base"
        if not isinstance(settings["target_modules"], str):
            settings["target_modules"] = sorted(settings["target_modules"])
        (target / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        for seed in range(100):
            randomise_adapter(target, adapter, seed)
            adapted = PeftModel.from_pretrained(load(base, folder), target).eval()
            recorded[adapter.name] = record(adapted, base, inputs)
            differs = not torch.equal(recorded[adapter.name]["greedy_ids"], recorded[""]["greedy_ids"])
            if differs and recorded[adapter.name]["gap"].item() > 0.01:
                break
        else:
            raise SystemExit(f"{base.name}/{adapter.name}: every seed decides by hairs")
        for name, p in adapted.merge_and_unload().named_parameters():
            assert torch.equal(p, p.half().float()), f"{base.name}/{adapter.name}: {name} is not exact"
    for name, out in recorded.items():
        out.pop("gap")
        metadata = versions | {"image": base.member.cases[0][0], "prompt": base.member.cases[0][1]}
        write_safetensors((root / name if name else folder) / "golden.safetensors", out, metadata)
    print(base.name, {name: out["greedy_ids"].tolist() for name, out in recorded.items()})


def main() -> None:
    for base in BASES:
        if not sys.argv[1:] or base.name in sys.argv[1:]:
            make(base)


if __name__ == "__main__":
    main()
