"""nanoMolmo2: a complete vision-language model in one file. It needs torch, torchvision and Pillow, and nothing else.

    python nanomolmo2.py train data.jsonl                        # writes nanomolmo2.pt
    python nanomolmo2.py ask nanomolmo2.pt cat.jpg "What is on the mat?"

Every line of data.jsonl is a JSON object. Paths of images are relative to the folder of the file.

    {"image_path": "cat.jpg", "caption": "A cat on a mat."}
    {"image": "cat.jpg", "conversations": [{"from": "human", "value": "<image>\nWho is it?"}, {"from": "gpt", "value": "A cat."}]}

An image becomes tokens of the text in two steps, and the third step is a language model:

    pixels --(1) vision tower, CLIP's ViT--> patches --(2) connector, attention pooling--> image tokens --(3) decoder, as Qwen2.5--> next token

Tensors of tower and decoder have the names of the published files, so `model.vision` and `model.language` take real CLIP and Qwen2.5 weights by
`load_state_dict`. The defaults are a small model that a laptop trains from scratch.
Shapes in comments: B rows of a batch, T tokens, P patches of an image, M image tokens, C width of the tower, D width of the decoder, V vocabulary.
"""

import argparse
import codecs
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torchvision.transforms import functional


# ---------- Settings ----------
@dataclass
class Config:
    """The shape of a model. In brackets: CLIP ViT-L/14-336 with Qwen2.5-0.5B."""

    image_size: int = 96  # [336] side of the square input in pixels
    patch_size: int = 12  # [14]
    vision_width: int = 128  # [1024]
    vision_depth: int = 4  # [22] blocks; Molmo leaves out the last two of CLIP's 24
    vision_heads: int = 4  # [16]
    vision_layers: tuple[int, ...] = (-1, -3)  # [(-1, -8)] blocks whose outputs are joined
    window: int = 2  # [2] a window of 2 x 2 patches becomes one image token
    width: int = 192  # [896]
    depth: int = 4  # [24]
    heads: int = 6  # [14]
    kv_heads: int = 2  # [2] heads of keys and values, shared by groups of query heads
    inner_width: int = 512  # [4864] hidden features of SwiGLU
    vocabulary: int = 258  # [151936] 256 bytes, BOS and EOS
    max_tokens: int = 512  # [32768]
    rope_theta: float = 1e6  # [1e6]

    def __post_init__(self) -> None:
        self.grid = self.image_size // self.patch_size  # patches of a side
        self.image_tokens = math.ceil(self.grid / self.window) ** 2


# The tokenizer: a token is a byte of UTF-8. It needs no file, and no text is outside its vocabulary.
BOS, EOS = 256, 257

# Tokens of an image are no part of the vocabulary: a model never predicts them. Their ids follow the vocabulary, and they have an embedding of their own.
IMAGE_START, IMAGE_PATCH, IMAGE_END = range(3)

# CLIP's mean and deviation of red, green and blue. A tower must see the colours that it was trained with.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

CAPTION = "Describe this image."  # the question whose answer is a caption


# ---------- 1. The vision tower: CLIP's ViT ----------
class VisionAttention(nn.Module):
    """Every patch attends to every patch."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, P, C / H]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class VisionLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = VisionAttention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        inner = self.mlp["fc1"](self.layer_norm2(x))
        inner = inner * torch.sigmoid(1.702 * inner)  # CLIP's "quick GELU", with which its weights were trained
        return x + self.mlp["fc2"](inner)


class VisionTower(nn.Module):
    """Images [B, 3, I, I] to the features [B, P, C * layers] of their patches."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, size = config.vision_width, config.patch_size
        self.read = config.vision_layers
        # A convolution whose stride is its size is one linear map for each patch.
        patches, positions = nn.Conv2d(3, width, size, size, bias=False), nn.Embedding(config.grid**2 + 1, width)
        self.embeddings = nn.ModuleDict({"patch_embedding": patches, "position_embedding": positions})
        self.embeddings.class_embedding = nn.Parameter(torch.zeros(width))
        self.pre_layrnorm = nn.LayerNorm(width)  # the published name is misspelt
        layers = [VisionLayer(width, config.vision_heads) for _ in range(config.vision_depth)]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embeddings["patch_embedding"](images).flatten(2).transpose(1, 2)  # [B, P, C]
        first = self.embeddings.class_embedding.expand(len(images), 1, -1)
        x = self.pre_layrnorm(torch.cat([first, patches], dim=1) + self.embeddings["position_embedding"].weight)
        outputs = []
        for layer in self.encoder["layers"]:
            x = layer(x)
            outputs.append(x[:, 1:])
        # Outputs of an early and a late block are joined. The class token is dropped, and CLIP's final norm is not applied.
        return torch.cat([outputs[layer] for layer in self.read], dim=-1)


