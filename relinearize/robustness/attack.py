"""FGSM and PGD in the maximum norm, on pixels: for adversarial training and, with restarts, for evaluation.

Goodfellow et al. 2015 and Madry et al. 2018. One graph a step, no gradients of parameters, and nothing of the caller is
changed: module modes, gradients, batch norm statistics and the global random state are as before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

LOSSES = ("ce", "margin", "kl")


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """bool N: whether the largest of logits N x classes is the label's. A row with one that is no number is wrong."""
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)


def fgsm(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float) -> Tensor:
    """One step of `epsilon` along the sign of the cross-entropy's gradient, from the images themselves; see `pgd`."""
    return pgd(network, images, labels, epsilon=epsilon, step_size=epsilon or 1.0, steps=1, random_start=False)


def pgd(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    loss: str = "ce",
    random_start: bool = True,
    generator: Generator | None = None,
    restarts: int = 1,
    temperature: float = 1.0,
    active_only: bool = False,
) -> Tensor:
    """Images N x C x H x W in [0, 1], none of whose values is further than `epsilon` from `images`, that raise a loss.

    Args:
        network: from pixels to logits N x classes. It runs in eval mode; each module gets its own mode back.
        images: float, in [0, 1]. Their memory format is kept; they are read as float32 if they are less.
        targets: int64 labels N; for "kl" logits N x classes (in RSLAD and RLNet the teacher's, of the clean images).
        epsilon, step_size: in pixels of [0, 1], so 8/255 for what papers call 8.
        loss: "ce", cross-entropy; "margin", the largest logit of another class minus that of the label; "kl",
            KL(softmax(targets / temperature) || softmax(logits / temperature)).
        random_start: begin uniformly in the ball (cut off at [0, 1]), drawn from `generator`, which is on the images'
            device; the global random state is never used. Else begin at `images`.
        restarts: so many starts; each image gets the worst result: one that is misclassified before one that is not,
            then the one of largest loss. "kl" knows no label, so that of largest loss may be right where another is
            not: attacks.PGD asks for its restarts one by one.
        active_only: an image that is misclassified stays as it is and leaves the batch, which gets smaller with the
            steps. As valid an attack as one that goes on, and faster in evaluation; other images than without it.

    Works under no_grad and inference_mode. Under autocast the network computes as that says, the rest in float32.
    Returns a detached tensor. Raises ValueError for settings that make no attack.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r}: valid are {', '.join(LOSSES)}")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: attacks take float pixels in [0, 1]")
    if targets.dim() != (2 if loss == "kl" else 1) or len(targets) != len(images):
        kind = "logits N x classes" if loss == "kl" else "labels N"
        raise ValueError(f"targets {tuple(targets.shape)} for {len(images)} images: loss {loss!r} takes {kind}")
    if epsilon < 0 or step_size <= 0 or steps < 1 or restarts < 1:
        raise ValueError(
            f"epsilon {epsilon} (at least 0), step_size {step_size} (above 0), steps {steps} and restarts {restarts} "
            "(at least 1) make no attack"
        )
    if random_start and generator is None:
        raise ValueError("a random start is drawn from `generator`, so that the global random state stays untouched")
    if restarts > 1 and not random_start:
        raise ValueError("restarts without a random start repeat one attack; give random_start=True")
    if active_only and loss == "kl":
        raise ValueError("active_only needs labels, which loss 'kl' does not have")
    with torch.inference_mode(False), torch.enable_grad(), in_eval_mode(network):
        clean = images.detach().to(torch.promote_types(images.dtype, torch.float32))
        lower, upper = (clean - epsilon).clamp_(min=0), (clean + epsilon).clamp_(max=1)
        # Copies: the graph keeps the targets, which it may not if they were made in inference mode.
        targets = log_probabilities(targets.detach(), temperature) if loss == "kl" else targets.clone()
        per_image = partial(losses, loss=loss, temperature=temperature)

        def begin() -> Tensor:
            x = clean.clone()
            if random_start:
                noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x.add_(noise.mul_(2 * epsilon).sub_(epsilon)).clamp_(lower, upper)
            return x

        def ascend(x: Tensor, lower: Tensor, upper: Tensor, targets: Tensor) -> Tensor:
            """All steps from `x`, which is overwritten; the ball and [0, 1] are the box from `lower` to `upper`."""
            result, rows = x, torch.arange(len(x), device=x.device)  # `rows` of the result are still attacked
            for _ in range(steps):
                x.requires_grad_()
                logits = network(x)
                (gradient,) = torch.autograd.grad(per_image(logits, targets).sum(), x)
                x.requires_grad_(False)
                if active_only and bool((done := ~is_right(logits.detach(), targets)).any()):
                    if x is not result:
                        result[rows[done]] = x[done]
                    going = (~done).nonzero().squeeze(1)
                    rows = rows[going]
                    if not len(rows):
                        return result
                    x, gradient, lower, upper, targets = (
                        rows_of(part, going) for part in (x, gradient, lower, upper, targets)
                    )
                x.add_(gradient.sign_(), alpha=step_size).clamp_(lower, upper)
            if x is not result:
                result[rows] = x
            return result

        if restarts == 1:
            return ascend(begin(), lower, upper, targets)
        best = clean.clone()
        best_value = torch.full((len(clean),), -torch.inf, dtype=clean.dtype, device=clean.device)
        best_wrong = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        for _ in range(restarts):
            x = begin()  # of all images: what a restart draws does not depend on who is left
            rows = (~best_wrong if active_only else torch.ones_like(best_wrong)).nonzero().squeeze(1)
            if not len(rows):
                break
            parts = [rows_of(part, rows) for part in (x, lower, upper, targets)]
            found = ascend(*parts)
            with torch.no_grad():
                logits = network(found)
                value = per_image(logits, parts[-1]).to(clean.dtype)
            wrong = best_wrong[rows] if loss == "kl" else ~is_right(logits, parts[-1])
            # "Not at most": a loss that is no number is taken too, so that it does not go unseen.
            worse = torch.where(wrong == best_wrong[rows], ~(value <= best_value[rows]), wrong)
            rows = rows[worse]
            best[rows], best_value[rows], best_wrong[rows] = found[worse], value[worse], wrong[worse]
        return best


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Of softmax(logits / temperature), in at least float32."""
    return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=1)


def losses(logits: Tensor, targets: Tensor, loss: str, temperature: float = 1.0) -> Tensor:
    """What the attack raises, per image, in at least float32. For "kl" `targets` are `log_probabilities`."""
    if loss == "kl":
        student = log_probabilities(logits, temperature)
        return F.kl_div(student, targets, reduction="none", log_target=True).sum(1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if loss == "ce":
        return F.cross_entropy(logits, targets, reduction="none")
    index = targets.unsqueeze(1)
    others = logits.scatter(1, index, -torch.inf)
    return others.max(1).values - logits.gather(1, index).squeeze(1)


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """`network` in eval mode without gradients of parameters; afterwards as before, module by module.

    Flags are set directly: a network whose train() does more than that is left alone.
    """
    modes = {module: module.training for module in network.modules()}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for module in modes:
            module.training = False
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    """Some rows in the same memory format, which indexing alone does not keep."""
    some = tensor[rows]
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        some = some.contiguous(memory_format=torch.channels_last)
    return some
