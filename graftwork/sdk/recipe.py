"""What to train: a recipe as a caller gives it, and as the service resolved it."""

from dataclasses import dataclass

from graftwork.v1 import trainer_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to train. Leave a field at None (or empty) and the service chooses it, and writes it back in the job.

    Attributes:
        preset: compact (default), quality, lora or mini; see `graft recipe list`.
        rank: of the adapter. alpha: its scale is alpha / rank.
        dropout: 0 to 1.
        target_modules: names of linear layers, such as q_proj.
        bits: of the frozen backbone while training, 4 (NF4) or 16.
        epochs: passes over the rows. max_steps: optimizer steps, caps `epochs`.
        learning_rate: highest one of the schedule.
        batch_rows: rows of an optimizer step. max_length: tokens of a row; longer ones are cut.
        warmup_ratio: share of the steps. weight_decay: of AdamW.
        eval_fraction: share of the rows that is held out.
        seed: of everything random.
        gradient_checkpointing: less memory, more time.
        patience: epochs in a row without a better held-out loss, after which training ends.
        use_rslora: scale by alpha / sqrt(rank).
        compute_dtype: bf16, fp16 or fp32. optimizer: paged_adamw_8bit or adamw.
    """

    preset: str = ""
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] = ()
    bits: int | None = None
    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    batch_rows: int | None = None
    max_length: int | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    eval_fraction: float | None = None
    seed: int | None = None
    gradient_checkpointing: bool | None = None
    patience: int | None = None
    use_rslora: bool | None = None
    compute_dtype: str | None = None
    optimizer: str | None = None

    @classmethod
    def of(cls, message: pb.Recipe) -> "Recipe":
        given = {field.name: value for field, value in message.ListFields()}
        return cls(**given | {"target_modules": tuple(message.target_modules)})

    def message(self) -> pb.Recipe:
        """As the protocol writes it."""
        given = {name: getattr(self, name) for name in self.__slots__}
        return pb.Recipe(**{name: value for name, value in given.items() if value is not None})