# ---------- 2. The connector: attention pooling, then SwiGLU ----------
class SwiGLU(nn.Module):
    """A feed-forward part whose inner features are multiplied by a gate. Every layer of the decoder has one, too."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Connector(nn.Module):
    """Features of patches [B, P, C * layers] to image tokens [B, M, D]. The mean of each window of patches attends to its patches."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, grid, window = config.vision_width * len(config.vision_layers), config.grid, config.window
        self.heads = config.vision_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.project = SwiGLU(width, config.inner_width, config.width)
        across = math.ceil(grid / window)
        numbers = F.pad(torch.arange(grid**2).view(grid, grid), [0, across * window - grid] * 2, value=-1)
        windows = numbers.view(across, window, across, window).transpose(1, 2).reshape(across**2, window**2)
        self.register_buffer("places", windows.clamp(min=0), persistent=False)  # [M, W]: the patches of each window
        self.register_buffer("real", windows >= 0, persistent=False)  # False beyond the edge of the image

    def forward(self, patches: Tensor) -> Tensor:
        real = self.real[:, :, None].to(patches.dtype)
        mean = (patches[:, self.places] * real).sum(2) / real.sum(1)  # [B, M, C * layers]
        query = self.query(mean).unflatten(-1, (self.heads, -1))
        key, value = (
            project(patches).unflatten(-1, (self.heads, -1))[:, self.places]  # [B, M, W, heads, size]
            for project in (self.key, self.value)
        )
        scores = torch.einsum("bmhd,bmwhd->bmhw", query, key).float() * key.shape[-1] ** -0.5
        weights = scores.masked_fill(~self.real[:, None], -torch.inf).softmax(-1).to(value.dtype)
        return self.project(self.out(torch.einsum("bmhw,bmwhd->bmhd", weights, value).flatten(2)))


# ---------- 3. The decoder: Qwen2.5 ----------
def rotation(positions: Tensor, size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of every position [T], each [T, size], in float32."""
    frequencies = theta ** -(torch.arange(0, size, 2, device=positions.device).float() / size)
    angles = positions[:, None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (i, i + size / 2) of `x` [B, H, T, size] by the angle of its position.

    The angles above repeat in halves, so the pairs must be halves too. With pairs of neighbours it would be no rotation, and the score of two tokens
    would depend on more than their distance.
    """
    first, second = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat([-second, first], dim=-1) * sine).to(x.dtype)


