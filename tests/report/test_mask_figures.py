"""Masks beside records: read, refused, sorted, summed over channels, drawn."""

import logging

import numpy as np
import pytest
import torch
from fake_masks import fake_mask, write_masks
from fake_records import fake_record, fake_sweep, write_records
from safetensors.numpy import save_file

from relinearize.errors import UserError
from relinearize.records.run import find_records
from relinearize.relu.mask import Mask, MaskMetadata
from relinearize.report.figures.masks import CELL, LEAST_ROWS, MOST_ROWS, chosen_rows, colours, draw_masks, framed_map
from relinearize.report.figures.style import SHARE_COLOURS
from relinearize.report.report import Report, write_report
from relinearize.report.sources import find_masks, read_mask
from relinearize.report.tables.masks import SiteMap, build_groups
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.text import share_text


def groups_of(records):
    return build_groups(build_panels(records), {record.key: fake_mask(record) for record in records})


def test_sum_over_channels_and_order_of_the_bits():
    positions = np.zeros((3, 2, 4), bool)
    positions[0, 0, 1] = positions[2, 0, 1] = positions[1, 1, 3] = True
    site = SiteMap.of("relu", positions)
    assert site.kept.tolist() == [[0, 2, 0, 0], [0, 0, 0, 1]]
    assert site.share[0, 1] == pytest.approx(2 / 3)
    # Channel by channel, row by row, the first position in the highest bit: 01000000 00000001 01000000.
    assert site.bits == bytes([0b01000000, 0b00000001, 0b01000000])


@pytest.mark.parametrize(("shape", "seen"), [((5,), (5, 1, 1)), ((5, 3), (5, 1, 3)), ((5, 2, 3), (5, 2, 3))])
def test_sites_without_height_or_width(shape, seen):
    assert SiteMap.of("relu", np.ones(shape, bool)).shape == seen


def test_a_file_of_the_library_is_read_in_forward_order(tmp_path):
    record = fake_record()
    positions = {name: torch.from_numpy(kept).bool() for name, kept in fake_mask(record).items()}
    about = MaskMetadata("resnet18", "senet", (3, 32, 32), record.budget.asked, record.budget.met, "key")
    Mask(positions).to_file(tmp_path / "mask.safetensors", about)
    mask = read_mask(tmp_path / "mask.safetensors", record)
    assert list(mask) == [site.name for site in record.sites] != sorted(mask)
    assert all(np.array_equal(kept, positions[name].numpy()) for name, kept in mask.items())


@pytest.mark.parametrize(
    ("site", "harm", "words"),
    [
        ("another", np.asarray, "its sites are not those of the record"),
        ("relu1", np.ravel, r"site relu1 is \(16384,\), the record says \(16, 32, 32\)"),
        ("relu1", lambda kept: 1 - kept, "site relu1 keeps .* the record says"),
        ("relu1", lambda kept: 2 * kept, "site relu1 holds something else than zeros and ones"),
        ("relu1", np.float32, "site relu1 holds F32 numbers"),
    ],
    ids=["other site", "flat site", "other count", "twos", "fractions"],
)
def test_another_mask_is_refused_in_one_line(tmp_path, site, harm, words):
    record = fake_record()
    mask = fake_mask(record)
    mask[site] = harm(mask.pop("relu1"))
    save_file(mask, tmp_path / "mask.safetensors")
    with pytest.raises(UserError, match=words) as error:
        read_mask(tmp_path / "mask.safetensors", record)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("undrawn")
