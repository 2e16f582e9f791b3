"""What the docstring of a public function or class must have: sections, and an example that runs."""

import doctest
import inspect
from typing import Any


def documented(found: Any, name: str) -> None:
    """Fail unless `found` has Args, Returns and Raises (functions) and an example that prints what it says."""
    text = inspect.getdoc(found) or ""
    sections = ["Example:"] if inspect.isclass(found) else ["Args:", "Returns:", "Raises:", "Example:"]
    if inspect.isroutine(found) and not set(inspect.signature(found).parameters) - {"self"}:
        sections.remove("Args:")
    if inspect.isroutine(found):
        assert "lambda" not in str(inspect.signature(found)), f"{name} has a default without a name"
    missing = [section for section in sections if section not in text]
    assert not missing, f"{name} lacks {', '.join(missing)}"
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    told: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append).failed
    assert not failed, "".join(told)
