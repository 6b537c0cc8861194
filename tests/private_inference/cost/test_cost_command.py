"""`relinearize cost`: of a run, and of the bundle made from it."""

import io

import pytest
import torch
from numpy_bundles import pooled_network, written
from quick_runs import LARGE, SMALL, command, shell
from rich.console import Console

from relinearize.commands.cost import main as cost_command
from relinearize.commands.export import main as export_command
from relinearize.errors import UserError
from relinearize.private_inference.bundle import read_bundle, tracing
from relinearize.private_inference.bundle.exporting import counted_bundle
from relinearize.private_inference.cost.presets import find_presets, predict
from relinearize.private_inference.cost.table import print_costs
from relinearize.private_inference.cost.workload import bundle_workload, mask_workload
from relinearize.private_inference.export import of_run
from relinearize.report.tables.cost import record_workload


def printed(workload, preset=None, network=None):
    text = io.StringIO()
    presets = find_presets(preset, network)
    print_costs("costs", workload, presets, Console(file=text, width=140))
    return [predict(one, workload) for one in presets], text.getvalue()


def test_run_record_and_bundle_count_the_same(alone, tmp_path):
    record, folder = alone[SMALL]
    subject = of_run(folder, None)
    workload = bundle_workload(counted_bundle(subject.network, subject.input_size))
    assert subject.about.name == record.name and workload == record_workload(record)
    bundle = export_command([f"run={folder}", f"output={tmp_path / 'b'}"], Console(quiet=True))
    assert bundle_workload(read_bundle(bundle)) == workload
    with pytest.raises(UserError, match="route=fast"):
        of_run(folder, "fast")


def test_fewer_relus_cost_less_everywhere_but_in_ckks(alone):
    few, many = (printed(record_workload(alone[share][0]))[0] for share in (SMALL, LARGE))
    assert [prediction.preset.name for prediction in few] == [preset.name for preset in find_presets(None, None)]
    for less, more in zip(few, many, strict=True):
        alike = less.preset.protocol.name == "ckks"  # both keep some at every site
        assert (less.online == more.online) if alike else (less.online.seconds < more.online.seconds)
        assert less.online.bytes <= more.online.bytes


def test_what_is_known_of_single_images_is_left_out_of_batches(alone, capsys):
    cost_command([f"run={alone[SMALL][1]}", "batch=8"], Console(width=140))
    text = capsys.readouterr().out
    assert "cheetah" in text and "ckks" not in text
    with pytest.raises(UserError, match=r"^batch=2: the constants of ckks are of single images; give batch=1$"):
        cost_command([f"run={alone[SMALL][1]}", "batch=2", "preset=ckks_wan"])


def test_a_network_that_no_bundle_can_express_costs_its_relus_at_least(alone, monkeypatch, capsys):
    record, folder = alone[SMALL]
    monkeypatch.delitem(tracing._TRANSLATIONS, torch.mean)
    cost_command([f"run={folder}", "preset=semi2k_wan"], Console(width=200))
    text = capsys.readouterr().out
    sites = sum(site.kept > 0 for site in record.sites)
    assert f"{record.budget.met:,} ReLUs at {sites} sites; linear layers unknown, their cost is not in the" in text
    assert "the network cannot be exported: mean (mean): no operation of a bundle does this" in text
    with pytest.raises(UserError, match="the network cannot be exported: mean"):
        cost_command([f"run={folder}", "layers=true"])


def test_the_table_says_what_was_counted(alone):
    record, _ = alone[SMALL]
    workload = record_workload(record)
    _, text = printed(workload)
    assert f"{record.budget.met:,} ReLUs at {workload.live_sites} sites, 10 linear layers" in text
    assert "Delphi's garbled circuits, evaluation alone" in text and "wan (40 ms RTT, 100 Mbit/s)" in text
    _, text = printed(workload, "cheetah", "{rtt_ms:80,mbps:20}")
    assert "80 ms RTT, 20 Mbit/s" in text and "delphi" not in text
    assert "linear layers unknown" in printed(mask_workload([(1, 2)]))[1]


def test_layers_beside_the_presets(tmp_path):
    text, place = io.StringIO(), written(pooled_network(), tmp_path / "bundle")
    cost_command([f"bundle={place}", "layers=true", "preset=semi2k", "network=lan"], Console(file=text, width=140))
    lines = text.getvalue().partition("semi2k_lan by layer, predicted")[2].splitlines()
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
    assert rows["stem"].startswith("stem max_pool 552 0.0795 35.3 % 32 ")
    assert rows["relu1"].startswith("relu1 masked_relu 194 of 396 0.0279 ")
    assert rows["together"].startswith("together 194 of 546 984 0.225 100.0 % 88 ")


def test_layers_of_a_batch_say_whose_counts_they_have(tmp_path):
    place = written(pooled_network(), tmp_path / "bundle")
    for words, batch in (([], False), (["batch=8"], True)):
        text = io.StringIO()
        cost_command([f"bundle={place}", "layers=true", *words], Console(file=text, width=140))
        title = text.getvalue().partition("cheetah_wan by layer, predicted")[2].partition("\n")[0]
        assert ("; costs of a batch of 8 images, ReLUs and comparisons of one" in title) == batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "cost needs run=FOLDER, a finished run, or bundle=FOLDER"),
        (["run=a", "bundle=b"], "cost needs run=FOLDER"),
        (["bundle=b", "route=clean"], "route=clean is for run=FOLDER"),
        (["run=a", "preset=spdz"], "preset=spdz is unknown"),
        (["run=a", "wan"], "cost does not know 'wan'; valid: run=, bundle="),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        cost_command(arguments)


@pytest.mark.slow
def test_from_the_command_line(alone, typed):
    """Once as a program, whose start takes longer than the rest."""
    _, folder = alone[SMALL]
    done = shell(command("cost", f"run={folder}", "preset=delphi_compute"))
    assert done.returncode == 0 and "delphi_compute" in done.stdout, done.stderr
    status, _, err = typed("cost", f"run={folder / 'nothing'}")
    assert status == 1 and err.count("\n") == 1 and "is no finished run" in err
    assert "preset: null" in typed("cost", "--help")[1]
