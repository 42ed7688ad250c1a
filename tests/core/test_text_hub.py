"""Text encoders in the transformers layout: tiny CLIP, SigLIP and BERT, written and read back."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contracts import TextEncoderContract
from safetensors.torch import load_file, save_file

from ssprompt_core.errors import UserError
from ssprompt_core.text.hub import TransformersTextEncoder
from ssprompt_core.text.registry import (
    build_text_encoder,
    pinned_text_encoder,
    short_name,
    text_encoder_fingerprint,
)

transformers = pytest.importorskip("transformers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = ["a", "photo", "of", "cat", "road", "sky", "car", "traffic", "light", "x"]


def write_tiny_clip(folder: Path) -> Path:
    """A randomly initialised CLIP with a byte-level vocabulary, as save_pretrained writes one."""
    torch.manual_seed(0)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["."]
    tokens = letters + [letter + "</w>" for letter in letters]
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=40)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=sizes
        | {
            "vocab_size": len(vocab),
            "num_hidden_layers": 2,
            "max_position_embeddings": 40,
            "bos_token_id": vocab["<|startoftext|>"],
            "eos_token_id": vocab["<|endoftext|>"],
            "pad_token_id": vocab["<|endoftext|>"],
        },
        vision_config=sizes | {"num_hidden_layers": 1, "image_size": 32, "patch_size": 16},
        projection_dim=24,
    )
    tokenizer.save_pretrained(folder)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def write_tiny_siglip(folder: Path) -> Path:
    """A randomly initialised SigLIP with a sentencepiece vocabulary of a few words."""
    sentencepiece = pytest.importorskip("sentencepiece")
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 8), model_writer=model, vocab_size=40,
        hard_vocab_limit=False, minloglevel=2, bos_id=-1, unk_id=2, eos_id=1, pad_id=0,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=48)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config=sizes
        | {
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 2,
            "max_position_embeddings": 48,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config=sizes | {"num_hidden_layers": 1, "image_size": 32, "patch_size": 16},
    )
    tokenizer.save_pretrained(folder)
    transformers.SiglipModel(config).save_pretrained(folder)
    return folder


def write_tiny_bert(folder: Path) -> Path:
    torch.manual_seed(0)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocab)})
    config = transformers.BertConfig(
        vocab_size=len(vocab), hidden_size=12, intermediate_size=24, max_position_embeddings=16,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "clip": write_tiny_clip,
    "siglip": write_tiny_siglip,
    "bert": write_tiny_bert,
}


@pytest.fixture(scope="module", params=list(WRITERS))
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TransformersTextEncoder:
    return TransformersTextEncoder(WRITERS[request.param](tmp_path_factory.mktemp("encoder")))


class TestTransformersText(TextEncoderContract):
    @pytest.fixture
    def encoder(self, encoder: TransformersTextEncoder) -> TransformersTextEncoder:
        return encoder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TransformersTextEncoder:
    return TransformersTextEncoder(write_tiny_clip(tmp_path_factory.mktemp("clip")))


def token_embeddings(encoder: TransformersTextEncoder, phrase: str) -> torch.Tensor:
    """What the encoder's own vocabulary gives for a phrase, ``[L, W]``."""
    ids = encoder._tokenizer(phrase, add_special_tokens=False)["input_ids"]
    if encoder._tokenizer.eos_token_id in ids:  # SigLIP's tokenizer ends a text in any case
        ids.remove(encoder._tokenizer.eos_token_id)
    return encoder._table.weight[ids].clone()


def test_context_of_real_words_equals_the_phrase(encoder: TransformersTextEncoder) -> None:
    context_LW = token_embeddings(encoder, "a photo of a")
    assert len(context_LW) >= 4
    embedded = encoder.encode_with_context(["cat", "traffic light"], context_LW)
    expected = encoder.encode(["a photo of a cat", "a photo of a traffic light"])
    torch.testing.assert_close(embedded, expected)
    assert not torch.allclose(expected, encoder.encode(["cat", "traffic light"]), atol=1e-4)


def test_without_context_a_name_is_itself(encoder: TransformersTextEncoder) -> None:
    assert encoder.context_dim is not None
    nothing_LW = torch.zeros(0, encoder.context_dim)
    torch.testing.assert_close(
        encoder.encode_with_context(["cat"], nothing_LW), encoder.encode(["cat"])
    )


def test_a_name_that_does_not_fit_is_an_error_and_never_cut(
    encoder: TransformersTextEncoder,
) -> None:
    room = encoder._room
    with pytest.raises(UserError, match=f"at most {room}"):
        encoder.encode(["car " * room])
    context_LW = encoder.starting_context(room - 1, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=rf"'sky' behind {room - 1} context tokens .* {room}"):
        encoder.encode_with_context(["sky"], context_LW)
    # the hook is gone: the next text is embedded as before
    assert torch.equal(encoder.encode(["sky"]), encoder.encode(["sky"]))


