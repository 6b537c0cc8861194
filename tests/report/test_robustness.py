"""The robustness table: which number stands beside which, what is averaged, and what the files and the page say."""

import csv
import io
import json
import random
import re
from dataclasses import replace

import pytest
from fake_records import REPORT_FILES, fake_record, fake_sweep, write_records
from fake_robust_records import ATTACKS, CORRUPTIONS, EXTRA, fake_robust, fake_robust_runs, routed, write_robust
from rich.console import Console
from test_page import Page

from relinearize.commands.report import main as report_command
from relinearize.records.robustness import RobustRecord
from relinearize.report.figures.robustness import corrupted_column, draw_robustness
from relinearize.report.page.page import render_page
from relinearize.report.report import Report, write_report
from relinearize.report.tables.measures import interval_95
from relinearize.report.tables.pareto import build_panels, pareto_table
from relinearize.report.tables.robustness import ORACLE, build_tables
from relinearize.report.tables.robustness_text import corruptions_csv, robustness_csv, robustness_markdown
from relinearize.report.tables.terminal import print_evaluation, print_robustness

FILES = ["robustness.md", "robustness.csv", "robustness_corruptions.csv", "robustness.png"]


def table_of(records, **options):
    (table,) = build_tables([fake_robust(record, **options) for record in records], build_panels(records))
    return table


def with_clean(robust: RobustRecord, accuracy: float) -> RobustRecord:
    return robust.model_copy(update={"clean": robust.clean.model_copy(update={"accuracy": accuracy})})


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def best_of(row) -> set[str]:
    return {key for key, measure in row.cells.items() if measure.best}


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_number_of_a_row_is_of_one_checkpoint_and_route():
    records = fake_robust_runs()
    table = table_of(records)
    assert len(table.rows) == len(table.checkpoints) == len(records) == 8
    for row in table.checkpoints:
        (record,) = row.records
        assert row.cells["ca"].value == record.clean.accuracy
        assert row.cells["npa"].value == record.corruptions.npa
        assert row.cells["mce"].value == record.corruptions.mce
        assert [row.cells[attack.name].value for attack in record.attacks] == [one.accuracy for one in record.attacks]
        assert row.route == (record.route or "-")


def test_order_is_budget_method_route_and_not_that_of_the_files():
    records = [*fake_robust_runs(routes=("clean", "augmix", "adversarial")), fake_record("random", 13_926)]
    shuffled = random.Random(2).sample(records, len(records))
    table = table_of(shuffled)
    shown = [(row.first.relus, row.label, row.route) for row in table.rows]
    routes = [("rlnet", "clean"), ("rlnet", "augmix"), ("rlnet", "adversarial"), ("senet", "-"), ("snl", "-")]
    assert shown == [(n, *one) for n in (34_816, 13_926) for one in routes] + [(13_926, "random", "-")]
    assert robustness_csv([table]) == robustness_csv([table_of(records)])


def test_seeds_are_averaged_and_nothing_else():
    records = [fake_record("snl", 7_000, seed) for seed in range(3)]
    robust = [with_clean(fake_robust(record), 80.0 + record.seed) for record in records]
    (table,) = build_tables(robust, build_panels(records))
    (row,) = table.rows
    assert (row.kind, row.seeds, len(table.checkpoints)) == ("mean", [0, 1, 2], 3)
    assert (row.cells["ca"].value, row.cells["ca"].deviation, row.cells["ca"].seeds) == (81.0, 1.0, 3)
    assert str(row.cells["ca"]) == "81.0 ± 1.0"
    other = [records[0], fake_record("snl", 7_000, 1, finetune_lr=0.01)]
    assert [row.kind for row in table_of(other).rows] == ["checkpoint", "checkpoint"]
    assert len({row.label for row in table_of(other).rows}) == 2


def met_by(record, met):
    """A search that ends near its budget, and with each seed elsewhere."""
    return record.model_copy(update={"budget": record.budget.model_copy(update={"met": met, "reached": False})})


