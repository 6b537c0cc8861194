"""Whole runs of RLNet: routes in every stage, a record for each route, what is shared and what is resumed."""

import math

import pytest
import torch
from quick_runs import METHODS, QUICK_ATTACKS, copy_store, quick_plan, quick_run
from safetensors.torch import load_file

from relinearize.backbones.routes import ROUTES
from relinearize.commands.evaluate import main as evaluate_run
from relinearize.errors import UserError
from relinearize.methods.rlnet.inner_attack import InnerAttack
from relinearize.methods.rlnet.robust_training import RobustTraining
from relinearize.records.run import find_records
from relinearize.runs.pipeline import check_stages
from relinearize.runs.stages import ready
from relinearize.targets import builder

SHARE = "budget.fraction=0.2"
BUDGET = 461  # of 2,304
SHORT = ["method.teacher.epochs=1", "method.search.epochs=1", "method.finetune.epochs=1", "sensitivity.epochs=1"]


def route_names(weights):
    return {part for key in weights for part in key.split(".") if part in ROUTES[3]}


def test_each_route_is_a_finished_run_of_one_checkpoint(rlnet):
    record, folder = rlnet
    (_, clean), (path, adversarial) = find_records([folder])
    assert path.parent == folder / "route-adversarial"
    assert (clean.route, adversarial.route) == ("clean", "adversarial")
    assert clean.accuracy.teacher_test is not None and adversarial.accuracy.teacher_test is None, (
        "it has none of its own"
    )
    assert adversarial.submodel.run == clean.key == record.key and clean.submodel is None
    assert clean.budget == adversarial.budget and clean.budget.met == BUDGET and clean.sites == adversarial.sites
    ours, theirs = (load_file(place / "weights.safetensors") for place in (folder, path.parent))
    assert list(ours) == list(theirs) and not route_names(ours)
    shared = [key for key in ours if ours[key].equal(theirs[key])]
    assert all("bn" not in key and "shortcut.1" not in key for key in shared if "tracked" not in key)
    assert all("bn" in key or "shortcut.1" in key for key in set(ours) - set(shared))
    for place, found in ((folder, clean), (path.parent, adversarial)):
        assert evaluate_run([f"run={place}"])["test"] == found.accuracy.test


def test_stages_hand_all_routes_on(rlnet):
    _, folder = rlnet
    store = folder.parents[1] / "store"
    (teacher,) = store.glob("teacher/*/weights.safetensors")
    (snapshot,) = store.glob("search/*/budget-*/weights.safetensors")
    (pruned,) = store.glob("sensitivity/*/weights.safetensors")
    assert route_names(load_file(teacher)) == route_names(load_file(snapshot)) == set(ROUTES[2])
    assert not route_names(load_file(pruned)), "densities are those of the route for clean images"


# The switches of the official code: one route with its TRADES, two with one norm for both in the shortcuts.
TRADES = ["method.teacher.trades_weight=6", "method.teacher.attack.loss=kl", "method.teacher.trades_temperature=4"]
OFFICIAL = {
    1: [*TRADES, *(f"method.{stage}.attack_order=last" for stage in ("teacher", "search", "finetune"))],
    2: ["method.teacher.shared_shortcut_norms=true", "method.search.start=scratch", "backbone.initialisation=senet"],
    3: [],
}


@pytest.mark.slow
@pytest.mark.parametrize("routes", OFFICIAL)
def test_all_numbers_of_routes(tmp_path, routes):
    record, folder = quick_run(tmp_path, SHARE, f"method.routes={routes}", *OFFICIAL[routes], *SHORT, method="rlnet")
    found = {narrow.route for _, narrow in find_records([folder])}
    assert found == ({None} if routes == 1 else set(ROUTES[routes])) and record.budget.met == BUDGET


@pytest.mark.slow
def test_stages_with_and_without_routes_go_together(tmp_path, rlnet, fits):
    copy_store(rlnet[1], tmp_path)
    record, folder = quick_run(
        tmp_path, SHARE, "method/finetune=distill", "method.finetune.epochs=1", method="distilled"
    )
    assert fits == ["finetune"] and record.route is None and len(find_records([folder])) == 1
    robust = [value for value in QUICK_ATTACKS if ".finetune." in value]
    _, folder = quick_run(
        tmp_path, SHARE, "method=random", "method/finetune=rlnet", "+method.routes=2", *robust,
        "method.finetune.epochs=1", method="random",
    )  # fmt: skip
    assert {narrow.route for _, narrow in find_records([folder])} == set(ROUTES[2])


METHODS["distilled"] = [entry for entry in METHODS["rlnet"] if ".finetune." not in entry]


@pytest.mark.slow
def test_number_of_routes_is_in_the_keys_of_the_stages_that_have_them(tmp_path):
    two, three = (quick_plan(tmp_path, SHARE, f"method.routes={number}", method="rlnet") for number in (2, 3))
    assert two.teacher.key != three.teacher.key
    plain = quick_plan(tmp_path, SHARE, "+method.routes=2", method="senet")
    assert plain.teacher.key == quick_plan(tmp_path, SHARE, method="senet").teacher.key


