"""SENet's mask search: one epoch against the formulas in float64, its choices of masks, its stops and its state."""

import copy
from types import SimpleNamespace

import pytest
import reference
import torch
from reference import SmallNetwork, compare, state_of
from test_methods_straight_line import run_steps

from relinearize.backbones import BACKBONES, build_backbone
from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.senet.mismatch import Mismatch, add_mismatch
from relinearize.methods.senet.search import SENetSearch, hamming_distance, site_distances, spatial_mask, strict_mask
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, site_shapes, to_masked

SETTINGS = {"epochs": 4, "batch_size": 6, "learning_rate": 0.1, "selection": "last", "weight_decay": 5e-4}
ETA = {"relu1": 1.0, "relu2": 2.0}


def search(student, teacher, budget=30, **settings):
    stage = SENetSearch(student, teacher, sensitivities=ETA, budget=budget, **SETTINGS | settings)
    stage.use(train_loader=None, validation_loader=None, precision="32", seed=11)
    return stage


@pytest.mark.parametrize("measure", ["linear", "activation"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_search_epoch_equals_the_formulas(networks, batches, layout, measure):
    """Weights, batch-norm statistics, summed mismatch and the new mask of three steps of SGD."""
    student, teacher = networks
    state, teacher_state = state_of(student), state_of(teacher)
    weights = (0.3, 0.7)
    stage = search(student, teacher, cross_entropy_weight=weights[0], distillation_weight=weights[1], mismatch=measure)
    assert stage.counts == {"relu1": 18, "relu2": 12}, "relu2 has 12, not the 20 of its share"
    masks = [site.mask.clone() for site in named_sites(student).values()]
    assert [int(mask.sum()) for mask in masks] == list(stage.counts.values())
    stage.mismatch.sums = {name: total.double() for name, total in stage.mismatch.sums.items()}
    run_steps(stage, [(images.contiguous(memory_format=layout), labels) for images, labels in batches])

    mismatch = [torch.zeros(mask.shape, dtype=torch.float64) for mask in masks]
    ones = [torch.ones_like(mask) for mask in masks]
    sgd = reference.SGD(0.1, 5e-4)
    for images, labels in batches:
        before = []
        logits, after = reference.forward(images, state, masks, train=True, before=before)
        wanted, theirs = reference.forward(images, teacher_state, ones, train=False)
        ours = before if measure == "linear" else after
        for total, one, other in zip(mismatch, ours, theirs, strict=True):
            total += (other - one.detach()).abs().sum(0)
        terms = reference.cross_entropy(logits, labels), reference.divergence(logits, wanted)
        sgd.step(state, weights[0] * terms[0] + weights[1] * terms[1])
    compare(student, state)
    compare(teacher, teacher_state)
    for total, found in zip(mismatch, stage.mismatch.sums.values(), strict=True):
        assert torch.allclose(total, found, rtol=0, atol=1e-10)

    former = stage.mask
    stage.segment_end(last_of_epoch=True)
    changed = 0
    for total, (name, site), old in zip(mismatch, named_sites(student).items(), masks, strict=True):
        kept = total.flatten().argsort(descending=True)[: stage.counts[name]]
        expected = torch.zeros(total.numel(), dtype=torch.bool)
        expected[kept] = True
        assert torch.equal(site.mask.flatten(), expected)
        changed += int((expected.view(old.shape) != old).sum())
    assert stage.distance == changed / 60 == hamming_distance(former, stage.mask) > 0, "30 of each mask"
    assert all(not total.any() for total in stage.mismatch.sums.values())


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.parametrize("folded", [False, True])
def test_student_of_ones_with_the_teachers_weights_is_the_teacher(name, folded):
    """Exactly, with the teacher as it is; up to rounding with the folded copy. The mismatch is nothing, too."""
    torch.manual_seed(0)
    size = 16
    network = linearize(
        build_backbone(name, classes=4, image_size=size, width=2 if name == "wrn22_8" else 8), (3, size, size)
    )
    network.train()
    images = torch.rand(4, 3, size, size)
    network(images)  # batch-norm statistics that are not the initial ones
    student = copy.deepcopy(network).eval()
    to_masked(student, Mask.full(student))
    teacher = frozen_copy(network) if folded else copy.deepcopy(network).eval()
    mismatch = Mismatch(student, teacher, site_shapes(student), "activation")
    logits, teacher_logits = mismatch.logits(images)
    worst = max(total.max().item() for total in mismatch.sums.values())
    if folded:
        assert torch.allclose(logits, teacher_logits, atol=1e-4) and worst < 1e-3
    else:
        assert torch.equal(logits, teacher_logits) and worst == 0


def test_mismatch_of_parts_and_layouts_is_one_sum():
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 3, 4, 5), torch.randn(7, 3, 4, 5)
    expected = (teacher.double() - student.double()).abs().sum(0).float()
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.2)):
            total = torch.zeros(3, 4, 5)
            for _ in range(2):
                add_mismatch(total, student.to(dtype).contiguous(memory_format=layout), teacher.to(dtype))
            assert total.dtype == torch.float32 and torch.allclose(total, 2 * expected, atol=tolerance)
    flat = torch.zeros(6)
    add_mismatch(flat, torch.ones(2, 6), torch.zeros(2, 6))
    assert flat.tolist() == [2.0] * 6


