"""What any training imports and opens, once for all processes that are forked to be killed."""

import huggingface_hub  # noqa: F401
import torch
import torch.utils.tensorboard

import maquette.report.card  # noqa: F401
from maquette import api, recipes  # noqa: F401
from maquette.data import open_data

recipes.catalogue()
assert open_data("digits").splits
first = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # torch's first optimizer imports its compiler