def test_broken_and_missing_masks_are_named_and_stop_nothing(tmp_path, caplog):
    runs = write_masks([fake_record(seed=seed) for seed in range(3)], tmp_path / "runs")
    (runs / "run-001" / "mask.safetensors").write_bytes(b"broken")
    (runs / "run-002" / "mask.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        masks, left_out = find_masks(find_records([runs]))
    assert masks.keys() == {fake_record(seed=0).key}
    assert sorted(left_out) == ["snl-resnet18-cifar10-35k-s1", "snl-resnet18-cifar10-35k-s2"]
    broken, missing = [record.getMessage() for record in caplog.records]
    assert "run-001" in broken and "cannot be read as a mask" in broken
    assert missing.endswith("beside the record of snl-resnet18-cifar10-35k-s2")
    assert not any("\n" in record.getMessage() for record in caplog.records)
    assert write_report(Report([runs]))["masks.png"] == runs / "masks.png"


def test_without_any_mask_there_is_no_picture(tmp_path):
    runs = write_records([fake_record()], tmp_path)
    assert Report([runs]).masks == []


def test_runs_with_one_mask_are_one_picture_and_others_sorted():
    tuned = fake_record("snl", 7_000, finetune_lr=0.1)
    records = [*fake_sweep(budgets=(7_000, 35_000), seeds=(0, 1)), fake_record("snl", 3_500), tuned]
    masks = {record.key: fake_mask(record) for record in records}
    masks[tuned.key] = masks[fake_record("snl", 7_000).key]
    (group,) = build_groups(build_panels(records), masks)
    asked = [picture.asked for picture in group.masks]
    assert asked == sorted(asked, reverse=True)
    (shared,) = [picture for picture in group.masks if tuned in picture.records]
    assert len(shared.records) == 2 and len(shared.labels) == 2
    assert sum(len(picture.records) for picture in group.masks) == len(records)
    ranked = [(one.turn, one.asked) for one in group.ranked()]
    assert ranked[0] == (0, 7_000) and ranked[-1][0] == 1


def test_rows_are_whole_budgets_of_first_seeds_and_few():
    (group,) = groups_of(fake_sweep(methods=[f"method {number}" for number in range(7)]))
    (rows,) = chosen_rows([group])
    assert len(rows) == 21 <= MOST_ROWS
    assert [picture.asked for picture in rows] == [14_000] * 7 + [7_000] * 7 + [3_500] * 7
    assert {picture.turn for picture in rows} == {0}


def test_small_groups_leave_their_rows_to_others():
    records = [*fake_sweep(methods=[f"method {number}" for number in range(4)], seeds=(0,)), fake_record(width=8)]
    groups = groups_of(records)
    assert sorted(map(len, chosen_rows(groups))) == [1, 20]
    many = groups_of(
        [fake_record(f"method {number}", 900, width=width) for width in range(1, 9) for number in range(9)]
    )
    assert {len(rows) for rows in chosen_rows(many)} == {LEAST_ROWS}


def test_a_position_is_a_square_of_its_share():
    positions = np.zeros((4, 2, 3), bool)
    positions[:3, 0, 2] = True
    image = framed_map(SiteMap.of("relu", positions), CELL)
    assert image.shape == (CELL, CELL, 3)
    size = CELL // 3
    top, left = (CELL - 2 * size) // 2, (CELL - 3 * size) // 2
    marked = np.isclose(image, colours(np.array([0.75]))).all(axis=-1)
    assert marked.sum() == size * size
    assert marked[top : top + size, left + 2 * size : left + 3 * size].all()


def test_colours_get_darker_with_the_share():
    grey = colours(np.linspace(0, 1, 40)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(grey) < 0).all()
    assert np.allclose(colours(np.array([1.0]))[0], [int(SHARE_COLOURS[-1][at : at + 2], 16) / 255 for at in (1, 3, 5)])


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1e-4, "< 0.1 %"), (0.0123, "1.2 %"), (0.123, "12 %"), (1, "100 %")]
)
def test_share_text(share, text):
    assert share_text(share) == text


@pytest.mark.filterwarnings("error")
def test_picture_is_the_same_png_each_time():
    name = "layer_with_a_long_$name$_of_its_own.relu"
    records = [fake_record(budget, 7_000) for budget in ("snl", "random")] + [fake_record(width=8, asked=3_500)]
    groups = groups_of(records)
    sites = groups[0].masks[0].sites
    sites[0] = SiteMap(name, sites[0].shape, sites[0].kept, sites[0].bits)
    picture = draw_masks(groups)
    assert picture.startswith(b"\x89PNG")
    assert picture == draw_masks(groups)
