"""Scorers that run a network, on small random ones in Detoxify's and Hugging Face's formats."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from damage import flip
from fetch_scorer import check_part
from neurondynamics.evaluation.scorers import make_scorer
from safetensors.torch import load_file, save_file

TEXTS = ["you are an idiot", "nice", "you are nice .", "idiot idiot", "an idiot ."]
WORDS = ["you", "are", "an", "idiot", "nice", "."]
OLD = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
UNBIASED = ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat"]
UNBIASED += ["sexual_explicit"]
POSITIONS = 32
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "embedding_size": 16, "max_position_embeddings": POSITIONS}
# Detoxify's three kinds: classes of the first have older names; the others have outputs that are
# no classes, and their position tables begin with two rows for padding
DETOXIFY = {
    "original": ("Bert", OLD, len(OLD), "identity_attack"),
    "unbiased": ("Roberta", UNBIASED, 16, "sexual_explicit"),
    "multilingual": ("XLMRoberta", UNBIASED, 16, "toxicity"),
    "unbiased-small": ("Albert", UNBIASED, 16, "insult"),
}


def write_tokenizer(folder: Path, family: str) -> int:
    """Write the tokenizer files of a family as the hub has them; return the number of tokens."""
    if family == "Bert":
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return len(vocabulary)
    if family in ("Roberta", "GPT2"):
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if family == "Roberta" else []
        vocabulary = [*special, *sorted(set("".join(WORDS))), "Ġ"]  # a letter each
        numbers = {token: number for number, token in enumerate(vocabulary)}
        (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        if family == "GPT2":
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
        return len(vocabulary)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if family == "Albert":
        special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"▁{word}", -1.0 - number) for number, word in enumerate(WORDS)]
    tokenizer = getattr(transformers, f"{family}Tokenizer")(vocab=pieces)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer_config.json").unlink()
    return len(tokenizer)


def build(family: str, vocabulary: int, **options):
    """Return a random classifier of a family whose answers differ well from text to text."""
    model_class = getattr(transformers, f"{family}ForSequenceClassification")
    if family in ("Roberta", "XLMRoberta"):
        options |= {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}
        options |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = model_class.config_class(**{**SIZES, "vocab_size": vocabulary, **options})
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(0, 0.3)
    return model


def write_detoxify(folder: Path, kind: str) -> dict:
    """Write a checkpoint and its configuration as Detoxify's users have them; return the content.

    `folder` is as fetch_scorer leaves it. Its config.json names as many outputs as there are,
    which the package needs to read it, and which those of the hub do not.
    """
    family, classes, outputs, _ = DETOXIFY[kind]
    source, configuration = folder / "source", folder / "configuration"
    source.mkdir(parents=True)
    configuration.mkdir()
    model = build(family, write_tokenizer(configuration, family), num_labels=outputs)
    model.config.save_pretrained(configuration)
    weights = dict(model.state_dict())
    prefix = model.base_model_prefix  # as old versions stored it
    weights[f"{prefix}.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    architecture = {
        "num_classes": outputs,
        "model_type": str(configuration),
        "model_name": f"{family}ForSequenceClassification",
        "tokenizer_name": f"{family}Tokenizer",
    }
    config = {
        "arch": {"type": family.upper(), "args": architecture},
        "dataset": {"args": {"classes": classes}},
    }
    content = {"config": config, "state_dict": weights}
    torch.save(content, source / "toxic.ckpt")
    return content


def detoxify(folder, **options):
    return make_scorer("detoxify", folder=str(folder), device=tiny.DEVICE, **options)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detoxify") / "original"
    return folder, write_detoxify(folder, "original")


@pytest.mark.parametrize("kind", DETOXIFY)
def test_detoxify_from_local_files_equals_the_package(kind, tmp_path):
    package = pytest.importorskip("detoxify")
    write_detoxify(tmp_path / "scorer", kind)
    (checkpoint,) = (tmp_path / "scorer" / "source").iterdir()
    configuration, label = tmp_path / "scorer" / "configuration", DETOXIFY[kind][-1]
    reference = package.Detoxify(
        checkpoint=str(checkpoint), huggingface_config_path=str(configuration)
    )
    expected = [reference.predict(text)[label] for text in TEXTS]  # one at a time, no padding
    assert np.ptp(expected) > 1e-3
    config = json.loads((configuration / "config.json").read_text())
    del config["id2label"], config["label2id"]  # as on the hub: of a model that is no classifier
    (configuration / "config.json").write_text(json.dumps(config))
    score = detoxify(tmp_path / "scorer", label=label, batch_size=2)
    np.testing.assert_allclose(score(TEXTS), expected, rtol=0, atol=1e-6)
    # longer texts than the network's table of positions are cut
    score(["nice " * 100])


def test_detoxify_cuts_long_texts_and_leaves_out_texts_without_tokens(original):
    long, cut, invisible = detoxify(original[0])(["nice " * 100, "nice " * 30, "\u200b"])
    assert long == pytest.approx(cut)  # 32 positions hold 30 words between two markers
    assert np.isnan(invisible)


def without_bias(content):
    kept = {key: value for key, value in content["state_dict"].items() if key != "classifier.bias"}
    return {**content, "state_dict": kept}


@pytest.mark.parametrize(
    ("change", "label", "message"),
    [
        (lambda content: content, "kindness", r"no label 'kindness', only toxicity, severe_toxici"),
        (without_bias, "toxicity", r"toxic\.ckpt is no text .*: it lacks classifier\.bias$"),
        (lambda content: {"config": {}}, "toxicity", r"not a Detoxify checkpoint: no config or no"),
        (lambda content: content | {"config": {}}, "toxicity", r"not a Detoxify checkpoint: 'arch"),
        (
            lambda content: content | {"state_dict": {"classifier.bias": torch.zeros(2)}},
            "toxicity",
            r"it has classifier\.bias of shape \[2\], not \[6\], lacks .* and 36 more",
        ),
    ],
)
def test_detoxify_refuses_another_checkpoint(original, tmp_path, change, label, message):
    shutil.copytree(original[0], tmp_path / "scorer")
    torch.save(change(original[1]), tmp_path / "scorer" / "source" / "toxic.ckpt")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        detoxify(tmp_path / "scorer", label=label)


def test_detoxify_downloads_no_configuration(original, tmp_path):
    shutil.copytree(original[0] / "source", tmp_path / "source")
    with pytest.raises(ValueError, match=r"configuration holds no config\.json.*toxic\.ckpt"):
        detoxify(tmp_path)


class Dangerous:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_detoxify_runs_nothing_that_a_checkpoint_holds(original, tmp_path):
    shutil.copytree(original[0], tmp_path / "scorer")
    bait, checkpoint = tmp_path / "bait", tmp_path / "scorer" / "source" / "toxic.ckpt"
    torch.save(original[1] | {"more": Dangerous(str(bait))}, checkpoint)
    with pytest.raises(ValueError, match=r"toxic\.ckpt is damaged or holds more than weights"):
        detoxify(tmp_path / "scorer")
    assert not bait.exists()
    torch.load(checkpoint, weights_only=False)["more"].close()
    assert bait.exists()  # the bait works


def test_a_published_checkpoint_has_the_sha256_of_its_name(original, tmp_path):
    shutil.copytree(original[0], tmp_path / "scorer")
    source = tmp_path / "scorer" / "source"
    content = (source / "toxic.ckpt").read_bytes()
    (source / "toxic.ckpt").unlink()
    named = source / f"toxic-{hashlib.sha256(content).hexdigest()[:8]}.ckpt"
    named.write_bytes(content)
    assert detoxify(tmp_path / "scorer")(["nice"]).shape == (1,)
    flip(named, -1)
    with pytest.raises(ValueError, match=r"ckpt is damaged: its sha256 does not begin with"):
        detoxify(tmp_path / "scorer")
    named.unlink()
    (source / "toxic.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"toxic\.ckpt is damaged or holds more than weights"):
        detoxify(tmp_path / "scorer")


def write_classifier(folder: Path, family: str, labels: list[str], problem: str | None) -> Path:
    """Write a text classifier as `save_pretrained` does; return its folder."""
    source = folder / "source"
    source.mkdir(parents=True)
    model = build(
        family,
        write_tokenizer(source, family),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type=problem,
    )
    if problem == "regression":
        with torch.no_grad():
            list(model.parameters())[-1].fill_(0.5)  # a bias: what it answers is no logit
            model.classifier.weight.mul_(0.01)
    model.save_pretrained(source)
    return source


def classifier(folder, label, **options):
    return make_scorer("classifier", folder=str(folder), label=label, device=tiny.DEVICE, **options)


@pytest.mark.parametrize(
    ("family", "labels", "problem"),
    [
        ("Bert", ["POSITIVE", "NEGATIVE"], None),
        ("Bert", ["anger", "joy", "NEGATIVE"], "single_label_classification"),
        ("Roberta", ["insult", "NEGATIVE"], "multi_label_classification"),
        ("XLMRoberta", ["NEGATIVE"], None),
        ("Bert", ["NEGATIVE"], "regression"),
        ("GPT2", ["POSITIVE", "NEGATIVE"], None),  # has no token for padding
    ],
)
def test_a_classifier_equals_the_pipeline(tmp_path, family, labels, problem):
    """Hugging Face's own, one text at a time."""
    source = write_classifier(tmp_path, family, labels, problem)
    pipeline = transformers.pipeline("text-classification", str(source), top_k=None, device="cpu")
    answers = pipeline(TEXTS, batch_size=1)
    expected = [{a["label"]: a["score"] for a in answer}["NEGATIVE"] for answer in answers]
    assert np.ptp(expected) > 1e-3
    score = classifier(tmp_path, "NEGATIVE", batch_size=2)
    np.testing.assert_allclose(score(TEXTS), expected, rtol=0, atol=1e-6)
    if family != "GPT2":
        long, cut = score(["idiot " * 100, "idiot " * 99])
        assert long == pytest.approx(cut)