def test_seeds_of_one_asked_budget_are_one_row_whatever_each_met():
    mets = (59_177, 60_279, 59_380)
    records = [met_by(fake_record("snl", 60_000, seed), met) for seed, met in enumerate(mets)]
    robust = [with_clean(fake_robust(record), 80.0 + record.seed) for record in records]
    (table,), (panel,) = build_tables(robust, build_panels(records)), build_panels(records)
    (row,) = table.rows
    assert (row.kind, row.seeds, row.cells["ca"].value, row.cells["ca"].seeds) == ("mean", [0, 1, 2], 81.0, 3)
    assert row.relus == panel.points["relus"].item() == 59_612
    assert [one.relus for one in table.checkpoints] == list(mets)
    mean, *each = csv_rows(robustness_csv([table]))
    assert (mean["relus"], [one["relus"] for one in each]) == ("59612", [str(met) for met in mets])
    assert "| snl | 59,612 |" in robustness_markdown([table])
    page = json.loads(Page(render_page(build_panels(records), {}, robustness=[table])).data)
    assert [one["relus"] for one in page["robustness"][0]["rows"]] == [59_612]
    assert [row.kind for row in build_tables(robust)[0].rows] == ["checkpoint"] * 3  # nobody knows what was asked


def test_rows_stand_by_the_relus_met_and_are_compared_at_equal_ones():
    seeds = [met_by(fake_record("snl", 60_000, seed), met) for seed, met in enumerate((59_000, 61_000))]
    records = [*seeds, fake_record("senet", 60_000), fake_record("senet", 60_500), fake_record("senet", 59_000)]
    table = table_of(records)
    shown = [(row.label, row.relus) for row in table.rows]
    assert shown == [("senet", 60_500), ("senet", 60_000), ("snl", 60_000), ("senet", 59_000)]
    assert [bool(best_of(row)) for row in (table.rows[0], table.rows[3])] == [False, False]
    alike = [row for row in table.checkpoints if row.relus == 59_000]
    assert len(alike) == 2 and sum("ca" in best_of(row) for row in alike) == 1


def test_images_of_several_sizes_are_tables_named_like_their_panels():
    records = [fake_record("snl", image_size=size) for size in (32, 64)]
    records[1] = records[1].model_copy(update={"key": f"64-{records[1].key}"})
    panels = build_panels(records)
    tables = build_tables([fake_robust(record) for record in records], panels)
    titles = ["CIFAR-10 (JPEG), 32 pixels", "CIFAR-10 (JPEG), 64 pixels"]
    assert [table.title for table in tables] == [panel.title for panel in panels] == titles


def test_what_was_measured_otherwise_is_neither_averaged_nor_compared():
    records = [fake_record("snl", 7_000, seed) for seed in range(3)]
    robust = [fake_robust(record, n=n) for record, n in zip(records, (500, 500, 1_000), strict=True)]
    (table,) = build_tables(robust, build_panels(records))
    assert table.rows[0].cells == {}  # 500 images here, 1,000 there: no mean at all
    robust = [fake_robust(records[0]), fake_robust(records[1], attacks=("fgsm",)), fake_robust(records[2])]
    (table,) = build_tables(robust, build_panels(records))
    assert (table.rows[0].cells["pgd20"].seeds, table.rows[0].cells["fgsm"].seeds) == (2, 3)
    assert "(2 of 3 seeds)" in robustness_markdown([table])
    two = [fake_record("snl", 7_000), fake_record("senet", 7_000)]
    assert any(best_of(row) for row in table_of(two).rows)
    robust = [fake_robust(two[0]), fake_robust(two[1], n=500)]
    assert not any(best_of(row) for row in build_tables(robust, build_panels(two))[0].rows)


def test_a_mean_of_some_seeds_says_so_in_csv_and_terminal():
    records = [fake_record("snl", 7_000, seed) for seed in range(3)]
    attacks = (tuple(ATTACKS), ("fgsm",), tuple(ATTACKS))
    robust = [fake_robust(record, attacks=names) for record, names in zip(records, attacks, strict=True)]
    tables = build_tables(robust, build_panels(records))
    mean, *each = csv_rows(robustness_csv(tables))
    assert (mean["pgd20_seeds"], {one["pgd20_seeds"] for one in each}) == ("2", {"1", ""})
    assert "fgsm_seeds" not in mean and "ca_seeds" not in mean, "where all seeds have it"
    print_robustness(tables, Console(file=(file := io.StringIO()), width=80))
    assert file.getvalue().count("(2 of 3 seeds)") == len(ATTACKS) - 1


