"""Real models with random weights in small configurations, chosen for difference: one row, one architecture.

A model's forward includes its loss where the package has one; otherwise everything it returns is projected at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .coverage_entries import Entry, Run
from .zoo_layers import HANDWRITTEN

__all__ = ["MODELS", "Model", "zoo_entries"]

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """One model: its name, and how to make it with its arguments, from torch's current seed."""

    name: str
    make: Callable[[], Made]


def _torchvision(name: str, size: int = 32, batch: int = 2, **config: Any) -> Model:
    def make() -> Made:
        import torchvision

        model = torchvision.models.get_model(name, weights=None, **config)
        return model, (torch.randn(batch, 3, size, size),), {}

    return Model(f"torchvision {name}", make)


def _segmentation(name: str, size: int = 33) -> Model:
    return _torchvision(name, size=size, weights_backbone=None, num_classes=4, aux_loss=None)


def _detection(name: str, **config: Any) -> Model:
    def make() -> Made:
        import torchvision

        model = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, **config
        )
        image = torch.rand(3, 64, 64)
        target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])}
        if "mask" in name:
            target["masks"] = (torch.rand(1, 64, 64) > 0.5).to(torch.uint8)
        return model, ([image], [target]), {}

    return Model(f"torchvision {name}", make)


def _video(name: str, frames: int = 4, size: int = 32) -> Model:
    def make() -> Made:
        import torchvision

        return torchvision.models.get_model(name, weights=None), (torch.randn(1, 3, frames, size, size),), {}

    return Model(f"torchvision {name}", make)


def _timm(name: str, size: int = 64, batch: int = 2, **config: Any) -> Model:
    def make() -> Made:
        import timm

        model = timm.create_model(name, pretrained=False, num_classes=5, **config)
        return model, (torch.randn(batch, 3, size, size),), {}

    return Model(f"timm {name}", make)


_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 61,
    "max_position_embeddings": 64,
}


def _text(family: str, head: str, *, labels: str = "tokens", small: bool = True, **config: Any) -> Model:
    """A text model with its loss: ``labels`` "tokens" (one per position) or "class"."""

    def make() -> Made:
        import transformers

        settings = getattr(transformers, f"{family}Config")(**{**(_SMALL if small else {}), **config})
        settings._attn_implementation = "eager"
        model = getattr(transformers, f"{family}{head}")(settings)
        tokens = torch.randint(3, 60, (2, 8))
        wanted = tokens if labels == "tokens" else torch.tensor([0, 1])
        return model, (), {"input_ids": tokens, "labels": wanted}

    return Model(f"transformers {family}{head}", make)


def _other(family: str, head: str, inputs: Callable[[], dict[str, Any]], **config: Any) -> Model:
    def make() -> Made:
        import transformers

        settings = getattr(transformers, f"{family}Config")(**config)
        return getattr(transformers, f"{family}{head}")(settings), (), inputs()

    return Model(f"transformers {family}{head}", make)


def _written(name: str) -> Model:
    def make() -> Made:
        model, args = HANDWRITTEN[name]()
        return model, args, {}

    return Model(f"hand-written {name}", make)


_SEQUENCE: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
_SPEECH: dict[str, Any] = {
    **_SMALL,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "vocab_size": 32,
}


def _speech() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 800), "labels": torch.randint(1, 30, (2, 5))}


