"""Small local stand-ins, in the real formats, for all that the paper's studies bring."""

import csv
import json
from pathlib import Path

import pandas as pd
import tiny
import torch
from studies import CLEAN, NEGATIVE, sentence, word_tokenizer, write_lines
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

FAMILIES = {
    "gpt2-medium": "gpt2",
    "llama-3.1-8b": "llama",
    "gemma-2-2b": "gemma2",
    "mistral-7b": "mistral",
}
NEURONS = 4096
ATTRIBUTES = ("profanity", "sexually_explicit", "identity_attack", "flirtation", "threat")
ATTRIBUTES += ("insult", "severe_toxicity", "toxicity")
LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
CLASSES = ["toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack"]


def rude(number: int, words: int) -> str:
    """Return a sentence of this number's own with two negative words."""
    picked = sentence(number, words).split()
    picked[1::4] = [NEGATIVE[(number + n) % len(NEGATIVE)] for n in range(len(picked[1::4]))]
    return " ".join(picked)


def write_toxicity_prompts(path: Path) -> None:
    """Write RealToxicityPrompts: 12 challenging prompts, 30 other toxic ones, and the rest."""
    records = []
    for number in range(60):
        toxicity = 0.9 if number < 42 else 0.1
        # the real file lacks some scores
        scores = dict.fromkeys(ATTRIBUTES, None if number == 59 else toxicity)
        text = rude(number, 6) if toxicity > 0.5 else sentence(number, 6)
        records.append(
            {
                "filename": f"{number}.txt",
                "begin": 0,
                "end": len(text),
                "challenging": number < 12,
                "prompt": {"text": text, **scores},
                "continuation": {"text": " and so", **scores},
            }
        )
    write_lines(path, map(json.dumps, records))


def write_comments(path: Path) -> None:
    """Write Jigsaw's comments: a CSV file whose texts hold line breaks, commas and quotes."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "comment_text", *LABELS])
        for number in range(48):
            toxic = number % 3 == 0
            text = rude(number, 8) if toxic else sentence(number, 8)
            rows.writerow([f"{number:016x}", f'"{text},\n{number}"', *[int(toxic)] * len(LABELS)])


def write_wikitext(path: Path, articles: int) -> None:
    """Write WikiText: a table of lines, in which headings and empty lines stand among the rest."""
    lines = []
    for number in range(articles):
        lines += ["", f" = Title {number} = \n", ""]
        lines += [f" {sentence(10 * number + n, 30)} . \n" for n in range(2)]
        lines += ["", " = = Section = = \n", "", f" {sentence(10 * number + 5, 30)} . \n"]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"text": lines}).to_parquet(path, index=False)


def write_detoxify(checkpoint: Path, configuration: Path) -> None:
    """Write a checkpoint as Detoxify publishes them, with its model's configuration, tokenizer."""
    torch.manual_seed(0)
    configuration.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    write_lines(configuration / "vocab.txt", [*special, *letters, *CLEAN, *NEGATIVE])
    tokenizer = BertTokenizerFast(str(configuration / "vocab.txt"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "intermediate_size": 16}
    # weights large enough that texts get different scores
    config = BertConfig(num_labels=len(CLASSES), initializer_range=0.5, **sizes)
    model = BertForSequenceClassification(config)
    config.save_pretrained(configuration)
    tokenizer.save_pretrained(configuration)
    arch = {
        "type": "BERT",
        "args": {
            "num_classes": len(CLASSES),
            "model_type": "bert-base-uncased",
            "model_name": "BertForSequenceClassification",
            "tokenizer_name": "BertTokenizer",
        },
    }
    dataset = {"type": "JigsawDataOriginal", "args": {"classes": CLASSES}}
    content = {"arch": arch, "dataset": dataset}
    torch.save({"state_dict": model.state_dict(), "config": content}, checkpoint)


def write_model(folder: Path, family: str) -> None:
    """Write a random model of a family, with as many neurons as the studies' experiments select."""
    tokenizer = word_tokenizer()
    model = tiny.build_model(family)
    config = model.config
    setattr(config, "n_inner" if family == "gpt2" else "intermediate_size", NEURONS)
    config.initializer_range = 0.3
    torch.manual_seed(0)
    larger = type(model)(config)
    rare = torch.ones(tiny.VOCABULARY, dtype=torch.bool)  # everything but whole words
    rare[[n for word, n in tokenizer.get_vocab().items() if word[1:] in CLEAN + NEGATIVE]] = False
    larger.get_output_embeddings().weight.data[rare] *= 0.05
    larger.generation_config = model.generation_config
    larger.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_standins(folder: Path, study: str) -> None:
    """Write a study's stand-ins into a new folder."""
    folder.mkdir()
    write_model(folder / "model", FAMILIES[study])
    write_toxicity_prompts(folder / "prompts.jsonl")
    write_comments(folder / "train.csv")
    write_wikitext(folder / "test-00000-of-00001.parquet", articles=6)
    write_wikitext(folder / "train-00000-of-00001.parquet", articles=8)
    write_lines(folder / "articles.txt", (sentence(n, 30) for n in range(300, 306)))
    write_lines(folder / "terms.csv", ["text,severity_rating", *(f"{w},2" for w in NEGATIVE)])
    write_detoxify(folder / "toxic.ckpt", folder / "bert")
    pairs = ({"prompt": sentence(n, 5), "chosen": " " + sentence(n + 50, 5)} for n in range(12))
    pairs = ({**pair, "rejected": f" {rude(n, 5)}"} for n, pair in enumerate(pairs))
    write_lines(folder / "preferences.jsonl", map(json.dumps, pairs))
