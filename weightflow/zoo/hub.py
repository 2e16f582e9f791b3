"""Zoos on the Hugging Face hub, as data sets: push one, and open one by `hf://OWNER/NAME`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from canon.errors import InputError, WorkError
from weightflow.data.info import without_folders
from weightflow.zoo.dataset_card import card
from weightflow.zoo.store import (
    BASE_FILE,
    FRAME,
    Zoo,
    read_shard_records,
    shard_path,
    write_manifest,
    write_shard,
)


def publishable(zoo: Zoo, folder: Path) -> None:
    """A copy of a zoo, with its card and without the paths of this computer."""
    if problems := zoo.verify():
        raise InputError(f"{problems[0]}; a damaged zoo is not published")
    folder.mkdir(parents=True, exist_ok=True)
    for index, rows in enumerate(zoo.shard_rows):
        records = [
            replace(own, dataset=without_folders(own.dataset))
            for own in read_shard_records(shard_path(zoo.path, index))
        ]
        write_shard(folder, index, zoo.load(rows), records)
    for name in (FRAME, BASE_FILE):
        if (zoo.path / name).exists():
            shutil.copyfile(zoo.path / name, folder / name)
    write_manifest(folder, _without_paths(zoo.header), len(zoo.shard_rows))
    (folder / "README.md").write_text(card(zoo), encoding="utf-8")


def push_to_hub(zoo: Zoo, repository: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload a zoo as a data set of the hub; the address of what was uploaded.

    Args:
        zoo: The zoo.
        repository: OWNER/NAME on the hub; made where it is missing.
        private: Whether a new one is private; the hub's default by default.
        token: Access token; the one that `hf auth login` keeps by default.

    Returns:
        Its name for `Zoo` and for commands, `hf://OWNER/NAME`.

    Raises:
        InputError: The zoo is damaged.
        WorkError: The hub cannot be reached, or refuses.

    Example:
        >>> import weightflow
        >>> from weightflow.zoo.hub import push_to_hub
        >>> push_to_hub(weightflow.Zoo("zoos/digits"), "me/digits-zoo")  # doctest: +SKIP
        'hf://me/digits-zoo'
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        publishable(zoo, Path(folder))
        api = HfApi(token=token)
        try:
            api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, repo_type="dataset")
        except (OSError, ValueError) as error:  # the hub's errors are OSErrors
            raise WorkError(f"{repository} was not uploaded: {str(error).splitlines()[0]}") from error
    return f"hf://{repository}"


def _without_paths(header: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as others may read it: of paths, the last parts alone."""
    found = json.loads(json.dumps(header))
    found["dataset"] = without_folders(found["dataset"])
    if isinstance(found.get("data"), dict):
        found["data"]["dataset"] = without_folders(found["data"]["dataset"])
        found["data"]["licence"] = without_folders(found["data"]["licence"])
    recipe = found.get("recipe", {})
    for key in ("dataset", "encoder", "run", "imported"):
        if isinstance(recipe.get(key), str):
            recipe[key] = without_folders(recipe[key])
    return found
