"""Gradient-masking checks, which every robust evaluation should pass (Athalye et al. 2018).

An accuracy under attack is worth as much as the attack. Masked gradients, a saturated loss, probabilities taken for
logits or a wrong adapter fail one of these checks, which compare two attacks whose order is known or test what holds
for any network (network_checks.py). A failed check is no proof of a mistake, but the numbers of that network should
not be published before it is understood.

All take pixels N x C x H x W in [0, 1] and labels N; `epsilon` is in pixels times 255. Accuracies are percentages of
all images, and an image counts only if it is classified correctly without the attack, too.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relinearize.robustness.attack import pgd
from relinearize.robustness.attacks import FGSM, LEAST_RADIUS, PGD, logits_of
from relinearize.robustness.fixed_point import FRACTION_BITS, fixed_point
from relinearize.robustness.network_checks import (
    Check,
    determinism,
    logits_not_probabilities,
    random_state,
    threat_model,
    zero_gradients,
)
from relinearize.robustness.robust_accuracy import Attack, robust_accuracy
from relinearize.robustness.third_party import Square

STEPS = 20
STEP_SHARE = 4  # the step size is epsilon / 4: 2/255 at 8/255
QUERIES = 1000
FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # of epsilon, for the sweep; at 8/255 from 1/255 to 64/255
FATAL_RADIUS = 64.0  # in a ball of a quarter of the range of pixels any image can be made another


def attacked_accuracy(network: nn.Module, images: Tensor, labels: Tensor, attack: Attack, seed: int) -> float:
    """Percent of the images that are classified correctly both without and under `attack`."""
    return robust_accuracy(network, [(images, labels)], attack, seed).robust_percent


def usual_pgd(epsilon: float, **settings) -> PGD:
    """The white-box attack that the others are compared with: PGD-20 on the cross-entropy."""
    return PGD(**{"epsilon": epsilon, "step_size": max(LEAST_RADIUS, epsilon / STEP_SHARE), "steps": STEPS, **settings})


def slack(images: Tensor) -> float:
    """Points of accuracy by which the order of two attacks may be wrong: one, or one image where that is more."""
    return max(1.0, 100.0 / len(images)) + 1e-4


def sweep_radii(epsilon: float) -> list[float]:
    """Around `epsilon`, without those too small for an attack, up to at least one that no image should survive."""
    radii = {min(255.0, factor * epsilon) for factor in FACTORS}
    return sorted(radius for radius in {*radii, max(FATAL_RADIUS, *radii)} if radius >= LEAST_RADIUS)


def epsilon_sweep(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0) -> Check:
    """PGD-20 at radii around `epsilon`: accuracy falls, to almost nothing at the largest.

    Who survives there was not attacked.
    """
    radii = sweep_radii(epsilon)
    found = {radius: attacked_accuracy(network, images, labels, usual_pgd(radius), seed) for radius in radii}
    values, allowed = list(found.values()), slack(images)
    falls = all(larger <= smaller + allowed for smaller, larger in pairwise(values))
    ends = values[-1] <= 2 * allowed
    largest = f"{max(found):g}/255"
    message = f"{'falls' if falls else 'does not fall'} with epsilon, to {values[-1]:.1f} % at {largest}"
    return Check("epsilon sweep", falls and ends, {f"{key:g}": value for key, value in found.items()}, message)


def more_steps(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 8,
    seed: int = 0,
    steps: Sequence[int] = (7, 10, 20, 50, 100),
) -> Check:
    """FGSM and longer and longer PGD: accuracy does not rise, the mean loss does not fall.

    One PGD of the most steps, looked at on its way: a shorter one from the same start is its beginning.
    """
    numbers, accuracies, means = {}, [], []

    def look(name: str, attacked: Tensor) -> None:
        logits = logits_of(network, attacked).float()
        right = clean & (logits.argmax(1) == labels)
        accuracies.append(100 * right.float().mean().item())
        means.append(F.cross_entropy(logits, labels).item())
        numbers.update({name: accuracies[-1], f"loss {name}": means[-1]})

    with torch.autocast(images.device.type, enabled=False):
        clean = logits_of(network, images).argmax(1) == labels
        look("1", FGSM(epsilon)(network, images, labels, seed))
        usual = usual_pgd(epsilon)
        radii = {"epsilon": epsilon / 255, "step_size": usual.step_size / 255}
        generator = torch.Generator(images.device).manual_seed(seed)
        found, done = None, 0
        for count in steps:
            found = pgd(network, images, labels, steps=count - done, start=found, generator=generator, **radii)
            look(str(count), found)
            done = count
    allowed = slack(images)
    falls = all(later <= former + allowed for former, later in pairwise(accuracies))
    rises = all(later >= 0.99 * former - 1e-3 for former, later in pairwise(means))
    message = (
        f"accuracy {'does not rise' if falls else 'rises'}, loss {'does not fall' if rises else 'falls'} with steps: "
        f"{accuracies[0]:.1f} % after 1, {accuracies[-1]:.1f} % after {steps[-1]}"
    )
    return Check("steps", falls and rises, numbers, message)


def iterative_beats_single_step(
    network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0
) -> Check:
    """PGD-20 leaves no more than FGSM."""
    single = attacked_accuracy(network, images, labels, FGSM(epsilon), seed)
    many = attacked_accuracy(network, images, labels, usual_pgd(epsilon), seed)
    passed = many <= single + slack(images)
    message = f"PGD-{STEPS} leaves {many:.1f} %, FGSM {single:.1f} %"
    return Check("single step", passed, {"fgsm": single, "pgd": many}, message)


def black_box(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 8,
    seed: int = 0,
    queries: int = QUERIES,
) -> Check:
    """Square, which sees no gradient, leaves no less than PGD-20; else gradients are masked."""
    white = attacked_accuracy(network, images, labels, usual_pgd(epsilon), seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what AutoAttack's flags say has checks of its own here
        black = attacked_accuracy(network, images, labels, Square(epsilon, queries), seed)
    passed = black >= white - slack(images)
    message = f"Square with {queries:,} queries leaves {black:.1f} %, PGD-{STEPS} {white:.1f} %"
    return Check("black box", passed, {"square": black, "pgd": white}, message)


def other_loss(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0) -> Check:
    """PGD-20 on the margin is at most 2 points stronger than on the cross-entropy; else the lower counts."""
    ce, margin = (
        attacked_accuracy(network, images, labels, usual_pgd(epsilon, losses=(loss,)), seed)
        for loss in ("ce", "margin")
    )
    passed = margin >= ce - max(2.0, slack(images)) - 1e-4
    message = f"PGD-{STEPS} leaves {ce:.1f} % with the cross-entropy, {margin:.1f} % with the margin"
    return Check("other loss", passed, {"ce": ce, "margin": margin}, message + ("" if passed else "; take the lower"))


def more_restarts(
    network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0, restarts: int = 5
) -> Check:
    """Several random starts change less than a point; else the loss surface is rough and one start says little."""
    once, often = (
        attacked_accuracy(network, images, labels, usual_pgd(epsilon, restarts=count), seed) for count in (1, restarts)
    )
    passed = once - often <= slack(images)
    message = f"PGD-{STEPS} leaves {once:.1f} % from one start, {often:.1f} % from {restarts}"
    return Check("restarts", passed, {"1": once, str(restarts): often}, message)


def transfer(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    others: Mapping[str, nn.Module],
    *,
    epsilon: float = 8,
    seed: int = 0,
) -> Check:
    """PGD-20 made on other networks (another route, the all-ReLU teacher) leaves no less than made on this one."""
    white = attacked_accuracy(network, images, labels, usual_pgd(epsilon), seed)
    attack = usual_pgd(epsilon, early_stop=False)  # what just fools the other network transfers badly
    numbers = {"own": white}
    for name, other in others.items():

        def from_other(_: nn.Module, images: Tensor, labels: Tensor, seed: int, other: nn.Module = other) -> Tensor:
            return attack(other, images, labels, seed)

        numbers[name] = attacked_accuracy(network, images, labels, from_other, seed)
    strongest = min(numbers, key=numbers.get)
    passed = numbers[strongest] >= white - slack(images)
    message = f"PGD-{STEPS} leaves {white:.1f} % made on this network; made on " + ", ".join(
        f"{name} {value:.1f} %" for name, value in numbers.items() if name != "own"
    )
    return Check("transfer", passed, numbers, message)


def deployed_arithmetic(
    network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0, bits: int = FRACTION_BITS
) -> Check:
    """In fixed-point arithmetic, as private inference has it, PGD-20 made on the float network leaves as much.

    At most 2 points less or more; so does the accuracy without an attack.
    """
    rounded = fixed_point(network, bits)
    with torch.autocast(images.device.type, enabled=False):
        attacked = usual_pgd(epsilon)(network, images, labels, seed)
        right = {
            name: (logits_of(one, images).argmax(1) == labels, logits_of(one, attacked).argmax(1) == labels)
            for name, one in (("float", network), ("fixed", rounded))
        }
    percent = {
        name: (100 * clean.float().mean().item(), 100 * (clean & robust).float().mean().item())
        for name, (clean, robust) in right.items()
    }
    allowed = max(2.0, slack(images)) + 1e-4
    passed = all(
        abs(fixed - float_) <= allowed for fixed, float_ in zip(percent["fixed"], percent["float"], strict=True)
    )
    (float_clean, float_robust), (fixed_clean, fixed_robust) = percent["float"], percent["fixed"]
    message = (
        f"with {bits} fractional bits {fixed_clean:.1f} % right and {fixed_robust:.1f} % after PGD-{STEPS}, "
        f"in float {float_clean:.1f} % and {float_robust:.1f} %"
    )
    numbers = {"clean": fixed_clean, "pgd": fixed_robust, "float clean": float_clean, "float pgd": float_robust}
    return Check("fixed point", passed, numbers, message)


# Those that need nothing but a network, images and labels, the cheap ones first.
CHECKS: dict[str, Callable[..., Check]] = {
    "logits": logits_not_probabilities,
    "determinism": determinism,
    "random state": random_state,
    "threat model": threat_model,
    "zero gradients": zero_gradients,
    "single step": iterative_beats_single_step,
    "other loss": other_loss,
    "fixed point": deployed_arithmetic,
    "restarts": more_restarts,
    "epsilon sweep": epsilon_sweep,
    "steps": more_steps,
    "black box": black_box,
}
