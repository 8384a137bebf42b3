from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from tests.models.networks import randomise_scores
from tests.tiny import BACKBONE, batch_of, same, scenes, small, tiny_net
from upscore.data.datasets import geometric_classes
from upscore.labels import VOID
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.training.optimizer import make_average
from upscore.training.recipes import HEAVY, MODERN, Recipe
from upscore.training.trainer import DivergedError, Trainer

SGD = HEAVY.model_copy(update={"loss": "mean", "learning_rate": 0.05, "momentum": 0.9})


def make_trainer(recipe: Recipe, net: FCN | None = None, *, head_only: bool = False, seed: int = 0) -> Trainer:
    trainer = Trainer(net or tiny_net(), recipe, Accelerator(), head_only=head_only, seed=seed)
    trainer.train_mode()
    return trainer


def copy_state(net: FCN) -> dict[str, torch.Tensor]:
    return copy.deepcopy(net.state_dict())


def test_accumulated_batches_equal_one_large_batch() -> None:
    data = scenes(6)
    synchronized, apart = make_trainer(SGD), make_trainer(SGD)
    for indices in [(0, 1, 2), (3, 4, 5), (2, 0, 4)]:
        one = synchronized.step([batch_of(data, *indices)], 1.0)
        other = apart.step([batch_of(data, index) for index in indices], 1.0)
        assert one == pytest.approx(other, rel=1e-4)
    start = tiny_net().state_dict()
    for name, value in synchronized.net.state_dict().items():
        assert torch.allclose(value, apart.net.state_dict()[name], atol=1e-5), name
    assert not torch.allclose(synchronized.net.score["8"].weight, start["score.8.weight"], atol=1e-3)
    assert synchronized.progress.position == apart.progress.position == 9
    assert synchronized.progress.step == apart.progress.step == 3


def test_head_only_keeps_the_backbone_and_its_statistics() -> None:
    recipe = MODERN.model_copy(update={"ema": 0.5})
    trainer = make_trainer(recipe, head_only=True)
    before = copy_state(trainer.net)
    for index in range(3):
        trainer.step([batch_of(scenes(3), index)], 1.0)
    for net in (trainer.net, trainer.result):
        for name, value in net.state_dict().items():
            assert torch.equal(value, before[name]) == name.startswith("backbone."), name


def test_frozen_norm_keeps_running_statistics() -> None:
    def changed(*, frozen: bool) -> set[str]:
        trainer = make_trainer(SGD.model_copy(update={"frozen_norm": frozen}))
        before = copy_state(trainer.net)
        for index in range(3):
            trainer.step([batch_of(scenes(3), index)], 1.0)
        assert trainer.net.training
        return {name for name, value in trainer.net.state_dict().items() if not torch.equal(value, before[name])}

    statistics = {name for name, _ in tiny_net().named_buffers()}
    assert statistics & changed(frozen=False) == statistics
    assert not statistics & changed(frozen=True)
    assert any(name.startswith("backbone.") for name in changed(frozen=True))


def test_a_loss_that_is_not_finite_names_step_and_images() -> None:
    trainer = make_trainer(SGD)
    trainer.step([batch_of(scenes(), 0)], 1.0)
    trainer.net.score["8"].bias.data[0] = float("inf")
    before = {name: value.clone() for name, value in trainer.net.named_parameters()}
    with pytest.raises(DivergedError, match=r"nan .*step 2 \(epoch 1\).*scene_00002, scene_00005"):
        trainer.step([batch_of(scenes(), 2, 5)], 1.0)
    assert same(before, dict(trainer.net.named_parameters()))
    assert all(parameter.grad is None for parameter in trainer.net.parameters())
    assert trainer.progress.step == 1


def test_a_high_learning_rate_raises_diverged_error() -> None:
    trainer = make_trainer(SGD.model_copy(update={"learning_rate": 1e30}))
    trainer.step([batch_of(scenes(), 0)], 1.0)
    with pytest.raises(DivergedError, match="--learning-rate"):
        trainer.step([batch_of(scenes(), 1)], 1.0)


def test_a_validation_loss_that_is_not_finite_names_the_image() -> None:
    trainer = make_trainer(SGD)
    trainer.net.score["8"].bias.data[0] = float("nan")
    with pytest.raises(DivergedError, match=r"nan .*epoch 1.*scene_00000"):
        trainer.validate([batch_of(scenes(), 0)])


