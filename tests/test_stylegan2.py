"""StyleGAN2: each mechanism that the name stands for, shown acting."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from maquette.distributed import World
from maquette.experiment import Fit
from maquette.networks.stylegan2 import Critic, Mapping, Synthesis, modulated, rungs, spread
from maquette.nn.equalized import GAIN, Conv, Linear
from maquette.nn.resample import Enlarge, Fir
from maquette.objectives.adversarial import Logistic
from maquette.objectives.styled import Styled, path_lengths
from maquette.recipes.stylegan import stylegan2
from maquette.samplers.style_space import directions, mixed, project, styles
from maquette.samplers.styled import Style
from maquette.streams import Streams
from maquette.train import Progress, run, take_step


def synthesis(seed: int = 0) -> Synthesis:
    torch.manual_seed(seed)
    return Synthesis((1, 32, 32), 64, 64).eval()


def low(change: torch.Tensor) -> float:
    """Share of an image change's energy at frequencies of at most 4 cycles per image."""
    power = torch.fft.fft2(change.flatten(0, 1)).abs().square().mean(0)
    f = torch.fft.fftfreq(change.shape[-1]).abs() * change.shape[-1]
    slow = (f[:, None] <= 4) & (f <= 4)
    return float(power[slow].sum() / power.sum())


def test_demodulation_gives_unit_variance_whatever_the_style():
    x, weight = Streams.of(0, 8).normal(16, 12, 12), torch.randn(24, 16, 3, 3)
    for size in (0.01, 1.0, 100.0):
        style = size * Streams.of(1, 8).normal(16).exp()
        inside = modulated(x, weight, style)[:, :, 1:-1, 1:-1]
        assert float(inside.var(dim=(1, 2, 3)).sub(1).abs().max()) < 0.3
        plain = modulated(x, weight, style, demodulate=False)
        assert float(plain.std()) > 3 * size  # what demodulation takes away


