"""Robust evaluations of whole quick runs: what is written, resumed, taken over, refused. Attacks of two steps."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from quick_runs import sealed_again
from rich.console import Console
from robust_runs import ALONE, ATTACKS, FGSM, SETTINGS, evaluate, lasting, pieces
from safetensors.torch import load_file, save_file

from relinearize import cli
from relinearize.commands.evaluate import main as evaluate_run
from relinearize.commands.evaluate import read_evaluation
from relinearize.data.digits import Digits
from relinearize.errors import UserError
from relinearize.evaluation import attacked as robust_attacks
from relinearize.evaluation import checks as robust_checks
from relinearize.evaluation import robustness as robust_evaluation
from relinearize.evaluation.checks import InChunks
from relinearize.evaluation.pieces import PIECES_FILE
from relinearize.files import read_json, write_json
from relinearize.progress import WorkProgress
from relinearize.records.robustness import RobustRecord
from relinearize.records.run import PredictionsRecord, Record
from relinearize.robustness.sanity import CHECKS, Case, determinism, logits_not_probabilities, zero_gradients
from relinearize.runs.finished import FinishedRun


@pytest.fixture
def finished(random_masks):
    return random_masks[1]


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it, to be evaluated."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def quick_checks(monkeypatch):
    monkeypatch.setattr(
        robust_checks, "CHECKS", {"logits": logits_not_probabilities, "determinism": determinism}, raising=True
    )


@pytest.fixture
def chunks(monkeypatch):
    """Lists the sizes of the chunks that were really attacked; raises at number `chunks.fail_at`."""

    class Chunks(list):
        fail_at = None

    sizes, attacked = Chunks(), robust_attacks.attacked_batch

    def counted(network, images, labels, *arguments) -> torch.Tensor:
        if len(sizes) == sizes.fail_at:
            raise KeyboardInterrupt
        sizes.append(len(labels))
        return attacked(network, images, labels, *arguments)

    monkeypatch.setattr(robust_attacks, "attacked_batch", counted)
    return sizes


@pytest.mark.slow
def test_all_of_it_on_grey_images(folder, quick_checks, chunks, capsys):
    arguments = [
        f"run={folder}",
        *SETTINGS,
        *ATTACKS,
        "evaluation.n_corruptions=4",
        "corruptions.extra=true",
    ]
    (record,) = evaluate_run(arguments, Console(width=300))
    printed = capsys.readouterr().out
    run = FinishedRun.open(folder).record
    assert RobustRecord.read(folder / "robustness.json") == record == RobustRecord.find([folder])[0][1]
    assert (record.clean.accuracy, record.clean.n) == (run.accuracy.test, 360)
    assert (record.key, record.run, record.route, record.relus) == (run.key, run.key, None, run.budget.met)
    assert [(attack.name, attack.label, attack.n) for attack in record.attacks] == [
        ("fgsm", "FGSM", 16), ("pgd20", "PGD-2 (CE)", 16), ("pgd100x5", "PGD-2 x 2 (CE and margin)", 16),
    ]  # fmt: skip
    assert chunks == [6, 6, 4] * 3
    assert record.clean.accuracy > 25 and all(0 < attack.accuracy < 100 for attack in record.attacks)
    assert record.corruptions.left_out == ["frost"] and len(record.corruptions.accuracy) == 14
    assert list(record.corruptions.extra) == ["speckle_noise", "gaussian_blur", "spatter"]  # no colours to saturate
    assert record.corruptions.n == 4 and record.corruptions.mce == pytest.approx(100 - record.corruptions.npa)
    assert [check.name for check in record.checks] == [
        "clean accuracy", "clean agreement", "logits", "determinism", "transfer",
    ]  # fmt: skip
    assert all(check.passed for check in record.checks)
    for words in ("n 360", "n 16", "14 corruptions, generated", "left out: frost", "pass  determinism"):
        assert words in printed
    again = evaluate_run(arguments, Console(quiet=True))  # answers from the file
    assert again == [record] and len(chunks) == 9


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_equals_an_undisturbed_one(folder, finished, tmp_path, chunks):
    (undisturbed,) = evaluate(folder, *ATTACKS, *ALONE)
    chunks.clear()
    other = shutil.copytree(finished, tmp_path / "other")
    chunks.fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        evaluate(other, *ATTACKS, *ALONE)
    assert not (other / "robustness.json").exists() and (other / PIECES_FILE).is_file()
    chunks.fail_at = None
    torch.rand(7)  # the global random state is not what the attacks draw from
    (resumed,) = evaluate(other, *ATTACKS, *ALONE)
    assert len(chunks) == 9
    assert lasting(resumed) == lasting(undisturbed)
    assert flags(other) == flags(folder)
    assert any("1" in right and '"attack"' in name for name, right in flags(other).items())


def flags(folder):
    """Name of a piece -> which images are right."""
    return {json.dumps(what, sort_keys=True): result["right"] for what, result in pieces(folder)}


@pytest.mark.slow
def test_other_options_take_over_what_they_share_and_other_weights_nothing(folder, chunks):
    evaluate(folder, *ATTACKS, *ALONE)
    assert len(chunks) == 9
    (more,) = evaluate(folder, *ATTACKS, *ALONE, "evaluation.n_attack=18")
    assert chunks[9:] == [6, 6, 6] and {attack.n for attack in more.attacks} == {18}  # the last chunk was shorter
    evaluate(folder, *ATTACKS, *ALONE, "attack.pgd20.steps=3")
    assert chunks[12:] == [6, 6, 4]
    evaluate(folder, *ATTACKS, *ALONE, "evaluation.seed=1")
    assert len(chunks) == 24
    evaluate(folder, *ATTACKS, *ALONE, "evaluation.epsilon=4")
    assert len(chunks) == 33
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # a hard link into the store
    weights.write_bytes(content)
    sealed_again(folder)
    evaluate(folder, *ATTACKS, *ALONE, "evaluation.epsilon=4")
    assert len(chunks) == 42


def test_images_are_those_of_a_fixed_permutation_and_each_has_its_flag(folder):
    evaluate(folder, *FGSM, "evaluation.n_clean=100", "batch_size=30")
    run = FinishedRun.open(folder)
    subject = robust_evaluation.Subject(run, run.source().load("test"), "cpu", 0)
    assert sorted(subject.order.tolist()) == list(range(360))
    assert subject.rows(16).equal(subject.rows(100)[:16]) and subject.rows(None).equal(torch.arange(360))
    clean = [(what, result) for what, result in pieces(folder) if what["kind"] == "clean"]
    assert [(what["first"], what["n"]) for what, _ in clean] == [(0, 30), (30, 30), (60, 30), (90, 10)]
    found = torch.tensor([flag == "1" for _, result in clean for flag in result["right"]])
    batches = subject.rows(100).split(30)  # as above: other batches round differently
    assert found.equal(torch.cat([subject.correct(*subject.batch(rows)) for rows in batches]))


def test_epsilon_is_that_of_all_attacks_and_kept(folder, monkeypatch):
    moved = []
    attacked = robust_attacks.attacked_batch

    def watched(network, images, labels, attack, seed, epsilon):
        assert epsilon == 4 / 255
        found = attack(network, images, labels, seed)
        moved.append(255 * (found - images).abs().max().item())
        assert found.min() >= 0 and found.max() <= 1
        return attacked(network, images, labels, attack, seed, epsilon)

    monkeypatch.setattr(robust_attacks, "attacked_batch", watched)
    (record,) = evaluate(folder, *ATTACKS, *ALONE, "evaluation.epsilon=4")
    assert {attack.epsilon for attack in record.attacks} == {4.0}
    assert 3.99 < max(moved) <= 4.001


def test_checks_see_no_more_images_at_a_time_than_a_chunk(folder, monkeypatch):
    seen = []

    def watched(case):
        for module in case.network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
        return zero_gradients(case)

    monkeypatch.setattr(robust_checks, "CHECKS", {"zero gradients": watched})
    (record,) = evaluate(folder, "evaluation.attacks=[]", "evaluation.corruptions=none", "evaluation.n_checks=20")
    assert {"clean agreement", "zero gradients", "transfer"} <= {check.name for check in record.checks}
    assert {6, 2} <= set(seen) and max(seen) == 6


@pytest.mark.parametrize("name", ["zero gradients", "other loss", "fixed point"])
def test_checks_in_chunks_find_what_they_find_of_all_at_once(random_masks, name):
    run = FinishedRun.open(random_masks[1])
    subject = robust_evaluation.Subject(run, run.source().load("test"), "cpu", 0)
    batch = subject.batch(subject.order[:20])
    whole, parts = (CHECKS[name](Case(one, *batch)) for one in (subject.network, InChunks(subject.network, 6)))
    assert parts.passed == whole.passed and parts.numbers == pytest.approx(whole.numbers, abs=1e-3)


def test_steps_are_a_quarter_of_the_radius_and_filed_as_numbers(folder):
    pgd = ["evaluation.attacks=[pgd20]", "attack.pgd20.steps=2", *ALONE]
    (usual,) = evaluate(folder, *pgd)
    (named,) = evaluate(folder, *pgd, "attack.pgd20.step_size=2")
    assert usual.attacks[0].step == 2.0 and named == usual, "the same evaluation, found again"
    assert usual.evaluation["attack"]["pgd20"]["step_size"] == 2
    (small,) = evaluate(folder, *pgd, "evaluation.epsilon=1")
    assert small.attacks[0].step == small.evaluation["attack"]["pgd20"]["step_size"] == 0.25
    assert [what["settings"]["step_size"] for what, _ in pieces(folder) if what["kind"] == "attack"] == [2] * 3 + [
        0.25
    ] * 3


def test_an_attack_that_leaves_its_ball_gives_no_number(folder, monkeypatch):
    attack = robust_evaluation.build({"_target_": "relinearize.robustness.attacks.FGSM", "epsilon": 8})
    monkeypatch.setattr(type(attack), "__call__", lambda self, network, images, labels, seed: 1 - images)
    with pytest.raises(RuntimeError, match="epsilon"):
        evaluate(folder, *FGSM, "attack.fgsm.epsilon=2")
    assert not (folder / "robustness.json").exists()


def test_clean_evaluation_is_as_it_was(folder, monkeypatch):
    """And reads no training images: of a large set they may have to be decoded first."""
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda source, split: load(source, {"test": "test"}[split]))
    result = evaluate_run([f"run={folder}"], Console(quiet=True))
    predictions = ["per_class", "ece", "nll"]
    assert list(result) == ["test", *predictions, "n_test", "relu/count", "record/test", "record/relu/count"]
    record = Record.read(folder / "record.json")
    assert result["test"] == result["record/test"] == record.accuracy.test
    assert result["relu/count"] == result["record/relu/count"] == record.budget.met
    assert PredictionsRecord(**{name: result[name] for name in predictions}) == record.accuracy.predictions
    assert read_json(folder / "evaluation.json") == result
    assert not (folder / "robustness.json").exists() and not (folder / PIECES_FILE).exists()


@pytest.mark.slow
def test_widths_are_evaluated_too(senetpp, tmp_path):
    folder = shutil.copytree(senetpp[1], tmp_path / "run")
    whole, half = evaluate(folder, *FGSM)
    narrow = FinishedRun.open(folder / "width-0.5").record
    assert RobustRecord.read(folder / "width-0.5" / "robustness.json") == half
    assert (half.key, half.width, half.clean.accuracy) == (narrow.key, 4, narrow.accuracy.test)
    assert whole.width == 8 and whole.run != half.run == half.key  # two checkpoints


@pytest.mark.slow
def test_routes_are_rows_of_one_checkpoint_and_attack_each_other(rlnet, tmp_path, quick_checks, chunks):
    folder = shutil.copytree(rlnet[1], tmp_path / "run")
    arguments = ["evaluation.corruptions=none", "evaluation.attacks=[fgsm]", "evaluation.n_checks=8"]
    (alone,) = evaluate(folder / "route-adversarial", *arguments)
    assert len(chunks) == 3
    clean, adversarial = evaluate(folder, *arguments)
    assert len(chunks) == 6 and adversarial == alone  # one route was done
    assert (clean.route, adversarial.route) == ("clean", "adversarial") and clean.run == adversarial.run == clean.key
    for record, other in ((clean, "adversarial"), (adversarial, "clean")):
        check = record.checks[-1]
        assert check.name == "transfer" and list(check.numbers) == ["own", f"route {other}"]


def test_the_teacher_attacks_a_network_without_routes(folder, finished, tmp_path, quick_checks):
    """It is found beside the run's folder wherever both lie; without it there is no such check."""
    arguments = ["evaluation.attacks=[]", "evaluation.corruptions=none", "evaluation.n_checks=40"]
    output = shutil.copytree(finished.parents[1], tmp_path / "output")
    (record,) = evaluate(output / "runs" / finished.name, *arguments)
    check = record.checks[-1]
    assert (check.name, list(check.numbers), check.passed) == ("transfer", ["own", "its teacher"], True)
    assert check.numbers["its teacher"] < record.clean.accuracy  # trained with the same images: attacks do transfer
    config = OmegaConf.load(folder / "config.yaml")
    config.store = str(folder / "nowhere")
    OmegaConf.save(config, folder / "config.yaml")
    sealed_again(folder)
    (record,) = evaluate(folder, *arguments)
    without = ["clean accuracy", "clean agreement", "logits", "determinism"]
    assert [check.name for check in record.checks] == without
    shutil.copytree(output / "store", folder / "nowhere")
    (weights,) = folder.glob("nowhere/teacher/*/weights.safetensors")
    weights.unlink()  # to save space
    (folder / "robustness.json").unlink()
    (record,) = evaluate(folder, *arguments)
    assert [check.name for check in record.checks] == without


