"""A generator as a folder that needs nothing else: `save_pretrained`, `from_pretrained`, the hub.

What sampling needs of the run is written, and no more: averaged weights, coordinates, frame, settings,
the table of text vectors where there is one, the report's figures and a card. The zoo is not needed
afterwards, nor the data, except to judge networks on them.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from canon.errors import InputError
from weightflow import checkpoint as runs
from weightflow.card import REPORT, card_of, read_report

if TYPE_CHECKING:
    from weightflow.sample import Flow

TABLE = "vectors.npz"


class Pretrained(ModelHubMixin, library_name="weightflow", tags=["weight-generation", "flow-matching"]):
    """What makes a `Flow` one of huggingface_hub's models; `push_to_hub` comes with it."""

    def _save_pretrained(self, save_directory: Path) -> None:
        flow = cast("Flow", self)
        header, table = flow.header, _table_of(flow)
        if table is not None:
            shutil.copyfile(table, save_directory / TABLE)
            header = dataclasses.replace(
                header, config=dataclasses.replace(header.config, encoder=f"table:{TABLE}")
            )
        # where the zoo lay is nobody's business but the trainer's
        zoo = dataclasses.replace(header.zoo, path=Path(header.zoo.path).name)
        runs.write_header(save_directory, dataclasses.replace(header, zoo=zoo))
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


def _table_of(flow: Flow) -> Path | None:
    kind, _, path = flow.header.config.encoder.partition(":")
    if kind != "table":
        return None
    own = flow.folder / path
    return own if own.is_file() else Path(path)


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
