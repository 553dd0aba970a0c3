"""Share the prompts of the datasets out among training, analysis and evaluation.

No prompt stands in two splits once case, punctuation at the ends and whitespace are levelled.
Refused is a split that asks for more prompts than there are, or that shares one with another.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from dataclasses import asdict
from pathlib import Path

from neurondynamics.data.prompts import partition, read_dataset
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.texts import fetched_files


def split_prompts(
    folders: list[str],
    outputs: dict[str, str],
    datasets: dict[str, dict],
    splits: dict[str, dict],
    seed: int,
) -> None:
    """Write the prompts of every split, one JSON object a line, and number them from 0.

    Parameters
    ----------
    folders : the fetched datasets, each in a folder of its name.
    outputs : the file to write for each split.
    datasets : of each dataset its source and `format`, and optionally `text_field`, `where` and
        `category_field`, a name or a list of them.
    splits : of each split `dataset`, `number` and optionally `exclude`.
    """
    prompts = {}
    for folder in map(Path, folders):
        dataset = datasets[folder.name]
        prompts[folder.name] = read_dataset(
            folder.name,
            fetched_files(dataset, folder),
            dataset["format"],
            dataset.get("text_field", "text"),
            dataset.get("category_field"),
            dataset.get("where"),
        )
    for split, chosen in partition(prompts, splits, seed).items():
        records = [
            {"prompt_id": index, "split": split, **asdict(prompt)}
            for index, prompt in enumerate(chosen)
        ]
        write_jsonl(outputs[split], records)


if __name__ == "__main__":
    split_prompts(
        folders=snakemake.input.folders,
        outputs={split: snakemake.output[split] for split in snakemake.params.splits},
        datasets=snakemake.params.datasets,
        splits=snakemake.params.splits,
        seed=snakemake.params.seed,
    )
