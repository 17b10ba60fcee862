"""What runs inside the walls: ties its own hands, runs a program nobody trusts, and tells what its calls gave.

Standard library alone, nothing of maquette: it is also started as a script by itself. It knows what to compute, never what is
right: whoever asked compares, elsewhere, so that nothing done in here can make a wrong answer pass.
"""

from __future__ import annotations

import _signal
import ctypes
import os
import struct
import sys
from _json import encode_basestring_ascii as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:  # what typing and json stand on takes longer to import than all the rest
    from collections.abc import Callable
    from typing import Any

DEEPEST, LONGEST = 40, 1 << 18  # of a value that is told: nested so, of so many characters
UNUSUAL = 97  # exit code where the walls or the ties could not be made
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS = {  # system calls that no function needs: (on x86_64, on aarch64)
    "socket": (41, 198),
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "init_module": (175, 105),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
}
_SIGNALS = ((62, 129), (200, 130), (234, 131), (129, 138), (297, 240))  # kill, tkill, tgkill, and those that send more
_NEWER = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442)  # one number everywhere: io_uring, mounts, pidfd_getfd
_CLONE, _CLONE3 = (56, 220), 435
_NAMESPACES = 0x7E020000  # flags of clone that make any


class Untied(OSError):
    """A limit that could not be set."""


# -- the ties ------------------------------------------------------------------------------------------------------------


def quieted(libc: Any, walled: bool) -> None:
    """No system calls that reach for the network, other processes, mounts, keys or new namespaces; where the kernel can filter.

    A filter of classic BPF (seccomp, mode 2), for good; sockets are refused even where the network is not walled off, and where
    other processes are not, no signal is sent.
    """
    machine = os.uname().machine
    if machine not in _ARCH:
        return
    which = list(_ARCH).index(machine)

    def step(code: int, jump: int, other: int, value: int) -> bytes:
        return struct.pack("HBBI", code, jump, other, value)

    load, equal, above, any_of, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = step(answer, 0, 0, 0x7FFF0000), step(answer, 0, 0, 0x80000000)
    refuse, unknown = step(answer, 0, 0, 0x00050001), step(answer, 0, 0, 0x00050026)  # EPERM, ENOSYS
    lines = [step(load, 0, 0, 4), step(equal, 1, 0, _ARCH[machine]), kill, step(load, 0, 0, 0)]
    if machine == "x86_64":
        lines += [step(above, 0, 1, 0x40000000), refuse]  # x32's numbers
    calls = [*_CALLS.values(), *(() if walled else _SIGNALS)]
    for call in (*(numbers[which] for numbers in calls), *_NEWER):
        lines += [step(equal, 0, 1, call), refuse]
    lines += [step(equal, 0, 1, _CLONE3), unknown]  # its flags lie in memory; C libraries then take clone
    lines += [step(equal, 0, 3, _CLONE[which]), step(load, 0, 0, 16), step(any_of, 0, 1, _NAMESPACES), refuse, allow]
    table = b"".join(lines)
    kept = ctypes.create_string_buffer(table, len(table))
    program = ctypes.create_string_buffer(struct.pack("HP", len(lines), ctypes.addressof(kept)))
    if libc.prctl(22, 2, ctypes.byref(program), 0, 0):
        raise Untied(ctypes.get_errno(), "seccomp")


def lowered(libc: Any, uid: int) -> None:
    """No privilege, now or later; another user where `uid` is not 0. Not even a debugger's hold by the same user."""
    if libc.prctl(38, 1, 0, 0, 0):  # whatever is executed gains nothing
        raise Untied(ctypes.get_errno(), "no_new_privs")
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # no executable brings it back
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    none = struct.pack("IIIIII", 0, 0, 0, 0, 0, 0)
    if libc.capset(struct.pack("Ii", 0x20080522, 0), none):
        raise Untied(ctypes.get_errno(), "capset")
    libc.prctl(4, 0, 0, 0, 0)  # whoever comes after, as the same user, gets no hold of this one's memory


def alone(processes: int) -> None:
    """No more processes and threads than these, itself among them.

    How many already count against this user's limit differs between kernels and namespaces, so that it is tried out.
    """
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    room = hard if hard != resource.RLIM_INFINITY else 1 << 20

    def forks(most: int) -> bool:
        resource.setrlimit(resource.RLIMIT_NPROC, (most, hard))
        try:
            child = os.fork()
        except OSError:
            return False
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return True

    if forks(1):
        raise Untied(1, "processes are not limited for this user")
    low, high = 1, 2
    while not forks(high):
        if high >= room:
            raise Untied(1, "this user may have no process more")
        low, high = high, min(high * 2, room)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if forks(middle) else (middle, high)
    most = low + processes - 1  # at `low` there is room for none beside this one
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def bounded(limits: dict[str, Any], base: int) -> None:
    """The limits that a process has of itself. `base`: bytes of address space that it had before."""
    import resource  # not every system has it, and `told` is for all

    memory = base + (limits["megabytes"] << 20)
    bounds = {"AS": memory, "CPU": limits["cpu"] + 1, "FSIZE": limits["file"] << 20, "NOFILE": 64, "CORE": 0}
    bounds |= {"MEMLOCK": 0, "MSGQUEUE": 0, "RTPRIO": 0, "NICE": 0, "SIGPENDING": 64}
    for name, bound in bounds.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            top = resource.getrlimit(kind)[1]
            least = bound if top == resource.RLIM_INFINITY else min(bound, top)
            soft = least - 1 if name == "CPU" else least  # at the hard limit a process is killed without a word of why
            resource.setrlimit(kind, (soft, least))


