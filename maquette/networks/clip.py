"""CLIP's two towers (Radford 2021), tensor by tensor: the hub's text and image encoders open here under their own names.

Knows symbols and normalised pixels; no tokenizer, no file and no objective.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.networks.clip_plans import ACTIVATIONS, Plan, TextPlan, TowerPlan, VisionPlan
from maquette.nn.attention import attend

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue in 0..1, where the published weights learned, ...
DEVIATION = (0.26862954, 0.26130258, 0.27577711)  # ... and their standard deviations


class Text(Network):
    """Symbols -> the last layer's states, int64[B,T] -> [B,T,D]: CLIPTextModel, or with a projection CLIPTextModelWithProjection.

    Raises:
        ValueError: a text longer than the learned positions.
    """

    edges = ("text_model.embeddings", "text_projection")

    def __init__(self, plan: TextPlan):
        super().__init__()
        self.plan = plan
        self.text_model = _Texts(plan)
        self.text_projection = _projection(plan)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return self.read(x, cond.mask if cond is not None else None)[0]

    def read(self, x: Tensor, mask: Tensor | None = None, skip: int = 0, norm: bool = True) -> tuple[Tensor, Tensor]:
        """States [B,T,D] of a layer, and the text's vector [B,P]: the last layer's at the end of the text, projected if it is.

        Args:
            mask: bool[B,T], the symbols that may be seen; None = all.
            skip: layers, counted from the last, whose doing the states do not show.
            norm: whether the states pass the final normalisation. (The vector's always do.)
        """
        tokens, vector = self.text_model(x, mask, skip, norm)
        return tokens, vector if self.text_projection is None else self.text_projection(vector)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        _prefixed(state_dict, prefix, "text_model.", ("embeddings.", "encoder.", "final_layer_norm."))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Vision(Network):
    """Images -> the last layer's states, [B,C,H,W] -> [B,1+N,D], the first for the whole: CLIPVisionModel(WithProjection).

    Raises:
        ValueError: an image of another shape.
    """

    edges = ("vision_model.embeddings", "visual_projection")

    def __init__(self, plan: VisionPlan):
        super().__init__()
        self.plan = plan
        self.vision_model = _Images(plan)
        self.visual_projection = _projection(plan)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return self.read(x)[0]

    def read(self, x: Tensor, skip: int = 0) -> tuple[Tensor, Tensor]:
        """States [B,1+N,D] of a layer, not normalised, and the image's vector [B,P], projected if it is.

        Args:
            skip: layers, counted from the last, whose doing the states do not show.
        """
        tokens, vector = self.vision_model(x, skip)
        return tokens, vector if self.visual_projection is None else self.visual_projection(vector)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        _prefixed(state_dict, prefix, "vision_model.", ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm."))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class CLIP(Network):
    """Images [B,C,H,W] or texts int64[B,T] -> unit vectors [B,P] of the space that both share: CLIPModel."""

    edges = ("text_model.embeddings", "vision_model.embeddings", "text_projection", "visual_projection")

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        self.text_model, self.vision_model = _Texts(plan.text), _Images(plan.vision)
        self.text_projection = nn.Linear(plan.text.hidden_size, plan.projection_dim, bias=False)
        self.visual_projection = nn.Linear(plan.vision.hidden_size, plan.projection_dim, bias=False)
        for layer in (self.text_projection, self.visual_projection):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(float(plan.logit_scale_init_value)))

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        if x.is_floating_point():
            return F.normalize(self.visual_projection(self.vision_model(x)[1]), dim=1)
        return self.read(x, cond.mask if cond is not None else None)[1]

    def read(self, symbols: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The last layer's states of texts [B,T,D], and their unit vectors [B,P], of int64[B,T]."""
        states, vector = self.text_model(symbols, mask)
        return states, F.normalize(self.text_projection(vector), dim=1)

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosines of unit vectors, [B,P] and [N,P] -> [B,N]: logits of texts for each image (Radford 2021, fig. 3)."""
        return self.logit_scale.exp() * images @ texts.T


def seen(images: Tensor, side: int) -> Tensor:
    """Images as published towers take them, [B,3,H,W] in 0..1 -> [B,3,side,side]: the middle square, of mean 0 and deviation 1.

    Resized by cubics (Keys 1981, a = -1/2), across and then down, each time to 256 levels: so were those they learned from.
    """
    high, wide = images.shape[2:]
    tall, broad = (int(side * each / min(high, wide)) for each in (high, wide))
    for size in ((high, broad), (tall, broad)):
        if size != images.shape[2:]:
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
            images = (images * 255).round().clamp(0, 255) / 255
    top, left = (tall - side) // 2, (broad - side) // 2
    mean, deviation = (images.new_tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    return (images[:, :, top : top + side, left : left + side] - mean) / deviation


def _projection(plan: TowerPlan) -> nn.Linear | None:
    if plan.projection_dim is None:
        return None
    layer = nn.Linear(plan.hidden_size, plan.projection_dim, bias=False)
    nn.init.normal_(layer.weight, std=plan.hidden_size**-0.5)
    return layer


def _prefixed(state_dict: dict[str, Any], prefix: str, more: str, parts: tuple[str, ...]) -> None:
    """Names as published, in place: transformers 5 saves a tower without a projection under names without the tower's."""
    for name in [name for name in state_dict if name.startswith(tuple(prefix + part for part in parts))]:
        state_dict[prefix + more + name.removeprefix(prefix)] = state_dict.pop(name)


class _Texts(nn.Module):
    """The text tower: int64[B,T] -> states [B,T,D] of a layer and the text's vector [B,D]."""

    def __init__(self, plan: TextPlan):
        super().__init__()
        self.end = plan.eos_token_id
        self.embeddings = _Symbols(plan)
        self.encoder = _Layers(plan, causal=True)
        self.final_layer_norm = nn.LayerNorm(plan.hidden_size, eps=plan.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None = None, skip: int = 0, norm: bool = True) -> tuple[Tensor, Tensor]:
        wanted, last = self.encoder(self.embeddings(x), mask, skip)
        last = self.final_layer_norm(last)
        at = (x if self.end == 2 else (x == self.end).int()).argmax(1)  # the first of the highest
        tokens = last if norm and not skip else self.final_layer_norm(wanted) if norm else wanted
        return tokens, last[torch.arange(len(x), device=x.device), at]


class _Images(nn.Module):
    """The image tower: [B,C,H,W] -> states [B,1+N,D] of a layer and the image's vector [B,D]."""

    def __init__(self, plan: VisionPlan):
        super().__init__()
        self.embeddings = _Patches(plan)
        self.pre_layrnorm = nn.LayerNorm(plan.hidden_size, eps=plan.layer_norm_eps)  # so spelt in every published file
        self.encoder = _Layers(plan, causal=False)
        self.post_layernorm = nn.LayerNorm(plan.hidden_size, eps=plan.layer_norm_eps)

    def forward(self, x: Tensor, skip: int = 0) -> tuple[Tensor, Tensor]:
        wanted, last = self.encoder(self.pre_layrnorm(self.embeddings(x)), None, skip)
        return wanted, self.post_layernorm(last[:, 0])


class _Embeddings(nn.Module):
    """What both kinds of embeddings share: old files hold the places' numbers, which carry nothing."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "position_ids", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Symbols(_Embeddings):
    """Symbols and their places, summed: int64[B,T] -> [B,T,D]."""

    def __init__(self, plan: TextPlan):
        super().__init__()
        self.token_embedding = nn.Embedding(plan.vocab_size, plan.hidden_size)
        self.position_embedding = nn.Embedding(plan.max_position_embeddings, plan.hidden_size)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        places = self.position_embedding.weight
        if x.shape[1] > len(places):
            raise ValueError(f"a text of {x.shape[1]} symbols is longer than this CLIP's {len(places)}")
        return self.token_embedding(x) + places[: x.shape[1]]


class _Patches(_Embeddings):
    """A vector for the whole, then a patch each, with their places: [B,C,H,W] -> [B,1+N,D]."""

    def __init__(self, plan: VisionPlan):
        super().__init__()
        width, size = plan.hidden_size, plan.patch_size
        self.shape = (plan.num_channels, plan.image_size, plan.image_size)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.patch_embedding = nn.Conv2d(plan.num_channels, width, size, stride=size, bias=False)
        self.position_embedding = nn.Embedding((plan.image_size // size) ** 2 + 1, width)
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(f"this CLIP takes images of {self.shape}, not {tuple(x.shape[1:])}")
        patches = self.patch_embedding(x.to(self.patch_embedding.weight.dtype)).flatten(2).mT
        whole = self.class_embedding.expand(len(x), 1, -1)
        return torch.cat([whole, patches], 1) + self.position_embedding.weight


class _Layers(nn.Module):
    """A tower's blocks: [B,T,D] -> the states before the last `skip` blocks, and the last states, [B,T,D] each."""

    def __init__(self, plan: TowerPlan, causal: bool):
        super().__init__()
        self.layers = nn.ModuleList(_Block(plan, causal) for _ in range(plan.num_hidden_layers))

    def forward(self, h: Tensor, mask: Tensor | None, skip: int) -> tuple[Tensor, Tensor]:
        if not 0 <= skip <= len(self.layers):
            raise ValueError(f"skip is {skip}; this tower has 0 .. {len(self.layers)} layers to leave out")
        wanted = h
        for i, layer in enumerate(self.layers):
            h = layer(h, mask)
            wanted = h if i < len(self.layers) - skip else wanted
        return wanted, h


class _Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): [B,T,D] -> [B,T,D]. Begins as Radford 2021's code does."""

    def __init__(self, plan: TowerPlan, causal: bool):
        super().__init__()
        width, eps, depth = plan.hidden_size, plan.layer_norm_eps, plan.num_hidden_layers
        self.self_attn, self.mlp = _Attention(width, plan.num_attention_heads, causal), _MLP(plan)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                writes = name.endswith(("out_proj", "fc2"))
                std = (2 * width * depth) ** -0.5 if writes else (2 * width if name.endswith("fc1") else width) ** -0.5
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class _Attention(nn.Module):
    """Multi-head attention: [B,T,D] -> [B,T,D]."""

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (each(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend(q, k, v, self.causal, mask).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    """Linear, activation, linear: [B,T,D] -> [B,T,D]."""

    def __init__(self, plan: TowerPlan):
        super().__init__()
        self.act = ACTIVATIONS[plan.hidden_act]
        self.fc1 = nn.Linear(plan.hidden_size, plan.intermediate_size)
        self.fc2 = nn.Linear(plan.intermediate_size, plan.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
