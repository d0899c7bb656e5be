/* instructblip: ask a picture a question, on whatever GPU there is (Vulkan, Metal, DX12).

   This file is made from the library's source. examples/ask.c is a whole program, with the commands that build it.

   Errors. A call that can fail gives an instructblip_status. If it is not INSTRUCTBLIP_STATUS_OK,
   instructblip_last_error says on the same thread what failed and what to do about it, and what the call was to give
   is NULL or empty. No call ends the program, whatever a model's files or a picture hold.

   Threads. Every function may be called from every thread, at any time, with two exceptions: instructblip_close and
   instructblip_canceller_free come after all calls that use the model or the canceller have ended. Several threads
   may ask one model at once: their answers share the GPU's steps, and none depends on the others. A model has threads
   of its own.

   Blocking. instructblip_open, _ask, _score, _embed, _attention, _adapters and _close block, the first ones for
   seconds or minutes; call them from a thread that nobody waits for. instructblip_cancel and all others return at
   once. A cancelled call ends before the model's next step, or, where nobody else wants that step or pass, within it.

   Callbacks run on the thread that made the call which they were given to, before it returns, and never at the same
   time as that call's other callbacks. They return normally: no C++ exception and no longjmp may leave them.

   Pointers. What a call is given, structs and all they point to, is read before it returns, must not change
   meanwhile, and is the caller's. Pointers are valid or NULL, and NULL only where that is allowed; in structs it is
   for all that is not needed. What a call gives is freed by the function that its comment names, not by free.

   Texts are UTF-8 and end with a NUL, results in JSON, too, and have none before it: JSON escapes one that a model says.
   With one exception: the piece of an answer that an instructblip_on_text hears may have any, so that only its length
   tells where it ends. Sizes of texts count without the NUL at the end.

   Stack. 256 KiB are enough for a thread that calls, as tests on Linux with Mesa's driver for the CPU show; another
   graphics driver may want more.

   A process that forks after the first call may not use the library in the child. */


#ifndef INSTRUCTBLIP_H
#define INSTRUCTBLIP_H

#include <stddef.h>
#include <stdint.h>

// The version of this header's structs and functions. It grows whenever a program has to be compiled anew.
#define INSTRUCTBLIP_ABI_VERSION 1

// The result of a call. Codes keep their meaning; later versions may add some.
typedef enum instructblip_status {
    // The call did what was asked.
    INSTRUCTBLIP_STATUS_OK = 0,
    // An argument cannot be read: a pointer is NULL that may not be, or a text is no UTF-8.
    INSTRUCTBLIP_STATUS_ARGUMENT = 1,
    // A prompt, parameter or option is not acceptable.
    INSTRUCTBLIP_STATUS_REQUEST = 2,
    // Somebody stopped the work: a callback or a canceller.
    INSTRUCTBLIP_STATUS_CANCELLED = 3,
    // No graphics adapter fits the request.
    INSTRUCTBLIP_STATUS_NO_ADAPTER = 4,
    // Something exceeds a limit of the device or of the library.
    INSTRUCTBLIP_STATUS_DOES_NOT_FIT = 5,
    // The model would take more of the device's memory than it may; the text says which options make it smaller.
    INSTRUCTBLIP_STATUS_OVER_BUDGET = 6,
    // The device ran out of memory.
    INSTRUCTBLIP_STATUS_OUT_OF_MEMORY = 7,
    // The GPU was lost or reset: close the model and open it again.
    INSTRUCTBLIP_STATUS_DEVICE_LOST = 8,
    // The graphics driver refused something.
    INSTRUCTBLIP_STATUS_GPU = 9,
    // A file of the model is missing, damaged or of a kind that is not run.
    INSTRUCTBLIP_STATUS_CHECKPOINT = 10,
    // The model gave values that are no numbers: its weights are damaged.
    INSTRUCTBLIP_STATUS_NOT_FINITE = 11,
    // A picture cannot be read, or is too large.
    INSTRUCTBLIP_STATUS_IMAGE = 12,
    // A prompt is too long for the model.
    INSTRUCTBLIP_STATUS_PROMPT_TOO_LONG = 13,
    // A file cannot be read.
    INSTRUCTBLIP_STATUS_IO = 14,
    // A fault of the library. Close the model: nothing is promised about it any more.
    INSTRUCTBLIP_STATUS_FAULT = 15,
} instructblip_status;