def readable() -> None:
    """Raises Untied: whoever runs here now cannot read the interpreter's own library."""
    place = os.path.dirname(os.__file__)
    if not os.access(os.path.join(place, "os.py"), os.R_OK):
        raise Untied(13, f"user {os.geteuid()} cannot read Python's library in {place}; install Python where all users can")


def tied(limits: dict[str, Any], base: int, uid: int, walled: bool) -> None:
    """All of these.

    Raises:
        OSError: one of them cannot be.
    """
    for number in range(1, _signal.NSIG):  # nothing of whoever forked this
        if number not in (_signal.SIGKILL, _signal.SIGSTOP) and _signal.getsignal(number) not in (None, _signal.SIG_DFL):
            _signal.signal(number, _signal.SIG_DFL)
    bounded(limits, base)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        lowered(libc, uid)
        readable()
        alone(limits["processes"])
        quieted(libc, walled)
    else:
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        alone(limits["processes"])


# -- the program ---------------------------------------------------------------------------------------------------------


def told(value: Any, deep: int = 0) -> str:
    """A value as text, the same for equal values of the same types and for no others; "<...>" for what is no plain value."""
    kind = type(value)
    if kind in _PLAIN:
        try:
            return repr(value)
        except ValueError:  # an int of thousands of digits
            return "<long>"
    if kind not in (list, tuple, set, frozenset, dict) or deep == DEEPEST:
        return f"<{kind.__name__}>"
    if kind is dict:
        parts = sorted(f"{told(k, deep + 1)}: {told(v, deep + 1)}" for k, v in value.items())
    else:
        parts = [told(one, deep + 1) for one in value]
        parts = sorted(parts) if kind in (set, frozenset) else parts
    return f"{kind.__name__}({', '.join(parts)})"


def perform(asked: dict[str, Any]) -> dict[str, Any]:
    """Run a program, then its calls: {"values": what each gave, as far as they went, "error": the traceback of what ended it}.

    asked: "program"; "calls", expressions whose values are told, or, where "shown", lines as at Python's own prompt, of which
    what is printed is told.
    """
    space: dict[str, Any] = {"__name__": "program", "__builtins__": __builtins__}
    values: list[str] = []
    one = shown if asked["shown"] else valued
    try:
        exec(compile(asked["program"], "<program>", "exec"), space)
        for call in asked["calls"]:
            values.append(one(call, space)[:LONGEST])
    except BaseException as error:
        return {"values": values, "error": _traced(error)}
    return {"values": values, "error": ""}


def valued(call: str, space: dict[str, Any]) -> str:
    return told(eval(compile(call, "<call>", "eval"), space))


def shown(call: str, space: dict[str, Any]) -> str:
    """What Python's prompt would show, the last line of a traceback included."""
    import io

    kept, out = io.StringIO(), sys.stdout
    sys.stdout = kept
    sys.displayhook = sys.__displayhook__
    try:
        exec(compile(call, "<call>", "single"), space)
    except Exception as error:
        import traceback

        kept.write("Traceback (most recent call last):\n" + traceback.format_exception_only(error)[-1])
    finally:
        sys.stdout = out
    return kept.getvalue()


def _traced(error: BaseException) -> str:
    """The part of a traceback that lies in the program."""
    try:
        import traceback

        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in ("<program>", "<call>")]
        lines = [f"line {frame.lineno} of {frame.filename}, in {frame.name}" for frame in own[-8:]]
        return "\n".join([*lines, *traceback.format_exception_only(error)])[-4000:]
    except BaseException:
        return "an error that cannot be told"


def serve(asked: dict[str, Any], answers: int, ready: Callable[[], None]) -> None:
    """Be tied, say so, perform, answer on a file descriptor, and end. Never returns."""
    try:
        tied(asked["limits"], asked["base"], asked["uid"], asked["walled"])
        ready()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(UNUSUAL)
    try:
        found = perform(asked)
        values = ", ".join(map(quoted, found["values"]))
        raw = f'{{"values": [{values}], "error": {quoted(found["error"])}}}'.encode()
        while raw:
            raw = raw[os.write(answers, raw) :]
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}\n".encode())
    os._exit(0)


def main() -> None:
    """As a script: the request on the standard input, the answer on file descriptor `argv[1]`, a sign when ready on `argv[2]`."""
    answers, ready = int(sys.argv[1]), int(sys.argv[2])
    with open(0, "rb", closefd=False) as source:
        asked = eval(source.read())  # a literal that the warden wrote
    sys.path[:] = asked["path"]
    null = os.open("/dev/null", os.O_RDONLY)
    kept = [os.dup2(end, 60 + place) for place, end in enumerate((null, answers, ready))]
    for place, end in zip((0, 3, 4), kept, strict=True):
        os.dup2(end, place)
    os.closerange(5, 4096)

    def sign() -> None:
        os.write(4, b"1")
        os.close(4)

    serve(asked, 3, sign)


if __name__ == "__main__":
    main()
