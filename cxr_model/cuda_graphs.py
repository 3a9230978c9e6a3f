"""A batch's gradients as one CUDA graph: all its kernels are launched at once.

The kernels of a small network are shorter than it takes Python to launch them: a fast GPU
would wait for the host most of the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Gradients = Callable[[Tensor, Tensor, int, int], Tensor]
"""``(pixels_NCHW, targets_B, size_px, num_parts) -> loss``; gradients lie with the parameters."""


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    pixels_NCHW: Tensor
    targets_B: Tensor
    loss: Tensor
    gradients: list[Tensor | None]


class GraphedGradients:
    """Calls ``compute`` once for each kind of batch, records the second call, repeats it then.

    ``compute`` neither waits for the device nor reads from the host; what it draws comes
    from ``draws`` and the device's default generator, which the caller seeds before each
    call. The loss returned and the gradients are overwritten by the next call.
    """

    def __init__(
        self, compute: Gradients, parameters: Sequence[nn.Parameter], draws: torch.Generator
    ) -> None:
        self._compute, self._parameters, self._draws = compute, parameters, draws
        self._kind: tuple[int, int] | None = None
        self._recorded: dict[int, _Recorded | None] = {}

    def __call__(
        self, pixels_NCHW: Tensor, targets_B: Tensor, size_px: int, num_parts: int
    ) -> Tensor:
        if self._kind != (size_px, num_parts):  # films grow, parts shrink: neither comes back
            self._recorded.clear()
            self._kind = size_px, num_parts
        num_films = len(pixels_NCHW)
        if num_films not in self._recorded:
            loss = self._compute(pixels_NCHW, targets_B, size_px, num_parts)
            self._recorded[num_films] = None  # libraries have chosen their ways and workspaces
            return loss
        recorded = self._recorded[num_films]
        if recorded is None:
            recorded = self._record(pixels_NCHW.clone(), targets_B.clone())
            self._recorded[num_films] = recorded
        recorded.pixels_NCHW.copy_(pixels_NCHW)
        recorded.targets_B.copy_(targets_B)
        recorded.graph.replay()
        for parameter, gradient in zip(self._parameters, recorded.gradients, strict=True):
            parameter.grad = gradient
        return recorded.loss

    def _record(self, pixels_NCHW: Tensor, targets_B: Tensor) -> _Recorded:
        assert self._kind is not None
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._draws)
        device = self._draws.device  # which need not be the current one
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
            loss = self._compute(pixels_NCHW, targets_B, *self._kind)
        gradients = [parameter.grad for parameter in self._parameters]
        return _Recorded(
            graph=graph,
            pixels_NCHW=pixels_NCHW,
            targets_B=targets_B,
            loss=loss,
            gradients=gradients,
        )