MODELS: list[Model] = [
    # image classification: plain, residual, dense, inverted bottleneck, squeeze, inception, search results
    _torchvision("alexnet", size=64),
    _torchvision("vgg11_bn"),
    _torchvision("resnet18"),
    _torchvision("resnext50_32x4d"),
    _torchvision("densenet121"),
    _torchvision("squeezenet1_1", size=48),
    _torchvision("mobilenet_v2"),
    _torchvision("mobilenet_v3_small"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("googlenet", size=64, init_weights=False),
    _torchvision("mnasnet0_5"),
    _torchvision("efficientnet_b0"),
    _torchvision("regnet_y_400mf"),
    _torchvision("convnext_tiny"),
    _torchvision("swin_t"),
    _torchvision("vit_b_32", image_size=32),
    # segmentation, detection, video
    _segmentation("fcn_resnet50"),
    _segmentation("deeplabv3_mobilenet_v3_large"),
    _segmentation("lraspp_mobilenet_v3_large"),
    _detection("retinanet_resnet50_fpn"),
    _detection("fasterrcnn_mobilenet_v3_large_320_fpn"),
    _detection("maskrcnn_resnet50_fpn"),
    _video("r3d_18"),
    _video("mc3_18"),
    _video("s3d", frames=14, size=224),
    # timm
    _timm("vit_tiny_patch16_224", img_size=64, depth=3),
    _timm("deit3_small_patch16_224", img_size=64, depth=2),
    _timm("mixer_s32_224", img_size=64),
    _timm("resmlp_12_224", img_size=64),
    _timm("convmixer_768_32"),
    _timm("coatnet_pico_rw_224", img_size=64),
    _timm("efficientformer_l1", size=224, batch=1),
    _timm("edgenext_xx_small"),
    _timm("mobilevit_xxs"),
    _timm("ghostnet_050"),
    _timm("nfnet_f0", size=64),
    _timm("xcit_nano_12_p16_224", img_size=64),
    _timm("poolformer_s12"),
    _timm("pvt_v2_b0"),
    _timm("levit_128s", size=224, batch=2),
    _timm("repvgg_a0"),
    _timm("res2net50_14w_8s"),
    _timm("halonet26t", size=256, batch=1),
    _timm("maxvit_rmlp_pico_rw_256", img_size=64),
    _timm("eva02_tiny_patch14_224", size=56, img_size=56),
    # text encoders
    _text("Bert", "ForSequenceClassification", labels="class"),
    _text("Albert", "ForMaskedLM", embedding_size=16),
    _text("DebertaV2", "ForMaskedLM", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    _text("Electra", "ForTokenClassification", embedding_size=16, num_labels=60),
    _text("RoFormer", "ForMaskedLM", embedding_size=32),
    _text("FNet", "ForMaskedLM"),
    _text("ConvBert", "ForSequenceClassification", labels="class", embedding_size=32),
    _text("ModernBert", "ForMaskedLM", pad_token_id=0),
    _text("Nystromformer", "ForMaskedLM", num_landmarks=4, segment_means_seq_len=8),
    # decoders
    _text("GPT2", "LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64),
    _text("Llama", "ForCausalLM", num_key_value_heads=2),
    _text("Mistral", "ForCausalLM", num_key_value_heads=2, sliding_window=4),
    _text("Gemma2", "ForCausalLM", num_key_value_heads=2, head_dim=8),
    _text("Phi", "ForCausalLM"),
    _text("GPTNeoX", "ForCausalLM"),
    _text("Bloom", "ForCausalLM", n_layer=2, n_head=4),
    _text("Falcon", "ForCausalLM"),
    _text("OPT", "ForCausalLM", ffn_dim=48, word_embed_proj_dim=32),
    _text("Qwen3", "ForCausalLM", num_key_value_heads=2, head_dim=8),
    # mixture of experts, state space, recurrence
    _text("Mixtral", "ForCausalLM", num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    _text("Qwen2Moe", "ForCausalLM", num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
          moe_intermediate_size=24, shared_expert_intermediate_size=24),
    _text("Mamba", "ForCausalLM", state_size=4, time_step_rank=4),
    _text("Mamba2", "ForCausalLM", num_heads=8, head_dim=8, state_size=8, n_groups=2, chunk_size=4),
    _text("Rwkv", "ForCausalLM", attention_hidden_size=32, context_length=32),
    _text("RecurrentGemma", "ForCausalLM", num_key_value_heads=1, lru_width=32, attention_window_size=8,
          num_hidden_layers=3),
    # encoder-decoders
    _text("T5", "ForConditionalGeneration", small=False, vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=1,
          num_heads=4, decoder_start_token_id=0),
    _text("Bart", "ForConditionalGeneration", small=False, **_SEQUENCE),
    _text("LED", "ForConditionalGeneration", small=False, **{k: v for k, v in _SEQUENCE.items()
          if k != "max_position_embeddings"}, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64,
          attention_window=4),
    # audio
    _other("Wav2Vec2", "ForCTC", _speech, **_SPEECH),
    _other("Whisper", "ForConditionalGeneration", lambda: {"input_features": torch.randn(1, 16, 40),
           "labels": torch.randint(1, 60, (1, 6))}, **{k: v for k, v in _SEQUENCE.items()
           if k != "max_position_embeddings"}, num_mel_bins=16, max_source_positions=20, max_target_positions=32,
           decoder_start_token_id=1, pad_token_id=0, bos_token_id=1, eos_token_id=2, suppress_tokens=None,
           begin_suppress_tokens=None),
    # vision and several modalities
    _other("CLIP", "Model", lambda: {"input_ids": torch.randint(3, 60, (2, 6)), "pixel_values": torch.randn(2, 3, 32, 32),
           "return_loss": True}, text_config=_SMALL, vision_config={**_SMALL, "image_size": 32, "patch_size": 8},
           projection_dim=16),
    _other("Segformer", "ForSemanticSegmentation", lambda: {"pixel_values": torch.randn(2, 3, 32, 32),
           "labels": torch.randint(0, 3, (2, 32, 32))}, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
           num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, num_labels=3),
    _other("ViTMAE", "ForPreTraining", lambda: {"pixel_values": torch.randn(2, 3, 32, 32)}, **{k: v for k, v in
           _SMALL.items() if k != "vocab_size"}, image_size=32, patch_size=8, decoder_hidden_size=16,
           decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16),
    _other("TimeSeriesTransformer", "ForPrediction", lambda: {"past_values": torch.rand(2, 12),
           "past_time_features": torch.randn(2, 12, 1), "past_observed_mask": torch.ones(2, 12),
           "future_values": torch.rand(2, 4), "future_time_features": torch.randn(2, 4, 1)}, prediction_length=4,
           context_length=5, lags_sequence=[1, 2, 7], num_time_features=1, d_model=16, encoder_layers=1,
           decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16),
    *(_written(name) for name in HANDWRITTEN),
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
