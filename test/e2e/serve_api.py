"""serve_api.py - what requests may ask of the server beside text: log-probabilities of prompts, embeddings, tool calls,
figures of a stream's course. The server itself is held by serve.py."""

import atexit
import base64
import functools
import json
import math
import signal
import struct
import time

from harness import BOS, CONTEXT, DIM, VOCAB, claim, copy_of, edit_json, made, main
from server import PATIENCE, Server, read_all, request, serving

CHAT = {"messages": [{"role": "user", "content": "the cat and the dog"}], "max_tokens": 12}
TEXT = {"prompt": "Once upon a time", "max_tokens": 12}


@functools.cache
def shared(*flags):
    """A server for the claims that need no other flags."""
    s = Server(*flags)
    atexit.register(lambda: (s.p.kill(), s.p.wait()))
    return s


def wait(state):
    until = time.monotonic() + PATIENCE
    while not state():
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.005)


def scores(answer):
    return answer["choices"][0]["logprobs"]


# -- prompts ------------------------------------------------------------------------------------------------------

@claim
def echo_with_logprobs_scores_the_prompt():
    s = shared()
    ids = [BOS] + s.post("/tokenize", {"content": TEXT["prompt"]})["tokens"]
    got = s.post("/v1/completions", {**TEXT, "echo": True, "logprobs": 2, "max_tokens": 3})
    c, lp = got["choices"][0], scores(got)
    n = len(ids)
    assert c["text"].startswith(TEXT["prompt"]), c
    assert [len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [n + 3] * 4, lp
    assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None, lp
    assert all(x <= 0 for x in lp["token_logprobs"][1:]), lp
    assert lp["tokens"][0] == "<s>" and "".join(lp["tokens"][1:]) == c["text"], (lp, c)
    for i in range(1, n + 3):  # each token stands where it says
        at = lp["text_offset"][i]
        assert c["text"][at:].startswith(lp["tokens"][i]), (i, lp)
    # the same number that the token has as an answer to what is in front of it
    for i in range(1, n):
        one = s.post("/v1/completions", {"prompt": ids[:i], "max_tokens": 1, "logprobs": 2,
                                         "logit_bias": {str(ids[i]): 100}})
        assert scores(one)["token_logprobs"][0] == lp["token_logprobs"][i], (i, one, lp)
    for i in range(1, n + 3):
        top = lp["top_logprobs"][i]
        assert lp["tokens"][i] in top and top[lp["tokens"][i]] == lp["token_logprobs"][i] and 2 <= len(top) <= 3, (i, top)
    bare = s.post("/v1/completions", {**TEXT, "logprobs": 2, "max_tokens": 3})
    assert scores(bare)["token_logprobs"] == lp["token_logprobs"][n:], (bare, lp)


@claim
def a_prompt_can_be_scored_without_an_answer():
    s = shared()
    got = s.post("/v1/completions", {"prompt": [[BOS, 40, 41], "One day"], "echo": True, "logprobs": 0, "max_tokens": 0, "n": 2})
    assert [c["index"] for c in got["choices"]] == [0, 1, 2, 3] and got["usage"]["completion_tokens"] == 0, got
    a, b = got["choices"][0], got["choices"][1]
    assert a["logprobs"] == b["logprobs"] and a["text"] == b["text"] and len(a["logprobs"]["tokens"]) == 3, (a, b)
    assert {c["finish_reason"] for c in got["choices"]} == {"length"}, got
    whole = s.post("/v1/completions", {"prompt": [BOS, 40, 41, 42], "echo": True, "logprobs": 0, "max_tokens": 2})
    assert scores(whole)["token_logprobs"][:3] == a["logprobs"]["token_logprobs"], (whole, a)


@claim
def a_stream_echoes_the_prompt_with_its_logprobs_first():
    s = shared()
    body = {**TEXT, "echo": True, "logprobs": 1, "max_tokens": 4, "n": 2, "seed": 3, "temperature": 1}
    want = s.post("/v1/completions", body)["choices"]
    events = s.events("/v1/completions", body)
    assert events.pop() == "[DONE]"
    for i in (0, 1):
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == i]
        assert mine[0]["text"] == TEXT["prompt"], mine[0]
        assert "".join(c["text"] for c in mine) == want[i]["text"], (mine, want[i])
        for k in ("tokens", "token_logprobs", "text_offset"):
            assert sum((c["logprobs"][k] for c in mine if c["logprobs"]), []) == want[i]["logprobs"][k], (k, mine, want[i])