@pytest.mark.parametrize(
    ("options", "note"), [(({"n": 500}, {}), "n differs"), (({"attack_seed": 1}, {}), "random numbers differ")]
)
def test_seeds_measured_unlike_are_a_dash_that_says_why(options, note):
    records = [fake_record("snl", 7_000, seed) for seed in range(2)]
    robust = [fake_robust(record, **given) for record, given in zip(records, options, strict=True)]
    tables = build_tables(robust, build_panels(records))
    assert "pgd20" not in tables[0].rows[0].cells
    mean, *_ = markdown_rows(robustness_markdown(tables))[1:]
    unlike = len(tables[0].rows[0].notes)
    assert sum(cell == f"- ({note})" for cell in mean) == unlike >= len(ATTACKS)
    print_robustness(tables, Console(file=(file := io.StringIO()), width=80))
    assert file.getvalue().count(f"({note})") == unlike
    (row,) = json.loads(Page(render_page(build_panels(records), {}, robustness=tables)).data)["robustness"][0]["rows"]
    assert row["notes"]["pgd20"] == note


def test_best_is_marked_within_one_number_of_relus():
    records = [fake_record(method, asked) for method in ("snl", "senet") for asked in (34_816, 13_926)]
    clean = dict(zip((record.key for record in records), (90.0, 70.0, 85.0, 75.0), strict=True))
    robust = [with_clean(fake_robust(record), clean[record.key]) for record in records]
    (table,) = build_tables(robust, build_panels(records))
    assert [row.cells["ca"].value for row in table.rows if row.cells["ca"].best] == [90.0, 75.0]
    for relus in (34_816, 13_926):  # a low mCE is good
        rows = [row for row in table.rows if row.first.relus == relus]
        lowest = min(rows, key=lambda row: row.cells["mce"].value)
        assert [row for row in rows if row.cells["mce"].best] == [lowest]


def test_without_the_runs_records_only_names_tell_seeds():
    robust = [fake_robust(fake_record("snl", 7_000, seed)) for seed in range(2)]
    (table,) = build_tables(robust)
    assert [row.kind for row in table.rows] == ["mean"]
    renamed = robust[1].model_copy(update={"name": "another-s1"})
    (table,) = build_tables([robust[0], renamed])
    assert [row.kind for row in table.rows] == ["checkpoint", "checkpoint"]


@pytest.mark.parametrize(
    ("routes", "corrupted"), [(("clean", "adversarial"), "clean"), (("clean", "augmix", "adversarial"), "augmix")]
)
def test_oracle_reading_stands_apart(routes, corrupted):
    table = table_of(fake_robust_runs(budgets=(34_816,), routes=routes))
    (oracle,) = table.oracles
    of = {row.first.route: row for row in table.checkpoints}
    assert oracle.kind == "oracle" and oracle.route == ORACLE and not best_of(oracle)
    measured = {"ca": "clean", "npa": corrupted, "mce": corrupted} | dict.fromkeys(ATTACKS, "adversarial")
    for key, route in measured.items():
        assert oracle.cells[key] == replace(of[route].cells[key], best=False)
    for attack in ATTACKS:
        assert oracle.cells[attack].route == "adversarial"
    assert all(row.kind != "oracle" for row in (*table.rows, *table.checkpoints))


def test_oracle_is_never_averaged_and_needs_both_routes():
    table = table_of(fake_robust_runs(budgets=(34_816,), seeds=(0, 1)))
    assert [row.kind for row in table.oracles] == ["oracle", "oracle"]
    assert [row.seeds for row in table.oracles] == [[0], [1]]
    assert {row.kind for row in table.rows} == {"mean"}
    assert table_of(routed(fake_record("rlnet"), ("clean", "augmix"))).oracles == []
    assert table_of(routed(fake_record("rlnet"), ("adversarial",))).oracles == []


def test_routes_are_no_seeds_of_the_accuracy_curve():
    records = routed(fake_record("rlnet", 7_000), ("clean", "adversarial"))
    rows = pareto_table(build_panels(records)).to_dict("records")
    assert [(row["n"], row["variant"]) for row in rows] == [(1, "route=adversarial"), (1, "route=clean")]
    assert [row.label for row in table_of(records).rows] == ["rlnet", "rlnet"]


