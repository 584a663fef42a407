"""Shapes of the networks, and the published or trained weights that they begin with."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings

Count = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Colour = Annotated[tuple[float, float, float], Field(strict=False)]


class VisionTransformer(Settings):
    """A ViT encoder."""

    image_size: Count = 72
    """Side of the square input in pixels; images are resized to it when they differ."""
    patch_size: Count = 8
    """Side of a patch in pixels; divides image_size."""
    stem: Literal["linear", "convolutional"] = "linear"
    """How a patch becomes a token: one linear map (ViT), or three overlapping convolutions, which learn faster from scratch (patch_size a multiple of 4)."""
    width: Count = 128
    """Model dimension."""
    depth: Count = 4
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; divides width."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""
    class_token: bool = False
    """Whether a learned token goes before those of the patches (ViT, CLIP)."""
    first_norm: bool = False
    """Whether the tokens are normalised before the first block (CLIP)."""
    patch_bias: bool = True
    """Whether the linear stem has a bias (CLIP's has none)."""
    norm_eps: Positive = 1e-5
    """Added to the variance by LayerNorm (1e-6 in timm's ViT)."""
    feed_forward: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    """Non-linearity of the feed-forward part (quick_gelu in CLIP)."""
    feed_forward_width: Count | None = None
    """Inner features of the feed-forward part; null is four times the width."""
    mean: Colour = (0.5, 0.5, 0.5)
    """What is taken from red, green and blue (0 to 1) before the stem."""
    std: Colour = (0.5, 0.5, 0.5)
    """What they are divided by then."""

    @property
    def inner_width(self) -> int:
        """Inner features of the feed-forward part."""
        return self.feed_forward_width or 4 * self.width

    @model_validator(mode="after")
    def _divides(self) -> "VisionTransformer":
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.stem == "convolutional" and self.patch_size % 4:
            raise ValueError(f"patch_size {self.patch_size} is no multiple of 4, which the convolutional stem needs")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class WhisperEncoder(Settings):
    """The encoder of Whisper: log-mel spectrograms to features; tiny's shape by default."""

    mels: Count = 80
    """Mel bands of a frame."""
    frames: Annotated[int, Field(ge=2, multiple_of=2)] = 3000
    """Frames of every spectrogram; one is 10 ms, and Whisper hears 30 s, shorter sounds with silence after them."""
    width: Count = 384
    """Model dimension."""
    depth: Count = 4
    """Transformer blocks."""
    heads: Count = 6
    """Attention heads; divides width."""
    norm_eps: Positive = 1e-5
    """Added to the variance by LayerNorm."""
    feed_forward: Literal["gelu"] = "gelu"
    """Non-linearity of the feed-forward part."""
    feed_forward_width: Count | None = None
    """Inner features of the feed-forward part; null is four times the width."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""

    @property
    def inner_width(self) -> int:
        """Inner features of the feed-forward part."""
        return self.feed_forward_width or 4 * self.width

    @model_validator(mode="after")
    def _divides(self) -> "WhisperEncoder":
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class TextDecoder(Settings):
    """A decoder: GPT-2, Llama, SmolLM2 or Qwen2.5, by its settings."""

    width: Count = 128
    """Model dimension."""
    depth: Count = 3
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; divides width."""
    kv_heads: Count | None = None
    """Heads of keys and values, shared by groups of heads; null is as many as heads."""
    max_tokens: Annotated[int, Field(ge=4)] = 48
    """Longest text in tokens, BOS and EOS included."""
    position: Literal["learned", "rotary"] = "learned"
    """Positions: one learned vector each (GPT-2), or rotated queries and keys (Llama, Qwen)."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary angles."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation: LayerNorm (GPT-2) or RMSNorm (Llama, Qwen)."""
    norm_eps: Positive = 1e-5
    """Added to the variance."""
    feed_forward: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu"
    """Non-linearity of the feed-forward part: exact GELU, GPT-2's, or SwiGLU (Llama, Qwen)."""
    feed_forward_width: Count | None = None
    """Inner features of the feed-forward part; null is four times the width."""
    biases: Literal["all", "qkv", "none"] = "all"
    """Which linear maps and norms have biases: all (GPT-2), those to queries, keys and values (Qwen), none (Llama)."""
    tied: bool = True
    """Whether the output reads logits with the token embedding."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""

    @property
    def inner_width(self) -> int:
        """Inner features of the feed-forward part."""
        return self.feed_forward_width or 4 * self.width

    @model_validator(mode="after")
    def _divides(self) -> "TextDecoder":
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.position == "rotary" and self.width // self.heads % 2:
            raise ValueError(f"rotary positions need heads of an even size, not {self.width // self.heads}")
        return self


class Backbone(Settings):
    """An image encoder of timm, by name."""

    name: str
    """A model of timm, such as vit_base_patch16_224 or tf_efficientnet_lite0."""
    weights: str | None = None
    """An entry under `weights` in params.yaml, for the network to begin with; null begins with random weights."""
    image_size: Count = 224
    """Side of the square input in pixels; images are resized to it when they differ."""
    layers: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (-1,)
    """Which of the backbone's feature maps give tokens, counted as timm counts them (blocks of a ViT, stages of a convolutional network)."""


class Captioner(Settings):
    """An image encoder and a text decoder: `encoder` or `backbone`, `decoder` or `language_model`."""

    encoder: VisionTransformer | None = None
    """An image encoder trained from scratch."""
    backbone: Backbone | None = None
    """Instead: an image encoder of timm."""
    decoder: TextDecoder | None = None
    """A text decoder trained from scratch."""
    language_model: str | None = None
    """Instead: a text decoder to begin with, an experiment of task language_modelling or an entry under `weights` in params.yaml. Its new gated
    cross-attention is closed at first, so that it begins as the language model it was."""
    lock_step: bool = False
    """Whether decoder block i attends to layer i of the encoder (as many layers as blocks) and not all of them to the same tokens."""
    max_tokens: Annotated[int, Field(ge=4)] | None = None
    """Longest caption in tokens, BOS and EOS included; null is the decoder's limit."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "Captioner":
        for one, other in (("encoder", "backbone"), ("decoder", "language_model")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give either {one} or {other}, not both")
        if self.lock_step and self.backbone is None:
            raise ValueError("lock_step needs a backbone with one of its layers for each decoder block")
        return self

    @property
    def vision(self) -> VisionTransformer | Backbone:
        """What looks at the image."""
        return self.backbone or self.encoder or VisionTransformer()

    @property
    def text(self) -> TextDecoder:
        """Shapes of the decoder; those of `language_model` stand in its own config."""
        return self.decoder or TextDecoder()

    @property
    def caption_tokens(self) -> int:
        """Longest caption in tokens."""
        return min(self.max_tokens or self.text.max_tokens, self.text.max_tokens)
