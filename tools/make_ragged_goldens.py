#!/usr/bin/env python3
"""Write tiny checkpoints whose dimensions are no multiples of anything, and what transformers computes with them.

    python make_ragged_goldens.py [NAME ...]    # writes tests/golden/checkpoints/NAME, all of RAGGED by default

Random weights in float16, written by `save_pretrained`; everything recorded comes from the folder as it lies on the disk,
loaded in float32.  Each has `golden.safetensors` as those of make_family_goldens.py, and the answer of three beams to case 0.

Random models decide by hairs.  A seed is kept only if every greedy answer, and the beams' ones, stay when every weight is
perturbed by 1e-4 of itself, twice.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from pathlib import Path

import PIL
import tokenizers
import torch
import transformers

from make_family_goldens import CLASSES, Member, ask, build, expected, generate, inner, perturbed, randomise, special_cases, write_tokenizers
from make_goldens import GOLDEN, write_safetensors


def vision(hidden: int, heads: int, intermediate: int, patch: int, across: int) -> dict:
    return dict(hidden_size=hidden, num_attention_heads=heads, intermediate_size=intermediate, num_hidden_layers=1,
                image_size=patch * across, patch_size=patch)


def qformer(hidden: int, heads: int, intermediate: int) -> dict:
    return dict(hidden_size=hidden, num_attention_heads=heads, intermediate_size=intermediate, num_hidden_layers=1,
                max_position_embeddings=61, vocab_size=513)


def llama(**sizes) -> dict:
    return dict(model_type="llama", num_hidden_layers=2, max_position_embeddings=128, bos_token_id=None, eos_token_id=1,
                pad_token_id=0) | sizes


def opt(**sizes) -> dict:
    return dict(model_type="opt", num_hidden_layers=2, max_position_embeddings=128, bos_token_id=2, pad_token_id=1) | sizes


def t5(**sizes) -> dict:
    return dict(model_type="t5", num_layers=2, num_decoder_layers=2, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0,
                bos_token_id=None) | sizes


# Heads have few different numbers of channels, as each is a set of kernels to compile.
RAGGED = [
    Member("ragged-llama", llama(hidden_size=111, intermediate_size=101, num_attention_heads=3, num_key_value_heads=1, head_dim=22,
                                 vocab_size=250),
           vision=vision(37, 1, 101, 7, 3), qformer=qformer(60, 4, 37), queries=3, pieces=240),
    # Some dimensions ragged between others that are not.
    Member("ragged-b2-llama", llama(hidden_size=48, intermediate_size=250, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
                                    vocab_size=101),
           kind="blip-2", vision=vision(48, 3, 37, 7, 2), qformer=qformer(32, 2, 101), queries=5, pieces=97),
    Member("ragged-video", llama(hidden_size=37, intermediate_size=60, num_attention_heads=1, head_dim=38, vocab_size=101,
                                 tie_word_embeddings=True),
           kind="instructblipvideo", vision=vision(60, 4, 37, 5, 3), qformer=qformer(37, 1, 101), queries=3, pieces=97,
           cases=[("exact-56x56.png,rgba-48x40.png,grey-50x37.png,landscape-200x90.png", "What is in the image?"),
                  ("portrait-61x143.png,exact-56x56.png,7x1.png,lossless-64x47.webp", "Where is the star?")]),
    Member("ragged-t5", t5(d_model=101, d_kv=5, d_ff=37, num_heads=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                           vocab_size=250),
           vision=vision(60, 12, 37, 9, 2), qformer=qformer(37, 1, 60), queries=3, pieces=240),
    Member("ragged-t5-tied", t5(d_model=60, d_kv=37, d_ff=37, num_heads=2, feed_forward_proj="relu", tie_word_embeddings=True,
                                vocab_size=101),
           vision=vision(37, 1, 101, 1, 3), qformer=qformer(60, 12, 37), queries=1, pieces=97),
    Member("ragged-opt", opt(hidden_size=60, word_embed_proj_dim=60, ffn_dim=37, num_attention_heads=4, vocab_size=301),
           kind="blip-2", vision=vision(60, 12, 101, 3, 4), qformer=qformer(60, 4, 250), queries=5, pieces=290),
]
LIMIT = 12


def answers(model, member: Member, asked: list[dict], stop: int) -> list[list[list[int]]]:
    """Greedily to each case, and by three beams to the first."""
    greedy = [generate(model, member, inputs, dict(max_new_tokens=LIMIT), stop)["sequences"] for inputs in asked]
    return [*greedy, generate(model, member, asked[0], dict(max_new_tokens=8, num_beams=3), stop)["sequences"]]


def suits(model, member: Member, asked: list[dict], stop: int) -> bool:
    """Whether the answers are not one token over and over, and stay when the weights move a little."""
    ids = answers(model, member, asked, stop)
    varied = all(len(set(row[0])) > 3 for row in ids) and ids[0] != ids[1] and ids[0][0][:8] != ids[2][0]
    return varied and all(answers(perturbed(model, seed), member, asked, stop) == ids for seed in (1, 2))


def make(member: Member) -> None:
    folder = Path(tempfile.mkdtemp()) / member.name
    folder.mkdir()
    tokenizer, words, placeholder = write_tokenizers(member, folder)
    model = build(member, folder, tokenizer.get_vocab_size(), placeholder)
    stop = {"llama": 1, "opt": 10, "t5": 1}[member.text["model_type"]]
    asked = [ask(member, images, prompt, tokenizer, words, placeholder) for images, prompt in member.cases]
    for seed in itertools.count(1):
        randomise(model, member, [stop], seed)
        if suits(model, member, asked, stop):
            break
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)

    # From here on, only what is on the disk counts.
    loaded, info = CLASSES[member.kind].from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(a.float(), b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    loaded.eval()
    tensors = {}
    about = {"cases": str(len(asked)), "max_new_tokens": str(LIMIT), "seed": str(seed), "transformers": transformers.__version__,
             "torch": torch.__version__.split("+")[0], "pillow": PIL.__version__, "tokenizers": tokenizers.__version__}
    *greedy, beams = answers(loaded, member, asked, stop)
    tensors["0.beam_ids"] = torch.tensor(beams[0], dtype=torch.int32)
    for i, ((images, prompt), inputs, [new]) in enumerate(zip(member.cases, asked, greedy)):
        tensors |= {f"{i}.{k}": v for k, v in expected(loaded, member, inputs, new).items()}
        tensors[f"{i}.greedy_ids"] = torch.tensor(new, dtype=torch.int32)
        about |= {f"{i}.image": images, f"{i}.prompt": prompt,
                  f"{i}.greedy_text": tokenizer.decode([t for t in new if t < tokenizer.get_vocab_size()])}
    if member.name in ("ragged-llama", "ragged-t5"):
        tensors |= inner(loaded, member, asked[0], tensors.get("0.decoder_input_ids"))
    if member.name == "ragged-llama":
        tensors |= special_cases(loaded, member, asked[0], tokenizer, words, placeholder)
    write_safetensors(folder / "golden.safetensors", tensors, about)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{member.name}: seed {seed}, {size} bytes", greedy, beams, flush=True)
    shutil.rmtree(GOLDEN / "checkpoints" / member.name, ignore_errors=True)
    shutil.move(folder, GOLDEN / "checkpoints")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    wanted = sys.argv[1:] or [member.name for member in RAGGED]
    for member in RAGGED:
        if member.name in wanted:
            make(member)
