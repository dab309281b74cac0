"""The run settings: every section and key of the YAML that is not a component's argument.

Keys keep PaddleClas's spelling; the comments say what a key does where the name does not. These
dataclasses are the schema of a recipe: walk.py takes a YAML along their annotations. They are
frozen: what a run finds out later (its share of the batch, a random seed, the class count of the
data) goes into copies that are passed on. Read next: check.py, then recipe/train.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ppcls_lite.config.schema import (
    BatchTransformSpec,
    BelowOne,
    ClassCount,
    ComponentOf,
    Edge,
    Ignored,
    LoggerSpec,
    LossSpec,
    MetricSpec,
    NetworkExtras,
    NonNegativeInt,
    Only,
    OptimizerSpec,
    PositiveFloat,
    PositiveInt,
    PostprocessSpec,
    Probability,
    Range,
    SamplerSpec,
    Seed,
    Size,
    SpaceSpec,
    TransformSpec,
)

RETRIEVAL = "retrieval and hashing are outside this toolkit, which trains classifiers"


@dataclass(frozen=True)
class RunPlan:
    """`Global`: how long a training goes on, and what happens how often."""

    epochs: Annotated[int, Range(1, 100_000)] | None = 20  # null with iters
    iters: PositiveInt | None = None  # updates of the run, instead of epochs
    eval_steps: PositiveInt | None = None  # with iters: updates that count as an epoch
    freeze_statistics: bool = True  # of batch normalisation that learns at rate 0 (lr_mult)
    update_freq: PositiveInt = 1  # batches whose gradients are added up for one update
    total_batch_size: PositiveInt | None = None  # images an update that the rate is meant for
    early_stop: PositiveInt | None = None  # evaluations without a better score that end the run
    max_minutes: PositiveFloat | None = None  # then the run is saved and ends with status 75
    eval_during_train: bool = True
    eval_interval: PositiveInt = 1
    start_eval_epoch: NonNegativeInt = 0
    print_batch_step: PositiveInt = 10


@dataclass(frozen=True)
class Saving:
    """`Global`: what a run leaves where."""

    output_dir: str = "./output/"  # the run folder is <output_dir>/<Arch.name>
    run_name: str | None = None  # what the run folder is called instead
    # What becomes of an earlier run there that is not resumed; keep: it is moved to NAME.run-1.
    if_exists: Literal["keep", "replace", "error"] = "keep"
    save_interval: PositiveInt = 1  # epochs between two kept epoch_N checkpoints
    save_steps: PositiveInt | None = None  # updates between two writes of latest within an epoch
    save_minutes: PositiveFloat | None = None  # the same by the clock
    keep_last: PositiveInt | None = None  # how many epoch_N stay; null: all
    keep_best: PositiveInt | None = None  # keep the epoch_N of that many best scores as well
    use_visualdl: bool = False  # short for VisualDL among the loggers
    loggers: list[LoggerSpec] = field(default_factory=list)  # where records and pictures go, too
    save_inference_dir: str = "./inference"
    pdx_model_name: str | None = None  # what PaddleX calls an exported network; null: the zoo's


@dataclass(frozen=True)
class Sources:
    """`Global`: what a run starts from, and what it makes of images."""

    checkpoints: str | None = None  # prefix to resume from: <run folder>/latest; auto: the newest
    resume_changed_data: bool = False  # resume although images or labels are others now
    pretrained_model: str | None = None  # weights to start from, with or without .pdparams
    replace_head: bool = False  # keep a random classifier where the class count differs
    weights_prefix: str | None = None  # what stands before the network's keys in pretrained_model
    ignore_extra_weights: bool = False  # leave out what of pretrained_model the network lacks
    teacher_cache: str | None = None  # folder where the logits of frozen teachers are kept
    teacher_cache_views: PositiveInt = 1  # augmentations of each image that the epochs repeat
    dataset_dir: str | None = None  # sets both data sets and the class names: dataset_dir.py
    plugins: list[str] = field(default_factory=list)  # files with components of one's own
    max_bad_ratio: Probability = 0.01  # share of unreadable training images that stops a run
    eval_skip_bad: bool = False  # leave unreadable images out of an evaluation
    image_size: Edge | None = None  # sets all sizes of the transforms: image_size.py
    eval_image_size: Edge | None = None  # of evaluation and prediction, where it is another one
    image_shape: list[Edge] | None = None  # (C, H, W); null: what Infer's transforms give


@dataclass(frozen=True)
class Machine:
    """`Global`: where and how it is computed."""

    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: a GPU if this Paddle sees one
    # Train on a CPU with the native kernels; for YAML, on and off are true and false.
    cpu_kernels: Literal["auto", "on", "off"] | bool = "auto"
    cpu_kernels_dtype: Literal["fp32", "bf16"] = "fp32"  # of what their dense products multiply
    cpu_processes: Annotated[int, Range(1, 1024)] | Literal["auto"] = (
        1  # that share the Train batch on a CPU
    )
    stall_timeout: PositiveFloat = 120.0  # seconds of silence after which a rank counts as lost
    eval_engine: Literal["auto", "dygraph", "inference"] = "auto"  # see docs/performance.md
    seed: Seed | Literal[False] = 42  # order, augmentation, initial weights, dropout


@dataclass(frozen=True)
class AcceptedKeys:
    """`Global`: keys of PaddleClas that say nothing here, or for which one value is accepted."""

    class_num: ClassCount | None = None  # older place of Arch.class_num
    to_static: Ignored = False
    use_multilabel: Ignored = False  # the data set and the loss say it already
    use_sync_bn: Ignored = False  # Arch.use_sync_bn does it
    log_ranks: Ignored = "0"
    print_mem_info: Ignored = False  # memory is always logged
    uniform_output_enabled: Ignored = False
    export_for_fd: Ignored = False  # inference.yml is always written
    hpi_config_path: Ignored = None
    image_channel: Ignored = None  # an anchor for other keys
    use_dali: Ignored = False  # a pipeline on NVIDIA GPUs, for speed alone
    eval_mode: Annotated[str, Only("classification", RETRIEVAL)] = "classification"
    feature_normalize: Annotated[Any, Only(None, RETRIEVAL)] = None
    re_ranking: Annotated[Any, Only(None, RETRIEVAL)] = None
    retrieval_feature_from: Annotated[Any, Only(None, RETRIEVAL)] = None
    train_mode: Annotated[
        str | None, Only(None, "semi-supervised and other special loops are not supported")
    ] = None
    iter_per_epoch: Annotated[
        int | None, Only(None, "an epoch is always the whole training list")
    ] = None


@dataclass(frozen=True)
class GlobalSettings(RunPlan, Saving, Sources, Machine, AcceptedKeys):
    """`Global`: the run as a whole. What needs one group of keys asks for that group's class."""


