"""Real models with random weights in small configurations, chosen for difference: one row, one architecture.

A model's forward includes its loss where the package has one; otherwise everything it returns is projected at random.
``zoo_families`` holds further ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .coverage_entries import Entry, Run
from .zoo_families import FURTHER
from .zoo_layers import HANDWRITTEN
from .zoo_making import (
    SEQUENCE,
    SMALL,
    SPEECH,
    Model,
    detection,
    other,
    segmentation,
    speech,
    text,
    timm,
    torchvision,
    video,
    written,
)

__all__ = ["MODELS", "Model", "zoo_entries"]

MODELS: list[Model] = [
    # image classification: plain, residual, dense, inverted bottleneck, squeeze, inception, search results
    torchvision("alexnet", size=64),
    torchvision("vgg11_bn"),
    torchvision("resnet18"),
    torchvision("resnext50_32x4d"),
    torchvision("densenet121"),
    torchvision("squeezenet1_1", size=48),
    torchvision("mobilenet_v2"),
    torchvision("mobilenet_v3_small"),
    torchvision("shufflenet_v2_x0_5"),
    torchvision("googlenet", size=64, init_weights=False),
    torchvision("mnasnet0_5"),
    torchvision("efficientnet_b0"),
    torchvision("regnet_y_400mf"),
    torchvision("convnext_tiny"),
    torchvision("swin_t"),
    torchvision("vit_b_32", image_size=32),
    # segmentation, detection, video
    segmentation("fcn_resnet50"),
    segmentation("deeplabv3_mobilenet_v3_large"),
    segmentation("lraspp_mobilenet_v3_large"),
    detection("retinanet_resnet50_fpn"),
    detection("fasterrcnn_mobilenet_v3_large_320_fpn"),
    detection("maskrcnn_resnet50_fpn"),
    video("r3d_18"),
    video("mc3_18"),
    video("s3d", frames=14, size=224),
    # timm
    timm("vit_tiny_patch16_224", img_size=64, depth=3),
    timm("deit3_small_patch16_224", img_size=64, depth=2),
    timm("mixer_s32_224", img_size=64),
    timm("resmlp_12_224", img_size=64),
    timm("convmixer_768_32"),
    timm("coatnet_pico_rw_224", img_size=64),
    timm("efficientformer_l1", size=224, batch=1),
    timm("edgenext_xx_small"),
    timm("mobilevit_xxs"),
    timm("ghostnet_050"),
    timm("nfnet_f0", size=64),
    timm("xcit_nano_12_p16_224", img_size=64),
    timm("poolformer_s12"),
    timm("pvt_v2_b0"),
    timm("levit_128s", size=224, batch=2),
    timm("repvgg_a0"),
    timm("res2net50_14w_8s"),
    timm("halonet26t", size=256, batch=1),
    timm("maxvit_rmlp_pico_rw_256", img_size=64),
    timm("eva02_tiny_patch14_224", size=56, img_size=56),
    # text encoders
    text("Bert", "ForSequenceClassification", labels="class"),
    text("Albert", "ForMaskedLM", embedding_size=16),
    text("DebertaV2", "ForMaskedLM", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    text("Electra", "ForTokenClassification", embedding_size=16, num_labels=60),
    text("RoFormer", "ForMaskedLM", embedding_size=32),
    text("FNet", "ForMaskedLM"),
    text("ConvBert", "ForSequenceClassification", labels="class", embedding_size=32),
    text("ModernBert", "ForMaskedLM", pad_token_id=0),
    text("Nystromformer", "ForMaskedLM", num_landmarks=4, segment_means_seq_len=8),
    # decoders
    text("GPT2", "LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64),
    text("Llama", "ForCausalLM", num_key_value_heads=2),
    text("Mistral", "ForCausalLM", num_key_value_heads=2, sliding_window=4),
    text("Gemma2", "ForCausalLM", num_key_value_heads=2, head_dim=8),
    text("Phi", "ForCausalLM"),
    text("GPTNeoX", "ForCausalLM"),
    text("Bloom", "ForCausalLM", n_layer=2, n_head=4),
    text("Falcon", "ForCausalLM"),
    text("OPT", "ForCausalLM", ffn_dim=48, word_embed_proj_dim=32),
    text("Qwen3", "ForCausalLM", num_key_value_heads=2, head_dim=8),
    # mixture of experts, state space, recurrence
    text("Mixtral", "ForCausalLM", num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    text("Qwen2Moe", "ForCausalLM", num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
          moe_intermediate_size=24, shared_expert_intermediate_size=24),
    text("Mamba", "ForCausalLM", state_size=4, time_step_rank=4),
    text("Mamba2", "ForCausalLM", num_heads=8, head_dim=8, state_size=8, n_groups=2, chunk_size=4),
    text("Rwkv", "ForCausalLM", attention_hidden_size=32, context_length=32),
    text("RecurrentGemma", "ForCausalLM", num_key_value_heads=1, lru_width=32, attention_window_size=8,
          num_hidden_layers=3),
    # encoder-decoders
    text("T5", "ForConditionalGeneration", small=False, vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=1,
          num_heads=4, decoder_start_token_id=0),
    text("Bart", "ForConditionalGeneration", small=False, **SEQUENCE),
    text("LED", "ForConditionalGeneration", small=False, **{k: v for k, v in SEQUENCE.items()
          if k != "max_position_embeddings"}, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64,
          attention_window=4),
    # audio
    other("Wav2Vec2", "ForCTC", speech, **SPEECH),
    other("Whisper", "ForConditionalGeneration", lambda: {"input_features": torch.randn(1, 16, 40),
           "labels": torch.randint(1, 60, (1, 6))}, **{k: v for k, v in SEQUENCE.items()
           if k != "max_position_embeddings"}, num_mel_bins=16, max_source_positions=20, max_target_positions=32,
           decoder_start_token_id=1, pad_token_id=0, bos_token_id=1, eos_token_id=2, suppress_tokens=None,
           begin_suppress_tokens=None),
    # vision and several modalities
    other("CLIP", "Model", lambda: {"input_ids": torch.randint(3, 60, (2, 6)), "pixel_values": torch.randn(2, 3, 32, 32),
           "return_loss": True}, text_config=SMALL, vision_config={**SMALL, "image_size": 32, "patch_size": 8},
           projection_dim=16),
    other("Segformer", "ForSemanticSegmentation", lambda: {"pixel_values": torch.randn(2, 3, 32, 32),
           "labels": torch.randint(0, 3, (2, 32, 32))}, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
           num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, num_labels=3),
    other("ViTMAE", "ForPreTraining", lambda: {"pixel_values": torch.randn(2, 3, 32, 32)}, **{k: v for k, v in
           SMALL.items() if k != "vocab_size"}, image_size=32, patch_size=8, decoder_hidden_size=16,
           decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16),
    other("TimeSeriesTransformer", "ForPrediction", lambda: {"past_values": torch.rand(2, 12),
           "past_time_features": torch.randn(2, 12, 1), "past_observed_mask": torch.ones(2, 12),
           "future_values": torch.rand(2, 4), "future_time_features": torch.randn(2, 4, 1)}, prediction_length=4,
           context_length=5, lags_sequence=[1, 2, 7], num_time_features=1, d_model=16, encoder_layers=1,
           decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16),
    *(written(name) for name in HANDWRITTEN),
    *FURTHER,
]  # fmt: skip


def zoo_entries() -> list[Entry]:
    """Every model in train mode, float32, as a coverage entry."""
    return [Entry("zoo", model.name, lambda model=model: _runs(model)) for model in MODELS]


def _runs(model: Model) -> Iterator[Run]:
    torch.manual_seed(0)
    module, args, kwargs = model.make()
    module.train()

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = module(*args, **kwargs)
        loss = getattr(output, "loss", None)
        if loss is not None:
            return loss
        if hasattr(output, "to_tuple"):
            return [value for value in output.to_tuple() if isinstance(value, Tensor)]
        return output

    yield Run(forward, args, kwargs, dict(module.named_parameters()), (module,), tuple(module.buffers()))
