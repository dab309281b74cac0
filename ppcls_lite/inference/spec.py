"""`inference.yml`: what an exported folder says about itself, so that the folder alone is enough.

The layout is the one that PaddleClas writes for deployment: `Global.model_name`,
`PreProcess.transform_ops`, `PostProcess.<Name>` with the label names in `label_list`. Under
`Global` stands what we add; files without it (PaddleClas's own) are read as well.
Read next: paddlex.py (its words), export.py (writes it), predictor.py (reads it).
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import yaml

from ppcls_lite.config.check import read_section
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.schema import Range
from ppcls_lite.config.settings import TilingSettings, TtaSettings
from ppcls_lite.config.yaml_reader import in_file, read_yaml
from ppcls_lite.data.labels import BUNDLED, read_label_file
from ppcls_lite.errors import ConfigError, UserError, shown
from ppcls_lite.inference import paddlex
from ppcls_lite.inference.onnx.metadata import read_metadata
from ppcls_lite.system.files import write_text

FILE_NAME = "inference.yml"
FORMAT_VERSION = 1
OutputKind = Literal["probabilities", "logits", "classes"]
Outputs = dict[str, np.ndarray]  # name -> (N, ...), an image a row
SIZES = Range(1, 16_384)  # of a network's input
MAX_VALUES = 10**9  # in one image
LOGITS = ("logits",)  # what a network gives that names no outputs


@dataclass
class InferenceSpec:
    """The content of one `inference.yml`.

    The file holds only the names of plug-ins; its reader says where they are.
    """

    model_name: str
    transform_ops: list[Any]  # the pre-processing, as in `Infer.transforms` of a recipe
    postprocess: dict[str, Any]  # {name: {arguments}}, with the classes' names in `label_list`
    image_shape: tuple[int, int, int] | None = None  # (C, H, W), -1: any size; None: not said
    output: OutputKind = "probabilities"
    outputs: tuple[str, ...] = LOGITS  # the names of what the program gives, in its order
    versions: dict[str, str] = field(default_factory=dict)  # of what wrote the folder
    checksums: dict[str, str] = field(default_factory=dict)  # SHA-256 of programs and weights
    plugins: tuple[str, ...] = ()  # files that hold transforms or post-processing of these
    pdx_model_name: str | None = None  # what PaddleX calls it; None: as the zoo's network
    tiling: TilingSettings | None = None  # as in `Infer` of a recipe
    tta: TtaSettings | None = None
    calibration: dict[str, Any] = field(default_factory=dict)  # what evaluation images have told

    @property
    def labels(self) -> list[str] | None:
        """The name of each class in order of the class ids, if the folder carries names."""
        _, arguments = take_apart(self.postprocess)
        return arguments.get("label_list")

    def answering(self, settings: Mapping[str, Any]) -> InferenceSpec:
        """The same with other arguments of the post-processing, which is not checked here."""
        name, arguments = take_apart(self.postprocess)
        return replace(self, postprocess={name: {**arguments, **settings}})

    def named(self, arrays: Sequence[np.ndarray]) -> Outputs:
        """What a run of the program gave, by name; an output without a name is left out."""
        if len(arrays) < len(self.outputs):
            raise UserError(
                f"{FILE_NAME} names the outputs {', '.join(self.outputs)}, but the program of "
                f"{self.model_name} gives {len(arrays)}; export the network again"
            )
        return dict(zip(self.outputs, arrays))

    def write(self, folder: Path) -> None:
        """Write `inference.yml` into an existing folder."""
        write_text(folder / FILE_NAME, self.text())

    def text(self) -> str:
        """What `inference.yml` says: as PaddleX reads it, where it can give the same answers."""
        name = self.pdx_model_name or paddlex.model_name(self.model_name)
        parts = None
        if self.output == "probabilities":
            parts = paddlex.written(self.transform_ops, self.postprocess, self.plugins)
        tree = {
            "Global": {
                "format_version": FORMAT_VERSION,
                "model_name": name,
                **({} if name == self.model_name else {"network": self.model_name}),
                "image_shape": list(self.image_shape or ()) or None,
                "output": self.output,
                # Left out of a classifier's file, which stays as it was before there were names.
                **({} if self.outputs == LOGITS else {"outputs": list(self.outputs)}),
                **{k: asdict(v) for k, v in (("tiling", self.tiling), ("tta", self.tta)) if v},
                **({"plugins": [Path(f).name for f in self.plugins]} if self.plugins else {}),
                **({"calibration": self.calibration} if self.calibration else {}),
                "versions": self.versions,
                "sha256": self.checksums,
            },
            **(parts or self._own_parts()),
        }
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)

    def _own_parts(self) -> dict[str, Any]:
        """Pre- and post-processing in our words, with a DecodeImage, which PaddleX refuses."""
        ops = self.transform_ops
        if "DecodeImage" not in [take_apart(op)[0] for op in ops]:
            ops = [{"DecodeImage": None}, *ops]
        return {"PreProcess": {"transform_ops": ops}, "PostProcess": self.postprocess}

    @classmethod
    def read(cls, model: Path, plugins: Sequence[str | Path] | None = ()) -> InferenceSpec:
        """Read the `inference.yml` of an exported folder, or of an ONNX file's metadata.

        `plugins` are the files that its parts may come from; `None`: none of them is wanted, only
        the program. Raises UserError for a file that is missing, damaged, of another version of
        the format, or needs a plug-in that is not among `plugins`.
        """
        if model.suffix == ".onnx" and model.is_file():
            return cls._parse(_metadata_text(model), model, model.stem, plugins)
        path = model / FILE_NAME
        return cls._parse(_file_text(model, path), path, model.name, plugins)

    @classmethod
    def _parse(
        cls, text: str, path: Path, default_name: str, plugins: Sequence[str | Path] | None
    ) -> InferenceSpec:
        tree = _read_yaml(text, path)
        about = _section(tree, "Global", dict, path, {})
        version = about.get("format_version")
        if version not in (None, FORMAT_VERSION):
            raise UserError(
                f"{path}: has format version {shown(version)}; this version of ppcls_lite reads "
                f"{FORMAT_VERSION}; export the network again, or use the version that wrote it "
                f"({shown(about.get('versions'))})"
            )
        needed = _section(about, "plugins", list, path, [])
        missing = {*needed} - {Path(f).name for f in plugins or ()}
        if missing and plugins is not None:
            raise UserError(
                f"{path}: was made with the plug-in {', '.join(sorted(map(str, missing)))}; say "
                "where it is: plugins=[FILE] or --plugins FILE"
            )
        ops = _section(tree, "PreProcess.transform_ops", list, path)
        ops = paddlex.read(tree["PreProcess"], ops)
        name, arguments = _component(tree, path)
        _take_label_file(arguments, path)
        labels = arguments.get("label_list")
        if isinstance(labels, list):  # YAML reads names such as 0 or yes as other types
            arguments["label_list"] = [str(label) for label in labels]
        output = about.get("output", "probabilities")
        if output not in get_args(OutputKind):
            raise UserError(
                f"{path}: Global.output: expected probabilities, logits or classes, found "
                f"{shown(output)}"
            )
        theirs, network = about.get("model_name"), about.get("network")
        return cls(
            model_name=str(network or theirs or default_name),
            transform_ops=ops,
            postprocess={name: arguments},
            image_shape=_image_shape(about.get("image_shape"), path),
            output=output,
            outputs=_names(_section(about, "outputs", list, path, list(LOGITS)), path),
            versions=_section(about, "versions", dict, path, {}),
            checksums=_section(about, "sha256", dict, path, {}),
            plugins=tuple(map(str, plugins or ())),
            pdx_model_name=str(theirs) if network and theirs else None,
            tiling=_settings(about, "tiling", TilingSettings, path),
            tta=_settings(about, "tta", TtaSettings, path),
            calibration=_section(about, "calibration", dict, path, {}),
        )

    def agree_on_shape(self, program: tuple[int, int, int] | None) -> None:
        """Take the image shape from the program where the file says none; UserError if they differ.

        A program of free sizes may be used with one size.
        """
        if program is None:
            return
        said = self.image_shape or program
        if any(mine not in (theirs, -1) for mine, theirs in zip(program, said)):
            raise UserError(
                f"Global.image_shape: says {list(said)}, but the program of "
                f"{self.model_name} takes {list(program)}; correct the file or leave it out"
            )
        self.image_shape = said

    def check_files(self, folder: Path) -> None:
        """Hold the folder's files against the check sums, if any; a difference is a UserError."""
        for name, expected in self.checksums.items():
            if not isinstance(name, str) or Path(name).name != name:
                raise UserError(f"{folder / FILE_NAME}: Global.sha256: {name!r} is no file's name")
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path}: no such file, but {FILE_NAME} names it; export again")
            if checksum(path) != expected:
                raise UserError(
                    f"{path}: is not the file that {FILE_NAME} was written for (damaged, or from "
                    "another export); copy the whole folder again or export again"
                )


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, and no aliases for a list or map that occurs twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: list[Any]) -> yaml.Node:
        numbers = all(isinstance(item, (int, float)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=numbers)


_Dumper.add_representer(list, _Dumper.represent_list)


def _metadata_text(path: Path) -> str:
    text = read_metadata(path).get(FILE_NAME)
    if text is None:
        raise UserError(
            f"{path}: carries no {FILE_NAME} in its metadata, so the pre-processing is unknown; "
            f"put it into a folder as inference.onnx with an {FILE_NAME} beside it "
            "(docs/deployment.md)"
        )
    return text


def _file_text(folder: Path, path: Path) -> str:
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "no such folder"
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
        close = difflib.get_close_matches(folder.name, [p.name for p in siblings if p.is_dir()])
        hint = f"; did you mean {folder.parent / close[0]}?" if close else ""
        raise UserError(f"{folder}: {kind}; expected one written by ppcls-lite export{hint}")
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; without it the pre-processing is unknown. Export the network "
            "again with ppcls-lite export, or write the file (docs/deployment.md)"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _read_yaml(text: str, path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(in_file(path, error)) from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as PreProcess, found {type(tree)}")
    return tree


_MISSING: Any = object()


def _section(
    tree: dict[str, Any], key: str, kind: type, path: Path, default: Any = _MISSING
) -> Any:
    """The value at a dotted key, of the type `kind`."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None and default is not _MISSING:
        return default
    if not isinstance(value, kind):
        found = "nothing" if value is None else f"{value!r:.60}"
        word = "a map" if kind is dict else "a list"
        raise UserError(f"{path}: {key}: expected {word}, found {found}; export again")
    return value


def _settings(about: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    try:
        return read_section(about.get(key), kind, f"Global.{key}")
    except ConfigError as error:
        raise UserError(f"{path}: {error}") from None


def _component(tree: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the post-processing; Topk where the file says nothing."""
    section = _section(tree, "PostProcess", dict, path, {"Topk": {"topk": 5}})
    try:
        name, arguments = take_apart(section)
    except ConfigError as error:
        raise UserError(f"{path}: PostProcess: {error}") from None
    return str(name), dict(_section({name: arguments}, str(name), dict, path))


def _take_label_file(arguments: dict[str, Any], path: Path) -> None:
    """Put the names of a `class_id_map_file` into `label_list`.

    The file lies in the folder of `path`, whatever links there are, or is a bundled list: a folder
    may come from anybody, and any other file is none of its business.
    """
    file, delimiter = arguments.pop("class_id_map_file", None), arguments.get("delimiter")
    if file is None or arguments.get("label_list") is not None:
        return
    home = path.parent.resolve()
    inside = (home / str(file)).resolve()
    bundled = BUNDLED / PurePosixPath(str(file).replace("\\", "/")).name
    if inside.is_relative_to(home) and inside.is_file():
        arguments["label_list"] = read_label_file(inside, delimiter)
    elif bundled.is_file():
        arguments["label_list"] = read_label_file(bundled, delimiter)
    else:
        raise UserError(
            f"{path}: class_id_map_file: {str(file)!r} is no file in this folder; put the names "
            "there, or into label_list"
        )


def _image_shape(value: Any, path: Path) -> tuple[int, int, int] | None:
    if value is None:
        return None
    sizes = isinstance(value, list) and len(value) == 3 and all(type(v) is int for v in value)
    fits = sizes and value[0] in SIZES and all(v in SIZES or v == -1 for v in value)
    if not fits or abs(math.prod(value)) > MAX_VALUES:
        raise UserError(
            f"{path}: Global.image_shape: expected [channels, height, width], each {SIZES}, found "
            f"{shown(value)}"
        )
    return tuple(value)


def _names(value: list[Any], path: Path) -> tuple[str, ...]:
    if not value or not all(isinstance(name, str) for name in value) or len({*value}) < len(value):
        raise UserError(f"{path}: Global.outputs: expected different names, found {shown(value)}")
    return tuple(value)