// The work that is done while a model is opened.
typedef enum instructblip_stage {
    // The GPU is opened; nothing is counted.
    INSTRUCTBLIP_STAGE_OPENING = 0,
    // Kernels are compiled, which some drivers take minutes for the first time; they are counted.
    INSTRUCTBLIP_STAGE_COMPILING = 1,
    // Weights are read and brought to the GPU; bytes are counted.
    INSTRUCTBLIP_STAGE_LOADING = 2,
    // Something else is done; nothing is counted.
    INSTRUCTBLIP_STAGE_WORKING = 3,
} instructblip_stage;

// Something that cancels the questions it was given to. Once cancelled it stays so: questions that come later end at
// once.
typedef struct instructblip_canceller instructblip_canceller;

// An open model. Any number of threads may ask it at once.
typedef struct instructblip_model instructblip_model;

// A file of a model in memory.
typedef struct instructblip_file {
    // Its name in the model's folder, with / for folders: qformer_tokenizer/tokenizer.json.
    const char *name;
    // Its bytes, which are copied.
    const uint8_t *data;
    // The number of bytes.
    size_t length;
} instructblip_file;

// A function that hears how far opening has come, many times a second, on the thread that opens. What it returns other
// than 0 stops it. It may call instructblip_cancel and nothing else of this library.
typedef int (*instructblip_on_progress)(enum instructblip_stage stage, uint64_t done, uint64_t total, void *user);

// A model to open, and the way to do it. Set all of it to zero first; then NULL, 0 and nothing are the usual.
typedef struct instructblip_load {
    // The model's folder, as `save_pretrained` writes it. NULL without files is the model inside this library, which
    // knows pictures of coloured shapes and nothing else.
    const char *path;
    // The model's files, if they are in memory; `path` is then their name in messages.
    const struct instructblip_file *files;
    // The number of files.
    size_t file_count;
    // A part of the name of the GPU to use, upper or lower case. NULL takes the best.
    const char *adapter;
    // Options as a JSON object: {"weights": "q8", "slots": 1}. All of them, with their defaults:
    // "weights": null, "f16", "q8" or "q4" for all parts, which are as stored unless told;
    // "vision_weights": null, the same for the vision tower;
    // "qformer_weights": null, for the Q-Former;
    // "language_weights": null, for the language model;
    // "budget_bytes": null, the most GPU memory to use, what the GPU has unless told;
    // "offload": false, true if vision and language are to take turns in that memory;
    // "kv_cache": null, "f32" or "f16" for the keys and values of what was read, else what suits model and GPU;
    // "lora": null, the folder of an adapter to merge into the weights;
    // "slots": 8, how many answers, or beams of one, are made side by side, from 1 to 256;
    // "new_tokens": 256, how long an answer memory is taken for, for each slot, from 1 to 65536;
    // "max_pixels": 178956970, the most pixels that a picture may have;
    // "exif_rotate": false, true if pictures are to be turned as their cameras say;
    // "kernel_cache": null, the folder that compiled kernels are kept in, "" for none, one in the user's cache unless
    // told. One that is named is made, and refused where it cannot be written to.
    const char *options;
    // Hears how far it has come.
    instructblip_on_progress on_progress;
    // Whatever `on_progress` is to be given.
    void *user;
} instructblip_load;

// A picture: an image file in memory (PNG, JPEG, WebP, GIF, BMP or TIFF), or pixels.
typedef struct instructblip_picture {
    // The bytes of the file; or three bytes a pixel, red, green and blue, in rows from top to bottom.
    const uint8_t *data;
    // The number of bytes.
    size_t length;
    // Width in pixels; 0 for a file.
    uint32_t width;
    // Height in pixels; 0 for a file.
    uint32_t height;
} instructblip_picture;

// A function that hears a piece of an answer, `length` bytes and a NUL, never half a character. What it returns other
// than 0 stops the answer.
typedef int (*instructblip_on_text)(const char *text, size_t length, void *user);

