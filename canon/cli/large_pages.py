"""Memory of large tensors in pages of 2 MB, where Linux has them: new memory is then touched 512 times less often."""

import os

SETTING = "THP_MEM_ALLOC_ENABLE"


def use_large_pages() -> None:
    """Let torch ask for large pages, unless the environment says otherwise; it reads that with its first tensor."""
    os.environ.setdefault(SETTING, "1")
