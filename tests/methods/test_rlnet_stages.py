"""What RLNet's stages keep, leave and refuse; what each weight and each part is for."""

import pytest
import torch
from reference import SmallNetwork
from small_stages import Batches, fit_stage, killed_and_resumed, pixels
from torch import nn

from relinearize.backbones import build_backbone
from relinearize.backbones.routes import ROUTES, RoutedBatchNorm, export_route, on_route, state_for, with_routes
from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.rlnet.distill import RobustDistill
from relinearize.methods.rlnet.inner_attack import InnerAttack
from relinearize.methods.rlnet.search import RLNetSearch
from relinearize.methods.rlnet.teacher import RobustClassifier
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, site_shapes, to_masked
from relinearize.training.lightning import LightningStage

SIZE, CLASSES, IMAGES, BUDGET = 8, 3, 12, 100
SETTINGS = {
    "epochs": 2, "batch_size": 24, "learning_rate": 0.02,
    "attack": {"steps": 2}, "robust_validation": {"steps": 2, "images": 5},
}  # fmt: skip


def network_of(count=2, seed=0):
    torch.manual_seed(seed)
    network = pixels(linearize(SmallNetwork(3, 8, 8), (3, SIZE, SIZE)))
    network = with_routes(network, ROUTES[count]) if count > 1 else network
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_var.uniform_(0.5, 2.0)
    return network


BATCH = Batches(IMAGES, second_view=True).batches[0]
HELD_OUT = [batch[:2] for batch in Batches(IMAGES, second_view=True).batches]


def teacher_stage(count=2, **settings):
    return RobustClassifier(network_of(count), **SETTINGS | settings)


def search_stage(count=2, **settings):
    network = network_of(count)
    eta = dict.fromkeys(site_shapes(network.network), 1.0)
    stage = RLNetSearch(
        network, network_of(count, seed=1).eval(), sensitivities=eta, budget=BUDGET, **SETTINGS | settings
    )
    stage.put_on(stage.first_mask(0))
    return stage


def finetune_stage(count=2, **settings):
    network = network_of(count)
    shapes = site_shapes(network.network)
    torch.manual_seed(5)
    to_masked(network.network, Mask({name: torch.rand(shape) < 0.4 for name, shape in shapes.items()}))
    return RobustDistill(network, network_of(count, seed=1).eval(), **{"pram_weight": 10.0, **SETTINGS, **settings})


STAGES = {"teacher": teacher_stage, "search": search_stage, "finetune": finetune_stage}


def used(stage, killed_in_epoch=None):
    """The stage with its images."""
    loader = Batches(IMAGES, killed_in_epoch, second_view=True)
    stage.use(train_loader=loader, validation_loader=HELD_OUT, precision="32", seed=3)
    return stage


def gradients(stage, batch=BATCH):
    """Parameter -> gradient of one step; those that nothing reaches are left out."""
    stage.train().zero_grad()
    loss, _ = stage.loss(*batch)
    loss.backward()
    found = {name.removeprefix("network."): weight.grad for name, weight in stage.network.named_parameters()}
    return {name: value.clone() for name, value in found.items() if value is not None}


def of_route(found, route):
    return {name: value for name, value in found.items() if f".{route}." in name}


# ---- each part and each weight at work -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", STAGES)
def test_each_route_is_trained_by_its_own_part_alone(kind, count):
    """Other AugMix images change nothing of route adversarial, and so on; statistics likewise."""
    images, labels, augmix = BATCH
    first_share = IMAGES // count
    changes = {
        "clean": (torch.cat([1 - images[:first_share], images[first_share:]]), labels, augmix),
        "augmix": (images, labels, 1 - augmix),
        "adversarial": (torch.cat([images[:-first_share], 1 - images[-first_share:]]), labels, augmix),
    }
    routes = {"clean": "clean", "augmix": "clean" if count == 2 else "augmix", "adversarial": "adversarial"}

    def seen(batch):
        stage = STAGES[kind](count)
        found = gradients(stage, batch)
        state = stage.network.state_dict()
        running = {name: value for name, value in state.items() if "running" in name}
        return {route: {**of_route(found, route), **of_route(running, route)} for route in ROUTES[count]}

    before = seen(BATCH)
    for part, batch in changes.items():
        after = seen(batch)
        for route in ROUTES[count]:
            assert before[route].keys() == after[route].keys()
            same = all(torch.equal(before[route][name], after[route][name]) for name in before[route])
            assert same == (route != routes[part]), (part, route)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("teacher", {"part_weights": {"augmix": 0.0}}),
        ("search", {"cross_entropy_weight": 0.0}),
        ("search", {"distillation_weight": 0.0}),
        ("search", {"part_weights": {"augmix": 0.0}}),
        ("finetune", {"cross_entropy_weight": 0.0}),
        ("finetune", {"distillation_weight": 0.0}),
        ("finetune", {"pram_weight": 0.0}),
        ("finetune", {"pram_part_weights": {"augmix": 0.0}}),
        ("finetune", {"pram_part_weights": {"clean": 0.0}}),
        ("finetune", {"pram_part_weights": {"adversarial": 1.0}}),
    ],
)
def test_each_weight_changes_the_gradient(kind, settings):
    with_it, without = gradients(STAGES[kind]()), gradients(STAGES[kind](**settings))
    assert any(not torch.equal(with_it[name], without[name]) for name in with_it)


