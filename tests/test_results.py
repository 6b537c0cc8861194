"""What results/ says is what its records say."""

import re
from pathlib import Path
from statistics import mean, stdev

import pytest

from relinearize.private_inference.cost.presets import find_presets
from relinearize.records.inference import InferenceRecord
from relinearize.records.robustness import RobustRecord
from relinearize.records.run import find_records
from relinearize.relu.mask import Mask
from relinearize.report.tables.cost import predicted_costs

RESULTS = Path(__file__).parents[1] / "results"
README = (RESULTS / "README.md").read_text(encoding="utf-8")
OTHERS = "".join((RESULTS.parent / page).read_text(encoding="utf-8") for page in ("README.md", "docs/methods.md"))
CELLS = re.compile(r"(?<!\\)\|")


def tables(kind: str, at_least: int, text: str = README) -> list[tuple[str, str]]:
    """(folder, table) of each marker of this kind; of a lost marker its table would be compared with nothing."""
    found = re.findall(rf"<!-- {kind}: (\w+) -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    assert len(found) >= at_least, f"of {at_least} tables <!-- {kind}: FOLDER -->, {len(found)} are left"
    return found


TABLES = tables("records", 7)
MEANS = [*tables("means", 1), *tables("means", 2, OTHERS)]
SITES = tables("sites", 1)
WHOLE_CHANNELS = tables("whole channels", 1)
OFFICIAL = tables("official", 1)
INFERENCES = tables("inferences", 1)
LATENCIES = tables("latencies", 1)
COSTS = tables("costs", 1)
ROBUST_TABLES = tables("robustness", 2)


@pytest.mark.parametrize(("folder", "table"), TABLES, ids=[folder for folder, _ in TABLES])
def test_tables_equal_the_records(folder: str, table: str) -> None:
    records = [record for _, record in find_records([RESULTS / folder])]
    found = set()
    for line in table.strip().splitlines()[2:]:
        method, *numbers = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        found.add((method, *(float(number) for number in numbers)))
    assert found == {
        (
            record.method.name + (f" ({record.route})" if record.route else ""),
            record.seed,
            record.budget.asked,
            record.budget.met,
            round(record.accuracy.test, 2),
            round(record.accuracy.test_last, 2),
            round(record.accuracy.holdout, 2),
        )
        for record in records
    }


@pytest.mark.parametrize(("folder", "table"), MEANS, ids=[folder for folder, _ in MEANS])
def test_means_equal_the_records(folder: str, table: str) -> None:
    """Each cell under a count of ReLUs: mean, sample deviation where there are several seeds, and how many."""
    head, _, *rows = (
        [cell.strip(" *") for cell in CELLS.split(line.strip("|"))] for line in table.strip().splitlines()
    )
    budgets = {place: int(cell.split()[0].replace(",", "")) for place, cell in enumerate(head) if cell[0].isdigit()}
    records = [record for _, record in find_records([RESULTS / folder])]
    assert {record.method.name for record in records} - {"none+retrain"} == {row[0] for row in rows}
    for row in rows:
        for place, budget in budgets.items():
            found = [one.accuracy.test for one in records if (one.method.name, one.budget.asked) == (row[0], budget)]
            spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
            expected = f"{mean(found):.2f}{spread} ({len(found)})" if found else "not run"
            assert row[place] == expected, (row[0], budget)


@pytest.mark.parametrize(("folder", "table"), COSTS, ids=[folder for folder, _ in COSTS])
def test_predicted_costs_equal_the_records(folder: str, table: str) -> None:
    """method | ReLUs met | live sites | test accuracy | per protocol of the heading seconds and MB, both online."""
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    records = {(one.method.name, one.budget.met): one for _, one in find_records([RESULTS / folder]) if one.seed == 0}
    for method, met, *shown in rows:
        record = records[method, int(met.replace(",", ""))]
        expected = [str(record.cost.live_sites), f"{record.accuracy.test:.2f}"]
        costs = predicted_costs(record)  # by today's constants, whenever it was recorded
        for protocol in head[4:]:
            name = protocol.strip("`")
            expected.append(f"{costs[f'{name}_s']:.2f} s, {costs[f'{name}_mb']:.1f} MB")
        assert shown == expected, (method, met)


@pytest.mark.parametrize(("folder", "table"), ROBUST_TABLES, ids=[folder for folder, _ in ROBUST_TABLES])
def test_robustness_tables_equal_the_records(folder: str, table: str) -> None:
    heading, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()
    ]  # fmt: skip
    attacks = ["fgsm", "pgd20", "pgd100x5", "autoattack"]
    wanted = set()
    for _, record in RobustRecord.find([RESULTS / folder]):
        found = {attack.name: f"{attack.accuracy:.2f}" for attack in record.attacks}
        values = (record.clean.accuracy, record.corruptions.npa)
        shown = [f"{value:.2f}" for value in values] + [found.get(name, "-") for name in attacks]
        wanted.add((record.method, record.route or "-", f"{record.relus:,}", *shown))
    assert len(heading) == 9 and {tuple(line) for line in lines} == wanted


