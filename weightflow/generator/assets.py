"""Files outside a run that sampling needs: the table of text vectors and the backbone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from huggingface_hub.constants import CONFIG_NAME

from weightflow.data.info import THROUGH
from weightflow.training import run_store as runs
from weightflow.training.run_store import BACKBONE, TABLE


def files_of(header: runs.RunHeader) -> dict[str, Path]:
    """The files outside of a run that its sampling needs, under the names that a saved generator gives them."""
    kind, _, path = header.config.encoder.partition(":")
    table = {TABLE: Path(path)} if kind == "table" else {}
    return table | ({BACKBONE: Path(header.data.backbone)} if header.data.backbone else {})


def require_kind(kept: str, path: Path) -> None:
    """`InputError` unless the file is what `kept` should be: a run from elsewhere may name any file here."""
    if kept == BACKBONE:
        from weightflow.backbones import read_backbone

        read_backbone(path)
    else:
        from weightflow.text.table_encoder import TableEncoder

        TableEncoder(path)


def naming(header: runs.RunHeader, folder: Path) -> runs.RunHeader:
    """The header that finds those files in `folder`."""
    config, zoo, data = header.config, header.zoo, header.data
    found = files_of(header)
    if TABLE in found:
        config = dataclasses.replace(config, encoder=f"table:{folder / TABLE}")
    if BACKBONE in found:
        images, _, file = data.dataset.rpartition(THROUGH)
        options = file.partition("?")[1:]
        dataset = images + THROUGH + str(folder / BACKBONE) + "".join(options)
        zoo, data = dataclasses.replace(zoo, dataset=dataset), dataclasses.replace(data, dataset=dataset)
    return dataclasses.replace(header, config=config, zoo=zoo, data=data)


def with_own_files(header: runs.RunHeader, folder: Path) -> runs.RunHeader:
    """A run's header, its files taken from the folder itself where a saved generator brought them."""
    return naming(header, folder.resolve()) if (folder / CONFIG_NAME).exists() else header
