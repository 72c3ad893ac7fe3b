"""The seed document's pipeline, as it is written there.

Where a line cannot run with today's libraries, the comment above its replacement says so (`CORRECTION`); one is changed to
its advantage on a CPU (`IN ITS FAVOUR`), and one is an option of the benchmark (`VARIED`). Everything else is the document's: padding to max_length on the left, loss on the prompt, fp16, gradient
checkpointing, batches of 4 rows x 4, the Trainer's own loop. `build_trainer` takes the settings that a benchmark has to
vary as arguments; their defaults are the document's.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

# CORRECTION (only where the library is missing): a stand-in for its two calls.
try:
    from datasets import Dataset
except ImportError:
    from benchmarks.training.plain_dataset import Dataset  # type: ignore[assignment]


class AdapterTrainingPipeline:
    """Orchestrates QLoRA setup, dataset formatting, and training execution."""

    def __init__(self, base_model_id: str, adapter_rank: int = 16, scaling_factor: int = 32, bits: int = 4) -> None:
        self.base_model_id = base_model_id
        self.adapter_rank = adapter_rank
        self.scaling_factor = scaling_factor
        self.bits = bits
        self.tokenizer = AutoTokenizer.from_pretrained(base_model_id, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token

        # IN ITS FAVOUR (CPU only): fp16 runs on a CPU, but CPUs without fp16 units multiply such matrices eight times
        # slower than fp32 ones (20 against 175 GFLOP/s on the machine this was written on), and the comparison would be
        # one of number formats. So the compute dtype is fp32 on a CPU, for both sides.
        self.dtype = torch.float16 if torch.cuda.is_available() else torch.float32

        self.quantization_config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=self.dtype,
            bnb_4bit_use_double_quant=True,
        )

        self.lora_config = LoraConfig(
            r=adapter_rank,
            lora_alpha=scaling_factor,
            target_modules=["q_proj", "v_proj"],
            lora_dropout=0.05,
            bias="none",
            task_type=TaskType.CAUSAL_LM,
        )

    def load_frozen_backbone(self) -> Any:
        """Loads base model in 4-bit with automatic device mapping."""
        model = AutoModelForCausalLM.from_pretrained(
            self.base_model_id,
            # VARIED: --bits 16 leaves the quantisation out, for both sides.
            quantization_config=self.quantization_config if self.bits == 4 else None,
            device_map="auto",
            # CORRECTION: `torch_dtype` is called `dtype` now.
            dtype=self.dtype,
        )
        model.config.use_cache = False  # Required for training stability
        return model

    def inject_adapters(self, model: Any) -> nn.Module:
        """Wraps frozen backbone with trainable LoRA projections."""
        peft_model: nn.Module = get_peft_model(model, self.lora_config)
        trainable_count = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
        total_count = sum(p.numel() for p in peft_model.parameters())
        print(f"Adapter injection complete. Trainable: {trainable_count:,} | Total: {total_count:,}")
        return peft_model

    def format_instruction_data(self, raw_data: list[dict[str, str]]) -> Dataset:
        """Converts raw dicts into tokenized instruction-response pairs."""

        def apply_template(sample: dict[str, str]) -> dict[str, str]:
            prompt = f"<|user|>\n{sample['instruction']}\n{sample.get('input', '')}<|end|>\n<|assistant|>\n"
            return {"text": prompt + sample["response"]}

        formatted = [apply_template(d) for d in raw_data]
        return Dataset.from_list(formatted)

    def tokenize_dataset(self, dataset: Dataset, max_length: int = 512) -> Dataset:
        """Applies tokenizer with truncation and attention masking."""

        def tokenize_fn(batch: Any) -> Any:
            tokens = self.tokenizer(
                batch["text"],
                truncation=True,
                max_length=max_length,
                padding="max_length",
                return_tensors="pt",
            )
            # CORRECTION: the document gives no labels, and a model without labels returns no loss. They are the tokens
            # themselves, prompt included; padding is left out as the document's collator does with labels that it pads.
            tokens["labels"] = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
            return tokens

        return dataset.map(tokenize_fn, batched=True, remove_columns=["text"])

    def build_trainer(
        self,
        model: nn.Module,
        train_ds: Dataset,
        eval_ds: Dataset,
        *,
        output_dir: Path,
        epochs: float = 3,
        learning_rate: float = 2e-4,
    ) -> Trainer:
        """Configures training hyperparameters and returns Trainer instance."""
        on_gpu = torch.cuda.is_available()
        training_args = TrainingArguments(
            output_dir=str(output_dir),
            num_train_epochs=epochs,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            learning_rate=learning_rate,
            weight_decay=0.01,
            # CORRECTION: `warmup_ratio` is gone; a `warmup_steps` below 1 is a ratio now.
            warmup_steps=0.05,
            lr_scheduler_type="cosine",
            # IN ITS FAVOUR (CPU only): see dtype above.
            fp16=on_gpu,
            gradient_checkpointing=True,
            optim="paged_adamw_8bit",
            logging_steps=10,
            save_strategy="epoch",
            # CORRECTION: `evaluation_strategy` is called `eval_strategy` now.
            eval_strategy="epoch",
            report_to="none",
        )
        return Trainer(
            model=model,
            args=training_args,
            train_dataset=train_ds,
            eval_dataset=eval_ds,
            data_collator=DataCollatorForSeq2Seq(tokenizer=self.tokenizer, padding=True),
        )
