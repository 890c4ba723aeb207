"""The compiled core; see python/bindings."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Allocate = Callable[[int], Any]
Progress = Callable[[int, int], object]

def similarity(
    *,
    queries: object,
    corpus: object,
    metric: str,
    scores: object,
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
    stream: int = 0,
) -> None: ...

class CudaTopkBudget:
    def __init__(self, *, list_bytes: int, code_bytes: int, block_bytes: int) -> None: ...

def topk(
    *,
    queries: object,
    corpus: object,
    k: int,
    metric: str,
    precision: str,
    packed: object | None,
    halves: NDArray[Any] | None,
    exclude_offsets: NDArray[Any] | None,
    exclude_ids: NDArray[Any] | None,
    allowed: NDArray[Any] | None = None,
    ceilings: NDArray[Any] | None,
    floors: NDArray[Any] | None,
    scores: object,
    ids: object,
    above_ceiling: object | None,
    queries_name: str,
    corpus_name: str,
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
    stream: int = 0,
    allocate_pinned: Callable[[int], NDArray[Any]] | None = None,
    budget: CudaTopkBudget | None = None,
) -> None: ...
def pack(
    *,
    corpus: object,
    name: str,
    metric: str,
    first_row: int,
    packed: object,
    halves: NDArray[Any] | None,
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
    stream: int = 0,
) -> None: ...
def cuda_topk_plan(
    *,
    queries: int,
    rows: int,
    columns: int,
    k: int,
    in_host_memory: bool = False,
    budget: CudaTopkBudget | None = None,
) -> dict[str, int]: ...
def packed_bytes(rows: int, columns: int) -> int: ...
def packed_half_bytes(rows: int, columns: int) -> int: ...
def packed_cuda_bytes(rows: int, columns: int) -> int: ...
def matrix_shape(array: object, name: str) -> tuple[int, int, str, str]: ...
def pair_scores(
    *,
    queries: object,
    corpus: object,
    metric: str,
    offsets: NDArray[Any],
    ids: NDArray[Any],
    scores: object,
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
    stream: int = 0,
) -> None: ...
def pairs_above(
    *,
    x: object,
    y: object | None,
    packed: NDArray[Any] | None,
    order: NDArray[Any] | None,
    offsets: NDArray[Any] | None,
    first: int,
    end: int,
    metric: str,
    threshold: float,
    counts: object,
    ids: object | None,
    scores: object | None,
    capacity: int,
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
    stream: int = 0,
    budget: CudaTopkBudget | None = None,
) -> None: ...
def nearest_earlier(
    *,
    x: object,
    order: NDArray[Any] | None,
    offsets: NDArray[Any] | None,
    metric: str,
    threshold: float,
    scores: object,
    ids: object,
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
    stream: int = 0,
    budget: CudaTopkBudget | None = None,
) -> None: ...
def knn_graph(
    *,
    x: object,
    k: int,
    metric: str,
    scores: NDArray[Any],
    ids: NDArray[Any],
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
) -> None: ...
def sampling_keys(
    *, seed: int, first_query: int, ids: NDArray[Any], rows: int, columns: int, keys: NDArray[Any]
) -> None: ...
def center_groups(centers: int) -> int: ...
def group_centers(centers: int) -> int: ...
def nearest_centers(
    *,
    rows: object,
    centers: NDArray[Any],
    before: NDArray[Any] | None,
    metric: str,
    order: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any],
    reached: NDArray[Any],
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
) -> None: ...
def group_sums(
    *,
    rows: object,
    metric: str,
    groups: NDArray[Any] | None = ...,
    order: object = ...,
    starts: object = ...,
    num_groups: int,
    sums: object,
    stream: int = ...,
    threads: int,
    allocate: Allocate,
    progress: Progress | None,
) -> None: ...

INFONCE_STATE: int

class InfonceOptions:
    """One typed struct: the fields of ``stope.ops._infonce_options.Options``, with scale."""

    def __init__(self, **words: str | float | bool | tuple[str, ...] | None) -> None: ...

class InfonceProblem:
    """Options with borrowed matrices, vectors and lists ``(offsets, ids)``, None for none."""

    def __init__(
        self, options: InfonceOptions, arrays: dict[str, Any], threads: int, stream: int = 0
    ) -> None: ...

def infonce_forward(
    *,
    problem: InfonceProblem,
    losses: NDArray[Any],
    log_sum_exp: NDArray[Any],
    positive_scores: NDArray[Any],
    negatives: NDArray[Any],
    best_negatives: NDArray[Any],
    best_negative_scores: NDArray[Any],
    ranks: NDArray[Any],
    kept: NDArray[Any],
    left_out: NDArray[Any],
    state: NDArray[Any],
    memory: NDArray[Any] | None,
    allocate: Allocate,
    progress: Progress | None,
) -> None: ...
def infonce_backward(
    *,
    problem: InfonceProblem,
    state: NDArray[Any],
    memory: NDArray[Any] | None,
    row_gradients: NDArray[Any],
    queries: NDArray[Any],
    documents: NDArray[Any] | None,
    scale_and_bias: NDArray[Any],
    allocate: Allocate,
    progress: Progress | None,
) -> None: ...
def available_isas() -> list[str]: ...
def current_isa() -> str: ...
def select_isa(name: str) -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def build_info() -> dict[str, Any]: ...
def measure_peak(seconds: float = 0.1) -> dict[str, float]: ...
