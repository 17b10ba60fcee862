"""Text of the user's own, from files and JSONL lines to documents, strict about UTF-8. Knows no folders and no splits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maquette.data.errors import DataError, Skip, nearest
from maquette.data.listing import File

HELD = 0.1  # of a single document
# role of a message -> those that may stand before it
AFTER: dict[str, tuple[str | None, ...]] = {
    "system": (None,),
    "developer": (None, "system"),
    "user": (None, "system", "developer", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


@dataclass(frozen=True)
class Document:
    """One text; `messages` where it is a conversation, [{"role": ..., "content": ...}, ...], of which `text` is a rendering.

    `label`: of which kind it is, where its row says so; `source`: what it is to be made from, and `certain` in words that mean
    nothing else; `rejected`: another answer in the place of the last, which somebody liked less.
    """

    name: str
    text: str
    part: str = ""
    messages: list[dict[str, Any]] | None = None
    label: str = ""
    source: str | None = None
    certain: bool = False
    rejected: str | None = None

    @property
    def asked(self) -> str:
        """What rows may not share that lie on two sides of a split: what a text is made from, what two answers answer, or all."""
        if self.messages is not None and self.rejected is not None:
            return render(self.messages[:-1])
        return self.text if self.source is None else self.source


def decode(raw: bytes) -> str:
    """UTF-8 or a reason, with the place of the first wrong byte. A byte order mark is dropped."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Skip("not UTF-8: it begins like UTF-16")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Skip(f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}") from None
    if "\0" in text:
        raise Skip(f"not text: a zero byte at offset {raw.index(0)}")
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise Skip("empty" if not raw else "nothing but white space")
    return text


def read_texts(files: list[File]) -> tuple[list[Document], list[tuple[str, str]]]:
    """A document per file, and the files that cannot be used."""
    found, bad = [], []
    for file in files:
        try:
            found.append(Document(file.name, decode(file.path.read_bytes()), file.part))
        except Skip as reason:
            bad.append((file.name, str(reason)))
        except OSError as error:
            bad.append((file.name, f"cannot be opened: {error.strerror or error}"))
    return found, bad


def read_jsonl(files: list[File]) -> tuple[list[Document], list[tuple[str, str]]]:
    """A document per line, and the lines that cannot be used.

    Raises:
        DataError: some lines bring "text" and others "messages".
    """
    found: list[Document] = []
    bad: list[tuple[str, str]] = []
    for file in files:
        try:
            raw = file.path.read_bytes()
        except OSError as error:
            bad.append((file.name, f"cannot be opened: {error.strerror or error}"))
            continue
        if not raw.strip():
            bad.append((file.name, "empty"))
        for number, line in enumerate(raw.split(b"\n"), 1):
            if line.strip():
                try:
                    found.append(replace(of_row(_parse(line), f"{file.name}:{number}"), part=file.part))
                except Skip as reason:
                    bad.append((f"{file.name}:{number}", str(reason)))
    if len({document.messages is None for document in found}) > 1:
        one, other = (next(d.name for d in found if (d.messages is None) is bare) for bare in (True, False))
        raise DataError(f"some rows bring 'text' ({one}) and others 'messages' ({other}); give one or the other")
    return found, bad


def of_pairs(documents: list[Document]) -> tuple[list[Document], list[str]]:
    """Documents, all of them with a source or none; and a note where "source" was taken for where a row is from.

    Raises:
        DataError: some rows bring what theirs is made from, and others do not.
    """
    told = [document for document in documents if document.source is not None]
    if not told:
        return documents, []
    if not any(document.certain for document in told) and 2 * len({document.source for document in told}) < len(told):
        some = len({document.source for document in told})
        note = f"'source' is one of {some} in {len(told)} rows: taken for where they are from, not for what 'text' is made from"
        return [replace(document, source=None) for document in documents], [note]
    if len(told) < len(documents):
        bare = next(document.name for document in documents if document.source is None)
        raise DataError(f"some rows bring a 'source' or a 'prompt' ({told[0].name}) and others none ({bare}); give all or none")
    return documents, []


