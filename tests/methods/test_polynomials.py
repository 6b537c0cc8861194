"""What holds polynomials while the weights around them are trained: the term of the loss, and their slow coming."""

import pytest
import torch
from quick_runs import SMALL, copy_store, quick_plan, quick_run
from safetensors.torch import load_file
from torch import nn

from relinearize.errors import UserError
from relinearize.methods.polynomials import HeldPolynomials, median_norms
from relinearize.methods.replacement import Affine, Quadratic, moments
from relinearize.methods.stage.stage import Stage
from relinearize.relu.activation import MaskedReLU, ReplacedReLU
from relinearize.relu.sites import named_sites, to_replaced
from relinearize.targets import builder

CPU = torch.device("cpu")


def square(mask):
    """A site whose removed positions return z^2."""
    site = ReplacedReLU(torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1), mask.shape)
    site.mask.copy_(mask)
    return site


def test_by_hand():
    """z = 2 and -1: the square is 4 and 1, the ReLU 2 and 0."""
    network = nn.Sequential(square(torch.tensor([[[False, False]]])), MaskedReLU((1, 1, 2), 1))
    held = HeldPolynomials(network, 1.0, 0.0)
    z = torch.tensor([[[[2.0, -1.0]]]], requires_grad=True)
    with held.step(0.0, CPU):
        network(z)
    torch.testing.assert_close(held.error, torch.tensor(1 + (2**2 + 1**2) / (2**2 + 1**2)).log())
    (gradient,) = torch.autograd.grad(held.error, z)
    # of the numerator alone: (4 - 2) (4 - 1) 2 / 5 and 1 (-2) 2 / 5, over 1 + error
    torch.testing.assert_close(gradient.flatten(), torch.tensor([12.0, -4.0]) / 5 / 2)


def test_a_site_that_is_given_nothing_above_zero_does_not_drown_the_others():
    """Over E[relu(z)^2], which is 0 there, its error was that of 1e12 others, and its gradient the only one."""
    network = nn.Sequential(square(torch.tensor([[[False, False]]])))
    held = HeldPolynomials(network, 1.0, 0.0)
    with held.step(0.0, CPU):
        network(torch.tensor([[[[-1.0, -2.0]]]]))
    torch.testing.assert_close(held.error, torch.tensor(1 + (1**2 + 4**2) / (1**2 + 2**2)).log())


def test_kept_positions_have_none_and_sites_are_summed():
    network = nn.Sequential(square(torch.tensor([[[True]]])), square(torch.tensor([[[False]]])))
    held = HeldPolynomials(network, 1.0, 0.0)
    with held.step(0.0, CPU):
        network(torch.full((1, 1, 1, 1), 3.0))
    torch.testing.assert_close(held.error, torch.tensor(1 + (9 - 3) ** 2 / 3**2).log())
    network(torch.full((1, 1, 1, 1), 7.0))  # not looked at
    torch.testing.assert_close(held.error, torch.tensor(1 + (9 - 3) ** 2 / 3**2).log())


def test_removed_positions_go_from_the_relu_to_their_polynomial():
    network = nn.Sequential(square(torch.tensor([[[False, True]]])))
    held = HeldPolynomials(network, 1.0, 0.5)
    z = torch.tensor([[[[-2.0, -3.0]]]])
    for share, expected in ((0.0, 0.0), (0.125, 1.0), (0.5, 4.0), (0.9, 4.0)):  # t = 0, 1/4, 1 and 1
        with held.step(share, CPU):
            assert network(z).flatten().tolist() == [expected, 0.0]
        assert network(z).flatten().tolist() == [4.0, 0.0], "what is validated and left"
    with held.step(0.0, CPU):
        network(z.abs())
    torch.testing.assert_close(held.error, torch.tensor(1 + 2**2 / (2**2 + 3**2)).log())  # of the polynomial itself


def test_other_hooks_see_what_a_site_puts_out_in_the_end():
    """PRAM compares the outputs of sites; at t = 0 those of the teacher and of a student like it are equal."""
    network, seen = nn.Sequential(square(torch.tensor([[[False]]]))), []
    network[0].register_forward_hook(lambda site, inputs, output: seen.append(output.item()))
    held = HeldPolynomials(network, 0.0, 0.5)
    with held.step(0.0, CPU):
        network(torch.full((1, 1, 1, 1), 3.0))
    assert seen == [3.0]


