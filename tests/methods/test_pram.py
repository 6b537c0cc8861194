"""PRAM: its distances against formulas in numpy, its sites, and the stage on every backbone."""

import copy
import math

import numpy as np
import pytest
import small_stages
import torch
from hydra import compose, initialize_config_dir

from relinearize.backbones import build_backbone
from relinearize.cli import conf_folder
from relinearize.errors import UserError
from relinearize.methods.distill import Distill
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.senet.pram import (
    FORMS,
    PRAMDistill,
    activation_distance,
    activation_mismatch,
    attention_distance,
    chosen_sites,
)
from relinearize.methods.senet.site_outputs import SiteOutputs
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, site_shapes, to_masked

BACKBONES = [("resnet8", 4, 8), ("resnet18", 4, 8), ("resnet34", 2, 8), ("wrn22_8", 1, 8), ("vgg16_bn", 4, 16)]
SETTINGS = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01}
CLASSES = 5


def pixel_network(name, width, size, seed=0):
    return small_stages.pixel_network(name, width, size, seed).double()


def batch(size: int, dtype=torch.float64, images: int = 4):
    torch.manual_seed(9)
    pixels = torch.rand(images, 3, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return pixels, torch.randint(CLASSES, (images,))


# ---- distances ---------------------------------------------------------------------------------------------------


def numpy_attention(student: np.ndarray, teacher: np.ndarray) -> float:
    total, positions = 0.0, student.shape[2] * student.shape[3]
    for sample in range(len(student)):
        maps = []
        for outputs in (student[sample], teacher[sample]):
            energy = (outputs**2).mean(axis=0).ravel()
            maps.append(energy / math.sqrt((energy**2).sum()))
        total += ((maps[0] - maps[1]) ** 2).sum()
    return total / (len(student) * positions)


def numpy_activations(student: np.ndarray, teacher: np.ndarray) -> float:
    distances = []
    for sample in range(len(student)):
        first, second = student[sample].ravel(), teacher[sample].ravel()
        first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
        distances.append(np.linalg.norm(first - second))
    return float(np.mean(distances))


NUMPY = {"attention": numpy_attention, "activations": numpy_activations}


def outputs(channels: int = 5, seed: int = 0, dtype=torch.float64, layout=torch.contiguous_format) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, channels, 4, 2, generator=generator, dtype=torch.float64)
    return values.to(dtype).contiguous(memory_format=layout)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_distances_equal_numpy(form, layout):
    student, teacher = outputs(seed=1, layout=layout), outputs(seed=2)
    found = FORMS[form][0](student, teacher).item()
    assert found == pytest.approx(NUMPY[form](student.numpy(), teacher.numpy()), rel=1e-12)
    assert found > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_distances_know_no_scale_of_a_sample(form):
    distance = FORMS[form][0]
    student, teacher = outputs(seed=1), outputs(seed=2)
    scale = torch.tensor([0.1, 3.0, 50.0], dtype=torch.float64).view(3, 1, 1, 1)
    torch.testing.assert_close(distance(student * scale, teacher / scale), distance(student, teacher))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_equal_finite_differences_and_have_the_layout_of_the_outputs(form, layout):
    student, teacher = outputs(seed=1, layout=layout).requires_grad_(), outputs(seed=2)
    assert torch.autograd.gradcheck(lambda values: FORMS[form][0](values, teacher), (student,))
    FORMS[form][0](student, teacher).backward()
    assert student.grad.stride() == student.stride()


@pytest.mark.parametrize("form", FORMS)
def test_distance_and_gradient_of_equal_outputs_are_zero(form):
    student = outputs(seed=1, dtype=torch.float32).requires_grad_()
    distance = FORMS[form][0](student, student.detach().clone())
    distance.backward()
    assert distance.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
def test_samples_of_zeros_give_finite_values_and_no_gradient(form, dead):
    student, teacher = outputs(seed=1), outputs(seed=2)
    for name, values in (("student", student), ("teacher", teacher)):
        if dead in (name, "both"):
            values[0] = 0
    student.requires_grad_()
    distance = FORMS[form][0](student, teacher)
    distance.backward()
    assert math.isfinite(distance.item())
    assert torch.isfinite(student.grad).all()
    assert student.grad[1:].abs().max() > 0
    if form == "activations":
        assert not student.grad[0].any()
        expected = 0.0 if dead == "both" else 1.0  # a unit vector against zeros
        rest = activation_distance(student[1:], teacher[1:]).item()
        assert 3 * distance.item() - 2 * rest == pytest.approx(expected, abs=1e-12)