def test_another_network_than_the_recorded_one_is_told(folder, quick_checks):
    """Weights changed after the run: nothing but the accuracy in its record shows it."""
    weights = load_file(folder / "weights.safetensors")
    save_file({name: value * (1 if "running" in name else 0.3) for name, value in weights.items()},
              folder / "weights.safetensors")  # fmt: skip
    sealed_again(folder)
    (record,) = evaluate(folder, "evaluation.attacks=[]", "evaluation.corruptions=none")
    assert [check.name for check in record.checks if not check.passed] == ["clean accuracy"]
    assert record.checks[0].numbers["recorded"] == FinishedRun.open(folder).record.accuracy.test
    (record,) = evaluate(folder, "evaluation.attacks=[]", "evaluation.corruptions=none", "evaluation.n_clean=50")
    assert "clean accuracy" not in [check.name for check in record.checks]


def test_what_other_packages_warn_of_becomes_a_check(folder, monkeypatch):
    attacked = robust_attacks.attacked_batch

    def warning(*arguments):
        robust_attacks.warnings.warn("AutoAttack: zero gradients", stacklevel=1)
        return attacked(*arguments)

    monkeypatch.setattr(robust_attacks, "attacked_batch", warning)
    (record,) = evaluate(folder, *FGSM)
    (check,) = record.checks
    assert not check.passed and "FGSM: AutoAttack: zero gradients" in check.message


