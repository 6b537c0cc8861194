"""SENet's measure of what a linearized position costs: by how much its activation differs from the all-ReLU network's.

D_l = sum over the images of an epoch of |post-activation of the teacher - that of the student|, one value per position
of site l, in one of two measures:

activation  the student's activation as it is (SENet, stage 2; official code: helper/loops.py). A kept position then
            looks better than a linear one, so the next mask takes others and masks never settle.
linear      what the student's activation would be were the position linear, its pre-activation z, at kept and linear
            positions alike. The teacher's t is at least 0, so |t - z| = |t - relu(z)| + (relu(z) - z): the first
            measure plus what the student's own ReLU changes. No pre-activation has to be kept for it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from relinearize.methods.senet.site_outputs import SiteOutputs
from relinearize.relu.kernels import images_per_part, is_channels_last, rows

MEASURES = ("linear", "activation")


def add_mismatch(total: Tensor, student: Tensor, teacher: Tensor) -> None:
    """Add sum over the batch of |teacher - student| (N x C x H x W each) to `total` (C x H x W), in its dtype.

    By parts of the batch that fit the cache, each in the memory order of `student`: one pass over both tensors.
    """
    layout = torch.channels_last if is_channels_last(student) else torch.contiguous_format
    student, teacher = student.contiguous(memory_format=layout), teacher.contiguous(memory_format=layout)
    count = images_per_part(student)
    summed = torch.zeros(rows(student).shape[1], dtype=total.dtype, device=total.device)
    for ours, theirs in zip(rows(student).split(count), rows(teacher).split(count), strict=True):
        summed += (theirs - ours).abs_().sum(0, dtype=total.dtype)
    if layout is torch.channels_last:
        channels, height, width = total.shape
        summed = summed.view(height, width, channels).permute(2, 0, 1)
    total += summed.view(total.shape)


class Mismatch:
    """Accumulates D_l on the device while two networks run on the same images, the student first.

    The student's outputs are those that its backward pass keeps anyway, the teacher's are compared and dropped one by
    one: no further copy of a feature map lives longer than its own comparison.

    Args:
        student, teacher: networks with modules of the same names at their sites (see SiteOutputs).
        shapes: of the sites, C x H x W.
        measure: see MEASURES.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        shapes: Mapping[str, tuple[int, ...]],
        measure: str = "linear",
    ) -> None:
        self.sums = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self.measure = measure
        self._outputs: dict[str, Tensor] = {}
        self._student = SiteOutputs(student, shapes, take=self._keep)
        self._teacher = SiteOutputs(teacher, shapes, take=self._compare)
        self._compared = 0
        self.networks = (student, teacher)

    def to(self, device: torch.device) -> None:
        self.sums = {name: total.to(device) for name, total in self.sums.items()}

    def reset(self) -> None:
        for total in self.sums.values():
            total.zero_()

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logits of the student with their graph, logits of the teacher without); adds the batch to the sums."""
        student, teacher = self.networks
        with self._student.watching():
            logits = student(images)
        with torch.no_grad(), self._teacher.watching():
            teacher_logits = teacher(images)
        self._outputs.clear()  # what is alive now is the graph's alone
        seen, self._compared = self._compared, 0
        if seen != len(self.sums):  # torch.compile takes the graph of a like network and not its hooks
            raise RuntimeError(f"{seen} of {len(self.sums)} sites were seen; torch.compiler.reset() is needed")
        return logits, teacher_logits

    def _keep(self, name: str, given: Tensor, output: Tensor) -> None:
        self._outputs[name] = output.detach()
        if self.measure == "linear":
            add_mismatch(self.sums[name], given.detach(), output.detach())

    def _compare(self, name: str, given: Tensor, output: Tensor) -> None:
        self._compared += 1
        add_mismatch(self.sums[name], self._outputs[name], output)
