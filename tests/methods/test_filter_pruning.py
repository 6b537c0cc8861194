"""Filter pruning: criteria and counts by hand, the smaller network, runs of method=filter_pruning from end to end."""

import copy

import pytest
import torch
from quick_runs import assert_same_in_pieces, quick_plan, quick_run
from torch import nn

from relinearize.commands.evaluate import main as evaluate_run
from relinearize.commands.export import main as export_run
from relinearize.errors import UserError
from relinearize.methods.baselines.filter_pruning import FilterPruning, channel_counts, importances
from relinearize.private_inference.bundle.bundle import read_bundle, worst_difference
from relinearize.records.run import find_records
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, to_replaced
from relinearize.report.tables.pareto import build_panels
from relinearize.runs.pipeline import check_stages

SEARCH = ["method.search.batch_size=60", "method.search.criterion_epochs=2"]


def test_criteria_by_hand():
    """Three filters of two weights, (3, 4), (0, 6) and (-1, 1)."""
    weight = torch.tensor([[3.0, 4.0], [0.0, 6.0], [-1.0, 1.0]]).view(3, 2, 1, 1)
    assert importances(weight, "l1").tolist() == [7, 6, 2]
    assert importances(weight, "l2").tolist() == pytest.approx([5, 6, 2**0.5])
    far = {(0, 1): 13**0.5, (0, 2): 5.0, (1, 2): 26**0.5}
    sums = [far[0, 1] + far[0, 2], far[0, 1] + far[1, 2], far[0, 2] + far[1, 2]]
    assert importances(weight, "geometric_median").tolist() == pytest.approx(sums)


def test_counts_are_the_same_share_of_every_site_at_least_one():
    shapes = {"a": (4, 2, 2), "b": (8, 1, 1)}  # 16 and 8 ReLUs, maps of 4 and 1
    assert channel_counts(shapes, 24) == {"a": 4, "b": 8}
    assert channel_counts(shapes, 12) == {"a": 2, "b": 4}
    assert channel_counts(shapes, 5) == {"a": 1, "b": 1}
    assert channel_counts(shapes, 6) == {"a": 1, "b": 2}
    with pytest.raises(UserError, match="one channel at each of the 2 sites has 5 ReLUs, and the budget is 4"):
        channel_counts(shapes, 4)


@pytest.mark.parametrize("budget", range(9, 25))
def test_small_maps_fill_what_large_ones_leave(budget):
    shapes = {"a": (3, 2, 2), "b": (8, 1, 1), "c": (1, 2, 2)}
    counts = channel_counts(shapes, budget)
    assert sum(count * shapes[name][1] * shapes[name][2] for name, count in counts.items()) == budget


