"""Generated code is held in: what thirty-odd attacks come to, as root and as a user, with each kind of walls. Forged verdicts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attacks
import pytest

import maquette.sandbox as sandboxes
from maquette.sandbox import Limits, Sandbox, Uncontained
from maquette.sandbox.inside import told

HERE = Path(__file__).parent
NOBODY = 65534
US = "whoever runs this"
STRONG = [(US, "namespaces"), (US, "bubblewrap"), ("nobody", "bubblewrap"), ("nobody", "namespaces")]
OPEN = {"a file", "many files", "homes", "memory of others", "writing", "environments of others"}
SLOW = pytest.mark.slow


def interpreter(user: str, mode: str) -> str:
    """A Python that this user can start; one that others can, where root's programs run as another without walls."""
    if user != "nobody" and (mode != "limits" or os.geteuid()):
        return sys.executable
    if os.geteuid():
        pytest.skip("only root can be another user")
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        asked = [path, "-I", "-c", "import ctypes, sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(asked, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True).returncode == 0:
                return path
        except OSError:
            continue
    pytest.skip("no Python of 3.11 or newer that other users can start")


def attacked(user: str, mode: str) -> dict[str, Any]:
    """What becomes of every attack."""
    if sys.platform != "linux":
        pytest.skip("walls are Linux's own")
    if mode == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    words = [interpreter(user, mode), "-B", str(HERE / "attacks.py"), mode]
    as_user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if user == "nobody" else {}
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(words, env=env, cwd="/", capture_output=True, text=True, timeout=200, **as_user)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if "refused" in found:
        assert mode == "namespaces" or "interpreter" in found["refused"] or mode == "limits", found["refused"]
        pytest.skip(found["refused"])
    return found


@pytest.mark.parametrize(("user", "mode"), [STRONG[0], *(pytest.param(*case, marks=SLOW) for case in STRONG[1:])])
def test_every_attack_is_contained_and_no_verdict_forged(user, mode):
    found = attacked(user, mode)
    assert found["weak"] == [] and tuple(found["honest"][1]) == attacks.RIGHT
    assert len(attacks.HARM) >= 25 and len(attacks.FORGED) >= 5
    assert {name for name in attacks.HARM if any("got" in value for value in found[name][1])} == set()
    assert {name for name in attacks.FORGED if tuple(found[name][1]) == attacks.RIGHT} == set()
    assert found["left"] == [0, ["secret", "socket"]]  # no process, and no file
    ended = {name: found[name][0] for name in attacks.HARM}
    assert ended["endless"] == ended["asleep"] == "time" and ended["crash"] == "killed" and ended["output"] == "output"
    assert ended["answer without end"] == "output" and ended["memory at once"] == "memory" and found["output"][3] <= 1 << 17
    assert ended["disk"] == "file size" and "No space" in found["many files"][2]
    assert found["leaving at once"][0] == "quiet"


@SLOW
@pytest.mark.parametrize("user", [US, "nobody"])
def test_limits_alone_say_what_they_leave_open(user):
    found = attacked(user, "limits")
    assert "it reads files of this user's" in found["weak"]
    assert {name for name in attacks.HARM if any("got" in value for value in found[name][1])} <= OPEN
    assert {name for name in attacks.FORGED if tuple(found[name][1]) == attacks.RIGHT} == set()
    assert found["left"][0] == 0


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(limits=Limits(seconds=10.0), imports=("colorsys",)) as made:
        try:
            yield made.start()
        except Uncontained as error:
            pytest.skip(str(error))


def test_programs_know_nothing_of_each_other(sandbox):
    first = sandbox.run("open('kept', 'w').close()\nimport builtins, colorsys\nbuiltins.kept = colorsys.kept = 1", ["1"])
    program = (
        "import os, builtins, colorsys as c\ndef f():\n    return os.listdir('.'), *(hasattr(m, 'kept') for m in (builtins, c))"
    )
    assert first.values == ("1",) and sandbox.run(program, ["f()"]).values == (told(([], False, False)),)


def test_an_outcome_tells_what_happened(sandbox):
    done = sandbox.run("print('hello')\ndef f(x):\n    return [1] * x", ["f(2)", "f('a')", "f(1)"])
    assert (done.ended, done.values, done.output) == ("failed", ("list(1, 1)",), "hello\n")
    assert "line 3 of <program>, in f" in done.error and "TypeError" in done.error and str(HERE.parent) not in done.error
    assert sandbox.run("def f(:\n  pass").error.endswith("SyntaxError: invalid syntax\n")
    shown = sandbox.run("def f(x):\n    return 1 / x", ["f(4)", "x = 3", "print('a')", "f(0)"], shown=True)
    assert shown.values == ("0.25\n", "", "a\n", "Traceback (most recent call last):\nZeroDivisionError: division by zero\n")


def test_equal_values_of_equal_types_are_told_alike_and_no_others():
    values = [1, 1.0, True, "1", b"1", (1,), [1], {1}, {1: 2}, None, [[1], 1], [1, [1]], frozenset({1})]
    assert len({told(value) for value in values}) == len(values)
    assert told({1: 2, 3: 4}) == told({3: 4, 1: 2}) and told({"a", "b"}) == told({"b", "a"})
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    assert "<list>" in told(deep) and told(object()) == "<object>" and told(10**5000) == "<long>"


def test_a_hole_is_found_by_the_self_test_and_named(monkeypatch):
    """Limits alone, held to what walls hold: the programs of the self-test get out, and nothing is run."""
    monkeypatch.setattr(sandboxes, "_WEAK", set())
    with pytest.raises(Uncontained, match=r"limits: (it reads files of this user's|.*can(not)? read Python's library)"):
        Sandbox("limits").start()


def test_without_walls_nothing_runs_and_the_way_to_them_is_named(monkeypatch):
    monkeypatch.setattr(sandboxes.shutil, "which", lambda name: None)
    monkeypatch.setattr(sandboxes.Sandbox, "_warden", lambda self, mode: (_ for _ in ()).throw(Uncontained("unshare: refused")))
    with pytest.raises(
        Uncontained, match=r"bubblewrap: it is not installed \(apt-get .*namespaces: unshare: refused.*mode='limits'"
    ):
        Sandbox().run("print(1)")


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match=r"mode of a sandbox is 'bubble'; allowed are auto, .*nearest is 'bubblewrap'"):
        Sandbox("bubble")
    with pytest.raises(ValueError, match="megabytes of a program is 0; it must be a whole number above 0"):
        Limits(megabytes=0)
