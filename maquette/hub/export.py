"""Systems as folders that diffusers' pipelines open. Knows which of their classes a system is; nothing of how one is trained."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from maquette.codecs.pixels import Pixels
from maquette.conditioners.coined import Coined
from maquette.contracts import Network
from maquette.hub import lora, models, weights
from maquette.hub.pipelines import INDEX, KINDS, index_of
from maquette.networks.plans2d import Plan
from maquette.networks.unet2d import UNet2D
from maquette.nn.lora import Adapted
from maquette.processes.chain import Arc, Curve, Ends, Even, Leading, Rise, Spacing, Trailing
from maquette.processes.gaussian import Betas, Clean, Gaussian, Noise, Reading, Velocity
from maquette.samplers.solvers import DDIM, Ancestral, Solver
from maquette.storage import dump, erase, write_durably
from maquette.system import System


def write(system: System, source: Path, out: Path) -> str:
    """Write a system that was opened from `source`, as it is now, to a folder that diffusers loads.

    Of one that only learnt an adapter or a word, the file of that alone.

    Args:
        out: a folder that is not there yet, or empty. Parts that hold no weights of the system's are copied from `source`.

    Returns:
        The class of theirs that opens it, or its method that does.

    Raises:
        FileExistsError: the folder is there and is not empty.
        ValueError: the system is not what `source` opens as.
    """
    index = index_of(source)
    name, net = str(index["_class_name"]), system.steady("main")
    if isinstance(net, Adapted):
        part = next(part for part, place in KINDS[name].places.items() if place == "nets.main")
        lora.save({part: net}, out)
        return f"{name}.load_lora_weights"
    if isinstance(system.conditioner, Coined):
        lora.save_words(_vector(system.conditioner, name), out)
        return f"{name}.load_textual_inversion"
    places = {part: place for part, place in KINDS[index["_class_name"]].places.items() if isinstance(index.get(part), list)}
    places = {part: place for part, place in places.items() if index[part][1] is not None}
    with staged(out) as folder:
        for part, origin in index.items():
            if part in places:
                config = weights.config(source / part)
                weights.save(_module(system, places[part], origin[1], config), folder / part, config, origin[1])
            elif Path(part).name == part and isinstance(origin, list) and any(origin) and (source / part).is_dir():
                shutil.copytree(source / part, folder / part)
        write_durably(folder / INDEX, dump(index))
    return name


def _vector(told: Coined, name: str) -> dict[str, Tensor]:
    """A new word and its vector, where there is one encoder to hear it: diffusers' files know no other case."""
    if (count := len(told.vectors)) != 1:
        raise ValueError(f"{name} has {count} encoders, each with a vector for {told.word!r}; a file of theirs holds one")
    return {told.word: next(iter(told.vectors.values()))}


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `out` if all goes well.

    Raises:
        FileExistsError: `out` is there and is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; what is written is given a folder of its own")
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f".staged-{out.name}-{uuid.uuid4().hex[:8]}")
    made.mkdir()
    try:
        yield made
        if out.exists():
            out.rmdir()
        os.rename(made, out)
    except BaseException:
        erase(made)
        raise


def _module(system: System, place: str, name: str, config: Mapping[str, Any]) -> nn.Module:
    """The module at a place of a system (of the network, the one that is sampled from), which a class of theirs can hold."""
    try:
        found = cast(Network, system.steady("main")) if place == "nets.main" else system.get_submodule(place)
    except (AttributeError, KeyError):
        raise ValueError(f"this system has no {place}: it was not opened from a pipeline of that kind") from None
    with weights.hollow():
        like = models.MODELS[name](config)
    shapes, wanted = ({key: each.shape for key, each in one.state_dict().items()} for one in (found, like))
    if shapes != wanted:
        odd = sorted({*shapes.items()} ^ {*wanted.items()})[0][0]
        raise ValueError(
            f"{place} is no {name} as it was opened ({odd} differs): merge what was added to it before it is written"
        )
    return found


# -- systems that were never opened from a pipeline ----------------------------------------------------------------------

