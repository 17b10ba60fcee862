"""Conversations as a model's chat template writes them, in the hub's file formats. Templates run in a process of their own.

Knows where folders keep templates and what a conversation is; not what a template says, nor any symbol but by its text.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from maquette.data.errors import DataError, nearest
from maquette.data.vocabularies import NAMED, config_of, content_of
from maquette.sandbox.child import Child, Late

Message = Mapping[str, Any]
_BLOCK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
TOGETHER = 64  # conversations rendered at a time: what `seconds` is for
MEGABYTES = 512


class Chat:
    """A chat template: conversations -> texts. Its process starts with the first, and ends with this object.

    Args:
        template: jinja2, as the hub's chat_template.jinja.
        named: special symbols that the template may write: {"bos_token": "<s>"}.
        seconds: that it may take for 64 conversations.
        megabytes: of memory that it may take.
        place: where it is from, for messages.
    """

    def __init__(
        self,
        template: str,
        named: Mapping[str, str] | None = None,
        *,
        seconds: float = 5.0,
        megabytes: int = MEGABYTES,
        place: str = "",
    ):
        if not seconds > 0 or megabytes < 64:
            raise ValueError(f"a template has {seconds} seconds and {megabytes} MB; it needs above 0, and 64 or more")
        self.template, self.named, self.place = template, dict(named or {}), place
        self.seconds, self.megabytes = seconds, megabytes
        self._child: Child | None = None

    @classmethod
    def read(cls, folder: str | Path, name: str = "default") -> Self:
        """A folder's template: chat_template.jinja, additional_chat_templates/NAME.jinja, or as its tokenizer_config.json says.

        Raises:
            DataError: it has none, or none of that name.
        """
        folder = Path(folder)
        found, (said, _) = templates(folder), config_of(folder)
        if not found:
            raise DataError(f"{folder} has no chat template: no chat_template.jinja, and none in tokenizer_config.json")
        if name not in found:
            raise DataError(f"{folder} has no chat template {name!r}; it has {', '.join(found)}.{nearest(name, found)}")
        named = {each: content_of(said[each]) for each in NAMED if said.get(each)}
        return cls(found[name], named, place=f" of {folder}")

    def render(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        reply: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """The text of each conversation, a list of {"role": ..., "content": ...}.

        Args:
            reply: end with what begins an answer.
            tools: JSON schemas of functions that the model may call.
            more: further values that the template reads, such as {"enable_thinking": False}.

        Raises:
            DataError: the template refuses them, fails, or takes more time or memory than it may; or they are no conversations.
        """
        return [text for text, _ in self._written(conversations, reply, tools, more, marked=False)]

    def marked(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> list[tuple[str, list[tuple[int, int]]]]:
        """The text of each, and the stretches of characters that are answers.

        They are what the template's {% generation %} blocks write; where it has none, what follows the beginning of an answer
        when that answer is the last message, trailing white space excluded.

        Raises:
            DataError: as `render`; or without such blocks, where the template writes a turn otherwise once others follow it.
        """
        if _BLOCK.search(self.template):
            return self._written(conversations, False, tools, more, marked=True)
        texts = self.render(conversations, tools=tools, more=more)
        turns = [(n, i) for n, each in enumerate(conversations) for i, one in enumerate(each) if one["role"] == "assistant" and i]
        heads = self.render([conversations[n][:i] for n, i in turns], reply=True, tools=tools, more=more)
        wholes = self.render([conversations[n][: i + 1] for n, i in turns], tools=tools, more=more)
        found: list[tuple[str, list[tuple[int, int]]]] = [(text, []) for text in texts]
        for (n, i), head, whole in zip(turns, heads, wholes, strict=True):
            if not whole.startswith(head) or not texts[n].startswith(whole.rstrip()):
                raise DataError(
                    f"message {i} of conversation {n} is written otherwise once it is followed: the chat template{self.place} "
                    "has no {% generation %} blocks that would say which of it is the answer"
                )
            found[n][1].append((len(head), max(len(head), len(whole.rstrip()))))
        return found

    def _written(self, conversations: Any, reply: bool, tools: Any, more: Any, marked: bool) -> Any:
        values = {**self.named, "tools": tools, "documents": None, "add_generation_prompt": reply, **(more or {})}
        chats = [{**values, "messages": _checked(number, each)} for number, each in enumerate(conversations)]
        written: list[tuple[str, list[tuple[int, int]]]] = []
        for at in range(0, len(chats), TOGETHER):
            asked = {"template": self.template, "chats": chats[at : at + TOGETHER], "marked": marked, "seconds": self.seconds}
            found = self._ask(asked)
            written += [(text, [(a, b) for a, b in spans]) for text, spans in zip(found["texts"], found["spans"], strict=True)]
        return written

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The child's answer. One that is late, or that died, is ended; the next question finds another."""
        try:
            found = self._started().ask(asked, self.seconds)
        except Late:
            raise DataError(f"the chat template{self.place} takes longer than {self.seconds:g} seconds") from None
        except BrokenPipeError:
            raise DataError(
                f"the chat template{self.place} needs more time or memory than it may have: its process died"
            ) from None
        except (TypeError, ValueError) as error:
            raise DataError(f"a conversation holds what JSON cannot: {error}") from None
        if "error" in found:
            raise DataError(f"the chat template{self.place} {found['error']}")
        return found

    def _started(self) -> Child:
        """The child, which can hear; a new one where there is none."""
        if self._child is None or self._child.gone:
            self.close()
            found = importlib.util.find_spec("jinja2")
            place = str(Path(found.origin).parents[1]) if found and found.origin else ""
            script = str(Path(__file__).with_name("rendering.py"))
            self._child = Child([script, str(self.megabytes), place])
            if "error" in self._child.greeting:
                raise DataError(f"the chat template{self.place} {self._child.greeting['error']}")
        return self._child

    def close(self) -> None:
        """End the template's process, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __reduce__(self) -> Any:
        return _again, (self.template, self.named, self.seconds, self.megabytes, self.place)


def _again(template: str, named: dict[str, str], seconds: float, megabytes: int, place: str) -> Chat:
    return Chat(template, named, seconds=seconds, megabytes=megabytes, place=place)


def templates(folder: Path) -> dict[str, str]:
    """Every chat template of a folder by its name; "default" is the one that is meant where nobody says which."""
    said = config_of(folder)[0].get("chat_template")
    found: dict[str, str] = {}
    if isinstance(said, str):
        found["default"] = said
    elif isinstance(said, list):
        for one in said:
            if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not isinstance(one.get("template"), str):
                raise DataError(f"{folder}/tokenizer_config.json holds a chat template without its 'name' and 'template'")
            found[one["name"]] = one["template"]
    elif said is not None:
        raise DataError(f"{folder}/tokenizer_config.json has a {type(said).__name__} for a chat_template, not a text or a list")
    files = {"default": folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    return {**found, **{name: path.read_text(encoding="utf-8") for name, path in files.items() if path.is_file()}}


def _checked(number: int, conversation: Any) -> list[Message]:
    """A conversation that templates can read.

    Raises:
        DataError: it is no list of messages with roles.
    """
    if isinstance(conversation, str | Mapping) or not isinstance(conversation, Sequence) or not conversation:
        raise DataError(f"conversation {number} is no list of messages but {_short(conversation)}")
    for place, message in enumerate(conversation):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"message {place} of conversation {number} has no 'role': {_short(message)}")
    return list(conversation)


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else said[:57] + "..."
