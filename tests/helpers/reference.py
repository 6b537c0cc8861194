"""The formulas of SNL, SENet and RLNet (its official code) written out, for the tests: knows nothing of the project.

A small network, its own forward pass with a batch norm per route, own PGD, own losses, own SGD; everything float64.
"""

import torch
from torch import nn

EPSILON, STEP = 8 / 255, 2 / 255
TEMPERATURE = 4.0


class SmallNetwork(nn.Module):
    """conv - batch norm - ReLU - conv - batch norm - ReLU - mean - linear, for images of `channels`."""

    def __init__(self, channels: int, first: int, second: int, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(first), nn.ReLU()
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(second), nn.ReLU()
        self.linear = nn.Linear(second, classes)

    def forward(self, images):
        features = self.relu1(self.bn1(self.conv1(images)))
        features = self.relu2(self.bn2(self.conv2(features)))
        return self.linear(features.mean((2, 3)))


def state_of(network):
    """Copies of the weights, which get gradients, and of the statistics."""
    state = {key: value.detach().clone() for key, value in network.state_dict().items() if "tracked" not in key}
    for key, value in state.items():
        value.requires_grad_("running" not in key)
    return state


def trained_keys(state):
    return [key for key in state if "running" not in key]


def compare(network, state):
    """Every weight and batch-norm statistic of `network` equals the reference's."""
    own = {key: value for key, value in network.state_dict().items() if "tracked" not in key}
    assert own.keys() == state.keys()
    for key, value in state.items():
        assert torch.allclose(own[key], value.detach(), rtol=0, atol=1e-10), key


def norm(values, state, name, train, route=None):
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


def relu(values, slopes):
    """alpha * relu(x) + (1 - alpha) * x: with a mask, a ReLU where it is true, the identity elsewhere."""
    slopes = slopes.to(values)
    return slopes * values.clamp(min=0) + (1 - slopes) * values


def forward(images, state, slopes, route=None, *, train, before=None):
    """(logits, what the two sites put out) of a SmallNetwork. `before`: a list that takes what the sites are given."""
    before = [] if before is None else before
    before.append(norm(torch.conv2d(images, state["conv1.weight"], padding=1), state, "bn1", train, route))
    first = relu(before[-1], slopes[0])
    before.append(norm(torch.conv2d(first, state["conv2.weight"], stride=2), state, "bn2", train, route))
    second = relu(before[-1], slopes[1])
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
            squares = squares + ((direction((a**2).mean(0)) - direction((b**2).mean(0))) ** 2).mean()
        total = total + squares / len(ours)
    return total


def activations(found, wanted):
    """Half the sum over the sites of the batch means of |s/|s| - t/|t||; of wider teachers, the first channels."""
    total = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            total = total + ((direction(a) - direction(b[: len(a)])) ** 2).sum().sqrt() / len(ours)
    return total / 2


PRAM = {"attention": attention, "activations": activations}


def direction(values):
    """As a vector of norm 1; no direction where all are zero."""
    values = values.flatten()
    return values / (values**2).sum().sqrt() if bool(values.any()) else values.detach()


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

    def __init__(self, rate, decay, momentum=0.9):
        self.rate, self.momentum, self.decay, self.velocity = rate, momentum, decay, {}

    def step(self, state, loss):
        keys = trained_keys(state)
        self.apply(state, dict(zip(keys, torch.autograd.grad(loss, [state[key] for key in keys]), strict=True)))

    def apply(self, state, gradients):
        for key, gradient in gradients.items():
            gradient = gradient + self.decay * state[key].detach()
            former = self.velocity.get(key)
            self.velocity[key] = gradient if former is None else self.momentum * former + gradient
            state[key] = (state[key] - self.rate * self.velocity[key]).detach().requires_grad_()
