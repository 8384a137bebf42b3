from __future__ import annotations

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.tiny import batch_of, scenes, tiny_net
from upscore.labels import VOID
from upscore.models.fcn.fcn import FCN, Upsampling
from upscore.training.optimizer import SGD, learning_rate_factor, make_optimizer, parameter_groups, set_rates
from upscore.training.recipes import HEAVY, MODERN, RECIPES, Recipe
from upscore.training.trainer import Trainer


def train_steps(recipe: Recipe, count: int = 5) -> FCN:
    """Train a network for some steps on images with 3000 valid pixels each."""
    data = scenes(count)
    trainer = Trainer(tiny_net(), recipe, Accelerator())
    trainer.train_mode()
    for index in range(count):
        batch = batch_of(data, index)
        assert batch.class_maps is not None
        batch.class_maps.view(-1)[3000:] = VOID
        trainer.step([batch], 1.0)
    return trainer.net


@torch.no_grad()
def distance(one: FCN, other: FCN) -> float:
    """Return the distance of two networks' weights, relative to the distance of the first from its initial weights."""
    start = dict(tiny_net().named_parameters())
    moved = sum((value - start[name]).square().sum() for name, value in one.named_parameters())
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return math.sqrt(sum((a - b).square().sum() for a, b in pairs) / moved)


def test_summed_loss_equals_mean_loss_at_a_scaled_rate_and_decay() -> None:
    """FCN section 4.3: the summed loss at (rate, decay) equals the mean over N pixels at (rate N, decay / N)."""
    pixels = 3000
    rates = {"learning_rate": 2e-6, "weight_decay": 600.0, "momentum": 0.9}
    summed = HEAVY.model_copy(update=rates)
    scaled = {"learning_rate": 2e-6 * pixels, "loss": "mean"}
    mean = summed.model_copy(update={**scaled, "weight_decay": 600.0 / pixels})
    undivided = summed.model_copy(update=scaled)
    reached = train_steps(summed)
    assert distance(reached, train_steps(mean)) < 1e-3
    assert distance(reached, train_steps(undivided)) > 0.1


def test_momentum_decay_and_bias_rate_match_caffe() -> None:
    """v = m v + rate (g + decay w); w -= v, with twice the rate and no decay for biases (the released solvers)."""
    recipe = HEAVY.model_copy(update={"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.5})
    net = tiny_net()
    optimizer = make_optimizer(net, recipe)
    layer = net.score["8"]
    weight = nn.init.ones_(layer.weight)[0, 0, 0, 0].item()
    bias = nn.init.ones_(layer.bias)[0].item()
    weight_speed = bias_speed = 0.0
    for gradient in (1.0, -2.0, 0.5):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        set_rates(optimizer, 1.0)
        optimizer.step()
        weight_speed = 0.9 * weight_speed + 0.1 * (gradient + 0.5 * weight)
        bias_speed = 0.9 * bias_speed + 0.2 * gradient
        weight, bias = weight - weight_speed, bias - bias_speed
    assert layer.weight[0, 0, 0, 0].item() == pytest.approx(weight, abs=1e-6)
    assert layer.bias[0].item() == pytest.approx(bias, abs=1e-6)


@pytest.mark.parametrize(
    ("upsampling", "learned"), [("fixed", set()), ("intermediate", {"16", "8"}), ("learned", None)]
)
def test_every_trainable_parameter_is_in_one_group(upsampling: Upsampling, learned: set[str] | None) -> None:
    net = tiny_net(upsampling=upsampling)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = parameter_groups(net, HEAVY)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    assert len(found) == len(set(found))
    assert set(found) == trainable
    upscore = {name.split(".")[1] for name in names.values() if name.startswith("upscore.")}
    assert upscore == ({"16", "8", "1"} if learned is None else learned)
    norms = {id(p) for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert norms
    for group in groups:
        assert group["lr"] == group["base_rate"]
        for parameter in group["params"]:
            is_bias = names[id(parameter)].endswith(".bias")
            assert group["lr"] == HEAVY.learning_rate * (2 if is_bias else 1), names[id(parameter)]
            decays = not is_bias and id(parameter) not in norms
            assert group["weight_decay"] == (HEAVY.weight_decay if decays else 0), names[id(parameter)]


def test_modern_trains_score_layers_at_a_higher_rate() -> None:
    net = tiny_net()
    rates = {id(p): group["lr"] for group in parameter_groups(net, MODERN) for p in group["params"]}
    assert rates[id(net.score["8"].weight)] == 4 * MODERN.learning_rate
    assert {rates[id(p)] for p in net.backbone.parameters() if p.requires_grad} == {MODERN.learning_rate}


def test_frozen_parameters_are_in_no_group() -> None:
    net = tiny_net()
    net.backbone.requires_grad_(False)
    found = {id(parameter) for group in parameter_groups(net, HEAVY) for parameter in group["params"]}
    assert found == {id(parameter) for parameter in net.score.parameters()}


def test_cosine_schedule() -> None:
    factors = [learning_rate_factor(MODERN, step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1
    assert factors[5 + 19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.2)))
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 1e-3
    assert learning_rate_factor(MODERN, 0, 1) == 1  # a run of one step


def test_constant_schedule() -> None:
    assert {learning_rate_factor(HEAVY, step, 100) for step in range(100)} == {1.0}


def test_set_rates_scales_the_base_rate_of_each_group() -> None:
    optimizer = make_optimizer(tiny_net(), HEAVY)
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5e-10, 1e-10}


def test_recipes_match_the_released_solvers() -> None:
    """FCN section 4.3; `solver.prototxt` of voc-fcn32s and of voc-fcn-alexnet."""
    heavy, accum = RECIPES["heavy"], RECIPES["accum"]
    assert (heavy.optimizer, heavy.loss, heavy.learning_rate, heavy.momentum) == ("sgd", "sum", 1e-10, 0.99)
    assert (heavy.weight_decay, heavy.bias_rate, heavy.batch_size, heavy.accumulate) == (5e-4, 2, 1, 1)
    assert (heavy.crop, heavy.scale, heavy.flip, heavy.colour, heavy.ema) == (0, None, 0, 0, 0)
    assert (accum.loss, accum.learning_rate, accum.momentum, accum.accumulate) == ("mean", 1e-4, 0.9, 20)
    assert heavy.replacement
    assert accum.replacement


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_sgd_equals_torch_sgd_in_any_memory_layout(momentum: float, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Linear(4, 2)).to(memory_format=memory_format)  # type: ignore[call-overload]
    theirs = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    optimizer = SGD(ours.parameters(), lr=0.1, momentum=momentum, weight_decay=0.01, fused=True)
    expected = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum, weight_decay=0.01, fused=True)
    for step in range(4):
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.grad = torch.randn(other.shape)
            own.grad = other.grad.clone() if step == 1 else torch.empty_like(own).copy_(other.grad)
        ours[2].bias.grad = theirs[2].bias.grad = None
        optimizer.step()
        expected.step()
        if step == 2:  # the state of torch's SGD can be loaded
            optimizer.load_state_dict(copy.deepcopy(expected.state_dict()))
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(own, other)
    assert optimizer.state_dict()["state"].keys() == expected.state_dict()["state"].keys()
