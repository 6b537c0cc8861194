"""Gradient-masking checks, which every robust evaluation should pass (Athalye et al. 2018).

An accuracy under attack is worth as much as the attack. Masked gradients, a saturated loss, probabilities taken for
logits or a wrong adapter fail one of these checks, which test what holds for any network or compare two attacks whose
order is known. A failed check is no proof of a mistake, but the numbers of that network should not be published before
it is understood.

Accuracies are percentages of all images; an image counts only if it is classified correctly without the attack, too.
"""

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relinearize.errors import LEAST_RADIUS
from relinearize.robustness.attack import in_eval_mode, is_right
from relinearize.robustness.attacks import FGSM, PGD, attacked_batch, logits_of
from relinearize.robustness.fixed_point import FRACTION_BITS, fixed_point
from relinearize.robustness.third_party import Square

STEPS = 20
STEP_COUNTS = (7, 10, 20, 50, 100)
RESTARTS = 5
QUERIES = 1000
FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # of epsilon, for the sweep; at 8/255 from 1/255 to 64/255
FATAL_RADIUS = 64.0  # in a ball of a quarter of the range of pixels any image can be made another


@dataclass(frozen=True)
class Check:
    """What one check found; `message` is one line for people, `numbers` what it says so by."""

    name: str
    passed: bool
    numbers: dict[str, float]
    message: str


