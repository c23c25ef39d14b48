"""serve.py - the HTTP server as clients meet it: exact bytes, refusals, broken clients, many at once, the end.

The server and raw requests to it are in server.py.
"""

import atexit
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from harness import BOS, CONTEXT, ROOT, VOCAB, Skip, claim, main, made, pumice, refuses, sanitized, tmp
from server import ENDLESS, PATIENCE, Server, read_all, read_until, request, serving

_shared = []


def shared():
    """One server for the claims that need no flags of their own."""
    if not _shared:
        _shared.append(Server("--metrics-compat", "vllm"))
        atexit.register(lambda p: (p.kill(), p.wait()), _shared[0].p)
    return _shared[0]


CHAT = {"messages": [{"role": "user", "content": "the cat and the dog"}], "max_tokens": 12}
TEXT = {"prompt": "Once upon a time", "max_tokens": 12}
LONG = {"prompt": "Once upon a time", "max_tokens": CONTEXT - 60, "ignore_eos": True}


# -- answers ------------------------------------------------------------------------------------------------------

@claim
def a_completion_is_what_run_prints():
    want = pumice("run", made("chat"), "--temp", "0", "-n", "12", "--json", "-p", TEXT["prompt"]).json
    got = shared().post("/v1/completions", TEXT)
    c = got["choices"][0]
    assert c["text"] == want["text"], (c, want)
    assert (got["object"], c["index"], c["logprobs"], c["finish_reason"]) == ("text_completion", 0, None, "length"), got
    assert got["usage"]["prompt_tokens"] == want["usage"]["prompt_tokens"], got
    assert got["usage"]["completion_tokens"] == 12 and got["id"].startswith("cmpl-"), got


@claim
def a_chat_answer_is_what_run_chat_prints():
    want = pumice("run", made("chat"), "--chat", "--temp", "0", "-n", "12", "--json", "-p", "the cat and the dog").json
    got = shared().post("/v1/chat/completions", CHAT)
    c = got["choices"][0]
    assert c["message"] == {"role": "assistant", "content": want["text"]}, (c, want)
    assert got["object"] == "chat.completion" and got["id"].startswith("chatcmpl-"), got
    assert got["usage"]["prompt_tokens"] == want["usage"]["prompt_tokens"], got


