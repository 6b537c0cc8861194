"""Fine-tuning with PRAM (post-ReLU activation mismatch), SENet's third stage (Kundu et al., ICLR 2023).

    L = gamma * CE(student, y) + alpha * T^2 KL(softmax(teacher / T) || softmax(student / T)) + beta * PRAM

where PRAM compares what the ReLU sites of the student and of the all-ReLU teacher put out, in one of two forms:

attention    what the official code does: per sample, where in the map the energy lies (mean over channels of the
             squares), summed over the ends of the stages; gamma 0.1, alpha 0.5, beta 1000
activations  the paper as remembered (unverified): half the L2 distance of the normalised activation vectors, summed
             over the sites; gamma 1 - lambda, alpha lambda, lambda 0.9, beta 1000
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError
from relinearize.methods.distill import Distill
from relinearize.methods.senet.site_outputs import Outputs, SiteOutputs
from relinearize.relu.sites import site_shapes

# Norms below are taken for zero: a sample whose activations are all zero has no direction.
NORM_FLOOR = 1e-12

# ---- the two distances, in at least float32 --------------------------------------------------------------------------


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference, over batch and positions, of the two attention maps (SENet's official code).

    Both are N x C x H x W; the numbers of channels may differ. A sample's map is the mean over channels of the squares,
    as a vector of H*W values and L2 norm 1. Maps of one position are always equal: distance 0.
    """
    return (_attention(student) - _attention(teacher)).square().mean()


def _attention(outputs: Tensor) -> Tensor:
    # A sum, as the norm takes the factor 1/C away: the gradient of a mean is one more pass, in another memory layout.
    energy = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).square().sum(1)
    return F.normalize(energy.reshape(len(outputs), -1), eps=NORM_FLOOR)


def activation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Batch mean of the L2 distance between the L2-normalised activation vectors of each sample (SENet as remembered).

    Student N x C x H x W (or N x F); the teacher's first C channels are compared with it. The gradient goes to the
    student alone. It is 0 where the distance is 0 and in samples whose activations are all zero on either side.
    """
    return _NormalisedDistance.apply(student, teacher[:, : student.shape[1]]).mean()


class _NormalisedDistance(torch.autograd.Function):
    """Per sample d = |s/|s| - t/|t||, in a third of the passes over memory that autograd's operators need.

    With unit vectors u of s and v of t: d's gradient for s is (u - v - u (u . (u - v))) / (d |s|), and u . (u - v) is
    d^2 / 2.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor) -> Tensor:
        student_norm, teacher_norm = _norms(student), _norms(teacher)
        # Scaled by the ratio of the norms, which is exactly 1 for equal tensors: their distance is exactly 0.
        difference = (student * (teacher_norm / student_norm)).sub_(teacher)
        distance = _norms(difference, floor=0) / teacher_norm
        ctx.save_for_backward(student, teacher, student_norm, teacher_norm, distance)
        return distance.flatten()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        student, teacher, student_norm, teacher_norm, distance = ctx.saved_tensors
        smooth = (distance > 0) & (student_norm > NORM_FLOOR) & (teacher_norm > NORM_FLOOR)
        factor = torch.where(smooth, gradient.view_as(distance) / (distance * student_norm), 0)
        along_student = factor * (1 - distance.square() / 2) / student_norm
        return (student * along_student).addcmul_(teacher, -factor / teacher_norm).to(student.dtype), None


def _norms(outputs: Tensor, floor: float = NORM_FLOOR) -> Tensor:
    """The L2 norm of each sample, N x 1 x 1 x 1, `floor` where it is smaller."""
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    norms = torch.linalg.vector_norm(outputs, dim=tuple(range(1, outputs.dim())), keepdim=True, dtype=dtype)
    return norms.clamp_min(floor)


# The distance at a site, and the factor of the sum over sites (the paper's, as remembered: beta / 2).
FORMS = {"attention": (attention_distance, 1.0), "activations": (activation_distance, 0.5)}