def test_attention_of_narrower_students_needs_no_cut():
    student, teacher = outputs(3, seed=1), outputs(6, seed=2)
    found = attention_distance(student, teacher).item()
    assert found == pytest.approx(numpy_attention(student.numpy(), teacher.numpy()), rel=1e-12)


def test_activations_of_narrower_students_are_compared_with_the_first_channels():
    student, teacher = outputs(3, seed=1).requires_grad_(), outputs(6, seed=2)
    found = activation_distance(student, teacher)
    assert found.item() == pytest.approx(numpy_activations(student.detach().numpy(), teacher[:, :3].numpy()), rel=1e-12)
    assert torch.autograd.gradcheck(lambda values: activation_distance(values, teacher), (student,))


@pytest.mark.parametrize("form", FORMS)
def test_bf16_outputs_are_compared_in_float32(form):
    distance = FORMS[form][0]
    student, teacher = (outputs(seed=seed, dtype=torch.bfloat16) for seed in (1, 2))
    single = student.float().requires_grad_()
    wanted = distance(single, teacher.float())
    wanted.backward()
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distance(student, teacher)
    found.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(student.grad.float(), single.grad, rtol=1e-2, atol=1e-6)


def test_flat_outputs():
    """N x F: a direction in activations; a map of one position, always the same, in attention."""
    student, teacher = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    found = activation_distance(student, teacher).item()
    assert found == pytest.approx(numpy_activations(student.numpy(), teacher.numpy()), rel=1e-12)
    assert attention_distance(student, teacher).item() == pytest.approx(0, abs=1e-15)


def test_the_term_is_the_sum_over_sites_and_half_of_it_for_activations():
    student = {"a": outputs(seed=1), "b": outputs(seed=2)}
    teacher = {"b": outputs(seed=3), "a": outputs(seed=4), "unused": outputs(seed=5)}
    for form, factor in (("attention", 1.0), ("activations", 0.5)):
        wanted = factor * sum(NUMPY[form](student[name].numpy(), teacher[name].numpy()) for name in "ab")
        assert activation_mismatch(form, student, teacher).item() == pytest.approx(wanted, rel=1e-12)


# ---- sites -------------------------------------------------------------------------------------------------------

ENDS = {
    ("resnet8", "senet", 32): ["layer1.0.relu2", "layer2.0.relu2", "layer3.0.relu2"],
    ("resnet18", "senet", 32): [f"layer{stage}.1.relu2" for stage in (1, 2, 3, 4)],
    ("resnet18", "snl", 32): [f"layer{stage}.1.relu2" for stage in (1, 2, 3, 4)],
    ("resnet34", "senet", 32): ["layer1.2.relu2", "layer2.3.relu2", "layer3.5.relu2", "layer4.2.relu2"],
    ("wrn22_8", "senet", 32): ["block2.0.relu1", "block3.0.relu1", "relu"],
    ("wrn22_8", "snl", 32): ["block2.0.relu1", "block3.0.relu1", "block3.2.relu2"],
    ("vgg16_bn", "senet", 32): [f"features.relu{site}" for site in ("2_2", "3_3", "4_3", "5_3")],
    ("vgg16_bn", "senet", 64): [f"features.relu{site}" for site in ("2_2", "3_3", "4_3", "5_3")],
}


@pytest.mark.parametrize(("name", "convention", "size"), ENDS)
def test_stages_are_compared_at_their_ends(name, convention, size):
    backbone = build_backbone(name, classes=2, image_size=size, width=1, convention=convention)
    network = linearize(backbone, (3, size, size))
    assert PRAMDistill(network, frozen_copy(network), **SETTINGS).compared_sites == ENDS[name, convention, size]


def test_chosen_sites():
    shapes = {"a": (4, 8, 8), "b": (4, 8, 8), "c": (8, 4, 4), "d": (10,)}
    assert chosen_sites("stages", shapes, "key") == ["b", "c", "d"]
    assert chosen_sites("all", shapes, "key") == ["a", "b", "c", "d"]
    assert chosen_sites(["c", "a", "c"], shapes, "key") == ["a", "c"]
    assert chosen_sites("b", shapes, "key") == ["b"]


@pytest.mark.parametrize("sites", ["ends", ["a", "z"], [], None, 3])
def test_sites_that_are_none_are_one_line(sites):
    with pytest.raises(
        UserError, match=r"^method.finetune.sites=.*valid: stages, all, or a list of sites \(a ..."
    ) as it:
        chosen_sites(sites, {"a": (4, 8, 8), "b": (4, 8, 8)}, "method.finetune.sites")
    assert "\n" not in str(it.value)