// A question about a picture. Set all of it to zero first; then NULL, 0 and nothing are the usual.
typedef struct instructblip_question {
    // The picture, or the frames of a video for models that take several.
    const struct instructblip_picture *pictures;
    // The number of pictures.
    size_t picture_count;
    // The question or instruction; with a task, the text that goes into its wording.
    const char *prompt;
    // A task whose wording the paper gives; NULL asks the prompt as it is. `prompt` is then
    // "caption": NULL, for a caption of one sentence;
    // "detail": NULL, for a description;
    // "vqa-short": a question, for a short answer;
    // "vqa-ocr": the same, with words that were read in the picture as `choices`;
    // "multiple-choice": a question that one of the `choices` answers;
    // "science": the same, with letters; lines before the last are its context;
    // "true-false": a statement to be judged;
    // "hateful": the words on a picture to be judged;
    // "ask-question": an answer, for a question to it.
    const char *task;
    // The text that the Q-Former reads instead of the prompt.
    const char *qformer_prompt;
    // Choices for the task's wording, and the answers that instructblip_score compares.
    const char *const *choices;
    // The number of choices.
    size_t choice_count;
    // The parameters of the answer under the names of transformers' `generate`, as a JSON object:
    // {"max_new_tokens": 30, "num_beams": 5}. All of them, with their defaults:
    // "max_new_tokens": null, the most tokens of the answer: 256, unless "max_length" is given;
    // "max_length": null, the most tokens of prompt, picture's places and answer together;
    // "min_length": 0, the least of these;
    // "min_new_tokens": 0, the least tokens of the answer;
    // "num_beams": 1, beams to search with, up to 256;
    // "num_return_sequences": 1, answers to give, up to 256: of beams, or drawn;
    // "do_sample": false, true draws tokens by their probability instead of taking the likeliest;
    // "seed": 0, where the random numbers begin: the same seed draws the same answer on one machine;
    // "temperature": 1.0, divides scores before tokens are drawn;
    // "top_k": 50, draws among so many of the likeliest tokens, 0 among all;
    // "top_p": 1.0, draws among the likeliest tokens that make up so much probability;
    // "min_p": null, draws among tokens with at least this share of the likeliest one's probability;
    // "typical_p": 1.0, draws among the most typical tokens that make up so much probability;
    // "epsilon_cutoff": 0.0, draws among tokens of at least this probability;
    // "eta_cutoff": 0.0, the same with a threshold that follows the entropy;
    // "repetition_penalty": 1.0, divides the scores of tokens that there are already, the prompt's included;
    // "penalize_prompt": true, false has "repetition_penalty" and "no_repeat_ngram_size" look at the answer alone;
    // "presence_penalty": 0.0, lowers the scores of tokens that the answer has already by so much, from -2 to 2;
    // "frequency_penalty": 0.0, lowers them by so much for each time they came, from -2 to 2;
    // "no_repeat_ngram_size": 0, the length of runs of tokens that may not come twice;
    // "length_penalty": 1.0, the power of its length that a beam's score is divided by;
    // "early_stopping": false, true ends a search once it has as many answers as beams, "never" when none can get better;
    // "exponential_decay_length_penalty": null, [10, 1.1] has the end grow likelier by a factor of 1.1 after 10 tokens;
    // "stop_strings": [], texts that end the answer;
    // "prefix": "", the beginning of the answer, which the model goes on with;
    // "prefix_ids": [], the same as tokens, before "prefix";
    // "bad_words": [], words that the answer may not have;
    // "bad_words_ids": [], runs of tokens that it may not have;
    // "logprobs": null, tells with every token its log-probability and those of so many of the likeliest, from 0 to 20;
    // "eos_token_id": null, the id or the ids that end an answer, the model's unless told.
    const char *params;
    // Hears the answer piece by piece, where it is one answer without beams. It runs on the thread that asks, and may
    // call everything but instructblip_close.
    instructblip_on_text on_text;
    // Whatever `on_text` is to be given.
    void *user;
    // Cancels the question from another thread.
    const struct instructblip_canceller *canceller;
} instructblip_question;

// Numbers with their dimensions; to be freed with instructblip_floats_free.
typedef struct instructblip_floats {
    // The numbers, the last dimension's neighbours side by side; NULL where there are none.
    float *values;
    // The count of the numbers: the product of the dimensions.
    size_t count;
    // The dimensions; those that are not used are 1, and come first.
    size_t shape[4];
} instructblip_floats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Gives the INSTRUCTBLIP_ABI_VERSION that the library was built with. Where it is not the header's, call nothing else.
uint32_t instructblip_abi_version(void);

// Gives the library's version, such as "0.1.0".
const char *instructblip_version(void);