OPTION_ERRORS = {
    "no run": (["evaluation=robust"], ["run=FOLDER"]),
    "unknown argument": (["run=x", "speed=1"], ["speed=1", "evaluation.KEY="]),
    "unknown evaluation": (["run=x", "evaluation=strong"], ["evaluation=strong", "clean, robust"]),
    "key of the other": (["run=x", "evaluation.n_attack=5"], ["evaluation.n_attack", "evaluation=robust has more"]),
    "attack of none": (["run=x", "attack.fgsm.epsilon=5"], ["attack.fgsm.epsilon", "evaluation=robust"]),
    "unknown key": (["evaluation.steps=5"], ["evaluate does not know 'evaluation.steps=5'", "n_attack"]),
    "no images": (["evaluation.n_attack=0"], ["evaluation.n_attack=0", "must be greater than or equal to 1"]),
    "words": (["evaluation.n_clean=all"], ["evaluation.n_clean=all"]),
    "broken list": (["evaluation.attacks=[fgsm"], ["evaluation.attacks=[fgsm", "cannot be read"]),
    "unknown attack": (["evaluation.attacks=[fgms]"], ["evaluation.attacks=fgms", "autoattack", "pgd20"]),
    "twice": (["evaluation.attacks=[fgsm,fgsm]"], ["names an attack twice"]),
    "another attack's": (["attack.square.queries=5"], ["attack.square.queries", "evaluation.attacks=[fgsm,"]),
    "another's, added": (["++attack.square.queries=5"], ["++attack.square.queries=5: no such attack"]),
    "forced": (["++evaluation.n_attack=0"], ["evaluation.n_attack=0"]),
    "taken away": (["~evaluation.n_attack"], ["evaluation.n_attack must be there"]),
    "unknown of attack": (["attack.fgsm.step=5"], ["does not know 'attack.fgsm.step=5'", "attack.fgsm.epsilon"]),
    "unknown corruptions": (["evaluation.corruptions=c"], ["evaluation.corruptions=c", "files, generated, none"]),
    "no folder": (["evaluation.corruptions=files"], ["corruptions.folder must be given"]),
    "settings of none": (["evaluation.corruptions=none", "corruptions.seed=1"], ["corruptions.seed", "none"]),
    "radius": (["evaluation.epsilon=-1"], ["evaluation.epsilon=-1", "greater than 0"]),
    "pixels of 1": (["evaluation.epsilon=0.03"], ["evaluation.epsilon=0.03", "give pixels times 255 (8 for 8/255)"]),
    "batch size": (["batch_size=0"], ["batch_size=0"]),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTION_ERRORS)