def test_an_unknown_form_is_one_line():
    network = pixel_network("resnet8", 2, 8)
    with pytest.raises(UserError, match=r"method.finetune.form=cosine is unknown; valid: attention, activations"):
        PRAMDistill(network, frozen_copy(network), form="cosine", **SETTINGS)


# ---- the stage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "width", "size"), BACKBONES)
def test_outputs_of_the_frozen_teacher_are_those_behind_its_relus(name, width, size):
    """Its ReLUs may work in place: what was seen must still be so after the forward pass."""
    network = pixel_network(name, width, size).eval()
    sites = named_sites(network.network)
    wanted = {}
    for site_name, site in sites.items():
        site.register_forward_hook(lambda _, __, output, name=site_name: wanted.update({name: output.detach().clone()}))
    frozen = frozen_copy(pixel_network(name, width, size))
    seen = SiteOutputs(frozen, sites)
    images, _ = batch(size)
    with torch.no_grad(), seen.watching():
        frozen(images)
    network(images)
    assert list(seen.values) == list(wanted) == list(sites)
    for site_name, output in wanted.items():
        assert output.min() >= 0
        torch.testing.assert_close(seen.values[site_name], output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "width", "size"), BACKBONES)
def test_full_masks_with_the_teachers_weights_have_no_mismatch(name, width, size, form):
    network = pixel_network(name, width, size).eval()
    images, labels = batch(size)
    for teacher, tolerance in ((copy.deepcopy(network), 0), (frozen_copy(network), 1e-10)):
        student = copy.deepcopy(network)
        stage = PRAMDistill(student, teacher, form=form, sites="all", **SETTINGS)
        loss, metrics = stage.loss(images, labels)
        loss.backward()
        assert metrics["pram"].item() <= tolerance
        assert metrics["distillation"].item() == pytest.approx(0, abs=1e-10)
        assert loss.item() == pytest.approx(0.1 * metrics["cross_entropy"].item(), abs=1e-6)
        assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_at_no_mismatch_in_float32_and_bf16_gradients_are_finite(form):
    network = pixel_network("resnet18", 4, 8).float().eval()
    images, labels = batch(8, torch.float32)
    for autocast in (False, True):
        student = copy.deepcopy(network)
        stage = PRAMDistill(student, frozen_copy(network), form=form, sites="all", **SETTINGS)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, metrics = stage.loss(images, labels)
        loss.backward()
        assert loss.dtype == metrics["pram"].dtype == torch.float32
        assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


def test_without_its_term_it_is_plain_distillation():
    """Same loss, same gradients as Distill; metrics are the terms before their weights."""
    results = []
    for kind, extra in ((Distill, {}), (PRAMDistill, {"pram_weight": 0.0})):
        student, teacher = pixel_network("resnet8", 4, 8), frozen_copy(pixel_network("resnet8", 4, 8, seed=1))
        weights = {"cross_entropy_weight": 0.3, "distillation_weight": 0.7}
        stage = kind(student, teacher, **weights, **extra, **SETTINGS)
        loss, metrics = stage.loss(*batch(8))
        loss.backward()
        results.append((loss, metrics, [parameter.grad for parameter in student.parameters()]))
    (plain, plain_metrics, plain_gradients), (loss, metrics, gradients) = results
    assert torch.equal(plain, loss)
    assert set(metrics) == {"cross_entropy", "distillation", "pram", "accuracy"}
    assert all(torch.equal(value, metrics[key]) for key, value in plain_metrics.items())
    assert all(torch.equal(*pair) for pair in zip(plain_gradients, gradients, strict=True))


