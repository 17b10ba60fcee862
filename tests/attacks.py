"""Thirty programs that try to do harm or to pass without being right, and what must have become of each. No test by itself.

`python attacks.py MODE` runs all of them and writes what became of them as JSON: so also as a user with no rights, by another
Python. Imports maquette's sandbox alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from maquette.sandbox import Limits, Outcome, Sandbox, Uncontained

CALLS = ("f(3)", "f(4)")
RIGHT = ("1234576", "1234583")  # known to whoever asks, never to the program
HONEST = "def f(x):\n    return x * x + 1111 * 1111 + 246\n"

# name -> program; each puts "got" into what `f` gives if it gets what it wants
HARM: dict[str, str] = {
    "fork bomb": """
import os
made = 0
try:
    while made < 500:
        os.fork()
        made += 1
except OSError:
    pass
def f(x):
    return 'got' if made > 1 else 'not'
""",
    "threads": """
import threading, time
made = 0
try:
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
        made += 1
except RuntimeError:
    pass
def f(x):
    return 'got' if made else 'not'
""",
    "memory": """
kept = []
def f(x):
    while True:
        kept.append(bytearray(1 << 24))
""",
    "memory at once": """
def f(x):
    bytearray(1 << 40)
    return 'got'
""",
    "disk": """
def f(x):
    with open('large', 'wb') as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    return 'got'
""",
    "many files": """
def f(x):
    for i in range(4):
        with open(f'large{i}', 'wb') as file:
            file.write(bytes(3 << 20))
    return 'got'
""",
    "network": """
import socket
def f(x):
    socket.create_connection(('127.0.0.1', {port}), 1)
    return 'got'
""",
    "cloud's metadata": """
import socket
def f(x):
    socket.create_connection(('169.254.169.254', 80), 1)
    return 'got'
""",
    "a name looked up": """
import socket
def f(x):
    socket.getaddrinfo('example.org', 80)
    return 'got'
""",
    "another program's socket": """
import socket
def f(x):
    socket.socket(socket.AF_UNIX).connect('{folder}/socket')
    return 'got'
""",
    "raw packets": """
import socket
def f(x):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    return 'got'
""",
    "a file": """
def f(x):
    return open('{folder}/secret').read()
""",
    "passwords": """
def f(x):
    return 'got' if open('/etc/shadow').read() or open('/etc/passwd').read() else ''
""",
    "homes": """
import os
def f(x):
    found = [n for p in ('/home', '/root', '{home}') if os.path.isdir(p)
             for n in os.listdir(p)]
    return 'got' if any(not n.startswith('.pyenv') for n in found) else 'not'
""",
    "environment": """
import os
def f(x):
    return 'got' if any('hidden' in v for v in os.environ.values()) else 'not'
""",
    "environments of others": """
import os
def f(x):
    return ['got' for p in os.listdir('/proc') if p.isdigit()
            and b'hidden' in open(f'/proc/{p}/environ', 'rb').read()]
""",
    "memory of others": """
def f(x):
    return 'got' if open('/proc/1/mem', 'rb') or open('/proc/{process}/maps').read() else ''
""",
    "writing": """
import os, sys
def f(x):
    for place in ('{folder}', '/usr/lib', '/', sys.prefix, os.path.dirname(os.__file__), '/dev'):
        try:
            open(place + '/new', 'w').close()
            return 'got'
        except OSError:
            pass
""",
    "signals": """
import os
def f(x):
    os.kill({process}, 0)
    return 'got'
""",
    "signals to all": """
import os, signal
signal.signal(15, signal.SIG_IGN)
os.kill(-1, 15)
os.kill(os.getppid(), 9)
def f(x):
    return 'not'
""",
    "debugger": """
import ctypes
def f(x):
    return 'got' if ctypes.CDLL(None).ptrace(16, {process}, 0, 0) == 0 else 'not'
""",
    "debugger on the first": """
import ctypes, os
def f(x):
    return 'got' if ctypes.CDLL(None).ptrace(16, os.getppid() or 1, 0, 0) == 0 else 'not'
""",
    "rights": """
import os
def f(x):
    os.setuid(0)
    return 'got'
""",
    "namespaces": """
import ctypes
def f(x):
    return 'got' if ctypes.CDLL(None).unshare(0x10000000) == 0 else 'not'
""",
    "mounts": """
import ctypes
def f(x):
    return 'got' if ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, b'') == 0 else 'not'
""",
    "limits raised": """
import resource
def f(x):
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    return 'got'
""",
    "endless": """
def f(x):
    while True:
        pass
