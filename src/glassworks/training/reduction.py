"""Exact reduction: gradients are added in a fixed binary tree, so the bits do not depend on the number of workers.

Floating-point addition is not associative: (a + b) + c and a + (b + c) may differ in the last bit. The tree adds micro-batches pairwise, then pairs of
pairs. The order is the same for any power-of-two number of ranks, since each rank computes a whole subtree.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from glassworks.training.sharding import whole
from glassworks.training.workers import Workers

BUCKET_BYTES = 4 << 20
"""Approximate size of a bucket of gradients."""


class TreeSum:
    """Sums a stream of lists of tensors like a binary counter, with at most log2(n) + 1 partial sums."""

    def __init__(self) -> None:
        self.partial: list[tuple[int, list[Tensor]]] = []

    def take_single(self) -> list[Tensor] | None:
        """The last leaf, removed, if the next leaf is its sibling; the caller adds the two. None otherwise."""
        return self.partial.pop()[1] if self.partial and self.partial[-1][0] == 1 else None

    def add(self, tensors: list[Tensor], leaves: int = 1) -> None:
        """Add a leaf, or the sum of two. Takes ownership of the tensors and may modify them."""
        size = leaves
        while self.partial and self.partial[-1][0] == size:
            _, left = self.partial.pop()
            torch._foreach_add_(left, tensors)
            tensors, size = left, 2 * size
        self.partial.append((size, tensors))

    def add_last(self, index: int, tensor: Tensor) -> Tensor:
        """The total at `index` of the lists, given the tensor of the last leaf. Frees the partial sums at `index`."""
        for _, tensors in reversed(self.partial):
            tensor = tensors[index].add_(tensor)
            tensors[index] = torch.empty(0)
        return tensor

    def total(self) -> list[Tensor]:
        """The sum. The number of leaves must have been a power of two."""
        assert len(self.partial) == 1, f"{sum(size for size, _ in self.partial)} leaves are no power of two"
        return self.partial[0][1]


class ExactReduction:
    """Gradients of the parameters, summed over all micro-batches of all ranks.

    Holds at most log2(micro-batches) + 2 buffers of the size of the gradient. Buckets are reduced while the last backward pass still runs: a bucket is
    sent once the gradients of all its parameters are ready. A parameter that no sample reaches has the gradient 0.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[nn.Parameter], workers: Workers) -> None:
        self.module, self.parameters, self.workers = module, list(parameters), workers
        self.tree = TreeSum()
        self.last = False
        if workers.size > 1:
            self.buckets = _buckets(self.parameters)
            self.bucket_of = {index: number for number, bucket in enumerate(self.buckets) for index in bucket}
            # every thread has a current device of its own
            use = partial(torch.cuda.set_device, workers.device) if workers.device.type == "cuda" else None
            self.thread = ThreadPoolExecutor(1, thread_name_prefix="exchange", initializer=use)
            self.hooks = [
                parameter.register_post_accumulate_grad_hook(partial(self._ready, index))
                for index, parameter in enumerate(self.parameters)
            ]

    def close(self) -> None:
        """Remove the hooks and stop the thread."""
        if self.workers.size > 1:
            for hook in self.hooks:
                hook.remove()
            self.thread.shutdown(cancel_futures=True)

    def sync_context(self, last: bool) -> AbstractContextManager[object]:
        """The context of a forward and backward pass."""
        return nullcontext()

    def add(self, backward: Callable[[], None], last: bool) -> None:
        """Run one backward pass and add its gradients; `last` marks the last pass of this rank in a step.

        Every second pass leaves the gradients of the previous one in place and autograd accumulates into them, so the lowest level of the tree is free.
        """
        self.last = last and self.workers.size > 1
        if self.last:
            self.totals: list[Tensor | None] = [None] * len(self.parameters)
            self.sent: list[Future[Tensor]] = []
            self.missing = [len(bucket) for bucket in self.buckets]
        before = self.tree.take_single() or []
        versions = [gradient._version for gradient in before]
        for parameter, gradient in zip(self.parameters, before, strict=False):
            parameter.grad = gradient
        backward()
        if self.last:
            return
        for gradient, version in zip(before, versions, strict=True):
            if gradient._version == version:
                gradient.add_(0.0)  # not reached in this pass: adding zero turns -0.0 into 0.0
        self.tree.add([_take_gradient(parameter) for parameter in self.parameters], leaves=2 if before else 1)

    def all_reduce_async(self, values: Tensor) -> Callable[[], Tensor]:
        """Start to sum `values` over all ranks during a backward pass; returns a function that waits for the sum."""
        return self.thread.submit(self.workers.add, values).result if self.workers.size > 1 else lambda: values

    def total(self) -> list[Tensor]:
        """The sums over all ranks. Resets the state for the next step."""
        tree, self.tree = self.tree, TreeSum()
        if not self.last:
            return tree.total()
        self.last = False
        for index in range(len(self.parameters)):
            if self.totals[index] is None:
                self.totals[index] = tree.add_last(index, _take_gradient(self.parameters[index]).add_(0.0))
        self._send_complete_buckets()
        result: list[Tensor] = list(self.parameters)
        for bucket, sent in zip(self.buckets, self.sent, strict=True):
            flat = sent.result()
            ends = accumulate((self.parameters[index].numel() for index in bucket), initial=0)
            for index, (start, end) in zip(bucket, pairwise(ends), strict=True):
                result[index] = flat[start:end].view_as(self.parameters[index])
        return result

    def _ready(self, index: int, _: Tensor) -> None:
        """The hook of a parameter: its gradient is ready."""
        if self.last:
            self.totals[index] = self.tree.add_last(index, _take_gradient(self.parameters[index]))
            bucket = self.bucket_of[index]
            self.missing[bucket] -= 1
            if bucket == len(self.sent) and not self.missing[bucket]:
                self._send_complete_buckets()

    def _send_complete_buckets(self) -> None:
        """Send buckets in the same order on every rank, whatever the order of completion."""
        while len(self.sent) < len(self.buckets):
            bucket = self.buckets[len(self.sent)]
            parts = [part for index in bucket if (part := self.totals[index]) is not None]
            if len(parts) < len(bucket):
                return
            flat = torch.cat([part.reshape(-1) for part in parts])
            for index in bucket:
                self.totals[index] = torch.empty(0)
            self.sent.append(self.thread.submit(self.workers.add, flat))


def _take_gradient(parameter: nn.Parameter) -> Tensor:
    gradient, parameter.grad = parameter.grad, None
    return torch.zeros_like(parameter) if gradient is None else gradient


def _buckets(parameters: list[nn.Parameter]) -> list[list[int]]:
    """Indices of parameters in buckets of one dtype and about `BUCKET_BYTES`, from the last parameter to the first, as in backward."""
    buckets: list[list[int]] = []
    size = BUCKET_BYTES
    for index in reversed(range(len(parameters))):
        parameter = parameters[index]
        if size >= BUCKET_BYTES or parameters[buckets[-1][-1]].dtype != parameter.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(index)
        size += parameter.numel() * parameter.element_size()
    return buckets


def clip_by_norm(gradients: list[Tensor], limit: float | None) -> float:
    """The global L2 norm of the gradients, which are then scaled in place to at most `limit`."""
    if hasattr(gradients[0], "full_tensor"):  # sharded: one collective for all
        norm = whole(torch.nn.utils.get_total_norm(gradients)).item()
    else:
        norms = torch.stack(torch._foreach_norm(gradients, 2))
        norm = torch.linalg.vector_norm(norms.cpu(), dtype=torch.float64).item()
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
    return norm
