"""The formulas of RLNet (CVPRW 2024; its official code) written out, for the tests: knows nothing of the project.

Own forward pass with a batch norm per route, own PGD, own losses, own SGD; everything float64.
"""

import torch

EPSILON, STEP = 8 / 255, 2 / 255
TEMPERATURE = 4.0


def norm(values, state, name, route, train):
    """Momentum 0.1; biased variance for the output, unbiased for the running average; `route` None: one norm."""
    prefix = name if route is None else f"{name}.{route}"
    if train:
        mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False)
        with torch.no_grad():
            state[f"{prefix}.running_mean"] = 0.9 * state[f"{prefix}.running_mean"] + 0.1 * mean
            state[f"{prefix}.running_var"] = 0.9 * state[f"{prefix}.running_var"] + 0.1 * values.var((0, 2, 3))
    else:
        mean, variance = state[f"{prefix}.running_mean"], state[f"{prefix}.running_var"]
    scaled = (values - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
    return scaled * state[f"{prefix}.weight"][:, None, None] + state[f"{prefix}.bias"][:, None, None]


def forward(images, state, masks, route, train):
    """(logits, what the two sites put out) of conv - norm - ReLU - conv - norm - ReLU - mean - linear."""
    first = norm(torch.conv2d(images, state["conv1.weight"], padding=1), state, "bn1", route, train)
    first = torch.where(masks[0], first.clamp(min=0), first)
    second = norm(torch.conv2d(first, state["conv2.weight"], stride=2), state, "bn2", route, train)
    second = torch.where(masks[1], second.clamp(min=0), second)
    return second.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"], [first, second]


def cross_entropy(logits, labels):
    return -torch.log(torch.softmax(logits, 1)[torch.arange(len(labels)), labels]).sum() / len(labels)


def divergence(logits, wanted, temperature=TEMPERATURE):
    """T^2 times the batch mean of KL(wanted || found)."""
    wanted, found = torch.softmax(wanted / temperature, 1), torch.softmax(logits / temperature, 1)
    return temperature**2 * (wanted * (wanted.log() - found.log())).sum() / len(logits)


def attention(found, wanted):
    """Summed over the sites, the mean squared difference of the normalised maps of mean squares."""
    total = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        squares = 0.0
        for a, b in zip(ours, theirs, strict=True):
            squares = squares + ((direction(a) - direction(b)) ** 2).mean()
        total = total + squares / len(ours)
    return total


def direction(activations):
    """C x H x W to H*W values of norm 1; no direction where all are zero."""
    energy = (activations**2).mean(0).flatten()
    return energy / (energy**2).sum().sqrt() if bool(energy.any()) else energy.detach()


def attacked(images, state, masks, route, steps, loss):
    """PGD in eval mode from the images themselves; `loss` is called with the logits."""
    state = {key: value.detach() for key, value in state.items()}
    found = images.clone()
    for _ in range(steps):
        found = found.detach().requires_grad_()
        logits, _ = forward(found, state, masks, route, train=False)
        (gradient,) = torch.autograd.grad(loss(logits), found)
        moved = found.detach() + STEP * gradient.sign()
        found = torch.maximum(torch.minimum(moved, images + EPSILON), images - EPSILON).clamp(0, 1)
    return found.detach()


class SGD:
    """v <- m v + (g + decay w); w <- w - rate v."""

    def __init__(self, rate, momentum, decay):
        self.rate, self.momentum, self.decay, self.velocity = rate, momentum, decay, {}

    def step(self, state, loss):
        keys = [key for key in state if "running" not in key]
        gradients = torch.autograd.grad(loss, [state[key] for key in keys])
        for key, gradient in zip(keys, gradients, strict=True):
            gradient = gradient + self.decay * state[key].detach()
            former = self.velocity.get(key)
            self.velocity[key] = gradient if former is None else self.momentum * former + gradient
            state[key] = (state[key] - self.rate * self.velocity[key]).detach().requires_grad_()