_SAID = (
    "in_channels", "out_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "norm_eps", "downsample_padding",
    "flip_sin_to_cos", "freq_shift", "dropout", "attention_head_dim", "add_attention",
)  # fmt: skip
_READINGS: dict[type[Reading], str] = {Noise: "epsilon", Velocity: "v_prediction", Clean: "sample"}
_CURVES: dict[type[Curve], Callable[[Any], dict[str, Any]]] = {
    Rise: lambda rise: {
        "beta_start": rise.first,
        "beta_end": rise.last,
        "beta_schedule": {1.0: "linear", 2.0: "scaled_linear"}.get(rise.power),
    },
    Arc: lambda arc: {"beta_schedule": "squaredcos_cap_v2" if arc == Arc() else None},
}
_SPACINGS: dict[type[Spacing], Callable[[Any], dict[str, Any]]] = {
    Even: lambda each: {"timestep_spacing": "trailing"},
    Trailing: lambda each: {"timestep_spacing": "trailing"},
    Leading: lambda each: {"timestep_spacing": "leading", "steps_offset": each.offset},
    Ends: lambda each: {"timestep_spacing": "linspace"},
}


def compose(system: System, out: Path) -> str:
    """Write a U-Net that denoises pixels over a chain of steps as a DDPMPipeline or, drawn by DDIM, a DDIMPipeline.

    Returns:
        The pipeline's class.

    Raises:
        FileExistsError: the folder is there and is not empty.
        ValueError: diffusers has no pipeline for such a system, and why.
    """
    net, solver = system.steady("main") if "main" in system.nets else None, system.sampler
    if not isinstance(net, UNet2D) or not isinstance(net.plan, Plan):
        was = "no role 'main'" if net is None else f"a {type(net).__name__}"
        raise ValueError(
            f"this system's network is {was}, for which diffusers has no class; written can be what was opened from a pipeline, "
            "and systems of networks.unet2d.UNet2D with a Plan"
        )
    if not isinstance(system.codec, Pixels) or system.conditioner is not None or net.plan.num_class_embeds:
        raise ValueError("this system is told something, or denoises no pixels; diffusers' pipelines of a lone U-Net can neither")
    if not isinstance(solver, Ancestral | DDIM) or not isinstance(solver.process.schedule, Betas):
        raise ValueError(
            f"this system is drawn by {type(solver).__name__} over {type(getattr(solver, 'process', None)).__name__}; diffusers' "
            "pipelines of a lone U-Net draw by Ancestral or DDIM over a chain of Betas"
        )
    name = "DDIM" if isinstance(solver, DDIM) else "DDPM"
    scheduler = _scheduler(name, solver, solver.process, solver.process.schedule)
    said = {**{key: value for key, value in asdict(net.plan).items() if key in _SAID}, "sample_size": list(solver.shape[1:])}
    down, up = net.plan.kinds
    said["down_block_types"] = [down[each] for each in net.plan.attention]
    said["up_block_types"] = [up[each] for each in net.plan.attention[::-1]]
    index = {
        "_class_name": f"{name}Pipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", f"{name}Scheduler"],
    }
    with staged(out) as folder:
        weights.save(net, folder / "unet", said, "UNet2DModel")
        (folder / "scheduler").mkdir()
        write_durably(folder / "scheduler" / "scheduler_config.json", dump(scheduler))
        write_durably(folder / INDEX, dump(index))
    return f"{name}Pipeline"


def _scheduler(name: str, solver: Solver, process: Gaussian, betas: Betas) -> dict[str, Any]:
    """A scheduler_config.json that draws as the solver does.

    Raises:
        ValueError: there is none.
    """
    curve, spacing = _CURVES.get(type(betas.curve)), _SPACINGS.get(type(betas.spacing))
    said: dict[str, Any] = {
        "_class_name": f"{name}Scheduler",
        "num_train_timesteps": betas.total,
        "prediction_type": _READINGS.get(type(process.reading)),
        "clip_sample": bool(solver.clip),
        "clip_sample_range": solver.clip or 1.0,
        **(curve(betas.curve) if curve else {"beta_schedule": None}),
        **(spacing(betas.spacing) if spacing else {"timestep_spacing": None}),
    }
    if isinstance(solver, DDIM):
        said["set_alpha_to_one"] = betas.ends == 0
    if isinstance(solver, Ancestral):
        said["variance_type"] = "fixed_large" if solver.large else "fixed_small"
    lost = [key for key, value in said.items() if value is None]
    lost += ["eta"] * (isinstance(solver, DDIM) and solver.eta > 0) + ["quantile"] * bool(solver.quantile)
    lost += ["view"] * (process.view is not None) + ["guidance"] * (solver.guidance != 1)
    if lost:
        raise ValueError(f"diffusers' {name}Scheduler cannot say this system's {', '.join(lost)}")
    return said