@claim
def a_stream_has_the_exact_bytes_of_the_contract():
    text = shared().post("/v1/chat/completions", CHAT)["choices"][0]["message"]["content"]
    with shared().connect() as s:
        s.sendall(request({**CHAT, "stream": True, "stream_options": {"include_usage": True}}, "/v1/chat/completions",
                          "X-Request-Id: abc-1\r\nConnection: close\r\n"))
        head, _, body = read_all(s).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    for line in (b"Content-Type: text/event-stream; charset=utf-8", b"Cache-Control: no-cache", b"X-Accel-Buffering: no",
                 b"X-Request-Id: abc-1", b"Transfer-Encoding: chunked"):
        assert line in head, (line, head)
    data = b""
    while body:  # chunks
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        data, body = data + body[:n], body[n + 2:]
    events = data.decode().split("\n\n")
    assert events.pop() == "" and events.pop() == "data: [DONE]", data[-200:]
    assert all(e.startswith("data: {") and "\n" not in e and "\r" not in e for e in events), events
    stamp = json.loads(events[0][6:])["created"]
    head = (f'data: {{"id":"chatcmpl-abc-1","object":"chat.completion.chunk","created":{stamp},"model":"model-chat",'
            f'"system_fingerprint":"{json.loads(events[0][6:])["system_fingerprint"]}","choices":[')
    assert all(e.startswith(head) for e in events), events
    first = json.loads(events[0][6:])["choices"][0]["delta"]
    assert list(first) == ["role", "content"] and first["content"], first
    piece = json.dumps(first["content"], ensure_ascii=False)
    assert events[0] == head + (f'{{"index":0,"delta":{{"role":"assistant","content":{piece}}},"logprobs":null,'
                                f'"finish_reason":null}}],"usage":null}}'), events[0]
    assert events[-2].startswith(head + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null'), \
        events[-2]
    last = json.loads(events[-1][6:])
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 12, last
    parts = [json.loads(e[6:])["choices"][0]["delta"].get("content", "") for e in events[:-1]]
    assert "".join(parts) == text, (parts, text)


@claim
def completions_stream_the_same_text():
    want = shared().post("/v1/completions", TEXT)["choices"][0]["text"]
    events = shared().events("/v1/completions", {**TEXT, "stream_options": {"continuous_usage_stats": True}})
    assert events.pop() == "[DONE]"
    assert "".join(e["choices"][0]["text"] for e in events) == want, events
    assert [e["choices"][0]["finish_reason"] for e in events][-2:] == [None, "length"], events
    counts = [e["usage"]["completion_tokens"] for e in events]
    assert counts == sorted(counts) and counts[-1] == 12, counts
    assert "timings" in events[-1] and "timings" not in events[0], events[-1]


@claim
def choices_and_prompts_come_in_order():
    s = shared()
    prompts = ["Once upon a time", "One day Tom", [BOS, 40, 41]]
    alone = [s.post("/v1/completions", {**TEXT, "prompt": p})["choices"][0]["text"] for p in prompts]
    got = s.post("/v1/completions", {**TEXT, "prompt": prompts, "n": 2})
    assert [c["index"] for c in got["choices"]] == list(range(6)), got
    assert [c["text"] for c in got["choices"]] == [t for t in alone for _ in range(2)], (got, alone)
    warm = {**TEXT, "n": 3, "temperature": 1, "seed": 5}
    texts = [c["text"] for c in s.post("/v1/completions", warm)["choices"]]
    again = [c["text"] for c in s.post("/v1/completions", warm)["choices"]]
    assert texts == again and len(set(texts)) == 3, (texts, again)
    second = s.post("/v1/completions", {**warm, "n": 1, "seed": 6})["choices"][0]["text"]
    assert second == texts[1], (second, texts)


@claim
def logprobs_have_openais_shapes():
    s = shared()
    got = s.post("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2, "max_tokens": 3})["choices"][0]
    entries = got["logprobs"]["content"]
    assert len(entries) == 3, entries
    for e in entries:
        assert bytes(e["bytes"]).decode() == e["token"] and len(e["top_logprobs"]) == 2, e
        assert e["top_logprobs"][0]["logprob"] == e["logprob"] <= 0, e
    got = s.post("/v1/completions", {**TEXT, "logprobs": 2, "max_tokens": 3})["choices"][0]
    lp = got["logprobs"]
    assert "".join(lp["tokens"]) == got["text"] and lp["text_offset"][0] == 0, got
    assert [len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [3] * 4, lp
    events = s.events("/v1/completions", {**TEXT, "logprobs": 0, "max_tokens": 3})
    assert [e["choices"][0]["logprobs"]["token_logprobs"][0] for e in events[:3]] == lp["token_logprobs"], events


@claim
def stop_strings_end_an_answer_and_are_not_in_it():
    s = shared()
    text = s.post("/v1/completions", TEXT)["choices"][0]["text"]
    words = text.split()
    stop = words[2][:2]  # inside a token
    want = text[:text.index(stop)]
    got = s.post("/v1/completions", {**TEXT, "stop": stop})["choices"][0]
    assert (got["text"], got["finish_reason"]) == (want, "stop"), (got, text)
    events = s.events("/v1/completions", {**TEXT, "stop": [stop, "zzz"]})
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == want, events


@claim
def echo_null_and_zero_tokens_work():
    s = shared()
    got = s.post("/v1/completions", {**TEXT, "echo": True, "max_tokens": 0})["choices"][0]
    assert (got["text"], got["finish_reason"]) == (TEXT["prompt"], "length"), got
    nulls = {k: None for k in ("stop", "logprobs", "seed", "top_p", "stream", "logit_bias", "n", "stream_options")}
    assert s.post("/v1/completions", {**nulls, **TEXT})["choices"] == s.post("/v1/completions", TEXT)["choices"]
    status, head, got = s.ask("POST", "/v1/completions", {**TEXT, "frobnicate": 1, "id_slot": 2})
    assert status == 200 and head["X-Pumice-Ignored"] == "frobnicate, id_slot", head.as_string()


@claim
def logit_bias_can_force_and_forbid():
    s = shared()
    first = s.post("/v1/completions", {**TEXT, "max_tokens": 1, "logprobs": 1})["choices"][0]["logprobs"]["tokens"][0]
    token = s.post("/tokenize", {"content": first})["tokens"][0]
    other = s.post("/v1/completions", {**TEXT, "max_tokens": 1, "logprobs": 1, "logit_bias": {str(token): -100}})
    assert other["choices"][0]["logprobs"]["tokens"][0] != first, other


@claim
def answers_can_be_held_to_json():
    s = shared()
    body = {**CHAT, "max_tokens": 300, "temperature": 1, "response_format": {"type": "json_object"}}
    schema = {"type": "object", "properties": {"name": {"enum": ["cat", "dog"]}, "n": {"type": "integer", "maximum": 9}},
              "required": ["name", "n"], "additionalProperties": False}
    held = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    ended = 0
    for seed in range(6):
        got = s.post("/v1/chat/completions", {**body, "seed": seed})["choices"][0]
        if got["finish_reason"] == "stop":
            assert isinstance(json.loads(got["message"]["content"]), dict), got
            ended += 1
        got = s.post("/v1/chat/completions", {**body, "seed": seed, "response_format": held})["choices"][0]
        if got["finish_reason"] == "stop":
            value = json.loads(got["message"]["content"])
            assert set(value) == {"name", "n"} and value["name"] in ("cat", "dog") and value["n"] <= 9, got
            ended += 1
    assert ended >= 4, ended
    for bad in ({"type": "xml"}, {}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {"type": "blue"}}}):
        e = s.post("/v1/chat/completions", {**body, "response_format": bad}, status=400)["error"]
        assert e["param"] == "response_format", e


@claim
def a_last_message_of_the_assistant_is_continued():
    s = shared()
    msgs = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "Once upon"}]
    prompt = s.post("/apply-template", {"messages": msgs})["prompt"]
    assert prompt.endswith("assistant\nOnce upon"), prompt
    closed = s.post("/apply-template", {"messages": msgs, "add_generation_prompt": True})["prompt"]
    assert closed.endswith("Once upon<|im_end|>\n<|im_start|>assistant\n"), closed
    parts = [{"role": "system", "content": [{"type": "text", "text": "be kind"}]}, {"role": "user", "content": "hi"}]
    assert "system\nbe kind<" in s.post("/apply-template", {"messages": parts})["prompt"]
    # what a user types is never a marker
    typed = s.post("/apply-template", {"messages": [{"role": "user", "content": "<|im_end|>"}]})["tokens"]
    plain = s.post("/apply-template", {"messages": [{"role": "user", "content": ""}]})["tokens"]
    assert typed.count(4) == plain.count(4), typed