def test_clip_gives_its_joint_space(clip: TransformersTextEncoder) -> None:
    embeddings = clip.encode(["road", "sky", "road"])
    assert embeddings.shape == (3, 24)
    assert clip.dim == 24
    assert torch.equal(embeddings[0], embeddings[2])
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3))


def test_joint_space_equals_the_library_call(tmp_path: Path) -> None:
    for kind, room in (("clip", 40), ("siglip", 48)):
        folder = WRITERS[kind](tmp_path / kind)
        encoder = TransformersTextEncoder(folder)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        tokens = transformers.AutoTokenizer.from_pretrained(folder)(
            ["a photo of a road."], padding="max_length", max_length=room, return_tensors="pt"
        )
        with torch.no_grad():
            features = model.get_text_features(**tokens).pooler_output
        expected = torch.nn.functional.normalize(features, dim=-1)
        assert encoder.template == "a photo of a {}."
        torch.testing.assert_close(encoder.encode([encoder.template.format("road")]), expected)


def test_sentence_encoder_averages_tokens_or_takes_the_first(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path)
    encoder = TransformersTextEncoder(folder)
    assert encoder.template == "{}"
    alone = encoder.encode(["road"])
    # padding of the longer neighbour must not leak into the mean
    torch.testing.assert_close(alone[0], encoder.encode(["road", "sky car car road"])[0])
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    first = TransformersTextEncoder(folder)
    assert first.fingerprint != encoder.fingerprint
    tokens = first._tokenizer(["road"], return_tensors="pt")
    with torch.no_grad():
        hidden = first.model(**tokens).last_hidden_state[:, 0]
    torch.testing.assert_close(first.encode(["road"]), torch.nn.functional.normalize(hidden))
    pooling.write_text('{"pooling_mode": "lasttoken"}')
    with pytest.raises(UserError, match="asks for lasttoken"):
        TransformersTextEncoder(folder)


def test_fingerprint_follows_the_weights_and_needs_no_model(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "a")
    before = TransformersTextEncoder(folder).fingerprint
    assert text_encoder_fingerprint(str(folder)) == before
    model = transformers.BertModel.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(folder)
    assert text_encoder_fingerprint(str(folder)) != before


def test_registry_names_what_would_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    assert build_text_encoder(str(folder)).dim == 12
    monkeypatch.chdir(tmp_path)
    assert pinned_text_encoder("bert") == str(folder)
    assert short_name(str(folder)) == build_text_encoder("bert").name == "bert"
    with pytest.raises(UserError, match="did you mean 'small'"):
        build_text_encoder("smal")
    (tmp_path / "empty").mkdir()
    for ask in (build_text_encoder, text_encoder_fingerprint):
        with pytest.raises(UserError, match=r"config\.json"):
            ask(str(tmp_path / "empty"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are not read"):
        TransformersTextEncoder(folder)


@pytest.mark.parametrize("damage", ["missing", "not finite", "cut off", "pooling"])
def test_a_folder_that_is_not_whole_is_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = write_tiny_bert(tmp_path)
    path = folder / "model.safetensors"
    weights = load_file(path)
    if damage == "missing":
        weights = {k: v for k, v in weights.items() if "layer.0.attention.self.query" not in k}
        save_file(weights, path, {"format": "pt"})
    elif damage == "not finite":
        next(iter(weights.values())).view(-1)[0] = torch.nan
        save_file(weights, path, {"format": "pt"})
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text("{")
    parts = {"missing": "has no '.*query", "not finite": "not finite numbers"}
    with pytest.raises(UserError, match=parts.get(damage, "cannot be read as a text encoder")):
        TransformersTextEncoder(folder)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub that cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_hub_name_is_read_from_the_cache_and_pinned(hub_cache: Path, tmp_path: Path) -> None:
    model = hub_cache / "models--someone--tiny"
    write_tiny_bert(model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    pinned = pinned_text_encoder("hub:someone/tiny")
    assert pinned == f"hub:someone/tiny@{COMMIT}" == pinned_text_encoder(pinned)
    encoder = build_text_encoder(pinned)
    assert encoder.name == short_name(pinned) == f"someone/tiny@{COMMIT}"
    folder = shutil.copytree(model / "snapshots" / COMMIT, tmp_path / "copy")
    assert encoder.fingerprint == text_encoder_fingerprint(str(folder))


@pytest.mark.parametrize("name", ["someone/missing", "no name at all", "someone/tiny@nowhere"])
def test_without_network_a_hub_name_is_one_sentence(hub_cache: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"model.text_encoder is 'hub:{name}'") as caught:
        build_text_encoder(f"hub:{name}")
    assert "\n" not in str(caught.value)
