"""Scores: what it would cost a network to linearize each position, from one or a few passes over images.

A score is a function

    score(network, batches, *, teacher=None, seed=0) -> {site: float32 tensor of the site's shape}

of a network with sites (pixels to logits), of batches (pixels N x C x H x W in [0, 1], labels int64 N), and, for those
that compare, of the all-ReLU network. The positions of largest score keep their ReLU. A function of yours is used by a
YAML file in conf/score/ (docs/extending.md).

Notation: z the pre-activation of a position, g the gradient of the loss of one image with respect to the site's output,
d = min(z, 0) = z - relu(z). Linearizing a kept position adds d to its output, and restoring one subtracts it, so one
score serves kept and linear positions alike. Batch norms use their running statistics; everything is
float32; the network is left as it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError, check_choice, check_number, one_line
from relinearize.processes import process_count, sum_over_processes
from relinearize.relu.activation import SlopedReLU
from relinearize.relu.sites import named_sites, site_shapes
from relinearize.robustness.attack import in_eval_mode

Batches = Iterable[tuple[Tensor, Tensor]]
Scores = dict[str, Tensor]
SiteTensors = Iterator[tuple[str, Tensor]]
Term = Callable[[Tensor, Tensor], Tensor]  # (z, g), N x shape each -> one value per image and position


def fisher(
    network: nn.Module, batches: Batches, *, teacher: nn.Module | None = None, seed: int = 0, exact: bool = False
) -> Scores:
    """1/2 E[(g d)^2] for labels drawn from the network itself, y ~ p(.|x), and the loss -log p_y.

    The diagonal of the Gauss-Newton term of KL(network || network with the position linearized), since E_y[g g^T] is
    J^T (diag p - p p^T) J. exact: the expectation over all classes instead of one draw, a backward pass for each.
    """
    return gradient_means(network, batches, lambda z, g: (g * z.clamp(max=0)).square() / 2, model_labels(seed, exact))


def fisher_centred(
    network: nn.Module, batches: Batches, *, teacher: nn.Module | None = None, seed: int = 0, exact: bool = False
) -> Scores:
    """`fisher` with d minus its mean over the images and places of the channel: a batch norm absorbs that part."""

    def term(z: Tensor, g: Tensor) -> Tensor:
        d = z.clamp(max=0)
        return (g * (d - d.mean([0, *range(2, d.dim())], keepdim=True))).square() / 2

    return gradient_means(network, batches, term, model_labels(seed, exact))


def gradient(network: nn.Module, batches: Batches, *, teacher: nn.Module | None = None, seed: int = 0) -> Scores:
    """E|g d|, the first-order term image by image, of the cross-entropy against the labels of the images."""
    return gradient_means(network, batches, lambda z, g: (g * z.clamp(max=0)).abs(), true_labels)


def snip(network: nn.Module, batches: Batches, *, teacher: nn.Module | None = None, seed: int = 0) -> Scores:
    """|E[g d]|, the first-order term of the mean loss (SNIP, Lee et al., ICLR 2019, for ReLUs instead of weights)."""
    means = gradient_means(network, batches, lambda z, g: g * z.clamp(max=0), true_labels)
    return {name: mean.abs() for name, mean in means.items()}


def clipped(network: nn.Module, batches: Batches, *, teacher: nn.Module | None = None, seed: int = 0) -> Scores:
    """E[max(-z, 0)]: what the ReLU cuts off."""
    return activation_means(network, batches, lambda z: z.clamp(max=0).neg())


def negative_share(network: nn.Module, batches: Batches, *, teacher: nn.Module | None = None, seed: int = 0) -> Scores:
    """P(z < 0): how often the ReLU does anything."""
    return activation_means(network, batches, lambda z: (z < 0).float())


def mismatch(network: nn.Module, batches: Batches, *, teacher: nn.Module | None = None, seed: int = 0) -> Scores:
    """E|relu(z of the teacher) - z|, the activation mismatch of SENet (ICLR 2023) of each position were it linear."""
    if teacher is None:
        raise UserError("score=mismatch compares with the all-ReLU network, and none is given")
    inner = inner_network(teacher)  # if frozen, its sites are plain ReLUs of the same names
    teacher_sites = {name: inner.get_submodule(name) for name in site_shapes(inner_network(network))}

    def mismatches(images: Tensor, labels: Tensor) -> SiteTensors:
        with torch.no_grad(), in_eval_mode(teacher):
            _, given = _observe(network, images)
            _, wanted = _observe(teacher, images, teacher_sites)
        for name, (z, _) in given.items():
            yield name, (wanted[name][1] - z).abs().sum(0)

    return _means(network, batches, mismatches)


def slope(network: nn.Module, batches: Batches = (), *, teacher: nn.Module | None = None, seed: int = 0) -> Scores:
    """The slopes that SNL's search trains: what its masks are made by. UserError where the sites have none."""
    sites = named_sites(inner_network(network))
    if not all(isinstance(site, SlopedReLU) for site in sites.values()):
        raise UserError("the sites have no slopes; SNL's search (method=snl) trains them")
    return {name: site.alpha.detach().float() for name, site in sites.items()}


