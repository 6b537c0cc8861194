"""Whole runs of SENet and SENet++: what is shared, what is resumed, which stages go together, what records say."""

import itertools
import shutil

import pytest
import torch
from quick_runs import METHODS, QUICK, SMALL, assert_same_tensors, copy_store, quick_plan, quick_run
from torch import nn

from relinearize.commands.evaluate import main as evaluate_run
from relinearize.errors import UserError
from relinearize.records.run import find_records
from relinearize.relu.mask import Mask
from relinearize.runs import search as searches
from relinearize.runs.pipeline import check_stages, remove_damaged

SHARE = "budget.fraction=0.2"
BUDGET = 461  # of 2,304


def test_record_names_stages_sensitivities_and_an_exact_budget(senet):
    record, folder = senet
    assert record.budget.met == record.budget.asked == BUDGET and record.budget.reached
    assert (record.method.search, record.method.finetune) == ("SENetSearch", "PRAMDistill")
    assert list(record.stages) == ["teacher", "search", "finetune", "sensitivity"]
    assert [row["relu/count"] for row in record.stages["search"].history] == [BUDGET] * 3
    for row in record.stages["search"].history:  # the sites' shares of ReLUs that moved make the whole one's
        moved = [row[f"mask/distance/{site.name}"] * site.kept for site in record.sites]
        assert 0 <= row["mask/distance"] <= 1 and sum(moved) == pytest.approx(row["mask/distance"] * BUDGET)
    assert record.stages["sensitivity"].history[-1]["density"] == pytest.approx(0.1, abs=1e-3)
    etas = [site.sensitivity for site in record.sites]
    assert all(0 <= eta <= 1 for eta in etas)
    factor = [site.kept / site.sensitivity for site in record.sites if site.kept < site.total]
    assert max(factor) - min(factor) < 1.1 / min(etas)  # n = c * eta up to whole numbers
    mask, _ = Mask.from_file(folder / "mask.safetensors")
    assert mask.counts == {site.name: site.kept for site in record.sites}


@pytest.mark.slow
def test_sensitivity_is_computed_once_for_all_budgets_and_for_seeds_that_name_it(tmp_path, senet, fits):
    copy_store(senet[1], tmp_path)
    quick_run(tmp_path, "budget.fraction=0.1", method="senet")
    assert fits == ["search", "finetune"]
    quick_run(tmp_path, SHARE, "seed=1", "sensitivity.seed=0", method="senet")
    assert fits[2:] == ["teacher", "search", "finetune"]
    record, _ = quick_run(tmp_path, SHARE, "seed=1", method="senet")
    assert fits[5:] == ["sensitivity", "search", "finetune"] and not record.stages["sensitivity"].reused
    assert len(list(tmp_path.glob("store/sensitivity/*/artifact.json"))) == 2


def test_a_search_that_stopped_early_and_was_killed_then_does_not_train_on(tmp_path, senet, monkeypatch):
    """Between the stop and the snapshot: a full disk, say."""
    words = ["sensitivity=uniform", "method.search.epochs=4", "method.search.stop_distance=1.0"]
    words += ["method.search.stop_patience=2", "method.finetune.epochs=0"]
    copy_store(senet[1], tmp_path)
    copy_store(senet[1], tmp_path / "killed")

    def killed(*arguments):
        raise SystemExit(75)

    whole, folder = quick_run(tmp_path, SHARE, *words, method="senet, any sensitivity")
    assert whole.stages["search"].epochs == 2
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(searches, "keep_snapshot", killed)
        quick_run(tmp_path / "killed", SHARE, *words, method="senet, any sensitivity")
    record, again = quick_run(tmp_path / "killed", SHARE, *words, method="senet, any sensitivity")
    assert record.stages["search"].epochs == 2
    assert_same_tensors(again, folder)


def test_a_sensitivity_that_is_gone_is_made_again_before_the_finetuning(tmp_path, senet, fits):
    copy_store(senet[1], tmp_path)
    for folder in tmp_path.glob("store/sensitivity/[!.]*"):
        shutil.rmtree(folder)
    total = 2 + sum(senet[0].stages[stage].epochs for stage in ("sensitivity", "search"))
    record, _ = quick_run(tmp_path, SHARE, f"total_epochs={total}", method="senet")
    assert fits == ["sensitivity", "finetune"] and record.stages["finetune"].epochs == 2


