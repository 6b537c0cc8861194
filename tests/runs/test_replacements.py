"""Whole runs with each replacement: the budget, the way back from the folder, the export, the cost, the report."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf
from quick_runs import SMALL, assert_same_tensors, copy_store, lasting, quick_plan, quick_run, sealed_again
from safetensors.torch import load_file, save_file

from relinearize.backbones.adapter import inner_network
from relinearize.commands.cost import main as show_cost
from relinearize.commands.evaluate import main as evaluate_run
from relinearize.commands.export import main as export_run
from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import read_bundle, worst_difference
from relinearize.relu.activation import ReplacedReLU
from relinearize.relu.mask import Mask
from relinearize.relu.sites import named_sites
from relinearize.report.tables.pareto import build_panels
from relinearize.runs.finished import FinishedRun
from relinearize.runs.pipeline import REPLACEMENT, begun
from relinearize.training.checkpoint import read_checkpoint

SHARE = f"budget.fraction={SMALL}"
BUDGET = round(SMALL * 2304)
KINDS = ["affine", "quadratic", "cubic", "zero"]
BY_KIND = ["quadratic", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "quadratic")]


ONE = pytest.mark.parametrize("made", ["quadratic"], indirect=True)  # where the kind makes no difference


@pytest.fixture(scope="module")
def identity(alone):
    """(record, folder) of the run of which the others differ by what stands at removed positions alone."""
    return alone[SMALL]


@pytest.fixture(scope="module", params=BY_KIND)
def made(request, identity, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    copy_store(identity[1], folder)
    return request.param, *quick_run(folder, SHARE, f"replacement={request.param}")


def test_the_budget_is_exact_and_the_search_is_shared(made, identity):
    kind, record, folder = made
    assert record.budget.met == record.budget.asked == BUDGET
    assert (record.replacement, record.method.name) == (kind, f"snl+{kind}")
    assert record.name.startswith(f"snl+{kind}-resnet8-digits-")
    assert record.stages["search"].reused and record.stages["search"].key == identity[0].stages["search"].key
    mask, metadata = Mask.from_file(folder / "mask.safetensors")
    assert mask == Mask.from_file(identity[1] / "mask.safetensors")[0] and metadata.replacement == kind
    assert record.sites == identity[0].sites


def test_the_folder_gives_the_network_back(made):
    _, record, folder = made
    network = FinishedRun.open(folder).network()
    sites = named_sites(inner_network(network)).values()
    assert all(isinstance(site, ReplacedReLU) for site in sites) and Mask.of(network.network).count == BUDGET
    found = evaluate_run([f"run={folder}", "accelerator=cpu"])
    assert found["test"] == pytest.approx(record.accuracy.test) and found["relu/count"] == BUDGET


@pytest.mark.parametrize(
    ("words", "from_teacher"),
    [
        (["replacement=quadratic"], True),
        (["replacement=quadratic", "replacement.continuation=0"], False),
        (["replacement=affine"], False),
        (["replacement=quadratic", "method.finetune.epochs=0"], False),
    ],
)
def test_where_relus_go_slowly_the_fine_tuning_begins_as_the_teacher(identity, tmp_path, words, from_teacher):
    copy_store(identity[1], tmp_path)
    plan = quick_plan(tmp_path, SHARE, *words)
    weights = begun(plan, plan.request.new_student()).network.state_dict()
    start = plan.results.weights(plan.teacher if from_teacher else plan.chosen)
    assert all(torch.equal(weights[name], start[name]) for name in weights)
    assert (plan.request.replacement_fit.continuation > 0) == from_teacher


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_wrong_continuation_is_refused_with_and_without_a_training(tmp_path, epochs):
    with pytest.raises(UserError, match=r"replacement\.continuation=2: must be a number >= 0 and <= 1"):
        quick_plan(
            tmp_path, SHARE, "replacement=quadratic", "replacement.continuation=2", f"method.finetune.epochs={epochs}"
        )


def test_coefficients_are_those_that_were_fitted(made):
    _, record, folder = made
    (fitted,) = folder.parents[1].glob(f"store/finetune/*/{REPLACEMENT}")
    weights, coefficients = load_file(folder / "weights.safetensors"), read_checkpoint(fitted)
    assert len(coefficients) == len(record.sites)
    assert all(torch.equal(weights[name], value) for name, value in coefficients.items())


def test_the_bundle_computes_the_same(made, tmp_path, capsys):
    kind, _, folder = made
    export_run([f"run={folder}", f"output={tmp_path / 'bundle'}", "images=20"])
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.replacement == kind and bundle.relus == BUDGET and worst_difference(bundle) < 1e-4
    assert f"at the other {2304 - BUDGET:,} positions: {kind}" in capsys.readouterr().out


def test_the_cost_has_it(made, identity, capsys):
    kind, record, folder = made
    show_cost([f"run={folder}", "preset=semi2k", "network=wan"])
    printed = capsys.readouterr().out
    removed, sites = 2304 - BUDGET, sum(site.kept < site.total for site in record.sites)
    products = {"quadratic": 1, "cubic": 2}.get(kind, 0)
    words = f"{products * removed:,} quadratics at {products * sites}" if products else f"{removed:,} affine at {sites}"
    assert (words in printed) == (kind != "zero")
    cost = record.cost.model_dump()
    assert cost["relus"] == BUDGET and [cost["affine"], cost["quadratic"]] == [
        removed * (kind == "affine"),
        removed * products,
    ]
    more = cost["predicted"]["semi2k_wan"]["online"]["bytes"] - (identity[0].cost.predicted["semi2k_wan"].online.bytes)
    assert more == {"affine": 8, "quadratic": 48, "cubic": 96, "zero": 0}[kind] * removed


def test_polynomials_that_overflow_are_counted_and_named(tmp_path, capsys):
    record, folder = quick_run(tmp_path, "replacement=quadratic", method="no_relu")
    path = folder / "weights.safetensors"
    weights = load_file(path)
    path.unlink()  # a link into the store
    save_file({name: value * (1e9 if "coefficients" in name else 1) for name, value in weights.items()}, path)
    sealed_again(folder)
    show_cost([f"run={folder}", "preset=semi2k", "network=wan"])
    assert f"{record.budget.total:,} quadratics at {len(record.sites)}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"polynomials at removed positions \(quadratic\) can overflow$"):
        export_run([f"run={folder}", "images=0"])


@ONE
def test_each_is_a_curve_of_its_own(made, identity):
    _, record, _ = made
    (panel,) = build_panels([identity[0], record])
    assert panel.runs["curve"].nunique() == 2 and len(panel.points) == 2
    assert set(panel.points["method_name"]) == {"snl", record.method.name}
    renamed = record.model_copy(update={"method": identity[0].method})
    assert build_panels([identity[0], renamed])[0].runs["curve"].nunique() == 2, "also under one name"


@ONE
def test_a_run_goes_on_to_the_same_bits(made, identity, tmp_path, monkeypatch):
    """Killed in its second epoch, it neither fits again nor ends elsewhere."""
    from relinearize.methods.distill import Distill
    from relinearize.runs import pipeline

    kind, record, folder = made
    copy_store(identity[1], tmp_path)
    epoch_end, fits = Distill.epoch_end, []

    def killed(self, row):
        epoch_end(self, row)
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    fit = pipeline.fit_replacement
    monkeypatch.setattr(Distill, "epoch_end", killed)
    with pytest.raises(KeyboardInterrupt):
        quick_run(tmp_path, SHARE, f"replacement={kind}")
    monkeypatch.setattr(Distill, "epoch_end", epoch_end)

    def not_again(plan):
        before = (plan.finetune.work / REPLACEMENT).stat().st_mtime_ns
        fit(plan)
        fits.append((plan.finetune.work / REPLACEMENT).stat().st_mtime_ns == before)

    monkeypatch.setattr(pipeline, "fit_replacement", not_again)
    again, other = quick_run(tmp_path, SHARE, f"replacement={kind}")
    assert fits == [True] and lasting(again)["accuracy"] == lasting(record)["accuracy"]
    assert_same_tensors(folder, other)


def test_images_so_large_that_one_is_a_batch(identity, tmp_path, monkeypatch):
    """As above 512 pixels: the loader gives two at least."""
    copy_store(identity[1], tmp_path)
    monkeypatch.setattr("relinearize.runs.pipeline.FIT_BATCH", 1)
    record, _ = quick_run(tmp_path, SHARE, "replacement=affine", "replacement.images=8", "method.finetune.epochs=0")
    assert record.replacement == "affine" and not record.stages["finetune"].reused


@pytest.mark.parametrize("kind", BY_KIND)
def test_without_fine_tuning(identity, tmp_path, kind):
    copy_store(identity[1], tmp_path)
    record, folder = quick_run(tmp_path, SHARE, f"replacement={kind}", "method.finetune.epochs=0")
    found = evaluate_run([f"run={folder}", "accelerator=cpu"])
    assert found["test"] == pytest.approx(record.accuracy.test) and record.budget.met == BUDGET
    searched = load_file(quick_plan(tmp_path, SHARE).snapshot().path / "weights.safetensors")
    weights = load_file(folder / "weights.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in searched.items()), "only the coefficients are new"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), [("senetpp", "cubic"), ("rlnet", "quadratic"), ("random", "affine")])
def test_other_methods_and_their_submodels(tmp_path, method, kind):
    further = {"senetpp": ["method.finetune.widths=[0.5,1.0]"], "rlnet": ["method.routes=2"]}.get(method, [])
    record, folder = quick_run(tmp_path, SHARE, f"replacement={kind}", *further, method=method)
    assert record.budget.met == BUDGET
    run = FinishedRun.open(folder)
    assert len(run.parts()) == (0 if method == "random" else 1)
    for part in (run, *run.parts()):
        record = part.record
        assert evaluate_run([f"run={part.folder}", "accelerator=cpu"])["test"] == pytest.approx(record.accuracy.test)
        assert record.replacement == kind


def test_the_identity_is_in_no_key(tmp_path):
    plan, older = quick_plan(tmp_path, SHARE), quick_plan(tmp_path, SHARE)
    OmegaConf.set_struct(older.request.config, False)
    del older.request.config["replacement"]
    assert (older.finetune.key, older.run.key) == (plan.finetune.key, plan.run.key)
    keys = {quick_plan(tmp_path, SHARE, f"replacement={kind}").finetune.key for kind in KINDS}
    assert len(keys | {plan.finetune.key}) == 1 + len(KINDS)
    default = quick_plan(tmp_path, SHARE, "replacement=affine", "replacement.images=1024")
    fewer = quick_plan(tmp_path, SHARE, "replacement=affine", "replacement.images=512")
    assert default.finetune.key in keys and fewer.finetune.key not in keys
    assert fewer.search.key == plan.search.key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["replacement=affine", "budget=all"], "replacement=affine stands at removed positions, but all 2,304 ReLUs"),
        (["replacement=affine", "replacement.images=0"], "replacement.images=0"),
        (["replacement.name=quartic"], "name=quartic: give replacement=identity, zero, affine, quadratic, cubic"),
        (["replacement.name=affine"], "replacement.name=affine: give replacement="),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_trained(tmp_path, settings, message):
    with pytest.raises(UserError) as error:
        quick_plan(tmp_path, *settings)
    assert message in str(error.value)


def test_whether_polynomials_are_held_is_in_the_key(tmp_path):
    """Then batch-norm statistics are medians: of affine ones, too, which by default are not held."""
    for settings, held in ((["affine"], False), (["affine", "replacement.continuation=0.5"], True), (["cubic"], True)):
        kind, *words = settings
        plan = quick_plan(tmp_path, "budget.fraction=0.3", f"replacement={kind}", *words)
        assert ("norms" in plan._replacement_content) == held


def test_networks_that_keep_all_relus_take_none(tmp_path):
    with pytest.raises(UserError, match="replacement=zero stands at removed positions, but all 2,304 ReLUs are kept"):
        quick_plan(tmp_path, "replacement=zero", "budget=all", method="all_relu")


@ONE
def test_a_folder_whose_weights_lack_it_is_refused(made, tmp_path):
    kind, _, folder = made
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "weights.safetensors"
    weights = load_file(path)
    path.unlink()
    save_file({name: value for name, value in weights.items() if "coefficients" not in name}, path)
    sealed_again(tmp_path / "run")
    with pytest.raises(UserError, match=f"does not have at removed positions what the record says: {kind}"):
        FinishedRun.open(tmp_path / "run").network()
