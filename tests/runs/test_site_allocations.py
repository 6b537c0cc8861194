"""Whole runs under allocations that cull sites: every search, what is shared, what is refused at once."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from quick_runs import SEARCH, SMALL, copy_store, quick_plan, quick_run

from relinearize.commands.evaluate import main as evaluate_run
from relinearize.errors import UserError
from relinearize.private_inference.cost.presets import Terms, protocols
from relinearize.records.run import Record
from relinearize.relu.allocation import allocate
from relinearize.relu.mask import Mask
from relinearize.runs import search as searches
from relinearize.runs.pipeline import check_stages
from relinearize.runs.search import SCORES
from relinearize.runs.site_choice import LowerLatency

SHARE = f"budget.fraction={SMALL}"
BUDGET = round(SMALL * 2304)
SITES = ["allocation=sites", "allocation.live=4"]
UNTUNED = ["method.finetune.epochs=0"]  # where masks alone are looked at


def live(record: Record) -> list[str]:
    return [site.name for site in record.sites if site.kept]


def assert_kept_at_four_sites(free, culled):
    """Two runs (record, folder) of a method and a budget, of which the second keeps ReLUs at four sites alone."""
    (free, _), (record, folder) = free, culled
    assert len(live(record)) == 4 < len(live(free)) == len(record.sites)
    assert record.budget == free.budget and record.budget.met == record.budget.asked
    mask, metadata = Mask.from_file(folder / "mask.safetensors")
    assert mask.counts == {site.name: site.kept for site in record.sites}
    assert (metadata.asked, metadata.met) == (record.budget.asked, record.budget.met)
    name = f"{free.method.name}+sites"
    assert record.method.name == name and record.name.startswith(f"{name}-resnet8-digits-")


@pytest.mark.slow
def test_a_search_with_routes_keeps_its_budget_at_fewer_sites(tmp_path, rlnet):
    copy_store(rlnet[1], tmp_path)
    assert_kept_at_four_sites(rlnet, quick_run(tmp_path, "budget.fraction=0.2", *SITES, *UNTUNED, method="rlnet"))


def test_one_search_that_scores_positions_serves_every_allocation(tmp_path, fits):
    free, folder = quick_run(tmp_path, SHARE)
    assert fits == ["teacher", "search", "finetune"] and free.method.name == "snl"
    fewer, other = quick_run(tmp_path, SHARE, *SITES)
    assert fits[3:] == ["finetune"]
    assert_kept_at_four_sites((free, folder), (fewer, other))
    assert fewer.stages["search"].key == free.stages["search"].key and fewer.stages["search"].reused
    assert fewer.key != free.key and folder != other
    quick_run(tmp_path, SHARE, "allocation=cost")
    quick_run(tmp_path, SHARE, "allocation=free")
    assert fits[4:] == ["finetune"]
    kept, _ = Mask.from_file(folder / "mask.safetensors")
    chosen, _ = Mask.from_file(other / "mask.safetensors")
    for name in live(fewer):  # what the search kept there stays, and the positions next in its order join them
        assert bool((kept[name] & ~chosen[name]).sum() == 0) and chosen.counts[name] >= kept.counts[name]


def test_a_search_that_leaves_no_scores_is_named_and_serves_runs_that_need_none(tmp_path, alone, fits, monkeypatch):
    copy_store(alone[SMALL][1], tmp_path)
    keep = searches.keep_snapshot
    with monkeypatch.context() as patched:  # a search of one's own
        patched.setattr(searches, "keep_snapshot", lambda plan, found: keep(plan, replace(found, scores=None)))
        for _ in range(2):
            with pytest.raises(UserError, match=r"^allocation=sites divides .*leaves none .*; give allocation=free$"):
                quick_run(tmp_path, SHARE, *SITES, *UNTUNED, method="random")
    plan = quick_plan(tmp_path, SHARE, *SITES, *UNTUNED, method="random")
    with pytest.raises(UserError, match="leaves none"):
        check_stages(plan)
    assert not fits and quick_run(tmp_path, SHARE, *UNTUNED, method="random")[0].stages["search"].reused


def test_shapley_values_divide_the_budget_of_a_search_that_scores_positions(tmp_path, alone, fits):
    copy_store(alone[SMALL][1], tmp_path)
    few = ["allocation.sensitivity.permutations=2", "allocation.sensitivity.images=100"]
    record, folder = quick_run(tmp_path, SHARE, "allocation=shapley", *few)
    assert fits == ["sensitivity", "finetune"] and record.stages["search"].reused
    assert record.method.name == "snl+shapley" and record.budget.met == BUDGET
    mask, _ = Mask.from_file(folder / "mask.safetensors")
    sizes, values = zip(*((site.total, site.sensitivity) for site in record.sites), strict=True)
    names = [site.name for site in record.sites]
    shares = allocate(dict(zip(names, sizes, strict=True)), dict(zip(names, values, strict=True)), BUDGET)
    assert mask.counts == shares
    own, _ = Mask.from_file(alone[SMALL][1] / "mask.safetensors")
    for name, kept in own.items():  # the search's own positions, or a part of them, come first
        assert int((kept & mask[name]).sum()) == min(shares[name], own.counts[name])
    again, _ = quick_run(tmp_path, SHARE, "sensitivity=shapley", *(word.replace("allocation.", "") for word in few),
                         method="random_allocated")  # fmt: skip
    assert again.stages["sensitivity"].key == record.stages["sensitivity"].key
    assert again.stages["sensitivity"].reused and {site.name: site.kept for site in again.sites} == shares


@pytest.mark.slow
@pytest.mark.parametrize("source", ["uniform", "snl"])
def test_other_sensitivities_divide_it_as_well(tmp_path, source):
    """Known at once; learned by another search, whose counts they are."""
    words = ["allocation=shapley", f"sensitivity@allocation.sensitivity={source}", f"allocation.name={source}"]
    if source == "snl":
        words += [word.replace("method.search", "allocation.sensitivity.search") for word in SEARCH]
    record, _ = quick_run(tmp_path, SHARE, *words, *UNTUNED, method="random")
    kept = {site.name: site.kept for site in record.sites}
    sizes, values = {site.name: site.total for site in record.sites}, {s.name: s.sensitivity for s in record.sites}
    assert kept == allocate(sizes, values, BUDGET) and record.method.name == f"random+{source}"
    assert ("sensitivity" in record.stages) == (source == "snl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["allocation.sensitivity.permutations=0"], "allocation.sensitivity.permutations=0: must be"),
        (
            ["+allocation.sensitivity.learning_rate=0.1"],
            "does not take it; leave it out: '~allocation.sensitivity.learning_rate'",
        ),
        (["sensitivity@allocation.sensitivity=list"], "allocation.sensitivity.values"),
        (
            ["sensitivity@allocation.sensitivity=released"],
            "give sensitivity@allocation.sensitivity=computed",
        ),
        (
            ["allocation.sensitivity=computed"],
            "allocation.sensitivity=computed is no group; give sensitivity@allocation.sensitivity=computed",
        ),
        (
            ["sensitivity@allocation.sensitivity=snl", "method/search@allocation.sensitivity.search=senet"],
            "allocation.sensitivity.search needs sensitivities itself; give one that does not, as "
            "method/search@allocation.sensitivity.search=snl",
        ),
    ],
)
def test_errors_of_an_allocations_sensitivities_name_its_keys(tmp_path, settings, message):
    with pytest.raises(UserError) as error:
        check_stages(quick_plan(tmp_path, SHARE, "allocation=shapley", *settings, method="random"))
    assert message in str(error.value)


def test_a_search_with_shares_of_its_own_is_told_where_they_come_from(tmp_path):
    with pytest.raises(UserError, match=r"allocation=shapley: this search .*; give sensitivity=shapley"):
        quick_run(tmp_path, "allocation=shapley", method="senet")


def test_a_search_that_is_given_sensitivities_is_another_one_under_an_allocation(tmp_path, senet, fits):
    copy_store(senet[1], tmp_path)
    record, folder = quick_run(tmp_path, "budget.fraction=0.2", *SITES, method="senet")
    assert fits == ["search", "finetune"] and record.stages["sensitivity"].reused
    assert_kept_at_four_sites(senet, (record, folder))
    assert live(record) == [site.name for site in record.sites][-4:]  # the least sensitive are the first
    assert all(site.sensitivity is not None for site in record.sites)  # of all sites, as computed
    shares = [site.kept / site.sensitivity for site in record.sites if 0 < site.kept < site.total]
    assert max(shares) == pytest.approx(min(shares), rel=0.05)


def test_whole_channels_are_left_at_live_sites_alone(tmp_path):
    given = ["sensitivity=uniform", "method.search.granularity=channel"]
    record, _ = quick_run(tmp_path, SHARE, *SITES, *given, method="senet, any sensitivity")
    assert 0 < len(live(record)) <= 4 and 0 < record.budget.met <= BUDGET


@pytest.mark.slow
def test_lower_worth_makes_a_cheaper_network_by_its_own_preset(tmp_path):
    seconds, live = [], []
    for worth in (1.0, 0.6, 0.2):
        plan = quick_plan(tmp_path, SHARE, "allocation=cost", f"allocation.worth={worth}", method="random")
        settings = [SHARE, "allocation=cost", f"allocation.worth={worth}", *UNTUNED]
        record, _ = quick_run(tmp_path, *settings, method="random")
        latency = plan.request.site_choice.latency(plan.request.sizes)
        seconds.append(latency({site.name: site.kept for site in record.sites}))
        live.append(sum(site.kept > 0 for site in record.sites))
    assert seconds[0] > seconds[1] > seconds[2]
    # Cheetah on a wide area network: about 20 messages of 20 ms for a site, and what it takes itself, whatever it keeps
    online = protocols()["cheetah"].online
    site = 0.02 * online.messages.constants["live_sites"] + online.seconds.constants["live_sites"]
    assert site > 0.4 and seconds[0] - seconds[2] == pytest.approx(site * (live[0] - live[2]), rel=0.01)


def test_free_allocations_have_the_keys_of_before_there_was_a_choice(tmp_path):
    plan = quick_plan(tmp_path, SHARE)
    older = quick_plan(tmp_path, SHARE)
    OmegaConf.set_struct(older.request.config, False)
    del older.request.config["allocation"]
    assert (older.search.key, older.finetune.key, older.run.key) == (
        plan.search.key, plan.finetune.key, plan.run.key,
    )  # fmt: skip
    assert plan.chosen == plan.snapshot(BUDGET)


def test_constants_fitted_anew_are_another_result(tmp_path, monkeypatch):
    keys = [quick_plan(tmp_path, SHARE, *choice).run.key for choice in (["allocation=cost"], SITES)]
    found = LowerLatency("semi2k", "wan", 0.7).measured["messages"]
    assert found == {"live_sites": 8.0, "layers": 2.0, "inference": 2.0, "pool_steps": 8.0}, "means are in the last"
    named = quick_plan(tmp_path, SHARE, "allocation=cost").request.site_choice.measured["messages"]
    assert list(named) == ["live_sites", "layers", "pool_steps"], "its former name, so that older runs are found"
    fitted = protocols()["cheetah"]
    online = replace(fitted.online, messages=Terms({"live_sites": 19, "layers": 4}))
    monkeypatch.setitem(protocols(), "cheetah", replace(fitted, online=online))
    again = [quick_plan(tmp_path, SHARE, *choice).run.key for choice in (["allocation=cost"], SITES)]
    assert again[0] != keys[0] and again[1] == keys[1]


def test_a_search_without_its_scores_is_refused_by_name(tmp_path):
    quick_run(tmp_path, SHARE, *UNTUNED, method="random")
    snapshot = quick_plan(tmp_path, SHARE, method="random").snapshot(BUDGET).path
    (snapshot / SCORES).unlink()
    with pytest.raises(UserError, match=f"{snapshot / SCORES} is missing"):
        quick_run(tmp_path, SHARE, *SITES, method="random")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["allocation=sites", "allocation.live=0"], "allocation.live=0 is impossible; give a number of sites, or"),
        (["allocation=sites", "allocation.live=1.5"], "allocation.live=1.5 is impossible"),
        (["allocation=sites", "allocation.live=true"], "allocation.live=True is impossible"),
        (
            ["allocation=sites", "allocation.live=1"],
            "allocation.live=1: the 1 largest of the 7 sites have 512 ReLUs, and the budget is 622; give at least 2",
        ),
        (["allocation=cost", "allocation.worth=70"], "allocation.worth=70 is no share; give 0 to 1"),
        (["allocation=cost", "allocation.preset=fast"], "allocation: preset=fast is unknown; valid: delphi_compute,"),
        (["allocation=cost", "allocation.network=moon"], "allocation: network=moon: must be loopback, lan, wan or"),
        (
            ["allocation=cost", "allocation.preset=delphi_compute", "allocation.network=null"],
            "allocation.preset=delphi_compute is computation alone",
        ),
        (["allocation=cost", "allocation.network=null"], "allocation.network=null: these are 2 presets; give one"),
        (["allocation=cost", "allocation.preset=delphi_compute"], "allocation: preset=delphi_compute is computation"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_trained(tmp_path, settings, message):
    with pytest.raises(UserError) as error:
        quick_plan(tmp_path, SHARE, *settings)
    assert message in str(error.value)


def test_the_command_takes_a_network_of_one_s_own(tmp_path, typed):
    settings = ["allocation=cost", "allocation.preset=semi2k", "allocation.network={rtt_ms:20,mbps:50}"]
    plan = quick_plan(tmp_path, SHARE, *settings)
    assert plan.request.site_choice.preset.network.text == "20ms-50mbps (20 ms RTT, 50 Mbit/s)"
    status, out, _ = typed("run", *settings, "--cfg", "job")
    assert status == 0 and "preset: semi2k" in out


def test_an_evaluation_finds_the_run_again(tmp_path):
    record, folder = quick_run(tmp_path, SHARE, *SITES, method="random")
    assert len(live(record)) == 4 and record.method.name == "random+sites"
    found = evaluate_run([f"run={folder}", "accelerator=cpu"])
    assert found["relu/count"] == BUDGET and found["test"] == pytest.approx(record.accuracy.test)
