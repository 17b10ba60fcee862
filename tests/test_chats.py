"""Chat templates are other people's programs: what a hostile one may do, and what wrong templates and conversations say."""

from __future__ import annotations

import copy
import gc
import os
import time
from pathlib import Path

import pytest

from maquette.data.chats import Chat
from maquette.data.errors import DataError

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
HOSTILE = {
    "loop": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "longer than 1.5 seconds|process died|memory",
    ),
    "power": ("{{ 9 ** (9 ** 9) }}", "longer than 1.5 seconds|process died|memory"),
    "large": ("{{ 'x' * 9999999999 }}", "more memory than it may"),
    "doubling": (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "more memory than it may",
    ),
    "long": ("{{ 'x' * 20000000 }}", "20,000,000 characters; 16,777,216 are the most"),
    "walk": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "reaches for what it may not have: '__class__' of a str"),
    "silent walk": ("{{ messages.__class__ }}", "may not have: '__class__' of a list"),
    "filter walk": ("{{ messages|attr('__class__') }}", "may not have"),
    "globals": ("{{ raise_exception.__globals__ }}", "may not have: '__globals__' of a function"),
    "types": ("{{ cycler.__init__ }}", "may not have: '__init__'"),
    "format": ("{{ '{0.__class__.__mro__}'.format(1) }}", "may not have: '__class__' of a int"),
    "namespace": ("{{ namespace(__class__=1) }}", "no place for '__class__'"),
    "change": ("{{ messages.append(messages[0]) }}", "may not have: 'append' of a list"),
    "file": ("{% include '/etc/hostname' %}", "fails: TypeError: no loader"),
    "endless": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
    "half": ("{% for m in messages", "is no template: .* in line 1"),
    "raises": ("{{ raise_exception('roles must take turns') }}", "says: roles must take turns"),
    "missing": ("{{ messages[0].content.foo.bar }}", "fails: UndefinedError: .*no attribute 'foo'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_and_leaves_nothing(name):
    template, said = HOSTILE[name]
    seconds = 1.5 if "longer than" in said else 30.0
    chat = Chat(template, seconds=seconds, megabytes=192, place=" of somebody")
    with pytest.raises(DataError, match=f"the chat template of somebody .*({said})"):
        chat.render([TALK])
    child = chat._child
    chat.close()
    assert child is None or child.gone


def test_a_template_may_neither_read_nor_write_nor_start_anything(monkeypatch):
    """Were it to get out of its sandbox, the process itself has no files, no environment, and little memory."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    chat = Chat(PLAIN)
    chat.render([TALK])
    assert chat._child is not None
    place = Path(f"/proc/{chat._child.process.pid}")
    if not place.exists():
        pytest.skip("no /proc here")
    limits = {line[:26].strip(): line[26:].split()[0] for line in (place / "limits").read_text().splitlines()[1:]}
    assert limits["Max open files"] == "3" and limits["Max file size"] == "0" and limits["Max processes"] == "0"
    assert int(limits["Max address space"]) == 512 << 20
    assert b"hunter2" not in (place / "environ").read_bytes()
    assert os.readlink(place / "cwd") == "/"


def test_one_process_serves_many_and_a_late_one_is_replaced():
    slow = "{% for i in range(messages[0].n) %}{% for j in range(9999) %}{% endfor %}{% endfor %}done"
    chat = Chat(slow, seconds=1.5)
    quick, late = [{"role": "user", "n": 1}], [{"role": "user", "n": 99999}]
    assert chat.render([quick] * 150) == ["done"] * 150
    first = chat._child
    assert chat.render([quick]) == ["done"] and chat._child is first
    with pytest.raises(DataError, match=r"longer than 1.5 seconds|process died|memory"):
        chat.render([late])
    assert first is not None and first.gone
    assert chat.render([quick]) == ["done"] and chat._child is not first
    assert chat._child is not None
    process = chat._child.process
    del chat
    gc.collect()
    assert process.poll() is not None


def test_rendering_costs_little_once_begun():
    chat = Chat(PLAIN)
    chat.render([TALK])
    began = time.perf_counter()
    assert len(chat.render([TALK] * 2000)) == 2000
    assert time.perf_counter() - began < 5.0  # a process for each would take minutes


def test_a_copy_renders_alike_in_a_process_of_its_own():
    chat = Chat(PLAIN, {"bos_token": "<s>"}, seconds=3)
    want = chat.render([TALK])
    other = copy.deepcopy(chat)
    assert other.render([TALK]) == want == ["<user>hello\n<assistant>hi\n"] and other._child is not chat._child
    assert other.named == {"bos_token": "<s>"} and other.seconds == 3


def test_no_marks_are_left_and_none_can_be_forged():
    chat = Chat("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}")
    rows = [[{"role": "x", "content": "\u0002a\u0003"}, {"role": "x", "content": ""}]]
    assert chat.marked(rows) == [("\u0002a\u0003;;", [(0, 3), (4, 4)])] and chat.render(rows) == ["\u0002a\u0003;;"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["hello"], "conversation 0 is no list of messages but 'hello'"),
        ([TALK, []], r"conversation 1 is no list of messages but \[\]"),
        ([TALK[0]], "conversation 0 is no list of messages but {"),
        ([[{"content": "x"}]], "message 0 of conversation 0 has no 'role'"),
        ([[*TALK, "x"]], "message 2 of conversation 0 has no 'role': 'x'"),
        ([[{"role": "user", "content": object()}]], "holds what JSON cannot"),
        ([[{"role": "user", "content": float("nan")}]], "holds what JSON cannot"),
    ],
)
def test_bad_conversations_are_refused(rows, said):
    with pytest.raises(DataError, match=said):
        Chat(PLAIN).render(rows)


def test_bad_limits_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="it needs above 0, and 64 or more"):
        Chat(PLAIN, seconds=0)
    with pytest.raises(DataError, match=r"has no chat template: no chat_template.jinja"):
        Chat.read(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x")
    with pytest.raises(DataError, match=r"no chat template 'defalt'; it has default. Nearest is 'default'"):
        Chat.read(tmp_path, "defalt")
    for wrong, said in (("3", "has a int for a chat_template"), ('[{"name": "x"}]', "without its 'name' and 'template'")):
        (tmp_path / "tokenizer_config.json").write_text(f'{{"chat_template": {wrong}}}')
        with pytest.raises(DataError, match=said):
            Chat.read(tmp_path)