@claim
def the_server_describes_itself():
    s = shared()
    status, _, models = s.ask("GET", "/v1/models")
    assert status == 200 and models["data"][0]["id"] == "model-chat", models
    assert s.ask("GET", "/v1/models/model-chat")[0] == 200
    assert s.ask("GET", "/v1/models/other")[2]["error"]["code"] == "model_not_found"
    for path in ("/health", "/livez", "/readyz"):
        assert s.ask("GET", path)[2] == {"status": "ok"}
    props = s.ask("GET", "/props")[2]
    assert props["n_ctx"] == CONTEXT and props["default_generation_settings"]["temperature"] == 0, props
    assert s.ask("GET", "/slots")[2] == []
    ids = s.post("/tokenize", {"content": "the cat", "with_pieces": True})["tokens"]
    assert "".join(t["piece"] for t in ids) == "the cat", ids
    assert s.post("/detokenize", {"tokens": [t["id"] for t in ids]})["content"] == "the cat"


@claim
def ollamas_clients_get_what_they_read():
    s = shared()
    want = s.post("/v1/chat/completions", CHAT)["choices"][0]["message"]["content"]
    ask = {"model": "model-chat:latest", "messages": CHAT["messages"], "options": {"num_predict": 12, "temperature": 0}}
    got = s.post("/api/chat", {**ask, "stream": False})
    assert got["message"] == {"role": "assistant", "content": want} and got["done"] and got["done_reason"] == "length", got
    assert got["eval_count"] == 12 and got["model"] == "model-chat", got
    lines = [json.loads(x) for x in s.post("/api/chat", ask).splitlines()]
    assert "".join(x["message"]["content"] for x in lines) == want, lines
    assert [x["done"] for x in lines][-2:] == [False, True] and lines[-1]["prompt_eval_count"] > 0, lines
    raw = {"prompt": TEXT["prompt"], "raw": True, "stream": False, "options": {"num_predict": 12}}
    assert s.post("/api/generate", raw)["response"] == s.post("/v1/completions", TEXT)["choices"][0]["text"]
    talk = {"prompt": CHAT["messages"][0]["content"], "options": {"num_predict": 12}}
    lines = [json.loads(x) for x in s.post("/api/generate", talk).splitlines()]
    assert "".join(x["response"] for x in lines) == want, lines
    for body, status in (({"model": "other", "messages": []}, 404), ({"messages": []}, 400), ({"options": 5}, 400),
                         ({**ask, "options": {"temperature": 9}}, 400), ({**ask, "format": 5}, 400)):
        assert isinstance(s.post("/api/chat", body, status=status)["error"], str), body
    assert s.post("/api/generate", {"prompt": ["a", "b"]}, status=400)["error"]
    assert s.ask("GET", "/api/tags")[2]["models"][0]["name"] == "model-chat" and s.ask("GET", "/api/version")[0] == 200


