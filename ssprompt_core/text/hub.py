"""Text encoders in the `transformers` layout: CLIP, SigLIP or a sentence encoder, from a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssprompt_core.errors import UserError
from ssprompt_core.hub_files import reading, refuse_broken, refuse_incomplete
from ssprompt_core.text.encoder import TextEncoder, refuse_empty
from ssprompt_core.text.folders import folder_fingerprint, missing_package, pooling_file

TEMPLATE = "a photo of a {}."
"""CLIP was trained on captions; it reads a class name best inside one (arXiv 2103.00020, 3.1.4)."""


class TransformersTextEncoder(TextEncoder):
    """A frozen text encoder that `transformers` can load.

    Models with text features in a joint image-text space (CLIP, SigLIP) give those; others give
    the mean of their last hidden states over the tokens, or the first token's where
    ``1_Pooling/config.json`` says so. Embeddings have length 1.

    Args:
        folder: Folder with ``config.json``, ``model.safetensors`` and the tokenizer's files.
            Nothing is downloaded.
        name: What to call it; None takes the folder's name.

    Raises:
        UserError: ``transformers`` is not installed, or the folder is missing or not readable.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.name = name or folder.name
        self.fingerprint = folder_fingerprint(folder)
        try:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise missing_package(self.name) from error
        disable_progress_bar()  # a bar of a fraction of a second, in every worker
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with reading(folder, "text encoder"):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
            self.model: Any
            self.model, report = AutoModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
            )
            # a pooler is made for classification and plays no part here
            missing = [key for key in report["missing_keys"] if "pooler." not in key]
            refuse_incomplete(folder, "text encoder", missing)
            refuse_broken(folder, self.model.state_dict())
            self._describe(folder)

    def _describe(self, folder: Path) -> None:
        """Find out how the model tokenises, pools and how long its texts may be."""
        self.model.eval().requires_grad_(False)
        self._tokenizer.padding_side = "right"
        self._joint_space = hasattr(self.model, "get_text_features")
        self._pool_first = not self._joint_space and _pools_first(folder)
        config = self.model.config
        self._room = min(
            getattr(config, "text_config", config).max_position_embeddings,
            self._tokenizer.model_max_length,
        )
        special = set(self._tokenizer.all_special_ids)
        # CLIP finds a text's end by its id, so a placeholder must be no special token
        self._placeholder = next(i for i in range(len(special) + 1) if i not in special)
        self.template = TEMPLATE if self._joint_space else "{}"
        self._table: nn.Module = getattr(
            self.model, "text_model", self.model
        ).get_input_embeddings()
        weight_VW: Any = self._table.weight
        self.context_dim = int(weight_VW.shape[1])
        self._token_size = float(weight_VW.square().mean().sqrt())
        self.dim = int(self.encode(["x"]).shape[1])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed ``C`` texts, float32 ``[C, dim]`` on the CPU, each of length 1.

        Raises:
            UserError: A text is empty, or longer than the encoder can read.
        """
        return self._embed(self._tokens(texts, 0)).cpu()

    def starting_context(self, length: int, generator: torch.Generator) -> Tensor:
        """Random vectors of the size of the vocabulary's embeddings, float32 ``[L, W]``."""
        return torch.randn(length, self.context_dim or 0, generator=generator) * self._token_size

    def encode_with_context(self, texts: Sequence[str], context_LW: Tensor) -> Tensor:
        """Embed ``C`` names behind context, float32 ``[C, dim]`` on the context's device.

        The context stands behind the token that opens a text, where the encoder has one. Its
        vectors replace what the vocabulary gives for placeholders, so that positions, attention
        and pooling are those of a text of that length.

        Raises:
            UserError: A name is empty, or too long together with the context.
        """
        self.model.to(context_LW.device)
        tokens = self._tokens(texts, len(context_LW))
        start = self._start(tokens["input_ids"][0].tolist())
        end = start + len(context_LW)

        def put_context(module: nn.Module, arguments: Any, found_CTW: Tensor) -> Tensor:
            context_CLW = context_LW.to(found_CTW.dtype).expand(len(texts), -1, -1)
            return torch.cat([found_CTW[:, :start], context_CLW, found_CTW[:, end:]], dim=1)

        hook = self._table.register_forward_hook(put_context)
        try:
            return self._embed(tokens)
        finally:
            hook.remove()

    def _start(self, ids: Sequence[int]) -> int:
        """Tokens that open every text: one (BOS, CLS) or none."""
        return int(ids[0] in self._tokenizer.all_special_ids)

    def _tokens(self, texts: Sequence[str], context: int) -> dict[str, Tensor]:
        """Padded token ids (and mask) of the texts, with placeholders for the context."""
        refuse_empty(texts)
        rows: list[list[int]] = self._tokenizer(list(texts), verbose=False)["input_ids"]
        for text, ids in zip(texts, rows, strict=True):
            start = self._start(ids)
            ids[start:start] = [self._placeholder] * context
            if len(ids) > self._room:
                behind = f" behind {context} context tokens" if context else ""
                raise UserError(
                    f"'{text}'{behind} takes {len(ids)} tokens, but the text encoder {self.name} "
                    f"reads at most {self._room}"
                )
        # SigLIP was trained with its texts padded to the full length; for CLIP it is harmless
        padding: dict[str, Any] = (
            {"padding": "max_length", "max_length": self._room}
            if self._joint_space
            else {"padding": True}
        )
        padded = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt", **padding)
        return dict(padded.to(self.model.device))

    def _embed(self, tokens: dict[str, Tensor]) -> Tensor:
        if self._joint_space:
            features = self.model.get_text_features(**tokens)
            pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
        else:
            hidden_CTW = self.model(**tokens).last_hidden_state
            mask_CT1 = tokens["attention_mask"].unsqueeze(-1).to(hidden_CTW.dtype)
            mean_CW = (hidden_CTW * mask_CT1).sum(1) / mask_CT1.sum(1)
            pooled = hidden_CTW[:, 0] if self._pool_first else mean_CW
        return torch.nn.functional.normalize(pooled.float(), dim=-1)


def _pools_first(folder: Path) -> bool:
    """Whether a sentence encoder takes its first token (CLS) instead of the mean of all."""
    path = pooling_file(folder)
    if not path.is_file():
        return False
    config = json.loads(path.read_text())
    legacy = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    modes = legacy or [config.get("pooling_mode", "mean")]
    if modes in (["pooling_mode_cls_token"], ["cls"]):
        return True
    if modes in (["pooling_mode_mean_tokens"], ["mean"]):
        return False
    raise UserError(f"{path} asks for {modes[0]}, but only the mean and the first token are known")
