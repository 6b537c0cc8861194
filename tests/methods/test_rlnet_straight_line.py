"""Two steps of each of RLNet's stages against reference.py, in float64, with one, two and three routes."""

import math
from pathlib import Path

import pytest
import reference
import torch
from omegaconf import OmegaConf
from reference import SmallNetwork, compare, state_of
from torch import nn
from toy_networks import with_statistics

from relinearize.backbones.routes import ROUTES, on_route, routes_of, with_routes
from relinearize.methods.rlnet.distill import RobustDistill
from relinearize.methods.rlnet.search import RLNetSearch
from relinearize.methods.rlnet.teacher import RobustClassifier
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, to_masked

SIZE, CLASSES, IMAGES = 6, 3, 12
STEPS, PGD_STEPS = 2, 2
ATTACK = {"steps": PGD_STEPS, "random_start": False}
SETTINGS = {"epochs": 1, "batch_size": 24, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
ETA = {"relu1": 1.0, "relu2": 2.0}


def network_of(count, seed):
    """Routes that differ: affine and statistics of their own."""
    torch.manual_seed(seed)
    network = linearize(SmallNetwork(2, 4, 5), (2, SIZE, SIZE)).double()
    if count > 1:
        network = with_routes(network, ROUTES[count])
    with_statistics(network)
    nn.init.normal_(network.linear.weight)
    return network


def batches():
    torch.manual_seed(6)
    pixels = (2, SIZE, SIZE)
    return [
        (torch.rand(IMAGES, *pixels).double(), torch.randint(CLASSES, (IMAGES,)), torch.rand(IMAGES, *pixels).double())
        for _ in range(STEPS)
    ]


def rows(count, split):
    """(rows, route) of the clean, AugMix and adversarial part, as in the official code; one route has no name."""
    everything = slice(0, IMAGES)
    if count == 1:
        return [(everything, None)] * 3
    routes = ("clean", "clean" if count == 2 else "augmix", "adversarial")
    half, third = IMAGES // 2, IMAGES // 3
    shares = {
        2: (slice(0, half), slice(0, half), slice(half, IMAGES)),
        3: (slice(0, third), slice(third, 2 * third), slice(2 * third, IMAGES)),
    }[count]
    return list(zip([everything] * 3 if split == "full" else shares, routes, strict=True))


def run(stage, state, expected_loss):
    """The steps of `stage`, each compared with the reference: its loss, then all weights and statistics."""
    stage.train()
    optimizer, ours = stage.configure_optimizers(), reference.SGD(0.05, 5e-4)
    for batch in batches():
        optimizer.zero_grad()
        loss, metrics = stage.loss(*batch)
        loss.backward()
        optimizer.step()
        expected = expected_loss(*batch)
        torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-9, atol=1e-10)
        ours.step(state, expected)
        compare(stage.network, state)
        assert all(not value.requires_grad for value in metrics.values())


CASES = [(1, "shares"), (2, "shares"), (3, "shares"), (2, "full"), (3, "full")]


@pytest.mark.parametrize(("count", "split"), CASES)
def test_teacher(count, split):
    network = network_of(count, seed=1)
    state = state_of(network)
    full = [torch.ones_like(site.mask) for site in named_sites(network).values()]
    weights = {"clean": 1.0, "augmix": 0.5, "adversarial": 2.0}
    stage = RobustClassifier(network, attack=ATTACK, split=split, part_weights=weights, **SETTINGS)

    def loss(images, labels, augmix):
        (clean, on_clean), (mixed, on_mixed), (hit, on_hit) = rows(count, split)
        adversarial = reference.attacked(
            images[hit], state, full, on_hit, PGD_STEPS, lambda logits: reference.cross_entropy(logits, labels[hit])
        )
        terms = [
            reference.cross_entropy(reference.forward(shown, state, full, route, train=True)[0], labels[part])
            for shown, route, part in (
                (images[clean], on_clean, clean),
                (augmix[mixed], on_mixed, mixed),
                (adversarial, on_hit, hit),
            )
        ]
        return (terms[0] + 0.5 * terms[1] + 2.0 * terms[2]) / 3

    run(stage, state, loss)


def test_teacher_without_augmix_is_half_clean_half_adversarial():
    network = network_of(2, seed=1)
    state = state_of(network)
    full = [torch.ones_like(site.mask) for site in named_sites(network).values()]
    stage = RobustClassifier(network, attack=ATTACK, second_view=None, **SETTINGS)
    half = IMAGES // 2

    def loss(images, labels):
        adversarial = reference.attacked(
            images[half:],
            state,
            full,
            "adversarial",
            PGD_STEPS,
            lambda logits: reference.cross_entropy(logits, labels[half:]),
        )
        clean, _ = reference.forward(images[:half], state, full, "clean", train=True)
        hit, _ = reference.forward(adversarial, state, full, "adversarial", train=True)
        return 0.5 * reference.cross_entropy(clean, labels[:half]) + 0.5 * reference.cross_entropy(hit, labels[half:])

    run(stage, state, lambda images, labels, augmix: loss(images, labels))


def test_trades():
    """One route: cross-entropy on the clean images, and KL between the two answers, both with gradients."""
    network = network_of(1, seed=1)
    state = state_of(network)
    full = [torch.ones_like(site.mask) for site in named_sites(network).values()]
    stage = RobustClassifier(
        network, attack={"loss": "kl", "epsilon": 16}, second_view=None, trades_weight=6.0, **SETTINGS
    )
    shown = {}
    original = stage.shown

    def recorded(part, *batch):
        shown[part.name] = original(part, *batch)
        return shown[part.name]

    stage.shown = recorded  # the attack has a random start: at the images themselves this loss has no slope

    def loss(images, labels, augmix):
        assert torch.equal(shown["clean"], images)
        moved = (shown["adversarial"] - images).abs().amax((1, 2, 3))
        assert (moved <= 16 / 255 + 1e-9).all() and (moved > 15 / 255).all()
        clean, _ = reference.forward(images, state, full, None, train=True)
        hit, _ = reference.forward(shown["adversarial"], state, full, None, train=True)
        return reference.cross_entropy(clean, labels) + 6.0 * reference.divergence(hit, clean, temperature=1.0)

    run(stage, state, loss)


@pytest.mark.parametrize("trades_weight", [1.0, 6.0])
def test_the_released_codes_trades(trades_weight):
    """lambda times 16 KL at T = 4, both outputs in train mode; so are those that the attack leads away from, and it
    sees the batch norms as the clean pass left them."""
    three_to_one, even = torch.tensor([[4 * math.log(3), 0.0]]).double(), torch.zeros(1, 2).double()
    by_hand = 16 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert reference.divergence(even, three_to_one).item() == pytest.approx(by_hand)
    network = network_of(1, seed=1)
    state = state_of(network)
    full = [torch.ones_like(site.mask) for site in named_sites(network).values()]
    settings = {"trades_weight": trades_weight, "trades_temperature": 4.0, "attack_order": "last"}
    stage = RobustClassifier(network, attack=ATTACK | {"loss": "kl"}, second_view=None, **settings, **SETTINGS)

    def loss(images, labels, augmix):
        clean, _ = reference.forward(images, state, full, None, train=True)
        away = clean.detach()
        adversarial = reference.attacked(
            images, state, full, None, PGD_STEPS, lambda logits: reference.divergence(logits, away)
        )
        hit, _ = reference.forward(adversarial, state, full, None, train=True)
        return reference.cross_entropy(clean, labels) + trades_weight * reference.divergence(hit, clean)

    run(stage, state, loss)


def student_and_teacher(count, share=0.4):
    student, teacher = network_of(count, seed=1), network_of(count, seed=2)
    to_masked(student, Mask({name: torch.rand(site.mask.shape) < share for name, site in named_sites(student).items()}))
    if count == 1:
        return student, teacher
    assert routes_of(student) == ROUTES[count]
    return student, teacher.requires_grad_(False).eval()


def soft_labels(teacher_state, images, count):
    with torch.no_grad():
        full = [torch.ones(4, SIZE, SIZE).bool(), torch.ones(5, 2, 2).bool()]
        route = None if count == 1 else "clean"
        return reference.forward(images, teacher_state, full, route, train=False)


def three_answers(images, labels, augmix, state, masks, wanted, count, split, attack_loss, order="first"):
    """[(rows, images shown, logits, sites)] of the three parts; `order`: whether the attack comes before all passes."""
    (clean, on_clean), (mixed, on_mixed), (hit, on_hit) = rows(count, split)
    loss = {
        "kl": lambda logits: reference.divergence(logits, wanted[hit]),
        "ce": lambda logits: reference.cross_entropy(logits, labels[hit]),
    }[attack_loss]

    def attacked():
        return reference.attacked(images[hit], state, masks, on_hit, PGD_STEPS, loss)

    def answer(part, what, route):
        return (part, what, *reference.forward(what, state, masks, route, train=True))

    adversarial = attacked() if order == "first" else None
    answers = [answer(clean, images[clean], on_clean), answer(mixed, augmix[mixed], on_mixed)]
    return [*answers, answer(hit, attacked() if adversarial is None else adversarial, on_hit)]


def search(count, split, **settings):
    """The stage; a function of its loss's terms: lists (CE, KL) of the three parts; a check of all it summed up."""
    student, teacher = student_and_teacher(count)
    state, teacher_state = state_of(student), state_of(teacher)
    stage = RLNetSearch(
        student, teacher, sensitivities=ETA, budget=40, mismatch="activation", split=split, selection="last",
        **SETTINGS | settings,
    )  # fmt: skip
    stage.use(train_loader=None, validation_loader=None, precision="32", seed=11)
    stage.mismatch.sums = {name: total.double() for name, total in stage.mismatch.sums.items()}
    masks = [site.mask.clone() for site in named_sites(student).values()]
    assert sum(int(mask.sum()) for mask in masks) == 40
    mismatch = [torch.zeros(mask.shape).double() for mask in masks]

    def terms(images, labels, augmix):
        wanted, teacher_sites = soft_labels(teacher_state, images, count)
        order = settings.get("attack_order", "first")
        loss = settings["attack"]["loss"]
        answers = three_answers(images, labels, augmix, state, masks, wanted, count, split, loss, order)
        clean = answers[0][0]
        for total, ours, theirs in zip(mismatch, answers[0][3], teacher_sites, strict=True):
            total += (theirs[clean] - ours.detach()).abs().sum(0)
        return (
            [reference.cross_entropy(logits, labels[part]) for part, _, logits, _ in answers],
            [reference.divergence(logits, wanted[part]) for part, _, logits, _ in answers],
        )

    def compare_sums():
        compare(teacher, teacher_state)
        for total, found in zip(mismatch, stage.mismatch.sums.values(), strict=True):
            assert torch.allclose(total, found, rtol=0, atol=1e-10)

    return stage, state, terms, compare_sums


@pytest.mark.parametrize("attack_loss", ["kl", "ce"])
@pytest.mark.parametrize(("count", "split", "order"), [*((*case, "first") for case in CASES), (1, "shares", "last")])
def test_search(count, split, order, attack_loss):
    weights = {"cross_entropy_weight": 0.3, "distillation_weight": 0.7, "attack_order": order}
    stage, state, terms, compare_sums = search(count, split, attack=ATTACK | {"loss": attack_loss}, **weights)

    def loss(*batch):
        entropies, divergences = terms(*batch)
        return 0.3 * sum(entropies) / 3 + 0.7 * sum(divergences) / 3

    run(stage, state, loss)
    compare_sums()


# Mode of the official code -> our settings, and its own formula of the three parts' CE, KL (and AT).
SEARCH_MODES = {
    "rslad": (
        {"cross_entropy_weight": 0.0, "distillation_weight": 1.0, "attack": ATTACK | {"loss": "kl"}},
        lambda ce, kl: (kl[0] + kl[1] + kl[2]) / 3,
    ),
    "rslad+ce": (
        {"attack": ATTACK | {"loss": "kl"}},
        lambda ce, kl: 0.5 * (ce[0] + ce[1] + ce[2]) / 3 + 0.5 * (kl[0] + kl[1] + kl[2]) / 3,
    ),
    "pgd": (
        {"cross_entropy_weight": 1.0, "distillation_weight": 0.0, "attack": ATTACK | {"loss": "ce"}},
        lambda ce, kl: (ce[0] + ce[1] + ce[2]) / 3,
    ),
}


def defaults_of(stage):
    """The weights in our config file."""
    settings = OmegaConf.load(Path(__file__).parents[2] / "conf" / "method" / stage / "rlnet.yaml")
    names = ("cross_entropy_weight", "distillation_weight", "pram_weight", "pram_part_weights")
    return {name: OmegaConf.to_container(settings)[name] for name in names if name in settings}


@pytest.mark.parametrize("mode", SEARCH_MODES)
def test_official_modes_of_the_search(mode):
    settings, formula = SEARCH_MODES[mode]
    stage, state, terms, compare_sums = search(2, "shares", **defaults_of("search") | settings)
    run(stage, state, lambda *batch: formula(*terms(*batch)))
    compare_sums()


def finetune(count, split, **settings):
    """The stage; a function of its loss's terms: lists (CE, KL, AT) of the three parts; a check of what stays."""
    student, teacher = student_and_teacher(count)
    state, teacher_state = state_of(student), state_of(teacher)
    masks = [site.mask.clone() for site in named_sites(student).values()]
    full = [torch.ones_like(mask) for mask in masks]
    stage = RobustDistill(student, teacher, sites="all", split=split, **SETTINGS | settings)
    attack_loss = settings["attack"].get("loss", "kl")

    def terms(images, labels, augmix):
        wanted, _ = soft_labels(teacher_state, images, count)
        answers = three_answers(images, labels, augmix, state, masks, wanted, count, split, attack_loss)
        distances = []
        for (_, shown, _, sites), (_, route) in zip(answers, rows(count, split), strict=True):
            with torch.no_grad():
                _, teacher_sites = reference.forward(shown, teacher_state, full, route, train=False)
            distances.append(reference.attention(sites, teacher_sites))
        return (
            [reference.cross_entropy(logits, labels[part]) for part, _, logits, _ in answers],
            [reference.divergence(logits, wanted[part]) for part, _, logits, _ in answers],
            distances,
        )

    def compare_rest():
        compare(teacher, teacher_state)
        with on_route(stage.network, "clean"):
            found = [site.mask for site in named_sites(student).values()]
            assert all(torch.equal(one, mask) for one, mask in zip(found, masks, strict=True))

    return stage, state, terms, compare_rest


@pytest.mark.parametrize("with_adversarial", [False, True])
@pytest.mark.parametrize(("count", "split"), CASES)
def test_finetune(count, split, with_adversarial):
    weights = {"cross_entropy_weight": 0.5, "distillation_weight": 0.4, "pram_weight": 20.0}
    part_weights = {"adversarial": 1.0 if with_adversarial else 0.0}
    stage, state, terms, compare_rest = finetune(count, split, attack=ATTACK, pram_part_weights=part_weights, **weights)

    def loss(*batch):
        entropies, divergences, distances = terms(*batch)
        mean = sum(distances) / 3 if with_adversarial else sum(distances[:2]) / 2
        return 0.5 * sum(entropies) / 3 + 0.4 * sum(divergences) / 3 + 20.0 * mean

    run(stage, state, loss)
    compare_rest()


WITHOUT_CE = {"cross_entropy_weight": 0.0, "distillation_weight": 1.0}
FINETUNE_MODES = {
    "rslad": ({**WITHOUT_CE, "pram_weight": 0.0}, lambda ce, kl, at: (kl[0] + kl[1] + kl[2]) / 3),
    "rslad+attn": (
        {**WITHOUT_CE, "pram_part_weights": {"augmix": 0.0}},
        lambda ce, kl, at: (kl[0] + kl[1] + kl[2]) / 3 + 1000 * at[0],
    ),
    "rslad+attn+augattn": (WITHOUT_CE, lambda ce, kl, at: (kl[0] + kl[1] + kl[2]) / 3 + 1000 * (at[0] + at[1]) / 2),
    "rslad+attn+augattn+advattn": (
        {**WITHOUT_CE, "pram_part_weights": {"adversarial": 1.0}},
        lambda ce, kl, at: (kl[0] + kl[1] + kl[2]) / 3 + 1000 * (at[0] + at[1] + at[2]) / 3,
    ),
    "rslad+attn+augattn+ce": (
        {},
        lambda ce, kl, at: 0.5 * (sum(ce) / 3 + sum(kl) / 3) + 1000 * (at[0] + at[1]) / 2,
    ),
    "rslad+attn+augattn+advattn+ce": (
        {"pram_part_weights": {"adversarial": 1.0}},
        lambda ce, kl, at: 0.5 * (sum(ce) / 3 + sum(kl) / 3) + 1000 * (at[0] + at[1] + at[2]) / 3,
    ),
    "pgd": (
        {
            "cross_entropy_weight": 1.0,
            "distillation_weight": 0.0,
            "pram_weight": 0.0,
            "attack": ATTACK | {"loss": "ce"},
        },
        lambda ce, kl, at: (ce[0] + ce[1] + ce[2]) / 3,
    ),
}


@pytest.mark.parametrize("mode", FINETUNE_MODES)
def test_official_modes_of_the_finetuning(mode):
    settings, formula = FINETUNE_MODES[mode]
    stage, state, terms, compare_rest = finetune(
        2, "shares", **{"attack": ATTACK, **defaults_of("finetune"), **settings}
    )
    run(stage, state, lambda *batch: formula(*terms(*batch)))
    compare_rest()