def test_the_teacher_of_sensitivities_is_repaired(tmp_path, senet):
    """Of seed 0, which a run of seed 1 takes its sensitivities from."""
    copy_store(senet[1], tmp_path)
    plan = quick_plan(tmp_path, SHARE, "seed=1", "sensitivity.seed=0", method="senet")
    teacher = plan.sensitivity_maker.teacher
    assert teacher.complete and teacher.path != plan.teacher.path
    one_byte = bytearray((teacher.path / "weights.safetensors").read_bytes())
    one_byte[-1] ^= 1
    (teacher.path / "weights.safetensors").write_bytes(one_byte)
    remove_damaged(plan)
    assert not teacher.path.exists()


def test_finetunings_of_one_search_share_it_and_its_key_knows_what_it_depends_on(tmp_path, senet, fits):
    copy_store(senet[1], tmp_path)
    record, _ = quick_run(tmp_path, SHARE, "method/finetune=distill", "method.finetune.epochs=1", method="senet")
    assert fits == ["finetune"] and record.stages["search"].reused and record.stages["sensitivity"].reused
    choices = ("sensitivity=computed", "sensitivity.density=0.2", "sensitivity=uniform", "sensitivity=proportional")
    plans = [quick_plan(tmp_path, SHARE, choice, method="senet, any sensitivity") for choice in choices]
    assert len({plan.search.key for plan in plans}) == 4 and len({plan.teacher.key for plan in plans}) == 1
    assert quick_plan(tmp_path, "budget.fraction=0.3", method="senet").search.key != plans[0].search.key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "finetune", "further"),
    [
        ("snl", "senet", []),
        ("random", "senet_activations", []),
        ("random_allocated", "distill", ["sensitivity=proportional"]),
        ("senet", "distill", ["sensitivity=uniform"]),
        ("senet", "senet_activations", ["sensitivity=list", "sensitivity.values=[7,6,5,4,3,2,1]"]),
        ("senet", "senet", ["sensitivity=snl", "sensitivity.search.epochs=2", "sensitivity.search.batch_size=60"]),
    ],
)
def test_any_search_goes_with_any_finetuning(tmp_path, alone, search, finetune, further):
    trained = [] if "random" in search else ["method.search.epochs=2", "method.search.batch_size=60"]
    settings = [f"method/search={search}", f"method/finetune={finetune}", *trained, *further]
    copy_store(alone[SMALL][1], tmp_path)  # has the teacher
    record, _ = quick_run(tmp_path, SHARE, *settings, "method.finetune.epochs=1", method="any search")
    assert record.budget.met == BUDGET
    if further:
        etas = torch.tensor([site.sensitivity for site in record.sites])
        kept = torch.tensor([site.kept for site in record.sites])
        assert ((kept - BUDGET * etas / etas.sum()).abs() < 1).all()
    assert ("sensitivity" in record.stages) == ("sensitivity=snl" in further)


def test_counts_learned_from_snl_are_those_that_senet_keeps(tmp_path):
    shared = ["epochs=2", "batch_size=60"]
    snl, _ = quick_run(tmp_path, SHARE, *(f"method.search.{value}" for value in shared), method="any search")
    learned, _ = quick_run(
        tmp_path, SHARE, "method/search=senet", "method.search.epochs=1", "method.search.batch_size=60",
        "sensitivity=snl", *(f"sensitivity.search.{value}" for value in shared), method="any search",
    )  # fmt: skip
    assert [site.kept for site in learned.sites] == [site.kept for site in snl.sites]
    assert learned.stages["sensitivity"].key == snl.stages["search"].key


@pytest.mark.slow
def test_channel_granularity_records_the_difference(tmp_path, senet):
    copy_store(senet[1], tmp_path)
    record, folder = quick_run(tmp_path, "budget.relus=900", "method.search.granularity=channel", method="senet")
    assert record.budget.asked == 900 and 896 <= record.budget.met <= 900  # the smallest map has 4 positions
    mask, metadata = Mask.from_file(folder / "mask.safetensors")
    assert (metadata.asked, metadata.met) == (900, record.budget.met)
    assert all((kept.flatten(1).all(1) == kept.flatten(1).any(1)).all() for kept in mask.values())


@pytest.mark.slow
def test_official_code_throughout(tmp_path):
    """paper_parity and students without identity shortcuts: fewer ReLUs than asked, and evaluate builds the same."""
    record, folder = quick_run(
        tmp_path, SHARE, "method.search.paper_parity=true", "+backbone.student_skip=false", "dataset.holdout=0",
        "method.teacher.selection=test", "method.finetune.selection=test", method="senet",
    )  # fmt: skip
    sites = len(record.sites)
    assert BUDGET - 2 * sites < record.budget.met <= BUDGET - sites
    assert evaluate_run([f"run={folder}"])["test"] == record.accuracy.test
    plan = quick_plan(tmp_path, "+backbone.student_skip=false", method="senet")
    images = torch.rand(2, 1, 8, 8)
    teacher, student = plan.request.new_network().eval(), plan.request.new_student().eval()
    assert list(teacher.state_dict()) == list(student.state_dict())
    assert not torch.allclose(teacher(images), student(images))


