"""Further models of the zoo: families that the first list does not have, each small enough for about a second."""

from __future__ import annotations

from typing import Any

import torch

from .zoo_making import SEQUENCE, SMALL, SPEECH, Model, other, speech, text, timm

__all__ = ["FURTHER"]

_VISION: dict[str, Any] = {
    k: v for k, v in SMALL.items() if k not in ("vocab_size", "max_position_embeddings")
}
_PATCHES: dict[str, Any] = {**_VISION, "image_size": 32, "patch_size": 8}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8,
    "moe_intermediate_size": 24, "first_k_dense_replace": 1,
}  # fmt: skip
_GPT: dict[str, Any] = {
    "small": False,
    "vocab_size": 61,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
}
_T5: dict[str, Any] = {
    "small": False, "vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
_SERIES: dict[str, Any] = {
    "prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 7], "num_time_features": 1, "d_model": 16,
    "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip


def _image() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def _labelled() -> dict[str, Any]:
    return {**_image(), "labels": torch.tensor([0, 1])}


def _clip() -> dict[str, Any]:
    return {"pixel_values": torch.randn(1, 4, 3, 16, 16), "labels": torch.tensor([1])}


def _boxes(size: int) -> dict[str, Any]:
    target = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.4]])}
    return {"pixel_values": torch.randn(1, 3, size, size), "labels": [target]}


def _series() -> dict[str, Any]:
    return {
        "past_values": torch.rand(2, 15), "past_time_features": torch.randn(2, 15, 1),
        "past_observed_mask": torch.ones(2, 15), "future_values": torch.rand(2, 4),
        "future_time_features": torch.randn(2, 4, 1),
    }  # fmt: skip


def _channels() -> dict[str, Any]:
    return {"past_values": torch.randn(2, 24, 2), "future_values": torch.randn(2, 4, 2)}


def _captioned() -> dict[str, Any]:
    tokens = torch.randint(3, 60, (2, 6))
    return {"input_ids": tokens, "labels": tokens, **_image()}


