"""Tiny diffusion models with random weights, written by the tests: a folder as diffusers has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCALE = 8
"""Pixels to a cell of the model's own picture."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.-"


def tiny_model(
    folder: Path, *, inpaints: bool = False, scheduler: str = "PNDMScheduler", **parts: Any
) -> Path:
    """Write a model of a few thousand weights; `parts` go into its pipeline in place of its own."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=9 if inpaints else 4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=64,
    )
    words = tokenizer(folder.with_name(folder.name + "-words"))
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    kind = diffusers.StableDiffusionInpaintPipeline if inpaints else diffusers.StableDiffusionPipeline
    pipeline = kind(
        **{
            "unet": unet.eval(),
            "vae": vae.eval(),
            "text_encoder": text.eval(),
            "tokenizer": words,
            "scheduler": diffusers.DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                clip_sample=False,
                set_alpha_to_one=False,
            ),
            "safety_checker": None,
            "feature_extractor": None,
            **parts,
        },
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tokenizer(folder: Path) -> Any:
    """Return a tokenizer of single letters."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    names = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )
