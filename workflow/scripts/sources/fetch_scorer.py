"""Fetch what a scorer is loaded from: a list of terms, a checkpoint, or a classifier's files.

Each part lies in a folder of its name, `source` and for some kinds `configuration`, so that files
of equal names do not meet.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from pathlib import Path

from neurondynamics.data.files import replacing_folder
from neurondynamics.fetching.folders import (
    CONFIG,
    check_description,
    check_folder,
    weight_files,
)
from neurondynamics.fetching.sources import fetch_files, naming
from neurondynamics.fetching.tokenizers import check_tokenizer


def fetch_scorer(sources: dict[str, dict], folder: str) -> None:
    """Write the files of every source (see `fetch_files`) into a folder of its name in `folder`.

    Raises ValueError for a classifier, or the configuration of one, whose parts do not go together.
    """
    with replacing_folder(folder) as ready:
        for part, source in sources.items():
            fetch_files(source, ready / part)
            with naming(source, ready / part):
                check_part(ready / part)


def check_part(folder: Path) -> None:
    """Check a classifier's folder, or one of a configuration alone; other files are left to those
    who read them."""
    if weight_files(folder):
        check_folder(folder)
    elif (folder / CONFIG).is_file():
        check_description(folder)
        check_tokenizer(folder)


if __name__ == "__main__":
    fetch_scorer(sources=snakemake.params.sources, folder=snakemake.output.folder)