def test_missing_parts_are_dashes():
    record = fake_record("snl", 7_000)
    table = table_of([record], corruptions=False, attacks=("fgsm",), checks=False)
    head, row = markdown_rows(robustness_markdown([table]))
    shown = dict(zip(head, row, strict=True))
    assert {shown[name] for name in ("NPA", "mCE", "PGD-20 (not run)", "AutoAttack (not run)", "checks")} == {"-"}
    assert shown["FGSM (n 10,000)"] != "-"
    (line,) = csv_rows(robustness_csv([table]))
    assert (line["npa"], line["npa_source"], line["pgd20"], line["checks"]) == ("", "", "", "0")
    assert csv_rows(corruptions_csv([table])) == []


def test_another_radius_is_another_column():
    records = [fake_record(method, 7_000) for method in ("snl", "senet", "random")]
    radii = (8.0, 16.0, 4.0)
    robust = [fake_robust(record, epsilon=epsilon) for record, epsilon in zip(records, radii, strict=True)]
    (table,) = build_tables(robust, build_panels(records))
    titles = [column.title for column in table.columns if column.title.startswith("PGD-20")]
    assert titles == ["PGD-20, ε 4/255", "PGD-20, ε 8/255", "PGD-20, ε 16/255"]
    assert all(len(row.cells) == 3 + len(ATTACKS) for row in table.rows)
    assert {row.strength for row in table.rows} == {"4 / 2", "8 / 2", "16 / 2"}
    assert {"pgd20_ε_4_255", "pgd20_ε_8_255"} <= set(csv_rows(robustness_csv([table]))[0])


FILES_A, FILES_B = ("files sha256 " + digit * 64 for digit in "ab")


@pytest.mark.parametrize(
    ("first", "second", "titles"),
    [
        ({}, {"source": FILES_A}, {"files sha256 aaaaaaaa", "generated"}),
        ({"source": FILES_A}, {"source": FILES_B}, {"files sha256 aaaaaaaa", "files sha256 bbbbbbbb"}),
        ({}, {"constants": "tiny"}, {"cifar constants", "tiny constants"}),
        ({}, {"left_out": ()}, {"no frost", "all 15"}),
        ({}, {"source": FILES_A, "left_out": ()}, {"generated, no frost", "files sha256 aaaaaaaa, all 15"}),
    ],
)
def test_other_corrupted_images_are_another_column(first, second, titles):
    records = [fake_record("snl", 7_000), fake_record("senet", 7_000)]
    robust = [fake_robust(records[0], **first), fake_robust(records[1], **second)]
    (table,) = build_tables(robust, build_panels(records))
    text, rows = robustness_markdown([table]), csv_rows(robustness_csv([table]))
    head, *_ = markdown_rows(text)
    for mean in ("NPA", "mCE"):
        own = [column for column in table.columns if column.name == mean.lower()]
        assert {column.title for column in own} == {f"{mean}, {title}" for title in titles}
        for column in own:
            assert sum(column.key in row.cells for row in table.rows) == 1
            assert not any(column.key in best_of(row) for row in table.rows)
            assert sum(cell.startswith(f"{column.title} (") for cell in head) == 1 and f"- {column.title}: " in text
            slug = "_".join(column.key.replace(",", "").replace(":", "").split())
            assert sum(row[slug] != "" for row in rows) == sum(row[f"{slug}_source"] != "" for row in rows) == 1
    assert draw_robustness([table]).startswith(b"\x89PNG")


def test_seeds_on_other_corrupted_images_are_not_averaged():
    records = [fake_record("snl", 7_000, seed) for seed in range(3)]
    sources = ("generated", FILES_A, FILES_A)
    robust = [fake_robust(record, source=source) for record, source in zip(records, sources, strict=True)]
    (table,) = build_tables(robust, build_panels(records))
    (row,) = table.rows
    assert {row.cells[column.key].seeds for column in table.columns if column.name == "npa"} == {1, 2}
    assert corrupted_column(table).title == "NPA, generated"  # of one row each: the lower one


def test_another_anchor_is_another_mce_but_the_same_npa():
    records = [fake_record("snl", 7_000), fake_record("senet", 7_000)]
    robust = [fake_robust(records[0]), fake_robust(records[1], anchor="fixed ResNet-18")]
    (table,) = build_tables(robust, build_panels(records))
    titles = ["CA", "NPA", "mCE, anchor: fixed ResNet-18", "mCE, anchor: mean error"]
    assert [column.title for column in table.columns][:4] == titles
    assert all(column.name == "mce" for column in table.columns[2:4])


