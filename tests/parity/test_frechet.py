"""Our Fréchet distance against torchmetrics', on the same feature network and the same images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maquette.metrics import features, frechet


class Faces(torch.nn.Module):
    """torchmetrics probes a feature network with uint8 images; ours reads floats."""

    def __init__(self, net):
        super().__init__()
        self.net, self.num_features = net, net.num_features

    def forward(self, x):
        return self.net(x.float())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 24)])
def test_equals_torchmetrics(shape):
    theirs = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance  # here, for to import it takes seconds

    with features.seeded(0):
        net = features.Perceptron(int(np.prod(shape)), 10) if shape[1] <= 16 else features.Convnet(shape, 10)
    net.eval()
    g = torch.Generator().manual_seed(1)
    real, made = torch.rand(300, *shape, generator=g), torch.rand(400, *shape, generator=g) ** 1.5
    theirs = theirs(feature=Faces(net), normalize=True, input_img_size=shape)
    for images, is_real in ((real, True), (made, False)):
        for part in images.split(100):
            theirs.update(part, real=is_real)
    ours = frechet.distance(*frechet.gaussian(features.apply(net, made)), *frechet.gaussian(features.apply(net, real)))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)