def test_the_defaults_are_the_official_values():
    """README of SENet's official code, CIFAR: gamma 0.1, alpha 0.5, beta 1000, T 4; the loss is made of the metrics."""
    student, teacher = pixel_network("resnet8", 4, 8), frozen_copy(pixel_network("resnet8", 4, 8, seed=1))
    stage = PRAMDistill(student, teacher, **SETTINGS)
    loss, metrics = stage.loss(*batch(8))
    terms = 0.1 * metrics["cross_entropy"] + 0.5 * metrics["distillation"] + 1000 * metrics["pram"]
    torch.testing.assert_close(loss, terms)
    assert stage.temperature == 4.0
    assert metrics["pram"].item() > 0
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize(
    ("file", "form", "sites", "alpha"),
    [("senet", "attention", "stages", 0.5), ("senet_activations", "activations", "all", 0.9)],
)
def test_config_files_hold_the_sources_values(file, form, sites, alpha):
    """SENet's official code: 240 epochs, decay after 150, 180 and 210."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        tune = compose("config", [f"method/finetune={file}"]).method.finetune
    assert (tune.form, tune.sites) == (form, sites)
    assert (tune.cross_entropy_weight, tune.distillation_weight, tune.pram_weight) == (0.1, alpha, 1000.0)
    assert (tune.epochs, tune.batch_size, tune.learning_rate, tune.schedule) == (240, 128, 0.01, "milestones")
    assert [tune.epochs * milestone for milestone in tune.milestones] == [150, 180, 210]
    assert (tune.gamma, tune.momentum, tune.weight_decay, tune.temperature) == (0.1, 0.9, 5e-4, 4.0)
    assert tune.selection == "best"


def test_one_answer_of_the_teacher_serves_several_students_of_fewer_channels():
    teacher = frozen_copy(pixel_network("resnet8", 4, 8, seed=1))
    stage = PRAMDistill(pixel_network("resnet8", 4, 8), teacher, form="activations", sites="all", **SETTINGS)
    images, labels = batch(8)
    wanted = stage.teacher_outputs(images)
    kept = {name: values.clone() for name, values in wanted.sites.items()}
    for width in (4, 2):
        narrow = PRAMDistill(pixel_network("resnet8", width, 8), teacher, sites="all", **SETTINGS)
        found = narrow._student_outputs.run(narrow.network, images)
        loss, metrics = stage.compared(found, wanted, labels)
        loss.backward()
        cut = {name: values[:, : found.sites[name].shape[1]] for name, values in wanted.sites.items()}
        distances = [
            numpy_activations(values.detach().numpy(), cut[name].numpy()) for name, values in found.sites.items()
        ]
        assert metrics["pram"].item() == pytest.approx(sum(distances) / 2, rel=1e-10)
    assert all(torch.equal(values, kept[name]) for name, values in wanted.sites.items())


def test_nothing_of_a_step_is_kept():
    """Outputs with their graphs would hold the memory of a forward pass through the optimizer's step."""
    student, teacher = pixel_network("resnet8", 4, 8), frozen_copy(pixel_network("resnet8", 4, 8, seed=1))
    stage = PRAMDistill(student, teacher, sites="all", **SETTINGS)
    stage.loss(*batch(8))
    assert not stage._student_outputs.values and not stage._teacher_outputs.values
    assert not any("teacher" in key or "frozen" in key for key in stage.state_dict())


def test_outputs_that_were_not_seen_are_an_error():
    student, teacher = pixel_network("resnet8", 4, 8), frozen_copy(pixel_network("resnet8", 4, 8, seed=1))
    stage = PRAMDistill(student, teacher, **SETTINGS)
    images, labels = batch(8)
    wanted = stage.teacher_outputs(images)
    found = stage._student_outputs.run(student, images)
    del wanted.sites["layer2.0.relu2"]
    with pytest.raises(RuntimeError, match=r"site layer2.0.relu2 was not seen"):
        stage.compared(found, wanted, labels)


@pytest.mark.slow
def test_compiled_networks_give_the_same_loss_and_gradients(without_code_generation):
    """As fit() compiles them: student and teacher each, hooks registered before; with passes that nobody watches."""
    for form, sites in (("attention", "stages"), ("activations", "all")):
        results = []
        for compiled in (False, True):
            student, teacher = pixel_network("resnet8", 4, 8), pixel_network("resnet8", 4, 8, seed=1)
            torch.manual_seed(2)
            shapes = site_shapes(student.network)
            to_masked(student.network, Mask({name: torch.rand(shape) < 0.4 for name, shape in shapes.items()}))
            stage = PRAMDistill(student.float(), frozen_copy(teacher.float()), form=form, sites=sites, **SETTINGS)
            images, labels = batch(8, torch.float32)
            if compiled:
                torch.compiler.reset()
                for network in (stage.network, *stage._frozen):
                    network.compile()
            student(images)  # trains the running averages, as the eager one's
            stage.loss(images, labels)
            with torch.no_grad():
                student.eval()(images)
            student.train()
            loss, metrics = stage.loss(images, labels)
            loss.backward()
            results.append((loss, metrics, [parameter.grad for parameter in student.parameters()]))
        (loss, metrics, gradients), (compiled_loss, compiled_metrics, compiled_gradients) = results
        torch.testing.assert_close(compiled_loss, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(compiled_metrics, metrics, rtol=1e-4, atol=1e-6)
        scale = max(gradient.abs().max() for gradient in gradients).item()
        for pair in zip(compiled_gradients, gradients, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5 * scale)