@pytest.mark.slow
def test_under_autocast_attacks_are_made_in_bf16_on_pixels_in_float32(tmp_path, monkeypatch):
    """As on a card, where precision=auto is bf16. val/robust and the test of the result are in float32."""
    seen, attacked = set(), InnerAttack.__call__

    def watched(attack, network, images, targets, *, start, **settings):
        validation = start[0] == "validation"
        hook = network.register_forward_hook(lambda _, images, logits: seen.add((validation, logits.dtype)))
        found = attacked(attack, network, images, targets, start=start, **settings)
        hook.remove()
        assert images.dtype == found.dtype == torch.float32
        assert (found - images).abs().max() <= attack.epsilon / 255 + 1e-6
        assert found.min() >= 0 and found.max() <= 1
        assert not found.bfloat16().float().equal(found), "pixels rounded to 8 bits are in another ball"
        return found

    monkeypatch.setattr(InnerAttack, "__call__", watched)
    record, folder = quick_run(tmp_path, SHARE, "trainer.precision=bf16", *SHORT, method="rlnet")
    assert seen == {(False, torch.bfloat16), (True, torch.float32)}
    assert record.hardware.precision == "bf16" and record.budget.met == BUDGET
    assert record.hardware.convolutions == "torch"
    for name in ("teacher", "search", "finetune"):
        for row in record.stages[name].history:
            assert all(math.isfinite(value) for value in row.values()) and 0 <= row["val/robust"] <= 100
    for path, found in find_records([folder]):
        weights = load_file(path.parent / "weights.safetensors")
        assert all(value.isfinite().all() for value in weights.values())
        assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
        assert evaluate_run([f"run={path.parent}"])["test"] == found.accuracy.test


@pytest.mark.parametrize("held_out", [True, False])
def test_attacked_validation_images_are_drawn(tmp_path, held_out):
    """A set may be sorted by class; of such a one the first images are of few classes."""
    settings = () if held_out else ("method.teacher.selection=test", "dataset.holdout=0")
    plan = quick_plan(tmp_path, SHARE, *settings, method="rlnet")
    stage = ready(plan, builder(plan.request.config.method.teacher)(network=plan.request.stage_network("teacher")))
    whole = plan.request.data.holdout_loader() if held_out else plan.request.data.test_loader()
    assert sorted(stage.validation_loader.rows.tolist()) == sorted(whole.rows.tolist())
    assert stage.validation_loader.rows.tolist() != whole.rows.tolist()


@pytest.mark.slow
def test_official_code_throughout(tmp_path, monkeypatch):
    """The parity settings of conf/experiment/paper/rlnet_*.yaml: chosen by the test set, by clean accuracy alone."""
    measured = RobustTraining.robust_accuracy

    def first_is_best(stage):  # whoever looked at it would choose the first epoch
        assert 0 <= measured(stage) <= 100
        return 0.0 if stage.current_epoch else 100.0

    monkeypatch.setattr(RobustTraining, "robust_accuracy", first_is_best)
    settings = [
        SHARE, *PARITY, "method.teacher.epochs=1", "sensitivity.epochs=1", "method.search.milestones=[0.5]",
    ]  # fmt: skip
    record, folder = quick_run(tmp_path, *settings, "method.finetune.epochs=5", method="rlnet")
    sites = len(record.sites)
    assert BUDGET - 2 * sites < record.budget.met <= BUDGET - sites, "strictly above the threshold: one less a site"
    search, tune = (record.stages[name].history for name in ("search", "finetune"))
    assert len({row["lr"] for row in search}) == 1, "the milestone is passed over"
    accuracy = record.accuracy
    assert (accuracy.selection, accuracy.n_holdout, accuracy.holdout) == ("test", 0, None)
    best, epoch = best_clean(tune)
    assert (accuracy.test, accuracy.selected_epoch) == (best, epoch) and epoch > 0
    found = find_records([folder])
    assert [narrow.route for _, narrow in found] == list(ROUTES[2])
    for path, narrow in found:  # builds students without identity shortcuts, too
        assert narrow.budget.met == record.budget.met
        assert evaluate_run([f"run={path.parent}"])["test"] == narrow.accuracy.test
    searched, _ = quick_run(tmp_path, *settings, "method.finetune.epochs=0", method="rlnet")
    best, epoch = best_clean(search)
    assert searched.stages["search"].reused and searched.accuracy.test == best and epoch > 0
    plan = quick_plan(tmp_path, *PARITY, method="rlnet")
    images = torch.rand(2, 1, 8, 8)
    teacher, student = plan.request.new_network().eval(), plan.request.new_student().eval()
    assert list(teacher.state_dict()) == list(student.state_dict())
    assert not torch.allclose(teacher(images), student(images)), "the student lacks the identity shortcuts"


def best_clean(history):
    """(highest clean accuracy, its first epoch)."""
    clean = [row["val/accuracy"] for row in history]
    return max(clean), clean.index(max(clean))


# What is selected on the test set is tested with torch's convolutions, so it is trained and measured with them.
PARITY = [
    "trainer.convolutions=torch", "method.search.paper_parity=true", "dataset.holdout=0",
    "+backbone.student_skip=false", "method.teacher.selection=test", "method.teacher.select_by=clean",
    "method.finetune.selection=test", "method.finetune.select_by=clean",
]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method.routes=4", "method.routes=4 is impossible; valid: 1, 2, 3"),
        ("method.teacher.attack.steps=0", "attack.steps=0"),
        ("method.search.attack.epsilon=-1", "attack.epsilon=-1"),
        ("method.finetune.split=thirds", "split=thirds"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_trained(tmp_path, setting, words):
    with pytest.raises(UserError, match=words) as refusal:
        check_stages(quick_plan(tmp_path, setting, method="rlnet"))
    assert "\n" not in str(refusal.value)