// Says what went wrong in the last call of this thread that gave another status than INSTRUCTBLIP_STATUS_OK, and what
// to do about it; an empty text before there is one. It holds until the thread's next call that fails.
const char *instructblip_last_error(void);

// Lists the graphics adapters as a JSON array, to be freed with instructblip_text_free. Each has "name", "backend",
// "type", "driver", "memory_bytes" (null where the driver does not tell), "problem" (a text, if it cannot be used) and
// "chosen": true for the one that a model would be opened on whose `adapter` is the same. Blocks for as long as the
// drivers take.
enum instructblip_status instructblip_adapters(const char *adapter, char **list);

// Opens a model, which takes from a second to minutes, and gives it at `model`; to be closed with instructblip_close.
// Any thread may open any number of models.
enum instructblip_status instructblip_open(const struct instructblip_load *load, struct instructblip_model **model);

// Closes a model, after all calls that were given it have ended, and frees its memory. Blocks until the step that the
// GPU is at is done. From any thread, but from no callback. NULL is allowed.
void instructblip_close(struct instructblip_model *model);

// Asks, waits for the whole answer and gives it as a JSON object, to be freed with instructblip_text_free: "text",
// "token_ids" and "finish_reason" ("eos", "stop" or "length") of the best answer; "sequences", all answers, each with
// these and a "score" (null without beams), and, where the parameters want "logprobs", a list of them: each token's
// "token_id", "logprob" and "top", pairs of a token and its log-probability; "prompt_tokens", "model", "device" and
// "timings_ms".
//
// Any thread may ask, several at once share the GPU's steps, and no answer depends on the others. `reply` may be NULL,
// if `on_text` is enough.
enum instructblip_status instructblip_ask(const struct instructblip_model *model,
                                          const struct instructblip_question *question,
                                          char **reply);

// Says how likely each of the question's choices is as its answer, as a JSON array in the order of the choices, to
// be freed with instructblip_text_free. Each has "choice", "mean_log_probability" (by token: what the paper ranks
// by), "sum_log_probability", "token_ids" and "log_probabilities". `params` must be valid and change nothing;
// `on_text` hears nothing.
enum instructblip_status instructblip_score(const struct instructblip_model *model,
                                            const struct instructblip_question *question,
                                            char **scores);

// Gives the features of a picture that is read with the question's prompt: `image`, D numbers of the vision tower
// (its class token); `queries`, the Q-Former's Q rows in its own width; and `projected`, the same rows in the
// language model's width: `shape` has each one's. Each may be NULL; those given are to be freed with
// instructblip_floats_free. `params` must be valid and change nothing; `on_text` hears nothing.
enum instructblip_status instructblip_embed(const struct instructblip_model *model,
                                            const struct instructblip_question *question,
                                            struct instructblip_floats *image,
                                            struct instructblip_floats *queries,
                                            struct instructblip_floats *projected);

// Gives the weights with which the Q-Former's queries look at a picture that is read with the question's prompt, by
// layer, head, query and key; to be freed with instructblip_floats_free. Key 0 is the picture as a whole, the others
// are its square patches row by row; the weights of a query add up to 1. Layers are those that look at the picture,
// from the first on. `params` must be valid and change nothing; `on_text` hears nothing.
enum instructblip_status instructblip_attention(const struct instructblip_model *model,
                                                const struct instructblip_question *question,
                                                struct instructblip_floats *weights);

// Makes a canceller for the field `canceller` of questions; to be freed with instructblip_canceller_free.
struct instructblip_canceller *instructblip_canceller_new(void);

// Cancels: every call that was given this canceller ends with INSTRUCTBLIP_STATUS_CANCELLED, unless it has its
// result already, and so does every later one that is acceptable. From any thread, also from a callback; does not
// wait for the calls to end. NULL is allowed.
void instructblip_cancel(const struct instructblip_canceller *canceller);

// Frees a canceller, after the calls that were given it have ended. NULL is allowed.
void instructblip_canceller_free(struct instructblip_canceller *canceller);

// Frees a text that a call gave. NULL is allowed.
void instructblip_text_free(char *text);

// Frees the numbers that a call gave, and sets `values` to NULL. NULL, and numbers that are freed, are allowed.
void instructblip_floats_free(struct instructblip_floats *floats);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* INSTRUCTBLIP_H */
