"""DeepReDuce: the published budgets, its stages and scores by hand; runs of method=deepreduce from end to end."""

import pytest
import torch
from quick_runs import copy_store, quick_plan, quick_run

from relinearize.backbones import build_backbone
from relinearize.commands.evaluate import main as evaluate_run
from relinearize.commands.export import main as export_run
from relinearize.errors import UserError
from relinearize.methods.baselines.deepreduce import DeepReDuce, choose, second_sites, stages
from relinearize.private_inference.bundle.bundle import read_bundle, worst_difference
from relinearize.records.run import find_records
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, site_shapes
from relinearize.report.tables.pareto import build_panels, pareto_table
from relinearize.runs.pipeline import check_stages
from relinearize.runs.plan import Plan

ORDER = "method.search.order=[2,3,1]"  # of the three stages of a ResNet-8: 512, 256 and 1,536 ReLUs, with the stem
SEARCH = [ORDER, "method.search.batch_size=60", "method.search.score_images=120"]


@pytest.fixture(scope="module")
def resnet18():
    """Shapes of the sites of a ResNet-18 at 32 pixels."""
    return site_shapes(linearize(build_backbone("resnet18", classes=10, image_size=32, convention="snl"), (3, 32, 32)))


@pytest.fixture(scope="module")
def narrow(taught):
    """(record, folder) of a run whose budget halves the student's channels."""
    return quick_run(taught(), *SEARCH, "budget.relus=192", method="deepreduce")


def test_stages_and_second_relus(resnet18):
    sizes = [sum(torch.Size(resnet18[name]).numel() for name in stage) for stage in stages(resnet18)]
    assert sizes == [262_144, 131_072, 65_536, 32_768]
    assert second_sites(["relu1", "layer1.0.relu1", "layer1.0.relu2", "layer1.1.relu1", "layer1.1.relu2"]) == {
        "layer1.0.relu2", "layer1.1.relu2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "kept", "thinned", "share"),
    [
        (229_376, 3, False, 1),
        (196_608, 2, False, 1),
        (114_688, 3, True, 1),
        (57_344, 3, True, 1 / 2),
        (49_152, 2, True, 1 / 2),
        (28_672, 3, True, 1 / 4),
        (12_288, 2, True, 1 / 8),
    ],
)
@pytest.mark.parametrize("filled", [True, False])
def test_the_published_budgets_come_out_to_the_unit(resnet18, budget, kept, thinned, share, filled):
    form = choose(resnet18, budget, filled=filled, exact=True)
    assert (form.count, len(form.kept), form.thinned, form.share) == (budget, kept, thinned, share)
    stage = {name: number for number, sites in enumerate(stages(resnet18), start=1) for name in sites}
    assert [stage[sites[0]] for sites in form.kept] == [3, 2, 4][:kept]


