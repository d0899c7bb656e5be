"""Times Hugging Face transformers on this GPU, at the shape of an InstructBLIP with random weights.

    python3 benches/peers/transformers_speed.py --shape vicuna-7b

Prints one JSON object: the vision tower's time, the time to the first token of an answer to 64 words, and tokens a
second of decoding at batch 1, in float16, medians of `--runs`. Nothing is downloaded. Where there is no CUDA the object
says so, and the exit code is 0: what cannot be compared is no failure.
"""

import argparse
import json
import statistics
import time

SHAPES = {
    "vicuna-7b": ("llama", dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)),
    "vicuna-13b": ("llama", dict(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40)),
    "flan-t5-xl": ("t5", dict(d_model=2048, d_ff=5120, num_heads=32, num_layers=24, num_decoder_layers=24)),
    "flan-t5-xxl": ("t5", dict(d_model=4096, d_ff=10240, num_heads=64, num_layers=24, num_decoder_layers=24)),
}
WORDS = 64
NEW_TOKENS = 64


def config(shape, layers):
    from transformers import InstructBlipConfig, LlamaConfig, T5Config

    kind, sizes = SHAPES[shape]
    sizes = dict(sizes)
    if layers:
        sizes.update({name: layers for name in sizes if name.endswith("layers")})
    if kind == "llama":
        text = LlamaConfig(vocab_size=32064, max_position_embeddings=2048, rms_norm_eps=1e-6, pad_token_id=0, **sizes)
        image_token = 32001
    else:
        text = T5Config(
            vocab_size=32128, d_kv=64, feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0,
            tie_word_embeddings=False, **sizes,
        )
        image_token = 32100
    vision = dict(hidden_size=1408, intermediate_size=6144, num_attention_heads=16, image_size=224, patch_size=14)
    vision["num_hidden_layers"] = layers or 39
    qformer = dict(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=layers or 12,
        encoder_hidden_size=1408, cross_attention_frequency=2, vocab_size=30523,
    )
    return InstructBlipConfig(
        vision_config=vision, qformer_config=qformer, text_config=text.to_dict(), num_query_tokens=32,
        image_token_index=image_token,
    ), image_token


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--shape", choices=SHAPES, default="vicuna-7b")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--layers", type=int, help="layers of every part, to try the script out")
    arguments.add_argument("--device", default="cuda", help="cpu tries the script out")
    arguments = arguments.parse_args()
    result = {"peer": "transformers", "shape": arguments.shape, "dtype": "float16", "batch": 1}
    try:
        import torch
        import transformers
    except ImportError as e:
        print(json.dumps(result | {"skipped": f"not installed: {e.name}"}))
        return
    result |= {"torch": torch.__version__, "transformers": transformers.__version__}
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(json.dumps(result | {"skipped": "no CUDA"}))
        return
    device = torch.device(arguments.device)
    if device.type == "cuda":
        result["device"] = torch.cuda.get_device_name(device)

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(work):
        times = []
        for run in range(arguments.runs + 1):
            wait()
            start = time.perf_counter()
            work()
            wait()
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[1:])  # the first one warms up

    try:
        torch.manual_seed(0)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float16)
        shape, image_token = config(arguments.shape, arguments.layers)
        with device:
            model = transformers.InstructBlipForConditionalGeneration(shape).eval()
            pixels = torch.randn(1, 3, 224, 224)
            words = torch.randint(100, 30000, (1, WORDS))
            inputs = dict(
                pixel_values=pixels,
                input_ids=torch.cat([torch.full((1, 32), image_token), words], 1),
                qformer_input_ids=words,
            )
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs["qformer_attention_mask"] = torch.ones_like(words)

        def generate(count):
            tokens = dict(min_new_tokens=count, max_new_tokens=count, do_sample=False)
            return lambda: model.generate(**inputs, **tokens)

        result["vision_ms"] = milliseconds(lambda: model.vision_model(pixel_values=pixels))
        result["first_token_ms"] = first = milliseconds(generate(1))
        whole = milliseconds(generate(NEW_TOKENS))
        result["tokens_per_s"] = 1000 * (NEW_TOKENS - 1) / (whole - first)
        if device.type == "cuda":
            result["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    except Exception as e:  # a version with other names, or too little memory: the other figures still count
        result["failed"] = f"{type(e).__name__}: {e}"[:300]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
