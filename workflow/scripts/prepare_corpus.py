"""Turn a dataset into clean documents, for perplexity and for F1.

A MediaWiki dump gives the prose of each article; pages without prose, such as disambiguations,
are left out. Files of lines or of JSON objects give one document each.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from neurondynamics.data.mediawiki import read_articles
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.texts import read_prompts
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)


def prepare_corpus(folder: str, corpus: str, dataset: dict) -> None:
    """Write title and text of every document, one JSON object a line.

    Parameters
    ----------
    folder : the fetched dataset.
    dataset : its `files` and `format` (mediawiki, lines or jsonl), and optionally `text_field`.
    """
    paths = [Path(folder) / PurePosixPath(file["path"]).name for file in dataset["files"]]
    documents, empty = [], []
    for title, text in progress(_documents(paths, dataset), "Reading documents"):
        if text:
            documents.append({"title": title, "text": text})
        else:
            empty.append(title)
    if not documents:
        raise ValueError(f"{folder}: none of its {len(empty)} pages holds prose")
    logger.info(
        "%d documents of %d characters; %d without prose left out: %s",
        len(documents),
        sum(len(document["text"]) for document in documents),
        len(empty),
        ", ".join(empty) or "none",
    )
    write_jsonl(corpus, documents)


def _documents(paths: list[Path], dataset: dict) -> Iterator[tuple[str, str]]:
    for path in paths:
        if dataset["format"] == "mediawiki":
            yield from read_articles(path)
        else:
            field = dataset.get("text_field", "text")
            for document in read_prompts(path, dataset["format"], field):
                yield document.source, document.text


if __name__ == "__main__":
    prepare_corpus(
        folder=snakemake.input.folder,
        corpus=snakemake.output.corpus,
        dataset=snakemake.params.dataset,
    )