""",
    "asleep": """
import time
def f(x):
    time.sleep(60)
""",
    "deep": """
import sys
sys.setrecursionlimit(1 << 30)
def f(x):
    return f(x)
""",
    "output": """
import os
def f(x):
    while True:
        os.write(1, bytes(1 << 16))
""",
    "answer without end": """
import os
def f(x):
    while True:
        os.write(3, b'[' * 65536)
""",
    "daemon": """
import os, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
    return 'got'
""",
    "crash": """
import ctypes
def f(x):
    ctypes.string_at(0)
""",
}
# programs that are wrong and would pass: none of them knows what is right
FORGED: dict[str, str] = {
    "leaving": """
import sys
def f(x):
    sys.exit(0)
""",
    "leaving at once": """
import os
os._exit(0)
""",
    "saying so": """
print('PASS'); print('OK', flush=True)
def f(x):
    return 'PASS'
""",
    "equal to all": """
class All(int):
    def __eq__(self, other):
        return True
    def __repr__(self):
        return '9'
    __hash__ = int.__hash__

def f(x):
    return All()
""",
    "built-ins": """
import builtins
builtins.repr = lambda x: '9'
builtins.eval = builtins.exec = lambda *a: 9
builtins.all = lambda x: True
builtins.compile = lambda *a: None
""",
    "its own answer": """
import os
os.write(3, b'{"values": ["PASS", "PASS"], "error": ""}')
os._exit(0)
""",
    "its caller": """
import sys
frame = sys._getframe()
while frame:
    for name, value in list(frame.f_locals.items()):
        if isinstance(value, list):
            value[:] = ['True'] * 2
    frame = frame.f_back
import os

def f(x):
    return True
""",
    "its judge": """
import gc, sys
for module in list(sys.modules.values()):
    for name in ('told', 'valued', 'perform', 'shown'):
        if hasattr(module, name):
            setattr(module, name, lambda *a: 'True')
def f(x):
    return None
""",
    "what is remembered": """
import gc
begins = ''.join(map(chr, (49, 50, 51, 52, 53)))
found = []
for held in gc.get_objects():
    if isinstance(held, (list, tuple, dict, set)):
        for one in list(held.values() if isinstance(held, dict) else held):
            if isinstance(one, str) and begins in one and len(one) < 9:
                found.append(int(one))
found = sorted(set(found))
def f(x):
    return found[x - 3]
""",
    "a number of another kind": """
class Int(int):
    pass
Int.__name__ = 'int'
def f(x):
    right = x * x + 1111 * 1111 + 246
    return Int(right) if x > 3 else float(right)
""",
}


def limits() -> Limits:
    return Limits(seconds=2.0, cpu=1, megabytes=64, scratch=8, file=4)


def attacked(mode: str) -> dict[str, Any]:
    """What became of each program: name -> [ended, values, error], and what is left of them afterwards."""
    told: dict[str, Any] = {}
    os.environ["MAQUETTE_SECRET"] = "hidden"
    with tempfile.TemporaryDirectory() as folder, Sandbox(mode, limits()) as sandbox:
        os.chmod(folder, 0o755)
        Path(folder, "secret").write_text("got")
        heard = socket.socket(socket.AF_UNIX)
        heard.bind(f"{folder}/socket")
        os.chmod(f"{folder}/socket", 0o777)
        heard.listen()
        near = socket.create_server(("127.0.0.1", 0))
        names = {"folder": folder, "port": near.getsockname()[1], "process": os.getpid(), "home": os.path.expanduser("~")}
        told["weak"] = list(sandbox.start().weak)
        before = running()
        for name, program in {"honest": HONEST, **HARM, **FORGED}.items():
            if name in HARM:
                for word, value in names.items():
                    program = program.replace(f"{{{word}}}", str(value))
            told[name] = _plain(sandbox.run(program, CALLS if name not in HARM else CALLS[:1]))
        time.sleep(0.1)
        told["left"] = [running() - before, sorted(os.listdir(folder))]
        heard.close()
        near.close()
    return told


def _plain(outcome: Outcome) -> list[Any]:
    return [outcome.ended, list(outcome.values), outcome.error[-300:], len(outcome.output)]


def running() -> int:
    """Processes below this one."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue

    def below(process: int) -> int:
        return sum(1 + below(child) for child, parent in parents.items() if parent == process)

    return below(os.getpid())


if __name__ == "__main__":
    try:
        print(json.dumps(attacked(sys.argv[1])))
    except Uncontained as error:
        print(json.dumps({"refused": str(error)}))