@claim
def bench_serve_reports_what_the_server_did():
    s = shared()
    url = f"http://127.0.0.1:{s.port}"
    r = pumice("bench", "serve", "--url", url, "-n", 6, "--max-concurrency", 3, "--input-len", 40, "--output-len", 8, "--json",
               "--num-warmups", 0, timeout=PATIENCE).json
    assert (r["completed"], r["failed"], r["total_input_tokens"], r["total_output_tokens"]) == (6, 0, 240, 48), r
    assert r["model_id"] == "model-chat" and r["max_concurrency"] == 3 and r["request_rate"] == "inf", r
    for name in ("ttft", "tpot", "itl", "e2el"):
        low, high = r[f"median_{name}_ms"], r[f"p99_{name}_ms"]
        assert 0 <= low <= high <= r[f"max_{name}_ms"] and r[f"mean_{name}_ms"] >= 0, (name, r)
    assert r["mean_ttft_ms"] > 0 and r["mean_e2el_ms"] > 0, r  # the time between tokens that come together is 0
    assert abs(r["output_throughput"] * r["duration"] - 48) < 0.01, r
    assert 0 <= r["kv_live_bytes"] <= r["kv_held_bytes"] > 0 and r["kv_static_bytes"] > 0 and r["server_resident_bytes"] > 0, r
    assert r["client_cpu_seconds"] > 0, r
    hashes = [pumice("bench", "serve", "--url", url, "-n", 2, "--input-len", 9, "--output-len", 1, "--json", "--seed", seed).json
              ["prompts_hash"] for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 16, hashes
    refuses(2, "--long-prompt: not with --request-rate", "bench", "serve", "--url", url, "--long-prompt", 9, "--request-rate", 1)
    pumice("bench", "serve", "--url", url + "/nothing", status=6)
    pumice("bench", "serve", "--url", url, "--model", "other", "-n", 1, "--num-warmups", 0, status=6)


# -- refusals -----------------------------------------------------------------------------------------------------

@claim
def every_refusal_names_its_parameter():
    s, big = shared(), 2 ** 31
    for field, value in [("max_tokens", -1), ("max_tokens", "5"), ("temperature", 2.5), ("temperature", "x"), ("top_p", 0),
                         ("top_p", 1.1), ("top_k", -2), ("min_p", 1), ("n", 0), ("n", 17), ("n", 10 ** 9), ("stream", 1),
                         ("stop", 5), ("stop", ["x"] * 17), ("stop", ""), ("stop", "y" * 257), ("logprobs", 21),
                         ("logprobs", True), ("logit_bias", {"x": 1}), ("logit_bias", {str(VOCAB): 1}),
                         ("logit_bias", {"5": 101}), ("logit_bias", {str(i): 0 for i in range(1025)}), ("seed", -2),
                         ("presence_penalty", 3), ("repetition_penalty", 0), ("best_of", 2), ("prompt", 5), ("prompt", []),
                         ("prompt", [1, "a"]), ("prompt", [VOCAB]), ("prompt", [-1]), ("prompt", [big]), ("top_k", big),
                         ("prompt", {}), ("prompt", [["a"]]), ("stop_token_ids", [VOCAB]), ("stream_options", []),
                         ("stream_options", {"include_usage": 1}), ("model", 1), ("min_tokens", -1)]:
        got = s.post("/v1/completions", {**TEXT, field: value}, status=400)["error"]
        assert got["param"] == field and got["type"] == "invalid_request_error" and field in got["message"], (field, got)
    for value in ([], "x", [1], [{}], [{"role": 1, "content": "x"}], [{"role": "user", "content": 1}],
                  [{"role": "user", "content": [{"type": "image_url"}]}], [{"role": "user", "content": "x"}] * 4097):
        got = s.post("/v1/chat/completions", {"messages": value}, status=400)["error"]
        assert got["param"].startswith("messages"), (str(value)[:80], got)
    assert s.post("/v1/chat/completions", {}, status=400)["error"]["param"] == "messages"
    for empty in ({"prompt": "", "add_special_tokens": False}, {"prompt": [[]]}):
        assert s.post("/v1/completions", empty, status=400)["error"]["code"] == "empty_prompt", empty
    assert s.post("/v1/completions", {"max_tokens": 1, "n_predict": 1, "prompt": "x"}, 400)["error"]["code"] == "given_twice"
    assert s.post("/v1/completions", {**TEXT, "model": "gpt-9"}, 404)["error"]["code"] == "model_not_found"


@claim
def what_does_not_fit_the_context_is_told_with_numbers():
    s = shared()
    for body, prompt in (({**TEXT, "max_tokens": CONTEXT}, None), ({"prompt": "the " * 2 * CONTEXT}, None),
                         ({"prompt": [5] * CONTEXT}, CONTEXT), ({"prompt": "cat " * 2000000, "stream": True}, None)):
        e = s.post("/v1/completions", body, status=400)["error"]
        assert e["type"] == "exceed_context_size_error" and e["n_ctx"] == CONTEXT and e["n_prompt_tokens"] > 0, e
        assert prompt is None or e["n_prompt_tokens"] == prompt, e


@claim
def bodies_that_are_no_json_are_refused():
    s = shared()
    for body in (b"", b"{", b"[]", b"null", b"{} x", b'{"prompt":"a","prompt":"b"}', b'{"a":NaN}', b'{"a":1e999}',
                 b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"\xef\xbb\xbf{}", b'{"a":' * 100000, b"[" * (1 << 20), b'{"a":"\\u0000"}'):
        got = s.post("/v1/completions", body, status=400)["error"]
        assert got["code"] == "invalid_json", (body[:20], got)
    e = s.post("/v1/completions", b'{"prompt": x}', status=400)["error"]
    assert "byte 12" in e["message"], e
    assert s.ask("POST", "/v1/completions", "x=1", {"Content-Type": "text/plain"})[0] == 415
    assert s.ask("GET", "/nothing")[2]["error"]["code"] == "not_found"
    status, head, _ = s.ask("GET", "/v1/completions")
    assert status == 405 and head["Allow"] == "POST"
    assert s.ask("POST", "/v1/completions", b'{"a":"' + b"x" * (8 << 20) + b'"}')[0] == 413
    got = s.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1099511627776\r\n"
                 b"Expect: 100-continue\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 413"), got[:100]


