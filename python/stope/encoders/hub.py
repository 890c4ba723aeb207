"""Whether the Hugging Face hub answers: asked once, before a library asks it for file after file.

Each of those requests would be made again for half a minute where there is no network.
"""

from __future__ import annotations

import time
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stope._extras import need

_SECONDS = 10.0  # for an answer, as the library waits
_PAUSES = (1.0, 2.0, 0.0)  # after each request without one
_NAMED = 3


def no_answer(name: str) -> str:
    """Why the hub says nothing about a model, and which others are kept here; "" where it answers.

    An answer is also that there is no such model, or none for everybody.
    """
    hub: Any = need("huggingface_hub", extra="train")
    why = ""
    for pause in _PAUSES:
        try:
            hub.model_info(name, timeout=_SECONDS)
        except hub.errors.OfflineModeIsEnabled:
            why = "HF_HUB_OFFLINE is set"
            break
        except (hub.errors.HfHubHTTPError, ValueError):  # or the name is none, which others explain
            return ""
        except Exception as error:  # of whatever client this version of the hub has
            said = (str(error).splitlines() or [""])[0]
            why = f"it cannot be reached, {type(error).__name__}: {said}"
            time.sleep(pause)
        else:
            return ""
    kept = [path.name for path in Path(hub.constants.HF_HUB_CACHE).glob("models--*")]
    names = [each.removeprefix("models--").replace("--", "/") for each in kept]
    near = get_close_matches(name, names, _NAMED, cutoff=0.0)
    return f"{why}; " + (f"kept here are {', '.join(near)}" if near else "no model is kept here")