def test_narrower_networks_need_no_initial_weights_of_their_own(tmp_path):
    plan = quick_plan(tmp_path, method="senetpp")
    file = tmp_path / "initial.pt"
    torch.save(plan.request.new_network().network.state_dict(), file)
    check_stages(quick_plan(tmp_path, f"+backbone.weights={file}", method="senetpp"))


def test_a_student_from_scratch_has_initial_weights_of_its_own(tmp_path):
    """Of the same distribution, a function of the seed; no stage has those of another seed's stage."""
    requests = [quick_plan(tmp_path, f"seed={seed}", method="senet").request for seed in (0, 0, 1)]
    students = [request.fresh_student().network.state_dict()["conv1.weight"] for request in requests]
    teachers = [request.new_network().network.state_dict()["conv1.weight"] for request in requests]
    assert students[0].equal(students[1]) and teachers[0].equal(teachers[1])
    different = [students[0], students[2], teachers[0], teachers[2]]
    assert not any(one.equal(other) for one, other in itertools.combinations(different, 2))
    assert all(weights.std().item() == pytest.approx(teachers[0].std().item(), rel=0.3) for weights in different)


def test_submodels_are_runs_of_their_own(senetpp):
    _, folder = senetpp
    (_, whole), (path, narrow) = find_records([folder])
    assert path.parent == folder / "width-0.5"
    assert (narrow.submodel.fraction, narrow.submodel.run) == (0.5, whole.key) and whole.submodel is None
    assert (whole.backbone.width, narrow.backbone.width) == (8, 4)
    assert whole.accuracy.teacher_test is not None and narrow.accuracy.teacher_test is None
    mask, _ = Mask.from_file(folder / "mask.safetensors")
    for site, wide in zip(narrow.sites, whole.sites, strict=True):
        assert site.shape == (wide.shape[0] // 2, *wide.shape[1:])
        assert site.kept == int(mask[site.name][: site.shape[0]].sum())  # the first half of the channels
    assert narrow.budget.met == sum(site.kept for site in narrow.sites) < whole.budget.met == BUDGET
    assert (narrow.budget.asked, narrow.budget.total) == (BUDGET, sum(site.total for site in narrow.sites))
    assert narrow.narrower and not whole.narrower and not narrow.budget_missed
    _, metadata = Mask.from_file(folder / "width-0.5" / "mask.safetensors")
    assert (metadata.asked, metadata.met) == (BUDGET, narrow.budget.met)
    assert evaluate_run([f"run={folder / 'width-0.5'}"])["test"] == narrow.accuracy.test
    assert evaluate_run([f"run={folder}"])["test"] == whole.accuracy.test


FROM_BCD = ["sensitivity=snl", "method/search@sensitivity.search=bcd"]


@pytest.mark.slow
def test_what_the_search_of_the_sensitivities_starts_from_is_a_stage_too(tmp_path):
    """Its epochs count, it is in the record, and `repair` sees it."""
    quick = [f"sensitivity.search.{key}" for key in ("block=0.5", "block_epochs=1", "batch_size=60", "tolerance=100")]
    first = [f"sensitivity.search.first.{key}" for key in ("epochs=3", "batch_size=60")]
    words = [SHARE, *FROM_BCD, *quick, *first, "method.search.epochs=1", "total_epochs=8"]
    record, folder = quick_run(tmp_path, *words, method="senet, any sensitivity")
    stages = record.stages
    assert sum(stage.epochs for name, stage in stages.items() if name != "teacher") == 8
    assert stages["sensitivity_first"].epochs == 3 and stages["sensitivity"].epochs > 0
    shutil.rmtree(folder)
    (mask,) = tmp_path.glob("store/search/snl*/*/mask.safetensors")
    mask.write_bytes(b"damaged")
    remove_damaged(quick_plan(tmp_path, *words, method="senet, any sensitivity"))
    assert not mask.exists()
    again, _ = quick_run(tmp_path, *words, method="senet, any sensitivity")
    assert mask.is_file() and again.stages["sensitivity_first"].key == stages["sensitivity_first"].key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["sensitivity.density=2"], "sensitivity.density=2"),
        (["sensitivity.epochs=0"], "sensitivity.epochs=0: must be an integer >= 1"),
        (["sensitivity=released"], "resnet18"),
        (["sensitivity=list", "sensitivity.values=[1,2]"], "sensitivity"),
        (["method.search.granularity=row"], "method.search.granularity=row"),
        (["method.search.granularity=channel", "budget.relus=3"], "at least 4"),
        (["method.finetune.form=cosine"], "method.finetune.form=cosine"),
        (["method.finetune.sites=[nowhere]"], "no site nowhere"),
        (["sensitivity=snl", "method/search@sensitivity.search=senet"], "sensitivity.search needs"),
        (["sensitivity=snl", "sensitivity.search.lasso=0"], "sensitivity.search.lasso=0: must be a number > 0"),
        ([*FROM_BCD, "sensitivity.search.first.lasso=0"], "sensitivity.search.first.lasso=0: must be a number > 0"),
        (
            [*FROM_BCD, "method/search@sensitivity.search.first=senet"],
            "sensitivity.search.first needs .* as method/search@sensitivity.search.first=snl",
        ),
        (["+backbone.student_skip=false", "backbone=wrn22_8", "backbone.width=1"], "student_skip"),
    ],
)  # fmt: skip
def test_what_a_user_gets_wrong_is_found_before_anything_is_trained(tmp_path, settings, words):
    with pytest.raises(UserError, match=words) as refusal:
        check_stages(quick_plan(tmp_path, *settings, method="senet, any sensitivity"))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.rglob("*.ckpt"))


