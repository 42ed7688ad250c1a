"""Embedded class names are computed once per encoder and class list, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.encoder import TextEncoder
from ssprompt_core.text.registry import build_text_encoder
from ssprompt_platform import sources
from ssprompt_platform.sources import embed_class_names

NAMES = ("car", "sky", "traffic light")


def test_the_numbers_do_not_depend_on_the_threads_of_the_driver() -> None:
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seen.append(embed_class_names("small", NAMES * 4, None))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(seen[0].plain_CE, seen[1].plain_CE)
    assert torch.equal(seen[0].ensemble_CE, seen[1].ensemble_CE)


@pytest.fixture
def encoder_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny sentence encoder as `transformers` writes one, named by a relative path."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "photo", "car", "sky", "traffic"]
    folder = tmp_path / "bert"
    transformers.BertTokenizer(vocab={t: i for i, t in enumerate(vocab)}).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocab), hidden_size=12, intermediate_size=24, max_position_embeddings=32,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    return Path("bert")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the encoders that were built; each study begins in a new process."""
    built: list[str] = []

    def counted(name: str) -> TextEncoder:
        built.append(name)
        return build_text_encoder(name)

    monkeypatch.setattr(sources, "build_text_encoder", counted)
    sources._encoder_once.cache_clear()
    yield built
    sources._encoder_once.cache_clear()


def embed(folder: Path, names: tuple[str, ...], cache: Path | None) -> ClassTexts:
    sources._encoder_once.cache_clear()
    return embed_class_names(str(folder), names, cache)


def test_a_second_study_reads_the_same_bits_and_builds_nothing(
    encoder_folder: Path, builds: list[str], tmp_path: Path
) -> None:
    first = embed(encoder_folder, NAMES, tmp_path / "texts")
    assert len(builds) == 1
    second = embed(encoder_folder, NAMES, tmp_path / "texts")
    assert len(builds) == 1
    assert torch.equal(first.plain_CE, second.plain_CE)
    assert torch.equal(first.ensemble_CE, second.ensemble_CE)
    assert (second.names, second.fingerprint, second.encoder) == (
        first.names,
        first.fingerprint,
        first.encoder,
    )
    # what learns through the encoder still gets it, from any working directory
    assert second.source().fingerprint == first.fingerprint
    assert builds[-1] == str(tmp_path / "bert")


def test_other_names_or_weights_are_embedded_anew(
    encoder_folder: Path, builds: list[str], tmp_path: Path
) -> None:
    embed(encoder_folder, NAMES, tmp_path / "texts")
    assert embed(encoder_folder, NAMES[::-1], tmp_path / "texts").names == NAMES[::-1]
    tokenizer = encoder_folder / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    embed(encoder_folder, NAMES, tmp_path / "texts")
    assert len(builds) == 3
    assert len(list((tmp_path / "texts").iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty"])
def test_a_damaged_file_is_made_again(
    encoder_folder: Path, builds: list[str], tmp_path: Path, damage: str
) -> None:
    first = embed(encoder_folder, NAMES, tmp_path / "texts")
    (path,) = (tmp_path / "texts").iterdir()
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    path.write_bytes({"cut off": whole[:-20], "one bit": flipped, "empty": b""}[damage])
    again = embed(encoder_folder, NAMES, tmp_path / "texts")
    assert len(builds) == 2
    assert torch.equal(first.plain_CE, again.plain_CE)
    assert path.read_bytes() == whole


def test_without_a_cache_nothing_is_written(
    encoder_folder: Path, builds: list[str], tmp_path: Path
) -> None:
    texts = embed(encoder_folder, NAMES, None)
    assert texts.plain_CE.shape == (3, 12)
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]