def test_scaling_activations_is_scaling_the_weights_of_each_row():
    """Equations 1 and 3 of the paper, written out with a weight per row."""
    x, style, weight = Streams.of(0, 3).normal(4, 6, 6), Streams.of(1, 3).normal(4), torch.randn(5, 4, 3, 3)
    for b in range(3):
        scaled = weight * style[b][None, :, None, None]
        scaled = scaled / (scaled.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = F.conv2d(x[b : b + 1], scaled, padding=1)
        torch.testing.assert_close(modulated(x, weight, style)[b : b + 1], expected, atol=1e-5, rtol=1e-4)


def test_the_filter_passes_flat_and_stops_the_finest_pattern():
    flat, finest = torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    finest[..., ::2] = -1
    for fir in (Fir(1, stride=2), Fir(2)):
        torch.testing.assert_close(fir(flat)[..., 2:-2, 2:-2].amin(), torch.tensor(1.0))
        assert float(fir(finest)[..., 2:-2, 2:-2].abs().max()) < 1e-6
    assert Fir(1, stride=2)(flat).shape == (1, 3, 8, 8)
    stuffed = torch.zeros(1, 1, 9, 9)
    x = Streams.of(0, 1).normal(1, 4, 4)
    stuffed[..., 1::2, 1::2] = x
    torch.testing.assert_close(Fir(2, gain=4.0)(stuffed)[..., 2:-2, 2:-2], Enlarge()(x)[..., 1:-1, 1:-1])


def test_equalised_layers_have_unit_weights_and_keep_variance():
    torch.manual_seed(0)
    wide, slow, conv = Linear(400, 300), Linear(400, 300, rate=0.01), Conv(32, 64, gain=GAIN)
    assert float(wide.weight.detach().std()) == pytest.approx(1, abs=0.02) and float(slow.weight.detach().std()) == pytest.approx(
        100, rel=0.02
    )
    x = torch.randn(500, 400)
    for layer in (wide, slow):
        assert float(layer(x).detach().std()) == pytest.approx(1, abs=0.03)
    h = F.leaky_relu(conv(torch.randn(8, 32, 16, 16)), 0.2)
    assert float(h.detach().square().mean()) == pytest.approx(1, abs=0.15)
    before = [layer(x).detach() for layer in (wide, slow)]
    for layer in (wide, slow):
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
        layer(x).square().mean().backward()
        optimizer.step()
    moved = [float((layer(x) - old).detach().square().mean()) for layer, old in zip((wide, slow), before, strict=True)]
    assert math.sqrt(moved[1] / moved[0]) == pytest.approx(0.01, rel=0.1)


def test_minibatch_deviation_sees_a_collapse():
    varied = Streams.of(0, 8).normal(3, 4, 4)
    same = varied[:1].expand(8, -1, -1, -1)
    assert float(spread(same).max()) < 1e-3 and float(spread(varied).min()) > 0.5
    groups = torch.cat([same[:1], varied[1:]])[[0, 1, 0, 2, 0, 3, 0, 4]]  # rows 0, 2, 4, 6 are one group
    assert float(spread(groups)[::2].max()) < 1e-3 < float(spread(groups)[1::2].min())
    for rows, group in ((6, 3), (5, 1), (1, 1)):
        assert spread(varied[:rows]).shape == (rows, 1, 4, 4)
        assert (float(spread(varied[:rows]).min()) > 1e-3) is (group > 1)
    critic = Critic((1, 8, 8), 8).eval()
    x = Streams.of(1, 8).normal(1, 8, 8)
    with torch.no_grad():
        alone, crowd = critic(x[:1].expand(4, -1, -1, -1))[0], critic(x[:4])[0]
    assert abs(float(alone - crowd)) > 1e-4  # the same row, judged with company that differs


def test_coarse_styles_move_the_shape_and_fine_ones_the_tone():
    """Up to brightness and contrast: images whose coarse styles differ are unlike, those whose fine styles differ alike."""
    net = synthesis()
    one, two = (part[:, None].repeat(1, net.styles, 1) for part in Streams.of(0, 2 * 64).normal(64).chunk(2))
    coarse, fine = one.clone(), one.clone()
    coarse[:, :2], fine[:, -2:] = two[:, :2], two[:, -2:]

    def shape(image: torch.Tensor) -> torch.Tensor:
        away = image - image.mean((2, 3), keepdim=True)
        return away / away.std((2, 3), keepdim=True)

    seen: list[torch.Tensor] = []
    net.layers[2].register_forward_hook(lambda _, inputs, out: seen.append(out))
    with torch.no_grad():
        here, there, above = net(one), net(coarse), net(fine)
    assert float((shape(there) * shape(here)).mean()) < 0.45 < 0.7 < float((shape(above) * shape(here)).mean())
    assert float((above - here).std()) > 0.3 * float((there - here).std())  # fine styles do change the image
    assert torch.equal(seen[2], seen[0]) and not torch.equal(seen[1], seen[0])


def test_noise_changes_only_high_frequencies():
    net = synthesis()
    with torch.no_grad():
        for layer in net.layers[-2:]:
            layer.noise.fill_(0.5)
        w = Streams.of(0, 32).normal(64)
        still = net(w)
        grains = net(w, noise=Streams.of(1, 32).normal(net.places)) - still
        other = net(Streams.of(2, 32).normal(64)) - still
    assert torch.equal(net(w), still)
    assert low(grains) < 0.25 < 0.5 < low(other)


def test_styles_are_mixed_at_a_layer_and_their_mean_remembered():
    found = stylegan2(data="digits", latent=8)
    objective, rng = Styled(Logistic(), mixing=0.9), Streams.of(0, 400)
    cond = found.system.condition({"label": torch.arange(400) % 10})
    mapping = found.system.nets["mapping"]
    styles = objective.styles(found.system, cond, rng)
    again = Streams.of(0, 400)
    one, two = (mapping(again.normal(8), cond=cond) for _ in range(2))
    first = (styles == one[:, None]).all(2)
    second = (styles == two[:, None]).all(2)
    assert bool((first ^ second).all()) and bool(first[:, 0].all())  # each layer has one of both, the lowest the first
    assert bool((second[:, 1:] >= second[:, :-1]).all())  # one cut
    assert float(second[:, -1].float().mean()) == pytest.approx(0.9, abs=0.05)
    expected = torch.stack([one[cond.vector[:, c] > 0].mean(0) for c in range(10)]) * 0.02
    torch.testing.assert_close(mapping.centres, expected)
    assert "nets.mapping.centres" in found.system.state_dict()
    plain = Styled(Logistic(), mixing=0.0).styles(found.system, cond, Streams.of(0, 400))
    assert torch.equal(plain, one[:, None].expand(-1, plain.shape[1], -1))


def test_truncation_pulls_styles_to_their_mean():
    system = stylegan2(data="digits", latent=8).system
    mapping = system.nets["mapping_ema"]
    mapping.centres.copy_(Streams.of(3, 10).normal(mapping.centres.shape[1]))
    about = {"label": torch.full((40,), 7)}
    with torch.no_grad():
        drawn = [system.sample(40, about=about, sampler=Style(psi, noise=0.0))["code"] for psi in (0.0, 0.3, 0.7, 1.0)]
        mean = system.nets["synthesis_ema"](mapping.centres[7:8])
    torch.testing.assert_close(drawn[0], mean.expand_as(drawn[0]), atol=1e-5, rtol=1e-4)
    away = [float((x - mean).square().mean()) for x in drawn]
    assert away[0] < 1e-6 < away[1] < away[2] < away[3]
    torch.testing.assert_close(
        mapping.centre(None if mapping.told == 0 else system.condition(about, drop=1.0), 40)[0], mapping.centres.mean(0)
    )


def test_chosen_styles_are_drawn_as_they_are():
    system = stylegan2(data="digits", latent=8).system
    net = system.nets["synthesis_ema"]
    styles = Streams.of(0, 2).normal(net.styles, 64)
    out = system.sample(2, start=styles, sampler=Style(noise=0.0), about={"label": torch.tensor([0, 1])})["code"]
    torch.testing.assert_close(out, net(styles))
    with pytest.raises(ValueError, match="2 styles were given"):
        net(styles[:, :2])


def test_path_length_of_a_linear_generator():
    """image = A w: the length is |A' y| / sqrt(pixels), whatever w."""
    a = torch.randn(6, 2 * 4 * 4)
    styles = Streams.of(0, 5).normal(1, 6).requires_grad_(True)
    image = (styles[:, 0] @ a).view(5, 2, 4, 4)
    lengths = path_lengths(image, styles, Streams.of(1, 5))
    y = Streams.of(1, 5).normal(2, 4, 4).flatten(1) / 4
    torch.testing.assert_close(lengths, (y @ a.T).norm(dim=1))
    orthogonal = torch.linalg.qr(torch.randn(32, 6))[0].T * 3  # of equal slope in all six directions
    many = Streams.of(0, 4000).normal(1, 6).requires_grad_(True)
    squares = path_lengths((many[:, 0] @ orthogonal).view(-1, 2, 4, 4), many, Streams.of(2, 4000)).square()
    assert float(squares.mean()) == pytest.approx(9 * 6 / 16, rel=0.05)


def test_penalties_are_lazy_phases_and_the_length_is_checkpointed():
    found = stylegan2(data="digits", latent=8)
    objective = found.system.objective
    assert [(p.name, p.every) for p in objective.phases()] == [
        ("criticise", 1),
        ("penalise", 16),
        ("generate", 1),
        ("straighten", 4),
    ]
    assert [p.name for p in Styled(Logistic(), path=0.0).phases()] == ["criticise", "penalise", "generate"]
    logs = take_step(found.system, found.data, Progress(Fit(steps=9, batch=8, clip=0.0)), World())
    torch.testing.assert_close(objective.length, logs["straighten/length"])
    torch.testing.assert_close(logs["straighten/loss"], 4 * 2.0 * logs["straighten/uneven"])
    torch.testing.assert_close(logs["penalise/loss"], 16 * objective.r1 / 2 * logs["penalise/r1"])
    assert torch.equal(found.system.state_dict()["objective.length"], objective.length)


def test_path_length_regularisation_evens_lengths():
    """A generator alone with the penalty: the lengths' spread, which heavy styles have made large, falls by half."""
    torch.manual_seed(1)
    found = stylegan2(data="digits", latent=8)
    objective = found.system.objective
    with torch.no_grad():
        for name, p in found.system.nets["synthesis"].named_parameters():
            if name.endswith("style.weight"):
                p *= 3

    def even() -> float:
        styles = objective.styles(found.system, cond, Streams.of(9, 64))
        image = found.system.nets["synthesis"](styles)
        lengths = sum(path_lengths(image, styles, Streams.of(y, 64)).detach() for y in range(10))
        return float(lengths.std() / lengths.mean())  # over styles; the directions of pixels are averaged out

    cond = found.system.condition({"label": torch.arange(64) % 10})
    before = even()
    players = [*found.system.nets["mapping"].parameters(), *found.system.nets["synthesis"].parameters()]
    optimizer = torch.optim.Adam(players, lr=1e-2, betas=(0.0, 0.99))
    for step in range(40):
        loss, _ = objective.straighten(found.system, {"label": torch.arange(32) % 10}, Streams.of(step, 32), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = even()
    assert before > 0.2 and after < 0.65 * before, (before, after)  # 0.24 and 0.11


def test_adaptive_augmentation_moves_in_training():
    found = stylegan2(data="digits", latent=8, target=0.6)
    augment = found.system.objective.augment
    augment.speed = 0.01
    for _ in run(found.system, found.data, Progress(Fit(steps=12, batch=16, lr=2.5e-3, betas=(0.0, 0.99), clip=0.0))):
        pass
    assert float(augment.p) != 0


def test_a_picture_is_found_again_in_the_space_of_styles():
    """Inversion: a generated picture's projection is nearer to it than any of the styles the descent began with; so is W+."""
    system = stylegan2(data="digits", latent=8).system.eval()
    rng = Streams.of(5, 4)
    code = system.nets["synthesis_ema"](styles(system, rng)).detach()
    begun = project(system, code, steps=1, rate=0.0)[1]
    found, away = project(system, code, steps=40)
    assert float((away / begun).max()) < 0.35
    assert found.shape == (4, 5 - 1, 64) and torch.equal(found[:, 0], found[:, -1])  # one style for all layers
    wider, nearer = project(system, code, steps=40, each=True)
    assert not torch.equal(wider[:, 0], wider[:, -1]) and float(nearer.mean()) < 2 * float(away.mean())
    again = system.sample(4, start=Style().adopt(system, code), sampler=Style(noise=0.0), about={"label": torch.arange(4)})
    assert float((again["code"] - code).square().mean()) < 0.05 * float(code.var())
    with pytest.raises(ValueError, match="steps is 0"):
        project(system, code, steps=0)
    with pytest.raises(ValueError, match=r"shape \(1, 9, 9\)"):
        project(system, torch.zeros(1, 1, 9, 9))


def test_directions_found_without_labels_change_the_image_most():
    """SeFa's first directions move the layers' scales more than directions drawn at random do, and stand at right angles."""
    net = synthesis()
    with torch.no_grad():  # what training does to a new network's weights, in small: some directions of w matter more
        for layer in net.layers:
            layer.style.weight[:, :3] *= 4
    found = directions(net, 3)
    torch.testing.assert_close(found @ found.T, torch.eye(3), atol=1e-5, rtol=0)
    assert float(found[:, :3].square().sum()) > 2.5  # three of three, nearly
    w = Streams.of(0, 32).normal(64)
    other = F.normalize(Streams.of(1, 32).normal(64), dim=1)
    with torch.no_grad():
        here = net(w)
        moved, drifted = (float((net(w + step) - here).square().mean()) for step in (found[:1], other))
    assert moved > 2 * drifted
    with pytest.raises(ValueError, match="count is 65"):
        directions(net, 65)


def test_mixing_takes_coarse_styles_from_rows_and_fine_ones_from_columns():
    rows, columns = Streams.of(0, 5).normal(8).split([2, 3])
    grid = mixed(rows, columns, 4, 1)
    assert grid.shape == (2, 3, 4, 8)
    assert torch.equal(grid[1, 2, 0], rows[1]) and torch.equal(grid[1, 2, 1:], columns[2].expand(3, -1))
    with pytest.raises(ValueError, match="cut is 4"):
        mixed(rows, columns, 4, 4)


def test_what_is_exhibited_has_a_frame_of_its_sources():
    system = stylegan2(data="digits", latent=8).system.eval()
    found = list(Style().exhibit(system, torch.zeros(9, 1, 8, 8)).values())
    assert [tuple(x.shape) for x in found] == [(7, 9, 1, 8, 8), (6, 9, 1, 8, 8), (2, 9, 1, 8, 8)]
    mixing = found[0]
    assert float(mixing[0, 0].max()) == 0 and float(mixing.min()) >= 0 and float(mixing.max()) <= 1
    assert not torch.equal(mixing[1, 1], mixing[1, 2]) and not torch.equal(mixing[1, 1], mixing[2, 1])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 32, 32), [(64, 4, 4), (64, 8, 8), (32, 16, 16), (16, 32, 32)]),
        ((3, 8, 8), [(64, 4, 4), (64, 8, 8)]),
        ((1, 28, 28), [(64, 7, 7), (64, 14, 14), (32, 28, 28)]),
        ((1, 24, 48), [(64, 6, 12), (64, 12, 24), (32, 24, 48)]),
        ((1, 9, 9), [(64, 9, 9)]),
    ],
)
def test_resolutions(shape, expected):
    assert rungs(shape, 64) == expected
    torch.manual_seed(0)
    net = Synthesis(shape, 16, 64)
    out = net(Streams.of(0, 2).normal(16), noise=Streams.of(1, 2).normal(net.places))
    assert out.shape == (2, *shape) and Critic(shape, 64)(out).shape == (2,)


@pytest.mark.parametrize("how", [{"depth": 0}, {"latent": 0}, {"gamma": -1.0}, {"mixing": 1.5}, {"path": -2.0}, {"augment": 2.0}])
def test_bad_arguments_are_named(how):
    with pytest.raises(ValueError, match=str(next(iter(how.values())))):
        stylegan2(data="digits", **how)


def test_bad_dials_and_sizes_are_named(tmp_path):
    with pytest.raises(ValueError, match="truncation is 2"):
        Style(2)
    with pytest.raises(ValueError, match="noise is -1"):
        Style(noise=-1)
    with pytest.raises(ValueError, match=r"127 x 127 .* --size 128"):
        rungs((1, 127, 127), 64)
    with pytest.raises(ValueError, match="told a condition"):
        Mapping(4, 8, told=3)(torch.zeros(1, 4))