@claim
def prompt_logprobs_have_the_shape_of_vllms():
    s = shared()
    ids = [BOS] + s.post("/tokenize", {"content": TEXT["prompt"]})["tokens"]
    c = s.post("/v1/completions", {**TEXT, "prompt_logprobs": 3, "logprobs": 1, "max_tokens": 2})["choices"][0]
    told = c["prompt_logprobs"]
    assert len(told) == len(ids) and told[0] is None, told
    echoed = scores(s.post("/v1/completions", {**TEXT, "echo": True, "logprobs": 0, "max_tokens": 0}))
    for i in range(1, len(ids)):
        mine = told[i][str(ids[i])]
        assert mine["logprob"] == echoed["token_logprobs"][i] and mine["decoded_token"] == echoed["tokens"][i], (i, mine)
        assert sorted(e["rank"] for e in told[i].values() if e["rank"]) == [1, 2, 3] and 3 <= len(told[i]) <= 4, told[i]
    assert len(c["logprobs"]["tokens"]) == 2 and len(c["logprobs"]["top_logprobs"][0]) == 1, c
    chat = s.post("/v1/chat/completions", {**CHAT, "prompt_logprobs": 0})
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"] and "prompt_logprobs" not in chat["choices"][0], chat
    e = s.post("/v1/completions", {**TEXT, "prompt_logprobs": 1, "stream": True}, status=400)["error"]
    assert e["param"] == "prompt_logprobs", e
    with serving("-c", 40000) as t:
        for asked, param in (({"echo": True, "logprobs": 20}, "logprobs"), ({"prompt_logprobs": 20}, "prompt_logprobs"),
                             ({"echo": True, "logprobs": 0, "stream": True, "n": 16}, "logprobs")):
            e = t.post("/v1/completions", {"prompt": [[5] * 20000], "max_tokens": 0, **asked}, status=400)["error"]
            assert e["param"] == param and "at most 262144" in e["message"], e