def random(network: nn.Module, batches: Batches = (), *, teacher: nn.Module | None = None, seed: int = 0) -> Scores:
    """U(0, 1): the control of every other score."""
    generator = torch.Generator().manual_seed(seed)
    shapes = site_shapes(inner_network(network))
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def relupruner(
    network: nn.Module,
    batches: Batches,
    *,
    teacher: nn.Module | None = None,
    seed: int = 0,
    decay: float = 0.95,
    layer_weights: bool = True,
    second_order: bool | str = False,
) -> Scores:
    """ReLUPruner's score (AAAI 2026) of the network as it is; its search computes it while it trains. See below."""
    means = ReLUPrunerMeans("", site_shapes(inner_network(network)), decay, layer_weights, second_order)
    with in_eval_mode(network):
        for images, labels in batches:
            logits, sites = _observe(network, images, with_graph=True)
            for name, z, g in _gradients(F.cross_entropy(logits, labels), sites):
                means.add(name, z, g)
    means.average_over_processes()
    return means.scores()


class ReLUPrunerMeans:
    """ReLUPruner's score from the batches seen so far, as its released code has it: w_l E|g z| P(z < 0).

    g belongs to the mean loss of a batch. P(z < 0) is that of the last 10 batches, and its product with the batch's
    mean of |g z| has an exponential mean over the batches. w_l, between 0.1 and 1.1, is min-max normalised over the
    sites, plus 0.1, from the exponential means of ||g|| (of an image) and of E[g^2], and from the depth of the site:

        E||g|| sqrt(E[g^2] + 1e-8) (1 + 0.2 l / (L - 1)),   l = 0 ... L - 1 in forward order

    Args:
        prefix: of the settings' names in messages.
        names: the sites in forward order.
        decay: of the exponential means.
        layer_weights: False: w_l = 1.
        second_order: True: add 1/2 E[(g z)^2], g of an image's own loss, to E|g z|. "mean_loss": add
            1/2 E[z^2] E[g^2] with g of the mean loss, about 1e-4 of the first term, as the released code does.
    """

    SHARES = 10  # batches for P(z < 0)

    def __init__(
        self, prefix: str, names: Iterable[str], decay: float, layer_weights: bool, second_order: bool | str
    ) -> None:
        check_number(f"{prefix}decay", decay, ">= 0", "< 1")
        check_choice(f"{prefix}layer_weights", layer_weights, (True, False))
        check_choice(f"{prefix}second_order", second_order, (True, False, "mean_loss"))
        self.names, self.decay, self.layer_weights, self.second_order = list(names), decay, layer_weights, second_order
        self.means: dict[str, dict[str, Tensor]] = {}  # site -> damage (C x H x W), norm and square (scalars)
        self.shares: dict[str, list[Tensor]] = {}  # site -> P(z < 0) of each of the last batches

    @torch.no_grad()
    def add(self, name: str, z: Tensor, g: Tensor) -> None:
        """A batch: z and g of site `name`, N x C x H x W each."""
        z, g = z.float(), g.float()
        shares = self.shares.setdefault(name, [])
        shares.append((z < 0).float().mean(0))
        del shares[: -self.SHARES]
        first = (g * z).abs() * len(z)  # of the sum of the losses, so that the two terms can be added
        if self.second_order and self.second_order != "mean_loss":
            first += first.square() / 2
        damage = first.mean(0) * (shares[0] if len(shares) == 1 else torch.stack(shares).mean(0))
        if self.second_order == "mean_loss":
            damage += z.square().mean(0) * g.square().mean(0) * len(z) / 2
        batch = {"damage": damage, "norm": g.flatten(1).norm(dim=1).mean(), "square": g.square().mean()}
        means = self.means.get(name, batch)
        self.means[name] = {key: torch.lerp(value, means[key], self.decay) for key, value in batch.items()}

    def scores(self) -> Scores:
        weights = self.weights()
        return {name: weights[name] * self.means[name]["damage"] for name in self.names}

    def weights(self) -> dict[str, float]:
        """Site -> w_l."""
        raw = {}
        for place, name in enumerate(self.names):
            norm, square = self.means[name]["norm"], self.means[name]["square"]
            raw[name] = float(norm * (square + 1e-8).sqrt()) * (1 + 0.2 * place / max(1, len(self.names) - 1))
        low, high = min(raw.values()), max(raw.values())
        if not self.layer_weights or high == low:
            return dict.fromkeys(raw, 1.0)
        return {name: (value - low) / (high - low) + 0.1 for name, value in raw.items()}

    def average_over_processes(self) -> None:
        """Replace what each process has seen by the mean, which is the same in all of them."""
        tensors = [value for means in self.means.values() for value in means.values()]
        tensors += [share for shares in self.shares.values() for share in shares]
        sum_over_processes(tensors)
        for tensor in tensors:
            tensor /= process_count()

    def to(self, device: torch.device) -> None:
        self.means = {
            name: {key: value.to(device) for key, value in means.items()} for name, means in self.means.items()
        }
        self.shares = {name: [share.to(device) for share in shares] for name, shares in self.shares.items()}


