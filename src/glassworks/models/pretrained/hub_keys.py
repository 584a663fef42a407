"""config.json of a published model, read key by key: a key that could change the result and is not read is refused by its name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from glassworks.errors import ArtifactError, ConfigError

HARMLESS = frozenset(
    [
        "_attn_implementation",
        "_commit_hash",
        "_flash_attn_2_enabled",
        "_from_model_config",
        "_name_or_path",
        "_num_labels",
        "_sliding_window_pattern",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "attn_pdrop",
        "auto_map",
        "bos_token_id",
        "cache_implementation",
        "chat_template",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "finetuning_task",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "model_type",
        "n_ctx",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "reorder_and_upcast_attn",
        "return_dict",
        "sep_token_id",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    ]
)
"""Keys that change neither features nor logits in eval mode and fp32. The token ids are read with the tokenizer."""
GENERATION = frozenset(
    [
        "bad_words_ids",
        "begin_suppress_tokens",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_decoder_ids",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "temperature",
        "tf_legacy_loss",
        "top_k",
        "top_p",
        "typical_p",
    ]
)
"""Keys of generation, which transformers before 4.50 wrote into every config.json, also into that of an encoder."""
SWITCHED_OFF: dict[str, Any] = {
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "torchscript": False,
}
"""Keys of every type that are read with this value only."""


class HubKeys:
    """The keys of a configuration. `finish` raises `ConfigError` for the first key that is neither read nor harmless."""

    def __init__(
        self, hub: Mapping[str, Any], where: Path | str, inside: str = "", reader: str = "our decoder"
    ) -> None:
        """`inside` is the path to a nested mapping, with its dot. `reader` stands in the errors."""
        self.hub, self.where, self.inside, self.reader = hub, where, inside, reader
        self.read = set[str]()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key, or `default` if it is missing."""
        self.read.add(name)
        return self.hub.get(name, default)

    def need(self, name: str) -> Any:
        """The value of a key. Raises `ArtifactError` if it is missing or null."""
        value = self.get(name)
        if value is None:
            raise ArtifactError(
                f"{self.where}: the configuration of a {self.hub.get('model_type')} model without '{self.inside}{name}'"
            )
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.need(name) if default is None else self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refusal(name, value, "a whole number above 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self.need(name) if default is None else self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self.refusal(name, value, "a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false; null is the default."""
        value = self.get(name, default)
        return bool(self.one_of(name, default if value is None else value, (False, True)))

    def only(self, name: str, *allowed: Any) -> Any:
        """The value of a key, the first of `allowed` if it is missing."""
        return self.one_of(name, self.get(name, allowed[0]), allowed)

    def one_of(self, name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
        """`value`, if it is allowed."""
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise self.refusal(name, value, " or ".join(map(repr, allowed)))
        return value

    def refusal(self, name: str, value: Any, known: str) -> ConfigError:
        """The error of a key whose value our network lacks."""
        return ConfigError(
            f"{self.where}: {self.inside}{name} is {value!r:.80}, which {self.reader} does not have (it has {known})"
        )

    def numbers(self, name: str, count: int, default: tuple[float, ...]) -> tuple[float, ...]:
        """`count` numbers."""
        value = self.get(name)
        if value is None:
            return default
        if (
            not isinstance(value, list | tuple)
            or len(value) != count
            or not all(type(x) in (int, float) for x in value)
        ):
            raise self.refusal(name, value, f"{count} numbers")
        return tuple(map(float, value))

    def finish(self, harmless: Iterable[str] = ()) -> None:
        """Raise `ConfigError` if a key was not read and is neither in `harmless` nor harmless in every type. A null changes nothing."""
        for name, only in SWITCHED_OFF.items():
            if name not in self.read and self.hub.get(name) not in (None, only):
                raise self.refusal(name, self.hub[name], repr(only))
        known = self.read | HARMLESS | GENERATION | SWITCHED_OFF.keys() | set(harmless)
        for name, value in self.hub.items():
            if name not in known and value is not None:
                raise ConfigError(
                    f"{self.where}: {self.inside}{name} is {value!r:.80}, and this key is not read; "
                    "if it changes nothing, take it out of the file"
                )
