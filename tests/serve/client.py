#!/usr/bin/env python3
"""OpenAI's Python client against `instructblip serve`, written as for the hosted service.

    client.py URL KEYED

URL is the server's address with /v1, KEYED that of one that wants the key `sesame` and has one slot and one place in
its queue.
"""

import asyncio
import base64
import json
import math
import pathlib
import sys
import time
import traceback
import urllib.request

import openai

URL, KEYED = sys.argv[1], sys.argv[2]
SHAPES = pathlib.Path(__file__).resolve().parent.parent / "shapes"
OPTIONS = {"base_url": URL, "api_key": "none", "timeout": 120, "max_retries": 0}
client = openai.OpenAI(**OPTIONS)
CAPTION = "Describe everything you see in the image."
LONG = {"extra_body": {"min_tokens": 450}}


def data_url(name):
    return "data:image/png;base64," + base64.b64encode((SHAPES / name).read_bytes()).decode()


def question(text, *pictures):
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "high"}} for url in pictures]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


PICTURE, OTHER = data_url("samples/10.png"), data_url("samples/11.png")
BIGGEST = [question("Which object is the biggest one?", PICTURE)]
DETAIL = [question(CAPTION, OTHER)]


def ask(messages, of=client, **options):
    return of.chat.completions.create(model="gpt-4o", messages=messages, **options)


def equal(got, want):
    assert got == want, f"{got!r} is not {want!r}"


def refused(kind, call, status, code, param=None):
    """The error of this class that a call must end with."""
    try:
        answer = call()
    except openai.APIStatusError as error:
        equal((type(error), error.status_code, error.code, error.param), (kind, status, code, param))
        assert error.message and error.request_id.startswith("req_"), error
        return error
    raise AssertionError(f"was answered: {answer}")


def numbers():
    with urllib.request.urlopen(URL.removesuffix("/v1") + "/metrics") as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def cancels(leave):
    """Checks that an answer whose client leaves is made no further."""
    before = numbers()["instructblip_answers_cancelled_total"]
    leave()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        now = numbers()
        if now["instructblip_answers_cancelled_total"] > before and now["instructblip_slots_taken"] == 0:
            return
        time.sleep(0.05)
    raise AssertionError(f"{before:.0f} answers were cancelled before, {now}")


def plain():
    answer = ask(BIGGEST)
    (choice,) = answer.choices
    equal((choice.message.role, choice.message.content), ("assistant", "blue cross"))
    equal((choice.finish_reason, choice.logprobs, choice.message.refusal), ("stop", None, None))
    equal((answer.object, answer.model), ("chat.completion", "instructblip-shapes"))
    assert abs(answer.created - time.time()) < 120 and answer.id.startswith("chatcmpl-"), answer
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    # What frameworks send without being asked.
    usual = {"temperature": 0, "top_p": 1, "n": 1, "presence_penalty": 0, "frequency_penalty": 0, "stop": None}
    idle = {"tools": [], "tool_choice": "none", "logit_bias": {}, "response_format": {"type": "text"}, "user": "me"}
    equal(ask(BIGGEST, **usual, **idle).choices[0].message.content, "blue cross")
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=BIGGEST)
    equal(raw.parse().choices[0].message.content, "blue cross")
    equal((raw.headers["content-type"], raw.headers["x-request-id"][:4]), ("application/json", "req_"))