# ---- scores of the user's -----------------------------------------------------------------------------------------


def check_callable(key: str, score: object) -> None:
    """UserError, naming the config key where it stands, for what is no score."""
    if not callable(score):
        raise UserError(f"{key}={score} is no function; give a file of conf/score: score=fisher")


def check_score(
    key: str, score: Callable[..., Scores], network: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """UserError unless `score`, which stands at config key `key`, works on these few images: it may be the user's."""
    compute = partial(score, network, iter([(images, labels)]), teacher=teacher, seed=0)
    check_scores(key, compute, site_shapes(inner_network(network)), " on two images")


def check_scores(
    key: str, compute: Callable[[], Scores], shapes: Mapping[str, tuple[int, ...]], where: str = ""
) -> Scores:
    """What `compute` gives, of the config key `key`; UserError unless that is a tensor of each site's shape."""
    try:
        found = compute()
        given = {name: tuple(values.shape) for name, values in found.items()}
    except Exception as error:
        if isinstance(error, UserError) and not where:
            raise
        raise UserError(f"{key} fails{where}: {one_line(error)}") from error
    if given != shapes:
        name = next(name for name in (*shapes, *given) if given.get(name) != shapes.get(name))
        raise UserError(f"{key} gives site {name} the shape {given.get(name)}; it has {shapes.get(name)}")
    return found


# ---- what scores are made of -----------------------------------------------------------------------------------------

# (logits, labels of the images) -> (class of each image, its weight or 1): what a backward pass is done for
Labels = Callable[[Tensor, Tensor], Iterator[tuple[Tensor, Tensor | None]]]


def true_labels(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    yield labels, None


def model_labels(seed: int, exact: bool = False) -> Labels:
    """Labels drawn from the network's own outputs; `exact`: every class, weighted by its probability."""
    check_choice("exact", exact, (True, False))
    generator = torch.Generator().manual_seed(seed)

    def drawn(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        probabilities = logits.float().softmax(1)
        if not exact:
            yield torch.multinomial(probabilities.cpu(), 1, generator=generator).squeeze(1).to(labels.device), None
            return
        for number in range(logits.shape[1]):
            yield torch.full_like(labels, number), probabilities[:, number]

    return drawn


def gradient_means(network: nn.Module, batches: Batches, term: Term, labels_of: Labels) -> Scores:
    """The mean over the images of term(z, g), position by position; g of the summed loss, so of each image alone."""

    def sums(images: Tensor, labels: Tensor) -> SiteTensors:
        logits, sites = _observe(network, images, with_graph=True)
        for classes, weights in labels_of(logits.detach(), labels):
            for name, z, g in _gradients(F.cross_entropy(logits, classes, reduction="sum"), sites):
                values = term(z, g)
                yield name, values.sum(0) if weights is None else torch.tensordot(weights.to(values.dtype), values, 1)

    return _means(network, batches, sums)


def activation_means(network: nn.Module, batches: Batches, term: Callable[[Tensor], Tensor]) -> Scores:
    """The mean over the images of term(z), position by position; without a backward pass."""

    def sums(images: Tensor, labels: Tensor) -> SiteTensors:
        with torch.no_grad():
            _, sites = _observe(network, images)
        for name, (z, _) in sites.items():
            yield name, term(z).sum(0)

    return _means(network, batches, sums)


def damage_vectors(network: nn.Module, batches: Batches, seed: int) -> tuple[Tensor, dict[str, tuple[int, ...]]]:
    """g d of each image and position, n x positions in forward order (float32), and the shapes of the sites.

    Labels are drawn from the network. 1/(2n) times the squared sum of a row over a set of positions is the Gauss-Newton
    damage of linearizing the set.
    """
    shapes, rows, labels_of = site_shapes(inner_network(network)), [], model_labels(seed)
    with in_eval_mode(network):
        for images, labels in batches:
            logits, sites = _observe(network, images, with_graph=True)
            classes, _ = next(labels_of(logits.detach(), labels))
            parts = _gradients(F.cross_entropy(logits, classes, reduction="sum"), sites)
            rows.append(torch.cat([(g * z.clamp(max=0)).flatten(1) for _, z, g in parts], dim=1))
    return torch.cat(rows), shapes


def _observe(
    network: nn.Module, images: Tensor, sites: dict[str, nn.Module] | None = None, with_graph: bool = False
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Logits, and site -> (z without a graph, output). Never the compiled network: it would not call the hooks."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = inputs[0].detach(), output

    sites = named_sites(inner_network(network)) if sites is None else sites
    with ExitStack() as hooks, torch.autocast(images.device.type, enabled=False):
        for name, module in sites.items():
            hooks.enter_context(module.register_forward_hook(partial(look, name)))
        return network.forward(images.detach().requires_grad_(with_graph)), seen


def _gradients(loss: Tensor, sites: dict[str, tuple[Tensor, Tensor]]) -> Iterator[tuple[str, Tensor, Tensor]]:
    outputs = [output for _, output in sites.values()]
    gradients = torch.autograd.grad(loss, outputs, retain_graph=True, materialize_grads=True)
    for (name, (z, _)), g in zip(sites.items(), gradients, strict=True):
        yield name, z, g


def _means(network: nn.Module, batches: Batches, sums_of: Callable[[Tensor, Tensor], SiteTensors]) -> Scores:
    """The mean over the images of what `sums_of` sums up of each batch, with the network in eval mode."""
    device = next(network.parameters()).device
    sums = {name: torch.zeros(shape, device=device) for name, shape in site_shapes(inner_network(network)).items()}
    count = torch.zeros((), device=device)
    with in_eval_mode(network):
        for images, labels in batches:
            for name, total in sums_of(images, labels):
                sums[name] += total
            count += len(images)
    sum_over_processes([*sums.values(), count])
    if not count:
        raise ValueError("a score of no images")
    return {name: total / count for name, total in sums.items()}
