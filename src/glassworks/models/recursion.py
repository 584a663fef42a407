"""The recursion of the Tiny Recursive Model (Jolicoeur-Martineau, 2025, arXiv 2510.04871), for any network f.

    round:             n times z = f(z + y + x), then y = f(y + z)
    supervision step:  T rounds

The question x, the answer y and the latent state z have the same shape [B, T, D].
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from glassworks.models.settings.recursive import Recursion

States = tuple[Tensor, Tensor]
"""The answer y and the latent state z."""


def register_initial_states(module: nn.Module, width: int) -> None:
    """Give `module` the states before the first supervision step, each [D]. Both are fixed: they are saved, and not trained."""
    for name in ("initial_answer", "initial_latent"):
        module.register_buffer(name, nn.init.trunc_normal_(torch.empty(width), std=1.0))


def refine(network: Callable[[Tensor], Tensor], x: Tensor, states: States, recursion: Recursion) -> States:
    """The states after one supervision step. `recursion.gradient` decides which updates have a gradient."""
    answer, latent = states
    for left in reversed(range(recursion.outer_recursions)):
        whole = recursion.gradient == "all_rounds" or (recursion.gradient == "last_round" and not left)
        for more in reversed(range(recursion.inner_recursions)):
            with nullcontext() if whole or not (left or more) else torch.no_grad():
                latent = network(latent + answer + x)
        with nullcontext() if whole or not left else torch.no_grad():
            answer = network(answer + latent)
    return answer, latent
