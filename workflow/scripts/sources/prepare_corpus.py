"""Turn a dataset into clean documents, for perplexity and for F1.

A MediaWiki dump gives the prose of each article; pages without prose, such as disambiguations,
are left out. WikiText gives the paragraphs of each article. In other formats a row is a document.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from neurondynamics.data.mediawiki import read_articles
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.rows import text_of, with_texts
from neurondynamics.data.texts import fetched_files, read_rows
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)


def prepare_corpus(folder: str, corpus: str, dataset: dict) -> None:
    """Write title and text of every document, one JSON object a line.

    Parameters
    ----------
    folder : the fetched dataset.
    dataset : its source and `format`, and optionally `text_field` and `where`.
    """
    paths = fetched_files(dataset, folder)
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
    """Yield titles and texts, in which a blank line stands between paragraphs."""
    format, where = dataset["format"], dataset.get("where")
    if format == "mediawiki":
        for path in paths:
            yield from read_articles(path)
        return
    rows = read_rows(paths[0].parent.name, paths, format, where)
    if format == "wikitext":
        for _, article in groupby(rows, key=lambda row: row["article"]):
            paragraphs = list(article)
            yield paragraphs[0]["title"], "\n\n".join(row["text"] for row in paragraphs)
    else:
        text_field = dataset.get("text_field", "text")
        for row in with_texts(paths[0].parent.name, rows, text_field):
            yield row.source, text_of(row, text_field).strip()


if __name__ == "__main__":
    prepare_corpus(
        folder=snakemake.input.folder,
        corpus=snakemake.output.corpus,
        dataset=snakemake.params.dataset,
    )