@claim
def scores_are_the_same_alone_beside_others_and_after_the_cache():
    s = shared()
    body = {"prompt": "the cat and the dog went to the big park and found a red ball", "echo": True, "logprobs": 2, "max_tokens": 2}
    alone = s.post("/v1/completions", body)
    assert alone["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, alone
    again = s.post("/v1/completions", body)
    assert again["choices"] == alone["choices"], (again, alone)
    many = s.post("/v1/completions", {**body, "prompt": [body["prompt"], TEXT["prompt"]] * 6})
    assert [c["logprobs"] for c in many["choices"][::2]] == [scores(alone)] * 6


@claim
def a_prompt_is_computed_anew_if_the_request_says_so():
    s = shared()
    body = {"prompt": "Then Tom saw a bird and a fish in the lake", "max_tokens": 2}
    first, second = s.post("/v1/completions", body), s.post("/v1/completions", body)
    fresh = s.post("/v1/completions", {**body, "cache_prompt": False})
    salted = s.post("/v1/completions", {**body, "cache_salt": "a"})
    cached = [x["usage"]["prompt_tokens_details"]["cached_tokens"] for x in (second, fresh, salted)]
    assert cached[0] == second["usage"]["prompt_tokens"] - 1 and cached[1:] == [0, 0], cached
    assert first["choices"] == second["choices"] == fresh["choices"] == salted["choices"]


# -- the course of an answer --------------------------------------------------------------------------------------

@claim
def tokens_come_with_their_ids():
    s = shared()
    c = s.post("/v1/completions", {**TEXT, "return_tokens": True})["choices"][0]
    assert len(c["tokens"]) == 12 and s.post("/detokenize", {"tokens": c["tokens"]})["content"] == c["text"], c
    events = s.events("/v1/completions", {**TEXT, "return_tokens": True})
    assert sum((e["choices"][0].get("tokens", []) for e in events[:-1]), []) == c["tokens"], events
    assert "tokens" not in s.post("/v1/completions", TEXT)["choices"][0]
    got = s.post("/v1/completions", {**TEXT, "max_tokens": 5, "stop_token_ids": [c["tokens"][3]], "return_tokens": True})["choices"][0]
    want = c["tokens"][:c["tokens"].index(c["tokens"][3])]
    assert (got["tokens"], got["finish_reason"]) == (want, "stop"), (got, c)
    longer = s.post("/v1/completions", {**TEXT, "stop_token_ids": [c["tokens"][3]], "min_tokens": 12, "return_tokens": True})
    assert len(longer["choices"][0]["tokens"]) == 12 and c["tokens"][3] not in longer["choices"][0]["tokens"], longer


@claim
def special_tokens_are_shown_if_asked_for():
    s = shared()
    body = {**TEXT, "max_tokens": 3, "logit_bias": {"3": 100}, "ignore_eos": True}
    assert s.post("/v1/completions", body)["choices"][0]["text"] == ""
    got = s.post("/v1/completions", {**body, "skip_special_tokens": False})["choices"][0]["text"]
    assert got == "<|im_start|>" * 3, got


@claim
def a_stream_tells_how_far_the_prompt_was_read():
    with serving("-b", 16, "-np", 1) as s:
        body = {"prompt": [BOS] + [40 + i % 60 for i in range(99)], "max_tokens": 3}
        events = s.events("/v1/completions", {**body, "return_progress": True, "timings_per_token": True})
        assert events.pop() == "[DONE]"
        told = [e["prompt_progress"] for e in events if "prompt_progress" in e]
        rest = [e for e in events if "prompt_progress" not in e]
        assert told and all(e["choices"] == [] for e in events[:len(told)]), events
        done = [p["processed"] for p in told]
        assert done == sorted(set(done)) and done[-1] <= 100 and all(p["total"] == 100 and p["cache"] == 0 for p in told), told
        assert all(e["timings"]["prompt_n"] == 100 for e in rest), rest
        assert [e["timings"]["predicted_n"] for e in rest][-1] == 3, rest
        plain = s.events("/v1/completions", body)
        assert not any("prompt_progress" in e for e in plain[:-1]) and "timings" not in plain[0], plain


@claim
def typical_p_narrows_what_is_drawn():
    s = shared()
    body = {**TEXT, "temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 1, "n": 16, "seed": 1, "logprobs": 0}
    free = {c["logprobs"]["tokens"][0] for c in s.post("/v1/completions", body)["choices"]}
    held = {c["logprobs"]["tokens"][0] for c in s.post("/v1/completions", {**body, "typical_p": 0.01})["choices"]}
    assert len(held) == 1 < len(free), (held, free)


# -- embeddings ---------------------------------------------------------------------------------------------------

@claim
def embeddings_are_unit_vectors_that_do_not_depend_on_company():
    s = shared()
    texts = ["the cat and the dog", "One day Tom ran", "a big ship " * 30, "the cat"]
    alone = [s.post("/v1/embeddings", {"input": t})["data"][0]["embedding"] for t in texts]
    for v in alone:
        assert len(v) == DIM and abs(math.sqrt(sum(x * x for x in v)) - 1) < 1e-5, v[:4]
    assert alone[0] != alone[1]
    got = s.post("/v1/embeddings", {"input": texts * 20, "model": "model-chat", "user": "x"})
    assert [d["index"] for d in got["data"]] == list(range(80)) and got["object"] == "list", got["data"][0]
    assert [d["embedding"] for d in got["data"]] == alone * 20
    ids = [[BOS] + s.post("/tokenize", {"content": t})["tokens"] for t in texts]
    assert [d["embedding"] for d in s.post("/v1/embeddings", {"input": ids})["data"]] == alone
    one = s.post("/v1/embeddings", {"input": ids[0]})
    assert one["data"][0]["embedding"] == alone[0] and one["usage"] == {"prompt_tokens": len(ids[0]), "total_tokens": len(ids[0])}
    coded = s.post("/v1/embeddings", {"input": texts, "encoding_format": "base64"})["data"]
    for c, v in zip(coded, alone):
        assert list(struct.unpack(f"<{DIM}f", base64.b64decode(c["embedding"], validate=True))) == \
            [struct.unpack("<f", struct.pack("<f", x))[0] for x in v]
    same = s.post("/api/embed", {"model": "model-chat:latest", "input": texts})
    assert same["embeddings"] == alone and same["prompt_eval_count"] == sum(map(len, ids)), same["prompt_eval_count"]


@claim
def embeddings_are_the_mean_of_hidden_states():
    s = shared()
    one = [s.post("/v1/embeddings", {"input": [40]})["data"][0]["embedding"], s.post("/v1/embeddings", {"input": [41]})["data"][0]["embedding"]]
    assert s.post("/v1/embeddings", {"input": [40, 40]})["data"][0]["embedding"] != one[1]
    s.post("/v1/completions", {"prompt": [40, 41, 42], "max_tokens": 4})  # what is in the cache changes nothing
    assert s.post("/v1/embeddings", {"input": [40]})["data"][0]["embedding"] == one[0]


@claim
def wrong_requests_for_embeddings_name_their_parameter():
    s = shared()
    for body, param in (({}, "input"), ({"input": []}, "input"), ({"input": ""}, "input"), ({"input": ["a", []]}, "input"), ({"input": 5}, "input"),
                        ({"input": [VOCAB]}, "input"), ({"input": [[1, "a"]]}, "input"), ({"input": [{}]}, "input"),
                        ({"input": "a", "dimensions": DIM // 2}, "dimensions"), ({"input": "a", "dimensions": 0}, "dimensions"),
                        ({"input": "a", "encoding_format": "hex"}, "encoding_format"), ({"input": ["a"] * 2049}, "input")):
        e = s.post("/v1/embeddings", body, status=400)["error"]
        assert e["param"] == param and e["type"] == "invalid_request_error", (body if len(str(body)) < 99 else "", e)
    assert s.post("/v1/embeddings", {"input": "a", "dimensions": DIM})["data"]
    e = s.post("/v1/embeddings", {"input": [1] * CONTEXT}, status=400)["error"]
    assert e["type"] == "exceed_context_size_error" and e["n_ctx"] == CONTEXT, e
    assert s.post("/v1/embeddings", {"input": "a", "model": "other"}, status=404)["error"]["code"] == "model_not_found"
    assert isinstance(s.post("/api/embed", {"input": 5}, status=400)["error"], str)


@claim
def many_inputs_pass_a_queue_that_holds_few():
    with serving("-np", 2, "--max-queue", 3) as s:
        got = s.post("/v1/embeddings", {"input": ["the cat", "a dog"] * 50})["data"]
        assert len(got) == 100 and len({json.dumps(d["embedding"]) for d in got}) == 2
        assert s.metric('pumice_sequences_ended_total{reason="length"}') == 100
        assert s.metric("pumice_prompt_tokens_total") > 0


def ended(s):
    return sum(s.metric(f'pumice_sequences_ended_total{{reason="{r}"}}') for r in ("stop", "length", "cancelled", "error"))


@claim
def a_client_that_leaves_its_embeddings_frees_their_places():
    with serving("-np", 2) as s:
        with s.connect() as c:
            c.sendall(request({"input": ["the cat and the dog " * 40] * 2048}, "/v1/embeddings"))
            wait(lambda: s.metric("pumice_sequences_accepted_total"))
        s.wait_idle()
        assert ended(s) == s.metric("pumice_sequences_accepted_total") > 0
        assert s.post("/v1/embeddings", {"input": "the cat"})["data"]


@claim
def embeddings_end_with_an_error_when_the_server_stops():
    with serving("-np", 2, "--drain", 60) as s:
        with s.connect() as c:
            c.sendall(request({"input": ["the cat and the dog " * 40] * 2048}, "/v1/embeddings"))
            wait(lambda: s.metric("pumice_sequences_accepted_total"))
            s.p.send_signal(signal.SIGTERM)
            answer = read_all(c)
        assert b'"code":"stopping"' in answer or answer.startswith(b"HTTP/1.1 200"), answer[:300]


# -- functions ----------------------------------------------------------------------------------------------------

COLOURS = {"type": "object", "properties": {"colour": {"$ref": "#/$defs/c"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
           "required": ["colour", "n"], "additionalProperties": False, "$defs": {"c": {"enum": ["red", "green"]}}}
TOOLS = [{"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": COLOURS}},
         {"type": "function", "function": {"name": "stop_all"}}]
FORCED = {**CHAT, "max_tokens": 200, "temperature": 1, "tools": TOOLS, "tool_choice": "required"}


def roomy():
    """With a context for prompts that explain functions to a tokenizer that knows few words."""
    return shared("-c", 4096)


def check_call(call):
    assert call["type"] == "function" and call["id"].startswith("call_") and len(call["id"]) == 21, call
    args = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "stop_all":
        assert args == {}, args
    else:
        assert call["function"]["name"] == "paint" and args["colour"] in ("red", "green") and 0 <= args["n"] <= 9, call
        assert set(args) == {"colour", "n"}, args


@claim
def a_required_call_is_valid_from_any_model():
    s = roomy()
    got = s.post("/v1/chat/completions", {**FORCED, "n": 12, "seed": 1})
    calls = [c["message"]["tool_calls"] for c in got["choices"]]
    for c in got["choices"]:
        assert c["finish_reason"] == "tool_calls" and c["message"]["content"] is None and len(c["message"]["tool_calls"]) == 1, c
        check_call(c["message"]["tool_calls"][0])
    assert {c[0]["function"]["name"] for c in calls} == {"paint", "stop_all"}, calls
    assert len({c[0]["id"] for c in calls}) == 12
    for name in ("paint", "stop_all"):
        got = s.post("/v1/chat/completions", {**FORCED, "tool_choice": {"type": "function", "function": {"name": name}}})
        assert got["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == name, got


def assemble(events, index=0):
    """What a client makes of a stream: (content, calls, finish_reason)."""
    content, calls, finish, roles = "", [], None, 0
    for e in events:
        for c in (c for c in e["choices"] if c["index"] == index):
            d = c["delta"]
            roles += "role" in d
            content += d.get("content") or ""
            finish = c["finish_reason"] or finish
            for part in d.get("tool_calls", []):
                if "id" in part:
                    assert part["index"] == len(calls) and part["function"]["arguments"] == "", part
                    calls.append(json.loads(json.dumps(part)))
                else:
                    assert "name" not in part["function"] and part["index"] == len(calls) - 1, part
                    calls[-1]["function"]["arguments"] += part["function"]["arguments"]
    assert roles == 1, roles
    return content, calls, finish


@claim
def a_call_streams_its_name_and_then_its_arguments_in_pieces():
    s = roomy()
    body = {**FORCED, "seed": 4, "tool_choice": {"type": "function", "function": {"name": "paint"}}}
    want = s.post("/v1/chat/completions", body)["choices"][0]["message"]["tool_calls"]
    events = s.events("/v1/chat/completions", {**body, "logprobs": True, "return_tokens": True})
    assert events.pop() == "[DONE]"
    content, calls, finish = assemble(events)
    assert (content, finish) == ("", "tool_calls"), events
    check_call(calls[0])
    assert [c["function"] for c in calls] == [c["function"] for c in want], (calls, want)
    pieces = [p for e in events for p in e["choices"][0]["delta"].get("tool_calls", []) if "id" not in p]
    assert len(pieces) > 2, pieces
    n = sum(len(e["choices"][0]["tokens"]) for e in events if "tokens" in e["choices"][0])
    assert n == sum(len(e["choices"][0]["logprobs"]["content"]) for e in events if e["choices"][0]["logprobs"]) > 5, events


LLAMA3 = ("{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}Answer as {'name': F, \"parameters\": {...}}"
          "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@claim
def a_template_of_llama_3s_kind_gets_calls_with_parameters():
    folder = copy_of(made("chat"))
    edit_json(folder, "tokenizer_config.json", chat_template=LLAMA3)
    with serving("-c", 4096, model=folder) as s:
        prompt = s.post("/apply-template", {**CHAT, "tools": TOOLS})["prompt"]
        assert "You may call" not in prompt and '"stop_all"' in prompt, prompt
        for seed in range(4):
            body = {**FORCED, "seed": seed, "logprobs": True}
            c = s.post("/v1/chat/completions", body)["choices"][0]
            written = json.loads("".join(t["token"] for t in c["logprobs"]["content"]))
            assert set(written) == {"name", "parameters"} and c["finish_reason"] == "tool_calls", c
            check_call(c["message"]["tool_calls"][0])
            content, calls, finish = assemble(s.events("/v1/chat/completions", body)[:-1])
            assert (content, finish) == ("", "tool_calls"), (content, calls)
            assert [x["function"] for x in calls] == [x["function"] for x in c["message"]["tool_calls"]], (calls, c)
        # JSON that names no function of the request is an answer
        other = {"type": "json_schema", "json_schema": {"schema": {"const": {"name": "fly", "parameters": {}}}}}
        c = s.post("/v1/chat/completions", {**FORCED, "tool_choice": "auto", "response_format": other})["choices"][0]
        assert json.loads(c["message"]["content"])["name"] == "fly" and "tool_calls" not in c["message"], c
        ollama = s.post("/api/chat", {"messages": CHAT["messages"], "tools": TOOLS, "stream": False})
        assert "message" in ollama, ollama


@claim
def variables_of_the_template_are_scalars_that_hide_nothing():
    folder = copy_of(made("chat"))
    edit_json(folder, "tokenizer_config.json", chat_template="{{ mood | default('calm') }} {{ messages | length }} {{ deep is defined }}")
    with serving(model=folder) as s:
        for kwargs, want in ((None, "calm 1 False"), ({"mood": "glad"}, "glad 1 False"), ({"mood": 7, "deep": None}, "7 1 True")):
            got = s.post("/apply-template", {"messages": CHAT["messages"], "chat_template_kwargs": kwargs})["prompt"]
            assert got.removeprefix("<s>") == want, (kwargs, got)
            s.post("/v1/chat/completions", {**CHAT, "chat_template_kwargs": kwargs})
        for kwargs in ({"messages": 1}, {"tools": "x"}, {"tokenize": True}, {"deep": {"a": 1}}, {"deep": []}, 5):
            e = s.post("/v1/chat/completions", {**CHAT, "chat_template_kwargs": kwargs}, status=400)["error"]
            assert e["param"] == "chat_template_kwargs", (kwargs, e)


@claim
def tools_are_checked_by_name():
    s = roomy()
    tool = TOOLS[0]

    def function(**kw):
        return {"type": "function", "function": {"name": "f", **kw}}
    wrong = [({"tools": [1]}, "tools"), ({"tools": [{"type": "web"}]}, "tools"), ({"tools": [function(name="a b")]}, "tools"),
             ({"tools": [function(name="")]}, "tools"), ({"tools": [function(name=5)]}, "tools"), ({"tools": [tool, tool]}, "tools"),
             ({"tools": [function(parameters=[])]}, "tools"), ({"tools": [function(name="x" * 65)]}, "tools"),
             ({"tools": [function(name=f"f{i}") for i in range(129)]}, "tools"), ({"tools": {}}, "tools"),
             ({"tools": [function(parameters={"not": {}})], "tool_choice": "required"}, "tools"),
             ({"tool_choice": "required"}, "tool_choice"), ({"tools": TOOLS, "tool_choice": "some"}, "tool_choice"),
             ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
             ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"), ({"tools": TOOLS, "tool_choice": 5}, "tool_choice"),
             ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls"),
             ({"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format")]
    for body, param in wrong:
        e = s.post("/v1/chat/completions", {**CHAT, **body}, status=400)["error"]
        assert e["param"] == param and e["type"] == "invalid_request_error", (str(body)[:200], e)
    for body in ({"tools": [function(parameters={"not": {}})]}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"tools": []}):
        s.post("/v1/chat/completions", {**CHAT, **body})


@claim
def functions_reach_the_prompt_unless_none_may_be_called():
    s = roomy()
    bare = s.post("/v1/chat/completions", CHAT)
    with_tools = s.post("/v1/chat/completions", {**CHAT, "tools": TOOLS})
    none = s.post("/v1/chat/completions", {**CHAT, "tools": TOOLS, "tool_choice": "none"})
    assert none["choices"] == bare["choices"] and none["usage"]["prompt_tokens"] == bare["usage"]["prompt_tokens"], none
    assert with_tools["usage"]["prompt_tokens"] > bare["usage"]["prompt_tokens"] + 20, with_tools
    past = [*CHAT["messages"], {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "paint", "arguments": '{"n": 1}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"}]
    prompt = s.post("/apply-template", {"messages": past, "tools": TOOLS})["prompt"]
    assert '<tool_call>\n{"name": "paint", "arguments": {"n":1}}\n</tool_call><|im_end|>' in prompt, prompt
    assert "user\n<tool_response>\ndone\n</tool_response><|im_end|>" in prompt and '"stop_all"' in prompt, prompt
    later = s.post("/apply-template", {"messages": past})["prompt"]  # functions no more, but their past
    assert prompt.endswith(later.removeprefix("<s>")) and '"stop_all"' not in later, later


@claim
def ollamas_clients_get_calls_with_objects():
    s = roomy()
    body = {"messages": CHAT["messages"], "tools": TOOLS, "stream": False, "options": {"num_predict": 8}}
    got = s.post("/api/chat", body)
    assert got["message"]["role"] == "assistant" and got["eval_count"] == 8 and "tool_calls" not in got["message"], got
    lines = [json.loads(x) for x in s.post("/api/chat", {**body, "stream": True}).splitlines()]
    assert lines[0]["message"]["content"] == got["message"]["content"] and lines[-1]["done"], lines


if __name__ == "__main__":
    main()