@dataclass(frozen=True)
class AMPSettings:
    """`AMP`: mixed precision."""

    use_amp: bool = True  # as in PaddleClas: the section's presence turns it on
    level: Literal["O1", "O2"] = "O1"
    dtype: Literal["float16", "bfloat16"] = "float16"
    scale_loss: PositiveFloat = 1.0  # the first scale; bfloat16 needs none
    use_dynamic_loss_scaling: bool = False
    use_fp16_test: bool = False  # evaluate in `dtype` too; always so with O2
    use_promote: bool = False
    max_skipped: PositiveInt = 50  # skipped updates in a row that stop the run


@dataclass(frozen=True)
class EMASettings:
    """`EMA`: exponential moving average of the weights; the section's presence turns it on."""

    decay: BelowOne = 0.9999
    # threshold: PaddleDetection's, which begins with nothing and whose decay always grows
    type: Literal["normal", "threshold"] = "normal"
    cycle: PositiveInt | None = None  # epochs after which the average begins anew
    use_warmup: bool | None = None  # let the decay grow from 0.1; null: in short runs (ema.py)
    # After n updates the decay is at most 1 - (1 + n / gamma)^-power; null: (1 + n) / (10 + n).
    warmup_power: PositiveFloat | None = None
    warmup_gamma: PositiveFloat = 1.0
    ships: Literal["averaged", "better"] = "averaged"  # better: of both, by each evaluation


@dataclass(frozen=True)
class ArchExtras(NetworkExtras):
    """Keys of `Arch` beside the network's own arguments."""

    infer_add_softmax: bool = True
    infer_model_name: Ignored = None
    infer_output_key: Ignored = None
    keep_classes: bool = False  # the classes of a file with fewer are the network's first ones
    freeze: list[str] | None = None  # shell patterns of layers that do not learn
    adopt_preprocessing: bool = False  # prepare images as the weights of `pretrained` expect


@dataclass(frozen=True)
class DatasetExtras:
    """Keys of a data set beside its own arguments."""

    batch_transform_ops: list[BatchTransformSpec] | None = None
    cache: Literal["ram", "disk"] | None = None  # keep decoded images for later epochs
    cache_dir: str = "./cache"  # of cache: disk