def _parse(line: bytes) -> dict[str, Any]:
    text = decode(line)
    try:
        row = json.loads(text)
    except RecursionError:
        raise Skip("not JSON: nested too deeply") from None
    except ValueError as error:
        raise Skip(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise Skip(f"a {type(row).__name__}, not an object")
    return row


def of_row(row: dict[str, Any], name: str) -> Document:
    """A document from a row with "text", with "source" and "text" or "prompt" and "completion", or with "messages"; or from one
    with "chosen" and "rejected", and a "prompt" where those are answers alone."""
    if "chosen" in row or "rejected" in row:
        return _compared(row, name)
    if row.get("messages") is not None:
        messages = _messages(row["messages"])
        return Document(name, _checked(render(messages)), messages=messages)
    certain = "text" not in row and ("prompt" in row or "completion" in row)
    told, made = ("prompt", "completion") if certain else ("source", "text")
    if made not in row:
        known = ", ".join(sorted(map(str, row))) or "none"
        if certain:
            raise Skip(f"has a 'prompt' and no 'completion'; its keys are {known}.{nearest('completion', row)}")
        wanted = "has neither 'text', nor 'prompt' and 'completion', nor 'messages'"
        raise Skip(f"{wanted}; its keys are {known}.{nearest('text', row) or nearest('messages', row)}")
    if certain and told not in row:
        raise Skip("has a 'completion' and no 'prompt'")
    for key in (told, made):
        if not isinstance(row.get(key, ""), str) and (certain or key == "text"):
            raise Skip(f"{key!r} is a {type(row[key]).__name__}, not a string")
    label = row.get("label")
    if not isinstance(label, str | int | None) or isinstance(label, bool):
        raise Skip(f"'label' is a {type(label).__name__}, not a string or a whole number")
    source = row.get(told)
    source = _checked(source) if isinstance(source, str) and (certain or source.strip()) else None
    return Document(name, _checked(row[made]), label="" if label is None else str(label), source=source, certain=certain)


def _compared(row: dict[str, Any], name: str) -> Document:
    """Two answers to one question, the better and the worse: texts, or conversations that differ in the last message."""
    answers = []
    told: Any = row.get("prompt")
    given = _messages(told) if isinstance(told, list) else []
    before = given or None
    for key in ("chosen", "rejected"):
        said = row.get(key)
        if isinstance(said, list):
            *turns, last = _messages([*given, *said])
            if last["role"] != "assistant":
                raise Skip(f"{key!r} does not end with an answer but with a message of role {last['role']!r}")
            if before is not None and key == "rejected" and turns != before:
                raise Skip("'chosen' and 'rejected' answer different conversations")
            said, before = last["content"], turns
        if not isinstance(said, str):
            what = f"{key!r} is a {type(said).__name__}, not a string" if key in row else f"has no {key!r}"
            raise Skip(f"{what}; a comparison is a 'prompt', a 'chosen' and a 'rejected' answer")
        if not said.strip():
            raise Skip(f"{key!r} is empty: there is nothing to compare")
        answers.append(_checked(said))
    if answers[0].strip() == answers[1].strip():
        raise Skip("'chosen' and 'rejected' are equal: neither is better")
    if before is None and not isinstance(told, str):
        raise Skip("has no 'prompt', which 'chosen' and 'rejected' would answer")
    better, worse = answers
    if before is None or (isinstance(told, str) and not before):
        return Document(name, better, source=_checked(told), certain=True, rejected=worse)
    whole = [*before, {"role": "assistant", "content": better}]
    return Document(name, _checked(render(whole)), messages=whole, rejected=worse)


def _checked(text: str) -> str:
    try:
        return decode(text.encode())
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise Skip(f"not UTF-8: a lone surrogate at character {error.start}") from None


def _messages(found: Any) -> list[dict[str, Any]]:
    """Messages with a role and a content; a content in parts is joined from its texts."""
    if not isinstance(found, list) or not found:
        raise Skip("'messages' is not a list of messages")
    messages = []
    for i, message in enumerate(found):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Skip(f"message {i} has no 'role'")
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
        if not isinstance(content, str):
            raise Skip(f"message {i} has no 'content'")
        messages.append({**message, "content": content})
    if wrong := fault_of(messages):
        raise Skip(wrong)
    return messages


def fault_of(turns: Sequence[Mapping[str, Any]]) -> str:
    """What keeps turns from being a conversation, by the message's number and field; "" where nothing does.

    What is said to the model as a whole comes first, answers answer a user or a tool, and no answer is empty.
    """
    for i, (turn, before) in enumerate(zip(turns, [None, *(turn["role"] for turn in turns)], strict=False)):
        role = turn["role"]
        if role not in AFTER:
            return f"message {i} has the 'role' {role!r}; allowed are {', '.join(AFTER)}.{nearest(role, AFTER)}"
        if before not in AFTER[role]:
            behind = f"behind one of {before!r}" if before else "first"
            allowed = ", ".join("the beginning" if each is None else repr(each) for each in AFTER[role])
            return f"message {i} is out of order: its 'role' is {role!r}, {behind}; it may come behind {allowed}"
        if role == "assistant" and not turn["content"].strip() and not turn.get("tool_calls"):
            return f"message {i}, the assistant's, has an empty 'content': there would be nothing to learn"
    return ""


def render(messages: list[dict[str, Any]]) -> str:
    """A conversation as plain text: "<|role|>", a new line, the content, a new line, for every message."""
    return "".join(f"<|{message['role']}|>\n{message['content']}\n" for message in messages)


def cut(document: Document) -> list[Document]:
    """A document's beginning for training and its end, about a tenth, held out: cut after a line, else after a word.

    Raises:
        Skip: too short to cut.
    """
    text, at = document.text, int(len(document.text) * (1 - HELD))
    for mark in ("\n", " "):
        after = text.rfind(mark, 0, at) + 1
        if after > at / 2:
            at = after
            break
    train, held = text[:at], text[at:]
    if not train.strip() or not held.strip():
        raise Skip("too short to hold some of it out")
    return [replace(document, text=train, part="train"), replace(document, text=held, part="held")]