def streams():
    want = ask(DETAIL)
    with ask(DETAIL, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    choices = [chunk.choices[0] for chunk in chunks[:-1]]
    equal("".join(choice.delta.content or "" for choice in choices), want.choices[0].message.content)
    equal((choices[0].delta.role, choices[-1].finish_reason), ("assistant", want.choices[0].finish_reason))
    assert len(chunks) > 10 and all(choice.finish_reason is None for choice in choices[:-1]), chunks
    assert all(chunk.usage is None for chunk in chunks[:-1])
    equal((chunks[-1].choices, chunks[-1].usage), ([], want.usage))
    equal(len({chunk.id for chunk in chunks}), 1)
    assert all(chunk.usage is None and chunk.choices for chunk in ask(DETAIL, stream=True)), "usage is told unasked"
    with client.chat.completions.stream(model="gpt-4o", messages=DETAIL) as helper:
        told = "".join(event.delta for event in helper if event.type == "content.delta")
        equal((told, helper.get_final_completion().choices[0].message.content), (want.choices[0].message.content,) * 2)


def logprobs():
    for messages in (BIGGEST, DETAIL):
        tokens = ask(messages, logprobs=True, top_logprobs=3).choices[0]
        for token in tokens.logprobs.content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
            best = max(token.top_logprobs, key=lambda other: other.logprob)
            equal((best.token, best.bytes, best.logprob), (token.token, token.bytes, token.logprob))
            assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.0001, token
        told = b"".join(bytes(token.bytes) for token in tokens.logprobs.content)
        equal(told.decode().strip(), tokens.message.content)
        pieces = [chunk.choices[0].logprobs for chunk in ask(messages, logprobs=True, top_logprobs=3, stream=True)]
        streamed = [token.token for piece in pieces if piece for token in piece.content]
        equal(streamed, [token.token for token in tokens.logprobs.content])
    equal({len(token.top_logprobs) for token in ask(BIGGEST, logprobs=True).choices[0].logprobs.content}, {0})


def several():
    drawn = [ask(DETAIL, n=3, temperature=1.5, seed=7) for _ in range(2)]
    texts = [[choice.message.content for choice in answer.choices] for answer in drawn]
    equal(texts[0], texts[1])
    equal([choice.index for choice in drawn[0].choices], [0, 1, 2])
    more = [choice for seed in range(3) for choice in ask(DETAIL, n=3, temperature=2, seed=seed).choices]
    assert len({choice.message.content for choice in more}) > 1, "nothing was drawn"
    same = ask(DETAIL, n=2, temperature=0)
    equal([choice.message.content for choice in same.choices], [ask(DETAIL).choices[0].message.content] * 2)
    told = ["", "", ""]
    for chunk in ask(DETAIL, n=3, temperature=1.5, seed=7, stream=True):
        told[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    equal(told, texts[0])


def ends():
    whole = ask(DETAIL).choices[0].message.content
    for stop in ("background", [" background", "nowhere"], ["white background: a"]):
        word = stop if isinstance(stop, str) else stop[0]
        cut = ask(DETAIL, stop=stop).choices[0]
        equal((cut.message.content, cut.finish_reason), (whole.split(word)[0].strip(), "stop"))
        pieces = [chunk.choices[0].delta.content or "" for chunk in ask(DETAIL, stop=stop, stream=True)]
        equal("".join(pieces), cut.message.content)
    for name in ("max_tokens", "max_completion_tokens"):
        one = ask(DETAIL, **{name: 1})
        equal((one.choices[0].finish_reason, one.usage.completion_tokens), ("length", 1))
        assert whole.startswith(one.choices[0].message.content)
    equal(ask(DETAIL, max_tokens=100_000).choices[0].message.content, whole)


def models():
    (model,) = client.models.list()
    equal((model.id, model.object), ("instructblip-shapes", "model"))
    equal(client.models.retrieve(model.id), model)


def embeddings():
    packed = client.embeddings.create(model="gpt-4o", input=PICTURE)
    floats = client.embeddings.create(model="gpt-4o", input=PICTURE, encoding_format="float")
    assert len(floats.data[0].embedding) > 1
    equal(packed.data[0].embedding, floats.data[0].embedding)
    both = client.embeddings.create(model="gpt-4o", input=[OTHER, PICTURE])
    equal(both.data[1].embedding, packed.data[0].embedding)
    assert both.data[0].embedding != both.data[1].embedding and [item.index for item in both.data] == [0, 1]


def conversation():
    messages = [question("Which object is the biggest one?", PICTURE)]
    messages.append(ask(messages).choices[0].message)  # The client's own object goes back as it came.
    messages.append({"role": "user", "content": "Can you count the things?"})
    assert ask(messages).choices[0].message.content
    system = {"role": "system", "content": ""}
    equal(ask([system, *BIGGEST]).choices[0].message.content, "blue cross")
    text, picture = BIGGEST[0]["content"]
    apart = [{"role": "user", "content": [picture]}, {"role": "user", "content": text["text"]}]
    equal(ask(apart).choices[0].message.content, "blue cross")


def errors():
    bad = lambda messages=BIGGEST, code="invalid_value", param=None, **options: refused(
        openai.BadRequestError, lambda: ask(messages, **options), 400, code, param
    )
    url = "messages[0].content[1].image_url"
    no_picture = base64.b64encode(b"no picture").decode()
    bad([question("What?", f"data:image/png;base64,{no_picture}")], "invalid_image", url)
    bad([question("What?", PICTURE[:-400])], "invalid_image", url)
    bad([question("What?", "data:image/png;base64,*")], param=url)
    bad([question("What?", "https://example.org/a.png")], param=url)
    bad([question("What?", PICTURE, OTHER)], param="messages")
    bad([question("What?")], param="messages")
    bad([{"role": "tool", "content": "x", "tool_call_id": "a"}], param="messages[0].role")
    bad([question("word " * 5000, PICTURE)], "context_length_exceeded", "messages")
    bad(temperature=3, param="temperature")
    bad(max_tokens=0, param="max_tokens")
    bad(top_logprobs=2, param="top_logprobs")
    bad(n=100, param="n")
    bad(stop=[""], param="stop")
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    bad(tools=[tool], code="unsupported_parameter", param="tools")
    bad(response_format={"type": "json_object"}, code="unsupported_parameter", param="response_format")
    bad(logit_bias={"5": 1}, code="unsupported_parameter", param="logit_bias")
    bad(extra_body={"colour": 1}, code="unsupported_parameter", param="colour")
    bad(stream=True, temperature=3, param="temperature")
    embed = lambda **options: client.embeddings.create(**{"model": "gpt-4o", "input": PICTURE, **options})
    refused(openai.BadRequestError, lambda: embed(input="a red circle"), 400, "invalid_value", "input[0]")
    refused(openai.BadRequestError, lambda: embed(dimensions=8), 400, "unsupported_parameter", "dimensions")
    refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-4o"), 404, "model_not_found", "model")
    refused(openai.NotFoundError, lambda: client.responses.create(model="gpt-4o", input="Hi"), 404, "unknown_url")
    refused(openai.NotFoundError, lambda: client.files.list(), 404, "unknown_url")


def keys():
    keyed = lambda key: openai.OpenAI(**OPTIONS | {"base_url": KEYED, "api_key": key})
    wrong = keyed("open")
    for call in (lambda: ask(BIGGEST, wrong), lambda: ask(BIGGEST, wrong, stream=True), wrong.models.list):
        refused(openai.AuthenticationError, call, 401, "invalid_api_key")
    equal(ask(BIGGEST, keyed("sesame")).choices[0].message.content, "blue cross")


def leaving():
    def in_the_middle():
        with ask(DETAIL, stream=True, **LONG) as stream:
            for number, _ in enumerate(stream):
                if number == 3:
                    break

    def too_late():
        try:
            ask(DETAIL, client.with_options(timeout=0.15), **LONG)
        except openai.APITimeoutError:
            return
        raise AssertionError("the client waited")

    cancels(in_the_middle)
    cancels(too_late)


async def at_once():
    rows = [json.loads(line) for line in (SHAPES / "samples.jsonl").read_text().splitlines()]
    async with openai.AsyncOpenAI(**OPTIONS) as many:
        answers = await asyncio.gather(*(ask([question(row["prompt"], data_url(row["image"]))], many) for row in rows))
        wrong = [(row["prompt"], answer.choices[0].message.content) for row, answer in zip(rows, answers)
                 if answer.choices[0].message.content != row["hf_greedy"]]
        equal(wrong, [])
        stream = await ask(DETAIL, many, stream=True)
        told = [chunk.choices[0].delta.content or "" async for chunk in stream]
        equal("".join(told), ask(DETAIL).choices[0].message.content)
        (embedding,) = (await many.embeddings.create(model="gpt-4o", input=PICTURE)).data
        equal(embedding.embedding, client.embeddings.create(model="gpt-4o", input=PICTURE).data[0].embedding)
        kinds = await asyncio.gather(
            asyncio.wait_for(ask(DETAIL, many, **LONG), 0.15), ask(BIGGEST, many, temperature=3), return_exceptions=True
        )
        equal([type(error) for error in kinds], [asyncio.TimeoutError, openai.BadRequestError])


async def crowds():
    """More questions at once than the server takes: refused without retries, all answered with them."""
    options = OPTIONS | {"base_url": KEYED, "api_key": "sesame"}
    async with openai.AsyncOpenAI(**options) as once, openai.AsyncOpenAI(**options | {"max_retries": 30}) as patient:
        results = await asyncio.gather(*(ask(DETAIL, once) for _ in range(6)), return_exceptions=True)
        late = [error for error in results if isinstance(error, openai.InternalServerError)]
        assert late and len(late) < 6, results
        equal({(error.status_code, error.code) for error in late}, {(503, "overloaded")})
        assert all(int(error.response.headers["retry-after"]) >= 1 for error in late)
        results = await asyncio.gather(*(ask(BIGGEST, patient) for _ in range(6)))
        equal({answer.choices[0].message.content for answer in results}, {"blue cross"})


CHECKS = [plain, streams, logprobs, several, ends, models, embeddings, conversation, errors, keys, leaving]


def main():
    failed = 0
    for check in (*CHECKS, at_once, crowds):
        since = time.monotonic()
        try:
            asyncio.run(check()) if asyncio.iscoroutinefunction(check) else check()
            print(f"ok     {check.__name__} ({time.monotonic() - since:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {check.__name__}\n{traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)


main()
