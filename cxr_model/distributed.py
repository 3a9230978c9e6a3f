"""One training over several processes: torchrun starts them, these parts join them.

Every process walks through the same batches and computes its share of each, so that N
processes do what one does: losses are summed over the batch of all, batch norm takes its
statistics over the batch of all. Dropout alone draws for each process by itself.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process's place among ``count``."""

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls) -> "Processes":
        """Of the process group, where one is initialised; else this process alone."""
        if not dist.is_initialized():
            return cls()
        return cls(rank=dist.get_rank(), count=dist.get_world_size())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> slice:
        """The rows of a batch that are this process's: every ``count``-th."""
        return slice(self.rank, None, self.count)

    def sum_(self, values: Tensor) -> Tensor:
        """Sum ``values`` over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def first_says(self, answer: bool) -> bool:
        """The first process's answer, in all of them."""
        if self.count == 1:
            return answer
        on_gpu = dist.get_backend() == "nccl"
        told = torch.tensor(answer, device=torch.cuda.current_device() if on_gpu else "cpu")
        dist.broadcast(told, src=0)
        return bool(told)


def _sum_over_processes(values: Tensor) -> Tensor:
    """Gradients flow back through the sum."""
    summed: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return summed


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batch of all processes, on any back end (torch's own needs CUDA).

    Shares may differ in size; mean and variance are summed one after the other, which
    keeps the digits that a sum of squares would lose.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NCHW)
        x_NCHW = x_NCHW.float()
        count = x_NCHW.new_tensor([x_NCHW.numel() / x_NCHW.shape[1]])
        dist.all_reduce(count)
        mean_C = _sum_over_processes(x_NCHW.sum(dim=(0, 2, 3))) / count
        centred_NCHW = x_NCHW - mean_C.view(1, -1, 1, 1)
        variance_C = _sum_over_processes(centred_NCHW.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            # As in torch's own, no momentum stands for the plain mean over all batches.
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C, share)
            self.running_var.lerp_(variance_C * count / (count - 1), share)
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        y_NCHW: Tensor = centred_NCHW * scale_C.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return y_NCHW


def synchronise_norms(module: nn.Module) -> None:
    """Put a `SyncBatchNorm2d` in the place of each batch norm below ``module``."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.to(child.weight.device).train(child.training))
        else:
            synchronise_norms(child)


def loss_share(
    logits_NK: Tensor, targets_N: Tensor, weights_K: Tensor | None, smoothing: float
) -> Tensor:
    """Sum of the cross-entropies, to be divided by `loss_weight` of the whole batch."""
    return F.cross_entropy(
        logits_NK, targets_N, weight=weights_K, label_smoothing=smoothing, reduction="sum"
    )


def loss_weight(targets_N: Tensor, weights_K: Tensor | None) -> Tensor:
    """What a batch's summed loss is divided by: its films, or the sum of their weights."""
    if weights_K is None:
        return torch.full((), float(len(targets_N)), device=targets_N.device)
    return weights_K[targets_N].sum()
