"""Fetch what a scorer is loaded from: a list of terms, a checkpoint, or a classifier's files.

Each part lies in a folder of its name, `source` and for some kinds `configuration`, so that files
of equal names do not meet.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from neurondynamics.data.files import replacing_folder
from neurondynamics.fetching.sources import fetch_files


def fetch_scorer(sources: dict[str, dict], folder: str) -> None:
    """Write the files of every source (see `fetch_files`) into a folder of its name in `folder`."""
    with replacing_folder(folder) as ready:
        for part, source in sources.items():
            fetch_files(source, ready / part)


if __name__ == "__main__":
    fetch_scorer(sources=snakemake.params.sources, folder=snakemake.output.folder)
