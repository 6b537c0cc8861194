"""AutoReP: its gates by hand, and runs of method=autorep from end to end."""

import math

import pytest
import torch
from quick_runs import assert_same_in_pieces, copy_store, quick_plan, quick_run

from relinearize.errors import UserError
from relinearize.methods.baselines.autorep import GatedReLU
from relinearize.relu.budget import top_mask
from relinearize.relu.mask import Mask
from relinearize.runs.pipeline import check_stages
from relinearize.runs.search import SCORES, budget_stage
from relinearize.runs.stages import ready

SEARCH = ["method.search.epochs=4", "method.search.batch_size=60", "method.search.gate_learning_rate=0.1"]
SHARE = "budget.fraction=0.2"
BUDGET = 461  # of 2,304


@pytest.fixture(scope="module")
def finished(taught):
    """(record, folder) of a run in a store of its own, with the teacher of others."""
    return quick_run(taught(), SHARE, *SEARCH, method="autorep")


def gated(gates, kept):
    site = GatedReLU((len(gates),))
    with torch.no_grad():
        site.alpha.copy_(torch.tensor(gates))
        site.kept.copy_(torch.tensor(kept))
    return site


def test_states_follow_gates_with_a_hysteresis():
    """Within 0.003 of zero a position stays what it is; at the very edge a kept one goes and a linear one stays."""
    gates = [0.002, 0.002, -0.002, -0.002, 0.004, -0.004, 0.003, -0.003]
    kept = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    site = gated(gates, kept)
    site.follow(0.003)
    assert site.kept.tolist() == [1, 0, 1, 0, 1, 0, 0, 0]
    site.follow(0.003)
    assert site.kept.tolist() == [1, 0, 1, 0, 1, 0, 0, 0], "the same gates again change nothing"


def test_output_is_a_relu_or_the_identity_and_the_gradient_is_softplus_times_that_of_the_state():
    site = gated([0.5, -1.0, 2.0], [1.0, 0.0, 1.0])
    x = torch.tensor([[-2.0, -3.0, 4.0], [-1.0, 5.0, -6.0]])
    output = site(x)
    assert output.tolist() == [[0.0, -3.0, 4.0], [0.0, 5.0, 0.0]]
    weights = torch.tensor([[1.0, 2.0, 1.0], [3.0, 1.0, 0.5]])
    (output * weights).sum().backward()
    of_states = [2 * 1 + 1 * 3, 3 * 2, 6 * 0.5]  # relu(x) - x = -min(x, 0), times the incoming gradient
    softplus = [math.log1p(math.exp(gate)) for gate in (0.5, -1.0, 2.0)]
    assert site.alpha.grad.tolist() == pytest.approx([a * b for a, b in zip(of_states, softplus, strict=True)])


def test_compiled_formula_is_the_same(monkeypatch):
    site, x = gated([0.5, -1.0, 2.0], [1.0, 0.0, 1.0]), torch.randn(4, 3)
    site(x).square().sum().backward()
    eager, expected = site(x).detach(), site.alpha.grad.clone()
    site.alpha.grad = None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    site(x).square().sum().backward()
    torch.testing.assert_close(site(x), eager)
    torch.testing.assert_close(site.alpha.grad, expected)


def test_penalty_is_on_the_density_above_the_budget(finished):
    """Its gradient for a gate is lambda / N times softplus(w); below the budget there is none."""
    plan = quick_plan(finished[1].parents[1], SHARE, *SEARCH, "method.search.cross_entropy_weight=0",
                      "method.search.distillation_weight=0", method="autorep")  # fmt: skip
    stage = ready(plan, budget_stage(plan, {}))
    assert all(
        float(site.alpha.detach().min()) >= 0 and float(site.alpha.detach().max()) < 1 for site in stage.sites.values()
    )
    images, labels = next(iter(stage.train_loader))
    loss, _ = stage.loss(images, labels)
    assert float(loss) == pytest.approx(40 * (1 - BUDGET / 2304), rel=1e-6)
    loss.backward()
    for site in stage.sites.values():
        expected = 40 / 2304 * torch.nn.functional.softplus(site.alpha.detach())
        torch.testing.assert_close(site.alpha.grad, expected)
        site.alpha.grad = None
    with torch.no_grad():
        for site in stage.sites.values():
            site.alpha.sub_(0.9)  # a tenth of the gates stay above zero
    loss, _ = stage.loss(images, labels)
    loss.backward()
    assert float(loss) == 0 and stage.mask.count < BUDGET
    assert not any(site.alpha.grad.any() for site in stage.sites.values())


def test_a_run_meets_its_budget_by_projection_and_its_rows_show_the_way(finished):
    record, folder = finished
    assert record.budget.met == record.budget.asked == BUDGET
    assert (record.method.search, record.method.finetune) == ("AutoReP", "Distill")
    history = record.stages["search"].history
    assert len(history) == 5 and history[-1]["relu/count"] == BUDGET and history[3]["relu/count"] < 2304
    assert record.budget.reached == (history[3]["relu/count"] <= BUDGET + 23)
    assert record.stages["search"].epochs == 4
    assert [history[-1][f"relu/kept/{site.name}"] for site in record.sites] == [site.kept for site in record.sites]
    plan = quick_plan(folder.parents[1], SHARE, *SEARCH, method="autorep")
    scores, (mask, _) = plan.results.weights(plan.snapshot(), SCORES), plan.results.mask(plan.snapshot())
    assert top_mask({name: scores[name] for name in mask}, BUDGET) == mask


@pytest.mark.parametrize("relus", [1, 500, 2304])
def test_projection_keeps_kept_positions_before_others(finished, relus):
    plan = quick_plan(finished[1].parents[1], f"budget.relus={relus}", *SEARCH, method="autorep")
    stage = ready(plan, budget_stage(plan, {}))
    with torch.no_grad():
        for site in stage.sites.values():
            site.kept.copy_((torch.rand(site.kept.shape) < 0.4).float())
    snapshot, kept = stage.snapshot(), stage.mask
    assert snapshot.mask.count == relus
    one, other = (snapshot.mask, kept) if relus < kept.count else (kept, snapshot.mask)
    assert all(not (inside & ~other[name]).any() for name, inside in one.items())
    assert not any(name.endswith((".alpha", ".kept")) for name in snapshot.weights)
    assert snapshot.reached == (kept.count <= relus + 0.01 * 2304)


def test_layer_culling_and_total_epochs_go_with_it(finished, tmp_path):
    copy_store(finished[1], tmp_path)
    settings = ["allocation=sites", "allocation.live=4", "method/finetune=retrain", "total_epochs=5"]
    record, folder = quick_run(tmp_path, SHARE, *SEARCH, *settings, method="autorep")
    assert sum(site.kept > 0 for site in record.sites) == 4 and record.stages["search"].reused
    assert Mask.from_file(folder / "mask.safetensors")[0].count == BUDGET
    assert record.stages["finetune"].epochs == 1


@pytest.mark.slow
def test_run_in_pieces_ends_as_the_undisturbed(finished, tmp_path, run_in_pieces):
    assert_same_in_pieces(finished, tmp_path, run_in_pieces, 4, SHARE, *SEARCH, method="autorep")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=0", "method.search.epochs=0: must be an integer >= 1"),
        ("penalty=0", r"^method.search.penalty=0: must be a number > 0$"),
        ("hysteresis=-1", r"^method.search.hysteresis=-1: must be a number >= 0$"),
        ("gate_learning_rate=fast", r"^method.search.gate_learning_rate=fast: must be a number > 0$"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        check_stages(quick_plan(tmp_path, SHARE, f"method.search.{setting}", method="autorep"))
