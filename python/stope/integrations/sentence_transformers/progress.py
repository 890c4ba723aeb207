"""stope's progress as a bar of tqdm, which sentence-transformers shows."""

from __future__ import annotations

from stope._extras import need
from stope.progress import Progress


def bar(title: str, *, hidden: bool = False) -> Progress | None:
    """A progress that draws a bar from its first call on; None where it is hidden."""
    if hidden:
        return None
    made = need("tqdm.autonotebook", extra="train").tqdm(desc=title, delay=1.0)

    def told(done: int, total: int) -> None:
        made.total = total
        made.update(done - made.n)
        if done >= total:
            made.close()

    return told
