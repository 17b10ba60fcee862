"""Walls around a process, of the kernel's own: namespaces, and a file system of which hardly anything is left.

Standard library alone, nothing of maquette. Linux; for root and for users who may make namespaces of their own. Knows what is to
be seen inside; not what runs there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

DEVICES = ("null", "zero", "urandom", "random")
SCRATCH = "/tmp"
INNER = 1000  # the user's number inside
_NEW = {"user": 0x10000000, "mount": 0x20000, "net": 0x40000000, "pid": 0x20000000, "ipc": 0x08000000, "uts": 0x04000000}
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH, _SETATTR, _RECURSIVE, _AT_FDCWD = 2, 442, 0x8000, -100


def seen() -> list[str]:
    """What is to be seen inside, read-only: the system's libraries, this interpreter's, and what is installed beside it."""
    paths = sysconfig.get_paths()
    wanted = ["/usr", "/lib", "/lib64", "/lib32", "/nix/store", "/gnu/store", "/etc/ld.so.cache"]
    wanted += [sys.base_prefix, sys.prefix, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    wanted += [str(Path(sys.executable).resolve().parents[1])]
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
        wanted += sorted({os.path.dirname(name) for name in re.findall(r"(/\S+\.so[.\d]*)$", maps, re.MULTILINE)})
    home = os.path.realpath(os.path.expanduser("~"))
    kept: list[str] = []
    for path in wanted:
        path = os.path.normpath(path)
        covered = any(path == one or path.startswith(one + "/") for one in kept)
        bare = path == "/" or home == path or home.startswith(path + "/")
        if not covered and not (bare and path not in ("/usr", "/lib", "/lib64")) and os.path.lexists(path):
            kept.append(path)
    return kept


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _did(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str, flags: int, told: str = "") -> None:
    done = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), told.encode())
    _did(done, f"mount {target}")


def _closed(libc: ctypes.CDLL, target: str) -> None:
    """Make what is mounted somewhere read-only, with all that lies below; no device, no set-user-id."""
    told = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID | _NODEV, 0, 0, 0)
    done = libc.syscall(_SETATTR, _AT_FDCWD, target.encode(), _RECURSIVE, ctypes.byref(told), ctypes.c_size_t(32))
    if done:  # before Linux 5.12: what lies below stays as it is, and what was forbidden has to be said again
        kept = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)
        _mount(libc, "", target, "", _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | kept)


def _furnished(libc: ctypes.CDLL, paths: Sequence[str], scratch: int, uid: int) -> None:
    """A root of its own: some paths, four devices, and a scratch folder of so many megabytes. The rest of the system is gone."""
    root = "/proc"  # a folder that every system has and that nothing is bound from
    _mount(libc, "", "/", "", _REC | _PRIVATE)
    _mount(libc, "tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,nr_inodes=4k,mode=0755")
    for path in paths:
        place = root + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), place)
            continue
        if os.path.isdir(path):
            os.makedirs(place, exist_ok=True)
        else:
            os.close(os.open(place, os.O_CREAT))
        _mount(libc, path, place, "", _BIND | _REC)
        _closed(libc, place)
    os.makedirs(f"{root}/dev", exist_ok=True)
    for name in DEVICES:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT))
        _mount(libc, f"/dev/{name}", f"{root}/dev/{name}", "", _BIND)
    if not os.path.isdir(root + SCRATCH):
        os.makedirs(root + SCRATCH)
    told = f"size={scratch}m,nr_inodes=1k,mode=0700,uid={uid},gid={uid}"
    _mount(libc, "tmpfs", root + SCRATCH, "tmpfs", _NOSUID | _NODEV, told)
    os.chdir(root)
    _did(libc.pivot_root(b".", b"."), "pivot_root")
    _did(libc.umount2(b".", _DETACH), "umount2")
    os.chdir("/")
    _mount(libc, "", "/", "", _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)
    os.chdir(SCRATCH)


def mapped(process: int, outer: int, root: bool) -> None:
    """Say who is who in a process's new user namespace, from outside: its own user, and where this is `root`, another one."""
    lines = f"0 0 1\n{INNER} {outer} 1\n" if root else f"{INNER} {outer} 1\n"
    groups = lines if root else f"{INNER} {os.getegid()} 1\n"
    if not root:
        Path(f"/proc/{process}/setgroups").write_text("deny")
    for name, said in (("uid_map", lines), ("gid_map", groups)):
        Path(f"/proc/{process}/{name}").write_text(said)


def enclosed(paths: Sequence[str], scratch: int, unshared: Callable[[], None], root: bool, run: Callable[[], None]) -> None:
    """Put walls around this process, and run something inside, as the first child of the first process there. Never returns.

    Args:
        unshared: called when the namespaces are made; returns when `mapped` has been called outside.
        root: whether the first process is the real root: `run` is to lower itself to INNER then.
    """
    libc = _libc()
    _did(libc.unshare(sum(_NEW.values())), "unshare")
    libc.prctl(4, 1, 0, 0, 0)
    unshared()
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # with whoever started this
    first = os.fork()
    if first:
        os._exit(_code(os.waitpid(first, 0)[1]))
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    _furnished(libc, paths, scratch, INNER)
    os.setsid()
    libc.prctl(4, 0, 0, 0, 0)  # the same user inside gets no hold of this process
    inner = os.fork()
    if inner == 0:
        run()
        os._exit(0)
    while True:  # as the first process of its namespace: when it ends, the kernel ends whatever else is left there
        gone, status = os.wait()
        if gone == inner:
            os._exit(_code(status))


def _code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
