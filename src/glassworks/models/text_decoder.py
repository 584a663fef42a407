"""A decoder configurable as GPT-2, Llama, SmolLM3, Mistral, Qwen2.5, Qwen3 or Gemma 3, with optional gated cross-attention to image tokens.

Image keys and values are computed once per image (`Memory`). Text keys and values are cached while decoding (`Cache`), so each step processes only
the new token.

With `recursion`, the blocks and the norm after them are the network f of a Tiny Recursive Model. The question x is the normalised embeddings, and the logits
are a linear map of the answer y. Attention is causal, so a token's states depend on no later token: every position takes all steps.
Shapes: B batch, T text tokens, N image tokens, C width, K heads of keys and values, D size of a head, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.errors import ConfigError
from glassworks.models.attention import (
    WHOLE_SEQUENCE,
    Attend,
    CrossAttention,
    KeysValues,
    SelfAttention,
    document_mask,
    document_positions,
    mutual_pairs,
)
from glassworks.models.feed_forward import FeedForward
from glassworks.models.losses import LinearLoss, linear_cross_entropy
from glassworks.models.memory import empty
from glassworks.models.recursion import States, refine, register_initial_states
from glassworks.models.rotary import Rotation, rotation
from glassworks.models.settings.text_decoder import Rope, View
from glassworks.models.settings.text_decoder import TextDecoder as Config

Memory = list[KeysValues]
"""Keys and values [B, H, N, D] of the image tokens, for each block."""


@dataclass
class Cache:
    """Keys and values of the text so far in one tensor [L, B, 2 K, T_max, D], the keys of a block before its values; `length` positions are filled.

    L is the number of blocks, with a recursion that of all applications of a block.

    Texts of different lengths are padded on the left: the first `padding` [B] positions of a row are padding. With `shared`, that many tokens of a
    beginning that all rows have come before the padding.
    `rotations` has the rotation of positions 0 … T_max - 1, each [T_max, D], for each kind of rotary positions in the model.
    """

    kept: Tensor
    padding: Tensor | None = None
    length: int = 0
    rotations: dict[Rope, Rotation] = field(default_factory=dict)
    last: int | None = None
    """The last position of the model. Finished rows are clamped to it while others continue."""
    shared: int = 0

    def __post_init__(self) -> None:
        self.columns = torch.arange(self.kept.shape[3], device=self.kept.device)
        if self.padding is not None:  # attention bias [B, T_max]
            self.hidden = (self.columns >= self.shared) & (self.columns < self.shared + self.padding[:, None])
            self.bias = self.kept.new_zeros(self.hidden.shape).masked_fill(self.hidden, -torch.inf)

    def reorder(self, rows: Tensor) -> None:
        """Keep the given rows of the batch, in that order (for beam search and finished texts)."""
        filled = self.kept.narrow(3, 0, self.length).index_select(1, rows)
        if len(rows) != self.kept.shape[1]:
            self.kept = self.kept.new_empty(len(self.kept), len(rows), *self.kept.shape[2:])
        self.kept.narrow(3, 0, self.length).copy_(filled)
        if self.padding is not None:
            self.padding, self.hidden, self.bias = self.padding[rows], self.hidden[rows], self.bias[rows]

    def keys_values(self, block: int) -> KeysValues:
        """Keys and values of a block, each [B, K, T_max, D], as writable views."""
        both = self.kept[block]
        heads = both.shape[1] // 2
        return both.narrow(1, 0, heads), both.narrow(1, heads, heads)

    def positions(self, new: int) -> Tensor:
        """Positions of the next tokens in their own texts: [new], or [B, new] with padding."""
        columns = self.columns.narrow(0, self.length, new)
        return columns if self.padding is None else (columns - self.padding[:, None]).clamp(0, self.last)

    def rotation(self, new: int, rope: Rope | None) -> Rotation | None:
        """The precomputed rotation of the next tokens."""
        if rope is None:
            return None
        if self.padding is None:
            return tuple(table.narrow(0, self.length, new) for table in self.rotations[rope])
        positions = self.positions(new)
        return tuple(table[positions][:, None] for table in self.rotations[rope])

    def mask(self, new: int, window: int | None = None) -> Tensor | None:
        """The attention mask of the next tokens: booleans [B or 1, 1, new, length + new], or an additive bias for one token.

        None if the causal mask suffices. With a `window`, a token attends to the latest `window` tokens.
        """
        end = self.length + new
        window = None if window is None or end <= window else window
        if window is None and self.padding is None and (new == 1 or self.length == 0):
            return None
        if window is None and new == 1:
            return self.bias[:, None, None, :end]
        key = self.columns[:end]
        query = key[self.length :, None]
        allowed = (key <= query)[None]
        if window is not None:
            allowed = allowed & (key > query - window)
        if self.padding is not None:  # padding attends to itself, since a row without keys gives NaN
            allowed = allowed & ~self.hidden[:, None, :end] | (key == query)
        return allowed[:, None]


def norm(config: Config) -> nn.Module:
    """The normalisation of a configuration."""
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.biases != "none")


class DecoderBlock(nn.Module):
    """A pre-norm block: causal self-attention, gated cross-attention if there is a memory, feed-forward.

    The gate (Flamingo, Alayrac et al., 2022) is tanh of a learned scalar. At 0, the block computes a language model without images.
    """

    def __init__(self, config: Config, memory_width: int | None) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = SelfAttention(
            config.width,
            config.heads,
            config.kv_heads,
            config.biases in ("all", "qkv", "attention"),
            config.biases in ("all", "attention"),
            config.head_size,
            config.attention_scale,
            config.norm_eps if config.head_norms else None,
        )
        if config.position == "learned":
            self.attention.fused_rows = {}  # GPT-2 has one projection to queries, keys and values
        self.has_cross_attention = memory_width is not None
        if memory_width is not None:
            self.cross_norm = norm(config)
            self.cross_attention = CrossAttention(config.width, config.heads, memory_width)
            self.gate = nn.Parameter(torch.ones(1))
        self.feed_forward_norm = norm(config)
        self.feed_forward = FeedForward(
            config.width, config.inner_width, config.feed_forward, bias=config.biases in ("all", "feed_forward")
        )
        self.has_output_norms = config.output_norms
        if config.output_norms:
            self.attention_output_norm, self.feed_forward_output_norm = norm(config), norm(config)
        self.dropout = config.dropout

    def forward(self, x: Tensor, attend: Attend = WHOLE_SEQUENCE, memory: KeysValues | None = None) -> Tensor:
        """Features [B, T, C] to features [B, T, C]. A block with cross-attention needs the keys and values of its `memory`."""
        mixed = self.attention(self.attention_norm(x), attend)
        x = x + self._drop(self.attention_output_norm(mixed) if self.has_output_norms else mixed)
        if self.has_cross_attention:
            x = x + torch.tanh(self.gate) * self._drop(self.cross_attention(self.cross_norm(x), memory))
        added = self.feed_forward(self.feed_forward_norm(x))
        return x + self._drop(self.feed_forward_output_norm(added) if self.has_output_norms else added)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class TextDecoder(nn.Module):
    """Token ids [B, T] to logits [B, T, V], with cross-attention to a memory if `memory_widths` has a width for each block."""

    initial_answer: Tensor
    initial_latent: Tensor

    def __init__(self, config: Config, vocabulary: int, memory_widths: Sequence[int] = ()) -> None:
        super().__init__()
        if memory_widths and config.width % config.heads:
            raise ConfigError(
                f"cross-attention to images needs heads that divide the width {config.width}, not {config.heads}"
            )
        self.config, self.max_tokens, self.vocabulary = config, config.max_tokens, vocabulary
        self.views = [config.view(block) for block in range(config.depth)]
        self.embedding_scale = config.width**0.5 if config.scale_embeddings else None
        self.tokens = nn.Embedding(vocabulary, config.width)
        if config.position == "learned":
            self.positions = nn.Embedding(config.max_tokens, config.width)
        widths = list(memory_widths) or [None] * config.depth
        self.blocks = nn.ModuleList(DecoderBlock(config, width) for width in widths)
        self.norm = norm(config)
        self.head = None if config.tied else nn.Linear(config.width, vocabulary, bias=False)
        self.gated, self.gated_every = nn.ModuleList(), 1
        if config.recursion:
            register_initial_states(self, config.width)

    def attach_gated(self, layers: Sequence[nn.Module], every: int) -> None:
        """Put a layer before each block whose number `every` divides. It gets the features and its element of the memory (`models.fusion.GatedLayer`)."""
        self.gated, self.gated_every = nn.ModuleList(layers), every

    def encode_memory(self, image_tokens: Sequence[Tensor]) -> Memory:
        """Keys and values of image tokens [B, N, C'], given per block or once for all blocks. Call it once per image."""
        tokens = list(image_tokens) * (len(self.blocks) if len(image_tokens) == 1 else 1)
        return [block.cross_attention.keys_values(one) for block, one in zip(self.blocks, tokens, strict=True)]

    def new_cache(self, rows: int, padding: Tensor | None = None, tokens: int | None = None, shared: int = 0) -> Cache:
        """An empty cache for `rows` texts of up to `tokens` tokens, by default the maximum of the model."""
        weight, config, tokens = self.tokens.weight, self.config, tokens or self.max_tokens
        positions = torch.arange(tokens, device=weight.device)
        rotations = {view.rope: self._rotation(positions, view.rope) for view in set(self.views) if view.rope}
        applied = config.recursion.applications if config.recursion else 1
        shape = (applied * len(self.blocks), rows, 2 * (config.kv_heads or config.heads), tokens, config.size)
        kept = empty(*shape, dtype=weight.dtype) if weight.device.type == "cpu" else weight.new_empty(shape)
        return Cache(kept, padding, 0, rotations, self.max_tokens - 1, shared)

    def forward(
        self,
        ids: Tensor,
        memory: Memory | None = None,
        cache: Cache | None = None,
        documents: Tensor | None = None,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        return self.logits(self.hidden(ids, memory, cache, documents, branches, positions))

    def hidden(
        self,
        ids: Tensor,
        memory: Memory | None = None,
        cache: Cache | None = None,
        documents: Tensor | None = None,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
        noise: Tensor | None = None,
        inputs: Tensor | None = None,
        mutual: Tensor | None = None,
        every_step: bool = False,
    ) -> Tensor:
        """The normalised features [B, T, C], the input of `logits`. `noise` [B, T, C] is added to the token embeddings.

        `documents` [B, T] numbers the packed documents of a row. Attention is masked between them, and positions restart. `branches` [B, T] numbers the
        branches of message trees (`document_mask`); it needs `positions` [B, T], the position of every token in its document. `cache` holds the
        preceding tokens and excludes all three. `inputs` [B, T, C] are input vectors in place of the embeddings of `ids`. Tokens of one group in `mutual`,
        int64 [B, T] from 1, attend to each other in both directions; they need documents, or an empty cache. `every_step` gives the features after every
        supervision step, [N_sup, B, T, C]; it needs a recursion.
        """
        new, mask = ids.shape[1], None
        if cache is not None:
            positions = cache.positions(new)
        elif documents is not None:
            if branches is not None and positions is None:
                raise ValueError("branches need positions: those of a branch continue from the end of its context")
            mask = document_mask(documents, branches, mutual)
            positions = document_positions(documents) if positions is None else positions
        else:
            positions = torch.arange(new, device=ids.device)
        x = self.embed(ids) if inputs is None else inputs
        if noise is not None:
            x = x + noise.to(x.dtype)
        if self.config.position == "learned":
            x = x + self.positions(positions)
        if mutual is not None and (documents is None if cache is None else cache.length):
            raise ValueError("mutual needs documents, or an empty cache")
        attends = {view: self._attend(view, new, mask, positions, cache, mutual) for view in dict.fromkeys(self.views)}
        numbers = count()  # of the applications of a block, each with keys and values of its own

        def network(x: Tensor) -> Tensor:
            for index, block in enumerate(self.blocks):
                attend = attends[self.views[index]]
                if cache is not None:
                    attend = replace(attend, cache=cache.keys_values(next(numbers)))
                if not self.gated:
                    x = block(x, attend, memory[index] if memory else None)
                    continue
                if memory and index % self.gated_every == 0:
                    layer = index // self.gated_every
                    x = self.gated[layer](x, memory[layer])
                x = block(x, attend)
            return self.norm(x)

        recursion = self.config.recursion
        if recursion is None:
            steps = [network(x)]
        else:
            x = F.rms_norm(x, x.shape[-1:], eps=self.config.norm_eps)  # as large as the states
            states: States = (self.initial_answer.expand_as(x), self.initial_latent.expand_as(x))
            steps = []
            for _ in range(recursion.supervision_steps):
                states = refine(network, x, (states[0].detach(), states[1].detach()), recursion)
                steps.append(states[0])
        if cache is not None:
            cache.length += new
        return torch.stack(steps) if every_step else steps[-1]

    def loss(
        self, hidden: Tensor, targets: Tensor, token_weights: Tensor | None = None, z_loss: float = 0.0
    ) -> LinearLoss:
        """The loss (`linear_cross_entropy`) of `targets` [B, T] from features [B, T, C], or the mean over features of supervision steps [N_sup, B, T, C]."""
        if hidden.dim() == targets.dim() + 1:
            return linear_cross_entropy(hidden, self.head_weight, targets, token_weights=token_weights, z_loss=z_loss)
        shape, steps = hidden.shape[:-1], len(hidden)
        weights = torch.ones_like(targets, dtype=torch.float32) if token_weights is None else token_weights
        found = linear_cross_entropy(
            hidden,
            self.head_weight,
            targets.expand(shape),
            token_weights=(weights / steps).expand(shape),
            z_loss=z_loss,
        )
        return found._replace(correct=found.correct / steps)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., C] of ids [...]."""
        x = self.tokens(ids)
        return x if self.embedding_scale is None else x * self.embedding_scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Features [..., C] to logits [..., V]."""
        return F.linear(hidden, self.tokens.weight) if self.head is None else self.head(hidden)

    @property
    def head_weight(self) -> Tensor:
        """The weight [V, C] of the output layer, for a loss that takes `hidden`."""
        return self.tokens.weight if self.head is None else self.head.weight

    def _attend(
        self,
        view: View,
        new: int,
        mask: Tensor | None,
        positions: Tensor,
        cache: Cache | None,
        mutual: Tensor | None = None,
    ) -> Attend:
        """The attention of the blocks with this view to `new` tokens at `positions`; `mask` separates packed documents."""
        if cache is not None:
            mask, past = cache.mask(new, view.window), cache.length
            if mutual is not None and new > 1:
                pairs = mutual_pairs(mutual)
                columns = cache.columns[:new]
                if view.window is not None:
                    pairs = pairs & (columns[:, None] - columns < view.window)
                mask = pairs[:, None] | (columns[:, None] >= columns if mask is None else mask)
            rotated = cache.rotation(new, view.rope)
        else:
            past = 0
            rotated = None if view.rope is None else self._rotation(positions, view.rope)
            if view.window is not None and new > view.window:
                back = positions[..., :, None] - positions[..., None, :]  # [T, T] or [B, T, T]
                near = (back < view.window).view(-1, 1, new, new)
                mask = near & (back >= 0).view(-1, 1, new, new) if mask is None else near & mask
        return Attend(mask, mask is None and new > 1, rotated, past=past)

    def _rotation(self, positions: Tensor, rope: Rope) -> Rotation:
        return rotation(positions, self.config.size, rope.theta, rope.scaling)