def activation_mismatch(form: str, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """The PRAM term before its weight beta: a scalar from the outputs of each of `student`'s sites, in form `form`."""
    distance, factor = FORMS[form]
    return factor * torch.stack([distance(outputs, teacher[name]) for name, outputs in student.items()]).sum()


# ---- the sites -------------------------------------------------------------------------------------------------------


def stage_sites(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """The last site of each map size H x W, in forward order; `shapes` as of `site_shapes`, C x H x W each.

    ResNets: the ReLUs that end layer1, layer2, ... and, behind a 7x7 stem with a pool, the stem's, too. Wide ResNets,
    which activate before they convolve: the ReLU that reads a block's output for the next one and the final one (in
    convention snl, which has no final ReLU, the last of the third block); the official code compares batch-normed with
    raw sums there.
    """
    last = {tuple(shape[1:]): name for name, shape in shapes.items()}
    return [name for name, shape in shapes.items() if last[tuple(shape[1:])] == name]


def chosen_sites(
    sites: str | Sequence[str], shapes: Mapping[str, Sequence[int]], key: str, stage_ends: Sequence[str] = ()
) -> list[str]:
    """`sites` ("stages", "all", one name or a list of names) as names in forward order.

    "stages": `stage_ends` of a network that names them (VGG16: the ends of blocks 2 to 5, as in SENet's code), else
    `stage_sites`. Raises UserError, naming the config key `key`, for what is no site.
    """
    if sites == "stages":
        return list(stage_ends) or stage_sites(shapes)
    if sites == "all":
        return list(shapes)
    wanted = list(sites) if isinstance(sites, list | tuple) else [sites]
    unknown = [name for name in wanted if name not in shapes]
    if unknown or not wanted:
        names = list(shapes)
        raise UserError(
            f"{key}={sites} names {f'no site {unknown[0]}' if unknown else 'nothing'}; valid: stages, all, "
            f"or a list of sites ({names[0]} ... {names[-1]}; `relinearize count` lists all {len(names)})"
        )
    return [name for name in shapes if name in wanted]


# ---- the stage -------------------------------------------------------------------------------------------------------


class PRAMDistill(Distill):
    """Fine-tunes a linearized `network` against a frozen `teacher` with distillation and PRAM.

    Settings: conf/method/finetune/senet.yaml.

    Args:
        network: linearized; its masks do not change.
        teacher: pixels to logits, with modules of the same names as the network's sites (as of `frozen_copy`); not
            trained, not saved.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        form: str = "attention",
        sites: str | Sequence[str] = "stages",
        cross_entropy_weight: float = 0.1,
        distillation_weight: float = 0.5,
        pram_weight: float = 1000.0,
        **settings: Any,
    ) -> None:
        weights = {"cross_entropy_weight": cross_entropy_weight, "distillation_weight": distillation_weight}
        super().__init__(network, teacher, **weights, **settings)
        self.take_one_of(FORMS, form=form)
        self.take(">= 0", pram_weight=pram_weight)
        inner = inner_network(network)
        stage_ends = getattr(inner, "stage_ends", ())
        shapes, wanted = site_shapes(inner), site_shapes(inner_network(teacher))  # none in a frozen copy
        self.compared_sites = chosen_sites(sites, shapes, f"{self.config_key}.sites", stage_ends)
        for name in (name for name in self.compared_sites if name in wanted):
            if shapes[name][1:] != wanted[name][1:]:
                raise UserError(
                    f"{self.config_key} compares maps, and those of site {name} are {shapes[name][1:]} in the student, "
                    f"{wanted[name][1:]} in the teacher; give method/finetune=retrain"
                )
        self._student_outputs = SiteOutputs(network, self.compared_sites)
        self._teacher_outputs = SiteOutputs(teacher, self.compared_sites)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = self.teacher_outputs(images)
        return self.compared(self._student_outputs.run(self.network, images), wanted, labels)

    def teacher_outputs(self, images: Tensor) -> Outputs:
        """The teacher's outputs, without a graph."""
        with torch.no_grad():
            return self._teacher_outputs.run(self._frozen[0], images)

    def compared(self, found: Outputs, wanted: Outputs, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a student's outputs against the teacher's, and the terms before their weights as metrics.

        The student may have fewer channels than the teacher. May be called several times with one teacher's outputs.
        """
        for name in self.compared_sites:
            # torch.compile takes the graph of a former network of the same kind without looking at its hooks.
            if name not in found.sites or name not in wanted.sites:
                raise RuntimeError(f"site {name} was not seen; torch.compiler.reset() is needed before compile()")
        loss, metrics = self.logit_loss(found.logits, wanted.logits, labels)
        mismatch = activation_mismatch(self.form, found.sites, wanted.sites)
        return loss + self.pram_weight * mismatch, {**metrics, "pram": mismatch.detach()}