def test_without_any_weight_nothing_is_left():
    nothing = {"cross_entropy_weight": 0.0, "distillation_weight": 0.0, "pram_weight": 0.0}
    assert not any(value.any() for value in gradients(finetune_stage(**nothing)).values())
    del nothing["pram_weight"]
    assert not any(value.any() for value in gradients(search_stage(**nothing)).values())
    only_adversarial = finetune_stage(**nothing, pram_part_weights={"clean": 0.0, "augmix": 0.0, "adversarial": 1.0})
    found = gradients(only_adversarial)
    assert not any(value.any() for value in of_route(found, "clean").values())
    assert any(value.any() for value in of_route(found, "adversarial").values())


def test_teachers_do_not_change_and_one_of_ordinary_batch_norms_will_do():
    for kind in ("search", "finetune"):
        settings = {"pram_part_weights": {"adversarial": 1.0}} if kind == "finetune" else {}
        stage = STAGES[kind](3, **settings)
        teachers = [network for network in stage._frozen if network is not stage._attacked.network]
        assert len(teachers) == (3 if kind == "finetune" else 1)
        before = [{name: value.clone() for name, value in network.state_dict().items()} for network in teachers]
        gradients(stage)
        for network, state in zip(teachers, before, strict=True):
            assert not network.training
            assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    ordinary = frozen_copy(network_of(1, seed=1))
    stage = RobustDistill(network_of(2), ordinary, **SETTINGS, pram_part_weights={"adversarial": 1.0})
    assert gradients(stage)


