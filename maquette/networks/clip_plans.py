"""What a CLIP's configuration says, under transformers' names, and what of it is not built. Knows values, no layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor
from torch.nn import functional as F

from maquette.nn.gelu import quick_gelu

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class TowerPlan:
    """What both towers have, under transformers' names.

    Args:
        hidden_size: channels D of the stream; a multiple of num_attention_heads.
        intermediate_size: channels within the feed-forward layers.
        projection_dim: width of the space that texts and images share; None = this network does not project.
        num_hidden_layers, num_attention_heads: of attention.
        hidden_act: "quick_gelu" (OpenAI's weights) or "gelu" (OpenCLIP's).
        layer_norm_eps: of every normalisation.
    """

    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int | None = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; this CLIP has {' or '.join(map(repr, ACTIVATIONS))} only")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"num_attention_heads is {self.num_attention_heads}; it must divide hidden_size, {self.hidden_size}")

    @classmethod
    def of(cls, config: Mapping[str, Any], projected: bool | None = None) -> Self:
        """A transformers configuration (its config.json) as a plan; what it does not say is as in transformers.

        Args:
            projected: whether the network ends in a projection; None = as the configuration's "architectures" say.

        Raises:
            ValueError: it asks for what this network does not have.
        """
        for name, allowed in {**_ONLY, "model_type": cls._kinds()}.items():
            if name in config and config[name] not in allowed:
                raise ValueError(f"{name} is {config[name]!r}; this CLIP has {' or '.join(map(repr, allowed))} only")
        if projected is None:
            projected = any(name.endswith("WithProjection") for name in config.get("architectures") or ())
        said = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        for name, value in said.items():
            if name in _WHOLE and not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; this CLIP has one whole number only")
        return cls(**said) if projected else cls(**{**said, "projection_dim": None})

    @classmethod
    def _kinds(cls) -> tuple[str, ...]:
        raise NotImplementedError


_ONLY: dict[str, tuple[Any, ...]] = {"attention_dropout": (0, None)}
_WHOLE = ("image_size", "patch_size", "eos_token_id")  # transformers lets these be lists


@dataclass(frozen=True)
class TextPlan(TowerPlan):
    """What of a CLIPTextConfig varies here.

    Args:
        vocab_size: symbols.
        max_position_embeddings: symbols of the longest text.
        eos_token_id: the symbol whose first place a text's vector is read from. 2 = the highest symbol's first place: old
            configurations say 2 of tokenizers whose last symbol ends every text.
    """

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407

    @classmethod
    def _kinds(cls) -> tuple[str, ...]:
        return ("clip_text_model",)


@dataclass(frozen=True)
class VisionPlan(TowerPlan):
    """What of a CLIPVisionConfig varies here.

    Args:
        num_channels, image_size: of the square images.
        patch_size: pixels to a side of a token.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    @classmethod
    def _kinds(cls) -> tuple[str, ...]:
        return ("clip_vision_model",)


@dataclass(frozen=True)
class Plan:
    """Both towers of a CLIPConfig, the width of the space they share, and the logarithm of the scale of their products."""

    text: TextPlan = TextPlan(projection_dim=None)
    vision: VisionPlan = VisionPlan(projection_dim=None)
    projection_dim: int = 512
    logit_scale_init_value: float = math.log(1 / 0.07)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Plan:
        """A transformers configuration as a plan.

        Raises:
            ValueError: it is no CLIP's, or asks for what this network does not have.
        """
        if config.get("model_type", "clip") != "clip":
            raise ValueError(f"model_type is {config['model_type']!r}; a CLIP of two towers has 'clip'")
        # old files say each tower twice, and the second counts
        text, vision = (config.get(f"{tower}_config_dict") or config.get(f"{tower}_config") or {} for tower in ("text", "vision"))
        said = {name: config[name] for name in ("projection_dim", "logit_scale_init_value") if name in config}
        return cls(TextPlan.of(text, projected=False), VisionPlan.of(vision, projected=False), **said)
