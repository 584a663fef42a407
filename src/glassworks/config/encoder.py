"""Settings common to all frozen encoders."""

from glassworks.config.base import Name, Settings
from glassworks.config.needs import Need, Weights


class Encoder(Settings):
    """A frozen encoder with published weights. Each folder under encoders/ defines one subclass."""

    kind: str
    """Encoder: the name of a folder under encoders/."""
    weights: Name
    """An entry under `weights` in params.yaml."""

    def needs(self, key: str) -> dict[str, Need]:
        """Input artefacts of a stage that runs the encoder, by role. `key` is the key path of these settings."""
        return {f"{key}.weights": Weights(f"{key}.weights", self.weights)}