def test_an_attacked_copy_goes_along_and_its_errors_do_not_count():
    network, copy = (nn.Sequential(square(torch.tensor([[[False]]]))) for _ in range(2))
    held = HeldPolynomials(network, 1.0, 0.5)
    held.lead(copy)
    z = torch.full((1, 1, 1, 1), 3.0)
    with held.step(0.25, CPU):
        assert copy(7 * z).item() == (21 + 21**2) / 2
        assert network(z).item() == (3 + 3**2) / 2
    torch.testing.assert_close(held.error, torch.tensor(1 + (9 - 3) ** 2 / 3**2).log())


def test_the_passes_of_a_step_count_alike():
    """A network of several routes or widths makes more than one."""
    network = nn.Sequential(square(torch.tensor([[[False]]])))
    held = HeldPolynomials(network, 1.0, 0.0)
    with held.step(0.0, CPU):
        network(torch.full((1, 1, 1, 1), 3.0))
        network(torch.full((1, 1, 1, 1), 2.0))
    expected = (torch.tensor(1 + (9 - 3) ** 2 / 3**2).log() + torch.tensor(1 + (4 - 2) ** 2 / 2**2).log()) / 2
    torch.testing.assert_close(held.error, expected)


def test_rlnets_attack_looks_at_the_network_that_is_trained(tmp_path, monkeypatch):
    led = []
    monkeypatch.setattr(HeldPolynomials, "lead", lambda self, network: led.append(network))
    plan = quick_plan(tmp_path, f"budget.fraction={SMALL}", "replacement=quadratic", method="rlnet")
    network = plan.request.stage_network("finetune")
    teacher = plan.request.stage_network("teacher")
    stage = builder(plan.request.config.method.finetune)(network=network, teacher=teacher)
    stage.hold_polynomials(Quadratic(error_weight=1.0))
    assert [id(network) for network in led] == [id(stage._attacked.network)]


def test_a_student_without_shortcuts_does_not_begin_as_its_teacher(tmp_path):
    """The teacher's weights are those of another network."""
    words = (f"budget.fraction={SMALL}", "replacement=quadratic")
    assert quick_plan(tmp_path, *words, method="senet").request.begins_as_teacher
    assert not quick_plan(tmp_path, *words, "+backbone.student_skip=false", method="senet").request.begins_as_teacher


def test_one_escaped_image_spoils_no_batch_norm():
    """Medians over batches, of which a third here has an image of which activations escape, or NaN."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).eval()
    batches = [(torch.randn(16, 2, 3, 3), None) for _ in range(9)]
    batches[3][0][5] *= 1e6
    batches[6][0][0] = float("nan")
    batches[8][0][7] += 1e4
    median_norms(batches, network)
    assert not network.training and [norm.momentum for norm in (network[0], network[2])] == [0.1, 0.1]
    variances = torch.stack([images.transpose(0, 1).flatten(1).var(1) for images, _ in batches])
    torch.testing.assert_close(network[0].running_var, variances.nanmedian(0).values)
    assert all(norm.running_var.max() < 10 and norm.running_mean.abs().max() < 1 for norm in (network[0], network[2]))


def test_with_continuation_they_are_fitted_to_what_relus_give():
    """A site behind another: what it is given by its ReLU, or by its polynomial."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 1), MaskedReLU((4, 2, 2)), nn.Conv2d(4, 2, 1), MaskedReLU((2, 2, 2), 1))
    network[1].mask.fill_(False)
    network[3].mask.fill_(False)
    images = torch.linspace(-1, 1, 64).view(16, 1, 2, 2)
    found = [Quadratic(continuation=c).coefficients(network, [(images, None)], 0)["3.coefficients"] for c in (0.5, 0)]
    given = nn.Sequential(network[0], nn.ReLU(), network[2])(images)
    expected = Quadratic.fitted(*moments(given, ~network[3].mask))
    assert torch.allclose(found[0].flatten(1), expected, atol=1e-6)
    assert not torch.allclose(found[1], found[0], atol=1e-3)


