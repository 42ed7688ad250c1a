"""Tiny models in the transformers layout, random and written to a folder as real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model

# 96 x 96 images, 6 x 6 x 16 embeddings
SIDE, PATCH, DIM = 96, 16, 16
DECODER = {
    "hidden_size": DIM,
    "mlp_dim": 32,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": DIM,
    "num_hidden_layers": 2,
}
PROMPTS = {"hidden_size": DIM, "image_size": SIDE, "patch_size": PATCH, "mask_input_channels": 4}
VIT = {
    "hidden_size": 32,
    "output_channels": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "window_size": 4,
    "global_attn_indexes": [1],
    "num_pos_feats": DIM // 2,
    "mlp_dim": 48,
}
SIZES = [[24, 24], [12, 12], [6, 6]]
PADDED = {
    "size": {"longest_edge": SIDE},
    "pad_size": {"height": SIDE, "width": SIDE},
}
SQUASHED = {"size": {"height": SIDE, "width": SIDE}}
MEMORY = {
    "image_size": SIDE,
    "memory_attention_hidden_size": DIM,
    "memory_attention_num_layers": 1,
    "memory_attention_num_attention_heads": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_attention_rope_feat_sizes": [6, 6],
    "memory_encoder_hidden_size": DIM,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": DIM,
    "memory_fuser_embed_dim": DIM,
    "memory_fuser_intermediate_dim": 32,
}
KINDS = ["sam", "sam_hq", "sam2", "sam2_video", "sam3_tracker", "sam3_video"]


def write_tiny(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a model with random weights and its image processor."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _model(kind)
        for name, tensor in model.state_dict().items():
            # fresh layers start with zero biases and unit norms, which would hide mistakes with
            # them; positions stay as they are, for their frequencies are large already
            if tensor.is_floating_point() and "positional_embedding" not in name:
                tensor += 0.1 * torch.randn_like(tensor)
    if kind == "sam3_video":
        # save_pretrained of this class writes the tracker's prefix twice; published files have it
        # once, as the module has
        model.config.save_pretrained(folder)
        save_model(model, str(folder / "model.safetensors"), {"format": "pt"})
    else:
        model.save_pretrained(folder)
    if kind in {"sam", "sam_hq"}:
        processor = transformers.SamImageProcessor(**PADDED)
    elif kind.startswith("sam3"):
        processor = transformers.Sam3ImageProcessor(**SQUASHED)
    else:
        processor = transformers.Sam2ImageProcessor(**SQUASHED)
    processor.save_pretrained(folder)
    return folder


def _model(kind: str) -> Any:
    import transformers as t

    if kind == "sam":
        return t.SamModel(
            t.SamConfig(
                vision_config=VIT, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
            )
        )
    if kind == "sam_hq":
        decoder = DECODER | {"vit_dim": VIT["hidden_size"]}
        return t.SamHQModel(
            t.SamHQConfig(
                vision_config=VIT, prompt_encoder_config=PROMPTS, mask_decoder_config=decoder
            )
        )
    if kind.startswith("sam3"):
        return _sam3(kind)
    vision = t.Sam2VisionConfig(
        backbone_config={
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "image_size": [SIDE, SIDE],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [8, 4, 6, 3],
            "global_attention_blocks": [3],
            "window_positional_embedding_background_size": [4, 4],
        },
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=SIZES,
        fpn_hidden_size=DIM,
    )
    parts = {
        "vision_config": vision,
        "prompt_encoder_config": PROMPTS,
        "mask_decoder_config": DECODER,
    }
    if kind == "sam2":
        return t.Sam2Model(t.Sam2Config(**parts))
    return t.Sam2VideoModel(t.Sam2VideoConfig(**parts, **MEMORY))


def _sam3(kind: str) -> Any:
    import transformers as t

    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "pretrain_image_size": SIDE // 2,
            "patch_size": PATCH,
            "window_size": 3,
            "global_attn_indexes": [1],
        },
        "fpn_hidden_size": DIM,
        "backbone_feature_sizes": SIZES,
    }
    parts = {"prompt_encoder_config": PROMPTS, "mask_decoder_config": DECODER}
    if kind == "sam3_tracker":
        return t.Sam3TrackerModel(
            t.Sam3TrackerConfig(vision_config=t.Sam3VisionConfig(**vision), **parts)
        )
    vision["model_type"] = "sam3_vision_model"
    layers = {"hidden_size": DIM, "num_attention_heads": 2}
    text = {"vocab_size": 64, "projection_dim": DIM, "num_hidden_layers": 1, "eos_token_id": 1}
    detector = {
        "vision_config": vision,
        "text_config": layers | text | {"bos_token_id": 0},
        "geometry_encoder_config": layers | {"num_layers": 1},
        "detr_encoder_config": layers | {"num_layers": 1},
        "detr_decoder_config": layers | {"num_layers": 1, "num_queries": 5},
        "mask_decoder_config": layers,
    }
    tracker = {"vision_config": vision, **parts, **MEMORY}
    return t.Sam3VideoModel(t.Sam3VideoConfig(detector_config=detector, tracker_config=tracker))
