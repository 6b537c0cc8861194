"""SENet++'s fine-tuning against its formulas on two separate networks in float64; what the stage keeps and leaves."""

import pytest
import reference
import torch
from small_stages import Batches, fit_stage, killed_and_resumed, pixels

from relinearize.backbones import build_backbone
from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.senet import ordered_distill as ordered_finetune
from relinearize.methods.senet.ordered import narrowed
from relinearize.methods.senet.ordered_distill import OrderedDistill
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, to_masked

IMAGES, SIZE, CLASSES = 6, 5, 3
GAMMA, ALPHA, BETA = 0.1, 0.5, 20.0
SHARED = ("conv1.weight", "conv2.weight", "linear.weight", "linear.bias")


def senet_loss(form, answer, teacher_answer, labels):
    (logits, sites), (teacher_logits, teacher_sites) = answer, teacher_answer
    terms = reference.cross_entropy(logits, labels), reference.divergence(logits, teacher_logits)
    return GAMMA * terms[0] + ALPHA * terms[1] + BETA * reference.PRAM[form](sites, teacher_sites)


def first(shared, shape):
    """The first entries, as a copy without gradients."""
    return shared.detach()[tuple(slice(size) for size in shape)].clone()


@pytest.mark.parametrize("form", ["attention", "activations"])
def test_two_steps_equal_the_formulas_on_two_separate_networks(form):
    """SGD with momentum and weight decay; gradients of shared weights: those of the full plus the half's, padded."""
    torch.manual_seed(5)
    student, teacher, narrow = (
        linearize(reference.SmallNetwork(2, *channels), (2, SIZE, SIZE)).double()
        for channels in ((4, 6), (4, 6), (2, 3))
    )
    teacher.eval().requires_grad_(False)
    to_masked(student, Mask({name: torch.rand(site.mask.shape) < 0.5 for name, site in named_sites(student).items()}))
    masks = [site.mask.clone() for site in named_sites(student).values()]
    half_masks = [mask[: len(mask) // 2] for mask in masks]
    full, half, teacher_state = (reference.state_of(one) for one in (student, narrowed(student, narrow), teacher))
    everywhere = [torch.ones_like(mask) for mask in masks]
    rate, decay = 0.1, 5e-3
    stage = OrderedDistill(
        student, teacher, narrower={0.5: narrow}.get, widths=[0.5, 1.0], form=form, sites="all",
        cross_entropy_weight=GAMMA, distillation_weight=ALPHA, pram_weight=BETA,
        epochs=1, batch_size=IMAGES, learning_rate=rate, weight_decay=decay,
    ).train()  # fmt: skip
    teacher.eval()
    optimizer = stage.configure_optimizers()
    sgd = [reference.SGD(rate, decay) for _ in range(2)]
    for _ in range(2):
        images, labels = torch.randn(IMAGES, 2, SIZE, SIZE, dtype=torch.float64), torch.randint(CLASSES, (IMAGES,))
        optimizer.zero_grad()
        loss, _ = stage.loss(images, labels)
        loss.backward()
        optimizer.step()

        half |= {key: first(full[key], half[key].shape).requires_grad_() for key in SHARED}
        wanted = reference.forward(images, teacher_state, everywhere, train=False)
        gradients, losses = [], []
        for state, kept in ((full, masks), (half, half_masks)):
            keys = reference.trained_keys(state)
            losses.append(senet_loss(form, reference.forward(images, state, kept, train=True), wanted, labels))
            found = torch.autograd.grad(losses[-1], [state[key] for key in keys])
            gradients.append(dict(zip(keys, found, strict=True)))
        torch.testing.assert_close(loss, sum(losses), rtol=1e-12, atol=1e-12)
        for key in SHARED:
            gradients[0][key][tuple(slice(size) for size in half[key].shape)] += gradients[1].pop(key)
        for one, state, of_width in zip(sgd, (full, half), gradients, strict=True):
            one.apply(state, of_width)

    half |= {key: first(full[key], half[key].shape) for key in SHARED}
    variants = stage.variants(stage.weights())
    for name, state in (("", full), ("width-0.5", half)):
        for key, value in state.items():
            torch.testing.assert_close(variants[name][key], value.detach(), rtol=0, atol=1e-10, msg=f"{name} {key}")


# ---- the stage -----------------------------------------------------------------------------------------------------


def networks():
    """(student with half of the ReLUs, frozen teacher): a ResNet-8 of 8 channels on 8 pixels."""
    torch.manual_seed(3)
    backbone = build_backbone("resnet8", classes=CLASSES, image_size=8, width=8)
    teacher, student = (pixels(linearize(backbone, (3, 8, 8))) for _ in range(2))
    for module in student.modules():
        if isinstance(module, MaskedReLU):
            module.mask.copy_(torch.rand(module.mask.shape) < 0.5)
    return student, frozen_copy(teacher)


def narrower(fraction):
    """Such a student of fewer channels, all ReLUs kept."""
    return pixels(
        linearize(build_backbone("resnet8", classes=CLASSES, image_size=8, width=int(8 * fraction)), (3, 8, 8))
    )


def quick_stage(killed_in_epoch=None, **settings):
    given = {"epochs": 4, "batch_size": 6, "learning_rate": 0.02, **settings}
    stage = OrderedDistill(*networks(), narrower=narrower, **given)
    held_out = Batches(6).batches
    stage.use(train_loader=Batches(6, killed_in_epoch), validation_loader=held_out, precision="32", seed=0)
    return stage


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    whole, _ = killed_and_resumed(quick_stage, 3, tmp_path)
    metrics = ("loss", "accuracy", "accuracy_0.5", "cross_entropy_0.5", "distillation_0.5", "pram", "pram_0.5")
    assert {f"train/{name}" for name in metrics} <= whole.history[0].keys()
    assert {"val/accuracy", "val/accuracy_0.5", "val/accuracy_mean"} <= whole.history[0].keys()


def test_variants_are_ordinary_networks():
    stage = quick_stage()
    student = stage.network.full
    variants = stage.variants(stage.weights())
    assert list(variants) == list(stage.variant_fractions) == ["", "width-0.5"]
    images = Batches(6).batches[0][0]
    stage.network.eval()
    for name, fraction in stage.variant_fractions.items():
        plain = narrowed(student, narrower(fraction)).eval()
        plain.network.load_state_dict(variants[name])
        assert torch.equal(plain(images), stage.network(images, fraction))
    with_names = build_backbone("resnet8", classes=CLASSES, image_size=8, width=4).state_dict()
    assert list(variants["width-0.5"]) == list(with_names)


def test_the_full_width_trains_as_without_others():
    """widths=[1.0] is SENet's stage."""
    images, labels = Batches(6).batches[0]
    alone = quick_stage(widths=[1.0])
    both = quick_stage(widths=[0.5, 1.0])
    plain = ordered_finetune.PRAMDistill(*networks(), epochs=1, batch_size=6, learning_rate=0.02)
    loss, metrics = plain.loss(images, labels)
    torch.testing.assert_close(alone.loss(images, labels)[0], loss)
    of_both, metrics_of_both = both.loss(images, labels)
    assert all(torch.equal(metrics[key], metrics_of_both[key]) for key in metrics)
    assert of_both > loss


def test_the_teacher_answers_once_a_batch():
    stage = quick_stage(widths=[0.25, 0.5, 1.0])
    calls = []
    stage._frozen[0].register_forward_hook(lambda *_: calls.append(1))
    stage.loss(*Batches(6).batches[0])
    assert len(calls) == 1


@pytest.mark.parametrize(("selection", "epoch"), [("best", 1), ("last", 2)])
def test_selection_is_by_the_mean_of_the_widths(monkeypatch, selection, epoch):
    stage = quick_stage(selection=selection)
    narrow = iter([50.0, 80.0, 60.0])
    monkeypatch.setattr(ordered_finetune, "accuracy", lambda network, *_: next(narrow))
    for number, full in enumerate([90.0, 88.0, 95.0]):  # means 70, 84, 77.5
        row = {"epoch": number, "val/accuracy": full}
        with torch.no_grad():
            stage.network.full.network.linear.bias.fill_(number)
        stage.close_epoch(row)
        stage.history.append(row)
        assert row["val/accuracy_mean"] == (full + row["val/accuracy_0.5"]) / 2
    weights, selected = stage.selected()
    assert selected == epoch
    assert (weights["full.network.linear.bias"] == epoch).all()


def test_a_resumed_stage_knows_the_best_mean_of_before(monkeypatch):
    killed, resumed = quick_stage(), quick_stage()
    monkeypatch.setattr(ordered_finetune, "accuracy", lambda network, *_: 60.0)
    killed.close_epoch({"epoch": 0, "val/accuracy": 80.0})
    checkpoint = {}
    killed.on_save_checkpoint(checkpoint)
    resumed.on_load_checkpoint(checkpoint)
    resumed.close_epoch({"epoch": 1, "val/accuracy": 70.0})
    assert resumed.selected()[1] == 0


def test_impossible_widths_name_their_key():
    message = r"method.finetune.widths=\[0.5\]: give a list of different fractions above 0 and up to 1.0"
    with pytest.raises(UserError, match=message):
        quick_stage(widths=[0.5])


@pytest.mark.slow
def test_compiled_training_runs_without_falling_back(without_code_generation, tmp_path):
    """Two widths in training and validation stay within torch's limit of compiled forms per function."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    stage, plain = quick_stage(epochs=2), quick_stage(epochs=2)
    for trained in (stage, plain):  # a last batch that is smaller, as a hold-out has
        images, labels = Batches(6).batches[0]
        trained.validation_loader = [(images, labels), (images[:3], labels[:3]), (images[:4], labels[:4])]
    fit_stage(plain, tmp_path / "plain")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        fit_stage(stage, tmp_path, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for key, value in plain.weights().items():
        torch.testing.assert_close(stage.weights()[key], value, rtol=1e-3, atol=1e-3)