def test_wrong_options_are_one_line(case):
    arguments, words = OPTION_ERRORS[case]
    if case not in list(OPTION_ERRORS)[:5]:
        arguments = ["run=x", "evaluation=robust", *arguments]
    with pytest.raises(UserError) as refusal:
        read_evaluation(arguments)
    assert "\n" not in str(refusal.value)
    for word in words:
        assert word in str(refusal.value)


def test_options_reach_attacks_and_corruptions():
    arguments = [
        "evaluation.epsilon=2", "evaluation.seed=3", "evaluation.attacks=[pgd,torchattacks]",
        "attack.pgd.losses=[margin]", "attack.torchattacks.arguments.steps=4", "corruptions.constants=tiny",
    ]  # fmt: skip
    options = read_evaluation(["run=x", "evaluation=robust", *arguments])
    assert options.attacks["pgd"]["epsilon"] == 2 and options.attacks["pgd"]["losses"] == ["margin"]
    assert options.attacks["torchattacks"]["arguments"] == {"steps": 4}
    assert (options.corruptions["constants"], options.corruptions["seed"]) == ("tiny", 3)


def test_hydras_signs_before_a_key_change_nothing():
    keys = ["evaluation.attacks=[torchattacks]", "evaluation.n_attack=5", "attack.torchattacks.arguments.steps=4"]
    plain, signed = (
        read_evaluation(["run=x", "evaluation=robust", *(f"{sign}{key}" for key in keys)]) for sign in ("", "++")
    )
    assert signed == plain and signed.robust.n_attack == 5