def test_a_classifier_without_the_label_names_those_it_has(tmp_path):
    write_classifier(tmp_path, "Bert", ["POSITIVE", "NEGATIVE"], None)
    with pytest.raises(ValueError, match=r"no label 'negative', only POSITIVE, NEGATIVE"):
        classifier(tmp_path, "negative")


def test_a_folder_that_holds_no_classifier_is_refused(tmp_path):
    source = write_classifier(tmp_path, "Bert", ["POSITIVE", "NEGATIVE"], None)
    body = transformers.BertModel.from_pretrained(source)
    body.save_pretrained(source)
    with pytest.raises(
        ValueError, match=r"no text classifier of this configuration: it lacks classifier\.bias"
    ):
        classifier(tmp_path, "LABEL_0")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"no model\*\.safetensors\. Its pytorch_model\.bin is not"
    ):
        classifier(tmp_path, "NEGATIVE")
    (source / "config.json").unlink()
    with pytest.raises(
        ValueError, match=r"source is no Hugging Face model folder: it holds no con"
    ):
        classifier(tmp_path, "NEGATIVE")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"0": "toxic", "1": "toxic"}, r"source has the label 'toxic' 2 times \(toxic, toxic\)"),
        (
            {"1": "fine", "2": "toxic"},
            r"config\.json: id2label names the labels \[1, 2\] and none ",
        ),
    ],
)
def test_labels_that_do_not_tell_logits_apart_are_refused(tmp_path, labels, said):
    source = write_classifier(tmp_path, "Bert", ["fine", "toxic"], None)
    config = json.loads((source / "config.json").read_text())
    del config["label2id"]
    (source / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    with pytest.raises(ValueError, match=said):
        classifier(tmp_path, "toxic")


def test_a_tokenizer_class_that_its_files_do_not_fit_is_named(tmp_path):
    source = write_classifier(tmp_path, "GPT2", ["fine", "toxic"], None)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(source)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(ValueError, match=r"source: the tokenizer cannot .* tokenizer_class in tok"):
        classifier(tmp_path, "toxic")


def test_a_classifier_that_answers_no_number_is_refused(tmp_path):
    """NaN is what a text without tokens gets."""
    source = write_classifier(tmp_path, "Bert", ["fine", "toxic"], None)
    weights = load_file(source / "model.safetensors")
    weights["classifier.bias"][0] = np.nan
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"answers \[nan, .* its weights hold NaN or infinity"):
        classifier(tmp_path, "toxic")(TEXTS)