def test_the_network_is_attacked_as_it_is_in_eval_mode_and_left_as_it_was(monkeypatch):
    stage = teacher_stage()
    stage.train()
    seen = []
    original = InnerAttack.__call__

    def watched(attack, network, images, targets, **rest):
        with on_route(stage.network, "adversarial"):
            wanted = export_route(stage.network, "adversarial").eval()(images)
        torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-4)
        seen.append(len(images))
        return original(attack, network, images, targets, **rest)

    monkeypatch.setattr(InnerAttack, "__call__", watched)
    optimizer = stage.configure_optimizers()
    for batch in Batches(IMAGES, second_view=True).batches:
        optimizer.zero_grad()
        stage.loss(*batch)[0].backward()
        optimizer.step()
    assert seen == [IMAGES // 2] * 2
    assert all(module.training for module in stage.network.modules())
    assert all(parameter.requires_grad for parameter in stage.network.parameters())


def test_shared_shortcut_norms_take_all_parts_and_the_others_their_own():
    """One step on a ResNet: running means are 0.1 times the batch means of the passes, decayed by 0.9 with each."""
    torch.manual_seed(0)
    resnet = build_backbone("resnet8", classes=CLASSES, image_size=SIZE, width=2, channels=3)
    network = with_routes(linearize(resnet, (3, SIZE, SIZE)), ROUTES[2])
    stage = RobustClassifier(network, shared_shortcut_norms=True, **SETTINGS)
    block, passed = network.layer2[0], []
    block.shortcut[0].register_forward_hook(lambda _, __, output: passed.append(output.detach().mean((0, 2, 3))))
    stage.train()
    stage.loss(*BATCH)
    assert len(passed) == 3 and isinstance(block.bn1, RoutedBatchNorm) and len(passed[0]) == 4
    expected = 0.1 * (0.81 * passed[0] + 0.9 * passed[1] + passed[2])  # clean, AugMix, adversarial
    torch.testing.assert_close(block.shortcut[1].running_mean, expected)
    for route in ROUTES[2]:
        exported = export_route(network, route)
        assert torch.equal(exported.layer2[0].shortcut[1].running_mean, block.shortcut[1].running_mean)
        student = with_routes(resnet, ROUTES[2])
        student.load_state_dict(state_for(stage.weights(), student.state_dict()))
        with on_route(student.eval(), route):
            assert torch.equal(student(BATCH[0]), exported.eval()(BATCH[0]))
        assert stage.variants(stage.weights()).keys() == {"", "route-adversarial"}


# ---- a whole fit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("teacher", 2), ("search", 2), ("finetune", 3)])
def test_a_killed_training_goes_on_to_the_same_bits(kind, count, tmp_path):
    whole, resumed = killed_and_resumed(lambda *killed: used(STAGES[kind](count), *killed), 1, tmp_path)
    names = {"train/loss", "train/accuracy", "train/accuracy_adversarial", "train/cross_entropy_augmix", "val/robust"}
    assert names <= whole.history[0].keys()
    if kind == "finetune":
        assert {"train/pram", "train/pram_augmix", "train/distillation_adversarial"} <= whole.history[0].keys()
    if kind == "search":
        snapshot = resumed.snapshot()
        assert snapshot.mask.count == BUDGET
        assert all(torch.equal(kept, whole.snapshot().mask[name]) for name, kept in snapshot.mask.items())


def test_routes_are_ordinary_networks_and_the_clean_one_is_validated(tmp_path):
    stage = fit_stage(used(teacher_stage(3, epochs=1, selection="last")), tmp_path)
    variants = stage.variants(stage.selected()[0])
    assert stage.variant_fractions == {"": 1.0, "route-augmix": 1.0, "route-adversarial": 1.0}
    assert list(variants) == list(stage.variant_fractions)
    images = BATCH[0]
    for name, route in zip(variants, ROUTES[3], strict=True):
        plain = network_of(1).to(memory_format=torch.channels_last)  # as the trained one
        plain.network.load_state_dict(variants[name])
        with on_route(stage.network.eval(), route):
            assert torch.equal(plain.eval()(images), stage.network(images))
    plain = export_route(stage.network, "clean").eval()
    right = sum(int((plain(images).argmax(1) == labels).sum()) for images, labels in HELD_OUT)
    assert stage.history[0]["val/accuracy"] == 100 * right / (2 * IMAGES)


def test_robust_validation_counts_the_first_images_and_repeats_itself():
    stage = used(teacher_stage(robust_validation={"steps": 2, "images": IMAGES + 5}))
    seen = []
    stage._attacked.network.register_forward_hook(lambda _, images, __: seen.append(len(images[0])))
    with torch.no_grad():
        stage.network.network.linear.bias[1] = 100.0  # one class always wins
    labels = torch.cat([labels for _, labels in HELD_OUT])[: IMAGES + 5]
    assert stage.robust_accuracy() == 100 * int((labels == 1).sum()) / len(labels) == stage.robust_accuracy()
    assert seen == ([IMAGES] * 3 + [5] * 3) * 2  # two steps and the verdict
    assert stage.robust_validation == {"steps": 2, "images": IMAGES + 5, "every": 1}


@pytest.mark.parametrize(
    ("select_by", "every", "chosen"), [("mean", 1, 1), ("clean", 1, 0), ("robust", 1, 2), ("mean", 2, 1)]
)
def test_what_the_best_epoch_is(monkeypatch, select_by, every, chosen):
    stage = used(teacher_stage(epochs=4, select_by=select_by, robust_validation={"every": every}))
    clean, robust = [90.0, 85.0, 70.0, 60.0], [10.0, 40.0, 50.0, 30.0]
    for epoch in range(4):
        monkeypatch.setattr(stage, "robust_accuracy", lambda epoch=epoch: robust[epoch])
        with torch.no_grad():
            stage.network.network.linear.bias.fill_(epoch)
        row = {"epoch": epoch, "val/accuracy": clean[epoch]}
        stage.close_epoch(row)
        assert ("val/robust" in row) == ((epoch + 1) % every == 0)
    weights, epoch = stage.selected()
    assert epoch == chosen and (weights["linear.bias"] == chosen).all()
    checkpoint = {}
    stage.on_save_checkpoint(checkpoint)
    resumed = used(teacher_stage(epochs=6, select_by=select_by))
    resumed.on_load_checkpoint(checkpoint)
    monkeypatch.setattr(resumed, "robust_accuracy", lambda: 5.0)
    resumed.close_epoch({"epoch": 4, "val/accuracy": 20.0})
    assert resumed.selected()[1] == chosen


def test_the_searchs_best_mask_belongs_to_the_best_epoch(monkeypatch):
    stage = used(search_stage(epochs=3, selection="best"))
    masks = []
    for epoch, (clean, robust) in enumerate([(50.0, 10.0), (45.0, 30.0), (60.0, 5.0)]):
        stage.put_on(stage.first_mask(epoch))
        masks.append(dict(stage.mask))
        monkeypatch.setattr(stage, "robust_accuracy", lambda robust=robust: robust)
        stage.close_epoch({"epoch": epoch, "val/accuracy": clean})
    mask = stage.snapshot().mask
    assert all(torch.equal(kept, masks[1][name]) for name, kept in mask.items())
    assert any(not torch.equal(kept, masks[2][name]) for name, kept in mask.items())


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: teacher_stage(second_view="mixup"), "method.teacher.second_view=mixup is unknown; valid: augmix"),
        (lambda: teacher_stage(split="half"), "method.teacher.split=half is unknown; valid: shares, full"),
        (lambda: search_stage(select_by="auto"), "method.search.select_by=auto is unknown; valid: mean, clean, robust"),
        (lambda: teacher_stage(3, second_view=None), "method.teacher.part_weights: no part in use trains route augmix"),
        (lambda: teacher_stage(part_weights={"adversarial": 0}), "trains route adversarial"),
        (lambda: search_stage(part_weights={"clean": 0}), "method.search.part_weights.clean=0, but the search ranks"),
        (lambda: teacher_stage(batch_size=15), "method.teacher.batch_size=15 is split among 2 routes; give at least"),
        (lambda: teacher_stage(3, batch_size=20), "split among 3 routes; give at least 24"),
        (lambda: finetune_stage(attack={"steps": 0}), "method.finetune.attack.steps=0"),
        (lambda: teacher_stage(robust_validation={"n": 5}), "robust_validation.n is unknown; valid: steps, images"),
        (lambda: teacher_stage(robust_validation={"every": 0}), "robust_validation.every=0: must be an integer"),
        (lambda: teacher_stage(robust_validation={"images": 0}), "leaves nothing for method.teacher.select_by=mean"),
        (lambda: teacher_stage(trades_weight=6.0), "method.teacher.trades_weight=6.0 compares two outputs"),
        (lambda: teacher_stage(1, trades_weight=6.0, part_weights={"augmix": 0, "adversarial": 0.5}), "divergence has"),
        (lambda: teacher_stage(attack={"loss": "kl"}), "attack.loss=kl needs method.teacher.trades_weight"),
        (lambda: teacher_stage(trades_temperature=0), "method.teacher.trades_temperature=0: must be a number > 0"),
        (lambda: teacher_stage(attack_order="both"), "method.teacher.attack_order=both is unknown; valid: first, last"),
        (lambda: teacher_stage(shared_shortcut_norms=True), "method.teacher.shared_shortcut_norms=true is for the pro"),
        (lambda: finetune_stage(pram_part_weights={"noise": 1.0}), "pram_part_weights.noise is unknown"),
        (lambda: finetune_stage(pram_part_weights={"clean": -1}), "pram_part_weights.clean=-1 is no weight"),
    ],
)  # fmt: skip
def test_refusals(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_official_choices_and_what_needs_no_robust_validation():
    stage = search_stage(paper_parity=True)
    found = (stage.select_by, stage.attack_order, stage.selection, stage.schedule, stage.mismatch.measure)
    assert found == ("clean", "last", "test", "constant", "activation")
    stage = used(teacher_stage(robust_validation={"images": 0}, select_by="clean"))
    row = {"epoch": 0, "val/accuracy": 10.0}
    stage.close_epoch(row)
    assert "val/robust" not in row and stage.selected()[1] == 0


def test_a_batch_without_the_second_view_is_refused():
    with pytest.raises(ValueError, match="second_view"):
        teacher_stage().loss(*BATCH[:2])


# ---- compiled --------------------------------------------------------------------------------------------------------


# Compiling takes seconds: one by default, which has both a teacher and routes.
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in STAGES if kind != "search"), "search"]
)
def test_a_compiled_stage_makes_few_graphs_and_the_same_losses(kind):
    """One per route and use, none for the odd sizes of last batches and none for validation: each takes the compiler
    half a minute. The stance is that of train()."""

    def steps(compiled):
        stage = STAGES[kind](3, batch_size=24)
        stage.batch_size = IMAGES  # a whole batch here; the stage would not take so few
        stage.train()
        for network in (stage.network, *stage._frozen) if compiled else ():
            network.compile(backend="eager")
        stage.use(train_loader=None, validation_loader=HELD_OUT, precision="32", seed=3)
        step = LightningStage(stage).training_step
        with torch.compiler.set_stance("force_eager"):
            losses = [step([part[:size] for part in BATCH], 0) for size in (IMAGES, 9, IMAGES)]
            robust = stage.robust_accuracy()
        sums = list(stage.mismatch.sums.values()) if kind == "search" else []
        return [*losses, torch.tensor(robust), *sums]

    wanted = steps(compiled=False)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    for one, other in zip(wanted, steps(compiled=True), strict=True):
        torch.testing.assert_close(one, other)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == {"teacher": 4, "search": 6, "finetune": 6}[kind]
