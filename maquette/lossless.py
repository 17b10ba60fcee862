"""Lossless coding with a model: the symbols of a code <-> as many bits as an exact autoregressive likelihood says they hold.

Knows a system's causal network "main", its memory and its condition; not what the symbols mean, nor any file but its own.

Decoding needs the very logits that encoding had. Both therefore take the same path: as many rows at once, one symbol at a
time, the same memory, float32, as many threads. The file says which weights wrote it and what they answer to a question
(`probe`), so that another machine's arithmetic is refused before it makes garbage, and ends with a digest of the symbols.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from maquette.arithmetic import Decoder, Encoder
from maquette.completion import weighed
from maquette.contracts import IGNORE, Batch, Code, Condition
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

MAGIC = b"MAQZ"
FORMAT = 1
ROWS = 256  # coded side by side
MOST = 1 << 28  # symbols in a file: what claims more is not believed
PRECISION = 30  # bits of a frequency: an impossible symbol still costs no more than these


class Unreadable(ValueError):
    """Data that this system cannot code, or a file that is not whole or not this system's, and why."""


@dataclass(frozen=True)
class Packed:
    """What packing made. bits: what the model says the symbols (and what they are told) hold; `data` is that and a header."""

    data: bytes
    bits: float
    symbols: int


def pack(system: System, code: Code, about: Batch | None = None) -> Packed:
    """Symbols int64[N,T] as bytes. Shorter rows end in IGNORE, and only the last rows may be short.

    Args:
        about: what each row is told, sent with it; None = whatever the model finds likeliest, row by row.

    Raises:
        Unreadable: the system has no exact likelihood of symbols, or cannot say what it is told.
    """
    _able(system)
    if code.numel() > MOST:
        raise Unreadable(f"{code.numel():,} symbols are more than the {MOST:,} of one file: compress it in parts")
    real = (code != IGNORE).cpu()
    total, out, bits = int(real.sum()), Encoder(), 0.0
    if not torch.equal(real, _filled(len(code), code.shape[1], total)):
        raise Unreadable("a row of symbols is shorter than one below it: only the last rows of a code may be short")
    for part in _blocks(len(code)):
        rows = code[part].to(system.device)
        told = _values(system, rows, None if about is None else {k: v[part] for k, v in about.items()})
        cond, price = _tell(system, told, out)
        bits += price + _write(system, rows, real[part].sum(1), cond, out)
    head = bytes([FORMAT, min(255, torch.get_num_threads())]) + fingerprint(system) + probe(system, min(len(code), ROWS))
    body = b"".join(map(_varint, (*code.shape, total))) + digest(code) + out.finish()
    return Packed(MAGIC + head + hashlib.sha256(head + body).digest()[:4] + body, bits, total)


def unpack(system: System, data: bytes) -> tuple[Code, Batch]:
    """The symbols that `pack` was given, and what their rows are told.

    Raises:
        Unreadable: not such a file, damaged, of another model, or of a machine whose arithmetic differs.
    """
    _able(system)
    head, check, body = data[4:18], data[18:22], data[22:]
    if data[:4] != MAGIC or len(data) < 22:
        raise Unreadable("this is no file of `maquette compress`")
    if head[0] > FORMAT:
        raise Unreadable(f"this file is of format {head[0]}; this maquette reads up to {FORMAT}: upgrade it")
    if hashlib.sha256(head + body).digest()[:4] != check:
        raise Unreadable("this file is damaged: its check sum is not that of its bytes, or some of them are missing")
    if head[2:10] != fingerprint(system):
        raise Unreadable("this file was written by another model: other weights, or another checkpoint of the run")
    (rows, width, total), at = _varints(body, 3)
    if total > rows * width or rows * width > MOST:
        raise Unreadable(f"this file says that it holds {total} symbols in {rows} rows of {width}; that cannot be")
    before = torch.get_num_threads()
    torch.set_num_threads(head[1])  # another number of threads adds in another order
    try:
        if head[10:14] != probe(system, min(rows, ROWS)):
            raise Unreadable(
                "this machine, or its torch, computes this model differently in the last bit: decode where the file was written"
            )
        code, told = _read_rows(system, rows, width, total, Decoder(body[at + 8 :]))
    finally:
        torch.set_num_threads(before)
    if digest(code) != body[at : at + 8]:
        raise Unreadable("the symbols that came out are not those that went in: the model computed differently here")
    return code, told