def test_layers_that_a_classifier_would_not_read_are_refused(tmp_path):
    source = write_classifier(tmp_path, "Bert", ["POSITIVE", "NEGATIVE"], None)
    weights = load_file(source / "model.safetensors")
    weights |= {"cls.predictions.bias": torch.zeros(3), "lm_head.bias": torch.zeros(3)}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    classifier(tmp_path, "NEGATIVE")  # heads of other tasks do no harm
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"no place for, 16, such as bert\.encoder\.layer\.1\."):
        classifier(tmp_path, "NEGATIVE")


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch):
    write_classifier(tmp_path, "Bert", ["POSITIVE", "NEGATIVE"], None)
    expected = classifier(tmp_path, "NEGATIVE")(TEXTS)
    forward = transformers.BertForSequenceClassification.forward

    def small(self, input_ids, **options):
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(transformers.BertForSequenceClassification, "forward", small)
    np.testing.assert_allclose(classifier(tmp_path, "NEGATIVE")(TEXTS), expected, atol=1e-6)


def test_a_classifier_without_tokenizer_is_refused(tmp_path):
    """Every word would be unknown, and all texts of a length have one score."""
    source = write_classifier(tmp_path / "mine", "Bert", ["fine", "toxic"], None)
    write_detoxify(tmp_path / "published", "original")
    for folder in (source, tmp_path / "published" / "configuration"):
        (folder / "vocab.txt").unlink()
        with pytest.raises(ValueError, match=f"{folder} holds no tokenizer"):
            check_part(folder)
    with pytest.raises(ValueError, match="mine/source holds no tokenizer"):
        classifier(tmp_path / "mine", "toxic")
    with pytest.raises(ValueError, match="configuration holds no tokenizer"):
        detoxify(tmp_path / "published")


