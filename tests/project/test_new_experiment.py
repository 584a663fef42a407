"""`glassworks new experiment` copies a file with its comments, or writes nothing."""

import pytest

from glassworks.config.project import load_project

from .conftest import EXPERIMENT, PARAMS


@pytest.fixture
def two_sets(written):
    text = PARAMS.replace("# kept\n", "# kept\n  others: { source: texts, path: words }\n")
    (written.root / "params.yaml").write_text(text)
    return written


def test_the_copy_has_the_comments_and_the_other_data_set(two_sets, glassworks):
    output = glassworks("new", "experiment", "lm_others", "--like", "lm_words", "--dataset", "others")
    assert "data.dataset: others, which was words" in output and "models/lm_others/manifest.json" in output
    copy = (two_sets.root / "experiments/lm_others.yaml").read_text()
    assert copy == EXPERIMENT.replace("dataset: words", "dataset: others")
    assert "experiments: [lm_words, lm_others] # all" in (two_sets.root / "params.yaml").read_text()
    assert load_project(two_sets.root).experiments["lm_others"].data.datasets == ["others"]


def test_other_places_that_name_the_old_data_set_are_said(two_sets, glassworks):
    file = two_sets.root / "experiments/lm_words.yaml"
    file.write_text(EXPERIMENT + "evaluations:\n  language: { dataset: words }\n")
    output = glassworks("new", "experiment", "lm_others", "--like", "lm_words", "--dataset", "others")
    assert "line 10: evaluations.language.dataset still names words" in output


def test_refusals_are_one_line_and_write_nothing(two_sets, glassworks):
    before = {path: path.read_bytes() for path in two_sets.root.glob("*/*.yaml")}

    def error(name, *arguments):
        output = glassworks("new", "experiment", name, *arguments)
        assert output.startswith("error: ") and "\n" not in output
        assert before == {path: path.read_bytes() for path in two_sets.root.glob("*/*.yaml")}
        return output

    assert "there already" in error("lm_words", "--like", "lm_words")
    assert "did you mean 'lm_words'?" in error("b", "--like", "lm_word")
    assert "did you mean 'others'?" in error("b", "--like", "lm_words", "--dataset", "other")
    assert "begins with a letter" in error("b-c", "--like", "lm_words")


def test_a_copy_with_a_fault_is_not_written(two_sets, glassworks):
    (two_sets.root / "experiments/broken.yaml").write_text(EXPERIMENT.replace("depth: 1", "depht: 1"))
    output = glassworks("new", "experiment", "b", "--like", "broken")
    assert "experiments/b.yaml: model.depht: unknown key" in output
    assert not (two_sets.root / "experiments/b.yaml").exists()


def test_a_mixture_keeps_its_data_sets(two_sets, glassworks):
    mixture = EXPERIMENT.replace("dataset: words # the only one", "train: [{ dataset: words }, { dataset: others }]")
    (two_sets.root / "experiments/both.yaml").write_text(mixture)
    refused = glassworks("new", "experiment", "b", "--like", "both", "--dataset", "words")
    assert "trains on several data sets" in refused
    assert "written: experiments/b.yaml" in glassworks("new", "experiment", "b", "--like", "both")
