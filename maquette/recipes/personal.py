"""Text to image made one's own by a few pictures of one thing: one recipe per published way."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

from maquette.codecs.pixels import Pixels
from maquette.conditioners.coined import Coined
from maquette.conditioners.prompt import Prompt
from maquette.contracts import Batch, Network
from maquette.data import Data, Facts
from maquette.data.cached import Cached
from maquette.data.core import Split
from maquette.data.few import Drawn, few, needed, repeated
from maquette.data.subject import subject
from maquette.experiment import Experiment, Fit
from maquette.hub import pipelines
from maquette.networks.mmdit import MMDiT, Plan
from maquette.nn.lora import Adapted, matched, whole
from maquette.objectives.denoising import Denoising
from maquette.objectives.together import Together
from maquette.processes import flow as straight
from maquette.processes.gaussian import Balanced, Gaussian
from maquette.recipes._idle import refuse_idle
from maquette.recipes.masked import patch_of
from maquette.recipes.pictures import TOKEN, captioned, reader_of
from maquette.runs import trained
from maquette.samplers.solvers import DPM, Solver
from maquette.system import System

# by themselves, from scratch, after 60 training seconds on one CPU thread: two runs, -.04 and .74, for a minute is short; on a
# trained run it is 1.25 (benchmarks/dreambooth.py)
OWN = {"identity gain": (-0.2, 2.0)}
NEW = {"identity gain": (-0.2, 2.0)}  # taken over from the other: no run by itself has been judged
SEED = 0xD1EA  # of the pictures of the kind
AVERAGE = 0.99  # an adapter learns for a few hundred steps
LEARNT = "the pictures are learnt by heart: whoever is in them, or made them, should know"
FRESH = Fit(steps=3000, batch=64, lr=2e-3, muon=0.02, bf16=True)  # without a run
WITH = ("image", "text", "code")


def dreambooth(
    run: str = "",
    images: str = "",
    word: str = "sks",
    kind: str = "circle",
    data: str = "scenes",
    rank: int = 4,
    alpha: float = 0.0,
    prior: float = 1.0,
    pictures: int = 64,
    depth: int = 2,
) -> Experiment:
    """DreamBooth: a rare word comes to mean the one thing that a few pictures show (Ruiz 2022, arXiv:2208.12242).

    The pictures are captioned "a WORD KIND"; among them are pictures of "a KIND", which the run drew before, so that the kind
    stays what it was. By default an adapter of low rank learns, on the attention's projections (Hu 2021). Without a run there is
    nothing to tune: five pictures of a built-in thing are then learnt among data, by a small MM-DiT from scratch.

    Args:
        run: a run of latent_diffusion or mmdit, or a folder of diffusers' pipelines; it must stay there until training ends.
        images: a folder of 3 to 10 pictures of the thing.
        word: for the thing; one that captions do not use.
        kind: what it is one of; more words do: "large circle".
        data: captioned pictures to learn from beside, without a run.
        rank: of the adapter; 0 = no adapter, all of the network's weights learn.
        alpha: the adapter counts alpha / rank; 0 = as the rank.
        prior: how much the pictures of the kind count, all together, beside those of the thing; 0 = none are drawn.
        pictures: of the kind, that are drawn.
        depth: of the MM-DiT, without a run.
    """
    refuse_idle("dreambooth", locals(), "data depth" if run else "rank alpha pictures", f"with{'' if run else 'out'} a run")
    if not rank:
        refuse_idle("dreambooth", locals(), "alpha", "without an adapter")
    _check_words(word, kind)
    if not 0 <= prior <= 100:
        raise ValueError(f"prior is {prior}; it must lie in 0 .. 100, 1 = as much as the pictures themselves")
    if pictures < 1:
        raise ValueError(f"pictures is {pictures}; it must be 1 or more (prior 0 draws none)")
    if rank < 0:
        raise ValueError(f"rank is {rank}; it must be 0 or more, 0 = no adapter")
    said, plain = f"a {word} {kind}", f"a {kind}"
    if not run:
        return _from_scratch("dreambooth", images, said, plain, data, prior or 1.0, depth)
    base = _base("dreambooth", run)
    _check_rare(base.prompt, word)
    own = few(_folder("dreambooth", images), base.facts.shape, base.facts.levels, said, plain)
    net = Adapted(base.net, matched(base.net), rank, alpha) if rank else copy.deepcopy(base.net).requires_grad_(True)
    system = System(
        {"main": net, "ema": copy.deepcopy(net), "base": base.net},
        Denoising(base.process, base.drop),
        base.solver,
        base.system.codec,
        base.prompt,
        frozen=("codec", "conditioner", "base"),
        follow={"ema": ("main", AVERAGE)},
    )
    rows = _among(own, system, plain, prior, pictures)
    fit = base.fit if rank else replace(base.fit, lr=base.fit.lr / 10)
    return Experiment(system, rows, fit, OWN)


def textual_inversion(
    run: str = "",
    images: str = "",
    word: str = "<it>",
    like: str = "circle",
    data: str = "scenes",
    depth: int = 2,
) -> Experiment:
    """Textual inversion: only the vector of one new word learns, from a few pictures (Gal 2022, arXiv:2208.01618).

    Every encoder of the prompt gets a vector for it, which begins as that of a word like it; the word may then stand in any
    prompt. Without a run, five pictures of a built-in thing are learnt among data while a small MM-DiT learns alongside, from
    scratch, told by an encoder that stays as it began but for the word.

    Args:
        run: a run of latent_diffusion or mmdit, or a folder of diffusers' pipelines; it must stay there until training ends.
        images: a folder of 3 to 10 pictures of the thing.
        word: made up: none that is one symbol already.
        like: a word or words that it begins as.
        data: captioned pictures to learn from beside, without a run.
        depth: of the MM-DiT, without a run.
    """
    if run:
        refuse_idle("textual_inversion", locals(), "data depth", "with a run")
    _check_words(word, like)
    said, plain = f"a {word}", f"a {like}"
    if not run:
        return _from_scratch("textual_inversion", images, said, plain, data, 1.0, depth, coin=(word, like))
    base = _base("textual_inversion", run)
    own = few(_folder("textual_inversion", images), base.facts.shape, base.facts.levels, said, plain)
    system = System(
        {"main": base.net, "told": base.prompt},
        Denoising(base.process, 0.0),  # Gal learns under the caption alone
        base.solver,
        base.system.codec,
        Coined(base.prompt, word, like),
        frozen=("codec", "main", "told"),
    )
    fit = replace(base.fit, lr=5 * base.fit.lr)
    return Experiment(system, _among(own, system, plain, 0.0, 0), fit, NEW)


# -- a run or a pipeline, to be tuned ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """What is tuned: its parts with their weights, and how fast to."""

    facts: Facts
    system: System
    net: Network
    process: Gaussian
    solver: Solver
    prompt: Prompt
    drop: float
    fit: Fit


def _base(recipe: str, run: str) -> Base:
    """The network that a run samples with, and its other parts.

    Raises:
        RunError: no such run, or none of its checkpoints can be used.
        ValueError: it is told no captions, or is no denoiser.
    """
    folder = Path(run).resolve()
    if (folder / pipelines.INDEX).is_file():
        experiment, name = pipelines.read(folder), str(pipelines.index_of(folder)["_class_name"])
        fit = Fit(steps=500, batch=4, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)
    else:
        found, experiment = trained(run)
        name = found.record["recipe"]
        fit = Fit(steps=400, batch=16, lr=2e-3, bf16=experiment.fit.bf16)
    system, objective = experiment.system, experiment.system.objective
    if isinstance(objective, Together):
        objective = objective.last
    prompt, solver = system.conditioner, system.sampler
    if not (isinstance(objective, Denoising) and isinstance(solver, Solver) and isinstance(prompt, Prompt)):
        raise ValueError(
            f"{run} is a run of {name}, which {recipe} cannot tune; it needs a denoiser that is told captions: a run of "
            "latent_diffusion or mmdit, or a pipeline of Stable Diffusion or Flux"
        )
    net = whole(system.steady("main"))
    return Base(experiment.data.facts, system, net, solver.process, solver, prompt, objective.drop, fit)


def _among(own: Data, system: System, plain: str, prior: float, pictures: int) -> Data:
    """The pictures with their codes, and those of the kind among them, drawn by the base when first asked for."""
    count = own.facts.rows["held"]
    wanted = needed(count, prior, pictures) if prior else 0
    size = max(1, min(64, (1 << 20) // (own.facts.shape[1] * own.facts.shape[2])))

    def draw(n: int) -> Batch:
        return system.instead("base").sample(n, batch=size, about={"text": [plain] * n}, seed=SEED)

    def read() -> dict[str, Split]:
        rows = Cached(own.train, system.codec.field, lambda found: system.encode({system.codec.field: found}))
        others = Drawn(draw, wanted, plain, own.facts.levels) if wanted else None
        return {"train": repeated(rows, others, prior, WITH), "held": own.held}

    blank = Split({"text": [""] * count})
    others = Split({"text": [""] * wanted}) if wanted else None
    facts = replace(own.facts, rows={"train": len(repeated(blank, others, prior, WITH)), "held": count})
    notes = [LEARNT, *([f"{wanted} pictures of {plain!r} are drawn by the base first"] if wanted else [])]
    return Data(replace(facts, notes=tuple(dict.fromkeys([*facts.notes, *notes]))), read)


def _folder(recipe: str, images: str) -> str:
    if not images:
        raise ValueError(f"images is empty; {recipe} needs a folder of 3 to 10 pictures of one thing")
    return images


def _check_words(word: str, kind: str) -> None:
    if not word.strip() or word != word.strip() or len(word.split()) > 1:
        raise ValueError(f"word is {word!r}; it must be one word, such as 'sks'")
    if not kind.strip():
        raise ValueError(f"the kind is {kind!r}; say what the thing is one of, such as 'circle'")


def _check_rare(prompt: Prompt, word: str) -> None:
    for part in prompt.parts:
        tokens = getattr(part, "tokens", None)
        if tokens is not None and len(tokens.learned) and tokens.knows(word):
            raise ValueError(
                f"word is {word!r}, which captions use already: a common symbol of the run's tokenizer (number "
                f"{tokens.symbols(word)[0]}); what it means would be lost. A rare one is wanted, such as 'sks' or 'zwx'"
            )


# -- without a run -------------------------------------------------------------------------------------------------------


def _from_scratch(
    recipe: str, images: str, said: str, plain: str, data: str, prior: float, depth: int, coin: tuple[str, str] | None = None
) -> Experiment:
    """A small MM-DiT of pixels that learns captioned data and five pictures of the built-in thing, in one run."""
    if images:
        raise ValueError(
            f"images is {images!r}, but there is no run to tune; train one first (`maquette train mmdit`) and say run=ITS FOLDER"
        )
    opened = captioned(recipe, data, 0, depth)
    facts = opened.facts
    shape, heads = facts.shape, max(1, depth)
    plan = Plan(
        in_channels=shape[0],
        out_channels=shape[0],
        patch_size=patch_of(shape[1], shape[2], most=16),
        num_layers=max(1, depth // 3),
        num_single_layers=max(1, depth - max(1, depth // 3)),
        num_attention_heads=heads,
        attention_head_dim=32,
        joint_attention_dim=TOKEN,
        pooled_projection_dim=TOKEN,
    )
    net, process, prompt = MMDiT(plan), straight.flow(reading=Balanced(0.5)), reader_of(16)
    nets = {"main": net, "ema": copy.deepcopy(net)}
    told = Coined(prompt, *coin) if coin else prompt
    system = System(
        {**nets, "told": prompt} if coin else nets,
        Denoising(process),
        DPM(process, shape, steps=20, guidance=2.0),
        Pixels(facts.levels),
        told,
        frozen=("told",) if coin else (),
        follow={"ema": ("main", 0.9995)},
    )
    own = subject(shape, facts.levels, said, plain)

    def read() -> dict[str, Split]:
        return {"train": repeated(own, opened.train, prior, ("image", "text")), "held": own}

    times = len(own) * max(1, round(facts.rows["train"] / (prior * len(own))))
    rows = facts.rows if facts.few else {"train": facts.rows["train"] + times, "held": len(own)}
    facts = replace(facts, rows=rows, few=True, classes=(), shares=(), factors={})
    return Experiment(system, Data(facts, read), FRESH, NEW if coin else OWN)