class Hidden(nn.Sequential):
    """Its second convolution has `fixed` channels, and `growing` for each of the width."""

    def __init__(self, classes, image_size, channels, width, convention, fixed, growing):
        hidden = fixed + growing * width
        layers = nn.Conv2d(channels, width, 3), nn.ReLU(), nn.Conv2d(width, hidden, 3), nn.ReLU(), nn.Flatten()
        super().__init__(*layers, nn.Linear(hidden * (image_size - 4) ** 2, classes))


def hidden_channels(fixed, growing):
    own = [f"backbone._target_={__name__}.Hidden", "~backbone.initialisation"]
    return [*own, f"+backbone.fixed={fixed}", f"+backbone.growing={growing}"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["method.finetune.widths=[0.3,1.0]"],
            r"method.finetune.widths=\[0.3, 1.0\]: 0.3 of backbone.width=8 is no net",
        ),
        (["method.finetune.widths=[0.5]"], "1.0 included"),
        (hidden_channels(4, 1), r"widths=\[0.5, 1.0\]: backbone.width times 0.5 .* \(not of 2.weight\); all of them"),
        (hidden_channels(6, 0), "all of them must be proportional to backbone.width"),
    ],
)
def test_widths_that_the_backbone_has_not_are_one_line(tmp_path, settings, words):
    with pytest.raises(UserError, match=words) as refusal:
        check_stages(quick_plan(tmp_path, *settings, method="senetpp"))
    assert "\n" not in str(refusal.value)


def test_ones_own_backbone_has_narrower_networks(tmp_path):
    check_stages(quick_plan(tmp_path, *hidden_channels(0, 2), method="senetpp"))


@pytest.mark.slow
def test_command_shows_the_submodels_and_reports_both(tmp_path, senetpp, typed, undrawn):
    copy_store(senetpp[1], tmp_path)
    status, out, err = typed("run", *QUICK, *METHODS["senetpp"], SHARE, f"output={tmp_path}")
    assert status == 0, err
    assert "senetpp-resnet8-digits-461-s0-w0.5" in out
    status, out, _ = typed("report", tmp_path / "runs")
    assert status == 0 and "w0.5" in out


@pytest.mark.slow
def test_compiled_stages_one_after_the_other_see_their_sites(without_code_generation, tmp_path, senet):
    """torch.compile would take the teacher's graph for the student's, hooks and all, if fit() did not reset it."""
    record, _ = quick_run(tmp_path, SHARE, "trainer.compile=true", method="senet")
    for stage in ("search", "finetune"):
        eager, compiled = (run.stages[stage].history for run in (senet[0], record))
        assert [row["train/loss"] for row in compiled] == pytest.approx([row["train/loss"] for row in eager], rel=1e-2)
    assert record.stages["search"].history[0]["mask/distance"] == pytest.approx(
        senet[0].stages["search"].history[0]["mask/distance"], abs=0.02
    )