@dataclass(frozen=True)
class LoaderSettings:
    """`DataLoader.<split>.loader`: worker processes."""

    num_workers: Annotated[int, Range(0, 256)] = 4
    use_shared_memory: bool = True


@dataclass(frozen=True)
class SplitSettings:
    """`DataLoader.Train` or `DataLoader.Eval`."""

    dataset: Annotated[object, ComponentOf("dataset", DatasetExtras)]
    sampler: SamplerSpec
    loader: LoaderSettings = field(default_factory=LoaderSettings)


@dataclass(frozen=True)
class DataLoaderSettings:
    """`DataLoader`."""

    Train: SplitSettings | None = None
    Eval: SplitSettings | None = None


@dataclass(frozen=True)
class LossSettings:
    """`Loss`: weighted terms for training and for evaluation."""

    Train: list[LossSpec]
    Eval: list[LossSpec] | None = None


@dataclass(frozen=True)
class MetricSettings:
    """`Metric`."""

    Train: list[MetricSpec] | None = None
    Eval: list[MetricSpec] | None = None


@dataclass(frozen=True)
class TilingSettings:
    """`Infer.tiling`: windows over images of any size; where they overlap, their mean counts."""

    size: Size  # [width, height] of the network's input
    stride: Size | None = None  # [width, height] from window to window; null: the size


@dataclass(frozen=True)
class TtaSettings:
    """`Infer.tta`: the mean of the logits of several views of an image."""

    scales: list[Annotated[float, Range(0.1, 4)]] = field(default_factory=lambda: [1.0])
    flip_horizontal: bool = False
    flip_vertical: bool = False


@dataclass(frozen=True)
class InferSettings:
    """`Infer`: one prediction run; its transforms and post-processing go into the export."""

    PostProcess: PostprocessSpec
    transforms: list[TransformSpec] | None = None  # null: those of DataLoader.Eval
    infer_imgs: str | None = None  # a file, a folder
    infer_list: str | None = None  # a text file with one path a line
    batch_size: PositiveInt = 1
    save_dir: str | None = None  # results as JSON lines
    # For networks that give scores of pixels; evaluations and exported folders do the same.
    tiling: TilingSettings | None = None
    tta: TtaSettings | None = None


@dataclass(frozen=True)
class SearchSettings:
    """`Search`: how `ppcls-lite search` looks for a network; nothing else reads it."""

    space: SpaceSpec | None = None  # null: PPLCNetSpace
    strategy: Literal["evolution", "random"] = "evolution"  # random: to compare, at equal cost
    max_parameters: PositiveInt | None = None  # a second bound beside the latency
    fill: Annotated[float, Range(0, 1)] = 0.0  # share of the latency that a candidate takes
    # search/learned.py, search/zero_cost.py
    sieve: Literal["learned", "parameters", "synflow", "patterns"] | None = None
    sieve_keeps: Annotated[float, Range(0.05, 1)] = 0.5  # share of what is drawn that is scored
    learn_from: list[str] = field(default_factory=list)  # folders of earlier searches
    held_out: Annotated[float, Range(0.05, 0.5)] = 0.2  # share of the training list that judges
    supernet_epochs: Annotated[int, Range(0, 100_000)] = 30  # 0: none, but short trainings score
    score_epochs: PositiveInt = 3  # of such a training
    score_scale: Annotated[float, Range(0.25, 1)] = 1.0  # of the edge of its images
    population: Annotated[int, Range(4, 10_000)] = 40
    generations: PositiveInt = 8
    measured: Annotated[int, Range(2, 10_000)] = 50  # candidates whose latency is taken as a whole
    finalists: Annotated[int, Range(2, 1000)] = 8  # that are trained alone
    proxy_epochs: PositiveInt = 4  # of their first training; half of them go on, for twice as long
    rungs: PositiveInt = 3


@dataclass(frozen=True)
class RecipeSettings:
    """The top level of a YAML file."""

    Arch: Annotated[object, ComponentOf("model", ArchExtras)]
    Global: GlobalSettings = field(default_factory=GlobalSettings)
    AMP: AMPSettings | None = None
    EMA: EMASettings | None = None
    Loss: LossSettings | None = None
    Optimizer: OptimizerSpec | None = None
    DataLoader: DataLoaderSettings | None = None
    Metric: MetricSettings | None = None
    Infer: InferSettings | None = None
    Search: SearchSettings | None = None