class Attention(nn.Module):
    """Groups of query heads share one head of keys and values. Only queries, keys and values have biases."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.size = config.width // config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj, self.v_proj = (nn.Linear(config.width, config.kv_heads * self.size) for _ in range(2))
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: dict | None) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (-1, self.size)).transpose(1, 2)  # [B, heads, T, size]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, *turn), rotate(key, *turn)
        if cache is not None:  # keys and values of all tokens so far, so that a new token computes only its own
            if cache:
                key, value = torch.cat([cache["key"], key], dim=2), torch.cat([cache["value"], value], dim=2)
            cache["key"], cache["value"] = key, value
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(config.width, eps=1e-6) for _ in range(2))
        self.self_attn, self.mlp = Attention(config), SwiGLU(config.width, config.inner_width, config.width)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: dict | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Input vectors [B, T, D] to normalised features [B, T, D]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)  # the output layer has the same weights
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor | None, past: int = 0, caches: list | None = None) -> Tensor:
        positions = torch.arange(past, past + x.shape[1], device=x.device)
        turn = rotation(positions, self.config.width // self.config.heads, self.config.rope_theta)
        for layer, cache in zip(self.layers, caches or [None] * len(self.layers), strict=True):
            x = layer(x, turn, mask, cache)
        return self.norm(x)


# ---------- The whole model ----------
class NanoMolmo2(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision, self.connector, self.language = VisionTower(config), Connector(config), Decoder(config)
        self.special = nn.Embedding(3, config.width)  # IMAGE_START, IMAGE_PATCH, IMAGE_END
        self.apply(initialise)

    def forward(self, ids: Tensor, images: Tensor | None = None, past: int = 0, caches: list | None = None) -> Tensor:
        """Features [B, T, D] of tokens [B, T] with one image [3, I, I] a row. `past` tokens before them are in `caches`."""
        number = ids - self.config.vocabulary  # of a token of the image; negative for text
        special, mask = number >= 0, None
        text = self.language.embed_tokens(ids.where(~special, 0))
        x = torch.where(special[..., None], self.special(number.clamp(min=0)), text)
        if images is not None:
            # The image is added to the embeddings of its placeholders. Only here the decoder gets the image, and gradients return to connector and tower.
            places = number == IMAGE_PATCH
            x[places] = x[places] + self.connector(self.vision(images)).flatten(0, 1).to(x.dtype)
        if not past:
            # A token attends to itself and to earlier ones. Tokens of the image attend to each other in both directions: pixels have no order.
            causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
            mask = (causal | (special[:, :, None] & special[:, None, :]))[:, None]  # [B, 1, T, T]
        return self.language(x, mask, past, caches)

    def logits(self, features: Tensor) -> Tensor:
        return F.linear(features, self.language.embed_tokens.weight).float()

    def loss(self, ids: Tensor, weights: Tensor, images: Tensor) -> Tensor:
        """Weighted mean cross-entropy of the answers. `weights` [B, T] is that of each token as a target; 0 for questions, images and padding."""
        targets, weights = ids[:, 1:], weights[:, 1:]  # the target of a token is the next one
        learned = weights > 0
        logits = self.logits(self(ids[:, :-1], images)[learned])  # [answer tokens, V]: the output layer sees no others
        losses = F.cross_entropy(logits, targets[learned], reduction="none")
        return (losses * weights[learned]).sum() / weights.sum()

    @torch.inference_mode()
    def answer(self, ids: list[int], image: Tensor, temperature: float = 0.0, most: int = 200) -> Iterator[int]:
        """The tokens of an answer, one after another, until EOS. The image and the question are computed once."""
        new, past, caches = torch.tensor([ids], device=image.device), 0, [{} for _ in self.language.layers]
        for _ in range(min(most, self.config.max_tokens - len(ids))):
            logits = self.logits(self(new, None if past else image[None], past, caches)[:, -1])
            past += new.shape[1]
            new = logits.argmax(-1, keepdim=True)
            if temperature:
                new = torch.multinomial((logits / temperature).softmax(-1), 1)
            if new.item() == EOS:
                return
            yield int(new.item())


def initialise(module: nn.Module) -> None:
    """Embeddings as in GPT-2. Matrices by their inputs, which keeps the scale of the features at any width."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ---------- Data ----------
def prompt(config: Config, question: str) -> list[int]:
    """BOS, the image and the question. Every message ends with EOS."""
    start, patch, end = (config.vocabulary + token for token in (IMAGE_START, IMAGE_PATCH, IMAGE_END))
    return [BOS, start, *[patch] * config.image_tokens, end, EOS, *question.encode(), EOS]


