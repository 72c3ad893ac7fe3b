import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from graftwork.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_VALIDATING: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_PREPARING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_EVALUATING: _ClassVar[JobState]
    JOB_STATE_PUBLISHING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_CANCELLING: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_GATED: _ClassVar[JobState]

class ProbeOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROBE_OUTCOME_UNSPECIFIED: _ClassVar[ProbeOutcome]
    PROBE_OUTCOME_PASSED: _ClassVar[ProbeOutcome]
    PROBE_OUTCOME_FAILED: _ClassVar[ProbeOutcome]
    PROBE_OUTCOME_SKIPPED: _ClassVar[ProbeOutcome]

class FailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_REASON_UNSPECIFIED: _ClassVar[FailureReason]
    FAILURE_REASON_USER_ERROR: _ClassVar[FailureReason]
    FAILURE_REASON_SYSTEM_ERROR: _ClassVar[FailureReason]
    FAILURE_REASON_OUT_OF_MEMORY: _ClassVar[FailureReason]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_VALIDATING: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_PREPARING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_EVALUATING: JobState
JOB_STATE_PUBLISHING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_CANCELLING: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_GATED: JobState
PROBE_OUTCOME_UNSPECIFIED: ProbeOutcome
PROBE_OUTCOME_PASSED: ProbeOutcome
PROBE_OUTCOME_FAILED: ProbeOutcome
PROBE_OUTCOME_SKIPPED: ProbeOutcome
FAILURE_REASON_UNSPECIFIED: FailureReason
FAILURE_REASON_USER_ERROR: FailureReason
FAILURE_REASON_SYSTEM_ERROR: FailureReason
FAILURE_REASON_OUT_OF_MEMORY: FailureReason

class UploadDatasetRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadDatasetHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UploadDatasetHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadDatasetHeader(_message.Message):
    __slots__ = ("parent", "display_name", "format", "sha256")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    parent: str
    display_name: str
    format: _common_pb2.DatasetFormat
    sha256: str
    def __init__(self, parent: _Optional[str] = ..., display_name: _Optional[str] = ..., format: _Optional[_Union[_common_pb2.DatasetFormat, str]] = ..., sha256: _Optional[str] = ...) -> None: ...

class ValidateDatasetRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: ValidateDatasetHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[ValidateDatasetHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class ValidateDatasetHeader(_message.Message):
    __slots__ = ("parent", "dataset", "format", "max_length", "preview_rows", "sample_rows")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_ROWS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ROWS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    dataset: str
    format: _common_pb2.DatasetFormat
    max_length: int
    preview_rows: int
    sample_rows: int
    def __init__(self, parent: _Optional[str] = ..., dataset: _Optional[str] = ..., format: _Optional[_Union[_common_pb2.DatasetFormat, str]] = ..., max_length: _Optional[int] = ..., preview_rows: _Optional[int] = ..., sample_rows: _Optional[int] = ...) -> None: ...

class ValidateDatasetResponse(_message.Message):
    __slots__ = ("progress", "report")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    progress: ValidateDatasetProgress
    report: DatasetReport
    def __init__(self, progress: _Optional[_Union[ValidateDatasetProgress, _Mapping]] = ..., report: _Optional[_Union[DatasetReport, _Mapping]] = ...) -> None: ...

class ValidateDatasetProgress(_message.Message):
    __slots__ = ("done", "total")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class DatasetReport(_message.Message):
    __slots__ = ("rows", "wrong_rows", "findings", "figures", "preview", "template")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WRONG_ROWS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    wrong_rows: int
    findings: _containers.RepeatedCompositeFieldContainer[_common_pb2.Finding]
    figures: DatasetFigures
    preview: _containers.RepeatedCompositeFieldContainer[PreviewRow]
    template: str
    def __init__(self, rows: _Optional[int] = ..., wrong_rows: _Optional[int] = ..., findings: _Optional[_Iterable[_Union[_common_pb2.Finding, _Mapping]]] = ..., figures: _Optional[_Union[DatasetFigures, _Mapping]] = ..., preview: _Optional[_Iterable[_Union[PreviewRow, _Mapping]]] = ..., template: _Optional[str] = ...) -> None: ...

class DatasetFigures(_message.Message):
    __slots__ = ("rows", "sampled_rows", "max_length", "tokens", "tokens_error", "supervised_tokens", "squared_tokens", "longest", "median", "percentile_95", "cut_rows")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_ERROR_FIELD_NUMBER: _ClassVar[int]
    SUPERVISED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SQUARED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LONGEST_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    PERCENTILE_95_FIELD_NUMBER: _ClassVar[int]
    CUT_ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    sampled_rows: int
    max_length: int
    tokens: int
    tokens_error: float
    supervised_tokens: int
    squared_tokens: int
    longest: int
    median: int
    percentile_95: int
    cut_rows: int
    def __init__(self, rows: _Optional[int] = ..., sampled_rows: _Optional[int] = ..., max_length: _Optional[int] = ..., tokens: _Optional[int] = ..., tokens_error: _Optional[float] = ..., supervised_tokens: _Optional[int] = ..., squared_tokens: _Optional[int] = ..., longest: _Optional[int] = ..., median: _Optional[int] = ..., percentile_95: _Optional[int] = ..., cut_rows: _Optional[int] = ...) -> None: ...

class PreviewRow(_message.Message):
    __slots__ = ("line", "tokens", "full_tokens", "spans")
    LINE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FULL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    line: int
    tokens: int
    full_tokens: int
    spans: _containers.RepeatedCompositeFieldContainer[PreviewSpan]
    def __init__(self, line: _Optional[int] = ..., tokens: _Optional[int] = ..., full_tokens: _Optional[int] = ..., spans: _Optional[_Iterable[_Union[PreviewSpan, _Mapping]]] = ...) -> None: ...

class PreviewSpan(_message.Message):
    __slots__ = ("text", "supervised")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SUPERVISED_FIELD_NUMBER: _ClassVar[int]
    text: str
    supervised: bool
    def __init__(self, text: _Optional[str] = ..., supervised: bool = ...) -> None: ...

class Recipe(_message.Message):
    __slots__ = ("preset", "rank", "alpha", "dropout", "target_modules", "bits", "epochs", "max_steps", "learning_rate", "batch_rows", "max_length", "warmup_ratio", "weight_decay", "eval_fraction", "seed", "gradient_checkpointing", "patience", "use_rslora", "compute_dtype", "optimizer")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    WARMUP_RATIO_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    EVAL_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    USE_RSLORA_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    preset: str
    rank: int
    alpha: float
    dropout: float
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    bits: int
    epochs: float
    max_steps: int
    learning_rate: float
    batch_rows: int
    max_length: int
    warmup_ratio: float
    weight_decay: float
    eval_fraction: float
    seed: int
    gradient_checkpointing: bool
    patience: int
    use_rslora: bool
    compute_dtype: str
    optimizer: str
    def __init__(self, preset: _Optional[str] = ..., rank: _Optional[int] = ..., alpha: _Optional[float] = ..., dropout: _Optional[float] = ..., target_modules: _Optional[_Iterable[str]] = ..., bits: _Optional[int] = ..., epochs: _Optional[float] = ..., max_steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., batch_rows: _Optional[int] = ..., max_length: _Optional[int] = ..., warmup_ratio: _Optional[float] = ..., weight_decay: _Optional[float] = ..., eval_fraction: _Optional[float] = ..., seed: _Optional[int] = ..., gradient_checkpointing: bool = ..., patience: _Optional[int] = ..., use_rslora: bool = ..., compute_dtype: _Optional[str] = ..., optimizer: _Optional[str] = ...) -> None: ...

class ExplainRecipeRequest(_message.Message):
    __slots__ = ("parent", "recipe", "rows")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    recipe: Recipe
    rows: int
    def __init__(self, parent: _Optional[str] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., rows: _Optional[int] = ...) -> None: ...

class RecipeExplanation(_message.Message):
    __slots__ = ("recipe", "settings", "findings", "advice", "device")
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    recipe: Recipe
    settings: _containers.RepeatedCompositeFieldContainer[RecipeSetting]
    findings: _containers.RepeatedCompositeFieldContainer[_common_pb2.Finding]
    advice: _containers.RepeatedCompositeFieldContainer[RecipeAdvice]
    device: str
    def __init__(self, recipe: _Optional[_Union[Recipe, _Mapping]] = ..., settings: _Optional[_Iterable[_Union[RecipeSetting, _Mapping]]] = ..., findings: _Optional[_Iterable[_Union[_common_pb2.Finding, _Mapping]]] = ..., advice: _Optional[_Iterable[_Union[RecipeAdvice, _Mapping]]] = ..., device: _Optional[str] = ...) -> None: ...

class RecipeSetting(_message.Message):
    __slots__ = ("name", "value", "source", "reason")
    class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SOURCE_UNSPECIFIED: _ClassVar[RecipeSetting.Source]
        SOURCE_ASKED: _ClassVar[RecipeSetting.Source]
        SOURCE_PRESET: _ClassVar[RecipeSetting.Source]
        SOURCE_AUTOMATIC: _ClassVar[RecipeSetting.Source]
        SOURCE_DEFAULT: _ClassVar[RecipeSetting.Source]
        SOURCE_DEVICE: _ClassVar[RecipeSetting.Source]
    SOURCE_UNSPECIFIED: RecipeSetting.Source
    SOURCE_ASKED: RecipeSetting.Source
    SOURCE_PRESET: RecipeSetting.Source
    SOURCE_AUTOMATIC: RecipeSetting.Source
    SOURCE_DEFAULT: RecipeSetting.Source
    SOURCE_DEVICE: RecipeSetting.Source
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    source: RecipeSetting.Source
    reason: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., source: _Optional[_Union[RecipeSetting.Source, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class RecipeAdvice(_message.Message):
    __slots__ = ("scenario", "approach", "why", "applies", "followed", "how")
    SCENARIO_FIELD_NUMBER: _ClassVar[int]
    APPROACH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    APPLIES_FIELD_NUMBER: _ClassVar[int]
    FOLLOWED_FIELD_NUMBER: _ClassVar[int]
    HOW_FIELD_NUMBER: _ClassVar[int]
    scenario: str
    approach: str
    why: str
    applies: bool
    followed: bool
    how: str
    def __init__(self, scenario: _Optional[str] = ..., approach: _Optional[str] = ..., why: _Optional[str] = ..., applies: bool = ..., followed: bool = ..., how: _Optional[str] = ...) -> None: ...

class EstimateJobRequest(_message.Message):
    __slots__ = ("parent", "recipe", "dataset", "figures")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    parent: str
    recipe: Recipe
    dataset: str
    figures: DatasetFigures
    def __init__(self, parent: _Optional[str] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., dataset: _Optional[str] = ..., figures: _Optional[_Union[DatasetFigures, _Mapping]] = ...) -> None: ...

class JobEstimate(_message.Message):
    __slots__ = ("recipe", "data", "train_rows", "held_out_rows", "tokens", "steps", "trainable_parameters", "adapter_bytes", "memory", "seconds", "measured_speed", "flops_per_second", "fits", "remedies", "micro_batch_tokens")
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_ROWS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_SPEED_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    REMEDIES_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    recipe: RecipeExplanation
    data: DatasetFigures
    train_rows: int
    held_out_rows: int
    tokens: int
    steps: int
    trainable_parameters: int
    adapter_bytes: int
    memory: MemoryEstimate
    seconds: float
    measured_speed: bool
    flops_per_second: float
    fits: bool
    remedies: _containers.RepeatedScalarFieldContainer[str]
    micro_batch_tokens: int
    def __init__(self, recipe: _Optional[_Union[RecipeExplanation, _Mapping]] = ..., data: _Optional[_Union[DatasetFigures, _Mapping]] = ..., train_rows: _Optional[int] = ..., held_out_rows: _Optional[int] = ..., tokens: _Optional[int] = ..., steps: _Optional[int] = ..., trainable_parameters: _Optional[int] = ..., adapter_bytes: _Optional[int] = ..., memory: _Optional[_Union[MemoryEstimate, _Mapping]] = ..., seconds: _Optional[float] = ..., measured_speed: bool = ..., flops_per_second: _Optional[float] = ..., fits: bool = ..., remedies: _Optional[_Iterable[str]] = ..., micro_batch_tokens: _Optional[int] = ...) -> None: ...

class MemoryEstimate(_message.Message):
    __slots__ = ("weights", "adapter", "activations", "working", "overhead", "peak", "device")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    WORKING_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    weights: int
    adapter: int
    activations: int
    working: int
    overhead: int
    peak: int
    device: int
    def __init__(self, weights: _Optional[int] = ..., adapter: _Optional[int] = ..., activations: _Optional[int] = ..., working: _Optional[int] = ..., overhead: _Optional[int] = ..., peak: _Optional[int] = ..., device: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("name", "dataset", "adapter", "alias", "recipe", "state", "failure_reason", "message", "version", "create_time", "start_time", "end_time", "attempt", "last_event", "base_eval_loss", "eval_loss", "step", "total_steps", "priority", "probe_outcome", "probe_message", "checkpoint_step")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_FIELD_NUMBER: _ClassVar[int]
    BASE_EVAL_LOSS_FIELD_NUMBER: _ClassVar[int]
    EVAL_LOSS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PROBE_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PROBE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_STEP_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset: str
    adapter: str
    alias: str
    recipe: Recipe
    state: JobState
    failure_reason: FailureReason
    message: str
    version: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    attempt: int
    last_event: int
    base_eval_loss: float
    eval_loss: float
    step: int
    total_steps: int
    priority: int
    probe_outcome: ProbeOutcome
    probe_message: str
    checkpoint_step: int
    def __init__(self, name: _Optional[str] = ..., dataset: _Optional[str] = ..., adapter: _Optional[str] = ..., alias: _Optional[str] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., state: _Optional[_Union[JobState, str]] = ..., failure_reason: _Optional[_Union[FailureReason, str]] = ..., message: _Optional[str] = ..., version: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., last_event: _Optional[int] = ..., base_eval_loss: _Optional[float] = ..., eval_loss: _Optional[float] = ..., step: _Optional[int] = ..., total_steps: _Optional[int] = ..., priority: _Optional[int] = ..., probe_outcome: _Optional[_Union[ProbeOutcome, str]] = ..., probe_message: _Optional[str] = ..., checkpoint_step: _Optional[int] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("parent", "dataset", "adapter_id", "alias", "recipe", "idempotency_key", "publish_anyway", "priority")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_ANYWAY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    parent: str
    dataset: str
    adapter_id: str
    alias: str
    recipe: Recipe
    idempotency_key: str
    publish_anyway: bool
    priority: int
    def __init__(self, parent: _Optional[str] = ..., dataset: _Optional[str] = ..., adapter_id: _Optional[str] = ..., alias: _Optional[str] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., publish_anyway: bool = ..., priority: _Optional[int] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ReadJobLogRequest(_message.Message):
    __slots__ = ("name", "last_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAST_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    last_bytes: int
    def __init__(self, name: _Optional[str] = ..., last_bytes: _Optional[int] = ...) -> None: ...

class ReadJobLogResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("name", "after")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    after: int
    def __init__(self, name: _Optional[str] = ..., after: _Optional[int] = ...) -> None: ...

class JobEvent(_message.Message):
    __slots__ = ("number", "time", "state_changed", "step_done", "evaluated", "notice", "published", "estimated", "measured", "checkpoint_saved", "probed")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    STEP_DONE_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SAVED_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    number: int
    time: _timestamp_pb2.Timestamp
    state_changed: StateChanged
    step_done: StepDone
    evaluated: Evaluated
    notice: Notice
    published: Published
    estimated: Estimated
    measured: Measured
    checkpoint_saved: CheckpointSaved
    probed: Probed
    def __init__(self, number: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state_changed: _Optional[_Union[StateChanged, _Mapping]] = ..., step_done: _Optional[_Union[StepDone, _Mapping]] = ..., evaluated: _Optional[_Union[Evaluated, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., published: _Optional[_Union[Published, _Mapping]] = ..., estimated: _Optional[_Union[Estimated, _Mapping]] = ..., measured: _Optional[_Union[Measured, _Mapping]] = ..., checkpoint_saved: _Optional[_Union[CheckpointSaved, _Mapping]] = ..., probed: _Optional[_Union[Probed, _Mapping]] = ...) -> None: ...

class StateChanged(_message.Message):
    __slots__ = ("state", "failure_reason", "message", "attempt")
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    failure_reason: FailureReason
    message: str
    attempt: int
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., failure_reason: _Optional[_Union[FailureReason, str]] = ..., message: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class StepDone(_message.Message):
    __slots__ = ("step", "total_steps", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "epoch", "steps", "device_memory_bytes")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    step: int
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    epoch: float
    steps: int
    device_memory_bytes: int
    def __init__(self, step: _Optional[int] = ..., total_steps: _Optional[int] = ..., loss: _Optional[float] = ..., learning_rate: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., tokens_per_second: _Optional[float] = ..., epoch: _Optional[float] = ..., steps: _Optional[int] = ..., device_memory_bytes: _Optional[int] = ...) -> None: ...

class Evaluated(_message.Message):
    __slots__ = ("step", "loss", "is_base")
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    IS_BASE_FIELD_NUMBER: _ClassVar[int]
    step: int
    loss: float
    is_base: bool
    def __init__(self, step: _Optional[int] = ..., loss: _Optional[float] = ..., is_base: bool = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("level", "message")
    class Level(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LEVEL_UNSPECIFIED: _ClassVar[Notice.Level]
        LEVEL_INFO: _ClassVar[Notice.Level]
        LEVEL_WARNING: _ClassVar[Notice.Level]
    LEVEL_UNSPECIFIED: Notice.Level
    LEVEL_INFO: Notice.Level
    LEVEL_WARNING: Notice.Level
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    level: Notice.Level
    message: str
    def __init__(self, level: _Optional[_Union[Notice.Level, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("version", "alias", "alias_number")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    ALIAS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    version: str
    alias: str
    alias_number: int
    def __init__(self, version: _Optional[str] = ..., alias: _Optional[str] = ..., alias_number: _Optional[int] = ...) -> None: ...

class Estimated(_message.Message):
    __slots__ = ("tokens", "steps", "trainable_parameters", "adapter_bytes", "peak_bytes", "seconds", "measured_speed")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_SPEED_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    steps: int
    trainable_parameters: int
    adapter_bytes: int
    peak_bytes: int
    seconds: float
    measured_speed: bool
    def __init__(self, tokens: _Optional[int] = ..., steps: _Optional[int] = ..., trainable_parameters: _Optional[int] = ..., adapter_bytes: _Optional[int] = ..., peak_bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., measured_speed: bool = ...) -> None: ...

class Measured(_message.Message):
    __slots__ = ("steps", "seconds", "predicted_seconds", "peak_bytes", "predicted_peak_bytes", "measured_speed")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEASURED_SPEED_FIELD_NUMBER: _ClassVar[int]
    steps: int
    seconds: float
    predicted_seconds: float
    peak_bytes: int
    predicted_peak_bytes: int
    measured_speed: bool
    def __init__(self, steps: _Optional[int] = ..., seconds: _Optional[float] = ..., predicted_seconds: _Optional[float] = ..., peak_bytes: _Optional[int] = ..., predicted_peak_bytes: _Optional[int] = ..., measured_speed: bool = ...) -> None: ...

class CheckpointSaved(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class Probed(_message.Message):
    __slots__ = ("outcome", "message", "rows", "tokens", "distance", "tolerance", "base_distance", "effect")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    BASE_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    outcome: ProbeOutcome
    message: str
    rows: int
    tokens: int
    distance: float
    tolerance: float
    base_distance: float
    effect: float
    def __init__(self, outcome: _Optional[_Union[ProbeOutcome, str]] = ..., message: _Optional[str] = ..., rows: _Optional[int] = ..., tokens: _Optional[int] = ..., distance: _Optional[float] = ..., tolerance: _Optional[float] = ..., base_distance: _Optional[float] = ..., effect: _Optional[float] = ...) -> None: ...

class MergeVersionRequest(_message.Message):
    __slots__ = ("name", "skip_evaluation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SKIP_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    skip_evaluation: bool
    def __init__(self, name: _Optional[str] = ..., skip_evaluation: bool = ...) -> None: ...

class MergeVersionResponse(_message.Message):
    __slots__ = ("progress", "report", "file", "chunk")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    progress: MergeProgress
    report: MergeReport
    file: MergedFile
    chunk: bytes
    def __init__(self, progress: _Optional[_Union[MergeProgress, _Mapping]] = ..., report: _Optional[_Union[MergeReport, _Mapping]] = ..., file: _Optional[_Union[MergedFile, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class MergeProgress(_message.Message):
    __slots__ = ("stage", "done", "total")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    stage: str
    done: int
    total: int
    def __init__(self, stage: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class MergedFile(_message.Message):
    __slots__ = ("path", "sha256", "size_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    size_bytes: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class MergeReport(_message.Message):
    __slots__ = ("version", "base_model", "base_digest", "dtype", "modules", "files", "rows", "evaluation", "base_loss", "adapter_loss", "merged_loss", "max_rounding", "distance", "effect")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    BASE_LOSS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_LOSS_FIELD_NUMBER: _ClassVar[int]
    MERGED_LOSS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROUNDING_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    version: str
    base_model: str
    base_digest: str
    dtype: str
    modules: int
    files: _containers.RepeatedCompositeFieldContainer[MergedFile]
    rows: int
    evaluation: str
    base_loss: float
    adapter_loss: float
    merged_loss: float
    max_rounding: float
    distance: float
    effect: float
    def __init__(self, version: _Optional[str] = ..., base_model: _Optional[str] = ..., base_digest: _Optional[str] = ..., dtype: _Optional[str] = ..., modules: _Optional[int] = ..., files: _Optional[_Iterable[_Union[MergedFile, _Mapping]]] = ..., rows: _Optional[int] = ..., evaluation: _Optional[str] = ..., base_loss: _Optional[float] = ..., adapter_loss: _Optional[float] = ..., merged_loss: _Optional[float] = ..., max_rounding: _Optional[float] = ..., distance: _Optional[float] = ..., effect: _Optional[float] = ...) -> None: ...

class GetTrainerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TrainerInfo(_message.Message):
    __slots__ = ("version", "base_model", "base_digest", "running_jobs", "queued_jobs")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUNNING_JOBS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_JOBS_FIELD_NUMBER: _ClassVar[int]
    version: str
    base_model: str
    base_digest: str
    running_jobs: int
    queued_jobs: int
    def __init__(self, version: _Optional[str] = ..., base_model: _Optional[str] = ..., base_digest: _Optional[str] = ..., running_jobs: _Optional[int] = ..., queued_jobs: _Optional[int] = ...) -> None: ...
