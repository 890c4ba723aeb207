"""Encoders to train: a static one made of nothing but texts, others loaded; saved whole or not.

The tokenizer and the first vectors of a static encoder come from the texts. A text's embedding is
the normalised mean of one vector per token (sentence-transformers' StaticEmbedding). Vectors that
start at random, all of one length, take long to learn which tokens matter. So token t starts as
idf(t) * (r_t + smoothing * c_t): r_t is a random unit vector, so that texts sharing rare tokens
agree from the start (a random projection of tf-idf); c_t is the unit vector of the mean of the
documents that hold t (reflective random indexing: Cohen, Schvaneveldt, Widdows 2010), so that
tokens of the same documents agree as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import flag, integer, path, real, shown, size
from stope._checks import texts as texts_of
from stope._extras import need
from stope._files.atomic import atomic_folder
from stope._kinds import at_least, kinds, maybe
from stope.encoders.encode import has_encode
from stope.encoders.hub import no_answer
from stope.encoders.tokens import TokenIds
from stope.encoders.versions import part

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Counted = tuple[NDArray[np.int32], NDArray[np.int32]]
UNKNOWN = "[UNK]"
_WORD_PARTS = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_"
_BETWEEN_WORDS = r"[^\w]+|_"


def train_tokenizer(
    texts: Sequence[str], *, vocab_size: int = 8000, lower_case: bool = True, code: bool = False
) -> Any:
    """Train a Unigram tokenizer (Kudo 2018) on texts; of the kinds tried the best for retrieval.

    Args:
        texts: what to learn the vocabulary from.
        vocab_size: largest size; small corpora give fewer tokens.
        lower_case: whether "Path" and "path" are one.
        code: split identifiers first: ``read_file`` and ``readFile`` into ``read``, ``file``.

    Returns:
        A `tokenizers.Tokenizer`. The same texts give the same one. Punctuation is left out.

    Raises:
        ValueError: vocab_size below 16 or below the number of characters, or no text holds a
            letter or digit.
    """
    texts = texts_of(texts, "texts")
    size(vocab_size, "vocab_size", 16)
    if not any(character.isalnum() for text in texts for character in text):
        raise ValueError("texts holds no letter or digit; there is nothing to learn tokens from")
    tokenizers = need("tokenizers", extra="train")
    steps = [tokenizers.normalizers.NFKC()]
    if code:
        steps.append(tokenizers.normalizers.Replace(tokenizers.Regex(_WORD_PARTS), " "))
    if lower_case:
        steps.append(tokenizers.normalizers.Lowercase())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_BETWEEN_WORDS), "removed"
    )
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=[UNKNOWN], unk_token=UNKNOWN, show_progress=False
    )
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:  # the library has no other kind
        if "not large enough" not in str(error):
            raise
        known = {letter for text in texts for letter in tokenizer.normalizer.normalize_str(text)}
        raise ValueError(
            f"vocab_size is {vocab_size}, but texts have up to {len(known)} characters, each of "
            "which is a token; raise it"
        ) from None
    learned = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = _in_order({word: round(score, 6) for word, score in learned if word != UNKNOWN})
    tokenizer.model = tokenizers.models.Unigram([(UNKNOWN, 0.0), *pieces], 0, False)
    return tokenizer


def _in_order(scores: dict[str, float]) -> list[tuple[str, float]]:
    """The pieces by falling score, without what the trainer's hash maps leave to chance.

    That is the order of equal scores, and which of the characters that stand in no other piece gets
    which score: the least of all, and steps of 1e-4 above it, here in the order of the alphabet.
    """
    least = min(scores.values())
    steps = {word: (score - least) / 1e-4 for word, score in scores.items() if len(word) == 1}
    rare = [w for w, n in steps.items() if abs(n - round(n)) < 0.02 and n < len(steps)]
    falling = sorted((scores[word] for word in rare), reverse=True)
    chosen = {**scores, **dict(zip(sorted(rare), falling, strict=True))}
    return sorted(chosen.items(), key=lambda piece: (-piece[1], piece[0]))


@kinds(
    texts=texts_of,
    dim=at_least(1),
    vocab_size=at_least(16),
    lower_case=flag,
    code=flag,
    smoothing=real,
    max_tokens=maybe(at_least(1)),
    seed=at_least(0),
)
def static_encoder(
    texts: Sequence[str],
    *,
    dim: int = 512,
    vocab_size: int = 8000,
    lower_case: bool = True,
    code: bool = False,
    smoothing: float = 0.5,
    max_tokens: int | None = None,
    seed: int = 0,
) -> SentenceTransformer:
    """Build a static encoder whose tokenizer and starting vectors are learned from texts alone.

    Untrained it matches words, weighted by rarity; `train` is what it is for.

    Args:
        texts: the corpus, best with the training queries; held-out queries have no place in it.
        dim: dimension of the embeddings.
        vocab_size: largest number of tokens.
        lower_case: whether upper and lower case are one.
        code: split identifiers (snake_case, camelCase), for program text.
        smoothing: weight of the corpus part c_t of the starting vectors; 0 is random indexing of
            TF-IDF alone.
        max_tokens: cut texts after this many tokens; None reads them whole.
        seed: of the random vectors.

    Returns:
        A `SentenceTransformer` of StaticEmbedding and Normalize, on the CPU; unit float32 rows.

    Raises:
        ValueError: texts without a letter, dim or max_tokens below 1, smoothing below 0.
        ImportError: the extra "train" is missing.

    Memory: 3 * vocab_size * dim * 4 bytes beside the tokens of texts (12 bytes each).

    Example:
        >>> encoder = static_encoder(["ore in rock", "a deep pit", "rock and ore"] * 9, dim=8)
        >>> encoder.encode(["ore"]).shape
        (1, 8)
    """
    options = (dim, vocab_size, lower_case, code, smoothing, max_tokens, seed)
    return static_encoder_and_ids(texts, *options)[0]


def static_encoder_and_ids(
    texts: Sequence[str],
    dim: int,
    vocab_size: int,
    lower_case: bool,
    code: bool,
    smoothing: float,
    max_tokens: int | None,
    seed: int,
) -> tuple[SentenceTransformer, TokenIds]:
    """`static_encoder`, and the token ids of its texts, for `tokens_once`."""
    texts = texts_of(texts, "texts")
    size(dim, "dim")
    real(smoothing, "smoothing", 0)
    if max_tokens is not None:
        integer(max_tokens, "max_tokens", 1)
    models = part("models")
    from sentence_transformers import SentenceTransformer

    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, lower_case=lower_case, code=code)
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    ids = TokenIds(tokenizer)
    weights = _starting_vectors(ids.of(texts), tokenizer.get_vocab_size(), dim, smoothing, seed)
    modules = [models.StaticEmbedding(tokenizer, embedding_weights=weights), models.Normalize()]
    return SentenceTransformer(modules=modules, device="cpu"), ids


def _starting_vectors(
    tokens: Sequence[NDArray[np.int32]], vocab: int, dim: int, smoothing: float, seed: int
) -> NDArray[np.float32]:
    """Rows idf(t) * (r_t + smoothing * c_t), scaled so that elements are near one in size."""
    counted = _counted(tokens, vocab)
    frequency = np.bincount(np.concatenate([ids for ids, _ in counted]), minlength=vocab)
    idf = idf_of(frequency, len(tokens))
    vectors = np.random.default_rng(seed).standard_normal((vocab, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if smoothing > 0:
        vectors += np.float32(smoothing) * _corpus_vectors(counted, vectors, idf)
    vectors *= idf[:, None] * np.float32(np.sqrt(dim) / 3)
    return vectors


def idf_of(frequency: NDArray[np.integer[Any]], texts: int) -> NDArray[np.float32]:
    """Inverse document frequencies, log((texts + 1) / (frequency + 0.5)), at least 0.05."""
    idf: NDArray[np.float64] = np.log((texts + 1) / (frequency + 0.5))
    return idf.clip(0.05).astype(np.float32)


def _counted(tokens: Sequence[NDArray[np.int32]], vocab: int) -> list[Counted]:
    """The distinct tokens of each text, in order, and how often it has each."""
    rows: list[Counted] = []
    for start in range(0, len(tokens), 4096):  # what is sorted takes 24 bytes per token
        part = tokens[start : start + 4096]
        firsts = np.arange(len(part) + 1) * vocab
        keys = np.repeat(firsts[:-1], list(map(len, part))) + np.concatenate(part)
        pairs, counts = np.unique(keys, return_counts=True)
        places = np.searchsorted(pairs, firsts[1:-1])
        ids, times = (np.split(of.astype(np.int32), places) for of in (pairs % vocab, counts))
        rows += zip(ids, times, strict=True)
    return rows


def _corpus_vectors(
    counted: Sequence[Counted], vectors: NDArray[np.float32], idf: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit rows of X^T (X R): X the documents' unit tf-idf rows, R the random token vectors."""
    sums = np.zeros_like(vectors)
    for ids, counts in counted:
        if len(ids):
            weight = (1 + np.log(counts)).astype(np.float32) * idf[ids]
            weight /= np.linalg.norm(weight)
            sums[ids] += weight[:, None] * (weight @ vectors[ids])
    norms = np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-9)
    return np.asarray(sums / norms, dtype=np.float32)