@claim
def ambiguous_framing_is_refused_and_nothing_after_it_read():
    s = shared()
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for name, head in (("both", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
                       ("two lengths", b"Content-Length: 5\r\nContent-Length: 6\r\n"),
                       ("same twice", b"Content-Length: 5\r\nContent-Length: 5\r\n"),
                       ("plus", b"Content-Length: +5\r\n"), ("minus", b"Content-Length: -1\r\n"),
                       ("2^64", b"Content-Length: 18446744073709551621\r\n"), ("coding", b"Transfer-Encoding: xchunked\r\n"),
                       ("list", b"Transfer-Encoding: gzip, chunked\r\n"), ("hosts", b"Host: other\r\nContent-Length: 5\r\n")):
        got = s.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n0\r\n\r\n" + hidden)
        assert b"model-chat" not in got, f"{name}: a hidden request was answered: {got!r}"
        assert got == b"" or re.match(rb"HTTP/1\.1 4\d\d ", got), (name, got[:100])
        assert b" 200 " not in got, (name, got)
    assert s.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    assert s.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n").startswith(b"HTTP/1.1 431")
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n\r\n", b"\r\n" * 50,
                 b"GET /health HTTP/9.9\r\n\r\n"):
        with s.connect() as c:
            c.sendall(junk)
            c.shutdown(socket.SHUT_WR)
            assert b"200 OK" not in read_all(c), junk
    assert s.ask("GET", "/health")[0] == 200


@claim
def pipelined_requests_are_answered_in_order():
    with shared().connect() as c:
        c.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 99 +
                  b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = re.findall(rb"HTTP/1\.1 (\d+)", read_all(c))
    assert got == [b"200"] * 99 + [b"404"], got


@claim
def foreign_hosts_and_origins_are_refused():
    s = shared()
    assert s.ask("GET", "/health", headers={"Host": "evil.com"})[0] == 403
    for host in ("localhost:1", "127.0.0.1", "a.localhost", "[::1]:80"):
        assert s.ask("GET", "/health", headers={"Host": host})[0] == 200, host
    status, head, _ = s.ask("POST", "/v1/completions", TEXT, {"Origin": "http://evil.com"})
    assert status == 403 and "Access-Control-Allow-Origin" not in head
    own = f"http://127.0.0.1:{s.port}"
    assert s.ask("GET", "/v1/models", headers={"Origin": own})[0] == 200
    with serving("--cors-origins", "https://a.example,localhost") as t:
        for origin, ok in (("https://a.example", True), ("http://localhost:3000", True), ("https://b.example", False)):
            status, head, _ = t.ask("OPTIONS", "/v1/chat/completions", headers={
                "Origin": origin, "Access-Control-Request-Method": "POST"})
            assert (status, head["Access-Control-Allow-Origin"]) == ((204, origin) if ok else (403, None)), origin
        assert "authorization" in t.ask("OPTIONS", "/v1/models", headers={"Origin": "https://a.example"})[1][
            "Access-Control-Allow-Headers"]


@claim
def keys_guard_every_route_but_health():
    with open(tmp("keys"), "w", encoding="utf-8") as f:
        f.write("# comment\nfrom-file\n")
    with serving("--api-key", "sesame", "--api-key-file", tmp("keys")) as s:
        for path in ("/v1/models", "/metrics", "/props", "/slots", "/nothing", "/v1/completions"):
            assert s.ask("GET", path)[0] == 401, path
        e = s.post("/v1/completions", TEXT, status=401)["error"]
        assert e["message"] == "Invalid API Key" and e["type"] == "authentication_error", e
        for key in ("sesam", "sesame2", "", "Sesame"):
            assert s.ask("GET", "/v1/models", key=key)[0] == 401, key
        assert s.ask("GET", "/v1/models?api_key=sesame")[0] == 401
        for key in ("sesame", "from-file"):
            assert s.ask("GET", "/v1/models", key=key)[0] == 200
        assert s.ask("GET", "/v1/models", headers={"X-Api-Key": "sesame"})[0] == 200
        for path in ("/health", "/livez", "/readyz"):
            assert s.ask("GET", path)[0] == 200
        assert "sesame" not in s.errors()
    refuses(2, "--api-key", "serve", made("chat"), "-q", "--host", "0.0.0.0", "--port", "0")


# -- clients that behave badly ------------------------------------------------------------------------------------

@claim
def slow_headers_and_bodies_are_cut_off_and_hurt_nobody():
    with serving("--header-timeout", 1, "--body-timeout", 1, "--idle-timeout", 1) as s:
        def drip(first, late):
            with s.connect() as c:
                with contextlib.suppress(ConnectionError):
                    c.sendall(first)
                    if late:
                        assert c.recv(65536).startswith(b"HTTP/1.1 200")
                        c.sendall(b"GET /health HTTP/1.1\r\n")
                    c.settimeout(0.1)
                    while not done.is_set():  # nothing but the server's deadline ends this
                        c.sendall(b"x")
                        with contextlib.suppress(TimeoutError):
                            if not c.recv(65536):
                                break
                cut.append(first)
        cut, done = [], threading.Event()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        threads = [threading.Thread(target=drip, args=a) for a in ((b"GET / HTTP/1.1\r\nA: ", False), (head, False),
                                                                   (whole, True), (b"", False))]
        for t in threads:
            t.start()

        def over():
            assert s.ask("GET", "/health")[0] == 200 and s.post("/v1/completions", TEXT)["choices"]
            return not any(t.is_alive() for t in threads)
        try:
            s.wait(over, "all that drip are cut off")
        finally:
            done.set()
        assert len(cut) == 4, cut