@pytest.mark.slow
def test_compiled_mismatch_equals_eager(without_code_generation, networks, batches):
    student, teacher = (network.float() for network in networks)
    shapes = site_shapes(student)
    pairs = [(copy.deepcopy(student), copy.deepcopy(teacher)) for _ in range(2)]
    sums = []
    for compiled, (ours, theirs) in zip((False, True), pairs, strict=True):
        mismatch = Mismatch(ours, theirs, shapes, "linear")
        if compiled:
            ours.compile()
            theirs.compile()
        for images, _ in batches:
            logits, _ = mismatch.logits(images.float())
            logits.sum().backward()
        sums.append(mismatch.sums)
    for name in shapes:
        assert torch.allclose(sums[0][name], sums[1][name], atol=1e-5), name
    for eager, found in zip(pairs[0][0].parameters(), pairs[1][0].parameters(), strict=True):
        assert torch.allclose(eager.grad, found.grad, atol=1e-4)


# ---- masks ---------------------------------------------------------------------------------------------------------


def test_first_mask_is_random_exact_and_a_function_of_the_seed(networks):
    stage = search(*networks)
    mask = stage.first_mask(3)
    assert mask.counts == stage.counts and mask == stage.first_mask(3) and mask != stage.first_mask(4)


def test_distance_is_one_between_masks_that_share_no_relu_and_counts_what_moved():
    """Of 4 kept positions among 104 one moves: 2 positions differ, of 8 that could."""
    first = {"a": torch.zeros(4, dtype=torch.bool), "b": torch.zeros(100, dtype=torch.bool)}
    first["a"][:2] = first["b"][:2] = True
    moved = {"a": first["a"], "b": torch.roll(first["b"], 1)}
    other = {"a": ~first["a"], "b": torch.roll(first["b"], 2)}
    first, moved, other = Mask(first), Mask(moved), Mask(other)
    assert [hamming_distance(first, mask) for mask in (first, moved, other)] == [0, 0.25, 1]
    assert site_distances(first, moved) == {"a": 0, "b": 0.5} and site_distances(first, other) == {"a": 1, "b": 1}
    empty = {"a": torch.zeros(4, dtype=torch.bool)}
    assert site_distances(Mask(empty), Mask(empty)) == {"a": 0}


def test_official_first_mask_is_alike_in_all_channels_and_met_in_expectation_only():
    shapes, counts = {"a": (4, 16, 16), "b": (2, 8, 8)}, {"a": 256, "b": 128}
    drawn = [spatial_mask(shapes, counts, torch.Generator().manual_seed(seed)) for seed in range(20)]
    for mask in drawn:
        assert all((kept == kept[:1]).all() for kept in mask.values()) and mask["b"].all()
    met = [mask.counts["a"] for mask in drawn]
    assert len(set(met)) > 5 and abs(sum(met) / len(met) - 256) < 40


def test_official_choice_keeps_one_less_and_fewer_among_ties():
    """SENet's official code keeps 127 of 128; a quarter of the map at zero and all asked: the zeros are lost."""
    scores = {"plain": torch.arange(256.0), "dead": torch.cat([torch.zeros(64), torch.arange(1.0, 193)])}
    assert strict_mask(scores, {"plain": 128, "dead": 256}).counts == {"plain": 127, "dead": 192}
    assert strict_mask(scores, {"plain": 0, "dead": 1}).counts == {"plain": 0, "dead": 0}


def test_channels_are_kept_whole_and_below_the_budget(networks, batches):
    """relu1 has 4 maps of 25, relu2 3 maps of 4 positions: 30 ReLUs are 1 map and 1 map, 29 of 30."""
    stage = search(*networks, granularity="channel")
    run_steps(stage, [(images, labels) for images, labels in batches])
    sums = {name: total.clone() for name, total in stage.mismatch.sums.items()}
    stage.segment_end(last_of_epoch=True)
    assert stage.mask.count <= 30 and stage.mask.count > 30 - 4
    for name, kept in stage.mask.items():
        whole = kept.flatten(1)
        assert (whole.all(1) == whole.any(1)).all()
        best = sums[name].double().flatten(1).mean(1).argsort(descending=True)[: stage.counts[name]]
        assert sorted(best.tolist()) == whole.all(1).nonzero().flatten().tolist()