def foresee(system: System, code: Code, cond: Condition | None) -> Iterator[Tensor]:
    """Logits [N,V] of each place of a code int64[N,T] in turn, the caller having written all before it.

    A network with memory is fed one symbol at a time. Beyond the codec's length, a new window begins with half a window of
    what came before, as in the metric bits/byte.
    """
    net, bos, window = system.steady("main"), int(system.codec.bos), int(system.codec.length)
    begin, first = code.new_full((len(code), 1), bos), 0
    memory: Any = net.begin(len(code), min(window, code.shape[1]))
    for place in range(code.shape[1]):
        new = code[:, place - 1 : place] if place > first else begin
        if place - first == window:
            first = place - window // 2
            memory, new = net.begin(len(code), window), torch.cat([begin, code[:, first:place]], 1)
        if memory is None:
            new = torch.cat([begin, code[:, first:place]], 1)
        new = new.masked_fill(new == IGNORE, bos)
        yield (net(new, cond=cond) if memory is None else net(new, cond=cond, state=memory))[:, -1]


def tables(logits: Tensor) -> np.ndarray:
    """Cumulative frequencies int64[N,V+1] of softmax(logits [N,V]): whole numbers, none of them 0.

    Raises:
        Unreadable: the logits are not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise Unreadable("the model's logits are not finite: its weights are spoilt")
    chance = logits.double().softmax(-1).cpu().numpy()
    sums = np.zeros((len(chance), chance.shape[1] + 1), np.int64)
    np.cumsum((chance * (1 << PRECISION)).astype(np.int64) + 1, axis=1, out=sums[:, 1:])
    return sums


@torch.no_grad()
def _write(system: System, code: Code, lengths: Tensor, cond: Condition | None, out: Encoder) -> float:
    """Code rows side by side, place by place; returns their bits by the model."""
    system.eval()
    bits, order, limits = 0.0, np.arange(len(code)), lengths.numpy()
    for place, logits in enumerate(foresee(system, code, cond)):
        sums, symbol = tables(logits), code[:, place].cpu().numpy()
        live = order[limits > place]
        first, after = sums[live, symbol[live]], sums[live, symbol[live] + 1]
        for low, high, total in zip(first.tolist(), after.tolist(), sums[live, -1].tolist(), strict=True):
            out.put(low, high - low, total)
        cost = -logits.double().log_softmax(-1).cpu().numpy()[live, symbol[live]]
        bits += float(cost.sum()) / math.log(2)
    return bits


@torch.no_grad()
def _read(system: System, code: Code, lengths: Tensor, cond: Condition | None, data: Decoder) -> None:
    """Fill code, whose rows hold `lengths` symbols each, IGNORE behind them."""
    system.eval()
    limits = lengths.numpy()
    for place, logits in enumerate(foresee(system, code, cond)):
        sums = tables(logits)
        for row in np.flatnonzero(limits > place).tolist():
            own = sums[row]
            symbol = int(own.searchsorted(data.look(int(own[-1])), "right")) - 1
            data.take(int(own[symbol]), int(own[symbol + 1] - own[symbol]))
            code[row, place] = symbol


def _read_rows(system: System, rows: int, width: int, total: int, data: Decoder) -> tuple[Code, Batch]:
    code = torch.full((rows, width), IGNORE, dtype=torch.int64, device=system.device)
    lengths, told = _filled(rows, width, total).sum(1), []
    for part in _blocks(rows):
        found = _told(system, len(part), data)
        block = code[part]
        _read(system, block, lengths[part], _condition(system, found), data)
        code[part] = block
        told.append(found)
    values = torch.cat(told) if told else torch.zeros(0, dtype=torch.int64)
    return code, _fields(system, values)


# -- what rows are told ----------------------------------------------------------------------------------------------------


def _values(system: System, code: Code, about: Batch | None) -> Tensor:
    """Which of the conditioner's values each row is told: int64[N]; -1 where nothing conditions the system."""
    every = system.conditioner.every() if system.conditioner is not None else []
    if not every:
        return torch.full((len(code),), -1)
    if about is not None:
        found = torch.full((len(code),), -1)
        for index, (value, _) in enumerate(every):
            same = [(about[k].cpu() == v.cpu()).reshape(len(code), -1).all(1) for k, v in value.items()]
            found[torch.stack(same).all(0)] = index
        if bool((found < 0).any()):
            raise Unreadable(f"row {int((found < 0).nonzero()[0])} is told something that never occurs in training")
        return found
    return weighed(system, code).argmin(1)


