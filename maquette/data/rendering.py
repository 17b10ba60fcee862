"""Writes conversations as a chat template says: a program of its own, which `chats` runs, because templates are other people's.

Imports nothing of maquette. Knows jinja2 and the names that the hub's templates use. One request and one answer a line, as JSON.
"""

from __future__ import annotations

import datetime
import json
import secrets
import sys
from typing import Any

LONGEST = 1 << 24  # characters of a conversation
OLDEST = (3, 1, 6)  # jinja2's older sandboxes are known to leak


class Refused(Exception):
    """Why nothing is written."""


def environment(marks: tuple[str, str]) -> Any:
    """Where templates run: a sandbox whose data cannot be changed, with the hub's names; `generation` between the marks."""
    import jinja2.debug  # before files may no longer be opened
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
    import jinja2.utils

    if tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit()) < OLDEST:
        raise Refused(f"jinja2 {jinja2.__version__} is too old for other people's templates: pip install 'jinja2>=3.1.6'")

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

        def said(self, caller: Any) -> str:
            return f"{marks[0]}{caller()}{marks[1]}" if made.marking else str(caller())

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        marking = False
        kept: tuple[str, Any] = ("", None)  # a template and what it was compiled to

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise jinja2.sandbox.SecurityError(f"{attribute!r} of a {type(obj).__name__} is not for templates")

    class Namespace(jinja2.utils.Namespace):
        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise jinja2.sandbox.SecurityError(f"a namespace has no place for {name!r}")
            super().__setitem__(name, value)

    def namespace(**values: Any) -> Any:
        made = Namespace()
        for name, value in values.items():
            made[name] = value
        return made

    def raise_exception(message: str) -> None:
        raise Refused(f"says: {message}")

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def table(*pairs: Any, **values: Any) -> dict[Any, Any]:
        return dict(*pairs, **values)

    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals.pop("lipsum", None)
    made.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=namespace, dict=table)
    return made


def limit(megabytes: int) -> None:
    """No more memory than that, no file, no other process; where the system has such limits."""
    try:
        import resource
    except ImportError:
        return
    bounds = {"AS": megabytes << 20, "FSIZE": 0, "NOFILE": 3, "NPROC": 0, "CORE": 0}
    for name, bound in bounds.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (bound, bound))
        except (AttributeError, ValueError, OSError):  # not this system's
            continue


def spend(seconds: float) -> None:
    """From now on no more than this of the processor: whoever started this may be gone, and not end it."""
    try:
        import resource
    except ImportError:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 2, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def cut(text: str, marks: tuple[str, str]) -> tuple[str, list[list[int]]]:
    """A text without its marks, and the stretches that lay between them."""
    parts, spans, at = [], [], 0
    for part in text.split(marks[0]):
        inside, mark, after = part.partition(marks[1])
        if mark:
            spans.append([at, at + len(inside)])
        parts += [inside, after]
        at += len(inside) + len(after)
    return "".join(parts), spans


def answer(environment: Any, asked: dict[str, Any], marks: tuple[str, str]) -> dict[str, Any]:
    """What the template makes of each conversation."""
    environment.marking = bool(asked["marked"])
    if environment.kept[0] != asked["template"]:
        environment.kept = asked["template"], environment.from_string(asked["template"])
    template = environment.kept[1]
    texts, spans = [], []
    for values in asked["chats"]:
        written = template.render(**values)
        if len(written) > LONGEST:
            raise Refused(f"writes {len(written):,} characters; {LONGEST:,} are the most")
        text, said = cut(written, marks)
        texts.append(text)
        spans.append(said)
    return {"texts": texts, "spans": spans}


def tried(environment: Any, line: str, marks: tuple[str, str]) -> dict[str, Any]:
    """The same, or why not."""
    import jinja2

    try:
        asked = json.loads(line)
        spend(asked["seconds"])
        return answer(environment, asked, marks)
    except Refused as error:
        return {"error": str(error)}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"is no template: {error.message} in line {error.lineno}"}
    except jinja2.sandbox.SecurityError as error:
        return {"error": f"reaches for what it may not have: {error}"}
    except MemoryError:
        return {"error": "needs more memory than it may have"}
    except RecursionError:
        return {"error": "calls itself without end"}
    except Exception as error:
        return {"error": f"fails: {type(error).__name__}: {error}"}


def main() -> None:
    """Answer until there is nothing more to read. argv: megabytes, and where jinja2 lies."""
    sys.path.append(sys.argv[2])
    marks = (f"\u0002{secrets.token_hex(8)}\u0002", f"\u0003{secrets.token_hex(8)}\u0003")
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        made = environment(marks)
    except (Refused, ImportError) as error:
        print(json.dumps({"error": f"cannot be rendered: {error}"}), flush=True)
        return
    first = {"template": "{{ [1]|tojson }}{{ strftime_now('%Y') }}{% break %}", "chats": [{}], "marked": False, "seconds": 60}
    tried(made, json.dumps(first), marks)  # whatever is imported late is imported now
    limit(int(sys.argv[1]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(tried(made, line, marks)), flush=True)


if __name__ == "__main__":
    main()