def test_an_eighth_may_be_a_half_of_the_channels_at_half_the_resolution(resnet18):
    smaller = {name: (shape[0], shape[1] // 2, shape[2] // 2) for name, shape in resnet18.items()}
    form = choose(smaller, 12_288, filled=False, exact=True)
    assert (len(form.kept), form.thinned, form.share) == (2, True, 1 / 2)


def test_other_budgets_lie_between_two_networks(resnet18):
    """36,864: S2 + S3 thinned and halved have 49,152 ReLUs; S3 thinned has 32,768."""
    assert choose(resnet18, 36_864).count == 49_152 and choose(resnet18, 36_864, filled=False).count == 32_768
    with pytest.raises(UserError, match=r"exact=true: whole layers come to 32,768 or 49,152 ReLUs, and .* is 36,864"):
        choose(resnet18, 36_864, filled=False, exact=True)
    with pytest.raises(UserError, match="come to 4,096 to 491,520 ReLUs, and the budget is 4,000"):
        choose(resnet18, 4_000, filled=False)


def test_the_last_stage_is_filled_with_its_best_positions():
    """Stages of 48, 16 and 8 positions, the second the most critical: of 20, four are in the first stage's 3 sites."""
    network = linearize(build_backbone("resnet8", classes=2, image_size=4, width=1, channels=1), (1, 4, 4))
    shapes = site_shapes(network)
    scores = {name: torch.arange(float(torch.Size(shape).numel())).view(shape) for name, shape in shapes.items()}
    settings = {"order": [2, 1, 3], "thinned": False, "score": lambda *_, **__: scores, "batch_size": 2}
    stage = DeepReDuce(network, network, budget=20, **settings)
    stage.images = lambda: iter([None])
    mask = stage.snapshot().mask
    assert list(mask.counts.values()) == [2, 1, 1, 8, 8, 0, 0], "ties go to the earlier site"
    assert mask.unit == "positions" and all(mask[name].flatten()[-1] for name in list(mask)[:3])


@pytest.mark.slow
def test_a_run_at_debug_scale(typed, tmp_path):
    """Two steps a stage, by the command; the budget is that of the second stage."""
    status, _, printed = typed(
        "run", "method=deepreduce", "scale=debug", "dataset.subset=100", "backbone.width=8", "budget.relus=512", ORDER,
        "trainer.progress=none",
    )  # fmt: skip
    ((_, record),) = find_records([tmp_path / "outputs/debug/runs"])
    assert status == 0, printed
    assert (record.method.name, record.unit, record.replacement) == ("deepreduce", "layers", "identity")
    assert record.budget.met == record.budget.asked == 512 and record.backbone.student is None
    assert [site.kept for site in record.sites] == [0, 0, 0, 256, 256, 0, 0]
    assert record.stages["search"].epochs == 0 and record.stages["finetune"].epochs == 1


def test_a_narrower_student_is_found_again(narrow, tmp_path, capsys):
    record, folder = narrow
    assert (record.budget.met, record.budget.total, record.unit) == (192, 2304, "layers")
    assert (record.backbone.width, record.backbone.student.width, record.backbone.student.stride) == (8, 4, 1)
    assert [site.shape for site in record.sites] == [(4, 8, 8)] * 3 + [(8, 4, 4)] * 2 + [(16, 2, 2)] * 2
    assert evaluate_run([f"run={folder}", "accelerator=cpu"])["test"] == pytest.approx(record.accuracy.test)
    export_run([f"run={folder}", f"output={tmp_path / 'bundle'}", "images=20"])
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.relus == 192 and worst_difference(bundle) < 1e-4
    network = ["backbone=resnet8", "backbone.width=8", "+backbone.student_width=4", "dataset=digits"]
    files = [f"weights={folder / 'weights.safetensors'}", f"mask={folder / 'mask.safetensors'}"]
    export_run([*files, *network, f"output={tmp_path / 'checkpoint'}"])
    assert bundle.about.width == read_bundle(tmp_path / "checkpoint").about.width == 4


def test_teachers_do_not_depend_on_the_student(narrow, tmp_path):
    narrower = quick_plan(tmp_path, *SEARCH, "budget.relus=192", method="deepreduce")
    whole = quick_plan(tmp_path, *SEARCH, "budget.relus=512", method="deepreduce")
    assert narrower.request.reshaped and not whole.request.reshaped
    assert narrower.teacher.key == whole.teacher.key == narrow[0].stages["teacher"].key
    assert narrower.search.key != whole.search.key
    assert narrower.request.config.backbone.student_width == 4
    assert narrower.request.new_student().network.layer1[0].conv1.weight.shape == (4, 4, 3, 3)
    again = Plan.of(narrower.request.config)  # of a further process of the training, or typed from a finished run
    assert again.request.config.backbone.student_width == 4 and again.finetune.key == narrower.finetune.key


def test_a_student_of_another_width_is_for_this_search_alone(tmp_path):
    with pytest.raises(UserError, match="student_stride: this search trains a student like the teacher"):
        quick_plan(tmp_path, "+backbone.student_width=4")


def test_its_points_are_one_curve(narrow, tmp_path):
    """Points of narrower and of whole networks, in percent of the teacher's ReLUs; the unit is a column."""
    copy_store(narrow[1], tmp_path)
    other, _ = quick_run(tmp_path, *SEARCH, "budget.relus=400", method="deepreduce")
    (panel,) = build_panels([narrow[0], other])
    table = pareto_table([panel])
    assert panel.runs["curve"].nunique() == 1 and table["unit"].tolist() == ["layers", "positions"]
    assert table["relus_percent"].tolist() == pytest.approx([8.3333, 17.3611])
    assert panel.levels["relus"].tolist() == [2304]
    assert panel.levels["delphi_wan_s"].iloc[0] > panel.points["delphi_wan_s"].max(), "that of the teacher's network"
    assert build_panels([narrow[0]])[0].levels["delphi_wan_s"].isna().all(), "not known"


@pytest.mark.parametrize(
    ("settings", "student", "met"),
    [
        (["budget.relus=48", "method.search.resolution=0.5"], (4, 2), 48),
        (["budget.relus=400", "method.search.score=null"], (8, 1), 384),
        pytest.param(["budget.relus=700", "method.search.order=measured"], (8, 1), 700, marks=pytest.mark.slow),
        pytest.param(["budget.relus=700", "method.search.order=published"], (8, 1), 700, marks=pytest.mark.slow),
    ],
)
def test_resolution_whole_layers_and_measured_orders(narrow, tmp_path, capsys, settings, student, met):
    copy_store(narrow[1], tmp_path)
    record, folder = quick_run(tmp_path, *SEARCH, *settings, "method.finetune.epochs=0", method="deepreduce")
    found = record.backbone.student
    assert (found is None and student == (8, 1)) or (found.width, found.stride) == student
    assert record.budget.met == met and Mask.from_file(folder / "mask.safetensors")[0].count == met
    if met < record.budget.asked:
        assert f"of the 400 ReLUs asked, whole layers come to {met}" in capsys.readouterr().err
    if student[1] > 1:
        assert record.cost.linear is not None
        assert evaluate_run([f"run={folder}", "accelerator=cpu"])["test"] == pytest.approx(record.accuracy.test)


def test_a_search_without_training_needs_no_batches_for_each_device(tmp_path):
    plan = quick_plan(tmp_path, *SEARCH, "budget.relus=400", method="deepreduce")
    check_stages(plan)["method.search"].check_devices(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.search.score=null", "method.search.exact=true"], r"exact=true: whole layers come to 384 or 512"),
        (["method.search.exact=true", "method.search.score=null", "method.search.order=measured"], "needs an order"),
        (["method.search.score=null", "budget.relus=1"], "come to 32 to 2,304 ReLUs, and the budget is 1"),
        (
            ["method.search.score=null", "budget.relus=1", "method.search.order=measured"],
            "come to 128 to 2,304 ReLUs, and the budget is 1",
        ),
        (["method.search.channels=0.5", "budget.relus=1400"], "come to 128 to 1,152 ReLUs, and the budget is 1,400"),
        (["method.search.order=measured", "method.search.channels=0.5"], "give method.search.order, the most critical"),
        (
            ["method.search.order=measured", "method.search.resolution=0.5"],
            "give method.search.order, the most critical",
        ),
        (["method.search.channels=0.3"], r"method.search.channels=0.3: no network of backbone.width=8"),
        (["method.search.order=[3,2,4,1]"], r"order=\[3, 2, 4, 1\]: this network has 3 stages"),
        (["method.search.order=[]"], r"order=\[\] is unknown; valid: published, measured"),
        (
            ["method.search.order=best"],
            r"order=best is unknown; valid: published, measured, a list such as \[3,2,4,1\]",
        ),
        (["method.search.resolution=0.3"], "method.search.resolution=0.3 is unknown; valid: 1, 0.5, 0.25"),
        (["method.search.thinned=some"], "method.search.thinned=some is unknown"),
        (["method.search.score=fisher"], "method.search.score=fisher is no function"),
        (["allocation=sites"], "allocation=sites: this search itself decides where ReLUs stay; give allocation=free"),
        (
            ["budget.relus=48", "method.search.resolution=0.5", "method/finetune=senet"],
            "maps, and those of site layer1",
        ),
        (
            ["budget.relus=192", "method/finetune=senetpp"],
            r"method.finetune.widths=\[0.5, 1.0\]: this search gives the student a",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, settings, message):
    with pytest.raises(UserError, match=message) as refusal:
        check_stages(quick_plan(tmp_path, *SEARCH, "budget.relus=400", *settings, method="deepreduce"))
    assert "\n" not in str(refusal.value)
