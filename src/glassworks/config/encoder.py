"""Settings that every frozen encoder has."""

from glassworks.config.base import Name, Settings
from glassworks.config.needs import Need, Weights


class Encoder(Settings):
    """A frozen encoder of published weights. Each kind has a folder under encoders/ with a subclass of this."""

    kind: str
    """The folder under encoders/."""
    weights: Name
    """An entry under `weights` in params.yaml."""

    def needs(self, key: str) -> dict[str, Need]:
        """Inputs of a stage that runs the encoder, by role; `key` is the key path of these settings."""
        return {f"{key}.weights": Weights(f"{key}.weights", self.weights)}
