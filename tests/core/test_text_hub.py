"""Text encoders in the transformers layout: a tiny CLIP and a tiny BERT, written and read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssprompt_core.errors import UserError
from ssprompt_core.text.hub import TransformersTextEncoder
from ssprompt_core.text.registry import build_text_encoder

transformers = pytest.importorskip("transformers")


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


def write_tiny_bert(folder: Path) -> Path:
    torch.manual_seed(0)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "road", "sky", "car"]
    tokenizer = transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocab)})
    config = transformers.BertConfig(
        vocab_size=len(vocab), hidden_size=12, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TransformersTextEncoder:
    return TransformersTextEncoder(write_tiny_clip(tmp_path_factory.mktemp("clip")))


def test_clip_gives_its_joint_space(clip: TransformersTextEncoder) -> None:
    embeddings = clip.encode(["road", "sky", "road"])
    assert embeddings.shape == (3, 24)
    assert clip.dim == 24
    assert torch.equal(embeddings[0], embeddings[2])
    assert not torch.allclose(embeddings[0], embeddings[1])
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3))
    assert not embeddings.requires_grad


def test_clip_equals_the_library_call(clip: TransformersTextEncoder, tmp_path: Path) -> None:
    folder = write_tiny_clip(tmp_path)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        ["a photo of a road."], padding="max_length", max_length=40, return_tensors="pt"
    )
    with torch.no_grad():
        features = model.get_text_features(**tokens).pooler_output
    expected = torch.nn.functional.normalize(features, dim=-1)
    torch.testing.assert_close(clip.encode(["road"]), expected)


def test_sentence_encoder_averages_tokens(tmp_path: Path) -> None:
    encoder = TransformersTextEncoder(write_tiny_bert(tmp_path))
    alone = encoder.encode(["road"])
    together = encoder.encode(["road", "sky car car road"])
    assert alone.shape == (1, 12)
    # padding of the longer neighbour must not leak into the mean
    torch.testing.assert_close(alone[0], together[0])


def test_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "a")
    before = TransformersTextEncoder(folder).fingerprint
    assert TransformersTextEncoder(folder).fingerprint == before
    model = transformers.BertModel.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(folder)
    assert TransformersTextEncoder(folder).fingerprint != before


def test_registry_names_what_would_be_right(tmp_path: Path) -> None:
    assert build_text_encoder(str(write_tiny_bert(tmp_path / "bert"))).dim == 12
    with pytest.raises(UserError, match="did you mean 'small'"):
        build_text_encoder("smal")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        build_text_encoder(str(tmp_path / "empty"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are not read"):
        TransformersTextEncoder(folder)