FURTHER: list[Model] = [
    # text encoders
    text("DistilBert", "ForMaskedLM", small=False, vocab_size=61, dim=32, n_layers=2, n_heads=4, hidden_dim=48,
         max_position_embeddings=64),
    text("XLNet", "LMHeadModel", small=False, vocab_size=61, d_model=32, n_layer=2, n_head=4, d_inner=48),
    text("MPNet", "ForMaskedLM"),
    text("Longformer", "ForMaskedLM", attention_window=4, pad_token_id=0),
    text("BigBird", "ForMaskedLM", attention_type="original_full"),
    text("Funnel", "ForMaskedLM", small=False, vocab_size=61, block_sizes=[1, 1], d_model=32, n_head=4, d_head=8,
         d_inner=48, num_decoder_layers=1),
    text("SqueezeBert", "ForMaskedLM", embedding_size=32, q_groups=2, k_groups=2, v_groups=2, post_attention_groups=1,
         intermediate_groups=2, output_groups=2),
    text("MobileBert", "ForMaskedLM", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    text("IBert", "ForMaskedLM"),
    text("XLM", "WithLMHeadModel", small=False, vocab_size=61, emb_dim=32, n_layers=2, n_heads=4,
         max_position_embeddings=64),
    text("Canine", "ForSequenceClassification", labels="class"),
    text("Esm", "ForMaskedLM", pad_token_id=1, mask_token_id=4, position_embedding_type="rotary"),
    text("RemBert", "ForMaskedLM", input_embedding_size=16, output_embedding_size=16),
    other("Perceiver", "ForMaskedLM", lambda: {"inputs": torch.randint(3, 60, (2, 16)),
          "labels": torch.randint(3, 60, (2, 16))}, vocab_size=61, d_model=16, d_latents=16, num_latents=6, num_blocks=1,
          num_self_attends_per_block=1, num_self_attention_heads=2, num_cross_attention_heads=2,
          max_position_embeddings=16, qk_channels=16, v_channels=16),
    other("LayoutLM", "ForTokenClassification", lambda: {"input_ids": torch.randint(3, 60, (2, 8)),
          "bbox": torch.randint(0, 60, (2, 8, 4)).sort(-1).values, "labels": torch.randint(0, 2, (2, 8))},
          **{**SMALL, "max_2d_position_embeddings": 64}),
    # decoders
    text("CTRL", "LMHeadModel", **_GPT, dff=48),
    text("GPTJ", "ForCausalLM", **_GPT, rotary_dim=4),
    text("CodeGen", "ForCausalLM", **_GPT, rotary_dim=4),
    text("GPTNeo", "ForCausalLM", small=False, vocab_size=61, hidden_size=32, num_layers=2, num_heads=4,
         attention_types=[[["global", "local"], 1]], window_size=4, max_position_embeddings=64),
    text("Olmo2", "ForCausalLM", **_GROUPED),
    text("Cohere", "ForCausalLM", **_GROUPED),
    text("StableLm", "ForCausalLM", **_GROUPED),
    text("Persimmon", "ForCausalLM"),
    text("Granite", "ForCausalLM", **_GROUPED),
    text("Phi3", "ForCausalLM", **_GROUPED, pad_token_id=0),
    text("Mpt", "ForCausalLM", small=False, vocab_size=61, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    text("Nemotron", "ForCausalLM", **_GROUPED),
    text("BioGpt", "ForCausalLM"),
    text("XGLM", "ForCausalLM", small=False, vocab_size=61, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48,
         max_position_embeddings=64),
    # mixture of experts, latent attention, state space
    text("GraniteMoe", "ForCausalLM", **_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    text("Olmoe", "ForCausalLM", **_GROUPED, **_EXPERTS),
    text("DeepseekV2", "ForCausalLM", **_LATENT),
    text("DeepseekV3", "ForCausalLM", **_LATENT),
    text("Jamba", "ForCausalLM", **_GROUPED, num_experts=2, attn_layer_period=2, attn_layer_offset=1,
         expert_layer_period=2, expert_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4, pad_token_id=0),
    text("Bamba", "ForCausalLM", **_GROUPED, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8,
         mamba_chunk_size=4, pad_token_id=0),
    text("FalconMamba", "ForCausalLM", state_size=4, time_step_rank=4),
    text("Zamba2", "ForCausalLM", num_key_value_heads=4, mamba_d_state=8, n_mamba_heads=4, mamba_headdim=16,
         mamba_ngroups=1, chunk_size=4, layers_block_type=["mamba", "hybrid"]),
    text("OlmoHybrid", "ForCausalLM", num_key_value_heads=4, pad_token_id=0),
    # encoder-decoders
    text("Pegasus", "ForConditionalGeneration", small=False, **SEQUENCE),
    text("ProphetNet", "ForConditionalGeneration", small=False, vocab_size=61, hidden_size=32, num_encoder_layers=1,
         num_decoder_layers=1, num_encoder_attention_heads=4, num_decoder_attention_heads=4, encoder_ffn_dim=48,
         decoder_ffn_dim=48, max_position_embeddings=64),
    text("LongT5", "ForConditionalGeneration", **_T5, local_radius=3, encoder_attention_type="transient-global",
         global_block_size=4),
    text("UMT5", "ForConditionalGeneration", **_T5),
    # audio
    other("Hubert", "ForCTC", speech, **SPEECH),
    other("SEW", "ForCTC", speech, **{**SPEECH, "squeeze_factor": 2}),
    other("Wav2Vec2Conformer", "ForCTC", speech, **SPEECH, position_embeddings_type="relative"),
    other("Speech2Text", "ForConditionalGeneration", lambda: {"input_features": torch.randn(2, 20, 16),
          "labels": torch.randint(1, 60, (2, 6))}, **SEQUENCE, input_feat_per_channel=16, conv_channels=16,
          num_conv_layers=2, max_source_positions=64, max_target_positions=64),
    other("Encodec", "Model", lambda: {"input_values": torch.randn(1, 1, 320)}, num_filters=4, hidden_size=16,
          codebook_size=16, codebook_dim=16, upsampling_ratios=[4, 2], num_residual_layers=1, num_lstm_layers=1),
    # images, video, several modalities
    other("Yolos", "ForObjectDetection", lambda: _boxes(32), **{**_PATCHES, "image_size": [32, 32]},
          num_detection_tokens=5, num_labels=3),
    other("Beit", "ForImageClassification", _labelled, **_PATCHES, use_relative_position_bias=True),
    other("Swinv2", "ForImageClassification", _labelled, image_size=32, patch_size=2, embed_dim=16, depths=[1, 1],
          num_heads=[2, 2], window_size=4),
    other("DPT", "ForSemanticSegmentation", lambda: {**_image(), "labels": torch.randint(0, 3, (2, 32, 32))},
          **{**_PATCHES, "num_hidden_layers": 4}, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
          fusion_hidden_size=16, num_labels=3),
    other("FocalNet", "ForImageClassification", _labelled, image_size=32, patch_size=2, embed_dim=16, depths=[1, 1],
          focal_levels=[2, 2], focal_windows=[3, 3], hidden_sizes=[16, 32]),
    other("Bit", "ForImageClassification", _labelled, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1],
          num_groups=8),
    other("Dinov2", "ForImageClassification", _labelled, **_PATCHES, mlp_ratio=2),
    other("ConvNextV2", "ForImageClassification", _labelled, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
    other("SuperPoint", "ForKeypointDetection", _image, encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16,
          keypoint_decoder_dim=65, descriptor_decoder_dim=16),
    other("VideoMAE", "ForVideoClassification", _clip, **{**_PATCHES, "image_size": 16}, num_frames=4),
    other("Timesformer", "ForVideoClassification", _clip, **{**_PATCHES, "image_size": 16}, num_frames=4),
    other("Siglip", "Model", lambda: {"input_ids": torch.randint(3, 60, (2, 6)), **_image(), "return_loss": True},
          text_config={**SMALL, "projection_size": 32}, vision_config=_PATCHES),
    other("Blip", "ForConditionalGeneration", _captioned, text_config={**SMALL, "encoder_hidden_size": 32,
          "bos_token_id": 1, "sep_token_id": 2, "pad_token_id": 0}, vision_config=_PATCHES),
    other("Vilt", "ForQuestionAnswering", lambda: {"input_ids": torch.randint(3, 60, (2, 6)), **_image(),
          "labels": torch.rand(2, 3)}, **SMALL, image_size=32, patch_size=8, num_labels=3),
    # series, decisions
    other("Autoformer", "ForPrediction", _series, **_SERIES, label_length=2, moving_average=3),
    other("Informer", "ForPrediction", _series, **_SERIES),
    other("PatchTST", "ForPrediction", _channels, num_input_channels=2, context_length=24, patch_length=4,
          patch_stride=4, prediction_length=4, d_model=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16),
    other("PatchTSMixer", "ForPrediction", _channels, num_input_channels=2, context_length=24, patch_length=4,
          patch_stride=4, prediction_length=4, d_model=8, num_layers=1),
    other("DecisionTransformer", "Model", lambda: {"states": torch.randn(1, 4, 5), "actions": torch.randn(1, 4, 2),
          "rewards": torch.randn(1, 4, 1), "returns_to_go": torch.randn(1, 4, 1), "timesteps": torch.arange(4)[None],
          "attention_mask": torch.ones(1, 4)}, state_dim=5, act_dim=2, hidden_size=32, n_layer=1, n_head=2,
          max_ep_len=16),
    # timm
    timm("beit_base_patch16_224", img_size=64, depth=2, embed_dim=48, num_heads=4),
    timm("convit_tiny", img_size=64, depth=3),
    timm("ese_vovnet19b_dw"),
    timm("fasternet_t0"),
    timm("hardcorenas_a"),
    timm("mambaout_femto", depths=(1, 1, 1, 1)),
    timm("repghostnet_050"),
    timm("skresnet18"),
    timm("tnt_s_patch16_224", img_size=64, depth=2),
    timm("twins_svt_small", img_size=64, depths=(1, 1, 1, 1)),
    timm("vit_relpos_small_patch16_224", img_size=64, depth=2),
]  # fmt: skip