@claim
def a_client_that_leaves_frees_its_place_in_every_state():
    """Answers that would not end do, so it was the client's leaving; test/soak/serve_soak.py says how soon."""
    with serving("-np", 1, "-c", ENDLESS) as s:
        def leaves(body, seen):
            with s.connect() as c:
                c.sendall(request({**TEXT, "max_tokens": None, "ignore_eos": True, **body}))
                s.wait(lambda: seen(s.ask("GET", "/slots")[2]), f"{str(body)[:60]} is there")
        for stream in (False, True):
            leaves({"stream": stream, "n": 8}, lambda slots: any(x["n_decoded"] for x in slots))
            s.wait_idle()
            with s.busy():
                leaves({"stream": stream, "n": 8}, lambda slots: len(slots) == 9)
                s.wait(lambda: s.live() == 1, "what waited has gone")
            s.wait_idle()
            leaves({"stream": stream, "prompt": [5] * 20000}, lambda slots: [x["n_prompt"] for x in slots] == [20000])
            s.wait_idle()
        assert s.metric('pumice_sequences_ended_total{reason="cancelled"}') == 2 * (8 + 8 + 1 + 1)
        assert s.post("/v1/completions", TEXT)["usage"]["completion_tokens"] == 12


@claim
def a_full_queue_is_told_at_once():
    with serving("-np", 1, "--max-queue", 1, "-c", ENDLESS) as s:
        with s.busy(), s.connect() as c:
            c.sendall(request({**TEXT, "stream": True}))
            s.wait(lambda: s.live() == 2, "the second waits")
            status, head, e = s.ask("POST", "/v1/completions", TEXT)  # answered, while what is before it has no end
            assert status == 429 and int(head["Retry-After"]) >= 1 and e["error"]["type"] == "rate_limit_error", e
            slots = s.ask("GET", "/slots")[2]
            assert len(slots) == 2 and "Once" not in json.dumps(slots), slots
        s.wait_idle()
        assert s.metric('pumice_sequences_rejected_total{why="queue_full"}') == 1


@claim
def one_that_leaves_while_another_reads_a_long_prompt_disturbs_nobody():
    with serving("-np", 2, "-c", ENDLESS) as s:
        with s.connect() as c:
            c.sendall(request({"prompt": [5] * 4000, "max_tokens": 3, "ignore_eos": True}, extra="Connection: close\r\n"))
            s.wait(lambda: s.live() == 1, "the long one has come")
            for _ in range(3):
                with s.busy():
                    pass  # streams, and leaves
            assert b'"completion_tokens":3' in read_all(c)
        s.wait_idle()


@claim
def connections_beyond_the_limit_are_told_and_accepting_goes_on():
    hello = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def answers():
        with contextlib.suppress(OSError, http.client.HTTPException):
            return s.ask("GET", "/health")[0] == 200
    with serving("--max-connections", 4) as s, contextlib.ExitStack() as held:
        for _ in range(4):
            c = held.enter_context(s.connect())
            c.sendall(hello)
            assert c.recv(65536).startswith(b"HTTP/1.1 200")
        status, head, e = s.ask("GET", "/health")
        assert status == 503 and e["error"]["code"] == "too_many_connections" and int(head["Retry-After"]) >= 1, e
        held.close()
        s.wait(answers, "there is room again")
    few_files = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh"]
    with serving(under=few_files) as s, contextlib.ExitStack() as held:
        many = [held.enter_context(s.connect()) for _ in range(400)]
        many[0].sendall(hello)
        assert many[0].recv(65536).startswith(b"HTTP/1.1 200")
        held.close()
        s.wait(answers, "there are files again")
        assert "the limit of open files allows 72 connections, not 8192" in s.errors(), s.errors()


@claim
def what_waits_too_long_for_its_turn_is_refused():
    with serving("-np", 1, "--max-queue-ms", 200, "-c", ENDLESS) as s:
        with s.busy() as c:
            status, head, e = s.ask("POST", "/v1/completions", TEXT)
            assert (status, e["error"]["type"], e["error"]["code"]) == (503, "unavailable_error", "queue_timeout"), e
            assert int(head["Retry-After"]) >= 1, head.as_string()
            event, = s.events("/v1/completions", TEXT)  # the stream had begun, so it is told there
            assert event["error"]["code"] == "queue_timeout", event
            assert s.metric('pumice_sequences_rejected_total{why="queue_timeout"}') == 2
            read_until(c, b"data: {")  # what has had its turn goes on
        s.wait_idle()
        assert s.post("/v1/completions", TEXT)["usage"]["completion_tokens"] == 12
        assert s.metric("pumice_sequences_accepted_total") == 4


@claim
def a_client_that_does_not_read_is_given_up():
    with serving("--write-timeout", 1, "-np", 4, "-c", ENDLESS) as s:
        with s.connect() as c:
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            c.sendall(request({"prompt": ["Once"] * 2, "ignore_eos": True, "logprobs": 20, "stream": True}))

            def given_up():
                assert s.post("/v1/completions", {**TEXT, "max_tokens": 1})["choices"]
                return s.metric("pumice_http_clients_left_total")
            s.wait(given_up, "a client that does not read is given up")
        s.wait_idle()


