"""A generator as one of huggingface_hub's models: saved, published, and loaded again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from weightflow.data.info import without_folders
from weightflow.generator.assets import files_of, naming, require_kind
from weightflow.generator.generator import Flow
from weightflow.generator.model_card import card_of
from weightflow.training import run_store as runs
from weightflow.zero_shot.pictures import FILE as PICTURES


class HubModel(ModelHubMixin, library_name="weightflow", tags=["weight-generation", "flow-matching"]):
    """What huggingface_hub sees of `flow`."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._published = False
        self._hub_mixin_config = {"format": runs.FORMAT, "architecture": flow.architecture.to_dict()}

    def push_to_hub(self, *arguments: Any, **settings: Any) -> Any:
        """As of huggingface_hub, without the paths of this computer."""
        self._published = True
        return super().push_to_hub(*arguments, **settings)

    def _save_pretrained(self, save_directory: Path) -> None:
        flow = self.flow
        header = flow.header
        for kept, path in files_of(header).items():
            require_kind(kept, path)
            shutil.copyfile(path, save_directory / kept)
        # Do not publish local paths.
        zoo = dataclasses.replace(header.zoo, path=Path(header.zoo.path).name)
        header = naming(dataclasses.replace(header, zoo=zoo), Path())
        if self._published:
            name = without_folders(header.data.dataset)
            zoo = dataclasses.replace(header.zoo, dataset=name)
            data = dataclasses.replace(header.data, dataset=name)
            header = dataclasses.replace(header, zoo=zoo, data=data)
        runs.write_header(save_directory, header)
        weights = runs.read_checkpoint(flow.folder, flow.header)
        runs.write_checkpoint(
            save_directory,
            {},
            weights.average,
            weights.coordinates,
            weights.frame,
            weights.step,
            weights.trained,
            header.identity,
        )
        if (flow.folder / PICTURES).exists():
            shutil.copyfile(flow.folder / PICTURES, save_directory / PICTURES)
        if runs.read_report(flow.folder) is not None:
            shutil.copyfile(flow.folder / runs.REPORT, save_directory / runs.REPORT)

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
    ) -> HubModel:
        if Path(model_id).is_dir():
            return cls(Flow(model_id, **arguments))
        folder = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls(Flow(folder, **arguments))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        flow = self.flow
        report = runs.read_report(flow.folder)
        return ModelCard(card_of(flow.header, report, flow.trained, flow.identity))