def test_validation_loss_is_the_mean_over_all_pixels_of_the_averaged_network() -> None:
    trainer = make_trainer(MODERN.model_copy(update={"ema": 0.5, "learning_rate": 1e-2}))
    for index in range(3):
        trainer.step([batch_of(scenes(), index)], 1.0)
    batches = [batch_of(scenes(), index) for index in (3, 4)]
    assert batches[0].class_maps is not None
    batches[0].class_maps[:, :50] = VOID
    before = copy.deepcopy(trainer.state())
    loss, scores = trainer.validate(batches)
    assert same(before, trainer.state())

    assert trainer.average is not None
    net = copy.deepcopy(trainer.average.module).eval()
    losses, right = [], []
    for batch in batches:
        assert batch.class_maps is not None
        with torch.no_grad():
            logits = net(net.preprocessing(batch.images))
        valid = batch.class_maps[0] != VOID
        losses.append(F.cross_entropy(logits[0][:, valid].T, batch.class_maps[0][valid].long(), reduction="none"))
        right.append(logits[0].argmax(0)[valid] == batch.class_maps[0][valid])
    assert loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)
    assert scores.pixel_accuracy == pytest.approx(torch.cat(right).float().mean().item(), abs=1e-3)
    own = copy.deepcopy(trainer.net).eval()
    with torch.no_grad():
        logits = own(own.preprocessing(batches[1].images))
    assert batches[1].class_maps is not None
    assert F.cross_entropy(logits, batches[1].class_maps.long()).item() != pytest.approx(losses[1].mean().item())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_validation_and_training_losses_have_the_same_denominator(heads: int, weighted: bool) -> None:
    """The loss of a batch is the same in training and validation, even if void pixels differ between the heads."""
    data = scenes()
    names = geometric_classes(data)
    torch.manual_seed(0)
    options = {"geometric_classes": len(names)} if heads == 2 else {}
    net = randomise_scores(build("fcn8s", backbone=BACKBONE, num_classes=8, **options)).eval()
    if isinstance(net, TwoHeads):
        net.geometric_classes = names
    if weighted:
        net.class_weights = torch.linspace(0.2, 3, 8)
    batch = batch_of(data, 0, 1)
    assert batch.class_maps is not None
    batch.class_maps[:, :40] = VOID
    trainer = Trainer(net, SGD, Accelerator(cpu=True))
    expected = trainer._losses(batch, 0)[0].item()
    assert trainer.validate([batch])[0] == pytest.approx(expected, rel=1e-5)
    apart = [batch_of(data, 0), batch_of(data, 1)]
    for part in apart:
        assert part.class_maps is not None
        part.class_maps[:, :40] = VOID
    assert trainer.validate(apart)[0] == pytest.approx(expected, rel=1e-5)


def test_the_average_has_a_smaller_decay_at_first() -> None:
    net = tiny_net()
    average = make_average(net, 0.3)
    expected = None
    for count, value in enumerate([1.0, 2.0, 4.0, 8.0, 16.0]):
        net.score["8"].bias.data.fill_(value)
        average.update_parameters(net)
        decay = min(0.3, (1 + count) / (10 + count))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.score["8"].bias[0].item() == pytest.approx(expected)
    assert average.module.classes == net.classes


def test_running_statistics_are_averaged_too() -> None:
    trainer = make_trainer(MODERN.model_copy(update={"ema": 0.9}))
    for index in range(4):
        trainer.step([batch_of(scenes(), index)], 1.0)
    name = next(name for name, _ in trainer.net.named_buffers() if name.endswith("running_mean"))
    start, own, kept = (net.state_dict()[name] for net in (tiny_net(), trainer.net, trainer.result))
    assert not torch.equal(kept, own)
    assert not torch.equal(kept, start)


def test_bfloat16_and_float32_in_one_process() -> None:
    recipe = small(SGD, learning_rate=1e-3)
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        trainer = Trainer(tiny_net(), recipe, Accelerator(mixed_precision="no"), dtype=dtype)
        trainer.train_mode()
        dtypes = []
        convolution = next(layer for layer in trainer.net.backbone.modules() if isinstance(layer, nn.Conv2d))
        hook = convolution.register_forward_hook(lambda _m, _i, output, dtypes=dtypes: dtypes.append(output.dtype))
        losses[dtype] = [trainer.step([batch_of(scenes(), index)], 1.0) for index in range(3)]
        hook.remove()
        assert set(dtypes) == {dtype}
        assert {parameter.dtype for parameter in trainer.net.parameters()} == {torch.float32}
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def test_dropout_depends_on_seed_and_step_only() -> None:
    trainer = make_trainer(SGD)
    drawn = []
    trainer.net.score["8"].register_forward_pre_hook(lambda _m, _i: drawn.append(torch.rand(1).item()))
    for seed in (0, 0, 1):
        trainer.seed, trainer.progress.step = seed, 0
        torch.rand(5)
        trainer.step([batch_of(scenes(), 0)], 1.0)
        trainer.step([batch_of(scenes(), 0)], 1.0)
    assert drawn[0:2] == drawn[2:4]
    assert len(set(drawn)) == 4