def read_image(path: Path, size: int) -> Tensor:
    """The image as float32 [3, size, size], with CLIP's mean and deviation."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        sys.exit(f"error: {path}: no readable image ({error})")
    pixels = functional.pil_to_tensor(image)
    pixels = functional.resize(pixels, [size, size], functional.InterpolationMode.BICUBIC, antialias=True)
    return functional.normalize(pixels.float() / 255, MEAN, STD)


def read_turns(row: dict) -> tuple[str, list[str]]:
    """The image of a line, and its turns: question, answer, question, …"""
    if "caption" in row:
        return row["image_path"], [CAPTION, row["caption"]]
    turns = row["conversations"]
    if not turns or [turn["from"] for turn in turns] != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError("turns of human and gpt alternate, and gpt has the last one")
    return row["image"], [turn["value"].replace("<image>", "").strip() for turn in turns]


class Examples(torch.utils.data.Dataset):
    """The lines of a JSONL file. All are checked before training begins; an image is decoded when it is needed."""

    def __init__(self, file: Path, config: Config) -> None:
        self.config, self.rows = config, []
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                image, turns = read_turns(json.loads(line))
                (ids, weights), path = self.tokens(turns), file.parent / image
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                sys.exit(f"error: {file}, line {number}: not a sample in one of the two forms ({error!r})")
            if not path.is_file():
                sys.exit(f"error: {file}, line {number}: there is no image {path}")
            if len(ids) > config.max_tokens:
                sys.exit(f"error: {file}, line {number}: {len(ids)} tokens, and the model has {config.max_tokens}")
            self.rows.append((path, ids, weights))
        if not self.rows:
            sys.exit(f"error: {file}: no samples; write one a line")

    def tokens(self, turns: list[str]) -> tuple[Tensor, Tensor]:
        """The tokens [T] of a conversation, and the weight [T] of the loss of each."""
        ids = prompt(self.config, turns[0])
        weights = [0.0] * len(ids)
        for number, turn in enumerate(turns[1:], start=1):
            new = [*turn.encode(), EOS]  # EOS after an answer is learned, or the model would never stop
            # A token of an answer of n tokens weighs 2 / sqrt(n). At equal weights, long captions would leave nothing for short answers (Molmo).
            weights += [2 / math.sqrt(len(new)) if number % 2 else 0.0] * len(new)
            ids += new
        return torch.tensor(ids), torch.tensor(weights)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        path, ids, weights = self.rows[index]
        return ids, weights, read_image(path, self.config.image_size)


def collate(examples: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch, padded on the right. Padding has the id of EOS and is told by its weight, 0, so that a true EOS is learned."""
    ids, weights, images = zip(*examples, strict=True)
    return pad_sequence(ids, True, EOS), pad_sequence(weights, True, 0.0), torch.stack(images)


# ---------- Training ----------
def rate_at(step: int, steps: int, peak: float, warmup: int) -> float:
    """A linear warm-up, then a cosine down to a tenth."""
    share = max(0, step - warmup) / max(1, steps - warmup)
    return peak * min(1, (step + 1) / max(1, warmup)) * (0.55 + 0.45 * math.cos(math.pi * share))


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    device, steps, size = options.device, options.steps, options.batch_size
    saved = load(options.out) if options.resume else {"config": options.shape, "step": 0}
    model = NanoMolmo2(Config(**saved["config"])).to(device)
    data = Examples(options.data, model.config)
    held_out = Examples(options.validation, model.config) if options.validation else None

    # Each part has its own rate and warm-up. The connector is new and learns fast; at its rate, a published tower or decoder would forget.
    groups = []
    parts = [model.vision], [model.connector, model.special], [model.language]
    for modules, rate, warmup in zip(parts, options.rates, options.warmups, strict=True):
        own = [parameter.requires_grad_(rate > 0) for module in modules for parameter in module.parameters()]
        groups.append({"params": own, "peak": rate, "warmup": warmup})  # a rate of 0 freezes a part
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.0)
    if options.resume:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])

    # The samples of every step are known in advance, so a stopped run goes on with the samples that it has not seen.
    generator, epochs = torch.Generator().manual_seed(options.seed), math.ceil(steps * size / len(data))
    order = torch.cat([torch.randperm(len(data), generator=generator) for _ in range(epochs)])[: steps * size]
    batches = order.view(steps, size).tolist()[saved["step"] :]
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=options.loaders)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{count:.2f} million parameters; {len(data):,} samples; {len(batches):,} steps on {device}")
    start = time.perf_counter()
    for step, batch in enumerate(loader, start=saved["step"] + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step - 1, steps, group["peak"], group["warmup"])
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):  # bfloat16 for multiplications only
            loss = model.loss(*(tensor.to(device) for tensor in batch))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step == 1 or step % options.log_every == 0 or step == steps:
            speed = (step - saved["step"]) * size / (time.perf_counter() - start)
            print(f"step {step:5d}/{steps}  loss {loss:.4f}  gradient {norm:.2f}  {speed:.1f} samples/s", flush=True)
        if step % options.save_every == 0 or step == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            partial = options.out.with_suffix(".partial")  # renamed when it is whole: a crash leaves no half checkpoint
            torch.save({"config": asdict(model.config), "step": step, **state}, partial)
            partial.replace(options.out)
    if held_out:
        print(f"validation loss {evaluate(model, held_out, size, device):.4f}")


