"""A generator as a folder that needs nothing else: `save_pretrained`, `from_pretrained`, the hub.

What sampling needs of the run is written, and no more: averaged weights, coordinates, frame, settings,
the table of text vectors and the backbone where there are such, the report's figures and a card. The zoo is not needed
afterwards, nor the data, except to judge networks on them.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.constants import CONFIG_NAME

from canon.errors import InputError
from weightflow import checkpoint as runs
from weightflow.card import REPORT, card_of, read_report
from weightflow.datasets.features import THROUGH

if TYPE_CHECKING:
    from weightflow.sample import Flow

TABLE, BACKBONE = "vectors.npz", "backbone.safetensors"


class Pretrained(ModelHubMixin, library_name="weightflow", tags=["weight-generation", "flow-matching"]):
    """What makes a `Flow` one of huggingface_hub's models; `push_to_hub` comes with it."""

    def _save_pretrained(self, save_directory: Path) -> None:
        flow = cast("Flow", self)
        header = flow.header
        for kept, path in _files_of(header).items():
            _require_kind(kept, path)
            shutil.copyfile(path, save_directory / kept)
        # where the zoo lay is nobody's business but the trainer's
        zoo = dataclasses.replace(header.zoo, path=Path(header.zoo.path).name)
        runs.write_header(save_directory, _naming(dataclasses.replace(header, zoo=zoo), Path()))
        weights = runs.read_checkpoint(flow.folder, header)
        runs.write_checkpoint(save_directory, {}, weights.average, weights.coordinates, weights.frame, 0)
        if read_report(flow.folder) is not None:
            shutil.copyfile(flow.folder / REPORT, save_directory / REPORT)
        self._hub_mixin_config = {"format": runs.FORMAT, "architecture": flow.architecture.to_dict()}

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **arguments: Any,
    ) -> Any:
        if Path(model_id).is_dir():
            return cls(model_id, **arguments)  # type: ignore[call-arg]
        folder = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls(folder, **arguments)  # type: ignore[call-arg]

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        flow = cast("Flow", self)
        return ModelCard(card_of(flow.header, read_report(flow.folder)))


def _files_of(header: runs.RunHeader) -> dict[str, Path]:
    """The files outside of a run that its sampling needs, under the names that a saved generator gives them."""
    kind, _, path = header.config.encoder.partition(":")
    table = {TABLE: Path(path)} if kind == "table" else {}
    return table | ({BACKBONE: Path(header.data.backbone)} if header.data.backbone else {})


def _require_kind(kept: str, path: Path) -> None:
    """A run from elsewhere may name any file of this machine: none is copied that is not what it should be."""
    if kept == BACKBONE:
        from weightflow.backbones import read_backbone

        read_backbone(path)
    else:
        from weightflow.text.table import TableEncoder

        TableEncoder(path)


def _naming(header: runs.RunHeader, folder: Path) -> runs.RunHeader:
    """The header that finds those files in `folder`."""
    config, zoo, data = header.config, header.zoo, header.data
    found = _files_of(header)
    if TABLE in found:
        config = dataclasses.replace(config, encoder=f"table:{folder / TABLE}")
    if BACKBONE in found:
        dataset = data.dataset.rpartition(THROUGH)[0] + THROUGH + str(folder / BACKBONE)
        zoo, data = dataclasses.replace(zoo, dataset=dataset), dataclasses.replace(data, dataset=dataset)
    return dataclasses.replace(header, config=config, zoo=zoo, data=data)


def with_own_files(header: runs.RunHeader, folder: Path) -> runs.RunHeader:
    """A run's header, its files taken from the folder itself where a saved generator brought them."""
    return _naming(header, folder.resolve()) if (folder / CONFIG_NAME).exists() else header


def save_generator(flow: Flow, folder: Path) -> None:
    """`flow.save_pretrained` into a new folder: all of it or nothing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        flow.save_pretrained(temporary)
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
