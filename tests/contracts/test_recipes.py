"""The contract of every recipe, generated from the folder: fates, phases, codecs, drafts, independence, resume."""

from __future__ import annotations

import multiprocessing
import signal
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow import small
from PIL import Image
from warm import SHOWN, train_and_die

from maquette import api, recipes
from maquette.conditioners.stage import Stage
from maquette.contracts import NeedsStart
from maquette.distributed import World
from maquette.experiment import Experiment
from maquette.runs import Run, build
from maquette.storage import read_verified
from maquette.streams import Streams
from maquette.train import Progress, take_step

STEPS = 3  # of runs that are killed, after two
MOST = 6  # steps of a learner, by which whatever can move has


def experiment_of(recipe: str, arguments: dict[str, Any]) -> Experiment:
    with small():
        experiment, _ = build(recipe, {**arguments, "batch": 4, "compile": False}, seed=0)
        experiment.system.learn(experiment.data.train)
    systems = [experiment.system, *(part.before for part in experiment.system.modules() if isinstance(part, Stage))]
    for system in systems:
        system.sampler = brief(system.sampler)
    return experiment


def brief(sampler: Any, most: int = 2) -> Any:
    """The sampler, making few steps."""
    return replace(sampler, steps=min(most, sampler.steps)) if hasattr(sampler, "steps") else sampler


@pytest.fixture(scope="session")
def built(recipe, arguments) -> Experiment:
    return experiment_of(recipe, arguments)


@pytest.fixture
def experiment(built) -> Experiment:
    """As it was built: one for all tests that train nothing."""
    built.system.train()
    return built


@dataclass(frozen=True)
class Trained:
    """An experiment some steps on, what its parameters were before and after, and which of them had a gradient."""

    experiment: Experiment
    before: dict[str, dict[str, torch.Tensor]]
    after: dict[str, dict[str, torch.Tensor]]
    reached: set[tuple[str, str]]


@pytest.fixture(scope="session")
def trained(recipe, arguments) -> Trained:
    """One for all tests that look at what training did: each phase came twice, and each learner moved until all that learns
    had a gradient and was changed by it, but no more than six times."""
    experiment = experiment_of(recipe, arguments)
    system, reached = experiment.system, set()
    phases, learners = system.objective.phases(), learners_of(experiment)
    turns = [min(phase.every for phase in phases if role in system.learners(phase)) for role in learners]
    hooks = []
    for role, net in system.roles().items():
        for name, p in net.named_parameters():
            note = partial(lambda key, _: reached.add(key), (role, name))
            hooks.append(p.requires_grad_(True).register_post_accumulate_grad_hook(note))
    before = parameters(experiment)
    learnt = {(role, name): p for role in learners for name, p in system.roles()[role].named_parameters()}

    def enough(done: int) -> bool:
        still = any(torch.equal(p, before[role][name]) for (role, name), p in learnt.items())
        return done >= least and learnt.keys() <= reached and not still

    twice = max([phase.every for phase in phases] + [phase.since for phase in phases if phase.since < MOST])
    least = 1 + twice
    steps(experiment, max(MOST * max(turns, default=1), least), enough)
    for hook in hooks:
        hook.remove()
    return Trained(experiment, before, parameters(experiment), reached)


def learners_of(experiment: Experiment) -> set[str]:
    return {role for phase in experiment.system.objective.phases() for role in experiment.system.learners(phase)}


def steps(experiment: Experiment, count: int, enough: Callable[[int], bool] = lambda done: False) -> Progress:
    """Take steps, `count` of them or until they are enough."""
    progress = Progress(replace(experiment.fit, warmup=0.0, steps=2 * count), seed=1)
    while progress.step < count and not enough(progress.step):
        experiment.system.train()
        logs = take_step(experiment.system, experiment.data, progress, World())
        assert all(bool(torch.isfinite(value)) for value in logs.values()), logs
    return progress


def start_of(experiment: Experiment, n: int, first: int = 0) -> torch.Tensor | None:
    """What samples `first .. first + n - 1` grow from: nothing, or codes of held-out rows where a system needs something."""
    try:
        next(experiment.system.stream(1))
        return None
    except NeedsStart as error:
        assert str(error)
    with torch.no_grad():
        held = experiment.data.held
        return experiment.system.encode(held.rows(torch.arange(first, first + n) % len(held)))


def draws(experiment: Experiment) -> bool:
    """Whether it draws anything; one that does not says so, by name."""
    if experiment.system.sampler is not None:
        return True
    with pytest.raises(NeedsStart, match="draws nothing"):
        experiment.system.sample(1)
    return False


def parameters(experiment: Experiment) -> dict[str, dict[str, torch.Tensor]]:
    roles = experiment.system.roles()
    return {role: {name: p.detach().clone() for name, p in net.named_parameters()} for role, net in roles.items()}


def test_builds_on_meta(recipe, arguments):
    with torch.device("meta"):
        build(recipe, arguments, seed=0)


def test_dials_do_not_shadow_the_verbs_options(recipe, arguments):
    verbs = {"out", "steps", "budget", "seed", "checkpoint_every", "stop_on_full", "device", "threads", "quiet", "json"}
    assert not verbs & set(recipes.catalogue()[recipe].arguments)