@torch.inference_mode()
def evaluate(model: NanoMolmo2, data: Examples, size: int, device: str) -> float:
    """The loss over all samples: a sum divided by the sum of the weights, not the mean of the means of batches."""
    total = weight = 0.0
    for batch in DataLoader(data, size, collate_fn=collate):
        own = batch[1].sum().item()
        total, weight = total + own * model.loss(*(tensor.to(device) for tensor in batch)).item(), weight + own
    return total / weight


def load(file: Path) -> dict:
    """A checkpoint: tensors and numbers only, so that a file from elsewhere runs no code."""
    return torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else sys.exit(f"error: no {file}")


def ask(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    saved = load(options.checkpoint)
    model = NanoMolmo2(Config(**saved["config"])).to(options.device)
    model.load_state_dict(saved["model"])
    image = read_image(options.image, model.config.image_size).to(options.device)
    text = codecs.getincrementaldecoder("utf-8")("replace")  # a character may have several bytes
    for token in model.answer(prompt(model.config, options.question), image, options.temperature):
        print(text.decode(bytes([token])) if token < BOS else "", end="", flush=True)
    print(text.decode(b"", final=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    shown = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    verb = verbs.add_parser("train", help="train a model from scratch", **shown)
    verb.set_defaults(run=train)
    verb.add_argument("data", type=Path, metavar="DATA.jsonl")
    verb.add_argument("--validation", type=Path, metavar="FILE", help="JSONL whose loss is printed at the end")
    verb.add_argument("--out", type=Path, default=Path("nanomolmo2.pt"), help="the checkpoint")
    verb.add_argument("--resume", action="store_true", help="continue the checkpoint")
    verb.add_argument("--shape", type=json.loads, default={}, help='settings of Config, such as {"depth": 8}')
    three, rates, warmups = ("VISION", "CONNECTOR", "LANGUAGE"), [5e-4, 2e-3, 1e-3], [100, 20, 100]
    verb.add_argument("--rates", type=float, nargs=3, metavar=three, default=rates, help="learning rates; 0 freezes")
    verb.add_argument("--warmups", type=int, nargs=3, metavar=three, default=warmups, help="steps of warm-up")
    for name, default in {"steps": 1000, "batch-size": 16, "log-every": 20, "save-every": 200, "loaders": 0}.items():
        verb.add_argument(f"--{name}", type=int, default=default, help=" ")
    other = verbs.add_parser("ask", help="ask about an image", **shown)
    other.set_defaults(run=ask)
    other.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    other.add_argument("image", type=Path, metavar="IMAGE")
    other.add_argument("question", nargs="?", default=CAPTION, help=" ")
    other.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    for one in (verb, other):
        one.add_argument("--seed", type=int, default=0, help=" ")
        one.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help=" ")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