@claim
def a_server_that_was_stopped_for_a_while_gives_nobody_up():
    with serving("-np", 2, "-c", ENDLESS, "--header-timeout", 1, "--body-timeout", 1, "--write-timeout", 1) as s:
        with s.busy() as stream, s.connect() as header, s.connect() as body:
            data = request({**TEXT, "max_tokens": 2}, extra="Connection: close\r\n")
            header.sendall(data[:20])
            body.sendall(data[:-20])
            s.p.send_signal(signal.SIGSTOP)
            header.sendall(data[20:])
            body.sendall(data[-20:])
            time.sleep(2.5)  # more than any of the timeouts
            s.p.send_signal(signal.SIGCONT)
            for c in (header, body):
                assert b"200 OK" in read_all(c)
            for _ in range(100):
                read_until(stream, b"data: {")


@claim
def streams_side_by_side_give_the_text_of_each_alone():
    with serving("-np", 4) as s:
        bodies = [{"prompt": " ".join(["the cat", "One day", "a big ship", "in the snow"][i % 4:]), "max_tokens": 10 + i,
                   "temperature": i % 2, "seed": i, "top_k": 0} for i in range(24)]
        alone = [s.post("/v1/completions", b)["choices"][0]["text"] for b in bodies]
        got = [None] * len(bodies)

        def run(i):
            events = s.events("/v1/completions", bodies[i])
            got[i] = "".join(e["choices"][0]["text"] for e in events[:-1])
        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(bodies))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert got == alone, [i for i in range(len(bodies)) if got[i] != alone[i]]


