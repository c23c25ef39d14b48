"""template.py - chat templates as a user chooses them: the model's, a file, a text, a family; and their failures."""

import json

from harness import claim, copy_of, edit_json, main, made, pumice, refuses, tmp, write_text

ASK = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"}]}
CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
MINE = "{% for m in messages %}<|im_start|>{{ m.role | upper }}: {{ m.content }}\n{% endfor %}{{ mood }}"


def ask(*args, model=None, **changes):
    return pumice("apply-template", model or made("chat"), *args, stdin=json.dumps({**ASK, **changes}).encode())


@claim
def the_models_template_makes_the_prompt():
    assert ask().out == CHATML
    assert ask("--chat-template", "chatml").out == "<s>" + CHATML  # ids as text: BOS is one of them
    assert ask("--chat-template", "chatml", "--ids").out == ask("--ids").out


@claim
def what_a_user_types_is_not_among_the_special_ids():
    ids = ask("--ids").out.split()
    end = ask("--ids", messages=[{"role": "user", "content": ""}]).out.split()
    special = pumice("tokenize", made("chat"), "--special", "-p", "<|im_end|>").out.split()
    assert len(special) == 1 and ids.count(special[0]) == 2 and end.count(special[0]) == 1, ids


@claim
def a_file_or_a_text_replaces_it():
    want = "<|im_start|>SYSTEM: Be brief.\n<|im_start|>USER: Hi <|im_end|>\nfine"
    path = write_text("mine.jinja", MINE)
    assert ask("--chat-template-file", path, chat_template_kwargs={"mood": "fine"}).out == want
    assert ask("--chat-template", MINE, chat_template_kwargs={"mood": "fine"}).out == want


@claim
def opening_and_continuing_can_be_asked_for():
    assert ask(add_generation_prompt=False).out == CHATML.removesuffix("<|im_start|>assistant\n")
    more = ASK["messages"] + [{"role": "assistant", "content": "Well, "}]
    assert ask(messages=more, continue_final_message=True).out.endswith("<|im_start|>assistant\nWell, ")


@claim
def a_broken_template_is_said_once_and_the_family_stands_in():
    model = copy_of(made("chat"))
    edit_json(model, "tokenizer_config.json", chat_template="\n{% frob %}<|im_start|>")
    got = ask(model=model)
    assert got.out == "<s>" + CHATML
    assert got.err.count("line 2: unknown tag 'frob'") == 1 and "'chatml' is used" in got.err, got.err
    edit_json(model, "tokenizer_config.json", chat_template="{% frob %}")
    bad = pumice("apply-template", model, stdin=json.dumps(ASK).encode(), status=3)
    assert "unknown tag 'frob'; no built-in format is known" in bad.err, bad.err


@claim
def wrong_uses_are_refused_by_name():
    path = write_text("broken.jinja", "{{ 1 +")
    for status, part, args in (
        (3, "broken.jinja: line 1: {{ is not closed", ("--chat-template-file", path)),
        (4, "absent.jinja", ("--chat-template-file", tmp("absent.jinja"))),
        (2, "exclude each other", ("--chat-template", "chatml", "--chat-template-file", path)),
        (2, "--chat-template: 'alpaca'", ("--chat-template", "alpaca")),
    ):
        refuses(status, part, "apply-template", made("chat"), *args, stdin=json.dumps(ASK).encode())
    for status, part, request in (
        (2, "messages: needs", {}),
        (2, "chat_template_kwargs: 'messages' cannot be set", {**ASK, "chat_template_kwargs": {"messages": 1}}),
        (3, "add_generation_prompt must be true or false", {**ASK, "add_generation_prompt": 1}),
    ):
        refuses(status, part, "apply-template", made("chat"), stdin=json.dumps(request).encode())
    refuses(2, "No systems here", "run", made("chat"), "--chat", "-p", "x", "-sys", "y", "--chat-template",
            "{{ raise_exception('No systems here') }}")


main()