def test_every_learner_is_reached_and_nothing_else_moves(trained):
    """Every parameter that learns gets a gradient, and nearly all move (a relativistic critic's offset never can)."""
    system, learners = trained.experiment.system, learners_of(trained.experiment)
    assert learners
    for role, tensors in trained.before.items():
        moved = [name for name, old in tensors.items() if not torch.equal(old, trained.after[role][name])]
        if role in learners:
            assert not [name for name in tensors if (role, name) not in trained.reached], "some parameters are never trained"
            assert len(moved) >= 0.8 * len(tensors), f"{role}: only {moved} moved"
        elif role not in system.follow:
            assert not moved, f"{role} is frozen, but moved"


def test_each_phase_moves_only_its_own_learners(experiment):
    system = experiment.system
    for phase in system.objective.phases():
        system.turn(phase)
        asked = {role for role, net in system.roles().items() if any(p.requires_grad for p in net.parameters())}
        assert asked == set(system.learners(phase))


def test_followers_lag_behind_their_leaders(trained):
    follow, start, end = trained.experiment.system.follow, trained.before, trained.after
    if not follow:
        pytest.skip("nothing follows in this system")
    for follower, (leader, _, *until) in follow.items():
        moved = sum((end[leader][k] - start[leader][k]).norm() for k in start[leader])
        behind = sum((end[leader][k] - end[follower][k]).norm() for k in start[leader])
        assert behind > 0 and (until or behind < moved)  # what its leader did since one stayed behind may be the most of it


def test_decode_undoes_encode(experiment):
    batch = experiment.data.held.rows(torch.arange(min(4, len(experiment.data.held))))
    codec = experiment.system.eval().codec
    if codec.lossy:
        with torch.no_grad():
            again = codec.decode(codec.encode(batch[codec.field]))
        assert again.shape == batch[codec.field].shape and not again.isnan().any()
    elif codec.field == "text":
        texts = list(experiment.data.held.columns["text"])[:2]
        assert codec.decode(codec.encode(texts)) == texts
    else:
        assert torch.allclose(codec.decode(codec.encode(batch[codec.field])), batch[codec.field], atol=1e-6)


def test_drafts_end_in_data(experiment):
    if not draws(experiment):
        pytest.skip("this system draws nothing")
    system = experiment.system
    drafts = [code for code, _ in system.stream(3, seed=2, start=start_of(experiment, 3))]
    assert drafts
    with torch.no_grad():
        data = system.decode(drafts[-1])
    assert len(data) == 3
    if system.codec.field == "image":
        assert data.shape == (3, *experiment.data.facts.shape)
        levels = data * (experiment.data.facts.levels - 1)
        assert float(data.min()) >= 0 and float(data.max()) <= 1 and torch.allclose(levels, levels.round(), atol=1e-4)


@pytest.fixture(scope="session")
def drawn(trained) -> torch.Tensor:
    """Three samples of seed 3."""
    if not draws(trained.experiment):
        pytest.skip("this system draws nothing")
    return trained.experiment.system.sample(3, seed=3, start=start_of(trained.experiment, 3))["code"]


def test_a_sample_does_not_depend_on_its_batch(trained, drawn):
    alone = trained.experiment.system.sample(1, seed=3, first=2, start=start_of(trained.experiment, 1, 2))["code"]
    a, b = drawn[2], alone[0]
    assert torch.allclose(a.float(), b.float(), atol=2e-4) if a.is_floating_point() else torch.equal(a, b)
    assert not torch.equal(drawn[0], drawn[1])


def test_the_same_seed_draws_the_same_sample(trained, drawn):
    system = trained.experiment.system
    if start_of(trained.experiment, 1) is not None:
        pytest.skip("its samples follow from what they start from, which no seed draws")
    again, other = system.sample(3, seed=3)["code"], system.sample(1, seed=5)["code"]
    assert torch.equal(drawn, again) and not any(torch.equal(one, other[0]) for one in drawn)


def test_what_is_said_differs_from_nothing_said(experiment):
    system = experiment.system
    if system.conditioner is None:
        pytest.skip("this system is told nothing")
    if not system.conditioner.drops:
        pytest.skip("what this system is told is always told")
    batch = experiment.data.train.rows(torch.arange(4))
    said, null = system.condition(batch), system.condition(batch, drop=1.0)
    assert said is not None and null is not None
    slots = [(getattr(said, f.name), getattr(null, f.name)) for f in fields(said) if getattr(said, f.name) is not None]
    assert any(not torch.equal(one, other) for one, other in slots)
    some = system.condition(batch, drop=0.5, rng=Streams.of(0, 4))
    assert some is not None


def test_incremental_decoding_equals_full(experiment):
    system = experiment.system.eval()
    network = system.steady("main") if "main" in system.roles() else None
    length = min(12, system.codec.length)
    memory = network.begin(2, length) if network is not None and length and hasattr(network, "begin") else None
    if memory is None:
        pytest.skip("no network here decodes incrementally")
    cond = system.condition(system.conditioner.guess(Streams.of(1, 2))) if system.conditioner else None
    code = Streams.of(0, 2).integers(5, length)
    with torch.no_grad():
        whole = network(code, cond=cond)
        parts = torch.cat([network(code[:, at : at + 1], cond=cond, state=memory) for at in range(length)], 1)
    assert torch.allclose(whole, parts, atol=1e-4)


