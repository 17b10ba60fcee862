"""Small language models that learn from a larger one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from maquette.codecs.text import Text
from maquette.contracts import IGNORE, Batch
from maquette.data import Data, open_data
from maquette.data.conversations import conversed
from maquette.data.rewritten import rewritten
from maquette.data.tokens import Learned
from maquette.data.windows import coded
from maquette.experiment import Experiment
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.objectives.alongside import Alongside
from maquette.objectives.distillation import Distillation, begun, wrote
from maquette.objectives.during import During
from maquette.objectives.likelihood import NextToken
from maquette.objectives.rollout import alone
from maquette.objectives.together import Together
from maquette.recipes import UnknownName
from maquette.recipes._causal import SIZE, from_nothing, heads_of, small, tokenizer_of
from maquette.recipes._idle import refuse_idle
from maquette.recipes._tuned import Ground, ground, rates
from maquette.recipes.language import style_of
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System

WAYS = ("logits", "samples", "own")
# by itself, teacher and student from nothing, after 60 training seconds on one CPU thread; two runs: 1.99 and 2.01
EXPECTED = {"bits/byte": (1.6, 2.25)}


def student(
    run: str = "",
    data: str = "",
    on: str = "logits",
    temperature: float = 1.0,
    beta: float = 0.0,
    share: float = 0.0,
    every: int = 4,
    pool: int = 1024,
    begin: str = "",
    family: str = "small",
    context: int = 0,
    depth: int = 2,
    vocab: int = 4096,
    larger: int = 4,
    start: int = 120,
) -> Experiment:
    """A small causal transformer that learns from a larger one, its teacher, in the teacher's own symbols.

    On logits: of each symbol of the texts, the teacher's distribution over what comes next (Hinton 2015, arXiv:1503.02531; as
    Gemma 2 learns, Riviere 2024, arXiv:2408.00118). On samples: texts that the teacher writes, from the beginnings of the data's,
    once before (sequence-level; Kim & Rush 2016, arXiv:1606.07947). On its own: as on logits, and every few steps also of texts
    that the student writes itself (GKD; Agarwal 2024, arXiv:2306.13649). Without a run the teacher learns first, in the same run.

    Args:
        run: the teacher: a run of gpt, sft or another causal model of text, or a folder of transformers' models; it must stay
            there until training ends.
        data: a built-in corpus of text, a folder or file of text, or conversations; empty = the run's own, or stdlib.
        on: what is learnt: logits, samples or own.
        temperature: divides the logits of both before they are compared; above 1, what is unlikely counts more.
        beta: which divergence: 0 = KL(teacher | student); 1 = KL(student | teacher), which keeps to what the teacher finds
            likely; between, the generalised Jensen-Shannon divergence.
        share: of the loss that is plain likelihood of the data's texts; on samples, of the rows that are the data's.
        every: steps from one look at its own texts to the next.
        pool: texts that the teacher writes, on samples.
        begin: a run or a folder that the student begins as, of the same symbols; empty = it begins from nothing.
        family: whose layers it then has, as those of gpt.
        context: symbols of a row; 0 = as many as the run reads (of a published model at most 512), 256 without a run.
        depth: blocks of the student; its width grows with it.
        vocab: symbols of the BPE, without a run; 0 reads bytes.
        larger: blocks of the teacher, without a run.
        start: steps in which it learns, without a run.
    """
    refuse_idle("student", locals(), "temperature beta every" if on == "samples" else "pool", f"on {on}")
    if on == "logits":
        refuse_idle("student", locals(), "every", "on logits")
    if run:
        refuse_idle("student", locals(), "vocab larger start", "with a run")
    if begin:
        refuse_idle("student", locals(), "family depth", "that begins as another")
    if on not in WAYS:
        raise UnknownName("way of student (--on)", on, list(WAYS))
    if pool < 1:
        raise ValueError(f"pool is {pool}; the teacher must write 1 text or more")
    lesson = partial(Distillation, temperature=temperature, beta=beta, share=share, every=every)
    lesson = partial(lesson, sampler=Autoregressive()) if on == "own" else lesson
    if not run:
        if begin or on == "samples":
            named = f"begin is {begin!r}" if begin else "on is samples"
            raise ValueError(f"{named}, and there is no run: a teacher that learns first cannot be asked before; give --run")
        return _both(lesson, data or "stdlib", context or 256, vocab, depth, family, larger, start)
    base = ground("student", run, context, talks=False)
    rows, codec = _rows(base, data, context), base.codec
    whole = codec.length if rows.facts.asks else 0
    if begin:
        found = _beginner(run, base, begin, context)
        net, fit = found.net.requires_grad_(True), rates(found, 0)
    else:
        style = replace(style_of(family, heads_of(depth), codec.length), apart=base.net.style.apart)
        net, fit = _small(codec, depth, style), from_nothing(codec.length)
    objective = NextToken(codec.bos) if on == "samples" else lesson(codec.bos, whole=whole)
    system = System({"main": net, "teacher": base.net}, objective, base.sampler, codec, frozen=("teacher", "codec"))
    if on == "samples":
        if whole:
            raise ValueError(
                f"on is samples, and data {rows.facts.name!r} are tasks, which are learnt whole; on logits they can be"
            )
        rows = rewritten(rows, pool, partial(_writes, system), share)
    return Experiment(system, rows, fit, EXPECTED)


def _both(
    lesson: Callable[..., Distillation], data: str, context: int, vocab: int, depth: int, family: str, larger: int, start: int
) -> Experiment:
    """A teacher that learns first, and a student that then learns from it."""
    if start < 1:
        raise ValueError(f"start is {start}; without a run there must be 1 step or more in which the teacher learns")
    if depth > larger:
        raise ValueError(f"depth is {depth}, of a student whose teacher has {larger} blocks; nearest is {larger}")
    opened = open_data(data)
    if opened.facts.field != "text":
        raise ValueError(f"student models text, and data {data!r} holds {opened.facts.field}")
    codec = tokenizer_of("student", "bpe", vocab, context)
    whole = codec.length if opened.facts.asks else 0
    teacher = small(codec, larger)
    first = Alongside(
        "teacher",
        System({"main": teacher}, NextToken(codec.bos, whole=whole), None, codec),
        {"main": "teacher"},
        until=start,
    )
    system = System(
        {"main": _small(codec, depth, style_of(family, heads_of(depth), context)), "teacher": teacher},
        Together(first, During(lesson(codec.bos, whole=whole), since=start)),
        Autoregressive(temperature=0.8, top_p=0.95),
        codec,
    )
    rows = opened if whole else coded(opened, codec, context)
    return Experiment(system, rows, from_nothing(context), EXPECTED)


def _small(codec: Text, depth: int, style: Style) -> Transformer:
    """A student of nothing."""
    heads = heads_of(depth)
    return Transformer(codec.vocab, heads * SIZE, depth, heads, style=style)


def _rows(base: Ground, data: str, context: int) -> Data:
    """What is learnt from: a run's own data as they are, or others in its symbols.

    Raises:
        ValueError: they are no texts.
    """
    codec, own = base.codec, base.rows
    if own is not None and not (data or context or own.facts.compares):
        return own
    opened = open_data(data or (own.facts.name if own is not None else "instructions" if codec.converses else "stdlib"))
    facts = opened.facts
    if facts.field != "text":
        raise ValueError(f"student models text, and data {facts.name!r} holds {facts.field}")
    if codec.converses and (facts.sources or facts.talks):
        return conversed(opened, codec, codec.length)
    return opened if facts.asks else coded(opened, codec, codec.length)


def _beginner(run: str, base: Ground, begin: str, context: int) -> Ground:
    """What a student begins as.

    Raises:
        ValueError: its symbols are not the teacher's, or it reads fewer at once.
    """
    found = ground("student", begin, context, talks=False)
    theirs, ours = (_symbols(each.codec) for each in (base, found))
    if theirs != ours:
        apart = next((name for name in theirs if theirs[name] != ours.get(name)), next(iter(ours.keys() - theirs.keys()), ""))
        counts = f"{base.codec.vocab:,} symbols in run {run}, {found.codec.vocab:,} in begin {begin}"
        raise ValueError(
            f"a student reads as its teacher does, and these two do not: {counts}; {apart!r} is not the same in both"
        )
    if found.codec.length < base.codec.length:
        most = found.codec.length
        raise ValueError(f"run {run} reads {base.codec.length} symbols, and begin {begin} {most}: --context {most}")
    return found


def _symbols(codec: Text) -> dict[str, int]:
    """What each symbol of a codec is, by name; what begins texts among them."""
    found = (
        codec.tokenizer.get_vocab(with_added_tokens=True) if isinstance(codec, Learned) else {f"{i:02x}": i for i in range(256)}
    )
    return {**found, **codec.special, "(what begins a text)": codec.bos}


@torch.no_grad()
def _writes(system: System, batch: Batch, places: Tensor) -> dict[str, Tensor]:
    """The teacher's own continuations of a batch's rows; each follows from the row's place alone."""
    code = system.encode(batch)
    rng = Streams.of(0, int(places.max()) + 1, device=code.device)[places.to(code.device)]
    more, written = wrote(system.instead("teacher"), Autoregressive(), begun(code, batch, system.codec), rng)
    room = (0, code.shape[1] - more.shape[1])
    found = {"code": pad(more, room, value=IGNORE), "learnt": pad(written, room, value=False)}
    document = alone(code, system.codec)
    if "document" in batch or document is not None:
        found["document"] = torch.ones_like(code) if document is None else document
    return {name: column.cpu() for name, column in found.items()}