@dataclass(frozen=True, eq=False)
class Case:
    """What the checks look at: pixels N x C x H x W in [0, 1] with labels N, and attacks of one radius.

    epsilon: in pixels times 255; seed: of the attacks. The accuracy that several checks compare with is found once.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    epsilon: float = 8
    seed: int = 0

    @property
    def pgd(self) -> PGD:
        """The white-box attack that the others are compared with: PGD-20 on the cross-entropy."""
        return PGD(self.epsilon, None, STEPS)

    @cached_property
    def white(self) -> float:
        """Percent that PGD-20 leaves."""
        return self.left_by(self.pgd)

    def left_by(self, attack: Callable[[nn.Module, Tensor, Tensor, int], Tensor]) -> float:
        """Percent of the images that are classified correctly both without and under `attack`."""
        seed = int(np.random.SeedSequence([self.seed, 0]).generate_state(1)[0])
        robust = attacked_batch(self.network, self.images, self.labels, attack, seed, self.epsilon / 255)
        return 100 * robust.float().mean().item()

    @property
    def slack(self) -> float:
        """Points of accuracy by which the order of two attacks may be wrong: one, or one image where that is more."""
        return max(1.0, 100.0 / len(self.images)) + 1e-4


# ---- checks of the network alone -------------------------------------------------------------------------------------


def zero_gradients(case: Case) -> Check:
    """For less than 1 % of the images the gradient of the cross-entropy is zero in all pixels."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(case.images.device.type, enabled=False):
        x = case.images.detach().float().clone().requires_grad_()
        with in_eval_mode(case.network):
            loss = F.cross_entropy(case.network(x).float(), case.labels.clone(), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
    share = 100 * (gradient.flatten(1) == 0).all(1).float().mean().item()
    return Check("zero gradients", share < 1, {"percent": share}, f"all zero for {share:.1f} % of the images")


def determinism(case: Case) -> Check:
    """Two forward passes agree to 1e-4 of their size, and every module is in eval mode as it is given."""
    training = sum(module.training for module in case.network.modules())
    one, two = (logits_of(case.network, case.images).float() for _ in range(2))
    difference = relative_difference(one, two)
    message = f"two forward passes differ by {difference:.1g}; {training or 'no'} modules in train mode"
    passed = difference <= 1e-4 and not training
    return Check("determinism", passed, {"difference": difference, "training": training}, message)


def relative_difference(one: Tensor, two: Tensor) -> float:
    return (one - two).abs().max().item() / max(1.0, one.abs().max().item())


def logits_not_probabilities(case: Case) -> Check:
    """The outputs are no probabilities: outside of [0, 1], or with another sum than 1. Of images with finite ones."""
    outputs = logits_of(case.network, case.images).float()
    outputs = outputs[outputs.isfinite().all(1)]
    if not len(outputs):
        return Check("logits", False, {}, "no image has finite outputs")
    low, high = outputs.min().item(), outputs.max().item()
    off = (outputs.sum(1) - 1).abs().max().item()
    passed = low < -1e-5 or high > 1 + 1e-5 or off > 1e-5
    message = f"outputs from {low:.3g} to {high:.3g}" + ("" if passed else ", each image's sum 1: probabilities")
    return Check("logits", passed, {"lowest": low, "highest": high}, message)


def threat_model(case: Case) -> Check:
    """The images, and what PGD-20 makes of them, are in [0, 1]; no pixel is moved further than epsilon."""
    found = PGD(case.epsilon, early_stop=False)(case.network, case.images, case.labels, case.seed)
    distance = 255 * (found - case.images).abs().max().item()
    low, high = (255 * torch.stack([case.images, found]).aminmax()[side].item() for side in (0, 1))
    passed = distance <= case.epsilon + 255e-6 and low >= 0 and high <= 255
    message = f"pixels from {low:.1f} to {high:.1f}, moved by up to {distance:.2f}/255"
    return Check("threat model", passed, {"largest": distance, "lowest": low, "highest": high}, message)


def clean_agreement(network: nn.Module, images: Tensor, reference: nn.Module | Callable[[Tensor], Tensor]) -> Check:
    """The attacked network's logits are those of `reference`, the network that it wraps, to 1e-5."""
    other = logits_of(reference, images) if isinstance(reference, nn.Module) else reference(images).detach()
    difference = relative_difference(logits_of(network, images).float(), other.float())
    message = f"logits differ by {difference:.1g} from those of the network behind its adapter"
    return Check("clean agreement", difference <= 1e-5, {"difference": difference}, message)


def random_state(case: Case) -> Check:
    """One of our attacks and a third-party one leave the global random states as they were."""

    def states() -> dict[str, object]:
        name, keys, *rest = np.random.get_state()
        found = {"torch": torch.get_rng_state().tolist(), "NumPy": (name, keys.tolist(), *rest)}
        found["Python"] = random.getstate()
        if case.images.device.type == "cuda":
            found["CUDA"] = torch.cuda.get_rng_state(case.images.device).tolist()
        return found

    former = states()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for attack in (PGD(case.epsilon, steps=1), Square(case.epsilon, queries=2)):
            attack(case.network, case.images[:2], case.labels[:2], case.seed)
    changed = [name for name, state in states().items() if state != former[name]]
    message = f"changed: {', '.join(changed)}" if changed else "as before the attacks"
    return Check("random state", not changed, {"changed": len(changed)}, message)


# ---- checks that compare attacks -------------------------------------------------------------------------------------


def sweep_radii(epsilon: float) -> list[float]:
    """Around `epsilon`, without those too small for an attack, up to at least one that no image should survive."""
    radii = {min(255.0, factor * epsilon) for factor in FACTORS}
    return sorted(radius for radius in {*radii, max(FATAL_RADIUS, *radii)} if radius >= LEAST_RADIUS)


def epsilon_sweep(case: Case) -> Check:
    """PGD-20 at radii around `epsilon`: accuracy falls, to almost nothing at the largest.

    Who survives there was not attacked.
    """
    found = {radius: replace(case, epsilon=radius).white for radius in sweep_radii(case.epsilon)}
    values = list(found.values())
    falls = all(larger <= smaller + case.slack for smaller, larger in pairwise(values))
    passed = falls and values[-1] <= 2 * case.slack
    message = f"{'falls' if falls else 'does not fall'} with epsilon, to {values[-1]:.1f} % at {max(found):g}/255"
    return Check("epsilon sweep", passed, {f"{key:g}": value for key, value in found.items()}, message)


def more_steps(case: Case) -> Check:
    """FGSM and longer and longer PGD from one start: accuracy does not rise, the mean loss does not fall."""
    attacks = {"1": FGSM(case.epsilon)}
    attacks |= {str(count): replace(case.pgd, steps=count, early_stop=False) for count in STEP_COUNTS}
    numbers, accuracies, means = {}, [], []
    with torch.autocast(case.images.device.type, enabled=False):
        clean = is_right(logits_of(case.network, case.images), case.labels)
        for name, attack in attacks.items():
            attacked = attack(case.network, case.images, case.labels, case.seed)
            logits = logits_of(case.network, attacked).float()
            accuracies.append(100 * (clean & is_right(logits, case.labels)).float().mean().item())
            means.append(F.cross_entropy(logits, case.labels).item())
            numbers |= {name: accuracies[-1], f"loss {name}": means[-1]}
    falls = all(later <= former + case.slack for former, later in pairwise(accuracies))
    rises = all(later >= 0.99 * former - 1e-3 for former, later in pairwise(means))
    message = (
        f"accuracy {'does not rise' if falls else 'rises'}, loss {'does not fall' if rises else 'falls'} with steps: "
        f"{accuracies[0]:.1f} % after 1, {accuracies[-1]:.1f} % after {STEP_COUNTS[-1]}"
    )
    return Check("steps", falls and rises, numbers, message)


def iterative_beats_single_step(case: Case) -> Check:
    """PGD-20 leaves no more than FGSM."""
    single = case.left_by(FGSM(case.epsilon))
    message = f"PGD-{STEPS} leaves {case.white:.1f} %, FGSM {single:.1f} %"
    passed = case.white <= single + case.slack
    return Check("single step", passed, {"fgsm": single, "pgd": case.white}, message)


def black_box(case: Case, queries: int = QUERIES) -> Check:
    """Square, which sees no gradient, leaves no less than PGD-20; else gradients are masked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what AutoAttack's flags say has checks of its own here
        black = case.left_by(Square(case.epsilon, queries=queries))
    message = f"Square with {queries:,} queries leaves {black:.1f} %, PGD-{STEPS} {case.white:.1f} %"
    return Check("black box", black >= case.white - case.slack, {"square": black, "pgd": case.white}, message)


def other_loss(case: Case) -> Check:
    """PGD-20 on the margin is at most 2 points stronger than on the cross-entropy; else the lower counts."""
    margin = case.left_by(replace(case.pgd, losses=("margin",)))
    passed = margin >= case.white - max(2.0, case.slack) - 1e-4
    message = f"PGD-{STEPS} leaves {case.white:.1f} % with the cross-entropy, {margin:.1f} % with the margin"
    message += "" if passed else "; take the lower"
    return Check("other loss", passed, {"ce": case.white, "margin": margin}, message)


def more_restarts(case: Case) -> Check:
    """Several random starts change less than a point; else the loss surface is rough and one start says little."""
    often = case.left_by(replace(case.pgd, restarts=RESTARTS))
    message = f"PGD-{STEPS} leaves {case.white:.1f} % from one start, {often:.1f} % from {RESTARTS}"
    return Check("restarts", case.white - often <= case.slack, {"1": case.white, str(RESTARTS): often}, message)


def transfer(case: Case, others: Mapping[str, nn.Module]) -> Check:
    """PGD-20 made on other networks (another route, the all-ReLU teacher) leaves no less than made on this one."""
    attack = replace(case.pgd, early_stop=False)  # what just fools the other network transfers badly
    numbers = {"own": case.white}
    for name, other in others.items():
        numbers[name] = case.left_by(lambda _, *batch, other=other: attack(other, *batch))
    message = f"PGD-{STEPS} leaves {case.white:.1f} % made on this network; made on " + ", ".join(
        f"{name} {value:.1f} %" for name, value in numbers.items() if name != "own"
    )
    return Check("transfer", min(numbers.values()) >= case.white - case.slack, numbers, message)


def deployed_arithmetic(case: Case, bits: int = FRACTION_BITS) -> Check:
    """In fixed-point arithmetic, as private inference has it, PGD-20 made on the float network leaves as much.

    At most 2 points less or more; so does the accuracy without an attack.
    """
    numbers = {}
    with torch.autocast(case.images.device.type, enabled=False):
        attacked = case.pgd(case.network, case.images, case.labels, case.seed)
        for kind, network in (("", fixed_point(case.network, bits)), ("float ", case.network)):
            clean, robust = (is_right(logits_of(network, x), case.labels) for x in (case.images, attacked))
            numbers[f"{kind}clean"] = 100 * clean.float().mean().item()
            numbers[f"{kind}pgd"] = 100 * (clean & robust).float().mean().item()
    allowed = max(2.0, case.slack) + 1e-4
    passed = all(abs(numbers[name] - numbers[f"float {name}"]) <= allowed for name in ("clean", "pgd"))
    message = (
        f"with {bits} fractional bits {numbers['clean']:.1f} % right and {numbers['pgd']:.1f} % after PGD-{STEPS}, "
        f"in float {numbers['float clean']:.1f} % and {numbers['float pgd']:.1f} %"
    )
    return Check("fixed point", passed, numbers, message)


# Those that need nothing but a case, the cheap ones first.
CHECKS: dict[str, Callable[[Case], Check]] = {
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
