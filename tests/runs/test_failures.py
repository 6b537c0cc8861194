"""What a run says and leaves when something is wrong."""

import pickle

import numpy
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from quick_runs import SMALL, assert_same_tensors, quick_plan, quick_run, sealed_again
from robust_runs import FGSM, evaluate, pieces
from safetensors.torch import load_file, save_file
from torch import nn

from relinearize.commands.evaluate import main as evaluate_run
from relinearize.errors import UserError
from relinearize.methods.distill import Distill
from relinearize.records.store import MASK, WEIGHTS
from relinearize.relu.mask import Mask
from relinearize.runs import stages as making
from relinearize.runs.describe import known_width


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.teacher.learning_rate=1e20", r"stage teacher became NaN or infinite at step \d+ \(epoch \d+\)"),
        ("method.finetune.learning_rate=1e20", r"stage finetune became NaN or infinite at step \d+ \(epoch \d+\)"),
    ],
)
def test_diverged_loss_names_stage_and_step_and_leaves_a_usable_store(tmp_path, alone, override, message):
    with pytest.raises(UserError, match=message):
        quick_run(tmp_path, f"budget.fraction={SMALL}", override)
    stage = override.split(".")[1]
    assert not list(tmp_path.glob(f"store/{stage}/*/artifact.json"))
    assert not list(tmp_path.glob("runs/*/record.json"))
    with pytest.raises(UserError, match=message):  # asked again it says the same
        quick_run(tmp_path, f"budget.fraction={SMALL}", override)
    if stage == "finetune":
        assert_same_tensors(quick_run(tmp_path, f"budget.fraction={SMALL}")[1], alone[SMALL][1])


def test_weights_that_are_not_finite_at_the_very_end_are_no_result(tmp_path):
    """One step with a finite loss: only the weights it leaves are infinite."""
    with pytest.raises(UserError, match="stage teacher"):
        quick_run(
            tmp_path, "method.teacher.epochs=1", "method.teacher.batch_size=500", "method.teacher.learning_rate=1e39"
        )
    assert not list(tmp_path.glob("store/teacher/*/artifact.json"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sensitivity=uniform", "+sensitivity.density=0.2"], r"^sensitivity \(Uniform\): .*takes no arguments"),
        (["sensitivity=released_list", "sensitivity.list=[3,2]"], r"^sensitivity\.list=\[3, 2\] is no released list"),
        (
            ["sensitivity=uniform", f"sensitivity._target_={__name__}.Odd"],
            "^sensitivity: site .* is given nan; it must",
        ),
        (["sensitivity=uniform", f"sensitivity._target_={__name__}.Short"], "^sensitivity: site .* is given None; it"),
    ],
)
def test_sensitivities_that_cannot_be_are_named_before_training(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        quick_plan(tmp_path, *overrides, method="senet, any sensitivity").known_sensitivities  # noqa: B018


class Odd:
    def sensitivities(self, shapes, backbone):
        return dict.fromkeys(shapes, float("nan"))


class Short:
    def sensitivities(self, shapes, backbone):
        return dict.fromkeys(list(shapes)[1:], 1.0)


def test_a_width_that_counts_no_channels_is_in_no_record():
    given = (8, 0.5, [8, 16], None)
    assert [known_width(OmegaConf.create({"backbone": {"width": width}})) for width in given] == [8, None, None, None]


# ---- teachers from files -------------------------------------------------------------------------------------------


class OwnNet(nn.Module):
    """What users' networks do, by `kind`."""

    def __init__(self, classes, image_size, channels, kind, kernel=(3, 3), **_):
        super().__init__()
        assert isinstance(kernel, list | tuple)
        self.kind, self.convolution = kind, nn.Conv2d(channels, 4, tuple(kernel), padding=1)
        self.head = nn.Linear(4 * image_size**2, classes + (kind == "more"))

    def forward(self, x):
        x = F.relu(self.convolution(x))
        logits = self.head(x.view(x.size(0), -1) if self.kind == "view" else x.flatten(1))
        return (logits, x) if self.kind == "tuple" else logits


def given_to_a_builder(**settings):
    return nn.Linear(**settings)


class Nameless(Distill):
    name = "mine"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+backbone.kind=view"], r"channels are last in memory .*flatten\(1\) or reshape"),
        (["+backbone.kind=tuple"], "backbone: of 4 images it makes tuple, not 4 x 10 logits"),
        (["+backbone.kind=more"], r"backbone: of 4 images it makes \(4, 11\), not 4 x 10 logits"),
        (
            ["+backbone.kind=view", f"backbone._target_={__name__}.given_to_a_builder"],
            "given_to_a_builder fails: TypeError",
        ),
        (
            ["+backbone.kind=own", f"method.finetune._target_={__name__}.Nameless"],
            "name is 'mine'; it must be 'finetune'",
        ),
    ],
)
def test_networks_and_stages_of_ones_own_are_tried_before_the_teacher_trains(tmp_path, overrides, message):
    words = [f"backbone._target_={__name__}.OwnNet", "+backbone.kernel=[3,3]", *overrides]
    with pytest.raises(UserError, match=message) as caught:
        quick_run(tmp_path, f"budget.fraction={SMALL}", *words, method="random")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("store/teacher/*/last.ckpt"))