def test_attacks_are_known_by_their_settings():
    robust = fake_robust(fake_record("snl", 7_000), attacks=("pgd20",))
    (attack,) = robust.attacks
    renamed = attack.model_copy(update={"name": "pgd-twenty"})
    weaker = attack.model_copy(update={"steps": 3, "name": "pgd20"})
    (table,) = build_tables([robust.model_copy(update={"attacks": [renamed, weaker]})])
    assert "pgd20" in table.rows[0].cells
    (other,) = [column for column in table.columns if column.key == "pgd20_other"]
    assert "3 steps" in other.described


def test_intervals_by_hand():
    assert interval_95(50.0, 1_000) == pytest.approx(3.09, abs=0.01)
    assert interval_95(0.0, 1_000) == pytest.approx(0.383, abs=0.001)  # Wilson's does not vanish at the end
    assert interval_95(100.0, 1_000) == pytest.approx(interval_95(0.0, 1_000))


def test_markdown_says_what_numbers_stand_on():
    text = robustness_markdown([table_of(fake_robust_runs(seeds=(0, 1)))])
    head, *rows = markdown_rows(text.split("Oracle (not")[0])
    assert "NPA (generated with cifar constants, 14 of 15, no frost, n 10,000)" in head
    assert {"mCE (anchor: mean error)", "AutoAttack (n 1,000)", "CA (n 10,000)"} <= set(head)
    assert len(rows) == 8 + 16  # every mean, and the checkpoints it is the mean of
    apart = markdown_rows(text.split("Oracle (not")[1])
    assert len(apart) == 1 + 4
    assert all(cell.startswith("*") and cell.endswith("*") for row in apart[1:] for cell in row)
    assert "(route clean)*" in apart[1][3] and "(route adversarial)*" in apart[1][-4]
    assert re.search(
        r"- AutoAttack: ε 8/255, version pyautoattack 0\.2\.0, standard; n 1,000; seed 0; 95 % interval", text
    )
    assert re.search(r"- \*\*warn\*\*: other loss: .*\(margin: [\d.]+, ce: [\d.]+\)", text)
    assert "- pass: epsilon sweep: falls to 0.0 % at 64/255 (1: " in text


def test_cells_say_what_differs_within_a_column():
    records = [fake_record("snl", 7_000), fake_record("senet", 7_000)]
    robust = [fake_robust(records[0]), fake_robust(records[1], n=500)]
    text = robustness_markdown(build_tables(robust, build_panels(records)))
    head, first, second = markdown_rows(text)
    assert {"CA", "NPA", "PGD-20"} <= set(head)
    assert any("no frost, n 500" in cell for cell in first) and any("no frost, n 10,000" in cell for cell in second)
    width = max(interval_95(record.corruptions.npa, record.corruptions.n) for record in robust)
    npa = next(line for line in text.splitlines() if line.startswith("- NPA: generated"))
    assert npa.endswith(f"; n 500 or 10,000; seed 0; 95 % interval at most ± {width:.1f} points.")


def test_nasty_names_do_not_break_the_markdown():
    record = fake_record("snl|<b>*x*", 7_000)
    head, row = markdown_rows(robustness_markdown([table_of([record])]))
    assert len(head) == len(row)
    assert row[0] == "snl&#124;&lt;b>&#42;x&#42;"


def test_csv_has_the_same_rows():
    table = table_of(fake_robust_runs(seeds=(0, 1)))
    rows = csv_rows(robustness_csv([table]))
    assert [row["row"] for row in rows].count("mean") == 8
    assert [row["row"] for row in rows].count("checkpoint") == 16
    assert [row["row"] for row in rows].count("oracle") == 4
    mean = next(row for row in rows if row["row"] == "mean")
    own = [row for row in rows if row["row"] == "checkpoint" and row["keys"] in mean["keys"].split()]
    assert float(mean["pgd20"]) == pytest.approx(sum(float(row["pgd20"]) for row in own) / 2, abs=1e-3)
    assert mean["seeds"] == "0 1" and mean["npa_source"] == "generated" and mean["npa_left_out"] == "frost"
    assert own[0]["autoattack_n"] == "1000" and float(own[0]["autoattack_interval95"]) > 0
    assert float(own[0]["npa_interval95"]) == pytest.approx(interval_95(float(own[0]["npa"]), 10_000), abs=1e-3)
    assert "pyautoattack" in own[0]["autoattack_settings"] and own[0]["mce_anchor"] == "mean error"