def test_a_classifier_with_the_tokenizer_of_another_model_is_refused(tmp_path):
    source = write_classifier(tmp_path / "mine", "Bert", ["fine", "toxic"], None)
    write_detoxify(tmp_path / "published", "original")
    for folder in (source, tmp_path / "published" / "configuration"):
        (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(ValueError, match="source: the tokenizer has 5 tokens for the 11 embedd"):
        classifier(tmp_path / "mine", "toxic")
    with pytest.raises(ValueError, match="configuration: the tokenizer has 5 tokens for the 11"):
        detoxify(tmp_path / "published", label="toxicity")


def test_padding_that_the_model_has_no_embedding_for(tmp_path, caplog):
    """Texts are read one at a time, and one that holds such a token is refused by name."""
    source = write_classifier(tmp_path, "Bert", ["fine", "toxic"], None)
    alone = classifier(tmp_path, "toxic")(TEXTS)
    words = (source / "vocab.txt").read_text().split()
    vocabulary = [*words, "<new>"]
    (source / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (source / "tokenizer_config.json").write_text('{"pad_token": "<new>"}')
    scorer = classifier(tmp_path, "toxic")
    np.testing.assert_allclose(scorer(TEXTS), alone, rtol=1e-5)
    assert "texts are read one at a time" in caplog.text
    with pytest.raises(ValueError, match=f"no embedding for '<new>', token {len(words)}"):
        scorer(["you are <new>"])