def test_errors_behind_the_options_are_one_line_of_the_program(folder, monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    wrong = {
        "evaluation.epsilon=0.03": "evaluation.epsilon=0.03: this is 0.03/255; give pixels times 255",
        "attack.pgd20.losses=[hinge]": "ce, margin, kl",
        "corruptions.frost_images=/nowhere": "no such folder",
        "evaluation.corruptions=files corruptions.folder=/nowhere": "no such folder",
    }
    for arguments, words in wrong.items():
        program = ["relinearize", "evaluate", f"run={folder}", *SETTINGS, *ATTACKS, *arguments.split()]
        monkeypatch.setattr("sys.argv", program)
        with pytest.raises(SystemExit) as end:
            cli.main()
        lines = capsys.readouterr().err.splitlines()
        assert end.value.code == 1 and len(lines) == 1 and words in lines[0], lines


def test_help_lists_the_keys(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["relinearize", "evaluate", "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    printed = capsys.readouterr().out
    for words in (
        "run=FOLDER",
        "evaluation.n_autoattack: 1000",
        "corruptions.folder",
        "attack.pgd.losses",
        "torchattacks",
    ):
        assert words in printed


@pytest.mark.slow
def test_random_states_are_left_alone(folder, quick_checks):
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    attacks = ["evaluation.attacks=[pgd20,square,torchattacks-MIFGSM]", "attack.square.queries=2"]
    evaluate(folder, *attacks, "attack.pgd20.steps=2", "evaluation.n_corruptions=4", "evaluation.n_checks=8")
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.slow
def test_all_checks_on_a_run_and_on_one_that_masks_its_gradients(folder, monkeypatch):
    """The deliberate mistake: the last layer 10,000 times too large, so that the cross-entropy saturates."""
    arguments = ["evaluation.attacks=[]", "evaluation.corruptions=none", "evaluation.n_checks=60"]
    (honest,) = evaluate(folder, *arguments)
    # PGD on the cross-entropy is weak on so poor a network, which the checks may say; its gradients are sound.
    assert {check.name for check in honest.checks if not check.passed} <= {"other loss", "black box"}
    assert {"transfer", "clean accuracy", "clean agreement", *robust_checks.CHECKS} == {
        check.name for check in honest.checks
    }
    weights = load_file(folder / "weights.safetensors")
    last = [name for name in weights if name.startswith("linear.")]
    assert last
    # A power of two: the logits are scaled exactly.
    save_file({name: value * (2**13 if name in last else 1) for name, value in weights.items()},
              folder / "weights.safetensors")  # fmt: skip
    sealed_again(folder)
    monkeypatch.setattr(robust_checks, "CHECKS", {"zero gradients": zero_gradients})  # and transfer, which is apart
    (masked,) = evaluate(folder, *arguments)
    assert masked.clean.accuracy == honest.clean.accuracy
    assert {check.name for check in masked.checks if not check.passed} >= {"zero gradients", "transfer"}


def test_few_classes_and_other_images_are_refused(folder):
    values = read_json(folder / "record.json")
    three = {**values, "dataset": {**values["dataset"], "classes": 3}}
    write_json(folder / "record.json", three)
    with pytest.raises(UserError, match=r"at least 4 classes, Digits has 3; evaluation.attacks=\[fgsm\]"):
        evaluate(folder, "evaluation.attacks=[fgsm,autoattack]")
    with pytest.raises(UserError, match=r"apgd needs at least 4 classes, Digits has 3; evaluation.attacks=\[fgsm\]"):
        evaluate(folder, "evaluation.attacks=[fgsm,apgd]", "attack.apgd.losses=[ce,t]")
    with pytest.raises(UserError, match="torchattacks-APGDT needs at least 4 classes"):
        evaluate(folder, "evaluation.attacks=[torchattacks-APGDT]")
    write_json(folder / "record.json", {**values, "dataset": {**values["dataset"], "fingerprint": "00"}})
    with pytest.raises(UserError, match="are not those of random-"):
        evaluate(folder)
    with pytest.raises(UserError, match="are not those of random-"):
        evaluate_run([f"run={folder}"], Console(quiet=True))
    assert not (folder / "evaluation.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [[], SETTINGS])
def test_a_missing_gpu_names_the_key_of_the_command(folder, words):
    with pytest.raises(UserError, match=r"^accelerator=cuda but torch sees no CUDA device"):
        evaluate_run([f"run={folder}", *words, "accelerator=cuda"], Console(quiet=True))


class Elsewhere(Digits):
    """Images that lie in no folder that the user could name."""

    def __init__(self):
        super().__init__()


def test_root_is_advised_and_taken_where_the_images_have_one(finished, monkeypatch):
    run = FinishedRun.open(finished)
    run.config.dataset.source = {"_target_": f"{__name__}.Elsewhere"}
    monkeypatch.setattr("relinearize.runs.finished.read_config", lambda *_: run.config)
    assert FinishedRun.open(finished, root="/elsewhere").source().classes == 10
    monkeypatch.setattr(Elsewhere, "fingerprint", lambda _: "others")
    with pytest.raises(UserError, match=r"images of dataset.source are not those of random-.* \(Digits\)$"):
        run.source()


def test_table_keeps_all_columns_on_a_narrow_terminal(folder, capsys):
    evaluate_run([f"run={folder}", *SETTINGS, *ATTACKS, *ALONE], Console(width=40))
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("route", "ReLUs", "CA", "FGSM", "PGD-2", "margin)"))


def test_progress_is_a_bar_or_lines(capsys):
    lines = []
    with WorkProgress(10, bar=False, line=lines.append) as progress:
        progress.begins("FGSM")
        progress.done(10)
        progress.says("FGSM done")
    assert lines == ["FGSM done"]
    with WorkProgress(10, bar=True, line=lines.append) as progress:
        progress.begins("FGSM")
        progress.done(5)
        assert progress.bar.tasks[0].percentage == 50
    assert len(lines) == 1