@pytest.mark.slow
def test_with_channels_first_views_hold_in_trainings_scores_fits_and_attacks(tmp_path):
    words = [f"backbone._target_={__name__}.OwnNet", "+backbone.kind=view", "trainer.channels_last=false"]
    words += ["score=gradient", "replacement=zero", f"budget.fraction={SMALL}", "method.teacher.epochs=1"]
    _, folder = quick_run(tmp_path, *words, "method.finetune.epochs=1", method="one_shot")
    evaluate(folder, *FGSM, "trust=true")
    assert "fgsm" in str(pieces(folder)).lower()


def test_logits_that_are_not_finite_are_said(tmp_path, monkeypatch, capfd):
    lost = {"per_class": [50.0] * 10, "ece": None, "nll": None}
    monkeypatch.setattr(making, "measure_predictions", lambda *_: (50.0, lost))
    record, _ = quick_run(tmp_path, f"budget.fraction={SMALL}", "method.finetune.epochs=0", method="random")
    assert record.accuracy.predictions.nll is None
    assert "finetune: logits of a test image are not finite" in capfd.readouterr().err


class Counted:
    def __init__(self, **_):
        pass

    def sensitivities(self, shapes, backbone):
        return {name: numpy.float32(1 + place) for place, name in enumerate(shapes)}


def test_sensitivities_of_ones_own_may_be_scalars_of_numpy(tmp_path):
    plan = quick_plan(tmp_path, f"sensitivity._target_={__name__}.Counted", method="senet, any sensitivity")
    assert plan.sensitivities() == {name: 1.0 + place for place, name in enumerate(plan.request.shapes)}
    assert plan.search.key


@pytest.fixture
def teacher_file(alone):
    return next(alone[SMALL][1].parents[1].glob("store/teacher/*/weights.safetensors"))


@pytest.mark.parametrize("form", ["own.safetensors", "other_names.safetensors", "other_names.pt", "wrapped.pt"])
def test_teacher_from_a_file_is_used_as_it_is(tmp_path, alone, teacher_file, form):
    weights = load_file(teacher_file)
    if "own" not in form:  # renamed by a program without batch counters; files keep the order of torch's state dict
        from quick_runs import quick_plan

        order = [key for key in quick_plan(tmp_path).request.all_relu.network.state_dict() if "tracked" not in key]
        weights = {f"module.{index:03d}.{key.rpartition('.')[2]}": weights[key] for index, key in enumerate(order)}
    path = tmp_path / form
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(
        {"state_dict": weights, "epoch": 3} if "wrapped" in form else weights, path
    )
    record, _ = quick_run(tmp_path, f"teacher.weights={path}", "method.finetune.epochs=1", method="random")
    assert record.accuracy.teacher_test == alone[SMALL][0].accuracy.teacher_test
    assert record.method.teacher == "file" and record.stages["teacher"].epochs == 0
    kept = load_file(next(tmp_path.glob("store/teacher/*/weights.safetensors")))
    assert all(value.equal(kept[key]) for key, value in load_file(teacher_file).items() if "tracked" not in key)


