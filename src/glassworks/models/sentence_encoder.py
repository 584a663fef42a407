"""Sentence vectors from a published encoder, such as all-MiniLM-L6-v2: pooled token features, by default scaled to length 1.

Reads a local directory in the layout of sentence-transformers (modules.json) or of transformers, and never downloads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.artifacts.finite import check_finite
from glassworks.artifacts.model_files import CONFIG, read_hub_config, read_hub_list
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models.pretrained.hub_keys import HubKeys

MODULES, LIMITS, POOLING = "modules.json", "sentence_bert_config.json", "1_Pooling"
PROMPTS = "config_sentence_transformers.json"
READER = "our sentence encoder"
POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Our poolings by sentence-transformers' flags. Newer files name one in `pooling_mode`."""


class SentenceEncoder(nn.Module):
    """Token ids [B, T] and their mask [B, T] to vectors [B, C], pooled over the unmasked tokens; unit vectors with `unit`."""

    def __init__(self, network: Any, tokenizer: Any, max_tokens: int, pooling: str = "mean", unit: bool = True) -> None:
        super().__init__()
        self.network, self.tokenizer, self.max_tokens = network, tokenizer, max_tokens
        self.pooling, self.unit = pooling, unit
        self.width: int = network.config.hidden_size

    @classmethod
    def load(cls, directory: Path) -> "SentenceEncoder":
        """The encoder in a directory, in float32. Raises `ArtifactError` for an unreadable model or tokenizer, and for missing or unknown weights.

        Raises `ConfigError` naming a module or a setting of sentence-transformers that is not read.
        """
        from transformers import AutoModel, AutoTokenizer

        read_hub_config(directory)
        pooling, unit = _modules(directory)
        _check_prompts(directory)
        try:
            network, loading = AutoModel.from_pretrained(
                directory,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"{directory}: transformers cannot read it as an encoder ({str(error).splitlines()[0]})"
            ) from None
        _check(loading, directory)
        if hasattr(network, "pooler"):
            network.pooler = None  # unused: sentence vectors come from the tokens
        check_finite(network.state_dict(), directory)
        return cls(network, tokenizer, _limit(directory, network, tokenizer), pooling, unit).eval()

    def forward(self, ids: Tensor, mask: Tensor, layer: int = -1) -> Tensor:
        """Ids and mask [B, T] to vectors [B, C] of block `layer`."""
        if layer == -1:
            tokens = self.network(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, C]
        else:
            states = self.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            tokens = states[1:][layer]
        vectors = self._pooled(tokens, mask[..., None].to(tokens.dtype))
        return F.normalize(vectors, dim=-1) if self.unit else vectors

    def _pooled(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Features [B, T, C] with weights [B, T, 1] to vectors [B, C]."""
        if self.pooling == "cls":
            first = weights[..., 0].argmax(1)
            return tokens[torch.arange(len(tokens), device=tokens.device), first]
        if self.pooling == "lasttoken":
            places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
            last = (weights[..., 0] * places).argmax(1)
            return tokens[torch.arange(len(tokens), device=tokens.device), last]
        if self.pooling == "max":
            return tokens.masked_fill(weights == 0, -torch.inf).amax(1)
        return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], batch_size: int = 64) -> Tensor:
        """Vectors [N, C] of sentences truncated to `max_tokens`. The similarity of two unit vectors is their dot product."""
        vectors = [torch.empty(0, self.width, device=next(self.parameters()).device)]
        for start in range(0, len(sentences), batch_size):
            batch = self.tokenizer(
                list(sentences[start : start + batch_size]),
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            device = next(self.parameters()).device
            vectors.append(self(batch["input_ids"].to(device), batch["attention_mask"].to(device)))
        return torch.cat([part.to(vectors[-1].device) for part in vectors])


def _modules(directory: Path) -> tuple[str, bool]:
    """Pooling and scaling from modules.json; mean and unit length without it."""
    if not (directory / MODULES).is_file():
        return (_pooling(directory, POOLING), True) if (directory / POOLING / CONFIG).is_file() else ("mean", True)
    for module in read_hub_list(directory, MODULES):
        HubKeys(module, directory / MODULES, reader=READER).finish(["idx", "name", "path", "type"])
    modules = sorted(read_hub_list(directory, MODULES), key=lambda module: module.get("idx", 0))
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ConfigError(
            f"{directory / MODULES}: type is {' > '.join(kinds)}; sentence encoders are read of Transformer > Pooling, with or without Normalize"
        )
    if modules[0].get("path"):
        raise ConfigError(
            f"{directory / MODULES}: path is {modules[0]['path']!r}; the Transformer is read from the folder itself"
        )
    return _pooling(directory, str(modules[1].get("path") or POOLING)), len(kinds) == 3


def _check_prompts(directory: Path) -> None:
    """Raise `ConfigError` for a prompt that sentence-transformers would put before every text."""
    if not (directory / PROMPTS).is_file():
        return
    keys = HubKeys(read_hub_config(directory, PROMPTS), directory / PROMPTS, reader=READER)
    keys.only("default_prompt_name", None)
    keys.only("truncate_dim", None)
    keys.only("model_type", "SentenceTransformer", None)
    keys.finish(["__version__", "prompts", "similarity_fn_name"])


def _pooling(directory: Path, folder: str) -> str:
    """The one pooling of its configuration."""
    file = directory / folder / CONFIG
    if Path(folder).name != folder or not file.is_file():
        raise ArtifactError(f"{file}: no such file; {MODULES} names it")
    config = read_hub_config(directory / folder)
    if "pooling_mode" in config:
        chosen = config["pooling_mode"] if isinstance(config["pooling_mode"], list) else [config["pooling_mode"]]
    else:
        chosen = [POOLINGS.get(name, name) for name, on in config.items() if name.startswith("pooling_mode") and on]
    if len(chosen) != 1 or chosen[0] not in POOLINGS.values():
        raise ConfigError(f"{file}: pooling_mode is {chosen}; read is one of {', '.join(POOLINGS.values())}")
    keys = HubKeys(config, file, reader=READER)
    keys.only("include_prompt", True)
    flags = [name for name in config if name.startswith("pooling_mode")]
    keys.finish([*flags, "word_embedding_dimension", "embedding_dimension"])
    return str(chosen[0])


def _check(loading: dict[str, Any], directory: Path) -> None:
    """Raise `ArtifactError` for weights that the file lacks or that the network does not know; those of the pooler are unused."""
    missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name.split("."))
    wrong = sorted(str(name) for name in loading.get("mismatched_keys") or [])
    heads = ("cls.", "lm_head.", "classifier.", "predictions.", "vocab_", "generator_")
    extra = sorted(
        name
        for name in loading["unexpected_keys"]
        if not name.startswith(heads) and "pooler" not in name and "position_ids" not in name
    )
    faults = [
        f"{kind} {', '.join(names[:3])}"
        for kind, names in (("missing", missing), ("misshapen", wrong), ("extra", extra))
        if names
    ]
    if faults:
        raise ArtifactError(f"{directory}: not the weights of its {CONFIG}: {'; '.join(faults)}")


def _limit(directory: Path, network: Any, tokenizer: Any) -> int:
    """Maximum tokens of a text: the smallest of the network's positions, of sentence_bert_config.json and of the tokenizer."""
    config, limits = network.config, [int(tokenizer.model_max_length)]
    if (positions := getattr(config, "max_position_embeddings", None)) is not None:
        table = getattr(getattr(network, "embeddings", None), "position_embeddings", None)
        offset = (
            0 if getattr(table, "padding_idx", None) is None else table.padding_idx + 1
        )  # RoBERTa's begin after padding
        limits.append(positions - offset)
    if (directory / LIMITS).is_file():
        keys = HubKeys(read_hub_config(directory, LIMITS), directory / LIMITS, reader=READER)
        keys.only("do_lower_case", False, None)
        if keys.get("max_seq_length") is not None:
            limits.append(keys.count("max_seq_length"))
        keys.finish()
    return min(limits)
