#!/usr/bin/env python3
"""Writes the first request of each kind that a client sends, and what the server answers, for the tests in Rust.

    record.py SERVER NAME COMMAND...

SERVER is the server's address, NAME stands in front of the files' names in `recorded`, and URL among the words of
COMMAND becomes an address that leads to the server. README.md says what a file has.
"""

import base64
import http.client
import http.server
import json
import pathlib
import subprocess
import sys
import threading
import time

SERVER, NAME = sys.argv[1].removeprefix("http://"), sys.argv[2]
HERE = pathlib.Path(__file__).resolve().parent
PICTURES = (HERE / "../shapes/samples").glob("*.png")
SAMPLES = {base64.b64encode(picture.read_bytes()).decode(): f"@samples/{picture.name}" for picture in PICTURES}
# What differs from answer to answer; more where texts are drawn.
DIFFERENT = {"created", "embedding", "logprob", "system_fingerprint", "timings"}
DRAWN = {"completion_tokens", "content", "finish_reason", "total_tokens"}
OF_CONNECTIONS = {"host", "connection", "content-length", "transfer-encoding"}
left = {"plain", "stream", "logprobs", "n", "embeddings", "models", "refused", "no-model"}


def kind(method, path, body, status):
    """The name of a request, or None for those that are not recorded."""
    fields = {name for name in body or () if name not in ("model", "messages")}
    if path == "/v1/chat/completions" and status == 200:
        known = {(): "plain", ("stream", "stream_options"): "stream", ("logprobs", "top_logprobs"): "logprobs"}
        return "n" if fields == {"n", "seed", "temperature"} else known.get(tuple(sorted(fields)))
    others = {
        ("POST", "/v1/embeddings", 200): "embeddings",
        ("GET", "/v1/models", 200): "models",
        ("POST", "/v1/chat/completions", 400): "refused",
        ("GET", "/v1/models/gpt-4o", 404): "no-model",
    }
    return others.get((method, path, status))


def folded(text):
    """The events of a stream as one: texts of the answer joined, of everything else the last that is not null."""
    whole, content = {}, ""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events.pop() == "[DONE]"
    for event in map(json.loads, events):
        for choice in event["choices"]:
            content += choice["delta"].pop("content", "")
            last = whole.setdefault("choices", [{"index": 0, "delta": {}}])[0]
            last["delta"] |= choice["delta"]
            last["finish_reason"] = choice["finish_reason"]
        whole |= {name: value for name, value in event.items() if name != "choices" and value is not None}
    whole["choices"][0]["delta"]["content"] = content
    return whole


def steady(value, different):
    """A response with markers, which tell the kind, in the place of what may differ."""
    if isinstance(value, list):
        return [steady(of, different) for of in value]
    if not isinstance(value, dict):
        return value
    if value.get("object", "").startswith("chat.completion"):
        different = different | {"id"}
    if "code" in value:
        different = different | {"message"}  # It is for people.
    kinds = {str: "@text", int: "@number", float: "@number"}
    marker = lambda of: kinds.get(type(of), "@value")
    return {name: marker(of) if name in different else steady(of, different) for name, of in value.items()}


class Recorder(http.server.BaseHTTPRequestHandler):
    def answer(self):
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        connection = http.client.HTTPConnection(SERVER)
        connection.request(self.command, self.path, sent or None, dict(self.headers))
        response = connection.getresponse()
        got = response.read()
        self.keep(sent.decode(), response, got.decode())
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name not in OF_CONNECTIONS:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(got)

    do_GET = do_POST = answer

    def keep(self, sent, response, got):
        body = json.loads(sent) if sent else None
        name = kind(self.command, self.path, body, response.status)
        if name not in left:
            return
        left.remove(name)
        for data, marker in SAMPLES.items():
            sent = sent.replace(data, marker)
        streams = response.headers["content-type"].startswith("text/event-stream")
        wanted = steady(folded(got) if streams else json.loads(got), DIFFERENT | (DRAWN if name == "n" else set()))
        record = {
            "method": self.command,
            "path": self.path,
            "headers": {key.lower(): of for key, of in self.headers.items() if key.lower() not in OF_CONNECTIONS},
            "body": json.loads(sent) if sent else None,
            "response": {
                "status": response.status,
                "content_type": response.headers["content-type"],
                "body": wanted,
            },
        }
        file = HERE / "recorded" / f"{NAME}-{name}.json"
        file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def log_message(self, *_):
        pass


proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
proxy.handle_error = lambda *_: None  # Clients leave in the middle.
threading.Thread(target=proxy.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{proxy.server_port}/v1"
client = subprocess.Popen([address if word == "URL" else word for word in sys.argv[3:]], stdout=subprocess.DEVNULL)
while left and client.poll() is None:
    time.sleep(0.05)
client.kill()
sys.exit(f"not seen: {', '.join(sorted(left))}" if left else 0)