def test_teacher_of_another_backbone_is_refused_by_the_first_difference(tmp_path, teacher_file):
    with pytest.raises(UserError) as caught:
        quick_run(tmp_path, f"teacher.weights={teacher_file}", "backbone.width=12")
    message = str(caught.value)
    assert "conv1.weight (12, 1, 3, 3)" in message and "conv1.weight (8, 1, 3, 3)" in message
    assert str(teacher_file) in message and len(message) < 300
    assert "\n" not in message


class Malice:
    def __reduce__(self):
        return (open, (Malice.target, "w"))


def test_teacher_file_that_would_execute_code_is_refused(tmp_path):
    Malice.target = str(tmp_path / "executed")
    path = tmp_path / "teacher.pt"
    torch.save({"weight": Malice()}, path)
    with pytest.raises(UserError, match=r"teacher\.pt holds more than tensors and is refused .*its state dict alone"):
        quick_run(tmp_path, f"teacher.weights={path}")
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"teacher\.pt cannot be read as weights: it is no file of torch"):
        quick_run(tmp_path, f"teacher.weights={path}")
    path.write_bytes(pickle.dumps({"weight": Malice()}))
    with pytest.raises(UserError, match=r"teacher\.pt"):
        quick_run(tmp_path, f"teacher.weights={path}")
    assert not (tmp_path / "executed").exists()


def test_missing_empty_and_torn_teacher_files_are_named(tmp_path):
    for name, content in (("empty.pt", b""), ("torn.safetensors", b"\x10\0\0\0\0\0\0\0{"), ("text.pt", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            quick_run(tmp_path, f"teacher.weights={tmp_path / name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"absent\.pt does not exist"):
        quick_run(tmp_path, f"teacher.weights={tmp_path / 'absent.pt'}")


# ---- evaluate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied_run(tmp_path, alone):
    """A copy of a finished run's folder, to be damaged."""
    folder = tmp_path / "run"
    folder.mkdir()
    for file in alone[SMALL][1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_evaluate_refuses_a_mask_of_another_backbone(copied_run):
    mask, metadata = Mask.from_file(copied_run / MASK)
    metadata.backbone = "resnet18"
    mask.to_file(copied_run / MASK, metadata)
    sealed_again(copied_run)
    with pytest.raises(UserError, match="made for backbone=resnet18, but backbone=resnet8"):
        evaluate_run([f"run={copied_run}", "accelerator=cpu"])


def test_evaluate_refuses_a_mask_of_another_width(copied_run):
    mask, metadata = Mask.from_file(copied_run / MASK)
    narrow = Mask({site: kept[:4] for site, kept in mask.items()})
    metadata.met = narrow.count
    narrow.to_file(copied_run / MASK, metadata)
    sealed_again(copied_run)
    with pytest.raises(UserError, match="mask"):
        evaluate_run([f"run={copied_run}", "accelerator=cpu"])


def test_evaluate_refuses_a_mask_that_keeps_other_than_the_record_says(copied_run):
    mask, metadata = Mask.from_file(copied_run / MASK)
    full = Mask({site: torch.ones_like(kept) for site, kept in mask.items()})
    metadata.met = full.count
    full.to_file(copied_run / MASK, metadata)
    sealed_again(copied_run)
    with pytest.raises(UserError, match=r"2,?304.*622|622.*2,?304"):
        evaluate_run([f"run={copied_run}", "accelerator=cpu"])


def test_evaluate_refuses_weights_of_another_network(copied_run):
    weights = load_file(copied_run / WEIGHTS)
    save_file({key: value[:3] if value.dim() else value for key, value in weights.items()}, copied_run / WEIGHTS)
    sealed_again(copied_run)
    with pytest.raises(UserError, match=WEIGHTS) as caught:
        evaluate_run([f"run={copied_run}", "accelerator=cpu"])
    assert "\n" not in str(caught.value)


def test_evaluate_refuses_nonsense_options(copied_run):
    for argument, message in (("batch_size=many", "batch_size=many"), ("colour=red", "colour=red")):
        with pytest.raises(UserError, match=message):
            evaluate_run([f"run={copied_run}", argument])