def test_activations_that_would_escape_are_held():
    """A deep chain of layers with quadratics, each fitted to what the ones before give it, that learns to grow."""

    def grown(weight):
        torch.manual_seed(0)
        layers = [part for _ in range(4) for part in (nn.Conv2d(8, 8, 1), MaskedReLU((8, 1, 1)))]
        network = nn.Sequential(*layers)
        for index, site in enumerate(network[1::2]):
            site.index = index
            site.mask.fill_(False)
        images = torch.randn(256, 8, 1, 1)
        to_replaced(network, Quadratic().coefficients(network, [(images, None)], 0))
        held = HeldPolynomials(network, 1.0, 0.0)
        optimizer = torch.optim.SGD(network.parameters(), 0.02)
        for _ in range(60):
            with held.step(0.0, CPU):
                target = network(images).abs().mean().log()
            optimizer.zero_grad()
            (weight * held.error - target).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        return float(held.error.detach())

    near, free = grown(10.0), grown(0.0)
    assert near < 1 < 4 < free


def test_a_run_reports_it_and_its_weight_is_in_the_key(tmp_path, alone, monkeypatch):
    copy_store(alone[SMALL][1], tmp_path)
    words = (f"budget.fraction={SMALL}", "replacement=quadratic")
    estimated, estimate = [], Stage.estimate_norms
    monkeypatch.setattr(Stage, "estimate_norms", lambda self, net: estimated.append(self.name) or estimate(self, net))
    record, _ = quick_run(tmp_path, *words)
    assert estimated == ["finetune"] * len(record.stages["finetune"].history), "for each validation"
    assert all(row["train/polynomial_error"] > 0 for row in record.stages["finetune"].history)
    keys = {quick_plan(tmp_path, *words, f"replacement.error_weight={weight}").finetune.key for weight in (0, 0.5, 1)}
    assert len(keys) == 3
    for continuation, validations in ((0, 2), (0.5, 3)):
        record, _ = quick_run(
            tmp_path, *words, "replacement.error_weight=0", f"replacement.continuation={continuation}"
        )
        assert not any("train/polynomial_error" in row for row in record.stages["finetune"].history)
        assert len(estimated) == validations * len(record.stages["finetune"].history), "whatever else holds them"


def test_batch_norms_of_narrower_widths_keep_their_statistics(tmp_path, senetpp):
    copy_store(senetpp[1], tmp_path)
    _, folder = quick_run(tmp_path, "budget.fraction=0.2", "replacement=quadratic", method="senetpp")
    narrow = folder / "width-0.5" / "weights.safetensors"
    variances = {name: value for name, value in load_file(narrow).items() if name.endswith("running_var")}
    assert variances and not any(value.eq(1).all() for value in variances.values()), "those that a reset leaves"


@pytest.mark.parametrize(
    ("own", "of_fit", "used"), [(None, 5, 5), (1, 5, 1), (9, 5, 5), (9, None, 9), (None, None, None)]
)
def test_the_smaller_clip_is_used(own, of_fit, used):
    stage = Stage(nn.Linear(1, 1), epochs=1, batch_size=2, learning_rate=1.0, clip=own)
    stage.hold_polynomials(Quadratic(clip=of_fit))
    assert stage.clip == used


def test_an_affine_is_not_held():
    stage = Stage(nn.Linear(1, 1), epochs=1, batch_size=2, learning_rate=1.0)
    stage.hold_polynomials(Affine())
    assert stage.polynomials is None


@pytest.mark.parametrize(("name", "value"), [("error_weight", -1), ("continuation", 2), ("clip", 0)])
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(UserError, match=rf"replacement\.{name}={value}: must be a number >"):
        Quadratic(**{name: value})


def test_it_is_in_compiled_steps(without_code_generation):
    site = square(torch.tensor([[[False]]]))
    network = nn.Sequential(nn.Conv2d(1, 1, 1), site)
    held, images = HeldPolynomials(network, 1.0, 0.5), torch.randn(5, 1, 1, 1)

    def steps():
        for share in (0.125, 0.25, 0.75):
            with held.step(share, CPU):
                yield network(images), held.error

    eager = list(steps())
    network.compile()
    for (output, error), (expected, expected_error) in zip(steps(), eager, strict=True):
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(error, expected_error)
    error.backward()
    assert named_sites(network) and network[0].weight.grad.abs() > 0