@claim
def clients_that_come_and_go_lose_nobody_elses_tokens():
    n = 60 if sanitized() else 200
    with serving("-np", 4, "--drain", 3600) as s:
        want = s.post("/v1/completions", {**TEXT, "max_tokens": 200, "ignore_eos": True})["choices"][0]["text"]
        before = s.metric("pumice_sequences_accepted_total")
        good, done = [None, None], threading.Event()

        def steady(cell):
            while not done.is_set():
                good[cell] = None  # stays, should this thread die
                events = s.events("/v1/completions", {**TEXT, "max_tokens": 200, "ignore_eos": True})
                good[cell] = "".join(e["choices"][0]["text"] for e in events[:-1]) == want and events[-1] == "[DONE]"
                if not good[cell]:
                    return
        threads = [threading.Thread(target=steady, args=(cell,)) for cell in range(2)]
        for t in threads:
            t.start()
        for i in range(n):
            with s.connect() as c:
                data = request({**LONG, "stream": bool(i % 2)})
                c.sendall(data[:len(data) * (i % 7 + 1) // 6])
                if i % 3:
                    time.sleep(i % 11 / 1000)
                if i % 5 == 0:
                    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        done.set()
        for t in threads:
            t.join()
        assert all(good), good
        s.wait_idle()
        ended = sum(s.metric(f'pumice_sequences_ended_total{{reason="{r}"}}') for r in ("stop", "length", "cancelled", "error"))
        assert ended == s.metric("pumice_sequences_accepted_total") > before, ended
        s.stop()  # waits for no connection whose client has gone


@claim
def silent_streams_are_pinged():
    with serving("-np", 1, "--sse-ping-interval", 1, "-c", ENDLESS) as s:
        with s.busy(), s.connect() as c:
            c.sendall(request({**TEXT, "stream": True}))
            for _ in range(2):
                assert b"data: " not in read_until(c, b": ping\n\n")


# -- the end ------------------------------------------------------------------------------------------------------

def ends_by_sigterm(n):
    """Whether an answer of n tokens was still under way when the server began to drain; all else must hold anyway."""
    with serving("-np", 1, "-c", ENDLESS, "--drain", 3600) as s:
        with s.connect() as c, s.connect() as idle:
            c.sendall(request({**TEXT, "max_tokens": n, "ignore_eos": True, "stream": True}))
            text, answer = read_until(c, b"data: {"), b"HTTP/1.1 200"
            s.p.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionError):
                while answer.startswith(b"HTTP/1.1 200"):  # until the signal has come
                    idle.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    answer = idle.recv(65536)
                assert answer == b"" or b" 503 " in answer, answer
            c.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while chunk := c.recv(65536):
                    text += chunk
            under_way = b"[DONE]" not in text
            c.settimeout(PATIENCE)
            text += read_all(c)
            assert text.endswith(b"0\r\n\r\n") and b"data: [DONE]\n\n" in text, text[-300:]
            assert text.count(b'"finish_reason":null') == n and text.count(b'"finish_reason":"length"') == 1, text[-900:]
        assert s.p.wait(PATIENCE) == 0
        return under_way


@claim
def sigterm_finishes_what_runs_and_refuses_the_rest():
    assert any(ends_by_sigterm(200 * 4 ** i) for i in range(5)), "51200 tokens are over sooner than a signal comes"


@claim
def a_drain_that_takes_too_long_ends_streams_with_an_error():
    with serving("-np", 1, "--drain", 0, "-c", ENDLESS) as s:
        with s.busy(n=16) as c:
            s.p.send_signal(signal.SIGTERM)
            text = read_all(c).decode()
        error = [e for e in text.split("\n\n") if '"error"' in e]
        assert len(error) == 1 and '"code":"stopping"' in error[0] and "[DONE]" not in text, text[-300:]


def ask_everything(s, word):
    """Requests of every route, with a word where people write, well and badly formed."""
    text, chat = {"prompt": word, "max_tokens": 2}, {"messages": [{"role": "user", "content": word}], "max_tokens": 2}
    s.post("/v1/completions", {**text, "echo": True, "logprobs": 2, "stop": word})
    s.events("/v1/completions", text)
    s.post("/v1/chat/completions", {**chat, "response_format": {"type": "json_object"}, "user": word, "cache_salt": word})
    s.events("/v1/chat/completions", chat)
    s.post("/api/generate", {"prompt": word, "stream": False, "options": {"num_predict": 2}})
    s.post("/api/chat", {**chat, "options": {"num_predict": 2}})
    s.post("/tokenize", {"content": word})
    s.post("/apply-template", chat)
    s.post("/v1/completions", {**text, "max_tokens": -1}, status=400)
    s.post("/v1/completions", {**text, "model": word}, status=404)
    s.post("/v1/completions", '{"prompt": "' + word, status=400)
    s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": word}]}]}, status=400)
    for path in ("/", "/v1/models", "/" + word, "/health?" + word, "/metrics", "/slots", "/props", "/api/tags"):
        s.ask("GET", path, headers={"X-Request-Id": word})


@claim
def nothing_that_was_asked_is_in_logs_or_metrics():
    word = "zanzibar"
    with serving("-np", 1, "-c", ENDLESS) as s:
        ask_everything(s, word)
        with s.busy(prompt=word), s.connect() as c:
            c.sendall(request({"prompt": word}))
            s.wait(lambda: s.live() == 2, "one runs, one waits")
            for path in ("/metrics", "/slots", "/props"):
                answer = s.ask("GET", path)[2]
                assert word not in (answer if isinstance(answer, str) else json.dumps(answer)), path
        s.stop()
        assert word not in s.errors() and word.encode() not in s.p.stdout.read(), s.errors()


@claim
def the_server_connects_to_nothing():
    trace, strace = tmp("network.trace"), ["strace", "-D", "-f", "-q", "-e", "trace=network", "-o"]
    if sanitized() or not shutil.which("strace"):
        raise Skip("a sanitizer cannot be traced" if sanitized() else "no strace here")
    if subprocess.run([*strace, os.devnull, "true"], capture_output=True, check=False).returncode:
        raise Skip("strace may not trace here")
    with serving(under=[*strace, trace]) as s:
        ask_everything(s, "cat")
        s.stop()

    def calls():
        with open(trace, encoding="utf-8", errors="replace") as f:
            return f.read()
    s.wait(lambda: re.search(rf"^{s.p.pid} .*exited with 0", calls(), re.M), "the trace is whole")
    text = calls()
    assert "accept4(" in text and "bind(" in text, text[:2000]
    assert "connect(" not in text and not re.search(r"send(to|msg|mmsg)\(.*sa_family", text), text
    assert re.findall(r"socket\((\w+), (\w+)", text) == [("AF_INET", "SOCK_STREAM")], text


@claim
def keys_and_values_are_in_no_core_and_no_child():
    with serving() as s:
        s.post("/v1/completions", TEXT)

        def kept_to_itself():
            with open(f"/proc/{s.p.pid}/smaps", encoding="utf-8") as f:
                maps = re.findall(r"^[0-9a-f]+-.*memfd:.*$\n(?:^(?!VmFlags)\w.*$\n)*^VmFlags: (.*)$", f.read(), re.M)
            return maps and all({"dd", "dc"} <= set(m.split()) for m in maps)
        s.wait(kept_to_itself, "no mapping of keys and values is dumped or inherited")


@claim
def metrics_are_well_formed():
    text = shared().ask("GET", "/metrics")[2]
    seen, typed = set(), {}
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            assert name not in typed, f"{name} twice"
            typed[name] = kind
        elif not line.startswith("#"):
            m = re.fullmatch(r'([a-zA-Z_:][\w:]*)(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (\S+)', line)
            assert m, line
            assert (m[1], m[2]) not in seen, line
            seen.add((m[1], m[2]))
            float(m[4])
            base = re.sub(r"_(bucket|sum|count)$", "", m[1])
            assert m[1] in typed or typed.get(base) == "histogram", line
            assert ":" not in m[1] or m[1].startswith("vllm:"), line
    assert "vllm:num_requests_running" in typed and "pumice_time_to_first_token_seconds" in typed, typed


@claim
def the_table_of_parameters_is_that_of_the_docs():
    table = pumice("serve", "--help-params").out
    assert "| `temperature` | chat, completions" in table and table.count("\n") > 40, table[:300]
    with open(os.path.join(ROOT, "docs", "server.md"), encoding="utf-8") as f:
        assert table in f.read(), "docs/server.md has another table than `serve --help-params`"


@claim
def the_server_that_the_claims_shared_ends_well():
    shared().stop()
    _shared.clear()


if __name__ == "__main__":
    main()
