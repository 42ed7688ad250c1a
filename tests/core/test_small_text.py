"""The small text encoder: reads any string, knows its words, passes the contract."""

from __future__ import annotations

import pytest
import torch
from contracts import TextEncoderContract

from ssprompt_core.models.small_sam import build_small_text_encoder
from ssprompt_core.text.small import BUCKETS, SmallTextEncoder, ngram_ids


class TestSmallText(TextEncoderContract):
    @pytest.fixture
    def encoder(self) -> SmallTextEncoder:
        return build_small_text_encoder()


def test_ngrams_are_the_same_in_every_process() -> None:
    # figures of zlib.crc32, which no process seeds
    assert ngram_ids("a") == [2160, 683]
    assert ngram_ids("Sky") == ngram_ids("sky")
    assert all(0 <= i < BUCKETS for i in ngram_ids("naïve 漢字 traffic-light"))


def test_synonyms_it_heard_lie_nearer_than_other_words() -> None:
    encoder = build_small_text_encoder()
    a = torch.nn.functional.normalize(encoder.encode(["disc", "circle", "water"]), dim=1)
    assert a[0] @ a[1] > a[0] @ a[2]
