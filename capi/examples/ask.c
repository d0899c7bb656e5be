/* Asks a picture a question, has the answer streamed, and cancels a long one from another thread.

   From the repository's root, on Linux or macOS (Rust from https://rustup.rs, and a C compiler):

     cargo build -p instructblip-capi --release
     cc -std=c11 -Wall -o ask capi/examples/ask.c -Icapi/include -Ltarget/release -linstructblip_c \
        -Wl,-rpath,"$PWD/target/release" -lpthread
     ./ask tests/shapes/samples/10.png "Can you count the things?"

   prints

     2 (the end: eos)
     a long answer: cancelled (stopped before it was done)
     no picture: picture: not a picture of a known format (PNG, JPEG, WebP, GIF, BMP or TIFF)

   The model inside the library answers, which knows pictures of coloured shapes; for photographs name the folder of
   another as the third argument. To have no shared library, give target/release/libinstructblip_c.a in the place of
   -L, -l and -Wl, with -lm -ldl after it. Where XDG_RUNTIME_DIR is not set, as in containers, Wayland's library says
   so on standard error; it does no harm. On Windows the library is target\release\instructblip_c.dll, with
   instructblip_c.dll.lib to link. */

#define _POSIX_C_SOURCE 200809L

#include "instructblip.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Prints pieces of an answer as they come; goes on. */
static int print_piece(const char *text, size_t length, void *user) {
    (void)user;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return 0;
}

/* Shows how far loading has come; goes on. */
static int print_progress(instructblip_stage stage, uint64_t done, uint64_t total, void *user) {
    (void)user;
    if (stage == INSTRUCTBLIP_STAGE_LOADING && total > 0) {
        fprintf(stderr, "\rloading: %3u %%", (unsigned)(100 * done / total));
    }
    return 0;
}

/* Cancels after a moment. */
static void *cancel_soon(void *canceller) {
    struct timespec moment = {0, 20 * 1000 * 1000};
    nanosleep(&moment, NULL);
    instructblip_cancel(canceller);
    return NULL;
}

/* Reads a file; the caller frees it. */
static unsigned char *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    long size = -1;
    if (file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0) {
        unsigned char *bytes = malloc((size_t)size);
        *length = bytes ? fread(bytes, 1, (size_t)size, file) : 0;
        fclose(file);
        return bytes;
    }
    if (file) {
        fclose(file);
    }
    return NULL;
}

/* Asks once and prints the answer as it comes. */
static int answer(instructblip_model *model, instructblip_question question) {
    char *reply = NULL;
    question.on_text = print_piece;
    if (instructblip_ask(model, &question, &reply) != INSTRUCTBLIP_STATUS_OK) {
        fprintf(stderr, "asking failed: %s\n", instructblip_last_error());
        return 1;
    }
    printf(" (the end: %s)\n", strstr(reply, "\"finish_reason\":\"eos\"") ? "eos" : "as long as it may be");
    instructblip_text_free(reply);
    return 0;
}

/* Asks for a long answer, which another thread cancels. */
static int cancelled(instructblip_model *model, instructblip_question question) {
    pthread_t thread;
    instructblip_canceller *canceller = instructblip_canceller_new();
    question.params = "{\"min_new_tokens\": 200, \"max_new_tokens\": 200}";
    question.canceller = canceller;
    if (pthread_create(&thread, NULL, cancel_soon, canceller) != 0) {
        instructblip_canceller_free(canceller);
        return 1;
    }
    instructblip_status status = instructblip_ask(model, &question, NULL);
    if (status == INSTRUCTBLIP_STATUS_CANCELLED) {
        printf("a long answer: cancelled (%s)\n", instructblip_last_error());
    } else {
        printf("a long answer: status %d\n", (int)status);
    }
    pthread_join(thread, NULL);
    instructblip_canceller_free(canceller);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s PICTURE QUESTION [FOLDER OF A MODEL]\n", argv[0]);
        return 2;
    }
    if (instructblip_abi_version() != INSTRUCTBLIP_ABI_VERSION) {
        fprintf(stderr, "the library is of another version (%s) than the header\n", instructblip_version());
        return 1;
    }
    size_t length = 0;
    unsigned char *bytes = read_file(argv[1], &length);
    if (!bytes) {
        fprintf(stderr, "%s cannot be read\n", argv[1]);
        return 1;
    }
    instructblip_load load = {0};
    load.path = argc > 3 ? argv[3] : NULL;
    load.on_progress = print_progress;
    instructblip_model *model = NULL;
    instructblip_status status = instructblip_open(&load, &model);
    fputc('\n', stderr);
    if (status != INSTRUCTBLIP_STATUS_OK) {
        fprintf(stderr, "opening failed: %s\n", instructblip_last_error());
        free(bytes);
        return 1;
    }
    instructblip_picture picture = {bytes, length, 0, 0};
    instructblip_question question = {0};
    question.pictures = &picture;
    question.picture_count = 1;
    question.prompt = argv[2];
    int failed = answer(model, question) || cancelled(model, question);
    picture.length = 3;
    if (instructblip_ask(model, &question, NULL) == INSTRUCTBLIP_STATUS_IMAGE) {
        printf("no picture: %s\n", instructblip_last_error());
    }
    instructblip_close(model);
    free(bytes);
    return failed;
}