def test_csv_says_route_seed_and_n_of_every_value():
    records = fake_robust_runs(budgets=(34_816,), routes=("clean", "augmix", "adversarial"))
    table = table_of(records, attack_seed=3, corruption_seed=5)
    rows = csv_rows(robustness_csv([table]))
    (oracle,) = [row for row in rows if row["row"] == "oracle"]
    measured = {"ca": "clean", "npa": "augmix", "mce": "augmix"} | dict.fromkeys(ATTACKS, "adversarial")
    assert {name: oracle[f"{name}_route"] for name in measured} == measured
    for name, route in measured.items():
        (of_route,) = [row for row in rows if row["row"] == "checkpoint" and row["route"] == route]
        same = [column for column in oracle if column == name or column.startswith(f"{name}_")]
        assert [oracle[column] for column in same] == [of_route[column] for column in same]
    for row in rows:
        assert (
            row["ca_n"] == row["npa_n"] == row["mce_n"] == row["pgd20_n"] == "10000" and row["autoattack_n"] == "1000"
        )
        assert {row[f"{attack}_seed"] for attack in ATTACKS} == {"3"} and row["npa_seed"] == row["mce_seed"] == "5"
        if row["row"] == "checkpoint":
            assert {row[f"{name}_route"] for name in measured} == {row["route"].strip("-")}
    assert {row["corruption_seed"] for row in csv_rows(corruptions_csv([table]))} == {"5"}


def test_corruptions_csv_holds_every_severity():
    table = table_of(fake_robust_runs(budgets=(34_816,)))
    rows = csv_rows(corruptions_csv([table]))
    assert len(rows) == 4 * 5 * (len(CORRUPTIONS) - 1 + len(EXTRA))
    record = table.checkpoints[0].first
    own = [row for row in rows if row["key"] == record.key]
    standard = [float(row["accuracy"]) for row in own if row["standard"] == "True"]
    assert sum(standard) / len(standard) == pytest.approx(record.corruptions.npa)
    fog = [float(row["accuracy"]) for row in own if row["corruption"] == "fog"]
    assert fog == record.corruptions.accuracy["fog"]