@kinds(name_or_path=path)
def load_encoder(name_or_path: str | Path) -> SentenceTransformer:
    """Load a sentence-transformers model from a folder, or by its name on the Hugging Face hub.

    Raises:
        ValueError: there is no such folder and the hub does not have it or cannot be reached; what
            is there is by its config_sentence_transformers.json no encoder but a cross-encoder, a
            sparse or a late-interaction model.
        ImportError: the extra "train" is missing.
    """
    library: Any = need("sentence_transformers", extra="train")
    folder = path(name_or_path, "name_or_path")
    if folder.is_dir() and not (folder / "modules.json").exists():
        raise ValueError(
            f"{folder} is not a sentence-transformers model: it has no modules.json. Name the "
            "folder that save_encoder or SentenceTransformer.save_pretrained wrote"
        )
    try:
        model = _load(library, str(name_or_path))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The encoder {shown(str(name_or_path))} is neither a folder here nor a model that the "
            f"Hugging Face hub gave ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    _refuse_converted(library, str(name_or_path))
    return model


def _refuse_converted(library: Any, name: str) -> None:
    """Refuse a model of another kind, of which the library makes an encoder that nobody trained."""
    file = "config_sentence_transformers.json"
    known = library.util.load_file_path(name, file, local_files_only=True)
    told = {} if known is None else json.loads(Path(known).read_text(encoding="utf-8"))
    kind = told.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(
            f"{shown(name)} holds a {kind}, not an encoder (SentenceTransformer), which gives each "
            "text one embedding; name an encoder. Where a teacher scores mined negatives, a "
            "CrossEncoder and a MultiVectorEncoder do as well"
        )


def _load(library: Any, name: str) -> SentenceTransformer:
    """Load from a folder or the hub's local cache, and only then ask the hub."""
    try:
        return library.SentenceTransformer(name, local_files_only=True)
    except (OSError, ValueError, RuntimeError):
        if Path(name).is_dir():
            raise
        if why := no_answer(name):
            raise ConnectionError(why) from None
        return library.SentenceTransformer(name)


@kinds(model=has_encode, folder=path)
def save_encoder(model: SentenceTransformer, folder: str | Path) -> None:
    """Save model as a sentence-transformers folder, which appears under its name when complete.

    Args:
        model: the encoder.
        folder: new, or an empty folder.

    Raises:
        FileExistsError: folder exists and is not an empty folder.
        FileNotFoundError: the folder that should hold it does not exist.
    """
    with atomic_folder(folder) as temporary:
        model.save_pretrained(str(temporary), create_model_card=False)
