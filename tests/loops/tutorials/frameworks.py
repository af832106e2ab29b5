"""Trainers of other libraries: Lightning, Hugging Face, accelerate."""

from __future__ import annotations

import tempfile

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from .registry import tutorial


def data():
    return TensorDataset(torch.randn(12, 4), torch.randint(2, (12,)))


@tutorial("Lightning in 15 minutes (Trainer, accumulation, clipping, validation)", needs=("lightning",))
def lightning_trainer():
    import lightning as L

    class LitModel(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 2))

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val_loss", F.cross_entropy(self.net(x), y))

        def configure_optimizers(self):
            optimizer = optim.AdamW(self.parameters(), lr=1e-3)
            return [optimizer], [optim.lr_scheduler.StepLR(optimizer, 1)]

    model = LitModel()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            accumulate_grad_batches=2,
            gradient_clip_val=0.5,
            num_sanity_val_steps=1,
        )
        trainer.fit(model, DataLoader(data(), batch_size=4), DataLoader(data(), batch_size=4))
    return list(model.parameters())


@tutorial("Lightning: a GAN with manual optimization", needs=("lightning",))
def lightning_gan():
    import lightning as L

    class GAN(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
            self.discriminator = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))

        def training_step(self, batch):
            imgs, _ = batch
            optimizer_g, optimizer_d = self.optimizers()
            z = torch.randn(imgs.shape[0], 3)
            valid, fake = torch.ones(imgs.size(0), 1), torch.zeros(imgs.size(0), 1)
            self.toggle_optimizer(optimizer_g)
            g_loss = F.binary_cross_entropy_with_logits(self.discriminator(self.generator(z)), valid)
            self.manual_backward(g_loss)
            optimizer_g.step()
            optimizer_g.zero_grad()
            self.untoggle_optimizer(optimizer_g)
            self.toggle_optimizer(optimizer_d)
            real_loss = F.binary_cross_entropy_with_logits(self.discriminator(imgs), valid)
            fake_loss = F.binary_cross_entropy_with_logits(
                self.discriminator(self.generator(z).detach()), fake
            )
            self.manual_backward((real_loss + fake_loss) / 2)
            optimizer_d.step()
            optimizer_d.zero_grad()
            self.untoggle_optimizer(optimizer_d)

        def configure_optimizers(self):
            return [
                optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
                optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
            ], []

    model = GAN()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(model, DataLoader(data(), batch_size=4))
    return list(model.parameters())


@tutorial(
    "Fine-tune a pretrained model (Hugging Face Trainer)",
    needs=("transformers", "accelerate"),
)
def hugging_face_trainer():
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    model = BertForSequenceClassification(config)
    rows = [
        {"input_ids": torch.randint(20, (6,)), "attention_mask": torch.ones(6), "labels": torch.tensor(i % 2)}
        for i in range(8)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            num_train_epochs=1,
            max_grad_norm=1.0,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            eval_strategy="epoch",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:4])
        trainer.train()
    return list(model.parameters())


@tutorial("A training loop of one's own over a Hugging Face model", needs=("transformers",))
def hugging_face_model_by_hand():
    from transformers import GPT2Config, GPT2LMHeadModel, get_linear_schedule_with_warmup

    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    optimizer = optim.AdamW(model.parameters(), lr=5e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, 1, 4)
    model.train()
    for _ in range(3):
        ids = torch.randint(20, (2, 6))
        outputs = model(ids, labels=ids)
        loss = outputs.loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return list(model.parameters())


@tutorial(
    "PEFT: LoRA adapters on a frozen GPT-2, switched off for a look and merged at the end", needs=("peft",)
)
def peft_lora():
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    config = LoraConfig(
        r=2,
        lora_alpha=4,
        lora_dropout=0.1,
        target_modules=["c_attn", "c_proj"],
        modules_to_save=["lm_head"],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    optimizer = optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    model.train()
    for step in range(6):
        ids = torch.randint(20, (2, 6))
        loss = model(input_ids=ids, labels=ids).loss / 2
        loss.backward()
        if step % 2:  # two micro-batches each
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad(), model.disable_adapter():
        model(input_ids=ids)
    merged = model.merge_and_unload()
    return list(merged.parameters())


@tutorial("accelerate: the quick tour's loop", needs=("accelerate",))
def accelerate_loop():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = optim.AdamW(model.parameters())
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1)
    loader = DataLoader(data(), batch_size=3)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            loss = F.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]