def _prior(system: System) -> np.ndarray:
    """Cumulative frequencies of the conditioner's values, int64[1,K+1]."""
    assert system.conditioner is not None
    return tables(torch.tensor([[log for _, log in system.conditioner.every()]], dtype=torch.float64))


def _tell(system: System, told: Tensor, out: Encoder) -> tuple[Condition | None, float]:
    """Write what rows are told; returns it as a condition, and its bits by its distribution in training."""
    if not len(told) or int(told[0]) < 0:
        return None, 0.0
    sums = _prior(system)[0]
    for value in told.tolist():
        out.put(int(sums[value]), int(sums[value + 1] - sums[value]), int(sums[-1]))
    share = np.diff(sums)[told.numpy()] / sums[-1]
    return _condition(system, told), float(-np.log2(share).sum())


def _told(system: System, rows: int, data: Decoder) -> Tensor:
    if system.conditioner is None:
        return torch.full((rows,), -1)
    sums, found = _prior(system)[0], []
    for _ in range(rows):
        value = int(sums.searchsorted(data.look(int(sums[-1])), "right")) - 1
        data.take(int(sums[value]), int(sums[value + 1] - sums[value]))
        found.append(value)
    return torch.tensor(found)


def _fields(system: System, told: Tensor) -> Batch:
    """Batch fields of the values that rows are told."""
    every = system.conditioner.every() if system.conditioner is not None else []
    return {k: torch.cat([every[i][0][k] for i in told.tolist()]) for k in every[0][0]} if every and len(told) else {}


def _condition(system: System, told: Tensor) -> Condition | None:
    return system.condition(_fields(system, told)) if len(told) and int(told[0]) >= 0 else None


# -- the file --------------------------------------------------------------------------------------------------------------


def unfit(system: System) -> str:
    """Why a system cannot code without loss; "" if it can."""
    if system.objective.bound != "exact" or not system.codec.length or "main" not in system.nets:
        found = system.objective.bound or "no likelihood"
        return f"lossless coding needs the exact likelihood of symbols, one by one; this system has: {found}"
    if system.conditioner is not None and not system.conditioner.every():
        return "what this system is told cannot be counted, and so not be sent with what it makes"
    return ""


def _able(system: System) -> None:
    if why := unfit(system):
        raise Unreadable(why)


def _blocks(rows: int) -> list[Tensor]:
    """Positions of the rows that are coded side by side."""
    return list(torch.arange(rows).split(ROWS)) if rows else []


def _filled(rows: int, width: int, total: int) -> Tensor:
    """Which places of a code hold one of `total` symbols, row after row: bool[rows, width]."""
    return (torch.arange(rows * width) < total).view(rows, width)


def fingerprint(system: System) -> bytes:
    """8 bytes that every weight and buffer moves which coding depends on."""
    parts = {"main": system.steady("main"), "codec": system.codec, "conditioner": system.conditioner}
    parts |= {name: net for name, net in system.nets.items() if name in system.frozen}  # what an adapter is an adapter of
    found = hashlib.sha256()
    for role, part in parts.items():
        for name, tensor in sorted(part.state_dict().items()) if part is not None else []:
            found.update(f"{role}.{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.digest()[:8]


@torch.no_grad()
def probe(system: System, rows: int) -> bytes:
    """4 bytes of what the model answers to the first symbols of `rows` made-up rows: other arithmetic, other bytes."""
    found, length = hashlib.sha256(), min(int(system.codec.length), 8)
    if rows:
        rng = Streams.of(0, rows, device=system.device)
        cond = system.eval().condition(system.conditioner.guess(rng)) if system.conditioner is not None else None
        code = rng.integers(2, length)
        for logits in foresee(system, code, cond):
            found.update(tables(logits).tobytes())
    return found.digest()[:4]


def digest(code: Code) -> bytes:
    """8 bytes of the symbols."""
    return hashlib.sha256(code.cpu().contiguous().numpy().astype("<i8").tobytes()).digest()[:8]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def _varints(data: bytes, count: int) -> tuple[list[int], int]:
    """The first `count` numbers, and where they end."""
    found, at = [], 0
    for _ in range(count):
        number = shift = 0
        while data[at] & 128:
            number |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
        found.append(number | data[at] << shift)
        at += 1
    return found, at
