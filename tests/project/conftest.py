"""A small project, and the command line called in it."""

import pytest

PARAMS = """\
# my project
datasets:
  words: { source: texts, path: words } # kept

# what is built
experiments: [lm_words] # all
"""
EXPERIMENT = """\
# A small language model.
task: language_modelling
data:
  dataset: words # the only one
  tokenizer: { vocab_size: 280 }
model: { width: 16, depth: 1, heads: 2, max_tokens: 16 }
optimization: { learning_rate: 0.01, warmup_steps: 1 }
training: { steps: 2, batch_size: 2, micro_batches: 1, validate_every: 1 }
"""


@pytest.fixture
def written(project, monkeypatch):
    """A project with the files above, in the current folder."""
    (project.root / "params.yaml").write_text(PARAMS)
    (project.root / "experiments/lm_words.yaml").write_text(EXPERIMENT)
    (project.root / "words").mkdir()
    (project.root / "words/a.txt").write_text("\n".join(f"line {number} of the words" for number in range(60)))
    monkeypatch.chdir(project.root)
    return project