def test_parity_sets_every_switch(networks):
    stage = search(*networks, paper_parity=True, schedule="milestones", milestones=(0.5,))
    assert (stage.initial_mask, stage.top, stage.start) == ("spatial", "strict", "scratch")
    assert (stage.schedule, stage.selection) == ("constant", "test")
    sound = search(*networks)
    assert (sound.initial_mask, sound.top, sound.start, sound.selection) == ("exact", "exact", "teacher", "last")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mismatch": "squared"}, "method.search.mismatch=squared"),
        ({"granularity": "row"}, "method.search.granularity=row is unknown; valid: position, channel"),
        ({"top": "soft"}, "method.search.top=soft"),
        ({"initial_mask": "none"}, "method.search.initial_mask=none"),
        ({"start": "zero"}, "method.search.start=zero"),
        ({"stop_distance": 5}, "method.search.stop_distance=5"),
        ({"stop_patience": 0}, "method.search.stop_patience=0"),
        ({"granularity": "channel", "top": "strict"}, "give method.search.top=exact"),
        ({"granularity": "channel", "initial_mask": "spatial"}, "give method.search.initial_mask=exact"),
    ],
)
def test_wrong_settings_are_one_line(networks, settings, words):
    with pytest.raises(UserError, match=words):
        search(*networks, **settings)


def test_a_search_that_ends_before_its_first_candidate_leaves_what_it_has(networks):
    """RLNet's robust validation may be rare, and a callback may end the search before it."""
    stage = search(*networks, selection="best")
    stage.put_on(stage.first_mask(0))
    found = stage.snapshot()
    assert found.mask == stage.mask and found.weights.keys() == stage.weights().keys()
    assert stage.selected()[1] is None


# ---- the way of the search -----------------------------------------------------------------------------------------


def test_ends_when_masks_stay_near_each_other(networks, monkeypatch):
    """Three epochs in a row under the threshold; one above it starts the count again."""
    stage = search(*networks, stop_distance=0.1, stop_patience=3)
    stage._fabric = None
    trainer = SimpleNamespace(should_stop=False)
    monkeypatch.setattr(SENetSearch, "trainer", trainer)
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(shape, generator=generator) for name, shape in stage.shapes.items()}
    stops = []
    for epoch in range(8):
        if epoch in (0, 3):
            scores = {name: 1 - score for name, score in scores.items()}
        stage.mismatch.sums = {name: score.clone() for name, score in scores.items()}
        stage.segment_end(last_of_epoch=True)
        stops.append(trainer.should_stop)
    assert stops == [False] * 6 + [True] * 2


def test_state_goes_through_a_checkpoint(networks, batches):
    student, teacher = networks
    stage = search(copy.deepcopy(student), teacher)
    run_steps(stage, batches)
    stage.settled_epochs = 2
    stage.best = {"score": 50.0, "epoch": 0, "weights": stage.weights(), "mask": dict(stage.mask)}
    checkpoint = {}
    stage.on_save_checkpoint(checkpoint)
    other = search(copy.deepcopy(student), teacher)
    other.put_on(other.first_mask(99))
    other.on_load_checkpoint(checkpoint)
    assert other.mask == stage.mask == Mask.of(other.network) and other.settled_epochs == 2
    assert all(torch.equal(total, stage.mismatch.sums[name]) for name, total in other.mismatch.sums.items())
    assert Mask(other.best["mask"]) == stage.mask


def test_best_epoch_takes_its_mask_along(networks):
    stage = search(*networks, selection="best")
    for epoch, accuracy in enumerate((40.0, 60.0, 50.0)):
        stage.put_on(stage.first_mask(epoch))
        stage.close_epoch({"epoch": epoch, "val/accuracy": accuracy})
    assert stage.snapshot().mask == stage.first_mask(1) != stage.mask


def test_only_training_steps_are_measured():
    """Validation runs the same networks; it must not add to the mismatch."""
    torch.manual_seed(0)
    student, teacher = (linearize(SmallNetwork(2, 4, 3), (2, 5, 5)) for _ in range(2))
    mismatch = Mismatch(student, teacher, site_shapes(student))
    student(torch.rand(2, 2, 5, 5)), teacher(torch.rand(2, 2, 5, 5))
    assert not any(total.any() for total in mismatch.sums.values())
    mismatch.logits(torch.rand(2, 2, 5, 5))
    assert all(total.any() for total in mismatch.sums.values())