def test_every_result_is_in_a_table_and_names_no_machine() -> None:
    folders = {path.name for path in RESULTS.iterdir() if path.is_dir()}
    assert folders == {folder for folder, _ in [*TABLES, *MEANS, *SITES, *OFFICIAL, *INFERENCES]}
    for path in [*RESULTS.rglob("*.json"), *RESULTS.rglob("*.yaml")]:
        assert not re.search(r"[\"' ]/(home|work|root|tmp)/", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(("folder", "table"), SITES, ids=[folder for folder, _ in SITES])
def test_tables_of_culled_sites_equal_runs_and_inferences(folder: str, table: str) -> None:
    wanted = set()
    for path, record in find_records([RESULTS / folder]):
        cells = [record.method.name, str(sum(site.kept > 0 for site in record.sites)), f"{record.accuracy.test:.2f}"]
        for protocol in ("semi2k", "cheetah", "tfp"):
            place = path.parent / "bundle-infer"
            file = place / f"{protocol}-wan" / "inference.json"
            wan = InferenceRecord.read(file).steady if file.exists() else None
            cells += [f"{wan.bytes / 1e6:.1f}", f"{wan.median_seconds:.1f}"] if wan else ["", ""]
        private = InferenceRecord.read(place / "semi2k-loopback-batch10" / "inference.json").fidelity
        assert private.images == 100
        cells += [f"{private.private_accuracy:.0f}", f"{private.plaintext_accuracy:.0f}"]
        wanted.add(tuple(cells))
    lines = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.strip().splitlines()[2:]]
    assert set(lines) == wanted and len(lines) == len(wanted)


@pytest.mark.parametrize(("folder", "table"), WHOLE_CHANNELS, ids=[folder for folder, _ in WHOLE_CHANNELS])
def test_shares_in_whole_channels_are_those_of_the_masks(folder: str, table: str) -> None:
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines())
    for method, *cells in rows:
        for budget, cell in zip(head[1:], cells, strict=True):
            count = int(budget.split()[0].replace(",", ""))
            shares = [
                round(share_in_whole_channels(Mask.from_file(place.with_name("mask.safetensors"))[0]))
                for place, record in find_records([RESULTS / folder])
                if (record.method.name, record.budget.asked) == (method, count)
            ]
            assert cell == " to ".join(map(str, sorted({min(shares), max(shares)}))), (method, count, shares)


def share_in_whole_channels(mask: Mask) -> float:
    channels = [channel.flatten().float() for site in mask.values() for channel in site]
    whole = sum(channel.sum().item() for channel in channels if channel.mean() >= 0.95)
    return 100 * whole / sum(mask.counts.values())


@pytest.mark.parametrize(("folder", "table"), OFFICIAL, ids=[folder for folder, _ in OFFICIAL])
def test_tables_beside_the_released_code_equal_the_records(folder: str, table: str) -> None:
    assert table.strip() in (RESULTS / folder / "official.md").read_text(encoding="utf-8")
    head, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    columns = [head.index(name) for name in ("ReLUs asked", "seed", "met, here", "test, here")]
    assert {tuple(line[column] for column in columns) for line in lines} == {
        (f"{one.budget.asked:,}", str(one.seed), f"{one.budget.met:,}", f"{one.accuracy.test_last:.2f}")
        for _, one in find_records([RESULTS / folder])
    }


@pytest.mark.parametrize(("folder", "table"), INFERENCES, ids=[folder for folder, _ in INFERENCES])
def test_tables_of_inferences_equal_their_records(folder: str, table: str) -> None:
    assert table.strip() == (RESULTS / folder / "table.md").read_text(encoding="utf-8").strip()
    rows = set()
    for path in (RESULTS / folder).rglob("inference.json"):
        found = InferenceRecord.read(path)
        rows.add((found.protocol, f"{sum(found.relus.values()):,}", f"{found.steady.bytes / 1e6:.1f}",
                  f"{found.steady.median_seconds:.1f}"))  # fmt: skip
    head, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    columns = [head.index(name) for name in ("protocol", "ReLUs", "MB", "steady s, wan")]
    assert {tuple(line[column] for column in columns) for line in lines} == rows


@pytest.mark.parametrize(("folder", "table"), LATENCIES, ids=[folder for folder, _ in LATENCIES])
def test_tables_of_latencies_equal_runs_and_inferences(folder: str, table: str) -> None:
    found = set()
    for path, record in find_records([RESULTS / folder]):
        for inference in path.parent.glob("bundle-infer/*/inference.json"):
            private = InferenceRecord.read(inference)
            cost = f"{private.steady.bytes / 1e6:.1f}", f"{private.steady.median_seconds:.1f}"
            counts = f"{record.budget.met:,}", str(private.live_sites)
            found.add((record.method.name, *counts, f"{record.accuracy.test:.2f}", *cost))
    lines = table.strip().splitlines()[2:]
    assert {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines} == found


def test_quadratics_under_semi2k_send_what_the_constants_say() -> None:
    relu, quadratic, messages = 144, 48, 3
    online = find_presets("semi2k", "wan")[0].protocol.online
    assert online.bytes.constants["quadratic"] == quadratic and online.messages.constants["quadratic_sites"] == messages
    found = 0
    for path, record in find_records([RESULTS / "quadratics_cifar10jpeg_resnet18w16"]):
        file = path.parent / "bundle-infer" / "semi2k-wan" / "inference.json"
        if record.replacement == "quadratic" and file.is_file():
            sent = InferenceRecord.read(file).steady.kinds["relu"]
            removed = record.budget.total - record.budget.met
            live = sum(site.kept > 0 for site in record.sites)
            assert sent.bytes == relu * record.budget.met + quadratic * removed
            assert sent.messages == 8 * live + messages * len(record.sites)
            found += 1
    assert found == 3