def chain(first=4, second=6):
    """Two convolutions with batch norms, and a linear layer; for maps of 4 x 4."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(),
              nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second), nn.ReLU(),
              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 2)]  # fmt: skip
    network = nn.Sequential(*layers)
    for norm in (network[1], network[4]):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
    return network.eval()


def test_a_mask_with_zeros_computes_what_the_smaller_network_does():
    """Cut out of the tensors by hand: filters, batch norms, and the inputs of the layer behind."""
    network = chain()
    masked = linearize(network, (3, 4, 4)).eval()
    stage = FilterPruning(copy.deepcopy(masked), masked, budget=5 * 16, batch_size=2, learning_rate=0.1)
    stage.prepare(torch.zeros(1, 3, 4, 4))
    snapshot = stage.snapshot()
    first, second = (kept.flatten(1).all(1) for kept in snapshot.mask.values())
    assert (int(first.sum()), int(second.sum())) == (2, 3) and snapshot.mask.unit == "channels"
    norms = network[0].weight.abs().sum((1, 2, 3))
    assert first.equal(norms >= norms.sort().values[2])
    small = chain(2, 3)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in state.items():
        layer = int(name.split(".")[0])
        if layer <= 4 and value.dim():
            value = value[first if layer < 3 else second]
        if layer == 3 and value.dim() > 1:
            value = value[:, first]
        if layer == 8 and value.dim() > 1:
            value = value[:, second]
        state[name] = value
    small.load_state_dict(state)
    to_replaced(masked, snapshot.weights)
    masked.load_state_dict(snapshot.weights)
    snapshot.mask.apply(masked)
    images = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(masked(images), small(images))
    assert Mask.of(masked).count == 5 * 16 == sum(module(images[:1]).numel() for module in (small[:3], small[:6]))


def test_learned_criteria_follow_the_loss():
    """Of the filters, the l1 norm keeps the one that the loss needs; the others drop it."""
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))
    network = linearize(network, (1, 1, 1))
    stage = FilterPruning(network, network, budget=1, criterion="learned", criterion_epochs=1, batch_size=8,
                          learning_rate=0.1, distillation_weight=0.0)  # fmt: skip
    stage.prepare(torch.zeros(1, 1, 1, 1))
    stage.selections["1"] = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    with torch.no_grad():
        network[0].weight.copy_(torch.ones(3, 1, 1, 1))
        network[3].weight.copy_(torch.tensor([[4.0, -4.0, 0.0], [-4.0, 4.0, 0.0]]))
    optimizer = stage.configure_optimizers()
    images, labels = torch.ones(8, 1, 1, 1), torch.zeros(8, dtype=torch.long)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = stage.loss(images, labels)
        loss.backward()
        optimizer.step()
    assert stage.criteria == {"1": "l1"}
    assert network[0].weight.grad is None and float(network.eval()(images)[0, 0]) == pytest.approx(
        4.0 + float(network[3].bias[0])
    )
    assert stage.snapshot().mask["1"].flatten().tolist() == [True, False, False]


def test_finding_the_filters_copies_no_images():
    """Streaming loaders cannot be copied, and resident images need not be."""

    class Images:
        def __deepcopy__(self, memo):
            pytest.fail("the images were copied")

    network = linearize(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2)), (1, 1, 1))
    stage = FilterPruning(network, network, budget=1, criterion="learned", criterion_epochs=1, batch_size=8,
                          learning_rate=0.1)  # fmt: skip
    stage.train_loader = Images()
    stage.prepare(torch.zeros(1, 1, 1, 1))
    assert stage.selections["1"].sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("criterion", [pytest.param("l1", marks=pytest.mark.slow), "learned"])
def test_a_run_at_debug_scale(typed, tmp_path, criterion):
    """Two steps a stage, by the command."""
    status, _, printed = typed(
        "run", "method=filter_pruning", "scale=debug", "dataset.subset=100", "backbone.width=8", "budget.relus=401",
        f"method.search.criterion={criterion}", "trainer.progress=none",
    )  # fmt: skip
    assert status == 0, printed
    assert "search: of the 401 ReLUs asked, whole channels come to 400" in printed
    ((_, record),) = find_records([tmp_path / "outputs/debug/runs"])
    assert (record.method.name, record.unit, record.replacement) == ("filter-pruning", "channels", "zero")
    assert (record.budget.asked, record.budget.met, record.budget.total) == (401, 400, 2304)
    assert record.stages["search"].epochs == (criterion == "learned")
    if criterion == "learned":
        row = record.stages["search"].history[0]
        assert sum(row[f"criterion/{one}"] for one in ("l1", "l2", "geometric_median")) == 7


def test_the_folder_gives_the_network_back_and_it_is_a_curve_of_its_own(tmp_path, taught):
    record, folder = quick_run(taught(), *SEARCH, "budget.relus=400", method="filter_pruning")
    assert evaluate_run([f"run={folder}", "accelerator=cpu"])["test"] == pytest.approx(record.accuracy.test)
    export_run([f"run={folder}", f"output={tmp_path / 'bundle'}", "images=20"])
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.relus, bundle.replacement) == (400, "zero") and worst_difference(bundle) < 1e-4
    other = record.model_copy(update={"replacement": "identity", "key": "other"})
    assert build_panels([record, other])[0].runs["curve"].nunique() == 2


class Concatenating(nn.Module):
    def __init__(self, classes, image_size, channels, **_):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(8, classes)
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        y = self.convolution(x)
        return self.head(self.second(torch.cat([y, self.first(y)], 1)).mean((2, 3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.search.exact=true"], r"exact=true: whole channels come to 400 ReLUs, and the budget is 401"),
        (["budget.relus=231"], "one channel at each of the 7 sites has 232 ReLUs, and the budget is 231"),
        (["method.search.criterion=l3"], "criterion=l3 is unknown; valid: l1, l2, geometric_median, learned"),
        (["method.search.criterion_epochs=0"], "criterion_epochs=0: must be an integer >= 1"),
        (["method.search.gumbel_temperature=0"], "gumbel_temperature=0: must be a number > 0"),
        ([f"backbone._target_={__name__}.Concatenating", "budget.relus=200"], "cannot be pruned by filters"),
        (["replacement=affine"], "replacement=affine: this search has zero at removed positions"),
        (["allocation=sites"], "allocation=sites: this search itself decides where ReLUs stay"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, settings, message):
    with pytest.raises(UserError, match=message) as refusal:
        check_stages(quick_plan(tmp_path, *SEARCH, "budget.relus=401", *settings, method="filter_pruning"))
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_run_in_pieces_ends_as_the_undisturbed(tmp_path, taught, run_in_pieces):
    settings = [*SEARCH, "budget.relus=400", "method.search.criterion=learned"]
    finished = quick_run(taught(), *settings, method="filter_pruning")
    assert_same_in_pieces(finished, tmp_path / "pieces", run_in_pieces, 3, *settings, method="filter_pruning")