def test_page_holds_the_table_and_is_still_self_contained():
    records = fake_robust_runs(seeds=(0, 1))
    panels = build_panels(records)
    robust = [fake_robust(record) for record in records]
    text = render_page(panels, {}, robustness=build_tables(robust, panels))
    page = Page(text)
    (table,) = json.loads(page.data)["robustness"]
    assert {"robustness", "robust-heat"} <= {attributes.get("id") for _, attributes in page.tags}
    assert len(table["records"]) == len(records)
    assert {one["key"] for one in table["records"]} == {record.key for record in records}
    assert [row["kind"] for row in table["rows"]] == ["mean"] * 8 and len(table["oracles"]) == 4
    mean = table["rows"][0]["cells"]["ca"]
    assert [seed for seed, _ in mean["each"]] == [0, 1] and mean["interval"] is None
    first = table["records"][0]
    assert len(first["corruptions"]["accuracy"]["fog"]) == 5 and first["corruptions"]["left_out"] == ["frost"]
    assert first["checks"][0]["numbers"] and first["attacks"][-1]["interval"] > 0
    assert "default-src 'none'" in text and "url(" not in text and "fetch(" not in text and "@import" not in text
    assert set(re.findall(r"https?://[^\"'`\s<]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


def test_a_table_in_a_file_is_never_cut_off():
    records = [fake_record("snl", 7_000), fake_record("senet", 7_000)]
    robust = [fake_robust(records[0]), fake_robust(records[1], epsilon=4.0, source=FILES_A, constants="tiny")]
    file = io.StringIO()
    print_robustness(build_tables(robust, build_panels(records)), Console(file=file, width=80))
    text = file.getvalue()
    assert "…" not in text and "files sha256 aaaaaaaa" in text and text.count("ε 4/255") == len(ATTACKS)


def test_an_evaluation_prints_the_same_table_with_all_that_it_stands_on():
    clean, adversarial = (fake_robust(record) for record in routed(fake_record("rlnet"), ("clean", "adversarial")))
    fgsm, *others = clean.attacks
    clean = clean.model_copy(update={"attacks": [fgsm.model_copy(update={"epsilon": 4.0}), *others]})
    for options in ({}, {"force_terminal": True, "no_color": True}):  # on a narrow terminal lines wrap
        print_evaluation([clean, adversarial], Console(file=(file := io.StringIO()), width=40, **options))
        text = file.getvalue()
        assert f"{clean.name} on CIFAR-10 (JPEG): accuracies in %" in text and "…" not in text
        for record in (clean, adversarial):
            assert f"{record.relus:,}" in text and record.route in text
            for accuracy in (record.clean.accuracy, record.corruptions.npa, *(one.accuracy for one in record.attacks)):
                assert f"{accuracy:.2f}" in text
        assert "n 10,000" in text and "n 1,000" in text and "ReLUs" in text
        assert "FGSM, ε 4/255: ε 4/255, step 8/255, 1 step" in text and "FGSM, ε 8/255: ε 8/255" in text
        assert "clean: 14 corruptions, generated, cifar constants; left out: frost; mCE: mean error" in text
    print_evaluation([clean], Console(file=(file := io.StringIO())))
    alone = file.getvalue()
    assert "\n14 corruptions" in alone and "\npass  epsilon sweep: falls to 0.0 %" in alone
    only = fake_robust(fake_record(), attacks=("fgsm",), corruptions=False, checks=False)
    print_evaluation([only], Console(file=(file := io.StringIO())))
    assert "PGD" not in file.getvalue() and "NPA" not in file.getvalue(), "what was not asked for has no column"


def test_terminal_shows_the_table():
    file = io.StringIO()
    print_robustness([table_of(fake_robust_runs(budgets=(34_816,)))], Console(file=file))
    text = file.getvalue()
    assert "AutoAttack" in text and "n 1,000" in text and "adversarial" in text and "oracle" not in text


@pytest.mark.usefixtures("undrawn")
def test_nothing_changes_without_robust_records(tmp_path):
    runs = write_records(fake_sweep(seeds=(0,)), tmp_path / "runs")
    paths = write_report(Report([runs]), tmp_path / "out")
    assert not set(FILES) & set(paths)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == REPORT_FILES
    assert "robust" not in paths["report.html"].read_text().lower() and "{{" not in paths["report.html"].read_text()


def test_report_finds_robust_records(tmp_path, capsys):
    runs = write_robust(fake_robust_runs(budgets=(34_816,)), tmp_path / "runs")
    report_command([str(runs)])
    printed = capsys.readouterr().out
    for name in FILES:
        assert (runs / name).stat().st_size > 500
        assert str(runs / name) in printed
    assert str(tmp_path) not in (runs / "report.html").read_text()
    assert "PGD-100 x 5" in printed


def test_robust_records_of_former_weights_are_left_out(tmp_path, caplog):
    """A run was made again, with repair=true; where either digest is unknown nothing is left out."""
    present, former = "a" * 64, "b" * 64
    cases = [(present, present), (former, present), (former, None), (None, present)]
    for seed, (measured, weights) in enumerate(cases):
        record = fake_record(seed=seed)
        record = record.model_copy(update={"files": weights and {"weights.safetensors": weights}})
        record.write(tmp_path / str(seed) / "record.json")
        subject = {"subject": {"weights": measured}} if measured else {}
        robust = fake_robust(record).model_copy(update={"evaluation": subject})
        robust.write(tmp_path / str(seed) / "robustness.json")
    (table,) = Report([tmp_path]).robustness
    assert sorted(row.first.seed for row in table.checkpoints) == [0, 2, 3]
    assert str(tmp_path / "1" / "robustness.json") in caplog.text and "evaluate it again" in caplog.text


@pytest.mark.usefixtures("undrawn")
def test_no_file_of_corruptions_where_none_were_measured(tmp_path):
    runs = write_robust([fake_record("snl")], tmp_path / "runs", corruptions=False)
    assert [name for name in write_report(Report([runs])) if name.startswith("robustness")] == [
        name for name in FILES if "corruptions" not in name
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_named_record_stands_for_its_folder(tmp_path):
    runs = write_robust(fake_robust_runs(budgets=(34_816,)), tmp_path / "runs")
    paths = write_report(Report([runs / "run-000" / "record.json"]), tmp_path / "out")
    assert [name for name in paths if name.startswith("robustness")] == FILES
    assert len(csv_rows(paths["robustness.csv"].read_text())) == 1