def test_likelihood_is_finite_and_per_row(experiment):
    system = experiment.system.eval()
    batch = experiment.data.held.rows(torch.arange(min(4, len(experiment.data.held))))
    with torch.no_grad():
        nats = system.objective.score(system, batch, Streams.of(0, len(next(iter(batch.values())))))
    assert (nats is None) == (not system.objective.bound)
    if nats is not None:
        assert nats.shape == (len(next(iter(batch.values()))),) and bool(torch.isfinite(nats).all()) and bool((nats > 0).all())


# -- someone's own data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["colour, no labels", "grey, wide, two classes"])
def test_own_images_train_score_and_sample(recipe, arguments, experiment, tmp_path, kind):
    """What a recipe was tuned on may not be all it can hold: colour, odd shapes, labels or none."""
    facts = experiment.data.facts
    if facts.field != "image":
        pytest.skip("not a recipe of images")
    shape, places = ((8, 8, 3), ["."]) if kind.startswith("colour") else ((7, 10), ["cats", "dogs"])
    grey = (Streams.of(0, 24).uniform(*shape) * 255).byte().numpy()
    for i, pixels in enumerate(grey):
        folder = tmp_path / places[i % len(places)]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        if facts.captions:
            (folder / f"{i}.txt").write_text(f"picture {i % 5}")
    data = f"{tmp_path}:{tmp_path}" if facts.sources else str(tmp_path)
    if "images" in arguments:
        pytest.skip("its pictures are brought to the shape of the run's own")
    own = {k: v for k, v in arguments.items() if k not in ("codec", "base", "run", "encoder", "captioner", "teacher")}
    try:  # a run on other pictures is refused: test_stages.py
        experiment = experiment_of(recipe, {**own, "data": data, "batch": 4})
    except ValueError as error:  # a recipe that cannot do without labels says so
        assert len(places) == 1 and "have no labels" in str(error)
        return
    system, held = experiment.system, experiment.data.held.rows(torch.arange(1))
    steps(experiment, 2)
    if not draws(experiment):
        return
    start = start_of(experiment, 2)
    made = system.sample(2, seed=0, start=start)
    assert made["image"].shape == (2, *experiment.data.facts.shape)
    told = system.conditioner.fields if system.conditioner is not None else ()  # a recipe may never be told a label
    assert ("label" in made) == ("label" in told and start is None and not facts.sources)
    assert len(places) > 1 or "label" not in told
    nats = system.objective.score(system.eval(), held, Streams.of(0, 1))
    assert nats is None or bool(torch.isfinite(nats).all())


# -- kill and resume -------------------------------------------------------------------------------------------------


def _kill_at(recipe: str, arguments: dict[str, Any], out: Path, step: int) -> int | None:
    """Train in another process that is killed at `step`; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    known = ["maquette.api", "maquette.report.card", "torch.utils.tensorboard", "torch._dynamo", "huggingface_hub"]
    context.set_forkserver_preload([*known, "tests.contracts.warm"])  # the last is found from the repository's root
    process = context.Process(target=train_and_die, args=(recipe, str(out), step), kwargs={"checkpoint_every": 2, **arguments})
    process.start()
    process.join(120)
    return process.exitcode


def test_killed_and_resumed_is_uninterrupted(recipe, arguments, tmp_path, previews):
    """Killed while it takes the step after a checkpoint, or before its first; checkpoints and previews at other steps change
    nothing."""
    options = {"steps": STEPS, "seed": 7, "compile": False, **arguments, "batch": 8}
    with previews() if recipe in SHOWN else nullcontext():
        whole = api.train(recipe, out=tmp_path / "whole", checkpoint_every=STEPS, quiet=True, **options)
    assert len(list((whole.run.path / "samples").glob("step-*"))) == (recipe in SHOWN)
    first = zlib.crc32(recipe.encode()) % 4 == 0
    assert _kill_at(recipe, options, tmp_path / "cut", step=1 if first else STEPS) == -signal.SIGKILL
    assert len(Run.open(tmp_path / "cut").checkpoints()) == (0 if first else 1)
    again = api.resume(tmp_path / "cut", checkpoint_every=STEPS, quiet=True)
    one, two = (read_verified(session.run.checkpoints()[-1]) for session in (whole, again))
    assert one["model.safetensors"] == two["model.safetensors"]
    assert one["optimizer.safetensors"] == two["optimizer.safetensors"]
    if draws(again.experiment):
        left, right = (drawn_briefly(each.experiment) for each in (again, api.load(whole.run.path)))
        assert torch.equal(left, right)


def drawn_briefly(experiment: Experiment) -> torch.Tensor:
    system = experiment.system
    return system.sample(2, seed=1, start=start_of(experiment, 2), sampler=brief(system.sampler))["code"]
