"""`python -m glassworks.pipeline.dvc_commit STAGE…`: what `dvc commit --force STAGE…` does, with dvc.yaml and dvc.lock read and written once.

The command of DVC parses both files again for each stage, which takes minutes for a table of some fifty stages. A process of its own keeps DVC's logging
and locks out of Snakemake's.
"""

import sys

from dvc.exceptions import DvcException
from dvc.repo import Repo


def commit(names: list[str]) -> None:
    """Save the digests of the inputs and outputs of stages, put the outputs into the cache, and record the stages in dvc.lock."""
    wanted = set(names)
    with Repo() as repo, repo.lock:
        stages = [stage for stage in repo.stage.load_all("dvc.yaml") if stage.name in wanted]
        for stage in stages:
            stage.save()
            stage.commit()
        stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


if __name__ == "__main__":
    try:
        commit(sys.argv[1:])
    except (DvcException, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(1)
