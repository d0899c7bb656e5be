// llama.cpp peer: converts the model to F16 and times prefill and decode.
//
//   llama_bench BACKENDS_DIR convert IN.gguf OUT.gguf
//   llama_bench BACKENDS_DIR bench MODEL.gguf PREFILL DECODE RUNS
//
// `bench` prints one line per figure: `what shape unit median runs`. llama.cpp's own
// log goes to stderr; the caller looks there for the device that was used.
#include "ggml-backend.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

static double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

static double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    const size_t n = v.size();
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

static void fail(const char * message) {
    fprintf(stderr, "llama_bench: %s\n", message);
    exit(1);
}

static void decode(llama_context * ctx, std::vector<llama_token> & tokens) {
    // llama_batch_get_one asks for the logits of the last token only.
    if (llama_decode(ctx, llama_batch_get_one(tokens.data(), (int32_t) tokens.size())) != 0) {
        fail("llama_decode failed");
    }
    llama_synchronize(ctx);
    // Reading the logits is part of a step: a sampler needs them.
    if (!std::isfinite(llama_get_logits_ith(ctx, -1)[0])) {
        fail("logits are not finite");
    }
}

int main(int argc, char ** argv) {
    if (argc < 5) {
        fail("usage: llama_bench BACKENDS_DIR convert|bench ...");
    }
    ggml_backend_load_all_from_path(argv[1]);
    llama_backend_init();

    if (!strcmp(argv[2], "convert")) {
        auto params = llama_model_quantize_default_params();
        params.ftype = LLAMA_FTYPE_MOSTLY_F16;
        params.allow_requantize = true;
        if (llama_model_quantize(argv[3], argv[4], &params) != 0) {
            fail("conversion failed");
        }
        return 0;
    }
    if (argc < 7) {
        fail("usage: llama_bench BACKENDS_DIR bench MODEL PREFILL DECODE RUNS");
    }
    const int n_prefill = atoi(argv[4]), n_decode = atoi(argv[5]), n_runs = atoi(argv[6]);

    auto mparams = llama_model_default_params();
    mparams.n_gpu_layers = 99;
    llama_model * model = llama_model_load_from_file(argv[3], mparams);
    if (!model) {
        fail("cannot load the model");
    }
    auto cparams = llama_context_default_params();
    cparams.n_ctx = 512;
    cparams.n_batch = 512;
    cparams.n_ubatch = 512;
    cparams.n_threads = cparams.n_threads_batch = 2;
    llama_context * ctx = llama_init_from_model(model, cparams);
    if (!ctx) {
        fail("cannot create a context");
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int n_vocab = llama_vocab_n_tokens(vocab);
    std::vector<llama_token> prompt(n_prefill);
    for (int i = 0; i < n_prefill; i++) {
        prompt[i] = 100 + (i * 7919) % (n_vocab - 100);
    }

    // A real sentence first: a backend that computes nonsense is not worth timing.
    {
        const std::string text = "The capital of France is";
        std::vector<llama_token> tokens(64);
        const int n = llama_tokenize(vocab, text.c_str(), (int32_t) text.size(), tokens.data(), 64, true, true);
        if (n <= 0) {
            fail("cannot tokenize");
        }
        tokens.resize(n);
        std::string answer;
        for (int i = 0; i < 6; i++) {
            decode(ctx, tokens);
            const float * logits = llama_get_logits_ith(ctx, -1);
            const llama_token best = (llama_token) (std::max_element(logits, logits + n_vocab) - logits);
            char piece[64];
            const int len = llama_token_to_piece(vocab, best, piece, sizeof piece, 0, true);
            answer.append(piece, std::max(len, 0));
            tokens.assign(1, best);
        }
        fprintf(stderr, "llama_bench: \"%s\" ->\"%s\"\n", text.c_str(), answer.c_str());
        if (answer.find("Paris") == std::string::npos) {
            fail("the model gives a wrong answer");
        }
    }

    std::vector<double> prefill, step;
    for (int run = -1; run < n_runs; run++) { // run -1 compiles pipelines and is discarded
        llama_memory_clear(llama_get_memory(ctx), true);
        const double start = now();
        decode(ctx, prompt);
        const double middle = now();
        llama_memory_clear(llama_get_memory(ctx), true);
        const double again = now();
        for (int i = 0; i < n_decode; i++) {
            std::vector<llama_token> one(1, prompt[i % n_prefill]);
            decode(ctx, one);
        }
        const double end = now();
        fprintf(stderr, "llama_bench: run %d: prefill %.3f s, decode %.3f s\n", run, middle - start, end - again);
        if (run >= 0) {
            prefill.push_back(n_prefill / (middle - start));
            step.push_back(n_decode / (end - again));
        }
    }
    printf("prefill %d tokens/s %.3f %d\n", n_prefill, median(prefill), n_runs);
    printf("decode %d tokens/s %.3f %d\n", n_decode, median(step), n_runs);
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
